/**
 * Rules that look at a whole tensor, products, and rows added up, in WebAssembly: everything that a call needs is copied into
 * the workspace, which grows for it, and what has been written is copied back. What is too large for a memory of 4 GB, or
 * for what the system has, is done in TypeScript: the bits are the same.
 *
 * @module
 */

import { bytesOf, type DType, DTYPES, type TypedArray } from "../src/dtype.ts";
import { type Numbers, type Product, type Tensor, TENSOR_RULES, type TensorRule } from "./backend.ts";
import { checkPacked, checkProduct, checkRows } from "./fits.ts";
import { jsBackend } from "./js.ts";
import { checkStatus } from "./wasm_job.ts";
import { asBits, CALL_BYTES, Heap, kindOf, MAX_BYTES } from "./wasm_memory.ts";

const WORDS = 7; // 64-bit words of a row of fs_run_tensors
const PRODUCT_WORDS = 10;
const TOO_LONG = -6; // FS_ERR_LENGTH: of what 32 bits can address

/** A workspace larger than this is given back after the call. */
const KEPT = 64 << 20;
/** Tensors go through a call together until they have so many bytes. */
const TOGETHER = 4 << 20;

/** What a call needs of the workspace, one thing behind the other. */
class Layout {
  #at: number;

  constructor(readonly base: number) {
    this.#at = base;
  }

  /** The address of so many bytes, on the border of a line of the cache. */
  place(bytes: number): number {
    const at = this.#at;
    this.#at += Math.ceil(bytes / 64) * 64;
    return at;
  }

  /** Bytes of everything. */
  get size(): number {
    return this.#at - this.base;
  }
}

/** A 64-bit word of a table. */
function setWord(heap: Heap, table: number, index: number, value: number): void {
  heap.u32[table / 4 + index * 2] = value >>> 0;
  heap.u32[table / 4 + index * 2 + 1] = value / 0x100000000;
}

/** The workspace, and the calls that need all of their arrays in it. */
export class WasmTensors {
  heap: Heap;

  constructor(heap: Heap) {
    this.heap = heap;
  }

  run(rule: TensorRule, dtype: DType, tensors: readonly Tensor[], hypers: Float64Array): void {
    const width = rule.hypers.length;
    if (hypers.length < tensors.length * width) throw new RangeError("a row of hyperparameters is missing");
    const bytesOfTensor = ({ buffers }: Tensor) => buffers.reduce((sum, array) => sum + array.byteLength, 0);
    for (let from = 0, to = 0; from < tensors.length; from = to) {
      let bytes = 0;
      for (; to < tensors.length && (to === from || bytes < TOGETHER); to++) bytes += bytesOfTensor(tensors[to]!);
      const some = tensors.slice(from, to), rows = hypers.subarray(from * width, to * width);
      if (!this.#runSome(rule, dtype, some, rows)) jsBackend.runTensors(rule, dtype, some, rows, 1);
    }
    this.#shrink();
  }

  #runSome(rule: TensorRule, dtype: DType, tensors: readonly Tensor[], hypers: Float64Array): boolean {
    const id = TENSOR_RULES.indexOf(rule.name), type = DTYPES.indexOf(dtype), kind = kindOf(dtype);
    const layout = new Layout(this.heap.base), count = tensors.length;
    const table = layout.place(count * WORDS * 8), numbers = layout.place(hypers.length * 8), length = layout.place(8);
    const places = tensors.map(({ buffers }) => buffers.map((array) => layout.place(array.byteLength)));
    if (!this.#ensure(layout.size)) return false;
    const { heap } = this, { exports } = heap;
    heap.u32.fill(0, table / 4, table / 4 + count * WORDS * 2);
    heap.f64.set(hypers, numbers / 8);
    tensors.forEach(({ batches, rows, columns, buffers }, t) => {
      [batches, rows, columns].forEach((n, i) => setWord(heap, table, t * WORDS + i, n));
      buffers.forEach((array, b) => {
        if (array.length > 0) setWord(heap, table, t * WORDS + 3 + b, places[t]![b]!);
        heap.read(kind, places[t]![b]!, asBits(array), 0, array.length);
      });
    });
    const status = exports.fs_tensor_scratch(id, type, table, count, 1, length);
    if (status === TOO_LONG) return false;
    checkStatus(status, "fs_tensor_scratch");
    const room = heap.f64[length / 8]!, scratch = layout.place(room * 8);
    if (!this.#ensure(layout.size)) return false;
    checkStatus(exports.fs_run_tensors(id, type, table, count, numbers, scratch, room, 1), "fs_run_tensors");
    tensors.forEach(({ buffers }, t) => {
      buffers.forEach((array, b) => {
        if (rule.buffers[b]!.endsWith(":rw")) heap.write(kind, places[t]![b]!, asBits(array), 0, array.length);
      });
    });
    return true;
  }

  matmul(product: Product): void {
    const { m, n, k, a, b, add, out, alpha, beta } = product;
    checkProduct(product);
    const dtype = out instanceof Float64Array ? "float64" : "float32", kind = kindOf(dtype), size = bytesOf(dtype);
    const room = this.heap.exports.fs_matmul_scratch(DTYPES.indexOf(dtype), 1), layout = new Layout(this.heap.base);
    const words = layout.place(PRODUCT_WORDS * 8), scratch = layout.place(room * 8);
    const left = layout.place(m * k * size), right = a === b ? left : layout.place(k * n * size);
    const more = add === null ? 0 : layout.place(m * n * size), result = layout.place(m * n * size);
    if (!this.#ensure(layout.size)) return jsBackend.matmul(product, 1);
    const { heap } = this;
    const flags = (product.aTransposed ? 1 : 0) | (product.bTransposed ? 2 : 0) | (product.symmetric ? 4 : 0);
    [m, n, k, flags, left, right, more, result].forEach((x, i) => setWord(heap, words, i, x));
    heap.f64[words / 8 + 8] = alpha;
    heap.f64[words / 8 + 9] = beta;
    heap.read(kind, left, a, 0, m * k);
    if (right !== left) heap.read(kind, right, b, 0, k * n);
    if (add !== null) heap.read(kind, more, add, 0, m * n);
    const status = heap.exports.fs_matmul(DTYPES.indexOf(dtype), words, scratch, room, 1);
    if (status === TOO_LONG) return jsBackend.matmul(product, 1);
    checkStatus(status, "fs_matmul");
    heap.write(kind, result, out, 0, m * n);
    this.#shrink();
  }

  /** packedProduct and packedUpdate of `Backend`: a matrix and two vectors, of which the matrix or the second is written. */
  packed(what: "product" | "update", n: number, matrix: Numbers, u: Numbers, s: Numbers): void {
    checkPacked(n, matrix, u, s);
    const triangle = n * (n + 1) / 2;
    if (n === 0) return;
    const dtype = matrix instanceof Float64Array ? "float64" : "float32", kind = kindOf(dtype), size = bytesOf(dtype);
    const type = DTYPES.indexOf(dtype), layout = new Layout(this.heap.base), { exports } = this.heap;
    const room = what === "product" ? exports.fs_packed_scratch(n) >>> 0 : 2 * n;
    const [first, second, scratch] = [layout.place(n * size), layout.place(n * size), layout.place(room * 8)];
    const triangleAt = layout.place(triangle * size);
    if (!this.#ensure(layout.size)) {
      if (what === "product") jsBackend.packedProduct(n, matrix, u, s, 1);
      else jsBackend.packedUpdate(n, matrix, u, s, 1);
      return;
    }
    const { heap } = this;
    heap.read(kind, triangleAt, matrix, 0, triangle);
    heap.read(kind, first, u, 0, n);
    if (what === "product") {
      const status = exports.fs_packed_product(type, n, triangleAt, first, second, scratch, room, 1);
      checkStatus(status, "fs_packed_product");
      heap.write(kind, second, s, 0, n);
    } else {
      heap.read(kind, second, s, 0, n);
      checkStatus(exports.fs_packed_update(type, n, triangleAt, first, second, scratch, room, 1), "fs_packed_update");
      heap.write(kind, triangleAt, matrix, 0, triangle);
    }
    this.#shrink();
  }

  /** Adds rows up, as many results at a time as go together: the rows that they need lie behind each other. */
  sumRows(
    dtype: DType,
    out: TypedArray,
    count: number,
    length: number,
    values: TypedArray,
    sources: Uint32Array,
    starts: Uint32Array,
  ): void {
    if (count === 0 || length === 0) return;
    checkRows(out, count, length, sources, starts);
    const limit = Math.floor(values.length / length), size = bytesOf(dtype);
    for (let k = 0; k < count; k++) if (starts[k]! > starts[k + 1]!) checkStatus(-10, "fs_sum_rows");
    for (let s = starts[0]!; s < starts[count]!; s++) if (sources[s]! >= limit) checkStatus(-10, "fs_sum_rows");
    const from = asBits(values), to = asBits(out);
    for (let k = 0, end = 0; k < count; k = end) {
      for (end = k + 1; end < count && (starts[end + 1]! - starts[k]! + end - k) * length * size < TOGETHER;) end++;
      if (!this.#sumSome(dtype, to, k, end, length, from, sources, starts)) {
        return jsBackend.sumRows(dtype, out, count, length, values, sources, starts);
      }
    }
    this.#shrink();
  }

  #sumSome(
    dtype: DType,
    out: TypedArray,
    first: number,
    end: number,
    length: number,
    values: TypedArray,
    sources: Uint32Array,
    starts: Uint32Array,
  ): boolean {
    const kind = kindOf(dtype), row = length * bytesOf(dtype), layout = new Layout(this.heap.base);
    const count = end - first, from = starts[first]!, rows = starts[end]! - from;
    const order = layout.place(rows * 4), begins = layout.place((count + 1) * 4);
    const data = layout.place(rows * row), sums = layout.place(count * row);
    if (!this.#ensure(layout.size)) return false;
    const { heap } = this;
    for (let s = 0; s < rows; s++) {
      heap.u32[order / 4 + s] = s;
      heap.read(kind, data + s * row, values, sources[from + s]! * length, length);
    }
    for (let k = 0; k <= count; k++) heap.u32[begins / 4 + k] = starts[first + k]! - from;
    const limit = Math.max(1, rows), type = DTYPES.indexOf(dtype);
    const status = heap.exports.fs_sum_rows(type, sums, count, length, data, limit, order, begins);
    if (status === TOO_LONG) return false;
    checkStatus(status, "fs_sum_rows");
    heap.write(kind, sums, out, first * length, count * length);
    return true;
  }

  /** Makes the workspace so large; false where that cannot be. */
  #ensure(bytes: number): boolean {
    if (bytes <= this.heap.size) return true;
    if (bytes > MAX_BYTES - this.heap.base) return false;
    try {
      this.heap.grow(bytes);
    } catch {
      return false; // the system does not have so much
    }
    return true;
  }

  /** Gives a large workspace back. */
  #shrink(): void {
    if (this.heap.size <= KEPT) return;
    try {
      this.heap = new Heap(CALL_BYTES);
    } catch {
      // the system has not even that: the large one stays
    }
  }
}
