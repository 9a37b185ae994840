/**
 * A LayersModel of TensorFlow.js, trained by flatstep: AdamW, a cosine schedule, averaged weights whose batch norm gets statistics
 * of its own, and a checkpoint.
 *
 *     deno run -A examples/adapter_tfjs.ts [cpu|wasm]
 *     bun examples/adapter_tfjs.ts [cpu|wasm]
 */
import { assert, assertEquals } from "@std/assert";
import * as tf from "@tensorflow/tfjs";
import "@tensorflow/tfjs-backend-wasm";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import {
  AdamW,
  AveragedModel,
  CosineAnnealingLR,
  getEmaMultiAvgFn,
  load,
  loadModelStateDict,
  save,
  updateBn,
} from "@flatstep/optim";
import { LayersModule } from "@flatstep/optim/adapters/tfjs";
import { Random } from "./mnist/random.ts";
import { FEATURES, type Flowers, Loader, loadIris, SPECIES } from "./support/iris.ts";

const backend = process.argv[2] ?? "wasm";
assert(await tf.setBackend(backend), `the backend must be cpu or wasm, got ${backend}`);

/** The model, with names of its own for the layers: the checkpoint has them. */
function build(): LayersModule<tf.Sequential> {
  const { dense, batchNormalization } = tf.layers, kernelInitializer = tf.initializers.glorotUniform({ seed: 1 });
  return new LayersModule(
    tf,
    tf.sequential({
      layers: [
        dense({ name: "hidden", units: 16, inputShape: [FEATURES], activation: "relu", kernelInitializer }),
        batchNormalization({ name: "norm" }),
        dense({ name: "species", units: SPECIES, kernelInitializer }),
      ],
    }),
  );
}

const random = new Random(1), { train, test } = loadIris(1), loader = new Loader(train, 10, random);
const inputsOf = (values: ArrayLike<number>, count: number) =>
  tf.tensor2d(Float32Array.from(values), [count, FEATURES]);

const model = build(), epochs = 40;
const optimizer = new AdamW(model.namedParameters(), { lr: 0.02 });
const scheduler = new CosineAnnealingLR(optimizer, { tMax: epochs });
const averaged = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn(0.95) });
console.log(`${backend}, zero copy: ${model.zeroCopy}; ${model.namedParameters().map(([name]) => name).join(", ")}`);

const losses: number[] = [], tensors = tf.memory().numTensors;
for (let epoch = 1; epoch <= epochs; epoch++) {
  let sum = 0;
  for (const [inputs, labels] of loader) {
    const x = inputsOf(inputs, labels.length), y = tf.tidy(() => tf.oneHot(labels, SPECIES));
    const loss = optimizer.step(model.closure(() => tf.losses.softmaxCrossEntropy(y, model.forward(x))));
    tf.dispose([x, y]);
    averaged.updateParameters(model);
    sum += loss * labels.length / train.count;
  }
  scheduler.step();
  losses.push(sum);
  if (epoch % 10 === 0) console.log(`epoch ${epoch}: loss ${sum.toFixed(3)}`);
}

// The averaged weights have seen no activations: their batch norm gets its statistics by one pass over the data.
function* batches() {
  for (const [inputs, labels] of loader) {
    const x = inputsOf(inputs, labels.length);
    yield x;
    x.dispose();
  }
}
await updateBn(batches(), averaged);
assertEquals(tf.memory().numTensors, tensors, "no tensor may be left over");

/** The share of the flowers that get the right species. */
function accuracy(model: LayersModule<tf.Sequential>, { inputs, labels, count }: Flowers): number {
  const species = tf.tidy(() => model.eval().forward(inputsOf(inputs, count)).argMax(-1).dataSync());
  return labels.filter((label, i) => label === species[i]).length / count;
}
const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
const raw = accuracy(model, test), smooth = accuracy(averaged.module, test);
console.log(`test accuracy: ${percent(raw)}, averaged weights: ${percent(smooth)}`);
assert(
  losses.at(-1)! < losses[0]! / 4,
  `training must lower the loss: ${losses[0]} at first, ${losses.at(-1)} at last`,
);
assert(raw >= 0.9 && smooth >= 0.9, "the model must know the flowers");

// Weights and statistics go into a checkpoint and come back in another model.
const folder = mkdtempSync(join(tmpdir(), "flatstep-tfjs-"));
try {
  const path = join(folder, "irises.safetensors");
  await save(path, { model, optimizer, scheduler });
  const other = build(), checkpoint = await load(path);
  loadModelStateDict(other, checkpoint.model);
  const outputs = (m: LayersModule<tf.Sequential>) =>
    tf.tidy(() => m.eval().forward(inputsOf(test.inputs, test.count)).dataSync());
  assertEquals(outputs(other), outputs(model));
  console.log("the checkpoint gives the same outputs");
} finally {
  rmSync(folder, { recursive: true });
}
