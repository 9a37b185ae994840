/**
 * Learns a vector for each word of Moby-Dick, by skip-gram with negative sampling, and prints which words lie nearest to some:
 *
 *     deno run -A examples/embedding.ts
 *     bun examples/embedding.ts
 *
 * A batch touches a few thousand of the rows of two tables. Its gradients, written by hand in `support/skip_gram.ts`, are
 * SparseTensors of these rows alone, and SparseAdam updates no others. The same seed gives the same vectors, to the bit, in both.
 * `--help` lists the options.
 */
import { assert } from "@std/assert";
import { SingleBar } from "cli-progress";
import { createHash } from "node:crypto";
import process from "node:process";
import { parseArgs } from "node:util";
import { LinearLR, SparseAdam } from "@flatstep/optim";
import { Random } from "./mnist/random.ts";
import { loadMobyDick } from "./support/novel.ts";
import { SkipGram } from "./support/skip_gram.ts";

const OPTIONS = {
  epochs: { usual: 4, least: 1, most: 1000, help: "passes over the text" },
  dim: { usual: 64, least: 1, most: 4096, help: "length of the vectors" },
  seed: { usual: 1, least: 0, most: 2 ** 32 - 1, help: "decides the first vectors and all that is drawn by chance" },
} as const;
const QUERIES = "captain ship boat sea sun god leg oil harpoon starbuck".split(" ");
const BATCH = 512, LEARNING_RATE = 0.01;
/** Nearest words are looked for among those that are there often enough to have been learnt, but are no mere `the` and `of`. */
const LEAST_COUNT = 20, MOST_FREQUENT = 100;

type Options = Record<keyof typeof OPTIONS, number>;

/** Reads the command line; null if it asks for help, a text if there is a mistake in it. */
function readOptions(args: string[]): Options | string | null {
  const { tokens } = parseArgs({
    args,
    strict: false,
    tokens: true,
    options: Object.fromEntries(Object.keys(OPTIONS).map((name) => [name, { type: "string" as const }])),
  });
  const read: Options = { epochs: OPTIONS.epochs.usual, dim: OPTIONS.dim.usual, seed: OPTIONS.seed.usual };
  for (const token of tokens) {
    if (token.kind !== "option") return `unexpected argument ${"value" in token ? token.value : "--"}`;
    if (token.name === "help") return null;
    const name = token.name as keyof Options;
    if (!Object.hasOwn(OPTIONS, name)) {
      return `unknown option --${name}; allowed are --${Object.keys(OPTIONS).join(", --")}, --help`;
    }
    const { least, most } = OPTIONS[name], value = /^\d+$/.test(token.value ?? "") ? Number(token.value) : NaN;
    if (!(value >= least && value <= most)) {
      return `--${name} must be an integer from ${least} to ${most}, got ${token.value || "nothing"}`;
    }
    read[name] = value;
  }
  return read;
}

function usage(): string {
  const rows = Object.entries(OPTIONS).map(([name, { help, usual }]) =>
    `  --${name}=N`.padEnd(14) + `${help} (${usual})`
  );
  return ["deno run -A examples/embedding.ts [options]", "bun examples/embedding.ts [options]", "", ...rows].join("\n");
}

function train({ epochs, dim, seed }: Options): void {
  const corpus = loadMobyDick(5), { words, chapters } = corpus, random = new Random(seed);
  const length = chapters.reduce((sum, chapter) => sum + chapter.length, 0);
  console.log(`Moby-Dick: ${length} words, ${words.length} different ones, vectors of ${dim}`);

  const model = new SkipGram(corpus, { dim, window: 5, negatives: 5, subsample: 1e-3 }, random);
  const optimizer = new SparseAdam([model.inputs, model.outputs], { lr: LEARNING_RATE });
  const scheduler = new LinearLR(optimizer, { startFactor: 1, endFactor: 0.05, totalIters: epochs });
  const losses: number[] = [];
  for (let epoch = 1; epoch <= epochs; epoch++) {
    const start = performance.now(), pairs = model.pairs(random), count = pairs.centers.length;
    const bar = process.stdout.isTTY
      ? new SingleBar({
        format: `epoch ${epoch}/${epochs} [{bar}] {percentage} %`,
        clearOnComplete: true,
        linewrap: true,
      })
      : null;
    bar?.start(count, 0);
    let sum = 0, optimizing = 0;
    for (let from = 0; from < count; from += BATCH) {
      const to = Math.min(from + BATCH, count);
      sum += model.backward(pairs, from, to, random) * (to - from);
      const before = performance.now();
      optimizer.step();
      optimizing += performance.now() - before;
      bar?.update(to);
    }
    bar?.stop();
    scheduler.step();
    losses.push(sum / count);
    const seconds = (ms: number) => (ms / 1000).toFixed(1);
    console.log(
      `epoch ${epoch}/${epochs}: loss ${losses.at(-1)!.toFixed(3)} of ${count} pairs, ` +
        `${seconds(performance.now() - start)} s, of which SparseAdam ${seconds(optimizing)} s`,
    );
  }

  console.log("");
  for (const query of QUERIES) {
    console.log(`${query.padEnd(9)} ${model.nearest(query, 7, LEAST_COUNT, MOST_FREQUENT).join(" ")}`);
  }
  const hash = createHash("sha256").update(new Uint8Array(model.inputs.data.buffer)).digest("hex");
  console.log(`\nvectors ${hash.slice(0, 16)} (start of their SHA-256)`);

  // A model that knows nothing gives each of the six words of a pair an even chance.
  const ignorant = 6 * Math.log(2);
  assert(losses.at(-1)! < 0.75 * ignorant, `the loss must be well below ${ignorant}, is ${losses.at(-1)}`);
}

const options = readOptions(process.argv.slice(2));
if (options === null) {
  console.log(usage());
} else if (typeof options === "string") {
  console.error(`embedding: ${options}`);
  process.exitCode = 2;
} else {
  train(options);
}
