/** Loads, arithmetic and rounding of the 16-bit kernels: every number there is, many pairs, and what is no number, against TypeScript. */

import { test } from "node:test";
import { assert } from "@std/assert";
import type { Backend, Rule } from "../ffi/backend.ts";
import { jsBackend } from "../ffi/js.ts";
import type { DType } from "../mod.ts";
import { ADD_RULE, DIV_RULE, MUL_RULE, SQRT_RULE, TENSOR } from "../src/foreach_rules.ts";
import { everywhere } from "./support/backends.ts";
import { assertSameBits } from "./support/bits.ts";

const HALVES = ["bfloat16", "float16"] as const;

/** All numbers of 16 bits: 128 KiB, a tensor that is long enough for memory to be fetched ahead. */
const ALL = Uint16Array.from({ length: 1 << 16 }, (_, i) => i);

/** Pseudo-random bits (xorshift). */
function randomBits(n: number, seed: number): Uint16Array {
  let s = seed;
  return Uint16Array.from({ length: n }, () => {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    return s;
  });
}

/** A rule over rows that lie behind each other in copies of the arrays. Returns the first of these. */
function apply(
  by: Backend,
  rule: Rule,
  dtype: DType,
  flags: number,
  hypers: Float64Array,
  arrays: readonly Uint16Array[],
  lengths: readonly number[],
  threads: number,
): Uint16Array {
  const copies = arrays.map((array) => array.slice()), job = by.createJob(rule, dtype, lengths.length);
  let at = 0;
  lengths.forEach((n, row) => {
    job.setLength(row, n);
    job.setHyper(row, 0);
    job.setFlags(row, flags);
    copies.forEach((array, k) => job.bind(row, k, array.subarray(at, at + n)));
    at += n;
  });
  job.bindHypers(hypers.length > 0 ? hypers : new Float64Array(1), 1);
  by.run([job], threads);
  return copies[0]!;
}

/** One row, and rows of all lengths up to 120, so that rows begin and end anywhere in a line of memory. */
const SHAPES = [[ALL.length], Array.from({ length: 120 }, (_, n) => n)] as const;

const FACTORS = [1, 1 / 3, -0.7, 1.0039, 1e-30, 5.960464477539063e-8, 3e38, 0, -0, Infinity, NaN];

test("every bfloat16 and float16 number times and plus a number has TypeScript's bits on every instruction set", {
  timeout: 180_000,
}, () => {
  for (const dtype of HALVES) {
    for (const rule of [MUL_RULE, ADD_RULE, DIV_RULE, SQRT_RULE]) {
      for (const x of rule === SQRT_RULE ? [0] : FACTORS) {
        const hypers = Float64Array.from(rule.hypers, (name) => name === "value" ? x : 1), arrays = [ALL, ALL];
        const given = arrays.slice(0, rule.buffers.length);
        for (const lengths of SHAPES) {
          const expected = apply(jsBackend, rule, dtype, 0, hypers, given, lengths, 1);
          everywhere((compiled, threads, what) => {
            const actual = apply(compiled, rule, dtype, 0, hypers, given, lengths, threads);
            assertSameBits(actual, expected, dtype, `${rule.name} ${x} ${dtype} ${what}`);
          }, [1, 2]);
        }
      }
    }
  }
});

test("a million random pairs of bfloat16 and float16 numbers have TypeScript's sum, product and quotient", {
  timeout: 180_000,
}, () => {
  const pairs = [randomBits(1 << 20, 1), randomBits(1 << 20, 2)];
  for (const dtype of HALVES) {
    for (const rule of [ADD_RULE, MUL_RULE, DIV_RULE]) {
      const hypers = Float64Array.from(rule.hypers, () => 1), lengths = [1 << 20];
      const expected = apply(jsBackend, rule, dtype, TENSOR, hypers, pairs, lengths, 1);
      everywhere((compiled, threads, what) => {
        const actual = apply(compiled, rule, dtype, TENSOR, hypers, pairs, lengths, threads);
        assertSameBits(actual, expected, dtype, `${rule.name} ${dtype} ${what}`);
      }, [2]);
    }
  }
});

test("a NaN with all bits set stays a NaN in 16 bits, and is not rounded to a zero", { timeout: 180_000 }, () => {
  // the bits go into the table themselves: a number of JavaScript's may lose them
  const hypers = new Float64Array(new BigUint64Array([~0n]).buffer);
  for (const dtype of HALVES) {
    const quietNaN = dtype === "bfloat16" ? 0x7f80 : 0x7c00;
    everywhere((compiled, threads, what) => {
      const found = apply(compiled, MUL_RULE, dtype, 0, hypers, [ALL, ALL], [ALL.length], threads);
      found.forEach((bits, i) =>
        assert((bits & 0x7fff) > quietNaN, `${dtype} ${what}: ${i} became ${bits.toString(16)}`)
      );
    }, [1]);
  }
});
