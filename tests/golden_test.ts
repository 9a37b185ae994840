/** Replays torch's trajectories in every implementation. */

import { test } from "node:test";
import { assertEquals } from "@std/assert";
import {
  backend,
  type Optimizer,
  type Parameter,
  type ParameterState,
  SparseTensor,
  type StateDict,
  StepLR,
  type TypedArray,
} from "../mod.ts";
import { arraysOf, assertSameBits } from "./support/bits.ts";
import { type AnyOptimizer, ROWS, SPARSE_ADAM, TENSOR_ROWS } from "./support/classes.ts";
import {
  assertNear,
  assertState,
  assertSum,
  makeGroups,
  numbers,
  type OptimizerCase,
  plain,
  readGolden,
  revive,
  sample,
  type SparseGradient,
  type StateDictCase,
  typed,
  type Written,
} from "./support/golden.ts";
import { assertCompiled } from "./support/runtime.ts";

const IMPLEMENTATIONS: Record<string, Record<string, unknown>> = {
  "for-loop": { foreach: false, fused: false },
  "foreach": { foreach: true },
  "fused": { fused: true },
};

test("the golden replays run against the native library", { timeout: 180_000 }, () => {
  assertCompiled(backend());
});

interface Outcome {
  params: TypedArray[];
  state: (ParameterState | undefined)[];
}

function gradient(grad: Written | SparseGradient | null, { shape, dtype }: Parameter): Parameter["grad"] {
  if (grad === null) return null;
  if (!("sparse" in grad)) return typed(numbers(grad), dtype);
  return new SparseTensor(grad.sparse.indices, typed(numbers(grad.sparse.values), dtype), shape, { dtype });
}

/** Runs a case and compares with torch; with `resumeAfter`, saved and loaded after that step. */
function replay(c: OptimizerCase, make: AnyOptimizer, options: Record<string, unknown>, resumeAfter = -1): Outcome {
  const { dtype, tolerance } = c;
  let { params, groups } = makeGroups(c.groups, dtype);
  let optimizer: Optimizer = new make(groups, { ...revive(c.options), ...options });
  const scales = params.map((p) => plain(p.data, dtype).map(Math.abs));
  c.steps.forEach((step, t) => {
    for (const { group, ...changes } of step.setOptions ?? []) {
      Object.assign(optimizer.paramGroups[group]!, revive(changes));
    }
    params.forEach((p, i) => {
      p.grad = gradient(step.grads[i]!, p);
    });
    const numbersOf = (p: Parameter) => p.grad instanceof SparseTensor ? p.grad.values : p.grad as TypedArray | null;
    const before = params.map((p) => numbersOf(p)?.slice());
    assertEquals(optimizer.step(), undefined);
    params.forEach((p, i) => {
      if (p.grad) assertSameBits(numbersOf(p)!, before[i]!, dtype, `the gradient of params[${i}]`);
    });
    step.expectParams?.forEach((expected, i) => {
      const want = sample(expected), all = plain(params[i]!.data, dtype), what = `params[${i}] after step ${t + 1}`;
      const got = want.at ? Float64Array.from(want.at, (k) => all[k]!) : all, scale = scales[i]!;
      const of = (k: number) => {
        const past = want.at ? 0 : scale[k]!, now = Math.abs(want.values[k]!);
        return Number.isFinite(now) ? Math.max(past, now) : past;
      };
      assertNear(what, got, want.values, of, tolerance, dtype, tolerance.paramAtol ?? 0);
      assertSum(what, all, want, tolerance);
      if (!want.at) scale.forEach((_, k) => scale[k] = of(k));
    });
    if (t === resumeAfter) {
      const saved = structuredClone(optimizer.stateDict());
      const again = makeGroups(c.groups, dtype, params.map((p) => plain(p.data, dtype)));
      optimizer.step(); // what has been saved may not follow
      optimizer = new make(again.groups, { ...revive(c.options), ...options });
      optimizer.loadStateDict(saved);
      params = again.params;
    }
  });
  for (const [index, entries] of Object.entries(c.expectState)) {
    assertState(optimizer.state.get(params[Number(index)]!), entries, `state[${index}]`, tolerance, dtype);
  }
  return { params: params.map((p) => p.data), state: params.map((p) => optimizer.state.get(p)) };
}

function assertSame(actual: Outcome, expected: Outcome, dtype: string, label: string): void {
  actual.params.forEach((p, i) => assertSameBits(p, expected.params[i]!, dtype, `${label}: params[${i}]`));
  actual.state.forEach((state, i) => {
    assertEquals(Object.keys(state ?? {}), Object.keys(expected.state[i] ?? {}));
    for (const [key, value] of Object.entries(state ?? {})) {
      const others = arraysOf(expected.state[i]![key]!);
      arraysOf(value).forEach((array, k) => assertSameBits(array, others[k]!, dtype, `${label}: state[${i}].${key}`));
    }
  });
}

function trajectory(c: OptimizerCase, make: AnyOptimizer): void {
  let first: Outcome | undefined;
  for (const [label, options] of Object.entries(IMPLEMENTATIONS)) {
    const outcome = replay(c, make, options);
    if (first) assertSame(outcome, first, c.dtype, label);
    first ??= outcome;
  }
  if (c.steps.length > 2 && c.source !== "optimizers-large.json") {
    assertSame(replay(c, make, {}, Math.floor(c.steps.length / 2) - 1), first!, c.dtype, "saved and resumed");
  }
}

function stateDict(c: StateDictCase, make: AnyOptimizer, options: Record<string, unknown>): void {
  const { dtype, tolerance } = c, all = { ...revive(c.options), ...options };
  const { params, groups } = makeGroups(c.groups, dtype);
  const optimizer = new make(groups, all);
  if (c.scheduler) new StepLR(optimizer, c.scheduler);
  const steps = (o: Optimizer, ps: typeof params, rows: StateDictCase["steps"]) => {
    for (const row of rows) {
      ps.forEach((p, i) => p.grad = row.grads[i] ? typed(numbers(row.grads[i]), dtype) : null);
      o.step();
    }
  };
  steps(optimizer, params, c.steps);
  const saved = optimizer.stateDict();
  const look = () => {
    assertEquals(Object.keys(saved.state), Object.keys(c.expectStateDict.state).sort());
    for (const [i, entries] of Object.entries(c.expectStateDict.state)) {
      assertEquals(Object.keys(saved.state[Number(i)]!).sort(), Object.keys(entries).sort());
      assertState(saved.state[Number(i)], entries, `state[${i}]`, tolerance, dtype);
    }
    c.expectStateDict.paramGroups.forEach((group, g) => {
      for (const [key, value] of Object.entries(group)) assertEquals(saved.paramGroups[g]![key], value, key);
    });
  };
  look();
  const clone = structuredClone(saved);
  steps(optimizer, params, c.continue);
  look(); // it was a snapshot
  const torchs = {
    state: Object.fromEntries(
      Object.entries(c.expectStateDict.state).map(([id, entries]) => [
        id,
        Object.fromEntries(
          Object.entries(entries).map(([key, v]) => [key, typeof v === "number" ? v : typed(numbers(v), dtype)]),
        ),
      ]),
    ),
    paramGroups: structuredClone(c.expectStateDict.paramGroups),
  } as unknown as StateDict;
  for (const [label, dict] of [["torch's", torchs], ["its own", clone]] as const) {
    const again = makeGroups(c.groups, dtype, c.paramsAtSave.map(numbers));
    const other = new make(again.groups, all);
    other.loadStateDict(dict);
    steps(other, again.params, c.continue);
    c.expectParams.forEach((want, i) => {
      const w = numbers(want), init = numbers(c.groups.flatMap((g) => g.params)[i]!.init);
      const scale = (k: number) => Math.max(Math.abs(w[k]!), Math.abs(init[k]!));
      assertNear(
        `params[${i}] after loading ${label}`,
        plain(again.params[i]!.data, dtype),
        w,
        scale,
        tolerance,
        dtype,
      );
    });
  }
}

for (const { name, make } of [...ROWS, SPARSE_ADAM, ...TENSOR_ROWS]) {
  for (const c of readGolden(name)) {
    if ("expectStateDict" in c) {
      test(`${name} stateDict() and loadStateDict() are torch's: ${c.name}`, { timeout: 180_000 }, () => {
        for (const options of Object.values(IMPLEMENTATIONS)) stateDict(c, make, options);
      });
    } else {
      test(
        `${name} follows torch's trajectory in every implementation: ${c.name}`,
        { timeout: 180_000 },
        () => trajectory(c, make),
      );
    }
  }
}
