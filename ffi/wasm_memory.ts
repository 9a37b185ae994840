/**
 * The memories of the WebAssembly backend.
 *
 * Growing a WebAssembly memory detaches every array that looks into it. So no memory that anyone else can see ever grows:
 * an instance of the module belongs to the state of one group of parameters, is made as large as that state needs, and stays
 * so. (The system gives it pages when they are first touched.) Nothing has to be freed: when the last array of state is
 * gone, the garbage collector takes instance and memory. One further instance, the workspace, has nothing in it but what a
 * call needs, and may grow and be replaced.
 *
 * @module
 */

import { bytesOf, type DType, type TypedArray, viewOf } from "../src/dtype.ts";
import type { StateMemory } from "./backend.ts";
import { WASM_BASE64 } from "./wasm_bytes.ts";

/** Numbers: addresses and lengths. Functions that are exported for the host's sake only are left out. */
export interface Exports {
  readonly memory: WebAssembly.Memory;
  fs_abi_version(): number;
  fs_rule_find(name: number): number;
  fs_rule_describe(rule: number, text: number, capacity: number): number;
  fs_sum_rows(
    ...args: [dtype: number, out: number, count: number, length: number, values: number, limit: number, ...Two]
  ): number;
  fs_run(jobs: number, count: number, threads: number): number;
  fs_step(jobs: number, count: number, phases: number, step: number, partials: number, ...rest: Two): number;
  fs_reduce(
    ...args: [op: number, dtype: number, table: number, rows: number, partials: number, room: number, ...Two]
  ): number;
  fs_tensor_scratch(rule: number, dtype: number, table: number, count: number, threads: number, length: number): number;
  fs_run_tensors(
    ...args: [rule: number, dtype: number, table: number, count: number, hypers: number, scratch: number, ...Two]
  ): number;
  fs_matmul_scratch(dtype: number, threads: number): number;
  fs_matmul(dtype: number, product: number, scratch: number, scratchLength: number, threads: number): number;
  fs_combine(dtype: number, pass: number, partials: number, room: number, results: number, threads: number): number;
  fs_packed_scratch(n: number): number;
  fs_packed_product(
    ...args: [dtype: number, n: number, matrix: number, v: number, out: number, scratch: number, ...Two]
  ): number;
  fs_packed_update(
    ...args: [dtype: number, n: number, matrix: number, u: number, s: number, scratch: number, ...Two]
  ): number;
}
type Two = [number, number];

const PAGE = 65536;
/** Bytes of the largest memory: its addresses have 32 bits. */
export const MAX_BYTES: number = 65536 * PAGE;

/** Bytes of each buffer that a call works on: with those of the other buffers they stay in the second-level cache. */
export const BLOCK_BYTES = 32768;
/** A distance between blocks that is no power of two, so that they do not compete for the same places in the cache. */
const BLOCK_STRIDE = BLOCK_BYTES + 256;
const MAX_BUFFERS = 16; // FS_MAX_BUFFERS

/** Where things are in the part of every memory that a call may use, from its `base` on. */
export const STEP_AT = 0, JOB_AT = 64, HYPERS_AT = 128;
/** See {@linkcode STEP_AT}. */
export const HYPER_BYTES = 32768, TABLE_AT: number = HYPERS_AT + HYPER_BYTES, TABLE_BYTES = 131072;
/** See {@linkcode STEP_AT}. */
export const BLOCKS_AT: number = TABLE_AT + TABLE_BYTES, BLOCKS_BYTES: number = MAX_BUFFERS * BLOCK_STRIDE;
/** The bytes of that part. */
export const CALL_BYTES: number = BLOCKS_AT + BLOCKS_BYTES;

/** Where the block of a buffer begins, from a memory's `base` on. */
export const blockAt = (buffer: number): number => BLOCKS_AT + buffer * BLOCK_STRIDE;

/** A module with one vector instruction, to ask whether there are any. */
const SIMD = Uint8Array.of(
  ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11],
);

let compiled: WebAssembly.Module | undefined;

/** The module, compiled at the first call; throws with a reason where that cannot be done. */
function wasmModule(): WebAssembly.Module {
  if (compiled !== undefined) return compiled;
  if (typeof WebAssembly === "undefined") throw new Error("this runtime has no WebAssembly");
  if (!WebAssembly.validate(SIMD)) throw new Error("this runtime's WebAssembly has no vectors (SIMD)");
  const text = atob(WASM_BASE64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return compiled = new WebAssembly.Module(bytes);
}

/** How elements are copied: as float32, float64 or 16 bits. */
export type Kind = 0 | 1 | 2;
/** The kind of a dtype. */
export const kindOf = (dtype: DType): Kind => dtype === "float32" ? 0 : dtype === "float64" ? 1 : 2;

/** An instance of the module, with its memory. */
export class Heap {
  readonly exports: Exports;
  /** Where free memory begins: behind the module's own data and stack. */
  readonly base: number;
  u32: Uint32Array;
  f64: Float64Array;
  /** The whole memory, by kind. */
  views: readonly [Float32Array, Float64Array, Uint16Array];
  /** Views that results are read through, by kind and place: made once. */
  readonly #windows: (TypedArray | undefined)[][] = [[], [], []];

  /** @param bytes how many are needed from `base` on; throws a RangeError where the system does not have them */
  constructor(bytes: number) {
    const module = wasmModule(); // which says what is missing
    this.exports = new WebAssembly.Instance(module).exports as unknown as Exports;
    this.base = this.exports.memory.buffer.byteLength;
    this.exports.memory.grow(Math.ceil(bytes / PAGE));
    const { buffer } = this.exports.memory;
    this.u32 = new Uint32Array(buffer);
    this.f64 = new Float64Array(buffer);
    this.views = [new Float32Array(buffer), this.f64, new Uint16Array(buffer)];
  }

  /** Its memory; another one after it has grown. */
  get buffer(): ArrayBuffer {
    return this.f64.buffer as ArrayBuffer;
  }

  /** Bytes from `base` on. */
  get size(): number {
    return this.f64.byteLength - this.base;
  }

  /** Grows to `bytes` from `base` on; throws a RangeError where the system does not have them. */
  grow(bytes: number): void {
    this.exports.memory.grow(Math.ceil((bytes - this.size) / PAGE));
    const { buffer } = this.exports.memory;
    this.u32 = new Uint32Array(buffer);
    this.f64 = new Float64Array(buffer);
    this.views = [new Float32Array(buffer), this.f64, new Uint16Array(buffer)];
    for (const windows of this.#windows) windows.length = 0;
  }

  /** Copies n elements of an array, from `from` on, to an address. */
  read(kind: Kind, address: number, array: TypedArray, from: number, n: number): void {
    const view = this.views[kind], at = address / view.BYTES_PER_ELEMENT;
    if (n < FEW) { for (let i = 0; i < n; i++) view[at + i] = array[from + i]!; }
    else if (n === array.length) view.set(array, at);
    else view.set(array.subarray(from, from + n), at);
  }

  /** Copies n elements from an address to an array, from `from` on. */
  write(kind: Kind, address: number, array: TypedArray, from: number, n: number): void {
    const view = this.views[kind], at = address / view.BYTES_PER_ELEMENT;
    if (n < FEW) { for (let i = 0; i < n; i++) array[from + i] = view[at + i]!; }
    else array.set(this.#window(kind, view, at, n), from);
  }

  /** A view of n elements, at least FEW: the one that was there last time if it is the same. */
  #window(kind: Kind, view: TypedArray, at: number, n: number): TypedArray {
    const place = Math.floor((at - (this.base + BLOCKS_AT) / view.BYTES_PER_ELEMENT) / FEW);
    if (place < 0 || place >= WINDOWS) return view.subarray(at, at + n);
    const windows = this.#windows[kind]!, known = windows[place];
    if (known !== undefined && known.length === n && known.byteOffset === at * view.BYTES_PER_ELEMENT) return known;
    if (windows.length === 0) windows.length = WINDOWS;
    return windows[place] = view.subarray(at, at + n);
  }
}

/** Fewer elements than these are copied one by one. */
const FEW = 16;
const WINDOWS = BLOCKS_BYTES / 2 / FEW;

/** The memories of state, by their buffers: each lives as long as an array that looks into it. */
const heaps = new WeakMap<object, Heap>();

/** The memory of state that an array lies in, if it does. */
export function heapOf(array: TypedArray): Heap | undefined {
  return heaps.get(array.buffer);
}

/** An array as its bits, where JavaScript would convert: float16. */
export function asBits(array: TypedArray): TypedArray {
  return array instanceof Float32Array || array instanceof Float64Array || array instanceof Uint16Array
    ? array
    : new Uint16Array(array.buffer, array.byteOffset, array.length);
}

/** The bytes of a line of the cache: what begins with one is read faster. */
const LINE = 64;

/** Less state than this is kept elsewhere: copying it costs less than a memory of its own. */
export const LEAST_STATE = 65536;

/** Bytes that one tensor's part of the state may take. */
const roomOf = (dtype: DType, n: number): number => Math.ceil(n * bytesOf(dtype) / 8) * 8;

/**
 * Memory for the state of some tensors: `keys` arrays for each. The arrays of one key lie behind each other, in the order in
 * which they are asked for, so that those of many small tensors are worked on as one.
 */
export class WasmState implements StateMemory {
  readonly #part: number; // bytes for a key, in each memory
  readonly #keys: number;
  readonly #heaps: (Heap | null)[] = [];
  readonly #used: { heap: number; at: number }[];

  /** @param bytes of the state, each array's rounded up to eight */
  constructor(keys: number, bytes: number) {
    const most = Math.floor((MAX_BYTES - 4 * PAGE - CALL_BYTES) / keys / LINE) * LINE;
    this.#keys = keys;
    this.#part = Math.min(Math.ceil(bytes / keys / LINE) * LINE, most);
    this.#used = Array.from({ length: keys }, () => ({ heap: 0, at: 0 }));
  }

  allocate(key: number, dtype: DType, n: number, like: TypedArray): TypedArray | null {
    const room = n * bytesOf(dtype), size = bytesOf(dtype), used = this.#used[key];
    if (used === undefined || room > this.#part || room === 0) return null;
    let at = Math.ceil(used.at / size) * size;
    if (at + room > this.#part) {
      used.heap++;
      at = 0;
    }
    const heap = this.#heap(used.heap);
    if (heap === null) return null;
    used.at = at + room;
    return viewOf(dtype, heap.buffer, heap.base + CALL_BYTES + key * this.#part + at, n, like);
  }

  /** The memories, made when they are needed; null where the system has none to give. */
  #heap(index: number): Heap | null {
    const known = this.#heaps[index];
    if (known !== undefined) return known;
    let heap: Heap | null = null;
    try {
      heap = new Heap(CALL_BYTES + this.#keys * this.#part);
      heaps.set(heap.buffer, heap);
    } catch {
      // the system has no such memory: the state lies elsewhere, and is copied
    }
    return this.#heaps[index] = heap;
  }
}

/** Memory for the state of tensors, or null where there is too little of it. */
export function stateMemory(tensors: readonly { dtype: DType; size: number }[], keys: number): WasmState | null {
  let bytes = 0;
  for (const { dtype, size } of tensors) bytes += roomOf(dtype, size) * keys;
  return bytes < LEAST_STATE ? null : new WasmState(keys, bytes);
}
