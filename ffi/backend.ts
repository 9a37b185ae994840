/**
 * What a backend is: something that runs jobs. A job *carries* its rule, so that no backend knows an optimizer and no
 * optimizer a backend: `js.ts` runs the rule's TypeScript body, the native backends look its name up in the library.
 *
 * @module
 */

import type { DType, TypedArray } from "../src/dtype.ts";

/** Numbers a rule's TypeScript body works on: float16 and bfloat16 reach it as float32. */
export type Numbers = Float32Array | Float64Array;

/** An update rule: what `csrc/rules/NAME.h` says, once more in TypeScript. */
export interface Rule {
  /** The name of the C rule. */
  readonly name: string;
  /** The buffers in order, with their access: `"param:rw"`, `"grad:r"`. */
  readonly buffers: readonly string[];
  /** The hyperparameters in order. */
  readonly hypers: readonly string[];
  /** The flags, from bit 0. */
  readonly flags: readonly string[];
  /**
   * The body, over the elements [0, n) of one tensor.
   *
   * @param round rounds to the arithmetic type: Math.fround for float32, nothing for float64; called after every operation
   * @param flags the flags that are set
   * @param h the hyperparameters, rounded
   * @param b the buffers; those that the flags do not use may be missing
   */
  readonly body: (
    round: (x: number) => number,
    flags: number,
    h: readonly number[],
    b: readonly Numbers[],
    n: number,
  ) => void;
}

/** One rule in one dtype over a table of tensors, in the form its backend runs. Rows keep what they were given. */
export interface Job {
  readonly rule: Rule;
  readonly dtype: DType;
  /** The rows that it was made with. */
  readonly rows: number;
  /** Elements of a row; 0: the row is skipped. */
  setLength(row: number, n: number): void;
  /** Which row of the hyperparameters a row uses, from 0. */
  setHyper(row: number, hyper: number): void;
  /** The rule's flags that are set for a row. */
  setFlags(row: number, flags: number): void;
  /** The array behind a buffer of a row. It is kept alive; whether it still is what it was, the caller checks each step. */
  bind(row: number, buffer: number, array: TypedArray): void;
  /** Begins anew with the first `rows` rows, at most as many as it was made with: all empty, nothing bound. */
  reset(rows: number): void;
  /** setLength, setHyper and setFlags of `count` rows from `first` on. */
  setRows(first: number, count: number, n: number, hyper: number, flags: number): void;
  /**
   * Binds a buffer of `count` rows to pieces of one array: the r-th of them to its `length` elements from positions[r] * length
   * on, or all of them to the first `length`. Throws where the array does not have them.
   *
   * @param rows the rows, or the first one of a run
   */
  bindRows(
    rows: number | Uint32Array,
    count: number,
    buffer: number,
    array: TypedArray,
    length: number,
    positions: Uint32Array | null,
  ): void;
  /** The hyperparameters: rows of as many numbers as the rule has. Read at each run. */
  bindHypers(hypers: Float64Array, rows: number): void;
}

/** Reductions: sum x, sum |x|, sum x², sum x·y, max |x|; in float64, in a fixed order. In the library's numbering. */
export const REDUCTIONS = ["sum", "sumAbs", "sumSq", "dot", "maxAbs"] as const;
/** One of {@linkcode REDUCTIONS}. */
export type Reduction = typeof REDUCTIONS[number];

/** The grain that the library starts with. */
export const GRAIN: number = 5 << 19;

/** Elements that one partial result covers (FS_REDUCE_CHUNK). */
export const REDUCE_CHUNK = 4096;

/** Instruction sets, as `backend().isa` names them. */
export type Isa = "avx512" | "avx2" | "sse2" | "neon" | "simd128" | "none";

/** What runs jobs. */
export interface Backend {
  /** What it is. */
  readonly name: "deno-ffi" | "bun-ffi" | "wasm" | "js";
  /** The instruction set in use. */
  readonly isa: Isa;
  /** The library's path, or null. */
  readonly library: string | null;
  /** Processors there are; the default number of threads. */
  readonly cpus: number;
  /** A new job of empty rows. */
  createJob(rule: Rule, dtype: DType, rows: number): Job;
  /** Runs jobs that this backend made, on at most `threads` threads. */
  run(jobs: readonly Job[], threads: number): void;
  /**
   * Row k of `out` = the sum, in this order, of the rows sources[starts[k]] … sources[starts[k + 1] - 1] of `values`, for k in
   * [0, count): rows of `length` elements. 16-bit elements are added in float32 and rounded once.
   */
  sumRows(
    dtype: DType,
    out: TypedArray,
    count: number,
    length: number,
    values: TypedArray,
    sources: Uint32Array,
    starts: Uint32Array,
  ): void;
  /** One number for each array (each pair of arrays of one length, for "dot"). */
  reduce(
    op: Reduction,
    dtype: DType,
    xs: readonly TypedArray[],
    ys: readonly TypedArray[] | null,
    threads: number,
  ): number[];
  /** One more thread for each so many bytes of buffers; for tests. */
  setGrain(bytes: number): void;
  /** Uses at most this instruction set; for tests. */
  setIsa(isa: Isa): void;
}
