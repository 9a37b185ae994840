/** Where flatstep does otherwise than torch 2.13, because torch is wrong or unsafe. Each test says what torch does. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { Adagrad, Adam, ASGD, NAdam, Parameter, RMSprop, Rprop, SGD, type TypedArray } from "../mod.ts";
import { ROWS, TENSOR_ROWS } from "./support/classes.ts";
import { plain, readGolden, typed } from "./support/golden.ts";

const IMPLEMENTATIONS = [{ foreach: false, fused: false }, { foreach: true }, { fused: true }] as const;

test(
  "centered RMSprop stays finite where rounding makes the variance negative (torch: NaN)",
  { timeout: 180_000 },
  () => {
    for (const implementation of IMPLEMENTATIONS) {
      const n = 1000, p = new Parameter(new Float32Array(n));
      p.grad = Float32Array.from({ length: n }, (_, i) => 0.1 + i * 0.00037);
      const optimizer = new RMSprop([p], { centered: true, ...implementation });
      let negative = 0;
      for (let t = 0; t < 3000; t++) {
        optimizer.step();
        if (t % 100 !== 99) continue;
        const state = optimizer.state.get(p)!,
          v = state["squareAvg"] as Float32Array,
          a = state["gradAvg"] as Float32Array;
        for (let i = 0; i < n; i++) if (Math.fround(v[i]! - Math.fround(a[i]! * a[i]!)) < 0) negative++;
      }
      assert(negative > 0, "the variance was never negative: this tests nothing");
      assert(p.data.every(Number.isFinite));
    }
  },
);

test("Rprop compares signs (torch: the product of 1e-25 with itself underflows, and the step never grows)", {
  timeout: 180_000,
}, () => {
  for (const implementation of IMPLEMENTATIONS) {
    const p = new Parameter([0]), optimizer = new Rprop([p], { lr: 0.5, ...implementation });
    p.grad = Float32Array.of(1e-25);
    assertEquals(Math.fround(Math.fround(1e-25) ** 2), 0);
    for (let t = 0; t < 3; t++) optimizer.step();
    assert(Math.abs((optimizer.state.get(p)!["stepSize"] as Float32Array)[0]! - 0.72) < 1e-6); // 0.5 · 1.2²
    p.grad = Float32Array.of(-1e-25);
    optimizer.step();
    assert(Math.abs((optimizer.state.get(p)!["stepSize"] as Float32Array)[0]! - 0.36) < 1e-6);
  }
});

test("Rprop leaves a parameter alone where its gradient is NaN, and goes on afterwards, as torch does", {
  timeout: 180_000,
}, () => {
  for (const dtype of ["float64", "float32", "bfloat16", "float16"] as const) {
    for (const implementation of IMPLEMENTATIONS) {
      const n = 37, p = new Parameter(typed(new Float64Array(n).fill(1), dtype), { dtype });
      const optimizer = new Rprop([p], { lr: 0.25, etas: [0.5, 2], ...implementation });
      const seen = [NaN, 1, 1, NaN, 1].map((g) => {
        p.grad = typed(new Float64Array(n).fill(g), dtype);
        optimizer.step();
        const of = (array: TypedArray) => [...new Set(plain(array, dtype))];
        return [...of(p.data), ...of(optimizer.state.get(p)!["stepSize"] as TypedArray)];
      });
      assertEquals(seen, [[1, 0.25], [0.75, 0.25], [0.25, 0.5], [0.25, 0.5], [-0.25, 0.5]]);
    }
  }
});

test("Rprop reads lr only when the state is made, as torch does", { timeout: 180_000 }, () => {
  const p = new Parameter([0]), optimizer = new Rprop([p], { lr: 0.5 });
  p.grad = Float32Array.of(1);
  optimizer.step();
  optimizer.paramGroups[0]!.lr = 1e-3;
  optimizer.step();
  assert(Math.abs(p.data[0]! + 1.1) < 1e-6); // 0.5 + 0.5 · 1.2
});

test("Rprop checks stepSizes (torch: does not)", { timeout: 180_000 }, () => {
  const p = new Parameter([0]);
  assertThrows(() => new Rprop([p], { stepSizes: [1, 0.5] }), RangeError, "stepSizes must be in order, got [1, 0.5]");
  assertThrows(() => new Rprop([p], { stepSizes: [-1, 0.5] }), RangeError, "stepSizes[0] must be >= 0, got -1");
  assertThrows(() => new Rprop([p], { etas: [1.1, 1.2] }), RangeError, "etas must be < 1 and > 1, got [1.1, 1.2]");
});

test(
  "Adagrad honours a group's initialAccumulatorValue (torch: the constructor's for all)",
  { timeout: 180_000 },
  () => {
    const a = new Parameter([0]), b = new Parameter([0]);
    const optimizer = new Adagrad([{ params: [a], initialAccumulatorValue: 4 }, { params: [b] }], {
      initialAccumulatorValue: 1,
    });
    assertEquals([a, b].map((p) => (optimizer.state.get(p)!["sum"] as Float32Array)[0]), [4, 1]);
  },
);

test("Adagrad makes its state in the constructor, as torch does, and for later groups at the first step", {
  timeout: 180_000,
}, () => {
  const a = new Parameter([0]), b = new Parameter([0]), optimizer = new Adagrad([a]);
  assertEquals(optimizer.stateDict().state[0], { step: 0, sum: Float32Array.of(0) });
  optimizer.addParamGroup({ params: [b] });
  assert(!optimizer.state.has(b));
});

test(
  "ASGD computes eta at the end of a step, as torch does: a new lr counts one step later",
  { timeout: 180_000 },
  () => {
    const p = new Parameter([0]), optimizer = new ASGD([p], { lr: 1, lambd: 0 });
    p.grad = Float32Array.of(1);
    optimizer.step();
    optimizer.paramGroups[0]!.lr = 0.5;
    optimizer.step();
    assertEquals(p.data[0], -2);
    optimizer.step();
    assertEquals(p.data[0], -2.5);
  },
);

test("integers are betas (torch: betas must be either both floats or both Tensors)", { timeout: 180_000 }, () => {
  const p = new Parameter([1]);
  p.grad = Float32Array.of(2);
  new Adam([p], { betas: [0, 0], lr: 0.5 }).step();
  assertEquals(p.data[0], 0.5);
});

test("NaN is no lr (torch's SGD takes it), and groups are validated (torch's are not)", { timeout: 180_000 }, () => {
  assertThrows(() => new SGD([new Parameter([1])], { lr: NaN }), RangeError, "lr must be >= 0, got NaN");
  assertThrows(() => new SGD([{ params: [new Parameter([1])], lr: -1 }]), RangeError, "lr must be >= 0, got -1");
});

test(
  "a parameter or a name that appears twice is refused (torch: warns, or says nothing)",
  { timeout: 180_000 },
  () => {
    const p = new Parameter([1]);
    assertThrows(() => new SGD([p, p]), RangeError, "a parameter must appear once");
    const pairs: [string, Parameter][] = [["a", p], ["a", new Parameter([2])]];
    assertThrows(() => new SGD(pairs), RangeError, 'got "a" for');
  },
);

test("step counts are exact beyond 2^24 (torch's float32 stops there)", { timeout: 180_000 }, () => {
  for (const { make, name } of [...ROWS, TENSOR_ROWS[0]!]) {
    const p = new Parameter([1]), optimizer = new make([p]);
    p.grad = Float32Array.of(1);
    optimizer.step();
    if (optimizer.state.get(p)?.["step"] === undefined) continue;
    optimizer.state.get(p)!["step"] = 2 ** 24;
    optimizer.step();
    assertEquals(optimizer.state.get(p)!["step"], 2 ** 24 + 1, name);
  }
});

test(
  "saved numbers are not cast: a float64 NAdam resumes to the bit (torch: differs by 6e-10)",
  { timeout: 180_000 },
  () => {
    const make = (data: Float64Array) => new Parameter(data, { dtype: "float64" });
    const a = make(Float64Array.of(1, 2)), straight = new NAdam([a]);
    const grad = Float64Array.of(0.3, -0.7);
    a.grad = grad;
    for (let t = 0; t < 5; t++) straight.step();
    const b = make(new Float64Array(a.data as Float64Array)), resumed = new NAdam([b]);
    resumed.loadStateDict(straight.stateDict());
    assertEquals(resumed.state.get(b)!["muProduct"], straight.state.get(a)!["muProduct"]);
    b.grad = grad;
    for (let t = 0; t < 5; t++) {
      straight.step();
      resumed.step();
    }
    assertEquals([...b.data], [...a.data]);
  },
);

test("SGD takes a first gradient that comes late, in a fused step (torch: TypeError)", { timeout: 180_000 }, () => {
  const a = new Parameter([1]),
    b = new Parameter([1]),
    optimizer = new SGD([a, b], { lr: 1, momentum: 0.5, dampening: 0.5, fused: true });
  a.grad = Float32Array.of(1);
  optimizer.step();
  b.grad = Float32Array.of(1);
  optimizer.step();
  assertEquals([...a.data, ...b.data], [-1, 0]); // a: 1 - 1 - (0.5 + 0.5); b: undampened at its first step
});

test("bfloat16 and float16 parameters change in a fused SGD step (torch 2.13 leaves whole vectors as they are)", {
  timeout: 180_000,
}, () => {
  for (const dtype of ["bfloat16", "float16"] as const) {
    const p = new Parameter(new Array(70).fill(1), { dtype }), before = [...p.data];
    p.grad = new Parameter(new Array(70).fill(1), { dtype }).data;
    new SGD([p], { lr: 0.5, fused: true }).step();
    assert(p.data.every((v, i) => v !== before[i]));
  }
});

test("momentum, amsgrad and centered may be switched on later (torch: KeyError)", { timeout: 180_000 }, () => {
  const p = new Parameter([1]);
  p.grad = Float32Array.of(1);
  const adam = new Adam([p]);
  adam.step();
  adam.paramGroups[0]!.amsgrad = true;
  adam.step();
  assert(adam.state.get(p)!["maxExpAvgSq"] instanceof Float32Array);
  const rmsprop = new RMSprop([p]);
  rmsprop.step();
  Object.assign(rmsprop.paramGroups[0]!, { momentum: 0.5, centered: true });
  rmsprop.step();
  assertEquals(Object.keys(rmsprop.state.get(p)!).sort(), ["gradAvg", "momentumBuffer", "squareAvg", "step"]);
});

test("float32 is no farther from the exact result than torch is: the geometric mean of the ratios is at most 1.05", {
  timeout: 180_000,
}, async () => {
  const { errorsAgainstTruth } = await import("./support/truth.ts");
  const ratios: Record<"maxUlp" | "meanUlp", number[]> = { maxUlp: [], meanUlp: [] };
  for (const { name, make } of [...ROWS, ...TENSOR_ROWS]) {
    for (const c of readGolden(name)) {
      if ("expectStateDict" in c || !c.truthParams || c.torchError?.maxUlp === undefined) continue;
      if (c.source !== "optimizers-float32.json") continue;
      const ours = errorsAgainstTruth(c, make);
      for (const key of ["maxUlp", "meanUlp"] as const) {
        const torch = c.torchError[key]!;
        if (ours[key] === 0 && torch === 0) continue;
        ratios[key].push(Math.max(ours[key], 1e-3) / Math.max(torch, 1e-3)); // a thousandth of a unit is no error
      }
    }
  }
  for (const [key, list] of Object.entries(ratios)) {
    const mean = Math.exp(list.reduce((sum, r) => sum + Math.log(r), 0) / list.length);
    console.log(
      `error against float64, ours / torch's, ${key}: geometric mean ${mean.toFixed(3)} over ${list.length} cases`,
    );
    assert(list.length > 150 && mean <= 1.05, `${key}: ${mean}`);
  }
});
