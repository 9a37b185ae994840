/** AveragedModel: torch's averages, the same bits everywhere, and where it does otherwise than torch. */

import { readFileSync } from "node:fs";
import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { join } from "@std/path";
import * as optim from "../mod.ts";
import {
  AveragedModel,
  type AveragedModelOptions,
  type DType,
  foreach,
  getEmaAvgFn,
  getEmaMultiAvgFn,
  getNumThreads,
  getSwaAvgFn,
  getSwaMultiAvgFn,
  Parameter,
  setNumThreads,
  type TypedArray,
} from "../mod.ts";
import { type Backend, GRAIN } from "../ffi/backend.ts";
import { jsBackend } from "../ffi/js.ts";
import { bestBackend } from "../ffi/load.ts";
import { DTYPES } from "../src/dtype.ts";
import { Arena } from "./support/arena.ts";
import { isas, withBackend } from "./support/backends.ts";
import { assertSameBits } from "./support/bits.ts";
import { assertNear, numbers, plain, revive, type Tolerance, typed, type Written } from "./support/golden.ts";
import { BatchNorm1d, makeNet, modelOf, TinyModel } from "./support/models.ts";
import { ROOT } from "./support/runtime.ts";

interface AveragedCase {
  name: string;
  kind: string;
  dtype: DType;
  average: { fn?: "swa" | "swaMulti" | "ema" | "emaMulti"; decay?: number };
  useBuffers: boolean;
  params: { name: string; shape: number[]; init: Written }[];
  buffers: { name: string; shape: number[]; init: Written }[];
  updates: {
    params: Written[];
    buffers: Written[];
    expectParams: Written[];
    expectBuffers: Written[];
    nAveraged: number;
  }[];
  tolerance: Tolerance;
}

const read = (file: string) =>
  JSON.parse(readFileSync(join(ROOT, "tests", "golden", file), "utf8")) as { cases: unknown[] };

function optionsOf({ average: { fn, decay }, useBuffers }: AveragedCase): AveragedModelOptions {
  if (fn === "swa") return { avgFn: getSwaAvgFn(), useBuffers };
  if (fn === "ema") return { avgFn: getEmaAvgFn(decay), useBuffers };
  if (fn === "swaMulti") return { multiAvgFn: getSwaMultiAvgFn(), useBuffers };
  if (fn === "emaMulti") return { multiAvgFn: getEmaMultiAvgFn(decay), useBuffers };
  return { useBuffers };
}

for (const c of read("swa.json").cases as AveragedCase[]) {
  if (c.kind !== "averaged") continue;
  test(`AveragedModel follows torch's averages in every backend, resumed half-way too: ${c.name}`, () => {
    for (const backend of [jsBackend, bestBackend()]) withBackend(backend, () => follow(c));
  });
}

function follow(c: AveragedCase): void {
  const model = new TinyModel(
    c.params.map((p) => [p.name, new Parameter(typed(numbers(p.init), c.dtype), { shape: p.shape })]),
    c.buffers.map((b) => [b.name, typed(numbers(b.init), c.dtype)]),
  );
  const all = [new AveragedModel(model, optionsOf(c))];
  c.updates.forEach((u, t) => {
    model.params.forEach(([, p], i) => p.data.set(numbers(u.params[i]!)));
    model.buffers.forEach(([, b], i) => (b as TypedArray).set(numbers(u.buffers[i]!)));
    for (const averaged of all) {
      averaged.updateParameters(model);
      assertEquals(averaged.nAveraged, u.nAveraged);
      const compare = (what: string, got: TypedArray, written: Written) => {
        const want = numbers(written), most = want.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
        assertNear(`update ${t + 1}, ${what}`, plain(got, c.dtype), want, () => most, c.tolerance, c.dtype);
      };
      u.expectParams.forEach((w, i) => compare(`parameter ${i}`, averaged.module.params[i]![1].data, w));
      u.expectBuffers.forEach((w, i) => compare(`buffer ${i}`, averaged.module.buffers[i]![1] as TypedArray, w));
    }
    if (t === 4) {
      const resumed = new AveragedModel(model, optionsOf(c));
      resumed.loadStateDict(structuredClone(all[0]!.stateDict()));
      all.push(resumed);
    }
  });
}

for (const c of read("errors.json").cases as Record<string, unknown>[]) {
  if (c["kind"] !== "call" && c["kind"] !== "averagedModel") continue;
  test(`golden errors: ${c["name"]} is ${c["expectError"] ? "refused" : "accepted"}`, () => {
    const attempt = () =>
      c["kind"] === "averagedModel"
        ? new AveragedModel(modelOf(1, 2), { avgFn: getEmaAvgFn(), multiAvgFn: getEmaMultiAvgFn() })
        : (optim as unknown as Record<string, (...args: unknown[]) => unknown>)[c["fn"] as string]!(
          ...revive(c["args"]) as unknown[],
        );
    if (!c["expectError"]) return void attempt();
    const error = assertThrows(attempt, Error, c["mentions"] as string);
    assert(["TypeError", "RangeError"].includes(error.name), String(error));
  });
}

const AVERAGES: Record<string, AveragedModelOptions> = {
  default: {},
  "SWA": { multiAvgFn: getSwaMultiAvgFn() },
  "EMA": { multiAvgFn: getEmaMultiAvgFn(0.9) },
  "EMA of a small decay": { multiAvgFn: getEmaMultiAvgFn(0.2) },
  "EMA with warm-up": { multiAvgFn: getEmaMultiAvgFn(0.9, { warmup: true }) },
};

for (const [name, options] of Object.entries(AVERAGES)) {
  for (const dtype of DTYPES) {
    test(`the average ${name} has the same bits in ${dtype} for every backend, instruction set and thread count`, () => {
      const native = bestBackend(), best = native.isa, threads = getNumThreads();
      const run = (backend: Backend) =>
        withBackend(backend, () => {
          const arenas = [1, 2, 3, 4].map((seed) => new Arena(dtype, seed)), [first] = arenas as [Arena];
          const tensors = arenas.map(({ views }) =>
            views.map((view, i): [string, Parameter] => [`${i}`, new Parameter(view, { dtype })])
          );
          const model = new TinyModel(tensors[0]!), averaged = new AveragedModel(model, options);
          for (const some of tensors) averaged.updateParameters(new TinyModel(some));
          for (const arena of arenas) arena.assertGuards();
          assertEquals(averaged.nAveraged, 4);
          assertSameBits(first.memory, new Arena(dtype, 1).memory, dtype, "the model");
          return averaged.module.params.map(([, p]) => p.data);
        });
      try {
        const expected = run(jsBackend);
        native.setGrain(64);
        for (const isa of isas(native)) {
          native.setIsa(isa);
          for (const n of [1, 2, 5]) {
            setNumThreads(n);
            run(native).forEach((a, i) => assertSameBits(a, expected[i]!, dtype, `${isa}, ${n} threads, tensor ${i}`));
          }
        }
      } finally {
        native.setGrain(GRAIN);
        native.setIsa(best);
        setNumThreads(threads);
      }
    });
  }
}

test("an average in bfloat16 or float16 is computed in float32 and rounded once, by avgFn too", () => {
  for (const dtype of ["bfloat16", "float16"] as const) {
    for (const options of [{}, { avgFn: getSwaAvgFn() }]) {
      const p = new Parameter(typed([1], dtype), { dtype }), model = new TinyModel([["p", p]]);
      const averaged = new AveragedModel(model, options);
      averaged.updateParameters(model);
      p.data.set(typed([1 + 2 ** -6], dtype));
      averaged.updateParameters(model);
      assertEquals([...plain(averaged.module.params[0]![1].data, dtype)], [
        ...plain(typed([1 + 2 ** -7], dtype), dtype),
      ]);
    }
  }
});

test("getEmaMultiAvgFn with warm-up has the decay min(decay, (1 + n) / (10 + n))", () => {
  for (const decay of [0.05, 0.3, 0.999]) {
    const model = modelOf(0),
      averaged = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn(decay, { warmup: true }) });
    const byElement = new AveragedModel(model, { avgFn: getEmaAvgFn(decay, { warmup: true }) });
    let expected = 0;
    for (let n = 0; n < 30; n++) {
      model.w.data[0] = n % 7;
      averaged.updateParameters(model);
      byElement.updateParameters(model);
      const d = Math.min(decay, (1 + n) / (10 + n));
      expected = n === 0 ? 0 : d * expected + (1 - d) * (n % 7);
      for (const a of [averaged, byElement]) assert(Math.abs(a.module.params[0]![1].data[0]! - expected) < 1e-5);
    }
  }
});

test("integer buffers are copied and not averaged; torch averages num_batches_tracked to 4 where it is 6", () => {
  // torch: AveragedModel(model, use_buffers=True) over num_batches_tracked 2, 4, 6 gives 4 (measured with torch 2.13)
  const counts = new Int32Array(1),
    big = new BigInt64Array(1),
    unknown = new Uint16Array(1),
    mean = new Float32Array(1);
  const model = new TinyModel([["w", new Parameter([0])]], [["n", counts], ["big", big], ["u", unknown], [
    "mean",
    mean,
  ]]);
  const averaged = new AveragedModel(model, { useBuffers: true }), find = (i: number) => averaged.module.buffers[i]![1];
  for (const n of [2, 4, 6]) {
    counts[0] = unknown[0] = mean[0] = n;
    big[0] = BigInt(n);
    averaged.updateParameters(model);
  }
  assertEquals([0, 1, 2, 3].map((i) => (find(i) as TypedArray)[0] as unknown), [6, 6n, 6, 4]);
  averaged.loadStateDict(averaged.stateDict());
  assertEquals(averaged.stateDict()["module.big"], { dtype: "int64", shape: [1], data: BigInt64Array.of(6n) });
});

test("numBatchesTracked of batch norms is copied, and their statistics are averaged with useBuffers", () => {
  const norm = {
    type: "BatchNorm1d" as const,
    out: 1,
    weight: [1],
    bias: [0],
    runningMean: [0],
    runningVar: [1],
    momentum: 0.1,
    numBatchesTracked: 0,
    eps: 1e-5,
  };
  const net = makeNet([norm], "float32"), layer = net.layers[0] as BatchNorm1d;
  for (const useBuffers of [false, true]) {
    const averaged = new AveragedModel(net, { useBuffers }), copy = averaged.module.layers[0] as BatchNorm1d;
    assert(copy instanceof BatchNorm1d && copy !== layer && copy.runningMean !== layer.runningMean);
    for (const n of [2, 4, 6]) {
      layer.numBatchesTracked = layer.runningMean[0] = n;
      averaged.updateParameters(net);
    }
    assertEquals([copy.numBatchesTracked, copy.runningMean[0]], [6, useBuffers ? 4 : 6]);
  }
});

test("updateParameters refuses another model, where torch stops silently at the shorter list or broadcasts", () => {
  // torch: zip(self_param, model_param, strict=False); a model with fewer parameters leaves the others as they were
  const pair = (name: string, p: Parameter): [string, Parameter] => [name, p];
  const make = () => new TinyModel([pair("a", new Parameter([1])), pair("b", new Parameter([2, 3]))]);
  const averaged = new AveragedModel(make());
  averaged.updateParameters(make());
  const before = averaged.stateDict();
  const a = new Parameter([9]), b = new Parameter([9, 9]);
  const wrong: [[string, Parameter][], typeof TypeError | typeof RangeError, string][] = [
    [[pair("a", a)], TypeError, 'the model lacks the parameter "b"'],
    [
      [pair("a", a), pair("b", b), pair("c", new Parameter([1]))],
      TypeError,
      'the model has the parameter "c", the averaged model has not',
    ],
    [[pair("b", b), pair("a", a)], TypeError, 'the parameter "b" where the averaged model has the parameter "a"'],
    [
      [pair("a", a), pair("b", new Parameter([9]))],
      RangeError,
      '"b" of the model must have the shape [2] of the averaged model, got [1]',
    ],
    [[pair("a", a), pair("b", new Parameter([9, 9], { shape: [1, 2] }))], RangeError, "got [1, 2]"],
    [
      [pair("a", a), pair("b", new Parameter([9, 9], { dtype: "float64" }))],
      TypeError,
      "must be float32 as in the averaged model, got float64",
    ],
    [[pair("a", a), pair("a", b)], RangeError, "must not have a name twice"],
    [averaged.module.params, RangeError, "must not share memory"],
  ];
  for (const [params, type, message] of wrong) {
    assertThrows(() => averaged.updateParameters(new TinyModel(params)), type, message);
    assertEquals(averaged.stateDict(), before);
  }
  assertThrows(
    () => averaged.updateParameters(null as unknown as TinyModel),
    TypeError,
    "the model must be a Module with namedParameters(), got null",
  );
});

test("updateParameters sees arrays that were replaced, detached or resized since the last time", () => {
  const model = modelOf(1, 1), averaged = new AveragedModel(model), w = averaged.module.params[0]![1];
  const buffer = new Float32Array(2);
  averaged.updateParameters(model);
  averaged.updateParameters(model);
  model.w.data = Float32Array.of(4, 4);
  averaged.updateParameters(model);
  assertEquals([...w.data], [2, 2]);
  w.data = Float32Array.of(0, 0);
  averaged.updateParameters(model);
  assertEquals([...w.data], [1, 1]);
  w.data = buffer;
  model.w.data = buffer;
  assertThrows(() => averaged.updateParameters(model), RangeError, "must not share memory");
  w.data = Float32Array.of(1, 1);
  model.w.data = new Float32Array(3);
  assertThrows(() => averaged.updateParameters(model), RangeError, '"w" of the model must have 2 elements');
  model.w.data = new Float64Array(2);
  assertThrows(() => averaged.updateParameters(model), TypeError, '"w" of the model must be a Float32Array of 2');
  const gone = model.w.data = Float32Array.of(1, 1);
  averaged.updateParameters(model);
  structuredClone(gone.buffer, { transfer: [gone.buffer] });
  assertThrows(() => averaged.updateParameters(model), RangeError, "must have 2 elements");
  assertEquals([averaged.nAveraged, ...w.data], [5, 1, 1]);
});

test("a parameter under two names is averaged once", () => {
  const w = new Parameter([0]), model = new TinyModel([["in", w], ["out", w]]);
  const averaged = new AveragedModel(model);
  assert(averaged.module.params[0]![1] === averaged.module.params[1]![1]);
  for (const x of [3, 6]) {
    w.data[0] = x;
    averaged.updateParameters(model);
  }
  assertEquals(averaged.module.params[0]![1].data[0], 4.5);
  const untied = new TinyModel([["in", w], ["out", new Parameter([1])]]);
  assertThrows(() => averaged.updateParameters(untied), TypeError, '"out" of the model must be tied');
});

test("avgFn that throws, or returns no number, changes nothing; a Promise from multiAvgFn is refused", () => {
  const model = modelOf(1, 2, 3), before = [1, 2, 3];
  let calls = 0;
  const averaged = new AveragedModel(model, {
    avgFn: (a, b) => {
      if (++calls === 3) throw new Error("third");
      return a + b;
    },
  });
  averaged.updateParameters(model);
  assertThrows(() => averaged.updateParameters(model), Error, "third");
  assertEquals([averaged.nAveraged, ...averaged.module.params[0]![1].data], [1, ...before]);
  const strange = new AveragedModel(model, { avgFn: () => "1" as unknown as number });
  strange.updateParameters(model);
  assertThrows(() => strange.updateParameters(model), TypeError, 'avgFn must return a number, got "1"');
  const later = new AveragedModel(model, { multiAvgFn: (async () => {}) as unknown as () => void });
  later.updateParameters(model);
  assertThrows(() => later.updateParameters(model), TypeError, "multiAvgFn must work in place and return nothing");
  assertEquals(later.nAveraged, 1);
});

test("multiAvgFn gets the tensors of one dtype at a time, and may use foreach", () => {
  const model = new TinyModel([["a", new Parameter([1])], ["b", new Parameter(Float64Array.of(2))], [
    "c",
    new Parameter([3]),
  ]]);
  const seen: string[] = [];
  const averaged = new AveragedModel(model, {
    multiAvgFn(own, current, n) {
      seen.push(`${n}: ${own.map((p) => p.dtype)}`);
      foreach.add_(own, current);
    },
  });
  for (let i = 0; i < 3; i++) averaged.updateParameters(model);
  assertEquals(seen, ["1: float32,float32", "1: float64", "2: float32,float32", "2: float64"]);
  assertEquals(averaged.module.params.map(([, p]) => p.data[0]), [3, 6, 9]);
});
