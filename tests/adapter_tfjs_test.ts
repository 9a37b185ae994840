/** tfjs's variables as Parameters: shared memory, gradients, no tensor left over. */

import { test } from "node:test";
import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import * as tf from "@tensorflow/tfjs";
import { AdamW, LBFGS, Parameter, SGD } from "@flatstep/optim";
import { type TfApi, TfVariables } from "@flatstep/optim/adapters/tfjs";
import { assertNear, C, D, LABELS, leastSquares, N, numbers, softmaxRegression, X, Y } from "./support/regression.ts";
import { tensors, testPlaces, variable } from "./support/tfjs.ts";

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
    const loss = optimizer.step(closure), expected = leastSquares(w.data, b.data);
    [w.grad, b.grad] = [expected.w, expected.b];
    closed.step();
    assertNear([loss], [expected.loss], 1e-6); // tfjs adds twelve squares below 4 in float32
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
    const expected = softmaxRegression(closedW!.data, closedB!.data);
    [closedW!.grad, closedB!.grad] = [expected.w, expected.b];
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

  // tfjs's cpu backend keeps the array that it is given
  const alone = tf.tidy(() => tf.variable(tf.tensor1d(array)));
  const [q] = new TfVariables(tf, { alone }, { copy }).parameters;
  q!.data[0] = 9;
  assertEquals([...array], [1, 2, 3]);
  alone.dispose();
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
