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
import { AdamW, backend, type Parameter } from "../mod.ts";
import { drawCurves } from "./mnist/chart.ts";
import { batches, type Dataset, loadMnist } from "./mnist/data.ts";
import { Classifier, WIDTHS } from "./mnist/model.ts";
import { type Options, parseOptions, usage, UsageError } from "./mnist/options.ts";
import { Random } from "./mnist/random.ts";
import { grouped, type History, percent, Progress, runtime, secondsOf, Stopwatch, table } from "./mnist/report.ts";

/** The share of all steps in which the learning rate rises. */
const WARM_UP = 0.05;

/** Rises in a straight line to `highest`, then falls in a straight line to 0. `step` counts from 0. */
function learningRate(step: number, steps: number, highest: number): number {
  const warmUp = Math.ceil(WARM_UP * steps);
  return highest * (step < warmUp ? (step + 1) / warmUp : (steps - step) / (steps - warmUp));
}

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
    { params: model.biases, weightDecay: 0 },
  ], { lr: options.lr });
  const { name, isa, threads } = backend();
  console.log(`${describeModel(model)}, batches of ${batchSize}, seed ${options.seed}, ${runtime()}, ${name}`);

  const stepsPerEpoch = Math.ceil(data.train.count / batchSize);
  const history: History = { losses: [], rates: [], accuracies: [] };
  const progress = new Progress({ batchSize });
  const clock = new Stopwatch<"gradients" | "optimizer" | "testing">();
  for (let epoch = 1; epoch <= epochs; epoch++) {
    const start = clock.total;
    progress.start(`epoch ${epoch}/${epochs}`, stepsPerEpoch);
    try {
      for (const batch of batches(data.train, batchSize, random)) {
        const step = history.losses.length;
        const lr = learningRate(step, epochs * stepsPerEpoch, options.lr);
        for (const group of optimizer.paramGroups) group.lr = lr;
        const loss = clock.time("gradients", () => model.backward(batch));
        if (!Number.isFinite(loss)) {
          throw new Diverged(`the loss of step ${step + 1} is ${loss}; a smaller --lr may help`);
        }
        clock.time("optimizer", () => optimizer.step());
        history.losses.push(loss);
        history.rates.push(lr);
        progress.update(step + 1 - (epoch - 1) * stepsPerEpoch, loss, lr);
      }
    } finally {
      progress.stop();
    }
    const accuracy = clock.time("testing", () => measureAccuracy(model, data.test));
    history.accuracies.push(accuracy);
    const loss = mean(history.losses.slice(-stepsPerEpoch)).toFixed(6);
    const seconds = (clock.total - start).toFixed(1);
    console.log(`epoch ${epoch}/${epochs}: loss ${loss}, test accuracy ${percent(accuracy)}, ${seconds} s`);
  }

  const total = clock.total;
  const accuracy = history.accuracies.at(-1)!;
  const [gradients, optimizing, testing] = [
    clock.seconds("gradients"),
    clock.seconds("optimizer"),
    clock.seconds("testing"),
  ];
  console.log(
    "\n" + table([
      ["test accuracy", `${percent(accuracy)} (${grouped(Math.round(accuracy * data.test.count))} of 10,000)`],
      ["gradients", secondsOf(total, gradients)],
      ["optimizer", secondsOf(total, optimizing)],
      ["testing", secondsOf(total, testing)],
      ["batches, other", secondsOf(total, total - gradients - optimizing - testing)],
      ["total", secondsOf(total, total)],
      ["backend", name],
      ["ISA", isa],
      ["threads", String(threads)],
      ["runtime", runtime()],
      ["weights", `${fingerprint(model.parameters)} (start of their SHA-256)`],
    ]),
  );

  const title = `MNIST: ${percent(accuracy)} test accuracy after ${epochs} epoch${epochs === 1 ? "" : "s"}`;
  const subtitle = [
    `${describeModel(model)}, batches of ${batchSize}, seed ${options.seed}`,
    `AdamW with weight decay ${options.weightDecay}; ${total.toFixed(0)} s in ${runtime()}, ${name}, ${isa}`,
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
  for (const batch of batches(data, 1000)) correct += model.correct(batch);
  return correct / data.count;
}

function describeModel(model: Classifier): string {
  const count = model.parameters.reduce((sum, parameter) => sum + parameter.data.length, 0);
  return `MLP ${WIDTHS.join("-")} (${grouped(count)} parameters)`;
}

/** Sixteen hexadecimal digits that differ as soon as one bit of one parameter does. */
function fingerprint(parameters: readonly Parameter[]): string {
  const hash = createHash("sha256");
  for (const { data } of parameters) hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
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
  console.error(`train_mnist: test accuracy ${accuracy} is below --min-accuracy=${options.minAccuracy}`);
  return 1;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof UsageError || error instanceof Diverged)) throw error;
  console.error(`train_mnist: ${error.message}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
