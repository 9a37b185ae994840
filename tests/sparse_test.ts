/** Steps with sparse gradients: the same bits in every way, the named rows only, mixed with dense ones. */

import { test } from "node:test";
import { assert, assertEquals, assertInstanceOf, assertStrictEquals, assertThrows } from "@std/assert";
import {
  Adagrad,
  Adam,
  backend,
  type DType,
  getNumThreads,
  type Optimizer,
  Parameter,
  setNumThreads,
  SGD,
  SparseAdam,
  SparseTensor,
  type TypedArray,
} from "../mod.ts";
import type { Job } from "../ffi/backend.ts";
import { GRAIN } from "../ffi/backend.ts";
import { bestBackend } from "../ffi/load.ts";
import { DTYPES, isTypedArray } from "../src/dtype.ts";
import { isas } from "./support/backends.ts";
import { arraysOf, assertSameBits } from "./support/bits.ts";
import { type AnyOptimizer, type Row, ROWS, SPARSE_ADAM } from "./support/classes.ts";
import { hashNumbers, plain, typed } from "./support/golden.ts";
import { assertCompiled } from "./support/runtime.ts";

const FOR_LOOP = { foreach: false, fused: false };

/** The classes that take sparse gradients, with options that do. */
const SPARSE_ROWS: readonly Row[] = [
  ...["SGD", "Adagrad"].map((name) => {
    const row = ROWS.find((r) => r.name === name)!;
    const variants = row.variants.map(({ weightDecay: _, ...options }) => options);
    return { ...row, variants: [...variants, { lr: 0.1, maximize: true }] };
  }),
  SPARSE_ADAM,
];

/** Shapes with their sparse dimensions; an index has 0, 1, 3, 64 or 300 elements. */
const LAYOUTS: readonly [number[], number][] = [
  [[40, 3], 1],
  [[500], 1],
  [[6, 7], 2],
  [[9, 8, 8], 1],
  [[5, 4, 300], 2],
  [[3000, 1], 1],
  [[4, 0], 1],
];

/** Entries of each step: none, one, unsorted with duplicates, more of them, and rising. */
const COUNTS = [0, 1, 5, 23, 4, 0, 9];

function gradient(seed: number, nnz: number, shape: readonly number[], dims: number, dtype: DType): SparseTensor {
  const length = shape.slice(dims).reduce((a, b) => a * b, 1);
  const indices = shape.slice(0, dims).map((n, d) => {
    const list = Array.from(hashNumbers(seed * 31 + d, nnz, 1), (x) => Math.floor((x + 1) / 2 * n));
    return nnz === 4 && dims === 1 ? [0, 1, 2, 3] : list;
  });
  const values = hashNumbers(seed, nnz * length, 2).map((x, i) =>
    i % 17 === 5 ? [NaN, Infinity, -0, 1e-40][i % 4]! : x
  );
  return new SparseTensor(indices, typed(values, dtype), shape, { dtype });
}

/** Parameters of all layouts, each within a bigger array, and what is around them. */
function makeParameters(dtype: DType): { params: Parameter[]; check: () => void } {
  const guards: (() => void)[] = [];
  const params = LAYOUTS.map(([shape], k) => {
    const size = shape.reduce((a, b) => a * b, 1), memory = typed(hashNumbers(k, size + 9 + k, 2), dtype);
    const before = memory.slice(), at = 1 + k;
    guards.push(() => {
      assertSameBits(memory.subarray(0, at), before.subarray(0, at), dtype, "what is before a parameter");
      assertSameBits(memory.subarray(at + size), before.subarray(at + size), dtype, "what is behind a parameter");
    });
    return new Parameter(memory.subarray(at, at + size), { shape, dtype });
  });
  return { params, check: () => guards.forEach((guard) => guard()) };
}

/** Steps on parameters of all layouts; returns parameters and state, and how often each row was named. */
function run(make: AnyOptimizer, options: Record<string, unknown>, dtype: DType): TypedArray[] {
  const { params, check } = makeParameters(dtype), optimizer = new make(params, options);
  const start = params.map((p) => p.data.slice()), named = params.map(() => new Set<number>());
  COUNTS.forEach((nnz, t) => {
    const grads = params.map((p, k) => gradient(100 * t + k, nnz, p.shape, LAYOUTS[k]![1], dtype));
    const before = grads.map((grad) => grad.values.slice());
    params.forEach((p, k) => {
      p.grad = t === 2 && k === 0 ? null : grads[k]!;
      if (p.grad) rowsOf(grads[k]!).forEach((row) => named[k]!.add(row));
    });
    optimizer.step();
    grads.forEach((grad, k) => assertSameBits(grad.values, before[k]!, dtype, "a gradient"));
  });
  check();
  return params.flatMap((p, k) => {
    assertOnly(p, p.data, start[k]!, named[k]!, LAYOUTS[k]![1]);
    const state = Object.values(optimizer.state.get(p) ?? {});
    for (const value of state) {
      if (isTypedArray(value)) assertOnly(p, value, initial(value, optimizer), named[k]!, LAYOUTS[k]![1]);
    }
    return [p.data, ...state.flatMap(arraysOf)];
  });
}

/** A dense state tensor as it was made. */
function initial(tensor: TypedArray, optimizer: Optimizer): TypedArray {
  const dtype = optimizer.paramGroups[0]!.params[0]!.dtype;
  const value = optimizer.paramGroups[0]!["initialAccumulatorValue"] as number | undefined;
  return typed(new Float64Array(tensor.length).fill(value ?? 0), dtype);
}

/** The rows that a gradient names. */
function rowsOf({ indices, shape, sparseDims, nnz }: SparseTensor): number[] {
  return Array.from({ length: nnz }, (_, i) => {
    let row = 0;
    for (let d = 0; d < sparseDims; d++) row = row * shape[d]! + indices[d * nnz + i]!;
    return row;
  });
}

/** Throws if an element of another row than the named ones has changed. */
function assertOnly(
  p: Parameter,
  array: TypedArray,
  start: TypedArray,
  named: ReadonlySet<number>,
  dims: number,
): void {
  const length = p.shape.slice(dims).reduce((a, b) => a * b, 1);
  for (let row = 0; row * length < p.size; row++) {
    if (named.has(row)) continue;
    const part = (of: TypedArray) => of.subarray(row * length, (row + 1) * length);
    assertSameBits(part(array), part(start), p.dtype, `row ${row}, which no gradient names`);
  }
}

test("sparse steps are compared against the native library", () => {
  assertCompiled(backend());
});

for (const row of SPARSE_ROWS) {
  for (const dtype of DTYPES) {
    test(`${row.name} has the same bits with sparse ${dtype} gradients in every way, and changes named rows only`, () => {
      const native = bestBackend(), best = native.isa, threads = getNumThreads();
      try {
        for (const variant of row.variants) {
          const expected = run(row.make, { ...variant, ...FOR_LOOP }, dtype);
          for (const isa of isas(native)) {
            for (const [n, options] of [[1, { fused: true }], [3, { foreach: true }], [2, {}]] as const) {
              native.setIsa(isa);
              setNumThreads(n);
              native.setGrain(64);
              const what = `${JSON.stringify({ ...variant, ...options })} ${isa}, ${n} threads`;
              run(row.make, { ...variant, ...options }, dtype).forEach((array, i) => {
                assertSameBits(array, expected[i]!, dtype, `${what}, array ${i}`);
              });
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

  test(`${row.name} steps rows as if each were a parameter of its own`, () => {
    const shape = [12, 5];
    for (const variant of row.variants) {
      if ("lrDecay" in variant || row === SPARSE_ADAM) continue; // a row's own count of steps is another one
      const table = new Parameter(Float32Array.from(hashNumbers(1, 60, 2)), { shape });
      const rows = Array.from({ length: 12 }, (_, r) => new Parameter(table.data.slice(5 * r, 5 * r + 5)));
      const whole = new row.make([table], variant), apart = new row.make(rows, variant), seen = new Set<number>();
      for (let t = 0; t < 6; t++) {
        const grad = table.grad = gradient(t, 6, shape, 1, "float32"), sum = grad.coalesce();
        const named = [...sum.indices], momentum = "momentum" in variant;
        rows.forEach((p, r) => {
          const k = named.indexOf(r);
          if (k >= 0 && momentum && t > 0 && !seen.has(r)) { // a row that comes late begins with a momentum of 0
            apart.state.set(p, { momentumBuffer: new Float32Array(5) });
          }
          if (k >= 0) seen.add(r);
          p.grad = k >= 0 ? sum.values.slice(5 * k, 5 * k + 5) : momentum && seen.has(r) ? new Float32Array(5) : null;
        });
        whole.step();
        apart.step();
        rows.forEach((p, r) => {
          const what = `${JSON.stringify(variant)}, row ${r} after step ${t + 1}`;
          assertSameBits(table.data.slice(5 * r, 5 * r + 5), p.data, "float32", what);
        });
      }
    }
  });
}

test("SparseAdam runs compiled code, as the class that the implementations are compared with", () => {
  for (const dtype of DTYPES) {
    const own = run(SparseAdam as unknown as AnyOptimizer, { lr: 0.1 }, dtype);
    const other = run(SPARSE_ADAM.make, { lr: 0.1, fused: true }, dtype);
    own.forEach((array, i) => assertSameBits(array, other[i]!, dtype, `array ${i}`));
  }
  assertEquals(
    jobsOf(() => {
      const p = new Parameter([1, 2]);
      p.grad = new SparseTensor([[1]], [1], [2]);
      new SparseAdam([p]).step();
    }).length,
    1,
  );
  const strange = { foreach: true } as Record<string, unknown>;
  assertThrows(() => new SparseAdam([new Parameter([1])], strange), TypeError, "it has lr, betas, eps, maximize");
});

/** The jobs of the native calls that something makes, call by call. */
function jobsOf(body: () => void): (readonly Job[])[] {
  const native = bestBackend(), run = native.run.bind(native), calls: Job[][] = [];
  native.run = (jobs, threads) => {
    calls.push([...jobs]);
    run(jobs, threads);
  };
  try {
    body();
  } finally {
    delete (native as { run?: unknown }).run; // the method of the class again
  }
  return calls;
}

test("dense and sparse gradients of all groups go in one native call", () => {
  const [a, b, c, d] = [0, 1, 2, 3].map(() => new Parameter(new Float32Array(8).fill(1), { shape: [4, 2] }));
  for (const make of [SGD, Adagrad]) {
    const optimizer = new make([{ params: [a!, b!] }, { params: [c!, d!], lr: 0.5 }], { lr: 1 });
    a!.grad = c!.grad = new Float32Array(8).fill(1);
    b!.grad = d!.grad = new SparseTensor([[3, 0]], [1, 1, 1, 1], [4, 2]);
    const calls = jobsOf(() => optimizer.step());
    assertEquals(calls.map((jobs) => jobs.length), [4]); // for each group a job of the dense ones and one of the sparse one
    b!.grad = d!.grad = null;
    assertEquals(jobsOf(() => optimizer.step()).map((jobs) => jobs.length), [2]);
  }
});

test("dense and sparse gradients in one group give what each gives alone", () => {
  for (const { make, variants } of SPARSE_ROWS.slice(0, 2)) {
    for (const variant of variants) {
      const data = () => new Parameter(Float32Array.from(hashNumbers(5, 12, 1)), { shape: [6, 2] });
      const together = [data(), data()], alone = [data(), data()];
      const optimizers = [new make(together, variant), new make([alone[0]!], variant), new make([alone[1]!], variant)];
      for (let t = 0; t < 4; t++) {
        together[0]!.grad = alone[0]!.grad = Float32Array.from(hashNumbers(t, 12, 1));
        together[1]!.grad = alone[1]!.grad = gradient(t, 3, [6, 2], 1, "float32");
        for (const optimizer of optimizers) optimizer.step();
      }
      together.forEach((p, i) => assertSameBits(p.data, alone[i]!.data, "float32", `params[${i}]`));
    }
  }
});

test("a parameter may have dense and sparse gradients in turn", () => {
  for (const [make, options] of [[SGD, { lr: 0.5 }], [Adagrad, { lr: 0.5 }]] as const) {
    for (const how of [{}, FOR_LOOP]) {
      const make2 = make as unknown as AnyOptimizer;
      const p = new Parameter(new Float32Array(6), { shape: [3, 2] }), q = new Parameter(new Float32Array(6));
      const sparse = new make2([p], { ...options, ...how }), dense = new make2([q], { ...options, ...how });
      for (let t = 0; t < 10; t++) {
        const grad = gradient(t, 3, [3, 2], 1, "float32"), sum = grad.coalesce();
        const full = new Float32Array(6);
        sum.indices.forEach((row, k) => full.set(sum.values.subarray(2 * k, 2 * k + 2), 2 * row));
        p.grad = "sdsddddsds"[t] === "d" ? full.slice() : grad;
        q.grad = full;
        sparse.step();
        dense.step(); // a zero gradient moves nothing here
      }
      assertSameBits(p.data, q.data, "float32", make.name);
      assertEquals(sparse.state.get(p)?.["step"], dense.state.get(q)?.["step"]);
    }
  }
});

test("steps count each time, also with a gradient that has no entries", () => {
  for (const make of [Adagrad, SparseAdam]) {
    const p = new Parameter([1, 2, 3]), optimizer: Optimizer<{ lr?: number }> = new make([p]);
    for (let t = 0; t < 3; t++) {
      p.grad = new SparseTensor([[]], [], [3]);
      optimizer.step();
    }
    assertEquals([optimizer.state.get(p)!["step"], ...p.data], [3, 1, 2, 3]);
  }
});

test("zeroGrad({ setToNull: false }) leaves a sparse gradient without entries, and the tensor as it was", () => {
  const p = new Parameter(new Float32Array(8), { shape: [2, 2, 2] }), optimizer = new SGD([p]);
  const grad = p.grad = new SparseTensor([[1, 0], [0, 1]], [1, 2, 3, 4], [2, 2, 2]);
  optimizer.zeroGrad({ setToNull: false });
  assertInstanceOf(p.grad, SparseTensor);
  assertEquals([p.grad.nnz, p.grad.sparseDims, p.grad.shape, p.grad.dtype], [0, 2, [2, 2, 2], "float32"]);
  assertEquals([grad.nnz, ...grad.values], [2, 1, 2, 3, 4]);
  optimizer.step();
  optimizer.zeroGrad();
  assertStrictEquals(p.grad, null);
});

test("a parameter without elements, and one of a single row, take sparse gradients", () => {
  for (const { make } of SPARSE_ROWS) {
    const none = new Parameter(new Float32Array(), { shape: [0, 3] });
    const wide = new Parameter(new Float32Array(5), { shape: [1, 5] });
    const optimizer = new make([none, wide], { lr: 1 });
    none.grad = new SparseTensor([[]], [], [0, 3]);
    wide.grad = new SparseTensor([[0, 0]], new Float32Array(10).fill(0.5), [1, 5]);
    optimizer.step();
    assert(wide.data.every((x) => Math.abs(x + 1) < 1e-5), String(wide.data));
  }
});

test("dense-only optimizers refuse a sparse gradient by name, and SparseAdam a dense one", () => {
  const names = ROWS.map((row) => row.name).filter((name) => !["SGD", "Adagrad"].includes(name));
  assert(names.length >= 9);
  for (const { name, make } of ROWS) {
    if (!names.includes(name)) continue;
    const p = new Parameter(new Float32Array(4).fill(1), { shape: [2, 2], name: "w" }), other = new Parameter([1]);
    const optimizer = new make([other, p]), before = optimizer.stateDict();
    p.grad = new SparseTensor([[0]], [1, 1], [2, 2]);
    other.grad = Float32Array.of(1);
    const error = assertThrows(() => optimizer.step(), TypeError, `${name} does not support sparse gradients`);
    assert(
      error.message.endsWith('grad of paramGroups[0].params[1] ("w"): use SparseAdam, SGD or Adagrad'),
      error.message,
    );
    assertEquals([...p.data, ...other.data], [1, 1, 1, 1, 1]);
    assertEquals(optimizer.stateDict(), before);
  }
  const p = new Parameter([1]), optimizer = new SparseAdam([p]);
  p.grad = Float32Array.of(1);
  assertThrows(
    () => optimizer.step(),
    TypeError,
    "SparseAdam does not support dense gradients, got one as grad of paramGroups[0].params[0]: use Adam instead",
  );
  assertEquals([...p.data, optimizer.state.size], [1, 0]);
});

test("SparseAdam's first step is Adam's, but for eps", () => {
  const p = new Parameter([1, 2, 3]), q = new Parameter([1, 2, 3]);
  p.grad = new SparseTensor([[0, 1, 2]], [0.5, -1, 2], [3]);
  q.grad = Float32Array.of(0.5, -1, 2);
  new SparseAdam([p], { lr: 0.1, eps: 1e-3 * Math.sqrt(1 - 0.999) }).step();
  new Adam([q], { lr: 0.1, eps: 1e-3 }).step();
  assertSameBits(p.data, q.data, "float32", "the parameter");
  assertEquals(plain(p.data, "float32").length, 3);
});
