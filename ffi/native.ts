/**
 * The native backend, for Deno and Bun alike: tables of addresses in typed arrays, one call to run them.
 *
 * Addresses never become JavaScript numbers: `fs_bind` writes them into a table. Before an array's address is taken its
 * `buffer` is read, because Bun moves the elements of small typed arrays the first time that is done, and never again.
 *
 * @module
 */

import { stateArena } from "./arena.ts";
import { type DType, DTYPES, type TypedArray } from "../src/dtype.ts";
import type { WrittenMemory } from "../src/memory.ts";
import {
  type Backend,
  type Binder,
  type Combination,
  type Isa,
  type Job,
  type Numbers,
  type Product,
  REDUCE_CHUNK,
  type Reduction,
  REDUCTIONS,
  type Rule,
  type StateMemory,
  type Sums,
  type Tensor,
  type TensorRule,
} from "./backend.ts";
import { checkRows } from "./fits.ts";
import { moveWhenRead, NativeBinder } from "./gradients.ts";
import { NativeTensors } from "./native_tensors.ts";
import { NativeVectors } from "./native_vectors.ts";
import { isLarge, LargeArrays } from "./pages.ts";
import { type Functions, type Memory, STATUS } from "./symbols.ts";
import { countBytes } from "./timed_calls.ts";

const MAX_THREADS = 64; // FS_MAX_THREADS
const JOB_WORDS = 8; // 32-bit words of an fs_job
const IS_BUN = "Bun" in globalThis;
const ISAS: readonly Isa[] = ["sse2", "avx2", "avx512"];

/** The instruction set behind fs_isa()'s number. */
function isaName(isa: number): Isa {
  return isa >= 256 ? "neon" : ISAS[isa] ?? "none";
}

/** fs_bind, after the array's memory has been made to stay where it is. */
function bind(functions: Functions, words: Uint32Array, index: number, target: Memory): void {
  if (target.buffer === undefined) throw new TypeError("an array without memory");
  functions.fs_bind(words, index, target);
}

function check(status: number, call: string, library = "the library"): void {
  if (status !== 0) throw new Error(`${call} of ${library} failed: ${STATUS[status] ?? `status ${status}`}`);
}

/** Whether an array's memory may move without the array changing: Bun moves resizable WebAssembly memory as it grows. */
function mayMove(array: TypedArray): boolean {
  return IS_BUN && (array.buffer as { resizable?: boolean }).resizable === true;
}

export class NativeJob implements Job {
  /** The fs_job structure. */
  readonly words: Uint32Array = new Uint32Array(new ArrayBuffer(JOB_WORDS * 4));
  readonly #table: Uint32Array;
  readonly #stride: number; // 32-bit words of a row
  readonly #kept: (TypedArray | undefined)[]; // what the table's addresses point into, unless the caller keeps it
  readonly #functions: Functions;
  #hypers: Float64Array | undefined;
  /** Partial results of a reduction over a buffer: one for each REDUCE_CHUNK elements of a row. */
  chunks = 0;
  /** Arrays in resizable memory, by their place in the table; mostly there are none. */
  #moving: Map<number, TypedArray> | null = null;
  /** Large arrays, until they have huge pages. */
  #large: LargeArrays | null = null;

  constructor(functions: Functions, id: number, readonly rule: Rule, readonly dtype: DType, readonly rows: number) {
    this.#functions = functions;
    this.#stride = 2 * (2 + rule.buffers.length);
    this.#table = new Uint32Array(new ArrayBuffer(rows * this.#stride * 4));
    this.#kept = [];
    this.words[0] = id;
    this.words[1] = DTYPES.indexOf(dtype);
    this.words[2] = rows;
    if (rows > 0) bind(functions, this.words, 2, this.#table);
  }

  setLength(row: number, n: number): void {
    const at = row * this.#stride, before = this.#table[at]! + this.#table[at + 1]! * 0x100000000;
    this.chunks += Math.ceil(n / REDUCE_CHUNK) - Math.ceil(before / REDUCE_CHUNK);
    this.#table[at] = n >>> 0;
    this.#table[at + 1] = n / 0x100000000;
  }
  setHyper(row: number, hyper: number): void {
    this.#table[row * this.#stride + 2] = hyper;
  }
  setFlags(row: number, flags: number): void {
    this.#table[row * this.#stride + 3] = flags;
  }
  bind(row: number, buffer: number, array: TypedArray): void {
    this.#bind(row, buffer, array, array);
  }
  bindHeld(row: number, buffer: number, array: TypedArray): void {
    this.#bind(row, buffer, array, undefined);
  }
  binder(buffer: number, written: WrittenMemory): Binder | null {
    if (this.rows === 0 || (moveWhenRead(this.#functions) && !IS_BUN)) return null; // elsewhere the collector may move them
    const width = this.#stride / 2, word = 2 + buffer;
    return new NativeBinder(this.#functions, this, this.#table, width, word, written, (row, count) => {
      if (this.#moving === null && this.#large === null) return;
      for (let index = row * width + word; count-- > 0; index += width) {
        this.#moving?.delete(index);
        this.#large?.delete(index);
      }
    });
  }
  #bind(row: number, buffer: number, array: TypedArray, kept: TypedArray | undefined): void {
    const width = this.#stride / 2, index = row * width + 2 + buffer;
    this.#kept[row * (width - 2) + buffer] = kept;
    bind(this.#functions, this.#table, index, array);
    if (mayMove(array)) (this.#moving ??= new Map()).set(index, array);
    else if (this.#moving !== null) this.#moving.delete(index);
    if (isLarge(array)) (this.#large ??= new LargeArrays(this.#functions)).set(index, array);
    else if (this.#large !== null) this.#large.delete(index);
  }
  /** Whether some of its large arrays are still to get huge pages, which a part of the next runs goes into. */
  get settling(): boolean {
    return this.#large !== null;
  }

  /** Takes the addresses of arrays whose memory may have moved again, and sees to huge pages. */
  refresh(): void {
    if (this.#large !== null && !this.#large.move()) this.#large = null;
    this.#moving?.forEach((array, index) => {
      if (array.length > 0) bind(this.#functions, this.#table, index, array);
    });
  }
  reset(rows: number): void {
    if (rows > this.rows) throw new RangeError(`a job of ${this.rows} rows cannot have ${rows}`);
    this.#table.fill(0, 0, rows * this.#stride);
    this.#kept.length = 0;
    this.#moving = null;
    this.#large = null;
    this.chunks = 0;
    this.words[2] = rows;
  }
  setRows(first: number, count: number, n: number, hyper: number, flags: number): void {
    this.chunks += count * Math.ceil(n / REDUCE_CHUNK); // they were empty
    const table = this.#table, stride = this.#stride, low = n >>> 0, high = n / 0x100000000;
    for (let at = first * stride, end = at + count * stride; at < end; at += stride) {
      table[at] = low;
      table[at + 1] = high;
      table[at + 2] = hyper;
      table[at + 3] = flags;
    }
  }
  bindRows(
    rows: number | Uint32Array,
    count: number,
    buffer: number,
    array: TypedArray,
    length: number,
    positions: Uint32Array | null,
  ): void {
    if (count === 0 || length === 0) return;
    const list = typeof rows === "number" ? null : rows, first = typeof rows === "number" ? rows : 0;
    let last = first + count - 1;
    if (list !== null) { for (let r = 0; r < count; r++) last = Math.max(last, list[r]!); }
    if (
      last >= this.rows || (positions !== null && positions.length < count) || (list !== null && list.length < count)
    ) {
      throw new RangeError(`a job of ${this.rows} rows cannot bind ${count}, the last of them row ${last}`);
    }
    if (array.buffer === undefined) throw new TypeError("an array without memory");
    this.#kept.push(array);
    const stride = this.#stride / 2, limit = Math.floor(array.length / length);
    check(
      this.#functions.fs_bind_rows(
        this.#table,
        first * stride + 2 + buffer,
        stride,
        count,
        list,
        this.words[1]!,
        length,
        array,
        limit,
        positions,
      ),
      "fs_bind_rows",
    );
  }
  bindHypers(hypers: Float64Array, rows: number): void {
    this.words[3] = rows;
    if (hypers === this.#hypers) return;
    this.#hypers = hypers;
    bind(this.#functions, this.words, 3, hypers);
  }
  bytes(only?: number): number {
    const table = this.#table, stride = this.#stride;
    const length = (row: number) => table[row * stride]! + table[row * stride + 1]! * 0x100000000;
    const isBound = (row: number, buffer: number) => {
      const at = row * stride + 4 + 2 * buffer;
      return table[at] !== 0 || table[at + 1] !== 0;
    };
    return countBytes(this.rule, this.dtype, this.words[2]!, length, isBound, only);
  }
}

/** The native library behind its functions. */
export class NativeBackend implements Backend {
  readonly name: "deno-ffi" | "bun-ffi";
  readonly library: string;
  readonly cpus: number;
  readonly #functions: Functions;
  readonly #ids = new Map<string, number>();
  readonly #tensors: NativeTensors;
  readonly #vectors: NativeVectors;
  #batch = new Uint32Array(new ArrayBuffer(4 * JOB_WORDS * 4));
  #partials = new Float64Array(new ArrayBuffer(8));

  constructor(name: "deno-ffi" | "bun-ffi", library: string, functions: Functions) {
    this.#tensors = new NativeTensors(functions, (status, call) => this.#check(status, call));
    this.#vectors = new NativeVectors(functions, (status, call) => this.#check(status, call));
    this.name = name;
    this.library = library;
    this.#functions = functions;
    this.cpus = functions.fs_cpu_count();
  }

  get isa(): Isa {
    return isaName(this.#functions.fs_isa());
  }

  setIsa(isa: Isa): void {
    const index = ISAS.indexOf(isa);
    this.#functions.fs_set_isa(index < 0 ? 0 : index);
  }

  setGrain(bytes: number): void {
    this.#functions.fs_set_grain(bytes);
  }

  /** Whether threads may stay awake between steps that are near each other. */
  setAwake(on: boolean): void {
    this.#functions.fs_set_awake(on ? 1 : 0);
  }

  /** "name|buffers|hypers|flags" as the library has them; null for a rule it does not have. */
  describe(rule: string): string | null {
    const id = this.#find(rule);
    if (id < 0) return null;
    const text = new Uint8Array(4096);
    this.#functions.fs_rule_describe(id, text, text.length);
    return new TextDecoder().decode(text.subarray(0, text.indexOf(0)));
  }

  createJob(rule: Rule, dtype: DType, rows: number): Job {
    const id = this.#find(rule.name);
    if (id < 0) throw new Error(`${this.library} has no rule "${rule.name}"; build it again: deno task build`);
    return new NativeJob(this.#functions, id, rule, dtype, rows);
  }

  /** State of many small tensors lies side by side. */
  stateMemory(tensors: readonly { readonly dtype: DType; readonly size: number }[], keys: number): StateMemory | null {
    return stateArena(tensors, keys);
  }

  wake(): void {
    this.#functions.fs_wake();
  }

  kernelTime(on: boolean): number {
    const nanoseconds = new Float64Array(new ArrayBuffer(8));
    this.#check(this.#functions.fs_profile(on ? 1 : 0, nanoseconds), "fs_profile");
    return nanoseconds[0]! / 1e6;
  }

  run(jobs: readonly Job[], threads: number): void {
    this.#gather(jobs);
    this.#check(this.#functions.fs_run(this.#batch, jobs.length, Math.min(threads, MAX_THREADS)), "fs_run");
  }

  step(jobs: readonly Job[], phases: number, step: Float64Array, threads: number): void {
    this.#gather(jobs);
    let chunks = 0;
    for (let j = 0; j < jobs.length; j++) chunks += (jobs[j] as NativeJob).chunks;
    if (this.#partials.length < chunks) this.#partials = new Float64Array(new ArrayBuffer(2 * chunks * 8));
    const partials = this.#partials, most = Math.min(threads, MAX_THREADS);
    this.#check(
      this.#functions.fs_step(this.#batch, jobs.length, phases, step, partials, partials.length, most),
      "fs_step",
    );
  }

  /** Writes the jobs behind each other, as the library reads them. */
  #gather(jobs: readonly Job[]): void {
    if (this.#batch.length < jobs.length * JOB_WORDS) {
      this.#batch = new Uint32Array(new ArrayBuffer(jobs.length * 2 * JOB_WORDS * 4));
    }
    for (let j = 0; j < jobs.length; j++) {
      const job = jobs[j] as NativeJob, words = job.words;
      job.refresh();
      for (let k = 0; k < JOB_WORDS; k++) this.#batch[j * JOB_WORDS + k] = words[k]!;
    }
  }

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
    for (const array of [out, values, sources, starts]) {
      if (array.buffer === undefined) throw new TypeError("an array without memory");
    }
    const limit = Math.floor(values.length / length), dt = DTYPES.indexOf(dtype);
    this.#check(
      this.#functions.fs_sum_rows(dt, out, count, length, values, limit, sources, starts),
      "fs_sum_rows",
    );
  }

  runTensors(
    rule: TensorRule,
    dtype: DType,
    tensors: readonly Tensor[],
    hypers: Float64Array,
    threads: number,
  ): void {
    this.#tensors.run(rule, dtype, tensors, hypers, Math.min(threads, MAX_THREADS));
  }

  matmul(product: Product, threads: number): void {
    this.#tensors.matmul(product, Math.min(threads, MAX_THREADS));
  }

  combine(pass: Combination, threads: number): Sums {
    return this.#vectors.combine(pass, Math.min(threads, MAX_THREADS));
  }

  packedProduct(n: number, matrix: Numbers, v: Numbers, out: Numbers, threads: number): void {
    this.#vectors.packedProduct(n, matrix, v, out, Math.min(threads, MAX_THREADS));
  }

  packedUpdate(n: number, matrix: Numbers, u: Numbers, s: Numbers, threads: number): void {
    this.#vectors.packedUpdate(n, matrix, u, s, Math.min(threads, MAX_THREADS));
  }

  reduce(
    op: Reduction,
    dtype: DType,
    xs: readonly TypedArray[],
    ys: readonly TypedArray[] | null,
    threads: number,
  ): number[] {
    const width = ys ? 3 : 2;
    const table = new Uint32Array(new ArrayBuffer(Math.max(1, xs.length) * width * 8));
    let chunks = 0;
    xs.forEach((x, i) => {
      const at = i * width;
      table[at * 2] = x.length >>> 0;
      table[at * 2 + 1] = x.length / 0x100000000;
      chunks += Math.ceil(x.length / REDUCE_CHUNK);
      if (x.length === 0) return;
      bind(this.#functions, table, at + 1, x);
      if (ys) bind(this.#functions, table, at + 2, ys[i]!);
    });
    const partials = new Float64Array(new ArrayBuffer(Math.max(1, chunks) * 8));
    const results = new Float64Array(new ArrayBuffer(Math.max(1, xs.length) * 8));
    const status = this.#functions.fs_reduce(
      REDUCTIONS.indexOf(op),
      DTYPES.indexOf(dtype),
      table,
      xs.length,
      partials,
      partials.length,
      results,
      Math.min(threads, MAX_THREADS),
    );
    this.#check(status, "fs_reduce");
    return Array.from(results.subarray(0, xs.length));
  }

  #find(name: string): number {
    let id = this.#ids.get(name);
    if (id === undefined) {
      id = this.#functions.fs_rule_find(new TextEncoder().encode(`${name}\0`));
      this.#ids.set(name, id);
    }
    return id;
  }

  #check(status: number, call: string): void {
    check(status, call, this.library);
  }
}
