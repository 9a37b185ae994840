/**
 * Sums and largest magnitudes in the order of csrc/reduce.h: element i goes to lane i mod 16, the lanes are added as a tree, and the
 * results of chunks are reduced as their elements were.
 *
 * @module
 */

import { type Numbers, REDUCE_CHUNK, type Reduction } from "./backend.ts";

/** Lanes of a chunk. */
export const LANES = 16;
const lanes = new Float64Array(LANES);

/** The larger one, or a NaN if there is one. */
export const larger = (a: number, b: number): number => (a >= b || a !== a ? a : b);

/** The sum of two numbers. */
export const plus = (a: number, b: number): number => a + b;

/** The lanes joined as a tree; they are scratch afterwards. */
export function tree(lane: Float64Array, join: (a: number, b: number) => number): number {
  for (let half = LANES / 2; half >= 1; half /= 2) {
    for (let j = 0; j < half; j++) lane[j] = join(lane[j]!, lane[j + half]!);
  }
  return lane[0]!;
}

/** One chunk of n elements; y for "dot" alone. */
export function reduceChunk(op: Reduction, x: Numbers, y: Numbers, n: number): number {
  const lane = lanes.fill(0);
  for (let i = 0; i < n; i++) {
    const j = i % LANES, v = x[i]!, a = lane[j]!;
    lane[j] = op === "sum"
      ? a + v
      : op === "sumAbs"
      ? a + Math.abs(v)
      : op === "sumSq"
      ? a + v * v
      : op === "dot"
      ? a + v * y[i]!
      : larger(a, Math.abs(v));
  }
  return tree(lane, op === "maxAbs" ? larger : plus);
}

/** The results of chunks, until one is left; 0 of none. */
export function fold(op: Reduction, partials: readonly number[]): number {
  let left = partials;
  while (left.length > 1) {
    const next: number[] = [];
    for (let from = 0; from < left.length; from += REDUCE_CHUNK) {
      const some = Float64Array.from(left.slice(from, from + REDUCE_CHUNK));
      next.push(reduceChunk(op === "maxAbs" ? op : "sum", some, some, some.length));
    }
    left = next;
  }
  return left[0] ?? 0;
}
