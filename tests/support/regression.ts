/**
 * Two problems whose gradients are known in closed form, in float64: what an adapter's gradients are compared with.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";

/** Rows, columns and classes. */
export const N = 12, D = 3, C = 4;

/** Numbers in [-1, 1) that look random. */
export function numbers(n: number, seed: number): Float32Array<ArrayBuffer> {
  const word = (i: number) => (Math.imul(i + 1, 2654435761) ^ Math.imul(seed, 40503)) >>> 8;
  return Float32Array.from({ length: n }, (_, i) => word(i) / 2 ** 23 - 1);
}

/** Inputs [N, D], and a target and a class of each row. */
export const X: Float32Array<ArrayBuffer> = numbers(N * D, 1), Y: Float32Array<ArrayBuffer> = numbers(N, 2);
export const LABELS: Int32Array<ArrayBuffer> = Int32Array.from({ length: N }, (_, i) => (i * 7 + 1) % C);

/** A gradient by the weights and by the bias. */
export interface Gradient {
  readonly loss: number;
  readonly w: Float32Array;
  readonly b: Float32Array;
}

/** The mean of (X w + b - Y)²: its gradient is 2 Xᵀ (X w + b - Y) / N. */
export function leastSquares(w: ArrayLike<number>, b: ArrayLike<number>): Gradient {
  const gradW = new Float64Array(D);
  let gradB = 0, loss = 0;
  for (let i = 0; i < N; i++) {
    const row = X.subarray(i * D, (i + 1) * D);
    const error = row.reduce((sum, x, k) => sum + x * w[k]!, b[0]!) - Y[i]!;
    row.forEach((x, k) => gradW[k]! += 2 * error * x / N);
    gradB += 2 * error / N;
    loss += error * error / N;
  }
  return { loss, w: Float32Array.from(gradW), b: Float32Array.of(gradB) };
}

/** The cross entropy of softmax(X w + b) and LABELS, averaged: its gradient is Xᵀ (softmax - onehot) / N. */
export function softmaxRegression(w: ArrayLike<number>, b: ArrayLike<number>): Gradient {
  const gradW = new Float64Array(D * C), gradB = new Float64Array(C);
  let loss = 0;
  for (let i = 0; i < N; i++) {
    const exps = Array.from({ length: C }, (_, c) => {
      let sum = b[c]!;
      for (let k = 0; k < D; k++) sum += X[i * D + k]! * w[k * C + c]!;
      return Math.exp(sum);
    });
    const total = exps.reduce((a, b) => a + b), right = LABELS[i]!;
    loss -= Math.log(exps[right]! / total) / N;
    exps.forEach((e, c) => {
      const error = (e / total - (c === right ? 1 : 0)) / N;
      gradB[c]! += error;
      for (let k = 0; k < D; k++) gradW[k * C + c]! += error * X[i * D + k]!;
    });
  }
  return { loss, w: Float32Array.from(gradW), b: Float32Array.from(gradB) };
}

/** Throws unless all elements are within the tolerance, absolute. */
export function assertNear(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  assertEquals(actual.length, expected.length);
  for (let i = 0; i < actual.length; i++) {
    const off = Math.abs(actual[i]! - expected[i]!);
    assert(
      off <= tolerance,
      `element ${i}: ${actual[i]} and ${expected[i]} are ${off} apart, allowed are ${tolerance}`,
    );
  }
}
