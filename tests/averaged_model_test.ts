/** AveragedModel as a Module: options, swap, state dicts. */

import { test } from "node:test";
import v8 from "node:v8";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  AveragedModel,
  type AveragedModelOptions,
  type AveragedStateDict,
  getEmaAvgFn,
  getEmaMultiAvgFn,
  Parameter,
  StateDictError,
} from "../mod.ts";
import { modelOf, TinyModel } from "./support/models.ts";

test("AveragedModel is a Module: names with torch's prefix, modules, modes, forward", () => {
  const model = new TinyModel([["w", new Parameter([1])]], [["b", new Float32Array(1)]]);
  model.training = false;
  const averaged = new AveragedModel(model);
  assertEquals([...averaged.namedParameters()].map(([name]) => name), ["module.w"]);
  assertEquals([...averaged.namedBuffers()].map(([name]) => name), ["module.b"]);
  assertEquals([...averaged.modules()], [averaged, averaged.module]);
  assertEquals([averaged.training, averaged.module.training], [false, false]);
  assert(averaged.train() === averaged && averaged.training && averaged.module.training);
  assert(averaged.eval() === averaged && !averaged.training && !averaged.module.training);
  assertEquals(averaged.forward(5), 5);
});

test("the options and decays that are wrong are named", () => {
  const m = () => modelOf(1);
  const wrong: [() => unknown, typeof TypeError | typeof RangeError, string][] = [
    [
      () => new AveragedModel(m(), { avgfn: null } as AveragedModelOptions),
      TypeError,
      'AveragedModel has no option "avgfn"',
    ],
    [
      () => new AveragedModel(m(), { useBuffers: 1 as unknown as boolean }),
      TypeError,
      "useBuffers must be a boolean, got 1",
    ],
    [() => new AveragedModel(m(), { avgFn: 1 as unknown as null }), TypeError, "avgFn must be a function, got 1"],
    [
      () => new AveragedModel(m(), getEmaMultiAvgFn() as unknown as AveragedModelOptions),
      TypeError,
      "options must be an object, got a function",
    ],
    [() => getEmaMultiAvgFn(NaN), RangeError, "decay must be >= 0 and <= 1, got NaN"],
    [() => getEmaAvgFn("0.9" as unknown as number), TypeError, 'decay must be a number, got "0.9"'],
    [() => getEmaMultiAvgFn(0.9, { warmUp: true } as { warmup?: boolean }), TypeError, 'has no option "warmUp"'],
    [() => getEmaMultiAvgFn(0.9, { warmup: 1 as unknown as boolean }), TypeError, "warmup must be a boolean, got 1"],
  ];
  for (const [call, type, message] of wrong) assertThrows(call, type, message);
});

test("swap gives the model the averaged weights while a function runs, also an asynchronous one", async () => {
  const buffer = Float32Array.of(7), model = new TinyModel([["w", new Parameter([1])]], [["b", buffer]]);
  const averaged = new AveragedModel(model), w = model.params[0]![1], data = w.data;
  data[0] = 5;
  buffer[0] = 9;
  const seen = await averaged.swap(model, async () => {
    await new Promise((resolve) => setTimeout(resolve, 1));
    assertThrows(() => averaged.updateParameters(model), TypeError, "await swap() first");
    await assertRejects(() => averaged.swap(model, () => {}), TypeError, "await swap() first");
    const before = [w.data[0], buffer[0]];
    w.data[0] = buffer[0] = 100; // undone
    return before;
  });
  assertEquals(seen, [1, 7]);
  assert(w.data === data);
  assertEquals([data[0], buffer[0], averaged.module.params[0]![1].data[0]], [5, 9, 1]);
  averaged.updateParameters(model);
});

test("swap gives the weights back when the function throws, and what it has replaced", async () => {
  const model = modelOf(1), averaged = new AveragedModel(model), { data } = model.w;
  data[0] = 5;
  await assertRejects(
    () =>
      averaged.swap(model, () => {
        throw new Error("sync");
      }),
    Error,
    "sync",
  );
  await assertRejects(() => averaged.swap(model, () => Promise.reject(new Error("async"))), Error, "async");
  assertEquals(data[0], 5);
  await averaged.swap(model, () => void (model.w.data = Float32Array.of(3)));
  assert(model.w.data === data && data[0] === 5);
  await averaged.swap(model, () => void (model.params[0] = ["w", new Parameter([3])]));
  assertEquals([data[0], model.params[0]![1].data[0]], [5, 5]);
  await assertRejects(() => averaged.swap(modelOf(1, 2), () => {}), RangeError, "shape");
  await assertRejects(
    () => averaged.swap(model, 3 as unknown as () => void),
    TypeError,
    "fn must be a function, got 3",
  );
});

test("a state dict is a snapshot, and one that does not fit changes nothing", () => {
  const model = new TinyModel([["w", new Parameter([1, 2], { shape: [2, 1] })]], [["n", new Int32Array(1)]]);
  const averaged = new AveragedModel(model), w = averaged.module.params[0]![1];
  averaged.updateParameters(model);
  const good = averaged.stateDict();
  assertEquals(good, {
    nAveraged: 1,
    "module.w": { dtype: "float32", shape: [2, 1], data: Float32Array.of(1, 2) },
    "module.n": { dtype: "int32", shape: [1], data: new Int32Array(1) },
  });
  w.data[0] = 8;
  assertEquals(good["module.w"]!.data[0], 1);
  const before = averaged.stateDict();
  const wrong: [unknown, string][] = [
    [null, "a state dict must be an object, got null"],
    [{}, "nAveraged must be an integer >= 0, got undefined"],
    [{ ...good, nAveraged: -1 }, "got -1"],
    [{ nAveraged: 1, "module.w": good["module.w"] }, 'lacks "module.n"'],
    [{ ...good, "module.x": good["module.w"] }, 'has "module.x", which the averaged model has not'],
    [
      { ...good, "module.w": { ...good["module.w"], shape: [1, 2] } },
      "module.w has shape [1, 2] in the state dict, [2, 1]",
    ],
    [
      { ...good, "module.w": { ...good["module.w"], dtype: "float64" } },
      'module.w is "float64" in the state dict, float32',
    ],
    [{ ...good, "module.w": Float32Array.of(1) }, "module.w has 1 elements"],
    [{ ...good, "module.w": Float64Array.of(1, 2) }, "module.w is no float32"],
    [{ ...good, "module.w": "weights" }, "module.w must be a typed array of 2"],
    [
      { ...good, "module.n": { dtype: "int32", shape: [1], data: [0.5] } },
      "module.n must be 1 integers, got 0.5 among them",
    ],
    [{ ...good, "module.n": [2 ** 40] }, "module.n must be int32, got 1099511627776 among them"],
  ];
  for (const [dict, message] of wrong) {
    assertThrows(() => averaged.loadStateDict(dict as AveragedStateDict), StateDictError, message);
    assertEquals(averaged.stateDict(), before);
  }
  averaged.loadStateDict(
    JSON.parse(JSON.stringify({ ...good, "module.n": [3], "module.w": [1, 2] })) as AveragedStateDict,
  );
  assertEquals([averaged.nAveraged, ...w.data, (averaged.module.buffers[0]![1] as Int32Array)[0]], [1, 1, 2, 3]);
});

test("an update in the steady state makes no garbage that grows with the number of tensors", () => {
  const allocated = () => (v8.getHeapStatistics() as unknown as Record<string, number>)["total_allocated_bytes"];
  if (allocated() === undefined) return console.log("skipped: this runtime does not tell what has been allocated");
  const tensors = 20_000,
    named = Array.from({ length: tensors }, (_, i): [string, Parameter] => [`${i}`, new Parameter([i])]);
  class Many extends TinyModel {
    override namedParameters(): Iterable<[string, Parameter]> {
      return this.params; // a generator would make garbage itself
    }
  }
  const model = new Many(named), averaged = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn() });
  let least = Infinity; // until it has been compiled, interpreted code makes garbage of its own
  for (let round = 0; round < 40 && least >= 8 * tensors; round++) {
    const before = allocated()!;
    for (let i = 0; i < 10; i++) averaged.updateParameters(model);
    least = Math.min(least, (allocated()! - before) / 10);
  }
  assert(least < 8 * tensors, `an update of ${tensors} tensors allocates ${least} bytes`);
});
