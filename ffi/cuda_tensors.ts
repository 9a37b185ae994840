/**
 * A step of rules that look at whole tensors, on a CUDA device: which kernels are launched one after the other, and where in
 * device memory their work is. Nothing here calls the driver.
 *
 * @module
 */

import { bytesOf, type DType } from "../src/dtype.ts";
import { REDUCE_CHUNK, REDUCTIONS, type TensorRule, type TensorShape } from "./backend.ts";
import {
  CUDA_FOLD,
  CUDA_LANES,
  CUDA_PRODUCT,
  CUDA_TENSORS,
  CUDA_TRANSPOSE,
  SUFFIX,
  TENSOR_WORD,
  TENSOR_WORDS,
} from "./cuda_kernels.ts";
import { LANES } from "./reductions.ts";

/** A kernel with what it takes, on blocks of {@linkcode BLOCK} threads. */
export interface Launch {
  /** Its name. */
  readonly kernel: string;
  /** Its parameter. */
  readonly parameter: Uint8Array;
  /** How many blocks. */
  readonly grid: number;
}

/** Threads of a block. */
export const BLOCK = 256;

/** A tile of a matrix (csrc/tensor_math.h). */
const TILE_ROWS = 64, TILE_COLUMNS = 2048;
/** A thread's rows and a warp's columns of a product (csrc/cuda.h). */
const DOWN = 8, WIDE = 128;
/** Items that a block takes where each is one element. */
const ELEMENTS = 4096;
/** Where Muon's hyperparameters are: the coefficients of its polynomial, and how often it is applied. */
const MUON_A = 4, MUON_B = 5, MUON_C = 6, MUON_STEPS = 7;

const pieces = (n: number, length: number): number => Math.ceil(n / length);

/** A tensor, and where its parts of the sums are: the first of each in the arrays of all tensors. */
interface Placed {
  readonly index: number;
  readonly n: number;
  readonly matrices: number;
  readonly rows: number;
  readonly columns: number;
  readonly strips: number;
  readonly blocks: number;
  readonly units: number;
  readonly chunks: number;
  readonly at: Readonly<Record<Part, number>>;
}

/** What there is for each tensor in scratch memory, beside the lanes of which one sum after the other makes use. */
type Part =
  | "chunk_sums"
  | "result"
  | "row_sums"
  | "column_sums"
  | "row_factors"
  | "means"
  | "factors"
  | "unit_sums"
  | "x"
  | "next";

/** Which items a kernel has, and how many of a block: a list of work in device memory. */
interface List {
  readonly at: number;
  readonly count: number;
  readonly length: number;
}

/** The launches of a step of tensors of one dtype. One device allocation of `bytes`, at a `base` of 256 bytes' alignment, has it all. */
export class TensorPlan {
  /** Bytes of the allocation. */
  readonly bytes: number;
  /** Where {@linkcode lists} go, from its start. The table is at the start. */
  readonly listsAt: number;
  readonly #words: BigUint64Array<ArrayBuffer>;
  readonly #tensors: readonly Placed[];
  readonly #parts: ReadonlyMap<Part | "lanes" | "square" | "poly" | "turned", number>;
  readonly #lists: ReadonlyMap<string, List>;
  readonly #width: number;

  constructor(readonly rule: TensorRule, readonly dtype: DType, readonly shapes: readonly TensorShape[]) {
    const real = dtype === "float64" ? 8 : 4, muon = rule.name === "muon";
    this.#width = rule.hypers.length;
    const counts = new Map<Part, number>(), tensors: Placed[] = [];
    shapes.forEach(({ batches, rows, columns }, index) => {
      const n = batches === 0 ? columns : batches * rows * columns;
      if (n === 0) return;
      const strips = pieces(columns, TILE_COLUMNS), blocks = pieces(rows, TILE_ROWS), chunks = pieces(n, REDUCE_CHUNK);
      const units = batches === 0 ? chunks : batches * blocks * strips;
      const sizes: Record<Part, number> = {
        chunk_sums: chunks,
        result: 1,
        row_sums: muon ? 0 : batches * rows * strips,
        column_sums: muon ? 0 : batches * blocks * columns,
        row_factors: muon ? 0 : batches * rows,
        means: muon ? 0 : batches,
        factors: muon ? 0 : batches * columns,
        unit_sums: muon ? 0 : units,
        x: muon ? n : 0,
        next: muon ? n : 0,
      };
      const at = {} as Record<Part, number>;
      for (const part of Object.keys(sizes) as Part[]) {
        at[part] = counts.get(part) ?? 0;
        counts.set(part, at[part] + sizes[part]);
      }
      tensors.push({ index, n, matrices: batches, rows, columns, strips, blocks, units, chunks, at });
    });
    this.#tensors = tensors;

    let end = 0;
    const place = (bytes: number): number => {
      const at = end;
      end = Math.ceil((at + bytes) / 256) * 256;
      return at;
    };
    place(tensors.length * (TENSOR_WORDS + this.#width) * 8);
    this.listsAt = end;
    const words: bigint[] = [], lists = new Map<string, List>();
    const list = (name: string, items: (t: Placed) => number, length: number) => {
      const at = words.length * 8;
      tensors.forEach((t, row) => {
        for (let first = 0; first < items(t); first += length) words.push(BigInt(row), BigInt(first));
      });
      lists.set(name, { at: this.listsAt + at, count: (words.length * 8 - at) / 16, length });
    };
    list("chunks", (t) => t.n, REDUCE_CHUNK);
    list("one", () => 1, 1);
    if (muon) {
      list("elements", (t) => t.n, ELEMENTS);
    } else {
      list("row_lanes", (t) => t.matrices * t.rows * t.strips * LANES, BLOCK);
      list("columns_of_blocks", (t) => t.matrices * t.blocks * t.columns, BLOCK);
      list("rows", (t) => t.matrices * t.rows, BLOCK);
      list("matrices", (t) => t.matrices, BLOCK);
      list("columns", (t) => t.matrices * t.columns, BLOCK);
      list("tile_lanes", (t) => t.matrices === 0 ? 0 : t.units * LANES, BLOCK);
      list("chunk_lanes", (t) => t.matrices === 0 ? t.units * LANES : 0, BLOCK);
      list("matrix_elements", (t) => t.matrices === 0 ? 0 : t.n, ELEMENTS);
      list("vector_elements", (t) => t.matrices === 0 ? t.n : 0, ELEMENTS);
    }
    this.#words = BigUint64Array.from(words);
    this.#lists = lists;
    place(this.#words.byteLength);
    const parts = new Map<Part | "lanes" | "square" | "poly" | "turned", number>();
    for (const [part, count] of counts) {
      parts.set(part, place(count * (["factors", "x", "next"].includes(part) ? real : 8)));
    }
    const most = (of: (t: Placed) => number) => tensors.reduce((a, t) => Math.max(a, of(t)), 0);
    const sums = (part: Part) => counts.get(part) ?? 0;
    parts.set("lanes", place(Math.max(sums("chunk_sums"), sums("row_sums"), sums("unit_sums")) * LANES * 8));
    if (muon) {
      const square = most((t) => Math.min(t.rows, t.columns) ** 2) * real;
      parts.set("square", place(square));
      parts.set("poly", place(square));
      parts.set("turned", place(most((t) => t.rows <= t.columns ? t.n : 0) * real));
    }
    this.#parts = parts;
    this.bytes = end;
  }

  /** What has to be at base + `listsAt`; it never changes. */
  lists(): BigUint64Array<ArrayBuffer> {
    return this.#words;
  }

  /**
   * What has to be at `base` when a step begins: the tensors' table and their hyperparameters.
   *
   * @param addresses of each tensor's buffers, in the order of the rule's
   * @param hypers a row for each tensor
   */
  table(base: bigint, addresses: readonly (readonly bigint[])[], hypers: Float64Array): BigUint64Array<ArrayBuffer> {
    const count = this.#tensors.length, words = new BigUint64Array(count * (TENSOR_WORDS + this.#width));
    const numbers = new Float64Array(words.buffer), real = this.dtype === "float64" ? 8 : 4;
    this.#tensors.forEach((t, k) => {
      const row = words.subarray(k * TENSOR_WORDS, (k + 1) * TENSOR_WORDS),
        from = count * TENSOR_WORDS + k * this.#width;
      const put = (word: keyof typeof TENSOR_WORD, value: bigint) => row[TENSOR_WORD[word]] = value;
      const part = (name: Part, size: number) => this.#place(base, name, t.at[name] * size);
      numbers.set(hypers.subarray(t.index * this.#width, (t.index + 1) * this.#width), from);
      put("size", BigInt(t.n));
      put("matrices", BigInt(t.matrices));
      put("rows", BigInt(t.rows));
      put("columns", BigInt(t.columns));
      for (const [b, word] of (["param", "grad", "first", "second"] as const).entries()) {
        put(word, addresses[t.index]![b] ?? 0n);
      }
      put("hypers", base + BigInt(8 * from));
      put("chunk_sums", part("chunk_sums", 8));
      put("result", part("result", 8));
      if (this.rule.name === "muon") {
        const even = hypers[t.index * this.#width + MUON_STEPS]! % 2 === 0;
        put("x", part("x", real));
        put("last", part(even ? "x" : "next", real));
        return;
      }
      put("row_lanes", this.#place(base, "lanes", t.at.row_sums * LANES * 8));
      put("row_sums", part("row_sums", 8));
      put("column_sums", part("column_sums", 8));
      put("row_factors", part("row_factors", 8));
      put("means", part("means", 8));
      put("factors", part("factors", real));
      put("unit_lanes", this.#place(base, "lanes", t.at.unit_sums * LANES * 8));
      put("unit_sums", part("unit_sums", 8));
    });
    return words;
  }

  /** The launches of a step, in order. */
  launches(base: bigint, hypers: Float64Array): Launch[] {
    if (this.#tensors.length === 0) return [];
    return this.rule.name === "muon" ? this.#muon(base, hypers) : this.#adafactor(base);
  }

  #place(base: bigint, part: Part | "lanes" | "square" | "poly" | "turned", bytes = 0): bigint {
    return base + BigInt(this.#parts.get(part)! + bytes);
  }

  /** A phase over a list of items; null if there are none. */
  #phase(base: bigint, name: string, listed: string): Launch[] {
    const { at, count, length } = this.#lists.get(listed)!;
    if (count === 0) return [];
    const view = new DataView(new ArrayBuffer(CUDA_TENSORS.bytes));
    view.setBigUint64(CUDA_TENSORS.table, base, true);
    view.setBigUint64(CUDA_TENSORS.chunks, base + BigInt(at), true);
    view.setBigUint64(CUDA_TENSORS.count, BigInt(count), true);
    view.setUint32(CUDA_TENSORS.length, length, true);
    return [{
      kernel: `${this.rule.name}_${name}_${SUFFIX[this.dtype]}`,
      parameter: new Uint8Array(view.buffer),
      grid: count,
    }];
  }

  /** The lanes' sums: what the last launch left there. */
  #fold(base: bigint, into: Part): Launch[] {
    const count = this.#tensors.reduce((sum, t) => {
      return sum + (into === "chunk_sums" ? t.chunks : into === "unit_sums" ? t.units : t.matrices * t.rows * t.strips);
    }, 0);
    if (count === 0) return [];
    const view = new DataView(new ArrayBuffer(CUDA_FOLD.bytes));
    view.setBigUint64(CUDA_FOLD.lanes, this.#place(base, "lanes"), true);
    view.setBigUint64(CUDA_FOLD.out, this.#place(base, into), true);
    view.setBigUint64(CUDA_FOLD.count, BigInt(count), true);
    view.setUint32(CUDA_FOLD.op, REDUCTIONS.indexOf("sum"), true);
    return [{ kernel: "fold", parameter: new Uint8Array(view.buffer), grid: pieces(count, BLOCK) }];
  }

  /** The squares of a buffer of every tensor, chunk by chunk. */
  #squares(base: bigint, word: keyof typeof TENSOR_WORD, dtype: DType): Launch[] {
    const { at, count } = this.#lists.get("chunks")!, view = new DataView(new ArrayBuffer(CUDA_LANES.bytes));
    view.setBigUint64(CUDA_LANES.table, base, true);
    view.setBigUint64(CUDA_LANES.chunks, base + BigInt(at), true);
    view.setBigUint64(CUDA_LANES.count, BigInt(count), true);
    view.setBigUint64(CUDA_LANES.out, this.#place(base, "lanes"), true);
    view.setUint32(CUDA_LANES.words, TENSOR_WORDS, true);
    view.setUint32(CUDA_LANES.x, TENSOR_WORD[word], true);
    view.setUint32(CUDA_LANES.op, REDUCTIONS.indexOf("sumSq"), true);
    const lanes = {
      kernel: `lanes_${SUFFIX[dtype]}`,
      parameter: new Uint8Array(view.buffer),
      grid: pieces(count * LANES, BLOCK),
    };
    return [lanes, ...this.#fold(base, "chunk_sums")];
  }

  #adafactor(base: bigint): Launch[] {
    const phase = (name: string, items: string) => this.#phase(base, name, items);
    return [
      ...this.#squares(base, "param", this.dtype),
      ...phase("rows", "row_lanes"),
      ...this.#fold(base, "row_sums"),
      ...phase("columns", "columns_of_blocks"),
      ...phase("row_averages", "rows"),
      ...phase("means", "matrices"),
      ...phase("row_factors", "rows"),
      ...phase("column_averages", "columns"),
      ...phase("norm", "tile_lanes"),
      ...phase("vector_norm", "chunk_lanes"),
      ...this.#fold(base, "unit_sums"),
      ...phase("step", "one"),
      ...phase("update", "matrix_elements"),
      ...phase("vector_update", "vector_elements"),
    ];
  }

  #muon(base: bigint, hypers: Float64Array): Launch[] {
    const real: DType = this.dtype === "float64" ? "float64" : "float32";
    return [
      ...this.#phase(base, "begin", "elements"),
      ...this.#squares(base, "x", real),
      ...this.#phase(base, "norm", "one"),
      ...this.#phase(base, "scale", "elements"),
      ...this.#tensors.flatMap((t) => {
        return this.#iteration(base, t, hypers.subarray(t.index * this.#width, (t.index + 1) * this.#width), real);
      }),
      ...this.#phase(base, "end", "elements"),
    ];
  }

  /** steps times: s = x xᵀ, x = a x + (b s + c s s) x; of a matrix with more rows than columns s = xᵀ x, on the other side. */
  #iteration(base: bigint, t: Placed, h: Float64Array, real: DType): Launch[] {
    const { rows, columns } = t, tall = rows > columns, m = Math.min(rows, columns), launches: Launch[] = [];
    const square = this.#place(base, "square"), poly = this.#place(base, "poly"), turned = this.#place(base, "turned");
    let x = this.#place(base, "x", t.at.x * bytesOf(real)), next = this.#place(base, "next", t.at.next * bytesOf(real));
    for (let step = 0; step < h[MUON_STEPS]!; step++) {
      if (tall) {
        launches.push(
          product(real, [m, m, rows], {
            a: x,
            aRow: 1,
            aColumn: columns,
            b: x,
            bRow: columns,
            out: square,
            symmetric: true,
          }),
        );
      } else {
        launches.push(
          transpose(real, rows, columns, x, turned),
          product(real, [m, m, columns], {
            a: x,
            aRow: columns,
            aColumn: 1,
            b: turned,
            bRow: m,
            out: square,
            symmetric: true,
          }),
        );
      }
      const squares = { a: square, aRow: m, aColumn: 1, b: square, bRow: m, out: poly, symmetric: true };
      launches.push(product(real, [m, m, m], { ...squares, add: square, alpha: h[MUON_C]!, beta: h[MUON_B]! }));
      const sides = tall
        ? { a: x, aRow: columns, aColumn: 1, b: poly, bRow: m }
        : { a: poly, aRow: m, aColumn: 1, b: x, bRow: columns };
      launches.push(product(real, [rows, columns, m], { ...sides, out: next, add: x, beta: h[MUON_A]! }));
      [x, next] = [next, x];
    }
    return launches;
  }
}

/** The matrices of a product by their addresses, and how they lie. */
interface Sides {
  readonly a: bigint;
  readonly aRow: number;
  readonly aColumn: number;
  readonly b: bigint;
  readonly bRow: number;
  readonly out: bigint;
  readonly add?: bigint;
  readonly alpha?: number;
  readonly beta?: number;
  readonly symmetric?: boolean;
}

/** out [m, n] = beta add + alpha a b. */
function product(dtype: DType, [m, n, k]: readonly [number, number, number], sides: Sides): Launch {
  const view = new DataView(new ArrayBuffer(CUDA_PRODUCT.bytes));
  const put = (field: keyof typeof CUDA_PRODUCT, value: number | bigint) => {
    view.setBigUint64(CUDA_PRODUCT[field], BigInt(value), true);
  };
  put("m", m);
  put("n", n);
  put("k", k);
  put("a", sides.a);
  put("b", sides.b);
  put("add", sides.add ?? 0n);
  put("out", sides.out);
  put("a_row", sides.aRow);
  put("a_column", sides.aColumn);
  put("b_row", sides.bRow);
  put("symmetric", sides.symmetric ? 1 : 0);
  view.setFloat64(CUDA_PRODUCT.alpha, sides.alpha ?? 1, true);
  view.setFloat64(CUDA_PRODUCT.beta, sides.beta ?? 0, true);
  const threads = pieces(pieces(m, DOWN), 4) * 4 * pieces(n, WIDE) * 32;
  return { kernel: `product_${SUFFIX[dtype]}`, parameter: new Uint8Array(view.buffer), grid: pieces(threads, BLOCK) };
}

/** to [columns, rows] of from [rows, columns]. */
function transpose(dtype: DType, rows: number, columns: number, from: bigint, to: bigint): Launch {
  const view = new DataView(new ArrayBuffer(CUDA_TRANSPOSE.bytes));
  view.setBigUint64(CUDA_TRANSPOSE.rows, BigInt(rows), true);
  view.setBigUint64(CUDA_TRANSPOSE.columns, BigInt(columns), true);
  view.setBigUint64(CUDA_TRANSPOSE.from, from, true);
  view.setBigUint64(CUDA_TRANSPOSE.to, to, true);
  return {
    kernel: `transpose_${SUFFIX[dtype]}`,
    parameter: new Uint8Array(view.buffer),
    grid: pieces(rows * columns, BLOCK),
  };
}
