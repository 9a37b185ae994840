/** Rules that look at a whole tensor, and products: implementations, instruction sets and thread counts, bit for bit. */

import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { backend, type DType, Parameter, type TypedArray } from "../mod.ts";
import type { Backend, Product } from "../ffi/backend.ts";
import { jsBackend } from "../ffi/js.ts";
import { bestBackend } from "../ffi/load.ts";
import { DTYPES } from "../src/dtype.ts";
import { arraysOf, assertSameBits } from "./support/bits.ts";
import { type AnyOptimizer, TENSOR_ROWS, type TensorRow } from "./support/classes.ts";
import { everywhere } from "./support/backends.ts";
import { hashNumbers, typed } from "./support/golden.ts";
import { assertCompiled } from "./support/runtime.ts";

/** Bun's own limit is five seconds, which a busy machine may need. */
const LIMIT = { timeout: 180_000 };

test("rules for whole tensors are compared against the native library", LIMIT, () => {
  assertCompiled(backend());
});

const MATRICES = [[1, 1], [1, 2], [2, 1], [3, 3], [1, 37], [37, 1], [5, 16], [16, 5], [17, 33], [64, 8], [65, 31], [
  129,
  70,
]];
const SHAPES: Record<TensorRow["name"], readonly (readonly number[])[]> = {
  Adafactor: [
    ...MATRICES,
    [],
    [1],
    [15],
    [4096],
    [9001],
    [2, 3, 4],
    [3, 1, 5, 2],
    [4, 66, 7],
    [1, 4099],
    [3, 2049],
    [0],
    [0, 5],
    [5, 0],
    [2, 0, 3],
    [0, 2, 4],
    [0, 0, 0],
  ],
  Muon: [...MATRICES, [0, 4], [4, 0], [0, 0]],
};

const SPECIAL = [NaN, Infinity, -Infinity, 0, -0, 1e-40, 3e38, -3e38, 1e-20, 65504, 6e-8, 1e300, 1e-310];

/** Numbers of several magnitudes; with `special`, a strange one here and there. */
function numbersFor(seed: number, n: number, special: boolean): Float64Array {
  const values = hashNumbers(seed, n, 2), pick = hashNumbers(seed + 1, n, 1);
  return values.map((v, i) => {
    const r = pick[i]!;
    if (special && r > 0.99) return SPECIAL[(i + seed) % SPECIAL.length]!;
    return r < -0.7 ? v * 1e-4 : r > 0.7 && r < 0.8 ? v * 1e2 : v;
  });
}

/** An array between guard elements. */
function guarded(values: Float64Array, dtype: DType): { view: TypedArray; check(): void } {
  const all = new Float64Array(values.length + 34).fill(7);
  all.set(values, 17);
  const memory = typed(all, dtype), before = memory.slice();
  const view = memory.subarray(17, 17 + values.length);
  return {
    view,
    check() {
      for (let i = 0; i < 17; i++) {
        for (const at of [i, memory.length - 1 - i]) {
          assertEquals(memory[at], before[at], `a guard element was written`);
        }
      }
    },
  };
}

/** Three steps of parameters of all shapes; parameters and state. */
function run(
  make: AnyOptimizer,
  shapes: readonly (readonly number[])[],
  variant: Record<string, unknown>,
  dtype: DType,
  special: boolean,
): TypedArray[] {
  const guards: { check(): void }[] = [];
  const array = (seed: number, n: number) => {
    const { view, check } = guarded(numbersFor(seed, n, special), dtype);
    guards.push({ check });
    return view;
  };
  const params = shapes.map((shape, i) =>
    new Parameter(array(i, shape.reduce((a, b) => a * b, 1)), { shape: [...shape], dtype })
  );
  const optimizer = new make(params, variant);
  for (const step of [1, 2, 3]) {
    params.forEach((p, i) => p.grad = step === 2 && i % 5 === 4 ? null : array(1000 * step + i, p.size));
    optimizer.step();
  }
  guards.forEach((guard) => guard.check());
  return params.flatMap((p) => [p.data, ...Object.values(optimizer.state.get(p) ?? {}).flatMap(arraysOf)]);
}

for (const { name, make, variants } of TENSOR_ROWS) {
  for (const dtype of DTYPES) {
    test(
      `${name} has the same bits in ${dtype} for every implementation, instruction set and thread count`,
      LIMIT,
      () => {
        for (const variant of variants) {
          for (const special of [false, true]) {
            const expected = run(make, SHAPES[name], { ...variant, foreach: false, fused: false }, dtype, special);
            everywhere((_native, _threads, what) => {
              const actual = run(make, SHAPES[name], { ...variant, foreach: true }, dtype, special);
              assertEquals(actual.length, expected.length);
              actual.forEach((a, i) =>
                assertSameBits(
                  a,
                  expected[i]!,
                  dtype,
                  `${JSON.stringify(variant)}, ${what}, special ${special}, array ${i}`,
                )
              );
            }, special ? [2] : [1, 2, 5]);
          }
        }
      },
    );
  }
}

/** What the product of two matrices is, by its definition. */
function product(p: Product, round: (x: number) => number): Float64Array {
  const out = new Float64Array(p.m * p.n);
  for (let i = 0; i < p.m; i++) {
    for (let j = 0; j < p.n; j++) {
      let sum = 0;
      for (let t = 0; t < p.k; t++) {
        const a = p.a[p.aTransposed ? t * p.m + i : i * p.k + t]!, b = p.b[p.bTransposed ? j * p.k + t : t * p.n + j]!;
        sum = round(sum + round(a * b));
      }
      const scaled = round(round(p.alpha) * sum), at = i * p.n + j;
      out[at] = p.add ? round(round(round(p.beta) * p.add[at]!) + scaled) : scaled;
    }
  }
  return out;
}

/** Sizes [m, n, k] up to 40, and some around what the library blocks by. */
const SIZES: [number, number, number][] = [
  ...Array.from({ length: 40 }, (_, i): [number, number, number] => [i + 1, (i * 7) % 40 + 1, (i * 11) % 40 + 1]),
  ...Array.from({ length: 40 }, (_, i): [number, number, number] => [i + 1, i + 1, i + 1]),
  [0, 3, 4],
  [3, 0, 4],
  [3, 4, 0],
  [1, 1, 1000],
  [97, 193, 257],
  [100, 385, 3],
  [389, 7, 300],
  [193, 193, 259],
];

for (const dtype of ["float32", "float64"] as const) {
  test(
    `products of matrices of any size have the bits of three plain loops in ${dtype}, and nothing else is written`,
    LIMIT,
    () => {
      const round = dtype === "float64" ? (x: number) => x : Math.fround;
      const cases = SIZES.flatMap(([m, n, k], i): { p: Product; check(): void }[] => {
        const array = (seed: number, length: number) => guarded(hashNumbers(seed, length, 2), dtype);
        const all: { p: Product; check(): void }[] = [];
        const kinds = m > 90 ? [i % 4] : [0, 1, 2, 3];
        for (const kind of kinds) {
          const out = array(4, m * n), add = kind % 2 === 0 ? null : array(3, m * n);
          all.push({
            p: {
              ...{ m, n, k, alpha: 2.03125, beta: -4.775, symmetric: false },
              a: array(1, m * k).view as Float64Array,
              b: array(2, k * n).view as Float64Array,
              add: (add?.view ?? null) as Float64Array | null,
              out: out.view as Float64Array,
              aTransposed: kind === 1 || kind === 2,
              bTransposed: kind >= 2,
            },
            check: () => out.check(),
          });
        }
        if (m === n) { // x xᵀ, and xᵀ x with something symmetric added
          for (const transposed of [false, true]) {
            const x = array(5, m * k).view as Float64Array, out = array(6, m * m);
            const add = transposed ? typed(hashNumbers(7, m * m, 1), dtype) as Float64Array : null;
            add?.forEach((_, at) => add[at] = add[Math.min(at, at % m * m + Math.floor(at / m))]!);
            all.push({
              p: {
                ...{ m, n: m, k, alpha: 1, beta: 0.5, symmetric: true, a: x, b: x, add, out: out.view as Float64Array },
                ...{ aTransposed: transposed, bTransposed: !transposed },
              },
              check: () => out.check(),
            });
          }
        }
        return all;
      });
      const expected = cases.map(({ p }) => typed(product(p, round), dtype));
      const compare = (which: Backend, threads: number, what: string) => {
        cases.forEach(({ p, check }, i) => {
          p.out.fill(NaN);
          which.matmul(p, threads);
          const { m, n, k, symmetric, aTransposed, bTransposed } = p;
          const title = JSON.stringify({ m, n, k, symmetric, aTransposed, bTransposed });
          assertSameBits(p.out, expected[i]!, dtype, `${title} ${what}`);
          check();
        });
      };
      compare(jsBackend, 1, "in TypeScript");
      everywhere(compare);
    },
  );
}

test("a product refuses arrays that are too short, and a symmetric one that is not square", LIMIT, () => {
  const x = new Float32Array(12), y = new Float32Array(11);
  const p: Product = {
    ...{ m: 3, n: 3, k: 4, a: x, b: x, add: null, out: new Float32Array(9), symmetric: false, alpha: 1, beta: 0 },
    ...{ aTransposed: false, bTransposed: false },
  };
  const native = bestBackend();
  const messageOf = (changes: Partial<Product>): string => {
    try {
      native.matmul({ ...p, ...changes }, 1);
    } catch (error) {
      return (error as Error).message;
    }
    return "nothing";
  };
  assertEquals(messageOf({}), "nothing");
  const short = "a product of [3, 4] and [4, 3] does not fit into arrays of these lengths";
  assertEquals([messageOf({ a: y }), messageOf({ b: y }), messageOf({ out: new Float32Array(8) })], [
    short,
    short,
    short,
  ]);
  assertEquals(messageOf({ add: new Float32Array(8) }), short);
  assert(messageOf({ m: 2, symmetric: true }).endsWith("a shape that the rule does not take"));
});
