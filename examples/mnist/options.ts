import { parseArgs } from "node:util";
import { TRAIN_COUNT } from "./data.ts";

/** What the command line sets. */
export interface Options extends Training {
  out: string;
  checkpoint: string;
  resume: boolean;
  minAccuracy: number;
  /** The options that are on the command line, by their names there. */
  given: ReadonlySet<string>;
}

/** What decides the bits of the weights: a checkpoint has it, and a run that is resumed keeps it. */
export interface Training {
  epochs: number;
  seed: number;
  images: number;
  batchSize: number;
  lr: number;
  weightDecay: number;
  emaDecay: number;
}

/** A mistake on the command line; the message says which and what would be right. */
export class UsageError extends Error {
  override name = "UsageError";
}

interface NumberRule {
  /** Completes the sentence "--epochs must be ...". */
  readonly allowed: string;
  readonly accepts: (value: number) => boolean;
  readonly default: number;
  readonly help: string;
}

const integer = (low: number, high = Infinity) => (value: number): boolean =>
  Number.isSafeInteger(value) && value >= low && value <= high;

const NUMBERS = {
  "epochs": {
    allowed: "an integer >= 1",
    accepts: integer(1),
    default: 5,
    help: "passes over the training set",
  },
  "seed": {
    allowed: "an integer from 0 to 4294967295",
    accepts: integer(0, 2 ** 32 - 1),
    default: 0,
    help: "decides the first weights and the order of the images",
  },
  "images": {
    allowed: `an integer from 2 to ${TRAIN_COUNT}`,
    accepts: integer(2, TRAIN_COUNT),
    default: TRAIN_COUNT,
    help: "how many images of the training set are used",
  },
  "batch-size": {
    allowed: `an integer from 2 to ${TRAIN_COUNT}`,
    accepts: integer(2, TRAIN_COUNT),
    default: 64,
    help: "images in a step; batch norm must have two",
  },
  "lr": {
    allowed: "a finite number > 0",
    accepts: (value: number): boolean => value > 0,
    default: 2e-3,
    help: "highest learning rate of the cycle",
  },
  "weight-decay": {
    allowed: "a finite number >= 0",
    accepts: (value: number): boolean => value >= 0,
    default: 0.1,
    help: "decay of the weights; biases and batch norms have none",
  },
  "ema-decay": {
    allowed: "a number from 0 to 1",
    accepts: (value: number): boolean => value >= 0 && value <= 1,
    default: 0.999,
    help: "what stays of the averaged weights at each step",
  },
  "min-accuracy": {
    allowed: "a number from 0 to 1",
    accepts: (value: number): boolean => value >= 0 && value <= 1,
    default: 0,
    help: "exit with 1 if the averaged weights' test accuracy is below this",
  },
} as const satisfies Record<string, NumberRule>;

interface PathRule {
  readonly allowed: string;
  readonly endings: readonly string[];
  readonly default: string;
  readonly help: string;
}

const PATHS = {
  "out": {
    allowed: "a path that ends in .svg",
    endings: [".svg"],
    default: "out/mnist.svg",
    help: "where the curves are drawn",
  },
  "checkpoint": {
    allowed: "a path that ends in .pt or .safetensors",
    endings: [".pt", ".safetensors"],
    default: "out/mnist.pt",
    help: "where the run is saved, after every epoch and at Ctrl-C",
  },
} as const satisfies Record<string, PathRule>;

const FLAGS = { "resume": "go on from the checkpoint, with its options", "help": "print this" };

const WITH_VALUE = [...Object.keys(NUMBERS), ...Object.keys(PATHS)];

/** Reads the command line; null if it asks for help. */
export function parseOptions(args: string[]): Options | null {
  // Not strict: parseArgs' own messages differ between runtimes and do not name what is allowed.
  const { tokens } = parseArgs({
    args,
    strict: false,
    tokens: true,
    options: {
      ...Object.fromEntries(WITH_VALUE.map((name) => [name, { type: "string" as const }])),
      resume: { type: "boolean" },
      help: { type: "boolean", short: "h" },
    },
  });
  const given = new Map<string, string | undefined>();
  for (const token of tokens) {
    if (token.kind === "positional") throw new UsageError(`unexpected argument ${token.value}; options start with --`);
    if (token.kind !== "option") continue;
    const { name, rawName, value } = token;
    if (Object.hasOwn(FLAGS, name) && value !== undefined) {
      throw new UsageError(`--${name} takes no value, got ${value}`);
    }
    if (name === "help") return null;
    if (!WITH_VALUE.includes(name) && !Object.hasOwn(FLAGS, name)) {
      const allowed = [...WITH_VALUE, ...Object.keys(FLAGS)].map((known) => `--${known}`).join(", ");
      throw new UsageError(
        `unknown option ${rawName}${value === undefined ? "" : `=${value}`}; allowed are ${allowed}`,
      );
    }
    given.set(name, value);
  }

  const number = (name: keyof typeof NUMBERS): number => {
    const rule: NumberRule = NUMBERS[name];
    if (!given.has(name)) return rule.default;
    const value = toNumber(given.get(name));
    if (!Number.isFinite(value) || !rule.accepts(value)) throw wrongValue(name, rule.allowed, given.get(name));
    return value;
  };
  const path = (name: keyof typeof PATHS): string => {
    const { allowed, endings, default: usual }: PathRule = PATHS[name];
    const value = given.has(name) ? given.get(name) : usual;
    if (!endings.some((ending) => value?.endsWith(ending))) throw wrongValue(name, allowed, value);
    return value!;
  };

  return {
    epochs: number("epochs"),
    seed: number("seed"),
    images: number("images"),
    batchSize: number("batch-size"),
    lr: number("lr"),
    weightDecay: number("weight-decay"),
    emaDecay: number("ema-decay"),
    out: path("out"),
    checkpoint: path("checkpoint"),
    resume: given.has("resume"),
    minAccuracy: number("min-accuracy"),
    given: new Set(given.keys()),
  };
}

/** What `--help` prints. */
export function usage(): string {
  const row = (option: string, lines: string[]) => `  ${option}`.padEnd(20) + lines.join(`\n${"".padEnd(20)}`);
  const rows = (rules: Record<string, NumberRule | PathRule>, value: string) =>
    Object.entries(rules).map(([name, { help, allowed, default: usual }]) =>
      row(`--${name}=${value}`, [help, `(${allowed}; default ${usual})`])
    );
  return [
    "Trains a digit classifier on MNIST: gradients from jax-js, updates from flatstep's AdamW and averages.",
    "",
    "  deno run -A examples/train_mnist.ts [options]",
    "  bun examples/train_mnist.ts [options]",
    "",
    ...rows(NUMBERS, "N"),
    ...rows(PATHS, "PATH"),
    row("--resume", [FLAGS.resume]),
    row("--help, -h", [FLAGS.help]),
  ].join("\n");
}

/** A decimal number; anything else, such as "", "0x10" or "ten", is NaN. */
function toNumber(text: string | undefined): number {
  return text !== undefined && /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : NaN;
}

function wrongValue(name: string, allowed: string, value: string | undefined): UsageError {
  return new UsageError(`--${name} must be ${allowed}, got ${value || "nothing"}`);
}
