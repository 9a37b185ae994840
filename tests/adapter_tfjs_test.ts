/** tfjs's variables and LayersModels: shared memory, gradients, batch norms, no tensor left over. */

import { test } from "node:test";
import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import * as tf from "@tensorflow/tfjs";
import { version_wasm } from "@tensorflow/tfjs-backend-wasm";
import {
  Adam,
  AdamW,
  AveragedModel,
  getEmaMultiAvgFn,
  LBFGS,
  loadModelStateDict,
  modelStateDict,
  Parameter,
  SGD,
  updateBn,
} from "@flatstep/optim";
import { LayersModule, type TfApi, TfVariables } from "@flatstep/optim/adapters/tfjs";

/** Where the numbers are: in the memory of each backend, and in copies. */
const PLACES = [["cpu", false], ["wasm", false], ["cpu", true], ["wasm", true]] as const;

function testPlaces(name: string, body: (copy: boolean, backend: string) => void | Promise<void>): void {
  for (const [backend, copy] of PLACES) {
    test(`${name} (${backend}${copy ? ", copies" : ""})`, { timeout: 120_000 }, async () => {
      assert(await tf.setBackend(backend), `tfjs must have the backend ${backend} (${version_wasm})`);
      await body(copy, backend);
    });
  }
}

const N = 12, D = 3, C = 4;
/** Numbers in [-1, 1) that look random. */
const numbers = (n: number, seed: number) =>
  Float32Array.from(
    { length: n },
    (_, i) => ((Math.imul(i + 1, 2654435761) ^ Math.imul(seed, 40503)) >>> 8) / 2 ** 23 - 1,
  );
const X = numbers(N * D, 1), Y = numbers(N, 2);
const LABELS = Int32Array.from({ length: N }, (_, i) => (i * 7 + 1) % C);

/** A variable with memory of its own, and no tensor beside it. */
const variable = (values: ArrayLike<number>, shape: number[] = [values.length], trainable = true) =>
  tf.tidy(() => tf.variable(tf.tensor(Float32Array.from(values), shape), trainable));
const tensors = () => tf.memory().numTensors;

function assertNear(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  assertEquals(actual.length, expected.length);
  for (let i = 0; i < actual.length; i++) {
    const off = Math.abs(actual[i]! - expected[i]!);
    assert(
      off <= tolerance,
      `element ${i}: ${actual[i]} and ${expected[i]} are ${off} apart, allowed are ${tolerance}`,
    );
  }
}

testPlaces("least squares by tfjs's gradients arrive where those in closed form do", (copy) => {
  const before = tensors(), x = tf.tensor2d(X, [N, D]), y = tf.tensor2d(Y, [N, 1]);
  const vars = { w: variable(new Float32Array(D), [D, 1]), b: variable([0]) };
  const variables = new TfVariables(tf, vars, { copy });
  assertEquals(variables.zeroCopy, !copy);
  const options = { lr: 0.1, momentum: 0.9 }, optimizer = new SGD(variables.namedParameters(), options);
  const w = new Parameter(new Float32Array(D)),
    b = new Parameter(new Float32Array(1)),
    closed = new SGD([w, b], options);
  const closure = variables.closure(() => x.matMul(vars.w).add(vars.b).sub(y).square().mean());
  for (let step = 0; step < 60; step++) {
    const loss = optimizer.step(closure), gradW = new Float64Array(D);
    let gradB = 0, expected = 0;
    for (let i = 0; i < N; i++) {
      const row = X.subarray(i * D, (i + 1) * D);
      const error = row.reduce((sum, v, k) => sum + v * w.data[k]!, b.data[0]!) - Y[i]!;
      row.forEach((v, k) => gradW[k]! += 2 * error * v / N);
      gradB += 2 * error / N;
      expected += error * error / N;
    }
    [w.grad, b.grad] = [Float32Array.from(gradW), Float32Array.of(gradB)];
    closed.step();
    assertNear([loss], [expected], 1e-6); // tfjs adds twelve squares below 4 in float32
  }
  variables.push();
  // Each gradient is off by a few units in the last place of numbers around 1; the loss is convex, so that they do not add up.
  assertNear(vars.w.dataSync(), w.data, 2e-6);
  assertNear(vars.b.dataSync(), b.data, 2e-6);
  tf.dispose([x, y, vars.w, vars.b]);
  assertEquals(tensors(), before);
});

testPlaces("softmax regression by tfjs arrives where closed form does, and each update is exact", (copy) => {
  const x = tf.tensor2d(X, [N, D]), labels = tf.tidy(() => tf.oneHot(tf.tensor1d(LABELS, "int32"), C).toFloat());
  const w = variable(numbers(D * C, 3), [D, C]), b = variable(new Float32Array(C));
  const variables = new TfVariables(tf, [w, b], { copy }), options = { lr: 0.5, momentum: 0.9 };
  const [closedW, closedB, sameW, sameB] = [w, b, w, b].map((v) => new Parameter(v.dataSync<"float32">().slice()));
  const optimizer = new SGD(variables.namedParameters(), options);
  const closed = new SGD([closedW!, closedB!], options), same = new SGD([sameW!, sameB!], options);
  const closure = variables.closure(() => tf.losses.softmaxCrossEntropy(labels, x.matMul(w as tf.Tensor2D).add(b)));
  const before = tensors();
  for (let step = 0; step < 40; step++) {
    optimizer.step(closure);
    [sameW!.grad, sameB!.grad] = variables.parameters.map(({ grad }) => grad as Float32Array) as [
      Float32Array,
      Float32Array,
    ];
    same.step();
    const gradW = new Float64Array(D * C), gradB = new Float64Array(C);
    for (let i = 0; i < N; i++) {
      const exps = Array.from({ length: C }, (_, c) => {
        let sum = closedB!.data[c]!;
        for (let k = 0; k < D; k++) sum += X[i * D + k]! * closedW!.data[k * C + c]!;
        return Math.exp(sum);
      });
      const total = exps.reduce((a, b) => a + b);
      exps.forEach((e, c) => {
        const error = (e / total - (LABELS[i] === c ? 1 : 0)) / N;
        gradB[c]! += error;
        for (let k = 0; k < D; k++) gradW[k * C + c]! += error * X[i * D + k]!;
      });
    }
    [closedW!.grad, closedB!.grad] = [Float32Array.from(gradW), Float32Array.from(gradB)];
    closed.step();
  }
  assertEquals(tensors(), before);
  variables.push();
  assertEquals(w.dataSync<"float32">(), sameW!.data as Float32Array);
  assertEquals(b.dataSync<"float32">(), sameB!.data as Float32Array);
  // exp and the sums over twelve rows are in float32: a few units in the last place of numbers around 3, for forty steps
  assertNear(w.dataSync(), closedW!.data, 1e-5);
  assertNear(b.dataSync(), closedB!.data, 1e-5);
  tf.dispose([x, labels, w, b]);
});

testPlaces("a step changes the variable alone: no clone, no tensor and no array that it was made of", (copy) => {
  const array = Float32Array.of(1, 2, 3), tensor = tf.tensor1d(array), v = tf.variable(tensor), clone = v.clone();
  const variables = new TfVariables(tf, { v }, { copy }), [p] = variables.parameters;
  const later = v.clone();
  p!.grad = Float32Array.of(1, 1, 1);
  new SGD([p!], { lr: 1 }).step();
  variables.push();
  assertEquals([...v.dataSync()], [0, 1, 2]);
  for (const kept of [array, tensor.dataSync(), clone.dataSync(), later.dataSync()]) assertEquals([...kept], [1, 2, 3]);
  tf.dispose([tensor, clone, later, v]);
});

testPlaces("a parameter follows what tfjs assigns, and keeps its state", (copy) => {
  const v = variable([1, 2]), variables = new TfVariables(tf, { v }, { copy }), [p] = variables.parameters;
  const optimizer = new SGD([p!], { lr: 1, momentum: 0.5 });
  p!.grad = Float32Array.of(1, 1);
  optimizer.step();
  variables.push();
  tf.tidy(() => v.assign(tf.tensor1d([10, 20])));
  assertEquals([...p!.data], [10, 20]);
  optimizer.step(); // the buffer is 1.5 now
  variables.push();
  assertEquals([...v.dataSync()], [8.5, 18.5]);
  p!.data = Float32Array.of(7, 8);
  variables.push();
  assertEquals([...v.dataSync()], [7, 8]);
  v.dispose();
});

test("with wasm a parameter is where the variable is, also after the heap has grown", async () => {
  await tf.setBackend("wasm");
  const backend = tf.backend() as unknown as { wasm: { HEAPU8: Uint8Array } };
  const v = variable([1, 2, 3]), variables = new TfVariables(tf, [v]), [p] = variables.parameters;
  const optimizer = new AdamW(variables.namedParameters(), { lr: 0.1 });
  const same = new Parameter([1, 2, 3]), other = new AdamW([same], { lr: 0.1 }), grown: tf.Tensor[] = [];
  for (let step = 0; step < 8; step++) {
    assert(p!.data.buffer === backend.wasm.HEAPU8.buffer, "the array is a view of the heap");
    optimizer.step(variables.closure(() => v.square().sum()));
    same.grad = (p!.grad as Float32Array).slice();
    other.step();
    assertEquals([...v.dataSync()], [...same.data]);
    if (step % 2 === 0) {
      const old = p!.data;
      while (old.length > 0) grown.push(tf.zeros([1 << 20])); // until it is detached
      assert(p!.data !== old && p!.data.length === 3);
    }
  }
  tf.dispose([...grown, v]);
});

test("with wasm, products and convolutions see what a step has written, though they keep packed weights", async () => {
  await tf.setBackend("wasm");
  const x = tf.tensor2d([1, 2, 3, 4], [2, 2]), image = tf.ones<tf.Rank.R4>([1, 2, 2, 1]);
  const w = variable([1, 2, 3, 4], [2, 2]), filter = variable([1, 2, 3, 4], [2, 2, 1, 1]);
  const variables = new TfVariables(tf, [w, filter]), optimizer = new SGD(variables.parameters, { lr: 1 });
  const look = () =>
    tf.tidy(() => [
      ...x.matMul(w as tf.Tensor2D).dataSync(),
      ...tf.conv2d(image, filter as tf.Tensor4D, 1, "valid").dataSync(),
    ]);
  assertEquals(look(), [7, 10, 15, 22, 10]);
  for (const p of variables.parameters) p.grad = Float32Array.of(1, 1, 1, 1);
  optimizer.step();
  assertEquals(look(), [4, 7, 8, 15, 6]);
  const kept = variables.parameters.map(({ data }) => data);
  look();
  for (const array of kept) array.fill(1);
  variables.push(); // for an array that was kept; a step asks anew
  assertEquals(look(), [3, 3, 7, 7, 4]);
  tf.dispose([x, image, w, filter]);
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

test("with cpu a parameter's data is what dataSync() gives, and the array stays the same", async () => {
  await tf.setBackend("cpu");
  const v = variable([1, 2, 3]), variables = new TfVariables(tf, [v]), [p] = variables.parameters, first = p!.data;
  const optimizer = new AdamW(variables.parameters);
  for (let step = 0; step < 3; step++) optimizer.step(variables.closure(() => v.square().sum()));
  assert(p!.data === first && p!.data === v.dataSync(), "one array for both");
  v.dispose();
});

test("a variable moves with the backend where its memory is shared", async () => {
  await tf.setBackend("cpu");
  const v = variable([1, 2]), variables = new TfVariables(tf, [v]), [p] = variables.parameters;
  const optimizer = new SGD(variables.parameters, { lr: 0.25 }), closure = variables.closure(() => v.square().sum());
  optimizer.step(closure);
  await tf.setBackend("wasm");
  optimizer.step(closure);
  assertEquals([[...v.dataSync()], [...p!.data]], [[0.25, 0.5], [0.25, 0.5]]);
  v.dispose();
});

testPlaces("variables that are not trainable, or that the loss does not have, get no gradient", (copy) => {
  const used = variable([2]), unused = variable([3]), frozen = variable([5], [1], false);
  const variables = new TfVariables(tf, { used, unused, frozen }, { copy });
  assertEquals(variables.parameters.map(({ requiresGrad }) => requiresGrad), [true, true, false]);
  const optimizer = new SGD(variables.namedParameters(), { lr: 0.25, weightDecay: 1 });
  for (const p of variables.parameters) p.grad = Float32Array.of(9);
  const loss = optimizer.step(variables.closure(() => used.mul(frozen).sum()));
  variables.push();
  assertEquals([loss, ...used.dataSync(), ...unused.dataSync(), ...frozen.dataSync()], [10, 0.25, 3, 5]);
  assertEquals(variables.parameters.map(({ grad }) => grad === null), [false, true, true]);
  tf.dispose([used, unused, frozen]);
});

testPlaces("LBFGS minimises through a closure of tfjs", (copy) => {
  const v = variable([3, -4]), variables = new TfVariables(tf, [v], { copy });
  const before = tensors(), optimizer = new LBFGS(variables.parameters, { lineSearchFn: "hager_zhang" });
  const closure = variables.closure(() =>
    tf.tidy(() => v.sub(tf.tensor1d([1, 2])).square().mul(tf.tensor1d([1, 9])).sum())
  );
  optimizer.step(closure);
  variables.push();
  assertNear(v.dataSync(), [1, 2], 1e-5); // where float32 can no longer tell losses apart
  assertEquals(tensors(), before);
  v.dispose();
});

test("TfVariables and setGrads() refuse what does not fit, and change nothing", async () => {
  await tf.setBackend("cpu");
  const v = variable([1, 2]), w = variable([1]), name = v.name;
  const refuse = (call: () => unknown, type: typeof TypeError | typeof RangeError, message: string) => {
    const error = assertThrows(call, Error);
    assertInstanceOf(error, type);
    assertEquals(error.message, message);
  };
  const int = tf.variable(tf.tensor1d([1], "int32"));
  const names = "backend, getBackend, tensor, variableGrads";
  refuse(
    () => new TfVariables({} as TfApi, [v]),
    TypeError,
    `tf must be tfjs's namespace, with ${names}, got an object`,
  );
  refuse(() => new TfVariables(tf, { int }), TypeError, `the variable "int" must be of dtype "float32", got "int32"`);
  refuse(() => new TfVariables(tf, { a: v, b: v }), RangeError, `the variable "b" must not be given twice`);
  refuse(
    () => new TfVariables(tf, [v, 1 as unknown as typeof v]),
    TypeError,
    "the variable undefined must be a variable of tfjs, got 1",
  );
  refuse(
    () => new TfVariables(tf, [v], { clone: 1 } as object),
    TypeError,
    `TfVariables has no option "clone"; it has copy`,
  );
  refuse(() => new TfVariables(tf, [v], { copy: 1 as unknown as boolean }), TypeError, "copy must be a boolean, got 1");
  const variables = new TfVariables(tf, [v, w]), good = tf.tensor1d([1, 2]);
  variables.setGrads({ [name]: good, [w.name]: null });
  const grads = variables.parameters.map(({ grad }) => grad);
  refuse(
    () => variables.setGrads({ nobody: good }),
    TypeError,
    `grads has "nobody", which none of the variables is called`,
  );
  refuse(
    () => variables.setGrads({ [w.name]: good, [name]: null }),
    RangeError,
    `the gradient of "${w.name}" must have the shape [1], got [2]`,
  );
  const text = tf.tensor1d([1], "int32");
  refuse(
    () => variables.setGrads({ [w.name]: text }),
    TypeError,
    `the gradient of "${w.name}" must be a float32 tensor, got int32`,
  );
  assert(variables.parameters.every(({ grad }, i) => grad === grads[i]), "the gradients are as they were");
  assertEquals([...grads[0] as Float32Array], [1, 2]);
  refuse(() => variables.closure(1 as never), TypeError, "fn must be a function, got 1");
  tf.dispose([v, w, int, good, text]);
});

/** A model with a batch norm, with weights that follow from the seed. */
function makeModel(seed: number): tf.LayersModel {
  const { dense, batchNormalization } = tf.layers;
  const model = tf.sequential({
    layers: [
      dense({ name: "hidden", units: 5, inputShape: [D], useBias: false }),
      batchNormalization({ name: "norm", momentum: 0.9 }),
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
  assertNear([model.norms[0]!.momentum!], [0.1], 1e-15); // 1 - 0.9 is not 0.1
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
    0.9,
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
