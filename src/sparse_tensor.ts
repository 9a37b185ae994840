/**
 * Sparse tensors: some rows of a big tensor, for gradients of embeddings.
 *
 * @module
 */

import { jsBackend } from "../ffi/js.ts";
import {
  allocate,
  arrayNames,
  checkDType,
  checkShape,
  type DType,
  dtypeOf,
  holds,
  isTypedArray,
  writeFrom,
} from "./dtype.ts";
import type { TypedArray } from "./dtype.ts";
import { checkKeys, describe, show } from "./errors.ts";

/** What {@linkcode SparseTensor}'s constructor takes beside indices, values and shape. */
export interface SparseTensorOptions {
  /** The element type; by default what the values are. A Uint16Array needs `"bfloat16"` or `"float16"`. */
  dtype?: DType;
}

/** A sparse tensor as plain data: what state dicts have of it. */
export interface SparseData {
  /** Where the entries are: row-major, `[sparseDims][nnz]`. */
  readonly indices: Int32Array;
  /** The entries' numbers, one entry after the other. */
  readonly values: TypedArray;
  /** The lengths of all dimensions. */
  readonly shape: readonly number[];
  /** The element type. */
  readonly dtype: DType;
}

/** The most rows that there may be: their numbers are 32-bit. */
const MOST_ROWS = 0xffffffff;

const product = (lengths: readonly number[]): number => lengths.reduce((a, b) => a * b, 1);

/**
 * A tensor of which only some entries are there, in coordinates, as torch.sparse_coo_tensor makes it: `indices` go over the
 * first dimensions, an entry is a number for each element of the others. The gradient of an embedding has an index for each
 * token of a batch, and a row of numbers for each index. An index may be there more than once: its entries add up.
 *
 * Given to a parameter as `grad`, only the named rows are updated, in time that depends on how many there are. SGD, Adagrad
 * and SparseAdam take it.
 *
 * torch source: `torch.sparse_coo_tensor`. Differences: indices are 32-bit and always checked; no tensor knows that it is
 * coalesced.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Parameter, SGD, SparseTensor } from "@flatstep/optim";
 *
 * const table = new Parameter(new Float32Array(4 * 2), { shape: [4, 2] });
 * table.grad = new SparseTensor([[3, 1, 3]], [1, 2, 10, 20, 1, 2], [4, 2]); // rows 3, 1 and 3 again
 * new SGD([table], { lr: 1 }).step();
 * assert(table.data.join() === "0,0,-10,-20,0,0,-2,-4");
 * ```
 */
export class SparseTensor implements SparseData {
  /** Where the entries are: row-major, `[sparseDims][nnz]`, in any order. */
  readonly indices: Int32Array;
  /** The entries' numbers: for each entry as many as the dimensions after the sparse ones have elements. */
  readonly values: TypedArray;
  /** The lengths of all dimensions. */
  readonly shape: readonly number[];
  /** The element type of the values. */
  readonly dtype: DType;
  /** How many dimensions the indices go over: the first ones. */
  readonly sparseDims: number;
  /** The number of entries, duplicates included. */
  readonly nnz: number;

  /**
   * Makes a sparse tensor; typed arrays are not copied.
   *
   * @param indices for each sparse dimension the index of each entry; or all of that in one Int32Array, row by row, where the
   * number of sparse dimensions follows from the number of values
   * @param values the entries' numbers; `number[]` becomes an array of `dtype`, by default float32
   * @param shape the lengths of all dimensions
   * @param options see {@linkcode SparseTensorOptions}
   * @throws {TypeError} if indices or values are no such arrays, dtype does not go with them, or an option is unknown
   * @throws {RangeError} if an index is out of range, or the lengths do not go together
   */
  constructor(
    indices: Int32Array | readonly (readonly number[])[],
    values: TypedArray | readonly number[],
    shape: readonly number[],
    options: SparseTensorOptions = {},
  ) {
    checkKeys(options, ["dtype"], "SparseTensor");
    this.shape = Object.freeze(checkShape(shape));
    if (shape.length === 0) throw new RangeError("shape must have at least one dimension, got []");
    this.dtype = isTypedArray(values)
      ? dtypeOf(values, options.dtype)
      : options.dtype === undefined
      ? "float32"
      : checkDType(options.dtype);
    this.values = checkValues(values, this.dtype);
    const read = readIndices(indices, this.values.length, this.shape);
    this.indices = read.indices;
    this.sparseDims = read.sparseDims;
    this.nnz = read.nnz;
    const wanted = this.nnz * rowLength(this);
    if (this.values.length !== wanted) {
      throw new RangeError(
        `values must have ${wanted} elements, ${this.nnz} entries of shape ${
          show(this.shape.slice(this.sparseDims))
        }, got ${this.values.length}`,
      );
    }
    if (rowCount(this) > MOST_ROWS) {
      throw new RangeError(`shape must have less than 2^32 elements in its ${this.sparseDims} sparse dimensions`);
    }
    flatRows(this, "indices");
  }

  /**
   * The same tensor with each index once, in rising order. The entries of an index are added up in the order in which they
   * stand here; 16-bit ones in float32, rounded once.
   *
   * @returns a new tensor that shares nothing with this one
   * @throws {RangeError} if an index has been made wrong meanwhile
   * @example
   * ```ts
   * import { assert } from "@std/assert";
   * import { SparseTensor } from "@flatstep/optim";
   *
   * const sum = new SparseTensor([[2, 0, 2]], [1, 2, 3], [4]).coalesce();
   * assert(sum.indices.join() === "0,2" && sum.values.join() === "2,4");
   * ```
   */
  coalesce(): SparseTensor {
    const { rows, order, starts } = namedRows(this, "indices"), length = rowLength(this);
    const values = allocate(this.dtype, rows.length * length, this.values);
    const sources = order ?? Uint32Array.from(rows, (_, i) => i);
    jsBackend.sumRows(
      this.dtype,
      values,
      rows.length,
      length,
      this.values,
      sources,
      starts ?? Uint32Array.from({ length: rows.length + 1 }, (_, i) => i),
    );
    return sparseOfRows(rows, values, this);
  }

  /** `SparseTensor(float32 [4, 2], 3 entries)`, for messages and logs. */
  toString(): string {
    return `SparseTensor(${this.dtype} [${this.shape.join(", ")}], ${this.nnz} entries)`;
  }
}

/** Elements of an entry. */
export function rowLength(tensor: Pick<SparseTensor, "shape" | "sparseDims">): number {
  return product(tensor.shape.slice(tensor.sparseDims));
}

/** The rows that there could be: elements of the sparse dimensions. */
export function rowCount(tensor: Pick<SparseTensor, "shape" | "sparseDims">): number {
  return product(tensor.shape.slice(0, tensor.sparseDims));
}

/** A tensor with given rows, numbered through the sparse dimensions of another one of its shape. */
export function sparseOfRows(
  rows: Uint32Array,
  values: TypedArray,
  like: Pick<SparseTensor, "shape" | "sparseDims" | "dtype">,
): SparseTensor {
  const { shape, sparseDims, dtype } = like, n = rows.length;
  const indices = new Int32Array(sparseDims * n);
  if (sparseDims === 1) {
    indices.set(rows);
  } else {
    for (let i = 0; i < n; i++) {
      let rest = rows[i]!;
      for (let d = sparseDims - 1; d >= 0; d--) {
        indices[d * n + i] = rest % shape[d]!;
        rest = Math.floor(rest / shape[d]!);
      }
    }
  }
  if (values.length > 0) return new SparseTensor(indices, values, shape, { dtype });
  const lists = Array.from({ length: sparseDims }, (_, d) => Array.from(indices.subarray(d * n, (d + 1) * n)));
  return new SparseTensor(lists, values, shape, { dtype }); // without values the lengths do not tell the dimensions
}

/** A tensor with other values, otherwise like one that has been checked: its indices are shared. */
export function withValues(like: SparseTensor, values: TypedArray): SparseTensor {
  return Object.assign(Object.create(SparseTensor.prototype) as SparseTensor, like, { values });
}

/** A copy as plain data. */
export function plainSparse(tensor: SparseData): SparseData {
  const { indices, values, shape, dtype } = tensor;
  return { indices: indices.slice(), values: values.slice(), shape: [...shape], dtype };
}

/** A tensor without entries, otherwise like another one. */
export function emptySparse(like: Pick<SparseTensor, "shape" | "sparseDims" | "dtype" | "values">): SparseTensor {
  return sparseOfRows(new Uint32Array(), allocate(like.dtype, 0, like.values), like);
}

/** The rows that a tensor names: rising, each once, and its entries in their order. */
export interface NamedRows {
  /** The rows' numbers, the sparse dimensions taken as one. */
  readonly rows: Uint32Array;
  /** The entries row by row, those of a row in the order of the tensor; null: they are as they stand. */
  readonly order: Uint32Array | null;
  /** Where in `order` each row's entries begin, and the last one's end; null: each row has one. */
  readonly starts: Uint32Array | null;
}

/** The row of each entry, checked. */
function flatRows(tensor: SparseTensor, label: string | (() => string)): Uint32Array {
  const { indices, shape, sparseDims, nnz } = tensor;
  const name = () => typeof label === "string" ? label : label();
  if (indices.length !== sparseDims * nnz) {
    throw new RangeError(`${name()} must have ${sparseDims * nnz} elements, got ${indices.length}`);
  }
  const rows = new Uint32Array(new ArrayBuffer(4 * nnz));
  for (let d = 0; d < sparseDims; d++) {
    const n = shape[d]!, from = d * nnz;
    for (let i = 0; i < nnz; i++) {
      const index = indices[from + i]!;
      if (!(index >= 0 && index < n)) {
        throw new RangeError(`${name()}[${d}][${i}] must be >= 0 and < ${n}, got ${show(index)}`);
      }
      rows[i] = rows[i]! * n + index;
    }
  }
  return rows;
}

/**
 * The rows that a tensor names. Reads every index once and checks it, so that indices which have been changed since the
 * tensor was made are found out.
 *
 * @param tensor the tensor
 * @param label what the indices are called in messages
 */
export function namedRows(tensor: SparseTensor, label: string | (() => string)): NamedRows {
  const rows = flatRows(tensor, label), nnz = tensor.nnz;
  let i = 1;
  while (i < nnz && rows[i - 1]! < rows[i]!) i++;
  return i >= nnz ? { rows, order: null, starts: null } : sortRows(rows);
}

/** Entries by row: a stable sort by digits of 8 bits, and where the rows begin in it. */
function sortRows(rows: Uint32Array): NamedRows {
  const nnz = rows.length, counts = new Uint32Array(256);
  let order = new Uint32Array(new ArrayBuffer(4 * nnz)), other = new Uint32Array(new ArrayBuffer(4 * nnz)), most = 0;
  for (let i = 0; i < nnz; i++) {
    order[i] = i;
    if (rows[i]! > most) most = rows[i]!;
  }
  for (let shift = 0; shift < 32 && most >>> shift !== 0; shift += 8) {
    counts.fill(0);
    for (let i = 0; i < nnz; i++) counts[(rows[i]! >>> shift) & 255]!++;
    for (let digit = 0, at = 0; digit < 256; digit++) {
      const n = counts[digit]!;
      counts[digit] = at;
      at += n;
    }
    for (let i = 0; i < nnz; i++) {
      const entry = order[i]!;
      other[counts[(rows[entry]! >>> shift) & 255]!++] = entry;
    }
    [order, other] = [other, order];
  }
  const starts = new Uint32Array(new ArrayBuffer(4 * nnz + 4));
  let unique = 0, last = -1;
  for (let i = 0; i < nnz; i++) {
    const row = rows[order[i]!]!;
    if (row === last) continue;
    other[unique] = last = row;
    starts[unique++] = i;
  }
  if (unique === nnz) return { rows: other, order, starts: null };
  starts[unique] = nnz;
  return { rows: other.slice(0, unique), order, starts: starts.slice(0, unique + 1) };
}

function checkValues(values: TypedArray | readonly number[], dtype: DType): TypedArray {
  if (isTypedArray(values)) return values;
  if (!Array.isArray(values)) {
    throw new TypeError(
      `values must be ${arrayNames(dtype)} or an array of numbers, got ${describe(values)}`,
    );
  }
  for (let i = 0; i < values.length; i++) {
    if (typeof values[i] !== "number") throw new TypeError(`values[${i}] must be a number, got ${show(values[i])}`);
  }
  const array = allocate(dtype, values.length);
  writeFrom(array, dtype, 0, values as readonly number[], values.length);
  return array;
}

/** Indices as one array, and how many dimensions and entries they have. */
function readIndices(
  given: Int32Array | readonly (readonly number[])[],
  values: number,
  shape: readonly number[],
): { indices: Int32Array; sparseDims: number; nnz: number } {
  if (given instanceof Int32Array) {
    // sparse dimensions d: indices are d * nnz, values nnz * product(shape[d:]); with entries at most one d has both
    for (let d = 1; d <= shape.length; d++) {
      const nnz = given.length / d;
      if (Number.isInteger(nnz) && nnz * product(shape.slice(d)) === values) {
        return { indices: given, sparseDims: d, nnz };
      }
    }
    throw new RangeError(
      `indices of ${given.length} elements and values of ${values} do not go together for a tensor of shape ${
        show([...shape])
      }`,
    );
  }
  if (!Array.isArray(given)) {
    throw new TypeError(
      `indices must be an Int32Array or an array of arrays of integers, got ${describe(given)}`,
    );
  }
  const lists = given as readonly (readonly number[])[], sparseDims = lists.length;
  if (sparseDims < 1 || sparseDims > shape.length) {
    throw new RangeError(
      `indices must have 1 to ${shape.length} arrays for a tensor of shape ${show([...shape])}, got ${sparseDims}`,
    );
  }
  const nnz = Array.isArray(lists[0]) ? lists[0].length : 0;
  const indices = new Int32Array(sparseDims * nnz);
  lists.forEach((list: unknown, d) => {
    if (!Array.isArray(list)) {
      throw new TypeError(
        `indices[${d}] must be an array of integers, got ${describe(list)}`,
      );
    }
    if (list.length !== nnz) {
      throw new RangeError(`indices[${d}] must have ${nnz} elements, as indices[0] has, got ${list.length}`);
    }
    for (let i = 0; i < nnz; i++) {
      const index = list[i] as unknown;
      if (typeof index !== "number") throw new TypeError(`indices[${d}][${i}] must be an integer, got ${show(index)}`);
      if (!Number.isInteger(index) || index < 0 || index >= shape[d]!) {
        throw new RangeError(`indices[${d}][${i}] must be an integer >= 0 and < ${shape[d]}, got ${show(index)}`);
      }
      indices[d * nnz + i] = index; // below 2^31: checked by namedRows where a dimension is longer
    }
  });
  return { indices, sparseDims, nnz };
}

/** Throws unless something is a sparse tensor that still is what it was made as; `label` is what it is called. */
export function checkSparse(tensor: SparseTensor, shape: readonly number[], dtype: DType, label: () => string): void {
  if (tensor.shape.length !== shape.length || tensor.shape.some((n, d) => n !== shape[d])) {
    throw new RangeError(
      `${label()} must have its parameter's shape ${show([...shape])}, got ${show([...tensor.shape])}`,
    );
  }
  if (tensor.dtype !== dtype || !holds(tensor.values, dtype)) {
    throw new TypeError(`${label()} must be ${dtype}, as its parameter is, got ${tensor.dtype}`);
  }
  const wanted = tensor.nnz * rowLength(tensor);
  if (tensor.values.length !== wanted) {
    throw new RangeError(`values of ${label()} must have ${wanted} elements, got ${tensor.values.length}`);
  }
}
