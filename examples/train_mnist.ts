/**
 * Trains a digit classifier on MNIST, with gradients from jax-js and updates from flatstep:
 *
 *     deno run -A examples/train_mnist.ts
 *     bun examples/train_mnist.ts
 *
 * The same seed gives the same losses, to the bit, in both. `--help` lists the options.
 */
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import process from "node:process";
import { AdamW, AveragedModel, backend, getEmaMultiAvgFn, OneCycleLR, updateBn } from "../mod.ts";
import { drawCurves } from "./mnist/chart.ts";
import { type Batch, batches, CLASSES, type Dataset, loadMnist } from "./mnist/data.ts";
import { Classifier, WIDTHS } from "./mnist/model.ts";
import { type Options, parseOptions, usage, UsageError } from "./mnist/options.ts";
import { Random } from "./mnist/random.ts";
import { grouped, type History, percent, Progress, runtime, secondsOf, Stopwatch, table } from "./mnist/report.ts";

/** Images whose activations give the averaged weights their batch norm statistics. */
const STATISTICS_COUNT = 10_000;

/** The loss has become NaN or infinite: there is no way back from that. */
class Diverged extends Error {
  override name = "Diverged";
}

async function train(options: Options): Promise<number> {
  const { epochs, batchSize } = options;
  makeFolder(options.out);
  const random = new Random(options.seed);
  const data = loadMnist();
  const model = await Classifier.create(random);
  const optimizer = new AdamW([
    { params: model.weights, weightDecay: options.weightDecay },
    { params: model.parameters.filter((parameter) => !model.weights.includes(parameter)), weightDecay: 0 },
  ], { lr: options.lr });
  const stepsPerEpoch = Math.ceil(data.train.count / batchSize);
  const scheduler = new OneCycleLR(optimizer, { maxLr: options.lr, epochs, stepsPerEpoch });
  const averaged = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn(options.emaDecay, { warmup: true }) });
  const { name, isa, threads } = backend();
  console.log(`${describeModel(model)}, batches of ${batchSize}, seed ${options.seed}, ${runtime()}, ${name}`);

  const history: History = { losses: [], rates: [], raw: [], averaged: [] };
  const progress = new Progress({ batchSize });
  const clock = new Stopwatch<"gradients" | "optimizer" | "averaging" | "testing">();
  for (let epoch = 1; epoch <= epochs; epoch++) {
    const start = clock.total;
    progress.start(`epoch ${epoch}/${epochs}`, stepsPerEpoch);
    model.train();
    try {
      for (const batch of batches(data.train, batchSize, random)) {
        const step = history.losses.length;
        const lr = scheduler.getLastLr()[0]!;
        const loss = clock.time("gradients", () => model.backward(batch));
        if (!Number.isFinite(loss)) {
          throw new Diverged(`the loss of step ${step + 1} is ${loss}; a smaller --lr may help`);
        }
        clock.time("optimizer", () => {
          optimizer.step();
          scheduler.step();
        });
        clock.time("averaging", () => averaged.updateParameters(model));
        history.losses.push(loss);
        history.rates.push(lr);
        progress.update(step + 1 - (epoch - 1) * stepsPerEpoch, loss, lr);
      }
    } finally {
      progress.stop();
    }
    // The averaged weights have never seen an image. The next update overwrites their statistics by the model's.
    const sample = { ...data.train, count: STATISTICS_COUNT };
    await clock.timeAsync("averaging", () => updateBn(batches(sample, 1000), averaged));
    clock.time("testing", () => {
      history.raw.push(measureAccuracy(model.eval(), data.test));
      history.averaged.push(measureAccuracy(averaged.module.eval(), data.test));
    });
    const loss = mean(history.losses.slice(-stepsPerEpoch)).toFixed(6);
    const accuracies = `${percent(history.raw.at(-1)!)}, averaged ${percent(history.averaged.at(-1)!)}`;
    const seconds = (clock.total - start).toFixed(1);
    console.log(`epoch ${epoch}/${epochs}: loss ${loss}, test accuracy ${accuracies}, ${seconds} s`);
  }

  const total = clock.total;
  const kinds = ["gradients", "optimizer", "averaging", "testing"] as const;
  const other = kinds.reduce((left, kind) => left - clock.seconds(kind), total);
  const accuracy = history.averaged.at(-1)!;
  const correct = (share: number) => `${percent(share)} (${grouped(Math.round(share * data.test.count))} of 10,000)`;
  console.log(
    "\n" + table([
      ["test accuracy", correct(history.raw.at(-1)!)],
      ["averaged", correct(accuracy)],
      ...kinds.map((kind) => [kind, secondsOf(total, clock.seconds(kind))] as const),
      ["batches, other", secondsOf(total, other)],
      ["total", secondsOf(total, total)],
      ["backend", name],
      ["ISA", isa],
      ["threads", String(threads)],
      ["runtime", runtime()],
      ["weights", `${fingerprint(model)} (start of their SHA-256)`],
      ["averaged", `${fingerprint(averaged.module)} (likewise)`],
    ]),
  );

  const title = `MNIST: ${percent(accuracy)} test accuracy after ${epochs} epoch${epochs === 1 ? "" : "s"}`;
  const subtitle = [
    describeModel(model),
    `AdamW with weight decay ${options.weightDecay}, averaged with decay ${options.emaDecay}`,
    `batches of ${batchSize}, seed ${options.seed}; ` +
    `${total.toFixed(0)} s in ${runtime()}, ${name}${isa === "none" ? "" : `, ${isa}`}`,
  ];
  writeFileSync(options.out, await drawCurves(history, title, subtitle));
  console.log(`\nThe curves are in ${options.out}`);
  return accuracy;
}

/** Makes the folder that a file goes into: before the training, so that a wrong path shows at once. */
function makeFolder(path: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
  } catch (cause) {
    throw new UsageError(`--out=${path}: its folder cannot be made (${(cause as Error).message})`);
  }
}

/** The share of the images that get the right digit. */
function measureAccuracy(model: Classifier, data: Dataset): number {
  let correct = 0;
  for (const batch of batches(data, 1000)) correct += countCorrect(model.forward(batch), batch);
  return correct / data.count;
}

/** How many images of the batch have their highest logit at the right digit. */
function countCorrect(logits: Float32Array, { count, labels }: Batch): number {
  let correct = 0;
  for (let i = 0; i < count; i++) {
    const row = logits.subarray(i * CLASSES, (i + 1) * CLASSES);
    if (row.indexOf(Math.max(...row)) === labels[i]) correct++;
  }
  return correct;
}

function describeModel(model: Classifier): string {
  const count = model.parameters.reduce((sum, parameter) => sum + parameter.data.length, 0);
  return `MLP ${WIDTHS.join("-")} with batch norm (${grouped(count)} parameters)`;
}

/** Sixteen hexadecimal digits that differ as soon as one bit of one parameter or buffer does. */
function fingerprint(model: Classifier): string {
  const hash = createHash("sha256");
  const buffers = model.namedBuffers().map(([, buffer]) => buffer);
  for (const data of [...model.parameters.map(({ data }) => data), ...buffers]) {
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest("hex").slice(0, 16);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

async function main(args: string[]): Promise<number> {
  const options = parseOptions(args);
  if (options === null) {
    console.log(usage());
    return 0;
  }
  const accuracy = await train(options);
  if (accuracy >= options.minAccuracy) return 0;
  console.error(
    `train_mnist: test accuracy ${accuracy} of the averaged weights is below --min-accuracy=${options.minAccuracy}`,
  );
  return 1;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof UsageError || error instanceof Diverged)) throw error;
  console.error(`train_mnist: ${error.message}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
