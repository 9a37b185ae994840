/**
 * Jobs on a device: a rule in one dtype over a table of tensors, one launch for each row of hyperparameters.
 *
 * The table and its chunks are kept in the device's memory, and are uploaded only when something in them has changed; hyperparameters
 * travel with the launch. So a step in which nothing but numbers has changed uploads nothing but gradients.
 *
 * @module
 */

import { REDUCE_CHUNK, type Reduction, REDUCTIONS, type Rule } from "../../ffi/backend.ts";
import type { Device } from "../../ffi/cuda_driver.ts";
import { CUDA_FOLD, CUDA_HYPERS, CUDA_LANES, CUDA_STEP, SUFFIX, SUM_SQ_SCALED } from "../../ffi/cuda_kernels.ts";
import { fold, LANES } from "../../ffi/reductions.ts";
import type { DType } from "../dtype.ts";
import { atLeast, type DeviceArray, releaseArray } from "./device_array.ts";

/** Threads that a chunk of a step is for: a block. */
const THREADS = 256;
/** Elements of a chunk, of steps and of reductions. */
const CHUNK = REDUCE_CHUNK;
const CHUNK_WORDS = 2;

/** A structure that a kernel takes. */
class Structure {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  constructor(size: number) {
    this.bytes = new Uint8Array(new ArrayBuffer(size));
    this.#view = new DataView(this.bytes.buffer);
  }
  address(at: number, address: bigint): void {
    this.#view.setBigUint64(at, address, true);
  }
  count(at: number, n: number): void {
    this.#view.setBigUint64(at, BigInt(n), true);
  }
  word(at: number, n: number): void {
    this.#view.setUint32(at, n, true);
  }
  number(at: number, x: number): void {
    this.#view.setFloat64(at, x, true);
  }
}

/** Rows with one row of hyperparameters: their chunks lie behind each other. */
interface Segment {
  readonly hyper: number;
  readonly from: number;
  readonly count: number;
}

/** One rule in one dtype over a table of tensors on a device. Rows keep what they were given. */
export class DeviceJob {
  readonly #words: number; // 64-bit words of a row
  readonly #table: Uint32Array;
  readonly #addresses: BigUint64Array;
  readonly #hyper: Uint32Array;
  readonly #lengths: Float64Array;
  #hypers: Float64Array = new Float64Array(0);
  #tableChanged = true;
  #chunksChanged = true;
  #segments: Segment[] = [];
  /** The chunks' rows, in order. */
  #chunkRows = new Uint32Array(0);
  #deviceTable: DeviceArray | null = null;
  #deviceChunks: DeviceArray | null = null;
  #lanes: DeviceArray | null = null;
  #partials: DeviceArray | null = null;
  readonly #step = new Structure(CUDA_STEP.bytes);

  /**
   * @param device where it runs
   * @param rule a rule of csrc/rules/
   * @param dtype the element type of all its buffers
   * @param rows tensors in the table, all of them empty at first
   */
  constructor(readonly device: Device, readonly rule: Rule, readonly dtype: DType, readonly rows: number) {
    if (rule.hypers.length > CUDA_HYPERS) throw new RangeError(`${rule.name} has more than ${CUDA_HYPERS} numbers`);
    this.#words = 2 + rule.buffers.length;
    const buffer = new ArrayBuffer(rows * this.#words * 8);
    this.#table = new Uint32Array(buffer);
    this.#addresses = new BigUint64Array(buffer);
    this.#hyper = new Uint32Array(rows);
    this.#lengths = new Float64Array(rows);
  }

  /** Elements of a row; 0: the row is skipped. */
  setLength(row: number, n: number): void {
    if (this.#lengths[row] === n) return;
    this.#lengths[row] = n;
    this.#addresses[row * this.#words] = BigInt(n);
    this.#tableChanged = this.#chunksChanged = true;
  }

  /** Which row of the hyperparameters a row uses, from 0. */
  setHyper(row: number, hyper: number): void {
    if (this.#hyper[row] === hyper) return;
    this.#hyper[row] = hyper;
    this.#chunksChanged = true;
  }

  /** The rule's flags that are set for a row. */
  setFlags(row: number, flags: number): void {
    const at = row * this.#words * 2 + 3;
    if (this.#table[at] === flags) return;
    this.#table[at] = flags;
    this.#tableChanged = true;
  }

  /** The address behind a buffer of a row. Whoever gives it keeps its memory alive. */
  bind(row: number, buffer: number, address: bigint): void {
    const at = row * this.#words + 2 + buffer;
    if (this.#addresses[at] === address) return;
    this.#addresses[at] = address;
    this.#tableChanged = true;
  }

  /** The hyperparameters: rows of as many numbers as the rule has. Read at each launch. */
  bindHypers(hypers: Float64Array): void {
    this.#hypers = hypers;
  }

  /** Puts everything in its place: after it only launches are left to do. */
  prepare(): void {
    const { device } = this;
    if (this.#chunksChanged) this.#layChunks();
    if (this.#segments.length === 0) return;
    device.kernel(this.#kernel);
    if (!this.#tableChanged) return;
    this.#deviceTable = atLeast(this.#deviceTable, device, 8 * this.#addresses.length);
    device.upload(this.#deviceTable.address, this.#addresses);
    this.#tableChanged = false;
  }

  get #kernel(): string {
    return `${this.rule.name}_${SUFFIX[this.dtype]}`;
  }

  /** Writes the chunks of all rows, by hyperparameters. */
  #layChunks(): void {
    const rows = Array.from(this.#hyper.keys()).filter((row) => this.#lengths[row]! > 0)
      .sort((a, b) => this.#hyper[a]! - this.#hyper[b]! || a - b);
    let count = 0;
    for (const row of rows) count += Math.ceil(this.#lengths[row]! / CHUNK);
    const words = new BigUint64Array(new ArrayBuffer(Math.max(1, count) * CHUNK_WORDS * 8));
    const chunkRows = new Uint32Array(count), segments: Segment[] = [];
    let at = 0;
    for (const row of rows) {
      const hyper = this.#hyper[row]!, n = this.#lengths[row]!, last = segments.at(-1), from = at;
      for (let first = 0; first < n; first += CHUNK, at++) {
        words[at * CHUNK_WORDS] = BigInt(row);
        words[at * CHUNK_WORDS + 1] = BigInt(first);
        chunkRows[at] = row;
      }
      if (last?.hyper === hyper) segments[segments.length - 1] = { ...last, count: at - last.from };
      else segments.push({ hyper, from, count: at - from });
    }
    if (count > 0) {
      this.#deviceChunks = atLeast(this.#deviceChunks, this.device, 8 * (count * CHUNK_WORDS));
      this.device.upload(this.#deviceChunks.address, words);
    }
    this.#chunkRows = chunkRows;
    this.#segments = segments;
    this.#chunksChanged = false;
  }

  /**
   * Queues the step. `prepare()` comes first.
   *
   * @param unscale what gradients are multiplied by first
   * @param clip what they are multiplied by then
   * @param queued called with each row of hyperparameters whose tensors are as good as updated
   */
  launch(unscale: number, clip: number, queued: (hyper: number) => void): void {
    const step = this.#step, width = this.rule.hypers.length;
    if (this.#segments.length === 0) return;
    step.address(CUDA_STEP.table, this.#deviceTable!.address);
    step.word(CUDA_STEP.words, this.#words);
    step.word(CUDA_STEP.length, CHUNK);
    step.number(CUDA_STEP.unscale, unscale);
    step.number(CUDA_STEP.clip, clip);
    const kernel = this.device.kernel(this.#kernel);
    for (const { hyper, from, count } of this.#segments) {
      step.address(CUDA_STEP.chunks, this.#deviceChunks!.address + BigInt(from * CHUNK_WORDS * 8));
      step.count(CUDA_STEP.count, count);
      for (let k = 0; k < width; k++) step.number(CUDA_STEP.hypers + 8 * k, this.#hypers[hyper * width + k]!);
      this.device.launch(kernel, step.bytes, count * THREADS);
      queued(hyper);
    }
  }

  /**
   * Reduces a buffer of each row, and waits for the results. `prepare()` comes first.
   *
   * @param op the reduction; not "dot"
   * @param buffer which buffer
   * @param factor for "sumSq": the elements are multiplied by it first, rounded to the dtype
   * @returns a number for each row; 0 for one that is skipped
   */
  reduce(op: Exclude<Reduction, "dot">, buffer: number, factor = 1): Float64Array {
    const { device } = this, count = this.#chunkRows.length, results = new Float64Array(this.rows);
    if (count === 0) return results;
    const number = REDUCTIONS.indexOf(op);
    this.#lanes = atLeast(this.#lanes, device, 8 * (LANES * count));
    this.#partials = atLeast(this.#partials, device, 8 * count);
    const lanes = new Structure(CUDA_LANES.bytes);
    lanes.address(CUDA_LANES.table, this.#deviceTable!.address);
    lanes.address(CUDA_LANES.chunks, this.#deviceChunks!.address);
    lanes.count(CUDA_LANES.count, count);
    lanes.address(CUDA_LANES.out, this.#lanes.address);
    lanes.word(CUDA_LANES.words, this.#words);
    lanes.word(CUDA_LANES.x, 2 + buffer);
    lanes.word(CUDA_LANES.op, factor === 1 ? number : SUM_SQ_SCALED);
    lanes.number(CUDA_LANES.factor, factor);
    const joined = new Structure(CUDA_FOLD.bytes);
    joined.address(CUDA_FOLD.lanes, this.#lanes.address);
    joined.address(CUDA_FOLD.out, this.#partials.address);
    joined.count(CUDA_FOLD.count, count);
    joined.word(CUDA_FOLD.op, number);
    const first = device.kernel(`lanes_${SUFFIX[this.dtype]}`), second = device.kernel("fold");
    device.launch(first, lanes.bytes, LANES * count);
    device.launch(second, joined.bytes, count);
    const partials = new Float64Array(new ArrayBuffer(count * 8));
    device.download(partials, this.#partials.address);
    for (let at = 0; at < count;) {
      const row = this.#chunkRows[at]!, chunks = Math.ceil(this.#lengths[row]! / CHUNK);
      results[row] = fold(op, Array.from(partials.subarray(at, at + chunks)));
      at += chunks;
    }
    return results;
  }

  /** Gives the table's memory back. The job can be prepared again afterwards. */
  dispose(): void {
    for (const memory of [this.#deviceTable, this.#deviceChunks, this.#lanes, this.#partials]) {
      if (memory !== null) releaseArray(memory);
    }
    this.#deviceTable =
      this.#deviceChunks =
      this.#lanes =
      this.#partials =
        null;
    this.#tableChanged = this.#chunksChanged = true;
    this.#segments = [];
    this.#chunkRows = new Uint32Array(0);
  }
}
