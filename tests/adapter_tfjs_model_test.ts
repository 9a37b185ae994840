/** tfjs's LayersModels as Modules: names, averages, batch norms, checkpoints, copies. */

import { test } from "node:test";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import * as tf from "@tensorflow/tfjs";
import {
  Adam,
  AveragedModel,
  getEmaMultiAvgFn,
  loadModelStateDict,
  modelStateDict,
  type Parameter,
  SGD,
  updateBn,
} from "@flatstep/optim";
import { LayersModule } from "@flatstep/optim/adapters/tfjs";
import { assertNear, C, D, LABELS, N, numbers, X } from "./support/regression.ts";
import { tensors, testPlaces } from "./support/tfjs.ts";

/** A model with a batch norm, with weights that follow from the seed. */
function makeModel(seed: number): tf.LayersModel {
  const { dense, batchNormalization } = tf.layers;
  const model = tf.sequential({
    layers: [
      dense({ name: "hidden", units: 5, inputShape: [D], useBias: false }),
      batchNormalization({ name: "norm", momentum: 0.1 }),
      dense({ name: "out", units: C, activation: "softmax" }),
    ],
  });
  return seeded(model, seed);
}

function seeded<M extends tf.LayersModel>(model: M, seed: number): M {
  tf.tidy(() =>
    model.setWeights(
      model.getWeights().map((w, i) => {
        const values = numbers(w.size, seed + i);
        return tf.tensor(w.shape.length === 1 ? values.map((v) => v * v + 0.5) : values, w.shape);
      }),
    )
  );
  return model;
}

const valuesOf = (pairs: Iterable<readonly [string, unknown]>) =>
  Object.fromEntries([...pairs].map(([name, p]) => [name, [...(p as Parameter).data]]));

testPlaces("LayersModule names weights and statistics", (copy) => {
  const before = tensors(), model = new LayersModule(tf, makeModel(1), { copy });
  assertEquals(model.namedParameters().map(([name, p]) => [name, ...p.shape]), [
    ["hidden.kernel", D, 5],
    ["norm.gamma", 5],
    ["norm.beta", 5],
    ["out.kernel", 5, C],
    ["out.bias", C],
  ]);
  assertEquals(model.namedBuffers().map(([name]) => name), ["norm.moving_mean", "norm.moving_variance"]);
  assertEquals([model.norms.length, model.modules().length, model.training, model.eval().training], [
    1,
    2,
    true,
    false,
  ]);
  assertEquals(model.norms[0]!.momentum, 0.9);
  model.dispose();
  assertEquals(tensors(), before);
});

testPlaces("training a LayersModel, averaging it and updating its batch norms leaves no tensor over", async (copy) => {
  const before = tensors(), x = tf.tensor2d(X, [N, D]);
  const labels = tf.tidy(() => tf.oneHot(tf.tensor1d(LABELS, "int32"), C).toFloat());
  const model = new LayersModule(tf, makeModel(1), { copy }),
    optimizer = new Adam(model.namedParameters(), { lr: 0.05 });
  const averaged = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn(0.9) });
  const closure = model.closure(() => tf.metrics.categoricalCrossentropy(labels, model.forward(x)).mean());
  const start = tensors(), first = closure();
  let last = 0;
  const expected = model.parameters.map(({ data }) => Float64Array.from(data));
  for (let step = 0; step < 30; step++) {
    last = optimizer.step(closure);
    averaged.updateParameters(model);
    model.parameters.forEach(({ data }, i) =>
      expected[i]!.forEach((v, k) => expected[i]![k] = step === 0 ? data[k]! : 0.9 * v + 0.1 * data[k]!)
    );
  }
  assert(last < 0.7 * first, `training must lower the loss: ${first}, then ${last}`);
  assertEquals(model.norms[0]!.numBatchesTracked, 31);
  // the average is in float32: thirty roundings of numbers around 1
  averaged.module.parameters.forEach(({ data }, i) => assertNear(data, expected[i]!, 2e-6));

  const { momentum } = averaged.module.norms[0]!;
  await updateBn([x, [x, labels], x], averaged);
  const { kernel } = { kernel: averaged.module.parameters[0]!.data };
  const hidden = Array.from({ length: 5 }, (_, u) =>
    Array.from({ length: N }, (_, i) => {
      let sum = 0;
      for (let k = 0; k < D; k++) sum += X[i * D + k]! * kernel[k * 5 + u]!;
      return sum;
    }));
  const means = hidden.map((h) => h.reduce((a, b) => a + b) / N);
  const variances = hidden.map((h, u) => h.reduce((a, b) => a + (b - means[u]!) ** 2, 0) / N);
  const [norm] = averaged.module.norms;
  // sums of twelve numbers around 1, in float32
  assertNear(norm!.runningMean, means, 1e-6);
  assertNear(norm!.runningVar, variances, 1e-6);
  assertEquals([
    norm!.numBatchesTracked,
    norm!.momentum,
    (averaged.module.model.layers[1] as unknown as { momentum: number }).momentum,
  ], [
    3,
    momentum,
    0.1, // though 1 - (1 - 0.1) is another number
  ]);
  averaged.module.eval();
  const seen = tf.tidy(() => averaged.forward(x).dataSync<"float32">());
  assert(seen.every(Number.isFinite));
  assertEquals(tensors(), start);
  averaged.module.dispose();
  model.dispose();
  tf.dispose([x, labels]);
  assertEquals(tensors(), before);
});

testPlaces("updateBn gives a LayersModel its statistics back when the loader throws", async (copy) => {
  const model = new LayersModule(tf, makeModel(2), { copy }), x = tf.tensor2d(X, [N, D]), before = tensors();
  tf.dispose(model.eval().forward(x));
  model.norms[0]!.numBatchesTracked = 7;
  const statistics = valuesOf(model.namedBuffers());
  const output = () => tf.tidy(() => model.forward(x).dataSync<"float32">().slice());
  const outputs = output();
  function* loader() {
    yield x;
    throw new RangeError("no more");
  }
  await assertRejects(() => updateBn(loader(), model), RangeError);
  assertEquals(valuesOf(model.namedBuffers()), statistics);
  assertEquals([model.norms[0]!.numBatchesTracked, model.training], [7, false]);
  assertEquals(output(), outputs);
  assertEquals(tensors(), before);
  model.dispose();
  x.dispose();
});

testPlaces("updateBn finds a variance far below one, which it starts from", async (copy) => {
  const layers = [tf.layers.batchNormalization({ name: "norm", inputShape: [1] })];
  const model = new LayersModule(tf, tf.sequential({ layers }), { copy }), x = tf.tensor2d([[1e-4], [3e-4]]);
  await updateBn([x], model);
  assertNear(model.norms[0]!.runningVar, [1e-8], 1e-14); // squares of float32
  model.dispose();
  x.dispose();
});

testPlaces("AveragedModel.swap() lends a LayersModel its weights, also while tfjs's memory grows", async (copy) => {
  const model = new LayersModule(tf, makeModel(3), { copy }), x = tf.tensor2d(X, [N, D]);
  const averaged = new AveragedModel(model, { useBuffers: true }), grown: tf.Tensor[] = [];
  averaged.updateParameters(model);
  const output = () => tf.tidy(() => model.forward(x).dataSync<"float32">().slice());
  model.eval();
  const lent = output();
  for (const [, p] of [...model.namedParameters(), ...model.namedBuffers()]) {
    p.data = (p.data as Float32Array).map((v) => v + 0.25);
  }
  const own = output(), values = valuesOf([...model.namedParameters(), ...model.namedBuffers()]);
  assert(own.some((v, i) => v !== lent[i]));
  const seen = await averaged.swap(model, () => {
    const inside = output();
    for (let i = 0; i < 24; i++) grown.push(tf.zeros([1 << 20]));
    tf.dispose(model.train().forward(x)); // changes the statistics: they come back too
    model.eval();
    return inside;
  });
  assertEquals(seen, lent);
  assertEquals(valuesOf([...model.namedParameters(), ...model.namedBuffers()]), values);
  assertEquals(output(), own);
  tf.dispose([...grown, x]);
  averaged.module.dispose();
  model.dispose();
});

testPlaces("a LayersModel's weights and statistics are saved and loaded by name", (copy) => {
  const model = new LayersModule(tf, makeModel(4), { copy }), other = new LayersModule(tf, makeModel(5), { copy });
  const x = tf.tensor2d(X, [N, D]), output = (m: LayersModule) => tf.tidy(() => m.eval().forward(x).dataSync().slice());
  assert(output(model).some((v: number, i: number) => v !== output(other)[i]));
  loadModelStateDict(other, modelStateDict(model));
  assertEquals(output(other), output(model));
  // what tfjs itself sees, without forward()
  const direct = (m: LayersModule<tf.LayersModel>) =>
    tf.tidy(() => (m.model.predict(x) as tf.Tensor).dataSync().slice());
  assertEquals(direct(other), direct(model));
  model.dispose();
  other.dispose();
  x.dispose();
});

test("LayersModule.clone() copies functional, nested and recurrent models, and keeps the original apart", async () => {
  await tf.setBackend("cpu");
  const input = tf.input({ shape: [4, 3] }),
    { dense, bidirectional, lstm, timeDistributed, batchNormalization } = tf.layers;
  const inner = tf.sequential({
    name: "inner",
    layers: [dense({ name: "a", units: 3, inputShape: [3] }), batchNormalization({ name: "n" })],
  });
  const embedded = timeDistributed({ name: "each", layer: dense({ name: "t", units: 3 }) }).apply(
    input,
  ) as tf.SymbolicTensor;
  const both = bidirectional({ name: "both", layer: lstm({ units: 2, name: "l" }) as never, mergeMode: "concat" });
  const summary = dense({ name: "s", units: 3 }).apply(both.apply(embedded)) as tf.SymbolicTensor;
  const net = seeded(tf.model({ inputs: input, outputs: inner.apply(summary) as tf.SymbolicTensor }), 8);
  const model = new LayersModule(tf, net), names = model.namedParameters().map(([name]) => name);
  assertEquals(names, [
    "each.t.kernel",
    "each.t.bias",
    "both.forward_l.kernel",
    "both.forward_l.recurrent_kernel",
    "both.forward_l.bias",
    "both.backward_l.kernel",
    "both.backward_l.recurrent_kernel",
    "both.backward_l.bias",
    "s.kernel",
    "s.bias",
    "inner.a.kernel",
    "inner.a.bias",
    "inner.n.gamma",
    "inner.n.beta",
  ]);
  assertEquals(model.namedBuffers().map(([name]) => name), ["inner.n.moving_mean", "inner.n.moving_variance"]);
  const x = tf.tensor3d(numbers(5 * 4 * 3, 6), [5, 4, 3]),
    output = (m: LayersModule) => tf.tidy(() => m.eval().forward(x).dataSync().slice());
  const copy = model.clone();
  assertEquals(output(copy), output(model));
  const before = valuesOf(model.namedParameters());
  const optimizer = new SGD(copy.namedParameters(), { lr: 1 });
  optimizer.step(copy.closure(() => tf.sum(tf.square(copy.train().forward(x) as tf.Tensor)) as tf.Scalar));
  assertEquals(valuesOf(model.namedParameters()), before);
  assert(output(copy).some((v: number, i: number) => v !== output(model)[i]));
  tf.dispose([x]);
  copy.dispose();
  model.dispose();
});

test("a frozen layer's weights stay parameters without gradients, and can be thawed", async () => {
  await tf.setBackend("cpu");
  const net = makeModel(6), [hidden, norm] = net.layers;
  hidden!.trainable = norm!.trainable = false;
  const model = new LayersModule(tf, net), averaged = new AveragedModel(model), x = tf.tensor2d(X, [N, D]);
  assertEquals(model.namedParameters().map(([name, { requiresGrad }]) => [name, requiresGrad]), [
    ["hidden.kernel", false],
    ["norm.gamma", false],
    ["norm.beta", false],
    ["out.kernel", true],
    ["out.bias", true],
  ]);
  assertEquals(model.namedBuffers().length, 2);
  const closure = model.closure(() => model.forward(x).square().sum());
  closure();
  assertEquals(model.parameters.map(({ grad }) => grad === null), [true, true, true, false, false]);
  hidden!.trainable = norm!.trainable = true;
  closure();
  assertEquals(model.parameters.map(({ grad }) => grad === null), [false, false, false, false, false]);
  averaged.updateParameters(model);
  x.dispose();
  averaged.module.dispose();
  model.dispose();
});

test("LayersModule says what is wrong with a model, and asks for clone where it cannot copy one", async () => {
  await tf.setBackend("cpu");
  const message = (call: () => unknown) => assertThrows(call, TypeError).message;
  assertEquals(
    message(() => new LayersModule(tf, {} as tf.LayersModel)),
    "model must be a LayersModel of tfjs, got an object",
  );
  const empty = tf.sequential();
  assertEquals(
    message(() => new LayersModule(tf, empty)),
    "model must have weights: a model without an inputShape has none before it is built",
  );
  /** A layer that tfjs cannot make from a configuration, for it is not registered. */
  class Scale extends tf.layers.Layer {
    override build(): void {
      this.addWeight("scale", [1], "float32", tf.initializers.ones());
      this.built = true;
    }
    override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
      return tf.mul(Array.isArray(inputs) ? inputs[0]! : inputs, this.weights[0]!.read());
    }
    override computeOutputShape(shape: tf.Shape): tf.Shape {
      return shape;
    }
    static className = "Scale";
  }
  const make = () => tf.sequential({ layers: [new Scale({ name: "scale", inputShape: [2] } as never)] });
  const asks = message(() => new LayersModule(tf, make()).clone());
  assert(
    /^the model cannot be made from its configuration \(.*\): give the option clone, which makes one$/s.test(asks),
    asks,
  );
  const model = new LayersModule(tf, make(), { clone: make });
  model.parameters[0]!.data[0] = 3;
  assertEquals([...new AveragedModel(model).module.parameters[0]!.data], [3]);
  const wrong = new LayersModule(tf, make(), { clone: () => makeModel(1) as ReturnType<typeof make> });
  assertEquals(message(() => wrong.clone()), "the copy must have 1 weights, got 7");
  const { norms } = new LayersModule(tf, makeModel(1));
  const range = assertThrows(() => norms[0]!.momentum = 2, RangeError);
  assertEquals(range.message, "momentum must be a number from 0 to 1, or null, got 2");
});

test("with wasm a thousand steps leave nothing in the heap", async () => {
  await tf.setBackend("wasm");
  const heap = tf.backend() as unknown as { wasm: { HEAPU8: Uint8Array } };
  const model = new LayersModule(tf, makeModel(7)), optimizer = new SGD(model.parameters, { lr: 1e-3 });
  const x = tf.tensor2d(X, [N, D]), closure = model.closure(() => model.forward(x).square().sum());
  for (let step = 0; step < 50; step++) optimizer.step(closure);
  const before = [heap.wasm.HEAPU8.length, tensors(), tf.memory().numBytes];
  for (let step = 0; step < 1000; step++) optimizer.step(closure);
  assertEquals([heap.wasm.HEAPU8.length, tensors(), tf.memory().numBytes], before);
  model.dispose();
  x.dispose();
});
