/** SparseTensor: what it takes, what it refuses, coalescing; and the backends' functions for rows. */

import { test } from "node:test";
import { assert, assertEquals, assertInstanceOf, assertStrictEquals, assertThrows } from "@std/assert";
import { type DType, SparseTensor, type TypedArray } from "../mod.ts";
import type { Rule } from "../ffi/backend.ts";
import { jsBackend } from "../ffi/js.ts";
import { bestBackend } from "../ffi/load.ts";
import { DTYPES } from "../src/dtype.ts";
import { WrittenMemory } from "../src/memory.ts";
import { assertSameBits } from "./support/bits.ts";
import { ROWS } from "./support/classes.ts";
import { hashNumbers, plain, typed } from "./support/golden.ts";

test("a sparse tensor has its indices as one array, its values, and what follows from the shape", () => {
  const values = Float32Array.of(1, 2, 3, 4, 5, 6);
  const rows = new SparseTensor([[3, 1, 3]], values, [4, 2]);
  assertInstanceOf(rows.indices, Int32Array);
  assertEquals([...rows.indices], [3, 1, 3]);
  assertStrictEquals(rows.values, values);
  assertEquals([rows.shape, rows.dtype, rows.sparseDims, rows.nnz], [[4, 2], "float32", 1, 3]);
  assertEquals(String(rows), "SparseTensor(float32 [4, 2], 3 entries)");
  const elements = new SparseTensor([[0, 3], [1, 0]], [7, 8], [4, 2], { dtype: "float64" });
  assertEquals([[...elements.indices], elements.sparseDims, elements.nnz], [[0, 3, 1, 0], 2, 2]);
  assertInstanceOf(elements.values, Float64Array);
});

test("an Int32Array of indices is taken as it is, and its dimensions follow from the number of values", () => {
  const shapes: [number[], number][] = [[[5], 1], [[4, 2], 1], [[4, 2], 2], [[3, 1, 1], 2], [[2, 3, 4], 1], [
    [2, 3, 4],
    2,
  ], [[2, 3, 4], 3]];
  for (const [shape, sparseDims] of shapes) {
    const length = shape.slice(sparseDims).reduce((a, b) => a * b, 1);
    for (const nnz of [1, 2, 6]) {
      const indices = new Int32Array(sparseDims * nnz),
        tensor = new SparseTensor(
          indices,
          new Float32Array(nnz * length),
          shape,
        );
      assertStrictEquals(tensor.indices, indices);
      assertEquals([tensor.sparseDims, tensor.nnz], [sparseDims, nnz], `${shape} ${sparseDims} ${nnz}`);
    }
  }
  const empty = new SparseTensor(new Int32Array(), new Float32Array(), [4, 2]);
  assertEquals([empty.sparseDims, empty.nnz], [1, 0]);
  assertEquals(new SparseTensor([[], []], [], [4, 2]).sparseDims, 2);
});

test("wrong indices, values, shapes and options are refused by name", () => {
  const make = (...args: unknown[]) => () =>
    new SparseTensor(...args as [number[][], number[], number[], Record<string, unknown>]);
  const cases: [() => unknown, typeof TypeError | typeof RangeError, string][] = [
    [make([[0, 4]], [1, 2], [4]), RangeError, "indices[0][1] must be an integer >= 0 and < 4, got 4"],
    [make([[-1]], [1], [4]), RangeError, "indices[0][0] must be an integer >= 0 and < 4, got -1"],
    [make([[0], [2]], [1], [4, 2]), RangeError, "indices[1][0] must be an integer >= 0 and < 2, got 2"],
    [make([[0.5]], [1], [4]), RangeError, "indices[0][0] must be an integer >= 0 and < 4, got 0.5"],
    [make([[NaN]], [1], [4]), RangeError, "got NaN"],
    [make([["1"]], [1], [4]), TypeError, 'indices[0][0] must be an integer, got "1"'],
    [make([[0, 1], [0]], [1, 2], [4, 2]), RangeError, "indices[1] must have 2 elements, as indices[0] has, got 1"],
    [make([[0], 1], [1], [4, 2]), TypeError, "indices[1] must be an array of integers, got 1"],
    [make([0], [1], [4, 2]), TypeError, "indices[0] must be an array of integers, got 0"],
    [make([], [], [4]), RangeError, "indices must have 1 to 1 arrays for a tensor of shape [4], got 0"],
    [make([[0], [0]], [1], [4]), RangeError, "indices must have 1 to 1 arrays for a tensor of shape [4], got 2"],
    [make("0", [1], [4]), TypeError, 'indices must be an Int32Array or an array of arrays of integers, got "0"'],
    [make(new Float32Array(1), [1], [4]), TypeError, "got a Float32Array of 1"],
    [make(null, [1], [4]), TypeError, "indices must be an Int32Array or an array of arrays of integers, got null"],
    [make(Int32Array.of(7), [1], [4]), RangeError, "indices[0][0] must be >= 0 and < 4, got 7"],
    [make(Int32Array.of(-3), [1], [4]), RangeError, "indices[0][0] must be >= 0 and < 4, got -3"],
    [
      make(new Int32Array(3), new Float32Array(5), [4, 2]),
      RangeError,
      "indices of 3 elements and values of 5 do not go together for a tensor of shape [4, 2]",
    ],
    [make([[0]], [1], [4, 2]), RangeError, "values must have 2 elements, 1 entries of shape [2], got 1"],
    [make([[0]], [1, "2"], [4, 2]), TypeError, 'values[1] must be a number, got "2"'],
    [make([[0]], 1, [4]), TypeError, "values must be a Float32Array or an array of numbers, got 1"],
    [make([[0]], new Int32Array(1), [4]), TypeError, "got an Int32Array of 1"],
    [make([[0]], new Uint16Array(1), [4]), TypeError, 'dtype must be "bfloat16" or "float16" for a Uint16Array'],
    [make([[0]], new Float32Array(1), [4], { dtype: "float64" }), TypeError, 'dtype must be "float32"'],
    [make([[0]], [1], [4], { dtype: "float8" }), TypeError, 'dtype must be one of "float32"'],
    [make([[0]], [1], [4], { dims: 1 }), TypeError, 'SparseTensor has no option "dims"; it has dtype'],
    [make([[0]], [1], [4], null), TypeError, "options must be an object, got null"],
    [make([[0]], [1], 4), TypeError, "shape must be an array of lengths, got 4"],
    [make([[0]], [1], undefined), TypeError, "shape must be an array of lengths, got undefined"],
    [make([[0]], [1], [-4]), RangeError, "shape must be integers >= 0, got [-4]"],
    [make([[0]], [1], []), RangeError, "shape must have at least one dimension, got []"],
    [make([[0]], [1], [2 ** 32]), RangeError, "shape must have less than 2^32 elements in its 1 sparse dimensions"],
  ];
  for (const [call, type, message] of cases) assertThrows(call, type, message);
});

/** What coalesce() is to give, the slow way: rows by key, added one after the other. */
function naive(tensor: SparseTensor): { indices: number[]; values: Float64Array } {
  const { nnz, sparseDims, dtype, indices } = tensor, length = nnz === 0 ? 0 : tensor.values.length / nnz;
  const all = plain(tensor.values, dtype), sums = new Map<string, Float64Array>();
  const round = dtype === "float64" ? (x: number) => x : Math.fround;
  for (let i = 0; i < nnz; i++) {
    const key = Array.from({ length: sparseDims }, (_, d) => String(indices[d * nnz + i]).padStart(9, "0")).join();
    const entry = all.slice(i * length, (i + 1) * length), sum = sums.get(key);
    sums.set(key, sum ? sum.map((x, k) => round(x + entry[k]!)) : entry);
  }
  const keys = [...sums.keys()].sort();
  const flat = Array.from({ length: sparseDims }, (_, d) => keys.map((key) => Number(key.split(",")[d]))).flat();
  return { indices: flat, values: Float64Array.from(keys.flatMap((key) => [...sums.get(key)!])) };
}

/** Indices below the lengths, with many duplicates. */
function someIndices(seed: number, lengths: readonly number[], nnz: number): number[][] {
  return lengths.map((n, d) => Array.from(hashNumbers(seed + d, nnz, 1), (x) => Math.floor((x + 1) / 2 * n)));
}

test("coalesce() sorts the indices and adds duplicates up in their order, in every dtype and layout", () => {
  const layouts: [number[], number][] = [[[7], 1], [[300, 5], 1], [[70_000, 3], 1], [[40, 9], 2], [[5, 6, 4], 2]];
  for (const dtype of DTYPES) {
    for (const [shape, dims] of layouts) {
      for (const nnz of [0, 1, 2, 50, 1000]) {
        const length = shape.slice(dims).reduce((a, b) => a * b, 1);
        const values = typed(hashNumbers(nnz, nnz * length, 1), dtype);
        const tensor = new SparseTensor(someIndices(nnz, shape.slice(0, dims), nnz), values, shape, { dtype });
        const sum = tensor.coalesce(), expected = naive(tensor), what = `${dtype} ${shape} ${dims} ${nnz}`;
        assertEquals([...sum.indices], expected.indices, what);
        assertEquals([sum.shape, sum.dtype, sum.sparseDims], [tensor.shape, dtype, dims], what);
        assertSameBits(sum.values, typed(expected.values, dtype), dtype, what);
        assert(sum.values !== tensor.values && sum.indices !== tensor.indices);
        const again = sum.coalesce();
        assertEquals([...again.indices], [...sum.indices]);
        assertSameBits(again.values, sum.values, dtype, what);
        assert(again.values !== sum.values, "it is a tensor of its own");
      }
    }
  }
});

test("duplicates are added in the order in which they stand, 16-bit ones in float32 and rounded once", () => {
  const sum = (values: number[], dtype: DType) => {
    const tensor = new SparseTensor([values.map(() => 0)], typed(values, dtype), [1], { dtype }).coalesce();
    return plain(tensor.values, dtype)[0];
  };
  assertEquals([sum([2 ** 24, 1, -(2 ** 24)], "float32"), sum([2 ** 24, -(2 ** 24), 1], "float32")], [0, 1]);
  assertEquals(sum([2 ** 24, 1, -(2 ** 24)], "float64"), 1);
  assertEquals(sum([1, 2 ** -9, 2 ** -9, 2 ** -9], "bfloat16"), 1 + 2 ** -7); // each alone would vanish
  assertEquals(sum([1, 2 ** -12, 2 ** -12, 2 ** -12], "float16"), 1 + 2 ** -10);
});

test("indices that have been changed since are found out", () => {
  const tensor = new SparseTensor(Int32Array.of(0, 1), [1, 2], [4]);
  tensor.indices[1] = 4;
  assertThrows(() => tensor.coalesce(), RangeError, "indices[0][1] must be >= 0 and < 4, got 4");
});

const RULE: Rule = ROWS.find((row) => row.name === "SGD")!.rule;

for (const [name, backend] of [["TypeScript", () => jsBackend], ["native", bestBackend]] as const) {
  test(`rows are added up alike by every backend, and rows that are not there are refused (${name})`, () => {
    const rows = backend();
    for (const dtype of DTYPES) {
      for (const length of [1, 3, 64, 1024, 2500]) {
        const values = typed(hashNumbers(length, 6 * length, 2).map((x, i) => i % 7 === 1 ? -0 : x), dtype);
        const sources = Uint32Array.of(5, 0, 3, 3, 1), starts = Uint32Array.of(0, 1, 1, 4, 5);
        const sums = [typed(new Float64Array(4 * length).fill(9), dtype), typed(new Float64Array(4 * length), dtype)];
        rows.sumRows(dtype, sums[0]!, 4, length, values, sources, starts);
        jsBackend.sumRows(dtype, sums[1]!, 4, length, values, sources, starts);
        assertSameBits(sums[0]!, sums[1]!, dtype, `${dtype} ${length}`);
        assertSameBits(sums[0]!.slice(0, length), values.slice(5 * length), dtype, "a row alone is copied");
        assert(plain(sums[0]!.slice(length, 2 * length), dtype).every((x) => x === 0), "no rows are zeros");
      }
    }
  });

  test(`many rows are bound at once, within their array only (${name})`, () => {
    const job = backend().createJob(RULE, "float32", 4);
    const data = Float32Array.from({ length: 12 }, (_, i) => i), grad = new Float32Array(4).fill(1);
    job.reset(3);
    job.setRows(0, 3, 2, 0, 0);
    job.bindRows(0, 3, 0, data, 2, Uint32Array.of(0, 5, 2));
    job.bindRows(Uint32Array.of(2, 0), 2, 1, grad, 2, Uint32Array.of(1, 0));
    job.bindRows(1, 1, 1, grad, 2, null);
    job.bindHypers(Float64Array.of(1, 0, 0, 0, 100), 1);
    backend().run([job], 1);
    assertEquals([...data], [-100, -99, 2, 3, -96, -95, 6, 7, 8, 9, -90, -89]);
    assertThrows(() => job.bindRows(0, 2, 0, data, 2, Uint32Array.of(0, 6)), Error, "not there");
    assertThrows(() => job.bindRows(0, 2, 0, data, 13, null), Error);
    assertThrows(() => job.bindRows(3, 2, 0, data, 2, Uint32Array.of(0, 1)), Error);
    assertThrows(() => job.bindRows(Uint32Array.of(0, 4), 2, 0, data, 2, Uint32Array.of(0, 1)), Error);
    assertThrows(() => job.reset(5), RangeError, "a job of 4 rows cannot have 5");
    job.reset(0);
    backend().run([job], 1);
    assertEquals(data[0], -100);
  });
}

test("the native library refuses to add up rows that are not there, and changes nothing", () => {
  const native = bestBackend(), out = new Float32Array(4).fill(7), values = new Float32Array(6);
  const attempt = (sources: number[], starts: number[], to: TypedArray = out) => () =>
    native.sumRows("float32", to, 2, 2, values, Uint32Array.from(sources), Uint32Array.from(starts));
  assertThrows(attempt([0, 3], [0, 1, 2]), Error, "a row that is not there");
  assertThrows(attempt([0, 1], [1, 0, 1]), Error, "a row that is not there");
  assertThrows(attempt([0, 1], [0, 1, 3]), RangeError, "do not fit");
  assertThrows(attempt([0, 1], [0, 1, 2], new Float32Array(3)), RangeError, "do not fit");
  assertEquals([...out], [7, 7, 7, 7]);
});

test("memory that is no longer written may be read", () => {
  const written = new WrittenMemory(), array = new Float32Array(8);
  const [low, high] = [array.subarray(0, 4), array.subarray(4)];
  written.add(low, "low");
  written.add(high, "high");
  written.remove(low);
  written.checkRead(low, () => "x");
  assertThrows(() => written.checkRead(high, () => "x"), RangeError, "high");
  written.remove(high);
  written.remove(high);
  written.checkRead(array, () => "x");
});
