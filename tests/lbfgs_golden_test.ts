/** Replays torch's LBFGS: parameters, losses, and how often the closure was called, straight and resumed. */

import { readFileSync } from "node:fs";
import { test } from "node:test";
import { assertEquals } from "@std/assert";
import { type DType, LBFGS, type LBFGSOptions, type Parameter } from "../mod.ts";
import { assertSameBits } from "./support/bits.ts";
import { type Counted, counted } from "./support/closures.ts";
import { type FunctionData, FUNCTIONS } from "./support/functions.ts";
import {
  assertNear,
  makeGroups,
  numbers,
  type OptimizerCase,
  plain,
  type Tolerance,
  type Written,
} from "./support/golden.ts";
import { ROOT } from "./support/runtime.ts";
import { join } from "@std/path";

/** A trajectory of LBFGS; each step is one `step(closure)`. */
interface LbfgsCase {
  name: string;
  dtype: DType;
  fn: string;
  args?: FunctionData;
  check: { f: number; g: number[] };
  options: LBFGSOptions;
  params: OptimizerCase["groups"][number]["params"];
  steps: { loss: number; calls: number; funcEvals: number; nIter: number; expectParams: Written[] }[];
  tolerance: Tolerance;
}

interface Run {
  params: Parameter[];
  optimizer: LBFGS;
  counter: Counted;
}

const { cases } = JSON.parse(readFileSync(join(ROOT, "tests", "golden", "lbfgs.json"), "utf8")) as {
  cases: LbfgsCase[];
};

function begin(c: LbfgsCase, init?: Float64Array[]): Run {
  const { params } = makeGroups([{ options: {}, params: c.params }], c.dtype, init);
  return { params, optimizer: new LBFGS(params, c.options), counter: counted(FUNCTIONS[c.fn]!, params, c.args) };
}

/** A step, compared with torch's. */
function step({ params, optimizer, counter }: Run, c: LbfgsCase, t: number): void {
  const before = counter.calls, want = c.steps[t]!, where = `step ${t + 1}`;
  const near = (what: string, got: Float64Array, expected: Float64Array) =>
    assertNear(`${where}: ${what}`, got, expected, (i) => Math.abs(expected[i]!), c.tolerance, c.dtype);
  near("loss", Float64Array.of(optimizer.step(counter.closure)), Float64Array.of(want.loss));
  const { funcEvals, nIter } = optimizer.state.get(params[0]!)!, calls = counter.calls - before;
  assertEquals(
    { calls, funcEvals, nIter },
    { calls: want.calls, funcEvals: want.funcEvals, nIter: want.nIter },
    where,
  );
  want.expectParams.forEach((p, i) => near(`params[${i}]`, plain(params[i]!.data, c.dtype), numbers(p)));
}

for (const c of cases) {
  test(`golden LBFGS: ${c.name} has torch's numbers and evaluations`, () => {
    const start = c.params.flatMap((p) => [...numbers(p.init)]), { f, g } = FUNCTIONS[c.fn]!(start, c.args ?? {});
    // the last places of numpy's sums differ from those of plain loops
    const want = [c.check.f, ...c.check.g];
    assertNear(
      c.fn,
      Float64Array.of(f, ...g),
      Float64Array.from(want),
      (i) => 1 + Math.abs(want[i]!),
      { rtol: 1e-14 },
      "float64",
    );

    const straight = begin(c);
    step(straight, c, 0);
    const resumed = begin(c, straight.params.map((p) => plain(p.data, c.dtype)));
    resumed.optimizer.loadStateDict(structuredClone(straight.optimizer.stateDict()));
    for (let t = 1; t < c.steps.length; t++) {
      step(straight, c, t);
      step(resumed, c, t);
    }
    straight.params.forEach((p, i) => assertSameBits(resumed.params[i]!.data, p.data, c.dtype, `resumed params[${i}]`));
  });
}

test("golden LBFGS: all of torch's cases are replayed, with and without a line search, in both dtypes", () => {
  assertEquals(cases.length, 122);
  assertEquals(new Set(cases.map((c) => c.dtype)), new Set<DType>(["float64", "float32"]));
  assertEquals(
    new Set(cases.map((c) => c.options.lineSearchFn)),
    new Set<LBFGSOptions["lineSearchFn"]>([undefined, "strong_wolfe"]),
  );
});
