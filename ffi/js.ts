/**
 * The TypeScript backend: runs the rules' own bodies. The for-loop implementation, the readable reference, and what works
 * where nothing native may be opened. The same bits as the compiled code.
 *
 * @module
 */

import {
  allocate,
  type DType,
  DTYPES,
  fromBfloat16,
  fromFloat16,
  readInto,
  toBfloat16,
  toFloat16,
  type TypedArray,
  writeFrom,
} from "../src/dtype.ts";
import {
  type Backend,
  type Job,
  judge,
  MEASURE,
  type Numbers,
  REDUCE_CHUNK,
  type Reduction,
  type Rule,
  STEP_COEFFICIENT,
  STEP_NORM,
  STEP_SUMS,
  STEP_UNSCALE,
  UPDATE,
} from "./backend.ts";
import { fold, reduceChunk } from "./reductions.ts";
import { matmul, runTensors } from "./tensors.ts";
import { countBytes } from "./timed_calls.ts";
import { combine, packedProduct, packedUpdate } from "./vectors.ts";

const identity = (x: number): number => x;

/** Elements of a 16-bit tensor that are converted at a time. */
const BLOCK = 4096;

/** Rounds to a dtype what has been rounded to its arithmetic type. */
const ROUND: Readonly<Record<DType, (x: number) => number>> = {
  float32: identity,
  float64: identity,
  bfloat16: (x) => fromBfloat16(toBfloat16(x)),
  float16: (x) => fromFloat16(toFloat16(x)),
};

/** out[i] = from[i] * factor, rounded to the dtype; from may be out. */
function scale(out: Numbers, from: Numbers, dtype: DType, factor: number, n: number): void {
  const round = dtype === "float64" ? identity : Math.fround, by = round(factor), store = ROUND[dtype];
  if (factor === 1) {
    if (from !== out) { for (let i = 0; i < n; i++) out[i] = from[i]!; }
    return;
  }
  for (let i = 0; i < n; i++) out[i] = store(round(from[i]! * by));
}

/** What gradients are multiplied by, one after the other. */
type Factors = readonly [unscale: number, coefficient: number];
const NONE: Factors = [1, 1];

class JsJob implements Job {
  readonly #lengths: number[];
  readonly #hyper: number[];
  readonly #flags: number[];
  readonly #buffers: TypedArray[][];
  readonly #written: boolean[];
  #used: number;
  #hypers: Float64Array = new Float64Array();
  #scaled: TypedArray; // a gradient that has been multiplied

  constructor(readonly rule: Rule, readonly dtype: DType, readonly rows: number) {
    this.#scaled = allocate(dtype, 0);
    this.#lengths = new Array(rows).fill(0);
    this.#hyper = new Array(rows).fill(0);
    this.#flags = new Array(rows).fill(0);
    this.#buffers = Array.from({ length: rows }, () => []);
    this.#written = rule.buffers.map((b) => b.endsWith(":rw"));
    this.#used = rows;
  }

  setLength(row: number, n: number): void {
    this.#lengths[row] = n;
  }
  setHyper(row: number, hyper: number): void {
    this.#hyper[row] = hyper;
  }
  setFlags(row: number, flags: number): void {
    this.#flags[row] = flags;
  }
  bind(row: number, buffer: number, array: TypedArray): void {
    this.#buffers[row]![buffer] = array;
  }
  reset(rows: number): void {
    if (rows > this.rows) throw new RangeError(`a job of ${this.rows} rows cannot have ${rows}`);
    this.#used = rows;
    this.#lengths.fill(0);
    for (const buffers of this.#buffers) buffers.length = 0;
  }
  setRows(first: number, count: number, n: number, hyper: number, flags: number): void {
    this.#lengths.fill(n, first, first + count);
    this.#hyper.fill(hyper, first, first + count);
    this.#flags.fill(flags, first, first + count);
  }
  bindRows(
    rows: number | Uint32Array,
    count: number,
    buffer: number,
    array: TypedArray,
    length: number,
    positions: Uint32Array | null,
  ): void {
    for (let r = 0; r < count; r++) {
      const at = positions === null ? 0 : positions[r]! * length;
      if (at + length > array.length) throw new RangeError(`row ${positions?.[r]} is not there`);
      this.#buffers[typeof rows === "number" ? rows + r : rows[r]!]![buffer] = array.subarray(at, at + length);
    }
  }
  bindHypers(hypers: Float64Array): void {
    this.#hypers = hypers;
  }

  bytes(only?: number): number {
    const isBound = (row: number, buffer: number) => this.#buffers[row]![buffer] !== undefined;
    return countBytes(this.rule, this.dtype, this.#used, (row) => this.#lengths[row]!, isBound, only);
  }

  /** Adds the squares of the gradients, times a number, to a sum. */
  squares(unscale: number, sum: number): number {
    for (let row = 0; row < this.#used; row++) {
      const n = this.#lengths[row]!;
      if (n > 0) sum += reduceOne("sumSq", this.dtype, this.#buffers[row]![1]!, undefined, n, unscale);
    }
    return sum;
  }

  run(factors: Factors = NONE): void {
    const round = this.dtype === "float64" ? identity : Math.fround, count = this.rule.hypers.length;
    const scaled = factors[0] !== 1 || factors[1] !== 1;
    let h: readonly number[] = [], from = -1;
    for (let row = 0; row < this.#used; row++) {
      const n = this.#lengths[row]!;
      if (n === 0) continue;
      const at = this.#hyper[row]! * count;
      if (at !== from) h = Array.from(this.#hypers.subarray(at, at + count), round);
      from = at;
      const buffers = this.#buffers[row]!, flags = this.#flags[row]!;
      if (this.dtype !== "float32" && this.dtype !== "float64") {
        this.#runHalves(flags, h, buffers, n, factors);
      } else {
        const given = scaled ? this.#replaced(buffers, n, factors) : buffers;
        this.rule.body(round, flags, h, given as Numbers[], n);
      }
    }
  }

  /** The buffers with the products in the place of the gradient. */
  #replaced(buffers: readonly TypedArray[], n: number, factors: Factors): TypedArray[] {
    if (this.#scaled.length < n) this.#scaled = allocate(this.dtype, n);
    const scaled = this.#scaled as Numbers, replaced = [...buffers];
    scale(scaled, buffers[1] as Numbers, this.dtype, factors[0], n);
    scale(scaled, scaled, this.dtype, factors[1], n);
    replaced[1] = scaled;
    return replaced;
  }

  /** 16-bit elements: a block at a time as float32, then rounded back. */
  #runHalves(flags: number, h: readonly number[], buffers: readonly TypedArray[], n: number, factors: Factors): void {
    const block = buffers.map(() => new Float32Array(Math.min(n, BLOCK)));
    for (let from = 0; from < n; from += BLOCK) {
      const length = Math.min(BLOCK, n - from);
      buffers.forEach((b, k) => readInto(block[k]!, b, this.dtype, from, length));
      for (const factor of factors) if (factor !== 1) scale(block[1]!, block[1]!, this.dtype, factor, length);
      this.rule.body(Math.fround, flags, h, block, length);
      buffers.forEach((b, k) => {
        if (this.#written[k]) writeFrom(b, this.dtype, from, block[k]!, length);
      });
    }
  }
}

/** {@linkcode Backend.step}. */
function step(jobs: readonly JsJob[], phases: number, numbers: Float64Array): void {
  if ((phases & MEASURE) !== 0) {
    for (const job of jobs) {
      const at = STEP_SUMS + DTYPES.indexOf(job.dtype);
      numbers[at] = job.squares(numbers[STEP_UNSCALE]!, numbers[at]!);
    }
  }
  if ((phases & UPDATE) === 0) return;
  if ((phases & MEASURE) !== 0) {
    judge(numbers);
    if (!Number.isFinite(numbers[STEP_NORM]!)) return;
  }
  for (const job of jobs) job.run([numbers[STEP_UNSCALE]!, numbers[STEP_COEFFICIENT]!]);
}

/** Adds rows in the order of csrc/rows.c. */
function sumRows(
  dtype: DType,
  out: TypedArray,
  count: number,
  length: number,
  values: TypedArray,
  sources: Uint32Array,
  starts: Uint32Array,
): void {
  const round = dtype === "float64" ? identity : Math.fround;
  const sum = new Float64Array(length), row = new Float64Array(length);
  for (let k = 0; k < count; k++) {
    const from = starts[k]!, to = starts[k + 1]!;
    sum.fill(0);
    for (let s = from; s < to; s++) {
      readInto(row, values, dtype, sources[s]! * length, length);
      if (s === from) sum.set(row);
      else for (let i = 0; i < length; i++) sum[i] = round(sum[i]! + row[i]!);
    }
    writeFrom(out, dtype, k * length, sum, length);
  }
}

const chunk = new Float64Array(REDUCE_CHUNK), otherChunk = new Float64Array(REDUCE_CHUNK);

/** Reduces the first `length` elements, each multiplied by a factor and rounded. */
function reduceOne(
  op: Reduction,
  dtype: DType,
  x: TypedArray,
  y: TypedArray | undefined,
  length: number = x.length,
  factor = 1,
): number {
  const block = chunk, other = otherChunk;
  const partials: number[] = [];
  for (let from = 0; from < length; from += REDUCE_CHUNK) {
    const n = Math.min(REDUCE_CHUNK, length - from);
    readInto(block, x, dtype, from, n);
    if (factor !== 1) scale(block, block, dtype, factor, n);
    if (y) readInto(other, y, dtype, from, n);
    partials.push(reduceChunk(op, block, other, n));
  }
  return fold(op, partials);
}

/** The TypeScript backend. There is one. */
export const jsBackend: Backend = {
  name: "js",
  isa: "none",
  library: null,
  cpus: 1,
  createJob: (rule, dtype, rows) => new JsJob(rule, dtype, rows),
  run(jobs) {
    for (const job of jobs as readonly JsJob[]) job.run();
  },
  step: (jobs, phases, numbers) => step(jobs as readonly JsJob[], phases, numbers),
  sumRows,
  runTensors,
  matmul,
  combine,
  packedProduct,
  packedUpdate,
  reduce: (op, dtype, xs, ys) => xs.map((x, i) => reduceOne(op, dtype, x, ys?.[i])),
  wake() {},
  setGrain() {},
  setIsa() {},
};
