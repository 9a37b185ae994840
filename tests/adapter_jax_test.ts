/** jax-js's pytrees as Parameters: structure, gradients, references. */

import { before, test } from "node:test";
import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import { defaultDevice, init, jit, nn, numpy as np, valueAndGrad } from "@jax-js/jax";
import {
  AdamW,
  AveragedModel,
  getEmaMultiAvgFn,
  LBFGS,
  loadModelStateDict,
  modelStateDict,
  Parameter,
  SGD,
} from "@flatstep/optim";
import { ParameterTree } from "@flatstep/optim/adapters/jax";
import { assertNear, C, D, LABELS, leastSquares, N, numbers, softmaxRegression, X, Y } from "./support/regression.ts";

before(async () => {
  await init("wasm");
  defaultDevice("wasm");
});

const matrix = (data: Float32Array<ArrayBuffer>, ...shape: number[]) => np.array(data, { shape });

interface Linear {
  w: np.Array;
  b: np.Array;
}

test("ParameterTree names parameters by their keys, in the order of the tree, and gives the tree back", () => {
  const tree = new ParameterTree(np, {
    layers: [{ w: matrix(X, N, D), b: np.zeros([1]) }, { w: np.ones([2]), b: np.array(5) }],
    head: [np.zeros([0, 3])] as [np.Array],
  });
  assertEquals(tree.namedParameters().map(([name, { shape }]) => [name, ...shape]), [
    ["layers.0.w", N, D],
    ["layers.0.b", 1],
    ["layers.1.w", 2],
    ["layers.1.b"],
    ["head.0", 0, 3],
  ]);
  assertEquals(tree.parameters[0]!.data, X);
  assert(tree.parameters[0]!.data !== X, "its memory is its own");
  const { layers: [first, second], head } = tree.arrays();
  assertEquals([first!.w.shape, first!.w.dataSync()], [[N, D], X] as unknown as [number[], Float32Array<ArrayBuffer>]);
  assertEquals([second!.b.shape, second!.b.js(), head[0].shape], [[], 5, [0, 3]]);
});

test("ParameterTree.arrays() gives copies: a step changes none that was made before", () => {
  const tree = new ParameterTree(np, [np.array([1, 2, 4])]);
  const [before] = tree.arrays();
  tree.setGrads([np.array([1, 2, 3])]);
  new SGD(tree.parameters, { lr: 1 }).step();
  assertEquals([before!.js(), tree.arrays()[0]!.js()], [[1, 2, 4], [0, 0, 1]]);
});

test("least squares by jax-js's gradients arrive where those in closed form do", () => {
  const x = matrix(X, N, D), y = matrix(Y, N, 1);
  const tree = new ParameterTree(np, { w: np.zeros([D, 1]), b: np.zeros([1]) });
  const gradient = jit(
    valueAndGrad(({ w, b }: Linear, x: np.Array, y: np.Array) => np.mean(np.square(np.matmul(x, w).add(b).sub(y)))),
  );
  const optimizer = new SGD(tree.namedParameters(), { lr: 0.1, momentum: 0.9 });
  const w = new Parameter(new Float32Array(D)), b = new Parameter(new Float32Array(1));
  const closed = new SGD([w, b], { lr: 0.1, momentum: 0.9 });
  for (let step = 0; step < 60; step++) {
    const loss = optimizer.step(tree.closure((p) => gradient(p, x.ref, y.ref)));
    const expected = leastSquares(w.data, b.data);
    [w.grad, b.grad] = [expected.w, expected.b];
    closed.step();
    assertNear([loss], [expected.loss], 1e-6); // jax-js adds twelve squares below 4 in float32
  }
  // Each gradient is off by a few units in the last place of numbers around 1; the loss is convex, so that they do not add up.
  assertNear(tree.parameters[0]!.data, w.data, 2e-6);
  assertNear(tree.parameters[1]!.data, b.data, 2e-6);
  assertEquals([x.refCount, y.refCount], [1, 1]);
});

const softmaxLoss = ({ w, b }: Linear, x: np.Array, labels: np.Array) => {
  const logits = nn.logSoftmax(np.matmul(x, w).add(b));
  return np.mean(np.sum(logits.mul(nn.oneHot(labels, C)), -1)).mul(-1);
};

test("softmax regression by jax-js's gradients arrives where those in closed form do, and each update is exact", () => {
  const x = matrix(X, N, D), labels = np.array(LABELS);
  const tree = new ParameterTree(np, { w: matrix(numbers(D * C, 3), D, C), b: np.zeros([C]) });
  const [w, b] = [D * C, C].map((_, i) => new Parameter(tree.parameters[i]!.data.slice()));
  const [sameW, sameB] = [D * C, C].map((_, i) => new Parameter(tree.parameters[i]!.data.slice()));
  const options = { lr: 0.5, momentum: 0.9 };
  const optimizer = new SGD(tree.namedParameters(), options);
  const closed = new SGD([w!, b!], options), same = new SGD([sameW!, sameB!], options);
  const gradient = valueAndGrad(softmaxLoss);
  for (let step = 0; step < 40; step++) {
    optimizer.step(tree.closure((p) => gradient(p, x.ref, labels.ref)));
    [sameW!.grad, sameB!.grad] = tree.parameters.map(({ grad }) => grad as Float32Array) as [
      Float32Array,
      Float32Array,
    ];
    same.step();
    const expected = softmaxRegression(w!.data, b!.data);
    [w!.grad, b!.grad] = [expected.w, expected.b];
    closed.step();
  }
  assertEquals(tree.parameters[0]!.data, sameW!.data);
  assertEquals(tree.parameters[1]!.data, sameB!.data);
  // exp and the sums over twelve rows are in float32: a few units in the last place of numbers around 3, for forty steps
  assertNear(tree.parameters[0]!.data, w!.data, 1e-5);
  assertNear(tree.parameters[1]!.data, b!.data, 1e-5);
});

test("ParameterTree uses up what it is given, and leaves nothing behind", () => {
  const first: Linear = { w: matrix(X, N, D), b: np.zeros([D]) };
  const tree = new ParameterTree(np, first), seen: np.Array[] = [first.w, first.b];
  const gradient = valueAndGrad(({ w, b }: Linear) => np.sum(np.square(w.add(b))));
  const optimizer = new AdamW(tree.namedParameters());
  for (let step = 0; step < 5; step++) {
    optimizer.step(tree.closure((p) => {
      assertEquals([p.w.refCount, p.b.refCount], [1, 1]);
      const [loss, gradients] = gradient(p);
      seen.push(p.w, p.b, loss, gradients.w, gradients.b);
      return [loss, gradients];
    }));
  }
  assertEquals(seen.map((array) => array.refCount), seen.map(() => 0));
});

test("ParameterTree.setGrads() refuses another structure by its path, and uses nothing up", () => {
  const tree = new ParameterTree(np, { layers: [{ w: np.ones([2, 2]), b: np.ones([2]) }], "a b": np.ones([1]) });
  type Tree = ReturnType<typeof tree.arrays>;
  const fits = tree.arrays();
  tree.setGrads(fits);
  const before = tree.parameters.map(({ grad }) => grad);
  const w = np.ones([2, 2]), b = np.ones([2]), c = np.ones([1]);
  const cases: [unknown, typeof TypeError | typeof RangeError, string][] = [
    [{ layers: [{ w, b }] }, TypeError, `gradients["a b"] is missing`],
    [{ layers: [{ w, b }], "a b": c, c: 1 }, TypeError, "gradients.c is not in the parameters' tree"],
    [{ layers: { 0: { w, b } }, "a b": c }, TypeError, "gradients.layers must be an array, got an object"],
    [{ layers: [], "a b": c }, RangeError, "gradients.layers must have 1 elements, got 0"],
    [{ layers: [[w, b]], "a b": c }, TypeError, "gradients.layers[0] must be an object, got an Array of 2"],
    [{ layers: [{ w, b: 1 }], "a b": c }, TypeError, "gradients.layers[0].b must be a jax-js array, got 1"],
    [{ layers: [{ w: b, b }], "a b": c }, RangeError, "gradients.layers[0].w must have the shape [2, 2], got [2]"],
    [null, TypeError, "gradients must be an object, got null"],
  ];
  for (const [gradients, type, message] of cases) {
    const error = assertThrows(() => tree.setGrads(gradients as Tree), type);
    assertEquals(error.message, message.replace("an Array of 2", "an Array"));
  }
  const integers = np.array(Int32Array.of(1));
  const error = assertThrows(() => tree.setGrads({ layers: [{ w, b }], "a b": integers }), TypeError);
  assertEquals(error.message, `gradients["a b"] must be of dtype float32, got "int32"`);
  assertEquals([w, b, c, integers].map((array) => array.refCount), [1, 1, 1, 1]);
  assert(tree.parameters.every(({ grad }, i) => grad === before[i]), "the gradients are as they were");
});

test("ParameterTree refuses what is no array by its path, and names that are there twice", () => {
  const make = (tree: unknown) => assertThrows(() => new ParameterTree(np, tree), Error);
  const kept = np.ones([2]);
  assertEquals(
    make({ a: [kept, 1] }).message,
    "tree.a[1] must be a jax-js array, or an object or array of such, got 1",
  );
  assertEquals(make({ a: null }).message, "tree.a must be a jax-js array, or an object or array of such, got null");
  assertEquals(
    make([new Date()]).message,
    "tree[0] must be a jax-js array, or an object or array of such, got a Date",
  );
  assertEquals(
    make({ count: np.array(Int32Array.of(1)) }).message,
    `tree.count must be of dtype "float32", "float16", "float64", got "int32"`,
  );
  const twice = make({ "a.b": kept, a: { b: kept } });
  assertInstanceOf(twice, RangeError);
  assertEquals(twice.message, `tree.a.b must have a name of its own, got "a.b" again`);
  assertEquals(kept.refCount, 1);
  const np0 = assertThrows(() => new ParameterTree({} as typeof np, kept), TypeError);
  assertEquals(np0.message, "np must be jax-js's numpy, got an object");
});

test("ParameterTree keeps float16 and float64", () => {
  defaultDevice("cpu");
  try {
    const half = np.array(Float16Array.of(1, 2.5)), double = np.array(Float64Array.of(1 / 3, 7));
    const tree = new ParameterTree(np, { half, double });
    assertEquals(tree.parameters.map(({ dtype }) => dtype), ["float16", "float64"]);
    tree.setGrads({ half: np.array(Float16Array.of(1, 1)), double: np.array(Float64Array.of(1 / 3, 1)) });
    new SGD(tree.parameters, { lr: 0.5 }).step();
    const arrays = tree.arrays();
    assertEquals([arrays.half.dtype, arrays.half.js()], ["float16", [0.5, 2]]);
    assertEquals([arrays.double.dtype, arrays.double.js()], ["float64", [1 / 3 - 0.5 / 3, 6.5]]);
  } finally {
    defaultDevice("wasm");
  }
});

test("ParameterTree.closure() drives LBFGS, and says what its function must return", () => {
  const x = matrix(X, N, D), labels = np.array(LABELS), gradient = jit(valueAndGrad(softmaxLoss));
  const tree = new ParameterTree(np, { w: np.zeros([D, C]), b: np.zeros([C]) });
  const closure = tree.closure((p) => gradient(p, x.ref, labels.ref));
  const start = closure();
  const optimizer = new LBFGS(tree.parameters, { lineSearchFn: "strong_wolfe", maxIter: 50 });
  optimizer.step(closure);
  assert(optimizer.lastResult!.loss < start - 0.2);
  const { w } = softmaxRegression(tree.parameters[0]!.data, tree.parameters[1]!.data);
  assertNear(w, new Float32Array(D * C), 1e-3); // near a minimum

  type Fn = Parameters<typeof tree.closure>[0];
  const run = (fn: unknown) => assertThrows(() => tree.closure(fn as Fn)(), TypeError).message;
  assertEquals(run(1), "fn must be a function, got 1");
  assertEquals(run(() => 3), "fn must return [loss, gradients], got 3");
  assertEquals(run(() => [np.ones([2]), 1]), "fn must return a loss that is one number, got an array of shape [2]");
  assertEquals(run(() => [[1, 2], {}]), "fn must return a loss that is one number, got an Array");
});

test("ParameterTree with forward() is a Module: averaged, swapped, saved and loaded", async () => {
  const model = new ParameterTree(
    np,
    { w: np.array([[1, 2]]) },
    ({ w }, x: np.Array) => np.matmul(w, x).js() as number[],
  );
  const averaged = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn(0.5) });
  averaged.updateParameters(model);
  model.parameters[0]!.data.set([3, 6]);
  averaged.updateParameters(model);
  assertEquals(averaged.forward(np.array([1, 10])), [42]);
  assertEquals(model.forward(np.array([1, 10])), [63]);
  assertEquals(await averaged.swap(model, () => model.forward(np.array([1, 10]))), [42]);
  assertEquals(model.forward(np.array([1, 10])), [63]);

  const copy = model.clone();
  copy.parameters[0]!.data.fill(0);
  assertEquals([...model.parameters[0]!.data], [3, 6]);
  loadModelStateDict(copy, modelStateDict(model));
  assertEquals(copy.forward(np.array([1, 10])), [63]);

  const bare = assertThrows(() => new ParameterTree(np, np.ones([1])).forward(), TypeError);
  assertEquals(bare.message, "forward must be given to the constructor, got none");
});
