/** Passes over vectors, and packed symmetric matrices: TypeScript, instruction sets and thread counts, bit for bit. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { backend } from "../mod.ts";
import type { Backend, Combination, Numbers } from "../ffi/backend.ts";
import { jsBackend } from "../ffi/js.ts";
import { bestBackend } from "../ffi/load.ts";
import { numbersFor } from "./support/arena.ts";
import { everywhere } from "./support/backends.ts";
import { assertSameBits } from "./support/bits.ts";
import { hashNumbers } from "./support/golden.ts";
import { assertCompiled } from "./support/runtime.ts";

/** Bun's own limit is five seconds, which a busy machine may need. */
const LIMIT = { timeout: 180_000 };
const DTYPES = ["float32", "float64"] as const;
type DType = typeof DTYPES[number];

/** The arrays are of 32 or 64 bits, so no dtype has to be told. */
const sameBits = (actual: Numbers, expected: Numbers, what: string) => assertSameBits(actual, expected, "", what);

const make = (dtype: DType, values: ArrayLike<number>): Numbers =>
  dtype === "float64" ? Float64Array.from(values) : Float32Array.from(values);

test("vectors are compared against compiled code", () => {
  assertCompiled(backend());
});

const SIZES = [...Array.from({ length: 130 }, (_, n) => n), 4095, 4096, 4097, 20_011];
const GUARD = 3;

for (const dtype of DTYPES) {
  for (const special of [false, true]) {
    test(
      `combine() gives the same bits everywhere, for ${dtype}, ${special ? "special" : "ordinary"} values, all sizes`,
      LIMIT,
      () => {
        const numbers = (seed: number, n: number) =>
          make(dtype, special ? numbersFor(seed, n) : hashNumbers(seed, n, 3));
        for (let variant = 0; variant < 16; variant++) {
          const [negate, add, scale, sum] = [1, 2, 4, 8].map((bit) => (variant & bit) !== 0);
          for (const n of SIZES.filter((n) => n < 36 || n > 4000 || n % 4 === variant % 4)) {
            const x = numbers(n + 1, n), y = numbers(n + 2, n), z = numbers(n + 3, n);
            const run = (on: Backend, threads: number, alias: number) => {
              const memory = numbers(n + 4, n + 2 * GUARD + n % 5), before = memory.slice();
              const at = GUARD + n % 5, place = memory.subarray(at, at + n);
              const given: Numbers[] = [x, y, z].map((v) => v.slice());
              if (alias > 0) {
                place.set(given[alias - 1]!);
                given[alias - 1] = place;
              }
              const pass: Combination = {
                n,
                x: given[0]!,
                y: add ? given[1]! : null,
                z: sum ? given[2]! : null,
                out: place,
                negate: negate!,
                a: -1.7,
                c: scale ? 0.3 : null,
              };
              const sums = on.combine(pass, threads);
              before.set(place, at); // the rest is guards
              sameBits(memory, before, "the elements around out");
              return make("float64", [...place, sums.dot, sums.largest]);
            };
            const aliases = [0, 1, ...(add ? [2] : []), ...(sum ? [3] : [])];
            const wanted = run(jsBackend, 1, 0);
            for (const alias of aliases) {
              sameBits(run(jsBackend, 1, alias), wanted, `n ${n}, TypeScript, out is ${alias}`);
            }
            if (n > 130 || n % 16 < 3) {
              everywhere((native, threads, what) => {
                for (const alias of aliases) {
                  sameBits(
                    run(native, threads, alias),
                    wanted,
                    `n ${n}, ${what}, variant ${variant}, out is ${alias}`,
                  );
                }
              });
            } else {
              sameBits(run(bestBackend(), 1, 0), wanted, `n ${n}`);
            }
          }
        }
      },
    );
  }

  test(`combine() computes what it says, for ${dtype}`, () => {
    const x = make(dtype, [1, -2, 3]),
      y = make(dtype, [10, 20, 30]),
      z = make(dtype, [1, 2, 4]),
      out = make(dtype, [0, 0, 0]);
    for (const on of [jsBackend, bestBackend()]) {
      const sums = on.combine({ n: 3, x, y, z, out, negate: true, a: 0.5, c: 2 }, 1);
      assertEquals(Array.from(out), [8, 24, 24]);
      assertEquals(sums, { dot: 8 + 48 + 96, largest: 24 });
      assertEquals(on.combine({ n: 3, x, y: null, z: null, out, negate: false, a: 0, c: null }, 1), {
        dot: 0,
        largest: 0,
      });
      assertEquals(Array.from(out), [1, -2, 3]);
    }
  });

  test(`packed matrices give the same bits everywhere, for ${dtype} and all sizes`, LIMIT, () => {
    for (const n of [...Array.from({ length: 36 }, (_, i) => i), 63, 64, 65, 127, 128, 129, 200, 4200]) {
      if (n === 4200 && dtype === "float64") continue; // 70 MB; float32 has the same blocks
      const size = n * (n + 1) / 2, h = make(dtype, hashNumbers(n + 1, size, 2));
      const v = make(dtype, hashNumbers(n + 2, n, 2)), u = make(dtype, hashNumbers(n + 3, n, 2));
      const run = (on: Backend, threads: number) => {
        const memory = make(dtype, new Float64Array(size + 2 * GUARD).fill(7)),
          out = make(dtype, new Float64Array(n + 1).fill(7));
        const matrix = memory.subarray(GUARD, GUARD + size);
        matrix.set(h);
        on.packedProduct(n, matrix, v, out.subarray(0, n), threads);
        on.packedUpdate(n, matrix, u, v, threads);
        for (const k of [0, 1, 2, size + 3, size + 4, size + 5]) assertEquals(memory[k], 7);
        assertEquals(out[n], 7);
        return [out, memory] as const;
      };
      const [out, memory] = run(jsBackend, 1);
      const same = (native: Backend, threads: number, what: string) => {
        const [o, m] = run(native, threads);
        sameBits(o, out, `the product, n ${n}, ${what}`);
        sameBits(m, memory, `the update, n ${n}, ${what}`);
      };
      if (n < 1000) everywhere(same);
      else for (const threads of [1, 2]) same(bestBackend(), threads, `${threads} threads`);
    }
  });

  test(`packed matrices are symmetric matrices, for ${dtype}`, () => {
    const n = 70,
      full = Array.from(
        { length: n },
        (_, i) => Array.from({ length: n }, (_, j) => Math.sin(1 + i * j) + 1 / (1 + i + j)),
      );
    const h = make(dtype, full.flatMap((row, i) => row.slice(0, i + 1)));
    const v = make(dtype, hashNumbers(1, n, 1)),
      u = make(dtype, hashNumbers(2, n, 1)),
      out = make(dtype, new Float64Array(n));
    const eps = dtype === "float64" ? 1e-13 : 1e-5; // some roundings of sums of 70 terms
    for (const on of [jsBackend, bestBackend()]) {
      const matrix = h.slice();
      on.packedProduct(n, matrix, v, out, 1);
      full.forEach((row, i) => {
        const want = row.reduce((sum, x, j) => sum + x * v[j]!, 0);
        assert(Math.abs(out[i]! - want) < eps * n, `row ${i}: ${out[i]} instead of ${want}`);
      });
      on.packedUpdate(n, matrix, u, v, 1);
      for (let i = 0; i < n; i++) {
        for (let j = 0; j <= i; j++) {
          const want = full[i]![j]! - u[i]! * v[j]! - v[i]! * u[j]!;
          assert(Math.abs(matrix[i * (i + 1) / 2 + j]! - want) < eps, `element ${i}, ${j}`);
        }
      }
    }
  });
}

test("vectors that do not fit are refused before anything is written", () => {
  const native = bestBackend(), x = new Float64Array(5), out = new Float64Array(4).fill(7);
  assertThrows(() => native.combine({ n: 5, x, y: null, z: null, out, negate: false, a: 0, c: null }, 1), RangeError);
  assertThrows(
    () => native.combine({ n: 4, x: new Float32Array(4), y: null, z: null, out, negate: false, a: 0, c: null }, 1),
    RangeError,
  );
  assertThrows(() => native.packedProduct(5, new Float64Array(14), x, new Float64Array(5), 1), RangeError);
  assertThrows(() => native.packedUpdate(5, new Float64Array(15), x, new Float32Array(5), 1), RangeError);
  assertEquals(Array.from(out), [7, 7, 7, 7]);
});
