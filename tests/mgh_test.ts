/** BFGS on the problems of Moré, Garbow and Hillstrom: minima, evaluations, the inverse Hessian, resuming, threads, float32. */

import { readFileSync } from "node:fs";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { BFGS, type BFGSOptions, getNumThreads, LBFGS, Parameter, setNumThreads } from "../mod.ts";
import { arraysOf, assertSameBits } from "./support/bits.ts";
import { counted, maxNorm } from "./support/closures.ts";
import { isas } from "./support/backends.ts";
import { FUNCTIONS, type TestFunction } from "./support/functions.ts";
import { type Problem, PROBLEMS } from "./support/mgh.ts";
import { ROOT, runProgram } from "./support/runtime.ts";
import { GRAIN } from "../ffi/backend.ts";
import { bestBackend } from "../ffi/load.ts";

/** Bun's own limit is five seconds, which a busy machine may need. */
const LIMIT = { timeout: 180_000 };

/** Of the numbers that HASHING passes through, in every engine. Whoever changes the algorithms on purpose puts the new one here. */
const HASH = "83169ba306738f65";

const SEARCHES = ["strong_wolfe", "hager_zhang"] as const;

const LONG = { maxIter: 5000, maxEval: 20000, toleranceGrad: 1e-8, toleranceChange: 0 } as const;

function readCases<Case>(file: string): Case[] {
  return (JSON.parse(readFileSync(join(ROOT, "tests", "golden", file), "utf8")) as { cases: Case[] }).cases;
}

const minima = new Map(readCases<{ name: string; minimum: number }>("mgh.json").map((c) => [c.name, c.minimum]));

/** BFGS over a problem, and a counting closure. */
function begin({ fn, start }: Pick<Problem, "fn" | "start">, options: BFGSOptions, scale = 1) {
  const x = new Parameter(Float64Array.from(start));
  return { x, optimizer: new BFGS([x], options), counter: counted(fn, [x], {}, scale) };
}

/** The value and the gradient where a parameter is. */
const at = (fn: TestFunction, x: Parameter) => fn([...x.data], {});

/** Throws unless the two have the same parameters, and state of the same bits. */
function assertSameRun(a: BFGS | LBFGS, b: BFGS | LBFGS): void {
  const [p, q] = [a, b].map((o) => o.paramGroups[0]!.params) as [Parameter[], Parameter[]];
  p.forEach((x, i) => assertSameBits(x.data, q[i]!.data, x.dtype, `params[${i}]`));
  const s = a.state.get(p[0]!)!, t = b.state.get(q[0]!)!;
  assertEquals(Object.keys(s), Object.keys(t));
  for (const key of Object.keys(s)) {
    const mine = arraysOf(s[key]!), other = arraysOf(t[key]!);
    assertEquals(mine.length, other.length);
    mine.forEach((array, i) => assertSameBits(array, other[i]!, "float64", key));
  }
}

for (const problem of PROBLEMS) {
  const { number, name, fn } = problem, minimum = minima.get(name)!;

  for (const lineSearchFn of SEARCHES) {
    const options = { ...LONG, lineSearchFn };

    test(`BFGS with ${lineSearchFn} finds the minimum of ${name} (${number}) in few evaluations`, () => {
      const { x, optimizer, counter } = begin(problem, options);
      optimizer.step(counter.closure);
      const { f, g } = at(fn, x), { reason, loss, gradNorm, evaluations } = optimizer.lastResult!;
      assert(Math.abs(f - minimum) <= 1e-10 * Math.max(1, Math.abs(minimum)), `ends at ${f}, not at ${minimum}`);
      assertEquals({ loss, gradNorm, evaluations }, { loss: f, gradNorm: maxNorm(g), evaluations: counter.calls });
      const most = 1.25 * problem.evaluations[lineSearchFn];
      assert(counter.calls <= most, `${counter.calls} evaluations, at most ${most}`);
      // Values of the order 1e5 hide a slope of 1e-4 in their rounding, which is all that strong_wolfe goes by.
      const stalls = name === "brownDennis" && lineSearchFn === "strong_wolfe";
      assertEquals(reason, stalls ? "lineSearch" : "toleranceGrad", `the gradient is ${gradNorm}`);
    });

    test(`BFGS with ${lineSearchFn} needs about as many evaluations for ${name} times 1e8 and 1e-8`, () => {
      const counts = [1e-8, 1, 1e8].map((scale) => {
        const { optimizer, counter } = begin(problem, { ...options, toleranceGrad: 1e-8 * scale }, scale);
        optimizer.step(counter.closure);
        return counter.calls;
      });
      assert(Math.max(...counts) < 2 * counts[1]! && counts[1]! < 2 * Math.min(...counts), counts.join(", "));
    });

    test(`BFGS with ${lineSearchFn} goes on with ${name} from a state dict to the same bits`, () => {
      const straight = begin(problem, { ...options, maxIter: 6 });
      straight.optimizer.step(straight.counter.closure);
      const resumed = begin({ fn, start: [...straight.x.data] }, { ...options, maxIter: 6 });
      resumed.optimizer.loadStateDict(structuredClone(straight.optimizer.stateDict()));
      for (let k = 0; k < 3; k++) {
        assertEquals(
          resumed.optimizer.step(resumed.counter.closure),
          straight.optimizer.step(straight.counter.closure),
        );
        assertSameRun(resumed.optimizer, straight.optimizer);
      }
    });

    test(`BFGS with ${lineSearchFn} brings ${name} down in float32, without a NaN`, () => {
      const x = new Parameter(Float32Array.from(problem.start)), counter = counted(fn, [x]);
      const scale = Math.max(1, maxNorm(at(fn, x).g));
      const optimizer = new BFGS([x], { ...options, toleranceGrad: 1e-3 * scale });
      optimizer.step(counter.closure);
      const { f, g } = at(fn, x), norm = maxNorm(g);
      assert(norm <= 1e-3 * scale && Number.isFinite(f), `the gradient is ${norm}, the scale ${scale}`);
      assert(x.data.every(Number.isFinite));
      const state = Object.values(optimizer.state.get(x)!).flatMap(arraysOf);
      assert(state.every((array) => Array.from(array).every(Number.isFinite)));
    });
  }

  test(`BFGS keeps the inverse Hessian of ${name} positive definite, and H y = s`, () => {
    const { x, optimizer, counter } = begin(problem, { ...LONG, maxIter: 1 });
    let updates = 0;
    for (let k = 0; k < 300; k++) {
      const from = Float64Array.from(x.data), { g } = at(fn, x), old = optimizer.state.get(x)?.["h"];
      const before = old instanceof Float64Array ? old.slice() : null;
      optimizer.step(counter.closure);
      const { reason } = optimizer.lastResult!, h = optimizer.state.get(x)!["h"] as Float64Array;
      if (reason !== "maxIter") break;
      if (before !== null && h.every((v, i) => v === before[i])) continue; // the guard has kept the old one
      updates++;
      const s = from.map((v, i) => x.data[i]! - v), after = at(fn, x).g, y = s.map((_, i) => after[i]! - g[i]!);
      assertEquals(firstBadPivot(h, x.size), -1, `H after ${k + 1} iterations is not positive definite`);
      const off = maxNorm(times(h, y).map((v, i) => v - s[i]!)), allowed = 1e-12 * rowNorm(h, x.size) * maxNorm(y);
      assert(off <= allowed, `after ${k + 1} iterations H y - s is ${off}, allowed ${allowed}`);
    }
    assert(updates >= 10, `${updates} updates`);
  });
}

/** H v, of a packed lower triangle. */
function times(h: Float64Array, v: Float64Array): Float64Array {
  return v.map((_, i) => v.reduce((sum, x, j) => sum + entry(h, i, j) * x, 0));
}

function entry(h: Float64Array, i: number, j: number): number {
  return i >= j ? h[i * (i + 1) / 2 + j]! : h[j * (j + 1) / 2 + i]!;
}

/** The largest sum of magnitudes in a row: the norm that belongs to the largest magnitude of a vector. */
function rowNorm(h: Float64Array, n: number): number {
  let norm = 0;
  for (let i = 0; i < n; i++) {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += Math.abs(entry(h, i, j));
    norm = Math.max(norm, sum);
  }
  return norm;
}

/** The first pivot of Cholesky's decomposition that is not positive; -1: there is none, H is positive definite. */
function firstBadPivot(h: Float64Array, n: number): number {
  const l = h.slice();
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = entry(h, i, j);
      for (let k = 0; k < j; k++) sum -= entry(l, i, k) * entry(l, j, k);
      if (i === j && !(sum > 0)) return i;
      l[i * (i + 1) / 2 + j] = i === j ? Math.sqrt(sum) : sum / entry(l, j, j);
    }
  }
  return -1;
}

test("LBFGS with hager_zhang finds every minimum, in not many more evaluations than BFGS's", () => {
  let evaluations = 0, most = 0;
  for (const { name, fn, start, evaluations: { hager_zhang } } of PROBLEMS) {
    const x = new Parameter(Float64Array.from(start)), counter = counted(fn, [x]);
    const optimizer = new LBFGS([x], { ...LONG, lineSearchFn: "hager_zhang" });
    optimizer.step(counter.closure);
    const { f } = at(fn, x), minimum = minima.get(name)!;
    assert(Math.abs(f - minimum) <= 1e-10 * Math.max(1, Math.abs(minimum)), `${name} ends at ${f}, not at ${minimum}`);
    assertEquals(optimizer.lastResult!.reason, "toleranceGrad", name);
    evaluations += counter.calls;
    most += 1.25 * hager_zhang;
  }
  assert(evaluations <= most, `${evaluations} evaluations, at most ${most}`);
});

interface ScipyCase {
  name: string;
  fn: string;
  start: number[];
  check: { f: number; g: number[] };
  knownMinima: number[];
  scipy: { fMin: number; nfev: number };
}

test("BFGS ends as low as scipy's on nineteen problems, in fewer evaluations", () => {
  const cases = readCases<ScipyCase>("bfgs.json"), counts = { ours: 0, scipy: 0 };
  for (const { name, fn, start, check, knownMinima, scipy } of cases) {
    const f = FUNCTIONS[fn]!, first = f(start, {});
    const far = [check.f, ...check.g].map((v, i) => ([first.f, ...first.g][i]! - v) / (1 + Math.abs(v)));
    assert(maxNorm(far) < 1e-14, `${name} is another function than scipy's`); // sums in another order
    const { x, optimizer, counter } = begin({ fn: f, start }, { ...LONG, toleranceGrad: 1e-6 });
    optimizer.step(counter.closure);
    const end = at(f, x), norm = maxNorm(end.g), close = (m: number, r: number) => Math.abs(end.f - m) <= r;
    const low = end.f <= scipy.fMin + 1e-10 + 1e-5 * Math.abs(scipy.fMin);
    // Some valleys are flat: the gradient may be small enough a little way off.
    const known = knownMinima.some((m) => {
      return close(m, 1e-10 + 1e-5 * Math.abs(m)) || (norm <= 1.5e-6 && close(m, 1e-6 * (1 + Math.abs(m))));
    });
    assert(low || known, `${name} ends at ${end.f} with a gradient of ${norm}; scipy's at ${scipy.fMin}`);
    counts.ours += counter.calls;
    counts.scipy += scipy.nfev;
  }
  assertEquals(cases.length, 19);
  assert(counts.ours < counts.scipy, `${counts.ours} evaluations, scipy ${counts.scipy}`);
});

for (const [Class, size] of [[BFGS, 300], [LBFGS, 20_011]] as const) {
  test(`${Class.name} has the same bits with one thread, two and five, on every instruction set`, LIMIT, () => {
    const native = bestBackend(), best = native.isa, threads = getNumThreads();
    const run = () => {
      const x = new Parameter(Float64Array.from({ length: size }, (_, i) => i % 2 === 0 ? -1.2 : 1));
      const optimizer = new Class([x], { maxIter: 12, maxEval: 100, toleranceChange: 0, lineSearchFn: "hager_zhang" });
      optimizer.step(counted(FUNCTIONS["rosenbrock"]!, [x]).closure);
      assertEquals(optimizer.lastResult!.reason, "maxIter");
      return optimizer;
    };
    try {
      setNumThreads(1);
      const one = run();
      native.setGrain(64); // there is work for all threads
      for (const isa of isas(native)) {
        native.setIsa(isa);
        for (const n of [1, 2, 5]) {
          setNumThreads(n);
          assertSameRun(run(), one);
        }
      }
    } finally {
      native.setGrain(GRAIN);
      native.setIsa(best);
      setNumThreads(threads);
    }
  });
}

/** Runs both classes, with both searches and in both dtypes, over all problems, and prints a hash of where they have been. */
const HASHING = `
import { createHash } from "node:crypto";
import { backend, BFGS, LBFGS, Parameter } from "MOD";
import { counted } from "../support/closures.ts";
import { PROBLEMS } from "../support/mgh.ts";
const hash = createHash("sha256");
for (const { fn, start } of PROBLEMS) {
  for (const make of [BFGS, LBFGS]) {
    for (const lineSearchFn of ["strong_wolfe", "hager_zhang"]) {
      for (const type of [Float64Array, Float32Array]) {
        const x = new Parameter(type.from(start)), { closure } = counted(fn, [x]);
        const optimizer = new make([x], { maxIter: 60, toleranceGrad: 0, toleranceChange: 0, lineSearchFn });
        for (let k = 0; k < 2; k++) {
          optimizer.step(closure);
          hash.update(x.data);
        }
      }
    }
  }
}
console.log(backend().name + " " + hash.digest("hex").slice(0, 16));
`;

test("BFGS and LBFGS have the same bits in compiled code and in TypeScript, in Deno and in Bun", LIMIT, async () => {
  const hashes = new Map<string, string>();
  for (const FLATSTEP_BACKEND of ["native", "js"]) {
    const { code, stdout, stderr } = await runProgram(HASHING, { env: { FLATSTEP_BACKEND } });
    assertEquals(code, 0, stderr);
    const [name, hash] = stdout.trim().split(" ") as [string, string];
    hashes.set(name.replace(/^(deno|bun)-/, ""), hash);
  }
  assertEquals([...hashes], [["ffi", HASH], ["js", HASH]]);
});
