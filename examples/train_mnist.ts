/**
 * Trains a digit classifier on MNIST, with gradients from jax-js and updates from flatstep:
 *
 *     deno run -A examples/train_mnist.ts
 *     bun examples/train_mnist.ts
 *
 * The same seed gives the same losses, to the bit, in both. Every epoch is saved, and Ctrl-C saves too: `--resume` goes on from
 * there, to the same bits, in either. `--help` lists the options.
 */
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import process from "node:process";
import { backend, CheckpointError, StateDictError, updateBn } from "../mod.ts";
import { drawCurves } from "./mnist/chart.ts";
import { type Batch, batches, CLASSES, type Dataset, loadMnist } from "./mnist/data.ts";
import { type Classifier, WIDTHS } from "./mnist/model.ts";
import { type Options, parseOptions, usage, UsageError } from "./mnist/options.ts";
import { Random } from "./mnist/random.ts";
import { grouped, percent, Progress, runtime, secondsOf, Stopwatch, table } from "./mnist/report.ts";
import { CtrlC, Interrupted, Run } from "./mnist/run.ts";

/** Images whose activations give the averaged weights their batch norm statistics. */
const STATISTICS_COUNT = 10_000;

/** The loss has become NaN or infinite: there is no way back from that. */
class Diverged extends Error {
  override name = "Diverged";
}

async function train(options: Options): Promise<number> {
  makeFolder("out", options.out);
  makeFolder("checkpoint", options.checkpoint);
  const ctrlC = new CtrlC();
  try {
    return await trainUntil(ctrlC, options);
  } finally {
    ctrlC.stop();
  }
}

async function trainUntil(ctrlC: CtrlC, options: Options): Promise<number> {
  const run = await Run.start(options), { model, optimizer, scheduler, averaged, history, stepsPerEpoch } = run;
  const { epochs, seed, images, batchSize, emaDecay, weightDecay } = run.training;
  const data = loadMnist(), train = { ...data.train, count: images };
  const { name, isa, threads } = backend();
  console.log(`${describeModel(model)}, batches of ${batchSize}, seed ${seed}, ${runtime()}, ${name}`);
  if (options.resume) {
    console.log(`resumed at step ${run.steps} of ${epochs * stepsPerEpoch} from ${options.checkpoint}`);
  }

  const progress = new Progress({ batchSize });
  const clock = new Stopwatch<"gradients" | "optimizer" | "averaging" | "testing" | "saving">();
  const saveRun = () => clock.timeAsync("saving", () => run.save(options.checkpoint));
  const interrupt = async () => {
    await saveRun();
    throw new Interrupted(
      `interrupted after step ${run.steps} of ${epochs * stepsPerEpoch}; --resume goes on from ${options.checkpoint}`,
    );
  };
  for (let epoch = run.epochs + 1; epoch <= epochs; epoch++) {
    const start = clock.total, done = run.steps - (epoch - 1) * stepsPerEpoch;
    progress.start(`epoch ${epoch}/${epochs}`, stepsPerEpoch);
    model.train();
    try {
      // Each epoch has an order of its own that follows from the seed: a run can be resumed in the middle of one.
      for (const batch of batches(train, batchSize, new Random(seed, epoch), done)) {
        const step = run.steps;
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
        if (await ctrlC.check()) await interrupt();
      }
    } finally {
      progress.stop();
    }
    // The averaged weights have never seen an image. The next update overwrites their statistics by the model's.
    const sample = { ...train, count: Math.min(images, STATISTICS_COUNT) };
    await clock.timeAsync("averaging", () => updateBn(batches(sample, 1000), averaged));
    clock.time("testing", () => {
      history.raw.push(measureAccuracy(model.eval(), data.test));
      history.averaged.push(measureAccuracy(averaged.module.eval(), data.test));
    });
    await saveRun();
    const loss = mean(history.losses.slice(-stepsPerEpoch)).toFixed(6);
    const accuracies = `${percent(history.raw.at(-1)!)}, averaged ${percent(history.averaged.at(-1)!)}`;
    const seconds = (clock.total - start).toFixed(1);
    console.log(`epoch ${epoch}/${epochs}: loss ${loss}, test accuracy ${accuracies}, ${seconds} s`);
    if (epoch < epochs && await ctrlC.check()) await interrupt();
  }

  const total = clock.total;
  const kinds = ["gradients", "optimizer", "averaging", "testing", "saving"] as const;
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
    `AdamW with weight decay ${weightDecay}, averaged with decay ${emaDecay}`,
    `batches of ${batchSize}, seed ${seed}; ` +
    `${total.toFixed(0)} s in ${runtime()}, ${name}${isa === "none" ? "" : `, ${isa}`}`,
  ];
  writeFileSync(options.out, await drawCurves(history, title, subtitle));
  console.log(`\nThe curves are in ${options.out}`);
  return accuracy;
}

/** Makes the folder that a file goes into: before the training, so that a wrong path shows at once. */
function makeFolder(option: string, path: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true });
  } catch (cause) {
    throw new UsageError(`--${option}=${path}: its folder cannot be made (${(cause as Error).message})`);
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
  const known = [UsageError, Diverged, Interrupted, CheckpointError, StateDictError].some((kind) =>
    error instanceof kind
  );
  if (!known) throw error;
  console.error(`train_mnist: ${(error as Error).message}`);
  process.exitCode = error instanceof UsageError ? 2 : error instanceof Interrupted ? 130 : 1;
}
