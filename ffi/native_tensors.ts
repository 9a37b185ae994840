/**
 * Rules that look at a whole tensor, and products of matrices, in the native library.
 *
 * @module
 */

import { type DType, DTYPES } from "../src/dtype.ts";
import { type Product, type Tensor, TENSOR_RULES, type TensorRule } from "./backend.ts";
import { checkProduct } from "./fits.ts";
import type { Functions, Memory } from "./symbols.ts";

const WORDS = 7; // 64-bit words of a row of fs_run_tensors
const PRODUCT_WORDS = 10;

/** Scratch of at most so many bytes is kept for the next step. */
const KEPT = 32 << 20;

/** fs_run_tensors and fs_matmul, with the scratch memory that they need. */
export class NativeTensors {
  readonly #functions: Functions;
  readonly #check: (status: number, call: string) => void;
  readonly #length = new Float64Array(new ArrayBuffer(8));
  #table = new Uint32Array(new ArrayBuffer(WORDS * 8));
  #kept = new Float64Array(new ArrayBuffer(8));

  constructor(functions: Functions, check: (status: number, call: string) => void) {
    this.#functions = functions;
    this.#check = check;
  }

  run(rule: TensorRule, dtype: DType, tensors: readonly Tensor[], hypers: Float64Array, threads: number): void {
    if (tensors.length === 0) return;
    if (hypers.length < tensors.length * rule.hypers.length) {
      throw new RangeError("a row of hyperparameters is missing");
    }
    const id = TENSOR_RULES.indexOf(rule.name), type = DTYPES.indexOf(dtype), functions = this.#functions;
    if (this.#table.length < tensors.length * WORDS * 2) {
      this.#table = new Uint32Array(new ArrayBuffer(tensors.length * WORDS * 8));
    }
    const table = this.#table;
    table.fill(0, 0, tensors.length * WORDS * 2);
    tensors.forEach(({ batches, rows, columns, buffers }, t) => {
      [batches, rows, columns].forEach((n, i) => setWord(table, t * WORDS + i, n));
      buffers.forEach((array, b) => {
        if (array.length > 0) this.#bind(table, t * WORDS + 3 + b, array);
      });
    });
    const status = functions.fs_tensor_scratch(id, type, table, tensors.length, threads, this.#length);
    this.#check(status, "fs_tensor_scratch");
    const scratch = this.#scratch(this.#length[0]!);
    this.#check(
      functions.fs_run_tensors(id, type, table, tensors.length, hypers, scratch, scratch.length, threads),
      "fs_run_tensors",
    );
  }

  matmul(product: Product, threads: number): void {
    const { m, n, k, a, b, add, out, alpha, beta } = product,
      words = new Uint32Array(new ArrayBuffer(PRODUCT_WORDS * 8));
    checkProduct(product);
    const flags = (product.aTransposed ? 1 : 0) | (product.bTransposed ? 2 : 0) | (product.symmetric ? 4 : 0);
    [m, n, k, flags].forEach((x, i) => setWord(words, i, x));
    [a, b, add, out].forEach((array, i) => {
      if (array !== null && array.length > 0) this.#bind(words, 4 + i, array);
    });
    new Float64Array(words.buffer).set([alpha, beta], 8);
    const dtype = DTYPES.indexOf(out instanceof Float64Array ? "float64" : "float32");
    const scratch = this.#scratch(this.#functions.fs_matmul_scratch(dtype, threads));
    this.#check(this.#functions.fs_matmul(dtype, words, scratch, scratch.length, threads), "fs_matmul");
  }

  #bind(words: Uint32Array, index: number, array: Memory): void {
    if (array.buffer === undefined) throw new TypeError("an array without memory"); // native.ts says why it is read
    this.#functions.fs_bind(words, index, array);
  }

  #scratch(length: number): Float64Array {
    if (length <= this.#kept.length) return this.#kept;
    const scratch = new Float64Array(new ArrayBuffer(length * 8));
    if (scratch.byteLength <= KEPT) this.#kept = scratch;
    return scratch;
  }
}

/** A 64-bit word as two of 32 bits. */
function setWord(words: Uint32Array, index: number, value: number): void {
  words[index * 2] = value >>> 0;
  words[index * 2 + 1] = value / 0x100000000;
}
