/** Implementations, instruction sets and thread counts, compared bit for bit. */

import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { backend, type DType, getNumThreads, Parameter, setNumThreads, type TypedArray } from "../mod.ts";
import type { Reduction } from "../ffi/backend.ts";
import { GRAIN, REDUCTIONS } from "../ffi/backend.ts";
import { jsBackend } from "../ffi/js.ts";
import { bestBackend } from "../ffi/load.ts";
import { DTYPES } from "../src/dtype.ts";
import { Arena, numbersFor } from "./support/arena.ts";
import { isas } from "./support/backends.ts";
import { arraysOf, assertSameBits } from "./support/bits.ts";
import { ROWS } from "./support/classes.ts";
import { hashNumbers, typed } from "./support/golden.ts";
import { assertCompiled } from "./support/runtime.ts";

/** Three steps on parameters of all sizes; returns parameters and state. */
function run(
  row: typeof ROWS[number],
  variant: Record<string, unknown>,
  dtype: DType,
  options: Record<string, unknown>,
): TypedArray[] {
  const arena = new Arena(dtype, 1);
  const params = arena.views.map((view) => new Parameter(view, { dtype }));
  const optimizer = new row.make(params, { ...variant, ...options });
  const grads = [2, 3, 4].map((seed) => new Arena(dtype, seed));
  for (const grad of grads) {
    params.forEach((p, i) => p.grad = grad.views[i]!);
    optimizer.step();
  }
  for (const a of [arena, ...grads]) a.assertGuards();
  return params.flatMap((p) => {
    return [p.data, ...Object.values(optimizer.state.get(p) ?? {}).flatMap(arraysOf)];
  });
}

function assertSame(actual: TypedArray[], expected: TypedArray[], dtype: DType, what: string): void {
  assertEquals(actual.length, expected.length);
  actual.forEach((a, i) => assertSameBits(a, expected[i]!, dtype, `${what}, array ${i}`));
}

test("kernels are compared against the native library", { timeout: 180_000 }, () => {
  assertCompiled(backend());
});

for (const row of ROWS) {
  for (const dtype of DTYPES) {
    test(`${row.name} has the same bits in ${dtype} for every implementation, instruction set and thread count`, {
      timeout: 180_000,
    }, () => {
      const native = bestBackend(), best = native.isa, threads = getNumThreads();
      try {
        for (const variant of row.variants) {
          const expected = run(row, variant, dtype, { foreach: false, fused: false });
          for (const isa of isas(native)) {
            native.setIsa(isa);
            assertEquals(native.isa, isa);
            for (const n of [1, 2, 5]) {
              setNumThreads(n);
              native.setGrain(64); // even little work goes to all threads
              for (const options of [{ foreach: true }, { fused: true }]) {
                const what = `${JSON.stringify({ ...variant, ...options })} ${isa}, ${n} threads`;
                assertSame(run(row, variant, dtype, options), expected, dtype, what);
              }
            }
          }
        }
      } finally {
        native.setGrain(GRAIN);
        native.setIsa(best);
        setNumThreads(threads);
      }
    });
  }
}

const LENGTHS = [0, 1, 2, 15, 16, 17, 31, 33, 4095, 4096, 4097, 3 * 4096 + 5, 300_007];

for (const op of REDUCTIONS) {
  test(`the reduction ${op} has the same bits for every backend, instruction set and thread count`, {
    timeout: 180_000,
  }, () => {
    const native = bestBackend(), best = native.isa;
    try {
      for (const dtype of DTYPES) {
        const finite = (seed: number) => LENGTHS.map((n) => typed(hashNumbers(seed, n, 3), dtype));
        const sets: [TypedArray[], TypedArray[]][] = [
          [finite(1), finite(2)],
          [LENGTHS.map((n) => typed(numbersFor(1, n), dtype)), LENGTHS.map((n) => typed(numbersFor(2, n), dtype))],
        ];
        for (const [xs, ys] of sets) {
          const other = op === "dot" ? ys : null;
          const expected = jsBackend.reduce(op, dtype, xs, other, 1);
          native.setGrain(64);
          for (const isa of isas(native)) {
            native.setIsa(isa);
            for (const threads of [1, 2, 3]) {
              const actual = native.reduce(op, dtype, xs, other, threads);
              actual.forEach((a, i) => {
                assert(
                  Object.is(a, expected[i]),
                  `${op} ${dtype} n=${LENGTHS[i]} ${isa}: ${a}, expected ${expected[i]}`,
                );
              });
            }
          }
        }
      }
    } finally {
      native.setGrain(GRAIN);
      native.setIsa(best);
    }
  });
}

test("reductions are what their names say", { timeout: 180_000 }, () => {
  const x = [1, -2, 3, -4], y = [5, 6, 7, 8];
  const expected: Record<Reduction, number> = { sum: -2, sumAbs: 10, sumSq: 30, dot: -18, maxAbs: 4 };
  for (const which of [jsBackend, bestBackend()]) {
    for (const op of REDUCTIONS) {
      for (const dtype of DTYPES) {
        assertEquals(which.reduce(op, dtype, [typed(x, dtype)], op === "dot" ? [typed(y, dtype)] : null, 2), [
          expected[op],
        ]);
      }
    }
  }
});

test("a reduction of a NaN is NaN, and of nothing 0", { timeout: 180_000 }, () => {
  for (const which of [jsBackend, bestBackend()]) {
    for (const op of ["sum", "sumAbs", "sumSq", "maxAbs"] as const) {
      for (const at of [0, 5, 40]) {
        const x = new Float32Array(64).fill(1);
        x[at] = NaN;
        assert(Number.isNaN(which.reduce(op, "float32", [x], null, 1)[0]), `${op} at ${at}`);
      }
      assertEquals(which.reduce(op, "float32", [new Float32Array()], null, 1), [0]);
    }
  }
});
