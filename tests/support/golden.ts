/**
 * Golden trajectories: their types, numbers, and tolerances.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { type DType, Parameter, type ParameterState, type TypedArray } from "../../mod.ts";
import { fromBfloat16, fromFloat16, isTypedArray, toBfloat16, toFloat16 } from "../../src/dtype.ts";
import { join } from "@std/path";
import { ROOT } from "./runtime.ts";

type Text = "NaN" | "Infinity" | "-Infinity";
/** Numbers as they stand in a golden file. */
export type Written = readonly (number | Text)[] | { readonly hash: { seed: number; n: number; scale: number } };
/** Expected numbers: all, or a sample with the sum of all. */
export type Expected = Written | {
  n: number;
  at: number[];
  values: readonly (number | Text)[];
  sum: number;
  sumAbs: number;
};
/** A sparse gradient: `indices` are [sparseDims][nnz]. */
export interface SparseGradient {
  sparse: { indices: number[][]; values: Written };
}

/** How far a number may be from the expected one. */
export interface Tolerance {
  rtol?: number;
  atol?: number;
  paramAtol?: number;
  ulp?: number;
}

/** A trajectory. */
export interface OptimizerCase {
  source: string;
  name: string;
  optimizer: string;
  dtype: DType;
  options: Record<string, unknown>;
  groups: { options: Record<string, unknown>; params: { name?: string; shape: number[]; init: Written }[] }[];
  steps: {
    grads: (Written | SparseGradient | null)[];
    setOptions?: ({ group: number } & Record<string, unknown>)[];
    expectParams?: Expected[];
  }[];
  expectState: Record<string, Record<string, Expected | number | Text>>;
  truthParams?: Expected[];
  torchError?: { maxUlp?: number; meanUlp?: number };
  tolerance: Tolerance;
}

/** A state dict, and what comes of loading it. */
export interface StateDictCase {
  source: string;
  name: string;
  optimizer: string;
  dtype: DType;
  options: Record<string, unknown>;
  groups: OptimizerCase["groups"];
  steps: { grads: (Written | null)[] }[];
  scheduler?: { stepSize: number; gamma: number };
  expectStateDict: { state: Record<string, Record<string, Written | number>>; paramGroups: Record<string, unknown>[] };
  paramsAtSave: Written[];
  continue: { grads: (Written | null)[] }[];
  expectParams: Written[];
  tolerance: Tolerance;
}

/** The cases of an optimizer's golden file. */
export function readGolden(optimizer: string): (OptimizerCase | StateDictCase)[] {
  const text = readFileSync(join(ROOT, "tests", "golden", `${optimizer.toLowerCase()}.json`), "utf8");
  return (JSON.parse(text) as { cases: (OptimizerCase | StateDictCase)[] }).cases;
}

/** golden's formula numbers, exact in float32. */
export function hashNumbers(seed: number, n: number, scale: number): Float64Array {
  const out = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    let h = (Math.imul(i + 1, 0x9e3779b1) + seed) >>> 0;
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    h ^= h >>> 16;
    out[i] = ((h >>> 16) - 32768) / 32768 * scale;
  }
  return out;
}

/** Written numbers as doubles. */
export function numbers(written: Written): Float64Array {
  if ("hash" in written) return hashNumbers(written.hash.seed, written.hash.n, written.hash.scale);
  return Float64Array.from(written, Number);
}

/** Numbers as an array of a dtype. */
export function typed(values: ArrayLike<number>, dtype: DType): TypedArray {
  switch (dtype) {
    case "float32":
      return Float32Array.from(values);
    case "float64":
      return Float64Array.from(values);
    case "bfloat16":
      return Uint16Array.from(values, toBfloat16);
    case "float16":
      return typeof Float16Array === "undefined" ? Uint16Array.from(values, toFloat16) : Float16Array.from(values);
  }
}

/** An array of a dtype as doubles. */
export function plain(array: TypedArray, dtype: DType): Float64Array {
  if (!(array instanceof Uint16Array)) return Float64Array.from(array);
  return Float64Array.from(array, dtype === "bfloat16" ? fromBfloat16 : fromFloat16);
}

/** Options with the numbers that JSON has no words for. */
export function revive<T>(value: T): T {
  if (Array.isArray(value)) return value.map(revive) as T;
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, revive(v)])) as T;
  }
  return (value === "NaN" || value === "Infinity" || value === "-Infinity" ? Number(value) : value) as T;
}

/** A case's groups with parameters made of `init`, or of the given numbers. */
export function makeGroups(
  groups: OptimizerCase["groups"],
  dtype: DType,
  init?: Float64Array[],
): { params: Parameter[]; groups: Record<string, unknown>[] } {
  const params: Parameter[] = [];
  const made = groups.map((group) => ({
    ...revive(group.options),
    params: group.params.map((p) => {
      const parameter = new Parameter(typed(init?.[params.length] ?? numbers(p.init), dtype), {
        shape: p.shape,
        dtype,
      });
      params.push(parameter);
      return p.name ? [p.name, parameter] as const : parameter;
    }),
  }));
  return { params, groups: made };
}

const DIGITS: Record<DType, [number, number]> = {
  float64: [53, -1074],
  float32: [24, -149],
  float16: [11, -24],
  bfloat16: [8, -133],
};

/** The distance between a dtype's neighbouring numbers at x. */
export function ulp(x: number, dtype: DType): number {
  const [digits, least] = DIGITS[dtype];
  if (!(Math.abs(x) > 0) || !Number.isFinite(x)) return 2 ** least;
  let e = Math.floor(Math.log2(Math.abs(x))) + 1;
  if (2 ** (e - 1) > Math.abs(x)) e--;
  else if (2 ** e <= Math.abs(x)) e++;
  return 2 ** Math.max(e - digits, least);
}

/** An expectation, taken apart. */
export interface Sample {
  n: number;
  /** The elements that are known; null: all. */
  at: Int32Array | null;
  values: Float64Array;
  sum: number;
  sumAbs: number;
}

/** An expectation, taken apart. */
export function sample(expected: Expected): Sample {
  if ("sumAbs" in expected) {
    const { n, at, values, sum, sumAbs } = expected;
    return { n, at: Int32Array.from(at), values: Float64Array.from(values, Number), sum, sumAbs };
  }
  const values = numbers(expected);
  return { n: values.length, at: null, values, sum: NaN, sumAbs: NaN };
}

/** Throws unless numbers are within the tolerance of the expected ones. */
export function assertNear(
  what: string,
  got: Float64Array,
  want: Float64Array,
  scale: (i: number) => number,
  tolerance: Tolerance,
  dtype: DType,
  extra = 0,
): void {
  if (got.length !== want.length) throw new Error(`${what} has ${got.length} numbers, expected ${want.length}`);
  for (let i = 0; i < want.length; i++) {
    const a = got[i]!, b = want[i]!;
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
    const allowed = tolerance.ulp === undefined
      ? (tolerance.atol ?? 0) + extra + (tolerance.rtol ?? 0) * scale(i)
      : tolerance.ulp * ulp(scale(i), dtype) * (1 + 1e-9);
    if (!(Math.abs(a - b) <= allowed)) throw new Error(`${what}[${i}] is ${a}, expected ${b} within ${allowed}`);
  }
}

/** State that cannot cancel: its scale is its own magnitude. */
const POSITIVE = new Set([
  "expAvgSq",
  "maxExpAvgSq",
  "expInf",
  "squareAvg",
  "accDelta",
  "sum",
  "variance",
  "rowVar",
  "colVar",
  "stepSize",
]);

/** The scale of a state tensor's elements. */
export function stateScale(key: string, want: Float64Array): (i: number) => number {
  if (POSITIVE.has(key) || want.length === 1) return (i) => Math.abs(want[i]!);
  const most = want.reduce((a, b) => Number.isFinite(b) ? Math.max(a, Math.abs(b)) : a, 0);
  return () => most;
}

/** Throws unless a sampled expectation's sum is met: elements that no sample shows would be wrong. */
export function assertSum(what: string, got: Float64Array, want: Sample, tolerance: Tolerance): void {
  if (want.at === null) return;
  const sum = got.reduce((a, b) => a + b, 0);
  const allowed = (tolerance.rtol ?? 0) * want.sumAbs + (tolerance.paramAtol ?? 0) * Math.sqrt(want.n) * 4;
  if (!(Math.abs(sum - want.sum) <= allowed)) {
    throw new Error(`the sum of ${what} is ${sum}, expected ${want.sum} within ${allowed}`);
  }
}

/** Throws unless a parameter's state is as expected. */
export function assertState(
  state: ParameterState | undefined,
  entries: OptimizerCase["expectState"][string],
  where: string,
  tolerance: Tolerance,
  dtype: DType,
): void {
  for (const [key, want] of Object.entries(entries)) {
    const got = state?.[key], what = `${where}.${key}`;
    if (got === undefined) throw new Error(`${what} is missing`);
    if (typeof want === "number" || typeof want === "string") {
      if (typeof got !== "number") throw new Error(`${what} is no number`);
      const number = Float64Array.of(Number(want));
      // single numbers are not rounded to 16 bits
      const t = tolerance.ulp === undefined ? tolerance : { rtol: 2e-6 };
      assertNear(what, Float64Array.of(got), number, () => Math.abs(number[0]!), t, dtype);
      continue;
    }
    if (!isTypedArray(got)) throw new Error(`${what} is no typed array`);
    const s = sample(want), all = plain(got, dtype);
    const some = s.at ? Float64Array.from(s.at, (i) => all[i]!) : all;
    assertNear(what, some, s.values, stateScale(key, s.values), tolerance, dtype);
  }
}
