/**
 * Vectors and packed symmetric matrices in TypeScript: the loops of csrc/vector_kernels.h, in the same order.
 *
 * @module
 */

import { type Combination, type Numbers, REDUCE_CHUNK, type Sums } from "./backend.ts";
import { fold, LANES, larger, plus, tree } from "./reductions.ts";

const BLOCK_ROWS = 64, MAX_BLOCKS = 64;

/** One pass over vectors. */
export function combine({ n, x, y, z, out, negate, a, c }: Combination): Sums {
  const wide = out instanceof Float64Array, sign = negate ? -1 : 1;
  const weight = wide ? a : Math.fround(a), scale = c === null || wide ? c : Math.fround(c);
  const round = wide ? (v: number) => v : Math.fround;
  const dots: number[] = [], largests: number[] = [];
  const lane = new Float64Array(LANES), largest = new Float64Array(LANES);
  for (let from = 0; from < n; from += REDUCE_CHUNK) {
    const to = Math.min(from + REDUCE_CHUNK, n);
    lane.fill(0);
    largest.fill(0);
    for (let i = from; i < to; i++) {
      let v = sign * x[i]!;
      if (y !== null) v = round(v + round(weight * y[i]!));
      if (scale !== null) v = round(v * scale);
      if (z !== null) {
        const j = (i - from) % LANES;
        lane[j] = lane[j]! + v * z[i]!;
        largest[j] = larger(largest[j]!, Math.abs(v));
      }
      out[i] = v;
    }
    if (z === null) continue;
    dots.push(tree(lane, plus));
    largests.push(tree(largest, larger));
  }
  return { dot: fold("sum", dots), largest: fold("maxAbs", largests) };
}

/** The first row of each block, and n. */
function blockRows(n: number): number[] {
  const blocks = Math.min(MAX_BLOCKS, Math.ceil(n / BLOCK_ROWS));
  return Array.from({ length: blocks + 1 }, (_, b) => b === blocks ? n : Math.trunc(n * Math.sqrt(b / blocks)));
}

/** out = H v. */
export function packedProduct(n: number, matrix: Numbers, v: Numbers, out: Numbers): void {
  const rows = blockRows(n), lane = new Float64Array(LANES);
  let total = new Float64Array(n);
  for (let b = 0; b + 1 < rows.length; b++) {
    const sum = new Float64Array(n);
    for (let i = rows[b]!; i < rows[b + 1]!; i++) {
      const at = i * (i + 1) / 2, vi = v[i]!;
      lane.fill(0);
      for (let j = 0; j < i; j++) {
        const h = matrix[at + j]!, k = j % LANES;
        lane[k] = lane[k]! + h * v[j]!;
        sum[j] = sum[j]! + h * vi;
      }
      lane[i % LANES] = lane[i % LANES]! + matrix[at + i]! * vi;
      sum[i] = sum[i]! + tree(lane, plus);
    }
    if (b > 0) { for (let i = 0; i < rows[b]!; i++) sum[i] = total[i]! + sum[i]!; }
    total = sum;
  }
  out.set(total);
}

/** H -= u sT + s uT. */
export function packedUpdate(n: number, matrix: Numbers, u: Numbers, s: Numbers): void {
  for (let i = 0, at = 0; i < n; i++) {
    const ui = u[i]!, si = s[i]!;
    for (let j = 0; j <= i; j++, at++) matrix[at] = matrix[at]! - (ui * s[j]! + si * u[j]!);
  }
}
