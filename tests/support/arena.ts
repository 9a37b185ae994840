/**
 * Views of all sizes at all offsets into one buffer, with numbers of all magnitudes and guard elements between.
 *
 * @module
 */

import { assert } from "@std/assert";
import type { DType, TypedArray } from "../../mod.ts";
import { hashNumbers, typed } from "./golden.ts";

const WIDTH = 64; // elements that the widest vector loop takes at a time: four vectors of 16 float32
/** The sizes of an arena's views. */
export const SIZES: readonly number[] = [...Array.from({ length: 2 * WIDTH + 2 }, (_, n) => n), 20_011];
/** Numbers that are special to some dtype. */
export const SPECIAL = [
  NaN,
  Infinity,
  -Infinity,
  0,
  -0,
  1e-40,
  -1e-40,
  1e-310,
  3e38,
  -3e38,
  1e-20,
  65504,
  6e-8,
  2 ** -24,
  1e300,
];

/** Numbers of all magnitudes, a special one here and there. */
export function numbersFor(seed: number, n: number): Float64Array {
  const values = hashNumbers(seed, n, 2), pick = hashNumbers(seed + 1, n, 1);
  return values.map((v, i) => {
    const r = pick[i]!;
    return r > 0.9 ? SPECIAL[(i + seed) % SPECIAL.length]! : r < -0.7 ? v * 1e-6 : r > 0.7 ? v * 1e6 : v;
  });
}

/** Views of all sizes at all offsets into one buffer, with guard elements between. */
export class Arena {
  readonly memory: TypedArray;
  readonly views: TypedArray[] = [];
  readonly #guards: number[] = [];
  readonly #before: TypedArray;

  constructor(readonly dtype: DType, seed: number) {
    const total = SIZES.reduce((sum, n) => sum + n + 9, 9);
    this.memory = typed(numbersFor(seed, total), dtype);
    let at = 0;
    SIZES.forEach((n, k) => {
      for (let g = 0; g < 1 + k % 8; g++) this.#guards.push(at++);
      this.views.push(this.memory.subarray(at, at + n));
      at += n;
    });
    for (; at < total; at++) this.#guards.push(at);
    this.#before = this.memory.slice();
  }

  assertGuards(): void {
    for (const at of this.#guards) {
      assert(Object.is(this.memory[at], this.#before[at]), `the guard element ${at} was written`);
    }
  }
}
