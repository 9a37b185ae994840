/**
 * What a backend is: something that runs jobs. A job *carries* its rule, so that no backend knows an optimizer and no
 * optimizer a backend: `js.ts` runs the rule's TypeScript body, the native backends look its name up in the library.
 *
 * @module
 */

import type { DType, TypedArray } from "../src/dtype.ts";
import type { WrittenMemory } from "../src/memory.ts";

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
  /** The same for an array that the caller keeps alive until another one is bound. Absent: there is nothing to gain. */
  bindHeld?(row: number, buffer: number, array: TypedArray): void;
  /**
   * Binds many rows of a buffer at once. Null or absent: there is nothing to gain.
   *
   * @param written what the arrays must not share memory with
   */
  binder?(buffer: number, written: WrittenMemory): Binder | null;
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
  /**
   * Bytes that a run reads and writes: each buffer once, and once more if it is both read and written. Absent: not known.
   *
   * @param only the buffer that counts; all of them if it is absent
   */
  bytes?(only?: number): number;
}

/** Rows that a {@linkcode Binder} binds together at most (FS_BOUND). */
export const TOGETHER = 8;

/** Binds a buffer of a job's rows to arrays that are other ones at each run: some in a call, right before the run. */
export interface Binder {
  /** The job's. */
  readonly dtype: DType;
  /**
   * Whether reading an array's `buffer` moves its elements: then an array that is bound here is bound until somebody does that,
   * and has to be bound again for the next run.
   */
  readonly moves: boolean;
  /** Whether arrays of so many elements can be bound here. */
  takes(n: number): boolean;
  /** Whether what the step writes is known by its addresses; if not, nothing can be bound here. */
  ready(): boolean;
  /**
   * Binds `count` rows, at most TOGETHER, from `row` on to the arrays from `at` on, which are of the job's dtype, as long as their
   * rows, and kept alive by the caller.
   *
   * @returns the place of one that shares memory with what is written (those before it may be bound then), or -1
   */
  bind(row: number, count: number, arrays: readonly (TypedArray | null)[], at: number): number;
}

/** The rules that look at a whole tensor, in the library's numbering. */
export const TENSOR_RULES = ["adafactor", "muon"] as const;

/** How a tensor's elements lie: `batches` matrices behind each other, or, with `batches` 0, a vector of `columns`. */
export interface TensorShape {
  /** How many matrices; 0: it is a vector. */
  readonly batches: number;
  /** The rows of a matrix. */
  readonly rows: number;
  /** The columns of a matrix; the elements of a vector. */
  readonly columns: number;
}

/** A rule that looks at a whole tensor (norms, rows and columns, products): a C file, and once more in TypeScript. */
export interface TensorRule {
  /** The name of the C file. */
  readonly name: typeof TENSOR_RULES[number];
  /** The buffers, with their access: the parameter, the gradient, one or two of state. */
  readonly buffers: readonly string[];
  /** The hyperparameters in order; not rounded before they are used. */
  readonly hypers: readonly string[];
  /**
   * The body: a step of one tensor.
   *
   * @param round rounds to the arithmetic type, as in {@linkcode Rule}
   * @param shape how the elements lie; there is at least one
   * @param h the hyperparameters
   * @param b the buffers; 16-bit ones as float32, which are rounded when they are stored
   */
  readonly body: (
    round: (x: number) => number,
    shape: TensorShape,
    h: readonly number[],
    b: readonly Numbers[],
  ) => void;
}

/** A tensor of a step: its shape, and the arrays of its rule's buffers. */
export interface Tensor extends TensorShape {
  /** The arrays, in the order of the rule's buffers. */
  readonly buffers: readonly TypedArray[];
}

/**
 * A product of row-major matrices: out [m, n] = beta * add + alpha * a b. Each element's terms are added in the order of k,
 * every product and every sum rounded.
 */
export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** [m, k], or [k, m] if `aTransposed`. */
  readonly a: Numbers;
  /** [k, n], or [n, k] if `bTransposed`. */
  readonly b: Numbers;
  /** [m, n], or null: nothing is added. */
  readonly add: Numbers | null;
  /** Overlaps with none of them. */
  readonly out: Numbers;
  readonly aTransposed: boolean;
  readonly bTransposed: boolean;
  /** The result and `add` are symmetric: half of it is computed. */
  readonly symmetric: boolean;
  readonly alpha: number;
  readonly beta: number;
}

/** One pass over vectors: out = (x + a y) c, each product and each sum rounded. All arrays are of one kind. */
export interface Combination {
  /** Elements. */
  readonly n: number;
  readonly x: Numbers;
  /** Null: nothing is added. */
  readonly y: Numbers | null;
  /** Null: no sums. */
  readonly z: Numbers | null;
  /** May be x, y or z; overlaps with them in no other way. */
  readonly out: Numbers;
  /** Whether x is negated first. */
  readonly negate: boolean;
  readonly a: number;
  /** Null: nothing is multiplied. */
  readonly c: number | null;
}

/** What a pass has added up, in float64: zeros without z. */
export interface Sums {
  /** The sum of out z. */
  readonly dot: number;
  /** The largest |out|; NaN if there is one. */
  readonly largest: number;
}

/** Reductions: sum x, sum |x|, sum x², sum x·y, max |x|; in float64, in a fixed order. In the library's numbering. */
export const REDUCTIONS = ["sum", "sumAbs", "sumSq", "dot", "maxAbs"] as const;
/** One of {@linkcode REDUCTIONS}. */
export type Reduction = typeof REDUCTIONS[number];

/** The grain that the library starts with. */
export const GRAIN: number = 5 << 19;

/** Elements that one partial result covers (FS_REDUCE_CHUNK). */
export const REDUCE_CHUNK = 4096;

/** The phases of {@linkcode Backend.step}: find the norm of all gradients, run the jobs. */
export const MEASURE = 1, UPDATE = 2;

/** Where the numbers of {@linkcode Backend.step} are (enum fs_step_word); from STEP_SUMS on a sum for each dtype. */
export const STEP_UNSCALE = 0, STEP_MAX_NORM = 1, STEP_NORM = 2, STEP_COEFFICIENT = 3, STEP_SUMS = 4, STEP_WORDS = 8;

/** What the sums of squares say: the norm, and the coefficient that clips it, as torch.nn.utils.clip_grad_norm_ has it. */
export function judge(step: Float64Array, more = 0): void {
  const norm = Math.sqrt(step[STEP_SUMS]! + step[STEP_SUMS + 1]! + step[STEP_SUMS + 2]! + step[STEP_SUMS + 3]! + more);
  step[STEP_NORM] = norm;
  step[STEP_COEFFICIENT] = Number.isFinite(norm) ? clipCoefficient(norm, step[STEP_MAX_NORM]!) : 0;
}

/** What gradients of this norm are multiplied by so that it is at most maxNorm; NaN if the norm is. */
export function clipCoefficient(norm: number, maxNorm: number): number {
  const wanted = maxNorm / (norm + 1e-6);
  return wanted > 1 ? 1 : wanted;
}

/** Instruction sets, as `backend().isa` names them. */
export type Isa = "avx512" | "avx2" | "sse2" | "neon" | "simd128" | "none";

/** Where the state of some tensors is made. */
export interface StateMemory {
  /**
   * Zeros for one of the state's arrays; null if there is no room for them here.
   *
   * @param key which of a tensor's arrays, from 0
   * @param like its parameter's array (float16 has two kinds)
   */
  allocate(key: number, dtype: DType, n: number, like: TypedArray): TypedArray | null;
}

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
  /**
   * Memory for the state of tensors, `keys` arrays each, in which this backend works without copying; absent or null: any
   * memory will do.
   */
  stateMemory?(tensors: readonly { readonly dtype: DType; readonly size: number }[], keys: number): StateMemory | null;
  /** Says that a run is near, so that threads that sleep may wake meanwhile. */
  wake(): void;
  /** Runs jobs that this backend made, on at most `threads` threads. */
  run(jobs: readonly Job[], threads: number): void;
  /**
   * `run` over gradients (buffer 1, which is not changed) that are multiplied by `step[STEP_UNSCALE]` and then by
   * `step[STEP_COEFFICIENT]`, rounded to their dtype each time.
   *
   * MEASURE adds the squares of all gradients, unscaled, to the sums in `step`, row by row. UPDATE runs the jobs. Both: the norm
   * and the coefficient are found first ({@linkcode judge}), and nothing is updated where the norm is not finite.
   */
  step(jobs: readonly Job[], phases: number, step: Float64Array, threads: number): void;
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
  /**
   * A step of tensors of one dtype.
   *
   * @param hypers a row of the rule's hyperparameters for each tensor
   */
  runTensors(
    rule: TensorRule,
    dtype: DType,
    tensors: readonly Tensor[],
    hypers: Float64Array,
    threads: number,
  ): void;
  /** A product of float32 or float64 matrices. */
  matmul(product: Product, threads: number): void;
  /** A pass over vectors. */
  combine(pass: Combination, threads: number): Sums;
  /**
   * out = H v, for a symmetric matrix of n rows of which the lower triangle is stored, row behind row. All arrays are of one
   * kind; out overlaps with nothing.
   */
  packedProduct(n: number, matrix: Numbers, v: Numbers, out: Numbers, threads: number): void;
  /** H -= u sT + s uT, in float64 and rounded once. */
  packedUpdate(n: number, matrix: Numbers, u: Numbers, s: Numbers, threads: number): void;
  /** One number for each array (each pair of arrays of one length, for "dot"). */
  reduce(
    op: Reduction,
    dtype: DType,
    xs: readonly TypedArray[],
    ys: readonly TypedArray[] | null,
    threads: number,
  ): number[];
  /**
   * Milliseconds that this thread's calls have spent in kernels since the last call of this. It is counted from now on, if `on`
   * is true. Absent, or 0: not known.
   */
  kernelTime?(on: boolean): number;
  /** One more thread for each so many bytes of buffers; for tests. */
  setGrain(bytes: number): void;
  /** Uses at most this instruction set; for tests. */
  setIsa(isa: Isa): void;
}
