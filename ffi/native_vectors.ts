/**
 * Vectors and packed symmetric matrices in the native library.
 *
 * @module
 */

import { DTYPES } from "../src/dtype.ts";
import { type Combination, type Numbers, REDUCE_CHUNK, type Sums } from "./backend.ts";
import { checkCombination, checkPacked } from "./fits.ts";
import type { Functions, Memory } from "./symbols.ts";

const WORDS = 8; // 64-bit words of a pass
const NEGATE = 1, SCALE = 2;

const dtypeOf = (array: Numbers): number => DTYPES.indexOf(array instanceof Float64Array ? "float64" : "float32");

/** fs_combine and fs_packed_…, with the scratch memory that they need. */
export class NativeVectors {
  readonly #functions: Functions;
  readonly #check: (status: number, call: string) => void;
  readonly #words = new Uint32Array(new ArrayBuffer(WORDS * 8));
  readonly #doubles = new Float64Array(this.#words.buffer);
  readonly #results = new Float64Array(new ArrayBuffer(16));
  #scratch = new Float64Array(new ArrayBuffer(8));

  constructor(functions: Functions, check: (status: number, call: string) => void) {
    this.#functions = functions;
    this.#check = check;
  }

  combine(pass: Combination, threads: number): Sums {
    checkCombination(pass);
    const { n, x, y, z, out, negate, a, c } = pass;
    if (n === 0) return { dot: 0, largest: 0 };
    const words = this.#words;
    words.fill(0);
    words[0] = n >>> 0;
    words[1] = n / 0x100000000;
    words[10] = (negate ? NEGATE : 0) | (c === null ? 0 : SCALE);
    this.#doubles[6] = a;
    this.#doubles[7] = c ?? 1;
    this.#bind(1, x);
    if (y !== null) this.#bind(2, y);
    if (z !== null) this.#bind(3, z);
    this.#bind(4, out);
    const partials = this.#room(z === null ? 0 : 2 * Math.ceil(n / REDUCE_CHUNK));
    const status = this.#functions.fs_combine(dtypeOf(out), words, partials, partials.length, this.#results, threads);
    this.#check(status, "fs_combine");
    return { dot: this.#results[0]!, largest: this.#results[1]! };
  }

  packedProduct(n: number, matrix: Numbers, v: Numbers, out: Numbers, threads: number): void {
    const scratch = this.#room(this.#functions.fs_packed_scratch(n));
    this.#fits(n, matrix, v, out);
    if (n === 0) return;
    this.#check(
      this.#functions.fs_packed_product(dtypeOf(matrix), n, matrix, v, out, scratch, scratch.length, threads),
      "fs_packed_product",
    );
  }

  packedUpdate(n: number, matrix: Numbers, u: Numbers, s: Numbers, threads: number): void {
    const scratch = this.#room(2 * n);
    this.#fits(n, matrix, u, s);
    if (n === 0) return;
    this.#check(
      this.#functions.fs_packed_update(dtypeOf(matrix), n, matrix, u, s, scratch, scratch.length, threads),
      "fs_packed_update",
    );
  }

  #fits(n: number, matrix: Numbers, ...vectors: readonly Numbers[]): void {
    checkPacked(n, matrix, ...vectors);
    for (const array of [matrix, ...vectors]) {
      if (array.buffer === undefined) throw new TypeError("an array without memory"); // native.ts says why it is read
    }
  }

  #bind(index: number, array: Memory): void {
    if (array.buffer === undefined) throw new TypeError("an array without memory");
    this.#functions.fs_bind(this.#words, index, array);
  }

  #room(length: number): Float64Array {
    if (length > this.#scratch.length) this.#scratch = new Float64Array(new ArrayBuffer(length * 8));
    return this.#scratch;
  }
}
