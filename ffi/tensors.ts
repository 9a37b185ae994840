/**
 * Rules that look at a whole tensor, in TypeScript: sums in the order of csrc/tensor_kernels.h, products, and the loop over
 * the tensors of a step.
 *
 * @module
 */

import { type DType, readInto, type TypedArray, writeFrom } from "../src/dtype.ts";
import { type Numbers, type Product, REDUCE_CHUNK, type Tensor, type TensorRule } from "./backend.ts";

const identity = (x: number): number => x;
const LANES = 16;

/** Sixteen sums, into which the squares of a row's elements go in turns, and which are added as a tree. */
export class Lanes {
  readonly #lane = new Float64Array(LANES);

  /** Adds x² to the sum of column `column`. */
  add(column: number, x: number): void {
    this.#lane[column % LANES]! += x * x;
  }

  /** The sum of all; empties them. */
  total(): number {
    const lane = this.#lane;
    for (let half = LANES / 2; half >= 1; half /= 2) {
      for (let l = 0; l < half; l++) lane[l] = lane[l]! + lane[l + half]!;
    }
    const total = lane[0]!;
    lane.fill(0);
    return total;
  }
}

/** The sum of squares, in float64: chunk by chunk, the chunks from the first to the last. */
export function sumOfSquares(x: Numbers): number {
  const lanes = new Lanes();
  let total = 0;
  for (let from = 0; from < x.length; from += REDUCE_CHUNK) {
    const n = Math.min(REDUCE_CHUNK, x.length - from);
    for (let i = 0; i < n; i++) lanes.add(i, x[from + i]!);
    total += lanes.total();
  }
  return total;
}

/** The product of matrices: three loops. */
export function matmul(product: Product): void {
  const { m, n, k, a, b, add, out, aTransposed, bTransposed, symmetric } = product;
  const round = out instanceof Float64Array ? identity : Math.fround;
  const alpha = round(product.alpha), beta = round(product.beta);
  const sum = out instanceof Float64Array ? new Float64Array(n) : new Float32Array(n); // rounds what is stored
  for (let i = 0; i < m; i++) {
    const from = symmetric ? i : 0;
    sum.fill(0);
    for (let t = 0; t < k; t++) {
      const x = a[aTransposed ? t * m + i : i * k + t]!, step = bTransposed ? k : 1;
      for (let j = from, at = bTransposed ? from * k + t : t * n + from; j < n; j++, at += step) {
        sum[j] = sum[j]! + round(x * b[at]!);
      }
    }
    for (let j = from; j < n; j++) {
      const scaled = round(alpha * sum[j]!);
      const result = add === null ? scaled : round(beta * add[i * n + j]!) + scaled;
      out[i * n + j] = result;
      if (symmetric) out[j * n + i] = result;
    }
  }
}

/** A step of tensors, one after the other. */
export function runTensors(rule: TensorRule, dtype: DType, tensors: readonly Tensor[], hypers: Float64Array): void {
  const width = rule.hypers.length, round = dtype === "float64" ? identity : Math.fround;
  tensors.forEach((tensor, t) => {
    const { batches, rows, columns, buffers } = tensor;
    if (columns === 0 || (batches > 0 && rows === 0)) return;
    const h = Array.from(hypers.subarray(t * width, (t + 1) * width));
    if (dtype === "float32" || dtype === "float64") {
      rule.body(round, tensor, h, buffers as readonly Numbers[]);
      return;
    }
    const wide = buffers.map((array) => widen(array, dtype));
    rule.body(round, tensor, h, wide);
    buffers.forEach((array, b) => {
      if (rule.buffers[b]!.endsWith(":rw")) writeFrom(array, dtype, 0, wide[b]!, array.length);
    });
  });
}

function widen(array: TypedArray, dtype: DType): Float32Array {
  const wide = new Float32Array(array.length);
  readInto(wide, array, dtype, 0, array.length);
  return wide;
}
