/**
 * The WebAssembly backend: the same kernels, stamped with SIMD128, where no native library may be opened. It needs no
 * permission, no file and no network, and starts synchronously at the first step.
 *
 * @module
 */

import type { DType, TypedArray } from "../src/dtype.ts";
import { DTYPES } from "../src/dtype.ts";
import {
  type Backend,
  type Combination,
  type Isa,
  type Job,
  judge,
  MEASURE,
  type Numbers,
  type Product,
  REDUCE_CHUNK,
  type Reduction,
  REDUCTIONS,
  type Rule,
  type StateMemory,
  STEP_NORM,
  STEP_SUMS,
  STEP_UNSCALE,
  type Sums,
  type Tensor,
  type TensorRule,
  UPDATE,
} from "./backend.ts";
import { checkCombination } from "./fits.ts";
import { fold } from "./reductions.ts";
import { ABI_VERSION } from "./symbols.ts";
import { Batch, checkStatus, factorsOf, WasmJob } from "./wasm_job.ts";
import {
  asBits,
  BLOCKS_AT,
  BLOCKS_BYTES,
  CALL_BYTES,
  Heap,
  HYPER_BYTES,
  HYPERS_AT,
  JOB_AT,
  kindOf,
  stateMemory,
  STEP_AT,
  TABLE_AT,
} from "./wasm_memory.ts";
import { WasmTensors } from "./wasm_tensors.ts";

/** Bytes of chunks that go through one call. */
const CHUNKS_BYTES = Math.min(BLOCKS_BYTES, 1 << 18);

/** A part of an array: `length` elements from `start` on, and where there are two, those of the other one. */
interface Part {
  readonly array: TypedArray;
  readonly other: TypedArray | null;
  readonly start: number;
  readonly length: number;
}

/** The module behind its functions. There is one. */
export class WasmBackend implements Backend {
  readonly name = "wasm";
  readonly isa: Isa = "simd128";
  readonly library = null;
  readonly cpus = 1;
  readonly #ids = new Map<string, number>();
  readonly #tensors: WasmTensors;
  readonly #batch: Batch;

  /** Throws with a reason where the module cannot be used. */
  constructor() {
    const heap = new Heap(CALL_BYTES), version = heap.exports.fs_abi_version();
    if (version !== ABI_VERSION) throw new Error(`the module has ABI version ${version}, and ${ABI_VERSION} is needed`);
    this.#tensors = new WasmTensors(heap);
    this.#batch = new Batch(heap);
  }

  /** "name|buffers|hypers|flags" as the module has them; null for a rule it does not have. */
  describe(rule: string): string | null {
    const id = this.#find(rule), { base, exports } = this.#heap, at = base + BLOCKS_AT;
    if (id < 0) return null;
    exports.fs_rule_describe(id, at, 4096);
    return this.#text(at);
  }

  createJob(rule: Rule, dtype: DType, rows: number): Job {
    const id = this.#find(rule.name);
    if (id < 0) throw new Error(`the WASM module has no rule "${rule.name}"; build it again: deno task build --wasm`);
    return new WasmJob(id, rule, dtype, rows);
  }

  stateMemory(tensors: readonly { dtype: DType; size: number }[], keys: number): StateMemory | null {
    return stateMemory(tensors, keys);
  }

  run(jobs: readonly Job[]): void {
    for (const job of jobs as readonly WasmJob[]) this.#batch.run(job, this.#heap, null);
  }

  step(jobs: readonly Job[], phases: number, step: Float64Array): void {
    if ((phases & MEASURE) !== 0) { for (const job of jobs as readonly WasmJob[]) this.#measure(job, step); }
    if ((phases & UPDATE) === 0) return;
    if ((phases & MEASURE) !== 0) {
      judge(step);
      if (!Number.isFinite(step[STEP_NORM]!)) return;
    }
    const factors = factorsOf(step);
    for (const job of jobs as readonly WasmJob[]) this.#batch.run(job, this.#heap, factors);
  }

  /** Adds the squares of a job's gradients, times a number, to the sum of their dtype. */
  #measure(job: WasmJob, step: Float64Array): void {
    const { base, exports, f64, u32 } = this.#heap, table = (base + TABLE_AT) / 4, at = (base + JOB_AT) / 4;
    const scale = this.#find("scale"), partials = (base + HYPERS_AT) / 8, parts: Part[] = [];
    for (let row = 0; row < job.used; row++) {
      const length = job.lengths[row]!, k = row * job.count + 1;
      if (length > 0) parts.push({ array: job.arrays[k]!, other: null, start: job.start(k), length });
    }
    f64[(base + STEP_AT) / 8 + STEP_UNSCALE] = step[STEP_UNSCALE]!;
    const sums = this.#chunkwise(job.dtype, "sumSq", parts, 4, HYPER_BYTES / 8, (rows) => {
      for (let r = 0; r < rows; r++) { // a row of the rule "scale": its result is written nowhere, for it is not run
        u32[table + r * 8 + 6] = u32[table + r * 8 + 4] = u32[table + r * 8 + 2]!;
        u32[table + r * 8 + 7] = u32[table + r * 8 + 5] = u32[table + r * 8 + 2] = 0;
      }
      u32.set([scale, job.type, rows, 1, base + TABLE_AT, 0, base + STEP_AT, 0], at);
      const room = HYPER_BYTES / 8;
      checkStatus(
        exports.fs_step(base + JOB_AT, 1, MEASURE, base + STEP_AT, base + HYPERS_AT, room, 1),
        "fs_step",
      );
      return partials;
    });
    for (const sum of sums) step[STEP_SUMS + job.type]! += sum;
  }

  reduce(
    op: Reduction,
    dtype: DType,
    xs: readonly TypedArray[],
    ys: readonly TypedArray[] | null,
  ): number[] {
    const { base, exports } = this.#heap, room = HYPER_BYTES / 16, results = base + HYPERS_AT + HYPER_BYTES / 2;
    const number = REDUCTIONS.indexOf(op), type = DTYPES.indexOf(dtype);
    const parts = xs.map((array, i): Part => {
      return { array: asBits(array), other: ys && asBits(ys[i]!), start: 0, length: array.length };
    });
    return this.#chunkwise(dtype, op, parts, ys ? 3 : 2, room, (rows) => {
      const status = exports.fs_reduce(number, type, base + TABLE_AT, rows, base + HYPERS_AT, room, results, 1);
      checkStatus(status, "fs_reduce");
      return results / 8;
    });
  }

  /**
   * A number for each part: chunk by chunk, in the order of csrc/reduce.h.
   *
   * @param words of a row of the table, { n | address | other's address … }
   * @param room rows that a call may have
   * @param call reduces so many rows, a chunk each, and tells where the results are, in doubles
   */
  #chunkwise(
    dtype: DType,
    op: Reduction,
    parts: readonly Part[],
    words: number,
    room: number,
    call: (rows: number) => number,
  ): number[] {
    const heap = this.#heap, { base, u32, f64 } = heap, kind = kindOf(dtype), table = (base + TABLE_AT) / 4;
    const size = heap.views[kind].BYTES_PER_ELEMENT, found = parts.map((): number[] => []), rowPart: number[] = [];
    let at = 0;
    const flush = () => {
      if (rowPart.length === 0) return;
      const results = call(rowPart.length);
      rowPart.forEach((part, r) => found[part]!.push(f64[results + r]!));
      rowPart.length = at = 0;
    };
    parts.forEach(({ array, other, start, length }, part) => {
      for (let from = 0; from < length; from += REDUCE_CHUNK) {
        const n = Math.min(REDUCE_CHUNK, length - from), bytes = Math.ceil(n * size / 8) * 8;
        if (rowPart.length === room || at + bytes * 2 > CHUNKS_BYTES) flush();
        const row = table + rowPart.length * words * 2;
        u32.fill(0, row, row + words * 2);
        u32[row] = n;
        for (const [i, source] of [array, other].entries()) {
          if (source === null) continue;
          u32[row + 2 + i * 2] = base + BLOCKS_AT + at;
          heap.read(kind, base + BLOCKS_AT + at, source, start + from, n);
          at += bytes;
        }
        rowPart.push(part);
      }
    });
    flush();
    return found.map((partials) => fold(op, partials));
  }

  combine(pass: Combination): Sums {
    checkCombination(pass);
    const { n, x, y, z, out, negate, a, c } = pass;
    const heap = this.#heap, { base, u32, f64, exports } = heap, kind = out instanceof Float64Array ? 1 : 0;
    const words = (base + TABLE_AT) / 4, results = base + STEP_AT, partials = base + HYPERS_AT;
    const chunk = REDUCE_CHUNK * 8, dots: number[] = [], largests: number[] = [];
    for (let from = 0; from < n; from += REDUCE_CHUNK) {
      const length = Math.min(REDUCE_CHUNK, n - from);
      u32.fill(0, words, words + 16);
      u32[words] = length;
      [x, y, z].forEach((array, i) => {
        if (array === null) return;
        u32[words + 2 + i * 2] = base + BLOCKS_AT + i * chunk;
        heap.read(kind, base + BLOCKS_AT + i * chunk, array, from, length);
      });
      u32[words + 8] = base + BLOCKS_AT + 3 * chunk;
      u32[words + 10] = (negate ? 1 : 0) | (c === null ? 0 : 2);
      f64[words / 2 + 6] = a;
      f64[words / 2 + 7] = c ?? 1;
      checkStatus(exports.fs_combine(kind, base + TABLE_AT, partials, 2, results, 1), "fs_combine");
      heap.write(kind, base + BLOCKS_AT + 3 * chunk, out, from, length);
      if (z === null) continue;
      dots.push(f64[results / 8]!);
      largests.push(f64[results / 8 + 1]!);
    }
    return { dot: fold("sum", dots), largest: fold("maxAbs", largests) };
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
    this.#tensors.sumRows(dtype, out, count, length, values, sources, starts);
  }

  runTensors(rule: TensorRule, dtype: DType, tensors: readonly Tensor[], hypers: Float64Array): void {
    this.#tensors.run(rule, dtype, tensors, hypers);
  }

  matmul(product: Product): void {
    this.#tensors.matmul(product);
  }

  packedProduct(n: number, matrix: Numbers, v: Numbers, out: Numbers): void {
    this.#tensors.packed("product", n, matrix, v, out);
  }

  packedUpdate(n: number, matrix: Numbers, u: Numbers, s: Numbers): void {
    this.#tensors.packed("update", n, matrix, u, s);
  }

  kernelTime(on: boolean): number {
    const { kernelMs } = this.#batch;
    this.#batch.kernelMs = on ? 0 : null;
    return kernelMs ?? 0;
  }

  wake(): void {}
  setGrain(): void {}
  setIsa(): void {}

  get #heap(): Heap {
    return this.#tensors.heap;
  }

  #find(name: string): number {
    let id = this.#ids.get(name);
    if (id === undefined) {
      const { base, exports } = this.#heap, at = base + BLOCKS_AT;
      new Uint8Array(this.#heap.buffer).set(new TextEncoder().encode(`${name}\0`), at);
      this.#ids.set(name, id = exports.fs_rule_find(at));
    }
    return id;
  }

  #text(at: number): string {
    const bytes = new Uint8Array(this.#heap.buffer, at, 4096);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }
}
