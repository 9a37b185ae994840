/**
 * Steps that go to some rows of a parameter: what a plan does with a sparse gradient.
 *
 * The rows that a gradient names become the rows of a job's table, each once and in rising order: every one points into the
 * parameter, into its state, and into the gradient's values. So the rules and backends of dense gradients do the work, nothing
 * is copied but entries that have to be added up, and what a step costs depends on the rows named alone.
 *
 * @module
 */

import type { Backend, Job, Rule } from "../../ffi/backend.ts";
import { getNumThreads } from "../../ffi/load.ts";
import { allocate, type TypedArray } from "../dtype.ts";
import { show } from "../errors.ts";
import type { Parameter } from "../parameter.ts";
import {
  checkSparse,
  type NamedRows,
  namedRows,
  rowLength,
  sparseOfRows,
  type SparseTensor,
  withValues,
} from "../sparse_tensor.ts";
import { scaleArrays } from "./scaling.ts";

const NO_ROWS = new Uint32Array();
let counted = NO_ROWS;

/** 0, 1, 2, … n - 1. */
function numbersTo(n: number): Uint32Array {
  if (counted.length < n) counted = new Uint32Array(new ArrayBuffer(8 * n)).map((_, i) => i);
  return counted.length === n ? counted : counted.subarray(0, n);
}

/** A parameter's job for sparse gradients. */
export class SparseRows {
  /** The sparse state tensor that the plan knows of, and whose memory is noted as written. */
  known: SparseTensor | null = null;
  /** The one that takes its place when the step has succeeded, where rows have come in. */
  next: SparseTensor | null = null;

  readonly #backend: Backend;
  readonly #rule: Rule;
  readonly #param: Parameter;
  #job: Job;
  #length = 0; // of a row
  #rows: Uint32Array = NO_ROWS; // that the gradient names, rising
  #values: TypedArray; // of the gradient
  #positions: Uint32Array = NO_ROWS; // where each row's entry is in them, the first one of several
  #several: Uint32Array = NO_ROWS; // which of the rows have several entries
  #sums: TypedArray; // of these
  #zeros: TypedArray;
  #scaled: TypedArray; // its values, multiplied
  // where the state is sparse: where the gradient's rows are in it, and its other rows
  #places: Uint32Array = NO_ROWS;
  #others: Uint32Array = NO_ROWS;
  #otherPlaces: Uint32Array = NO_ROWS;

  constructor(backend: Backend, rule: Rule, param: Parameter) {
    this.#backend = backend;
    this.#rule = rule;
    this.#param = param;
    this.#job = backend.createJob(rule, param.dtype, 0);
    this.#values =
      this.#sums =
      this.#zeros =
      this.#scaled =
        allocate(param.dtype, 0, param.data);
  }

  /** The job, as `bind` or `bindJoined` left it. */
  get job(): Job {
    return this.#job;
  }

  /** A gradient with its entries multiplied by some factors, rounded to the dtype each time; valid until the next one. */
  scale(grad: SparseTensor, factors: readonly number[], label: () => string): SparseTensor {
    const { dtype, shape, data } = this.#param;
    checkSparse(grad, shape, dtype, label);
    const n = grad.values.length;
    let from = grad.values;
    for (const factor of factors) {
      if (factor === 1 || n === 0) continue;
      if (this.#scaled.length < n) this.#scaled = allocate(dtype, 2 * n, data);
      const to = this.#scaled.subarray(0, n);
      scaleArrays(this.#backend, dtype, [from], from === grad.values ? [to] : null, factor);
      from = to;
    }
    return from === grad.values ? grad : withValues(grad, from);
  }

  /** Reads a gradient; throws unless it fits the parameter. */
  read(grad: SparseTensor, label: () => string): void {
    const { dtype, shape, data } = this.#param;
    checkSparse(grad, shape, dtype, label);
    const named = namedRows(grad, () => `indices of ${label()}`), { rows, order, starts } = named;
    const length = this.#length = rowLength(grad), n = rows.length;
    this.#rows = rows;
    this.#values = grad.values;
    this.#several = NO_ROWS;
    if (starts === null) {
      this.#positions = order ?? numbersTo(n);
      return;
    }
    const positions = new Uint32Array(new ArrayBuffer(4 * n)), several = new Uint32Array(new ArrayBuffer(4 * n));
    const sources = new Uint32Array(new ArrayBuffer(4 * grad.nnz)), ends = new Uint32Array(new ArrayBuffer(4 * n + 4));
    let found = 0, entries = 0;
    for (let k = 0; k < n; k++) {
      const from = starts[k]!, to = starts[k + 1]!;
      positions[k] = order![from]!;
      if (to - from === 1) continue;
      for (let i = from; i < to; i++) sources[entries++] = order![i]!;
      several[found++] = k;
      ends[found] = entries;
    }
    if (this.#sums.length < found * length) this.#sums = allocate(dtype, 2 * found * length, data);
    this.#backend.sumRows(dtype, this.#sums, found, length, grad.values, sources, ends);
    this.#positions = positions;
    this.#several = several.subarray(0, found);
  }

  /** The gradient that was read as a dense one. */
  #toDense(): TypedArray {
    const { dtype, size, data } = this.#param, length = this.#length;
    const dense = allocate(dtype, size, data), rows = this.#rows;
    const copy = (from: TypedArray, at: number, row: number) => {
      dense.set(from.subarray(at * length, (at + 1) * length), row * length);
    };
    rows.forEach((row, k) => copy(this.#values, this.#positions[k]!, row));
    this.#several.forEach((k, j) => copy(this.#sums, j, rows[k]!));
    return dense;
  }

  /**
   * Joins the rows of a sparse state tensor with the gradient's. Where the gradient has others, `next` is a tensor with all of
   * them: the new ones zero.
   *
   * @param state the state tensor; undefined: there is none yet
   * @param like the gradient
   * @param label what the state tensor is called
   */
  join(state: SparseTensor | undefined, like: SparseTensor, label: () => string): void {
    this.next = null;
    if (state === undefined) {
      this.#start(like);
      return;
    }
    const { dtype, shape, data } = this.#param, length = this.#length, rows = this.#rows;
    checkSparse(state, shape, dtype, label);
    if (state.sparseDims !== like.sparseDims && state.nnz > 0) {
      throw new TypeError(
        `${label()} has ${state.sparseDims} sparse dimensions, its gradient has ${like.sparseDims}: they must be as many`,
      );
    }
    const had: NamedRows = state.nnz === 0
      ? { rows: NO_ROWS, order: null, starts: null }
      : namedRows(state, () => `indices of ${label()}`);
    const all = new Uint32Array(new ArrayBuffer(4 * (had.rows.length + rows.length)));
    const starts = new Uint32Array(new ArrayBuffer(4 * (all.length + 1)));
    const places = new Uint32Array(new ArrayBuffer(4 * rows.length));
    const others = new Uint32Array(new ArrayBuffer(4 * had.rows.length)), otherPlaces = new Uint32Array(others.length);
    let n = 0, otherCount = 0, grown = had.order !== null || state.sparseDims !== like.sparseDims;
    for (let h = 0, g = 0; h < had.rows.length || g < rows.length; n++) {
      const old = h < had.rows.length ? had.rows[h]! : Infinity, named = g < rows.length ? rows[g]! : Infinity;
      starts[n + 1] = starts[n]!;
      if (old <= named) {
        all[n] = old;
        h++;
        starts[n + 1] = had.starts === null ? h : had.starts[h]!;
      } else {
        all[n] = named;
        grown = true;
      }
      if (named <= old) {
        places[g++] = n;
      } else {
        others[otherCount] = old;
        otherPlaces[otherCount++] = n;
      }
    }
    this.#places = places;
    this.#others = others.subarray(0, otherCount);
    this.#otherPlaces = otherPlaces.subarray(0, otherCount);
    if (!grown) return;
    const values = allocate(dtype, n * length, data), sources = had.order ?? numbersTo(had.rows.length);
    this.#backend.sumRows(dtype, values, n, length, state.values, sources, starts);
    this.next = sparseOfRows(all.subarray(0, n), values, like);
  }

  /** The first gradient's rows begin the state. */
  #start(like: SparseTensor): void {
    const { dtype, data } = this.#param, rows = this.#rows;
    this.next = sparseOfRows(rows, allocate(dtype, rows.length * this.#length, data), like);
    this.#places = numbersTo(rows.length);
    this.#others = this.#otherPlaces = NO_ROWS;
  }

  /** A job of n rows that have these hyperparameters and flags. */
  #begin(n: number, hyper: number, flags: number, length: number = this.#length): Job {
    if (this.#job.rows < n) this.#job = this.#backend.createJob(this.#rule, this.#param.dtype, 2 * n);
    this.#job.reset(n);
    this.#job.setRows(0, n, length, hyper, flags);
    return this.#job;
  }

  /** Binds the gradient's entries to the first n rows; where there are several of a row, their sum. */
  #bindGradient(job: Job, n: number): void {
    if (n === 0) return;
    const several = this.#several;
    job.bindRows(0, n, 1, this.#values, this.#length, this.#positions);
    job.bindRows(several, several.length, 1, this.#sums, this.#length, numbersTo(several.length));
  }

  /** Binds the rows of the parameter, of the gradient that was read, and of dense state tensors. */
  bind(tensors: readonly TypedArray[], buffers: readonly number[], hyper: number, flags: number): void {
    const rows = this.#rows, length = this.#length, n = length === 0 ? 0 : rows.length;
    const job = this.#begin(n, hyper, flags);
    job.bindRows(0, n, 0, this.#param.data, length, rows);
    this.#bindGradient(job, n);
    for (let k = 0; k < tensors.length; k++) job.bindRows(0, n, buffers[k]!, tensors[k]!, length, rows);
  }

  /** Binds the whole parameter and state, and the gradient that was read as a dense one. */
  bindDense(tensors: readonly TypedArray[], buffers: readonly number[], hyper: number, flags: number): void {
    const { data, size } = this.#param, job = this.#begin(1, hyper, flags, size);
    job.bindRows(0, 1, 0, data, size, null);
    job.bindRows(0, 1, 1, this.#toDense(), size, null);
    for (let k = 0; k < tensors.length; k++) job.bindRows(0, 1, buffers[k]!, tensors[k]!, size, null);
  }

  /** Binds the rows of the parameter and of the joined state: those of the gradient, and the others with a gradient of zero. */
  bindJoined(state: SparseTensor, buffer: number, hyper: number, flags: number): void {
    const { data, dtype } = this.#param, length = this.#length;
    const n = length === 0 ? 0 : this.#rows.length, more = length === 0 ? 0 : this.#others.length;
    const job = this.#begin(n + more, hyper, flags);
    job.bindRows(0, n, 0, data, length, this.#rows);
    this.#bindGradient(job, n);
    job.bindRows(0, n, buffer, state.values, length, this.#places);
    if (this.#zeros.length < length) this.#zeros = allocate(dtype, length, data);
    job.bindRows(n, more, 0, data, length, this.#others);
    job.bindRows(n, more, 1, this.#zeros, length, null);
    job.bindRows(n, more, buffer, state.values, length, this.#otherPlaces);
  }
}

/** The sum of a sparse gradient's squares, after the entries of each row have been added up. */
export function sparseSquares(grad: SparseTensor, backend: Backend): number {
  return backend.reduce("sumSq", grad.dtype, [grad.coalesce().values], null, getNumThreads())[0]!;
}

/** Throws the error of a class that takes no sparse gradients. */
export function refuseSparse(name: string, label: string): never {
  throw new TypeError(`${name} does not support sparse gradients, got one as ${label}: use SparseAdam, SGD or Adagrad`);
}

/** Throws the error of a class that takes no dense gradients. */
export function refuseDense(name: string, label: string): never {
  throw new TypeError(`${name} does not support dense gradients, got one as ${label}: use Adam instead`);
}

/** Throws where a group's weight decay does not go with sparse gradients: it would touch every row. */
export function refuseWeightDecay(group: { weightDecay: number }, label: () => string): void {
  if (group.weightDecay === 0) return;
  throw new RangeError(
    `weightDecay must be 0 where a gradient is sparse, got ${
      show(group.weightDecay)
    } for ${label()}: it changes every row`,
  );
}
