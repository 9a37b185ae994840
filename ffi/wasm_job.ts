/**
 * Jobs of the WebAssembly backend: a rule over tensors whose arrays may lie anywhere.
 *
 * What lies in the memory of state (wasm_memory.ts) is worked on in place. Everything else is copied into a block of that
 * memory, a block at a time, and back if it is written. Small tensors share a block, and where all their buffers follow upon
 * each other they are one row of the table.
 *
 * @module
 */

import { bytesOf, type DType, DTYPES, type TypedArray } from "../src/dtype.ts";
import { type Job, type Rule, STEP_COEFFICIENT, STEP_UNSCALE, UPDATE } from "./backend.ts";
import { STATUS } from "./symbols.ts";
import { countBytes } from "./timed_calls.ts";
import {
  asBits,
  BLOCK_BYTES,
  blockAt,
  type Heap,
  heapOf,
  HYPER_BYTES,
  HYPERS_AT,
  JOB_AT,
  type Kind,
  kindOf,
  STEP_AT,
  TABLE_AT,
  TABLE_BYTES,
} from "./wasm_memory.ts";

/** What stands for the address of a buffer: nothing is bound; its elements are copied. */
const NONE = 0, COPIED = -1;

/** Throws unless a function of the module has succeeded. */
export function checkStatus(status: number, call: string): void {
  if (status !== 0) throw new Error(`${call} of the WASM module failed: ${STATUS[status] ?? `status ${status}`}`);
}

/** A rule in one dtype over a table of tensors. */
export class WasmJob implements Job {
  readonly type: number;
  readonly kind: Kind;
  /** Bytes of an element. */
  readonly size: number;
  /** Buffers of a row. */
  readonly count: number;
  readonly lengths: Float64Array;
  readonly #hyper: Uint32Array;
  readonly #flags: Uint32Array;
  /** For each buffer of each row its array, and the element of it that it begins at; null: all at their first. */
  readonly arrays: (TypedArray | undefined)[];
  starts: Float64Array | null = null;
  /** The addresses of those that lie in the row's home. */
  readonly #addresses: Float64Array;
  /** The memory of state that a row's arrays lie in; null: none; undefined: not yet looked. */
  readonly homes: (Heap | null | undefined)[];
  readonly #written: readonly number[];
  #used: number;
  #hypers: Float64Array = new Float64Array();
  #hyperRows = 0;

  constructor(readonly id: number, readonly rule: Rule, readonly dtype: DType, readonly rows: number) {
    const count = this.count = rule.buffers.length;
    this.type = DTYPES.indexOf(dtype);
    this.kind = kindOf(dtype);
    this.size = bytesOf(dtype);
    this.lengths = new Float64Array(rows);
    this.#hyper = new Uint32Array(rows);
    this.#flags = new Uint32Array(rows);
    this.arrays = new Array(rows * count).fill(undefined);
    this.#addresses = new Float64Array(rows * count);
    this.homes = new Array(rows).fill(undefined);
    this.#written = rule.buffers.flatMap((buffer, b) => buffer.endsWith(":rw") ? [b] : []);
    this.#used = rows;
  }

  /** Rows that are in use. */
  get used(): number {
    return this.#used;
  }

  setLength(row: number, n: number): void {
    this.lengths[row] = n;
  }
  setHyper(row: number, hyper: number): void {
    this.#hyper[row] = hyper;
  }
  setFlags(row: number, flags: number): void {
    this.#flags[row] = flags;
  }
  bind(row: number, buffer: number, array: TypedArray): void {
    const k = row * this.count + buffer, home = this.homes[row];
    this.arrays[k] = asBits(array);
    if (this.starts !== null) this.starts[k] = 0;
    if (home === undefined || (home === null && heapOf(array) !== undefined)) this.homes[row] = undefined;
    else this.#addresses[k] = this.#addressOf(k, home);
  }
  reset(rows: number): void {
    if (rows > this.rows) throw new RangeError(`a job of ${this.rows} rows cannot have ${rows}`);
    this.#used = rows;
    this.lengths.fill(0);
    this.arrays.fill(undefined);
    this.homes.fill(undefined);
  }
  setRows(first: number, count: number, n: number, hyper: number, flags: number): void {
    this.lengths.fill(n, first, first + count);
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
    if (count === 0 || length === 0) return;
    const rowAt = (r: number) => typeof rows === "number" ? rows + r : rows[r];
    for (let r = 0; r < count; r++) {
      const row = rowAt(r), position = positions === null ? 0 : positions[r];
      if (row === undefined || position === undefined || row >= this.rows) {
        throw new RangeError(`a job of ${this.rows} rows cannot bind ${count}, one of them row ${row}`);
      }
      if ((position + 1) * length > array.length) throw new RangeError(`row ${position} is not there`);
    }
    const bits = asBits(array), starts = this.starts ??= new Float64Array(this.rows * this.count);
    for (let r = 0; r < count; r++) {
      const row = rowAt(r)!, k = row * this.count + buffer;
      this.arrays[k] = bits;
      starts[k] = positions === null ? 0 : positions[r]! * length;
      this.homes[row] = undefined;
    }
  }
  bindHypers(hypers: Float64Array, rows: number): void {
    this.#hypers = hypers;
    this.#hyperRows = rows;
  }

  bytes(only?: number): number {
    const isBound = (row: number, buffer: number) => this.arrays[row * this.count + buffer] !== undefined;
    return countBytes(this.rule, this.dtype, this.used, (row) => this.lengths[row]!, isBound, only);
  }

  /** The element of its array that a buffer begins at. */
  start(k: number): number {
    return this.starts === null ? 0 : this.starts[k]!;
  }

  #addressOf(k: number, home: Heap | null): number {
    const array = this.arrays[k];
    if (array === undefined) return NONE;
    return home !== null && array.buffer === home.buffer ? array.byteOffset + this.start(k) * this.size : COPIED;
  }

  /** The memory of state that a row is worked on in, if there is one. */
  findHome(row: number): Heap | null {
    const first = row * this.count;
    let home: Heap | null = null;
    for (let b = this.count - 1; b >= 0 && home === null; b--) { // the state comes last
      const array = this.arrays[first + b];
      if (array !== undefined) home = heapOf(array) ?? null;
    }
    for (let b = 0; b < this.count; b++) this.#addresses[first + b] = this.#addressOf(first + b, home);
    return this.homes[row] = home;
  }

  /**
   * Adds elements [from, from + n) of a row to a batch, which has room for them.
   *
   * @returns false if the batch has none for their row of the table or of hyperparameters
   */
  addTo(batch: Batch, row: number, from: number, n: number): boolean {
    const { count, size } = this, first = row * count, flags = this.#flags[row]!, hyper = this.#hyper[row]!;
    const { heap, pointers } = batch, at = batch.elements;
    let follows = batch.follows(flags, hyper);
    if (!follows && !batch.hasRoom(hyper)) return false;
    for (let b = 0; b < count; b++) {
      const known = this.#addresses[first + b]!;
      let pointer = known;
      if (known === COPIED) {
        pointer = heap.base + blockAt(b) + at * size;
        heap.read(this.kind, pointer, this.arrays[first + b]!, this.start(first + b) + from, n);
      } else if (known !== NONE) {
        pointer += from * size;
      }
      pointers[b] = pointer;
      follows &&= pointer === batch.ends[b];
    }
    if (follows) {
      batch.lengthen(n, size);
    } else {
      if (!batch.hasRoom(hyper)) return false;
      if (hyper >= this.#hyperRows) throw new Error(`row ${hyper} of the hyperparameters is not there`);
      batch.add(n, size, flags, hyper, this.#hypers);
    }
    batch.note(row, from, n);
    return true;
  }

  /** Copies what has been written back to where it belongs. */
  takeFrom(batch: Batch): void {
    const { count, size, kind } = this, written = this.#written, { heap } = batch;
    let at = 0;
    for (let piece = 0; piece < batch.pieces; piece++) {
      const row = batch.pieceRow[piece]!, from = batch.pieceFrom[piece]!, n = batch.pieceLength[piece]!;
      for (let w = 0; w < written.length; w++) {
        const b = written[w]!, k = row * count + b;
        if (this.#addresses[k] !== COPIED) continue;
        heap.write(kind, heap.base + blockAt(b) + at * size, this.arrays[k]!, this.start(k) + from, n);
      }
      at += n;
    }
  }
}

const WORD = 8;

/** Elements that go through one call. */
export class Batch {
  heap: Heap;
  /** Elements that are in it. */
  elements = 0;
  /** The addresses of a piece's buffers, and those behind the last one's. */
  readonly pointers: Float64Array = new Float64Array(16);
  readonly ends: Float64Array = new Float64Array(16);
  /** The pieces of rows that it consists of. */
  pieces = 0;
  readonly pieceRow: Uint32Array = new Uint32Array(BLOCK_BYTES / 2);
  readonly pieceFrom: Float64Array = new Float64Array(BLOCK_BYTES / 2);
  readonly pieceLength: Uint32Array = new Uint32Array(BLOCK_BYTES / 2);
  #job!: WasmJob;
  #rows = 0; // of the table
  #mostRows = 0;
  #hyperRows = 0;
  #mostHypers = 0;
  #hyper = -1; // the last row's
  #flags = -1;
  /** Milliseconds in kernels, added up while it is not null. */
  kernelMs: number | null = null;

  constructor(heap: Heap) {
    this.heap = heap;
  }

  /**
   * Runs a job: all its rows, block by block.
   *
   * @param factors what gradients are multiplied by (the numbers of `Backend.step`), or null
   */
  run(job: WasmJob, workspace: Heap, factors: Float64Array | null): void {
    const most = BLOCK_BYTES / job.size, { used, lengths, homes } = job;
    this.#job = job;
    this.#mostRows = Math.floor(TABLE_BYTES / ((2 + job.count) * WORD));
    this.#mostHypers = Math.floor(HYPER_BYTES / (Math.max(1, job.rule.hypers.length) * WORD));
    this.#begin(workspace, factors);
    for (let row = 0; row < used; row++) {
      const n = lengths[row]!;
      if (n === 0) continue;
      const known = homes[row], home = (known === undefined ? job.findHome(row) : known) ?? workspace;
      if (home !== this.heap) {
        this.#flush(factors);
        this.#begin(home, factors);
      }
      let from = 0;
      do {
        if (this.elements === most || (n <= most && n > most - this.elements)) this.#flush(factors);
        const take = Math.min(n - from, most - this.elements);
        if (!job.addTo(this, row, from, take)) {
          this.#flush(factors);
          job.addTo(this, row, from, take);
        }
        from += take;
      } while (from < n);
    }
    this.#flush(factors);
  }

  #begin(heap: Heap, factors: Float64Array | null): void {
    const { base, u32 } = heap, { id, type } = this.#job;
    this.heap = heap;
    u32.set([id, type, 0, 0, base + TABLE_AT, 0, base + HYPERS_AT, 0], (base + JOB_AT) / 4);
    if (factors !== null) heap.f64.set(factors, (base + STEP_AT) / 8);
    this.#clear();
  }

  #clear(): void {
    this.elements =
      this.pieces =
      this.#rows =
      this.#hyperRows =
        0;
    this.#hyper = this.#flags = -1;
  }

  /** Runs what is in it. */
  #flush(factors: Float64Array | null): void {
    if (this.#rows === 0) return;
    const { heap } = this, { base, u32, exports } = heap, at = (base + JOB_AT) / 4;
    u32[at + 2] = this.#rows;
    u32[at + 3] = this.#hyperRows;
    const start = this.kernelMs === null ? 0 : performance.now();
    if (factors === null) checkStatus(exports.fs_run(base + JOB_AT, 1, 1), "fs_run");
    else checkStatus(exports.fs_step(base + JOB_AT, 1, UPDATE, base + STEP_AT, 0, 0, 1), "fs_step");
    if (this.kernelMs !== null) this.kernelMs += performance.now() - start;
    this.#job.takeFrom(this);
    this.#clear();
  }

  /** Whether a piece may lengthen the last row of the table, if its buffers do. */
  follows(flags: number, hyper: number): boolean {
    return flags === this.#flags && hyper === this.#hyper;
  }

  /** Whether there is room for a row of the table, with hyperparameters. */
  hasRoom(hyper: number): boolean {
    return this.#rows < this.#mostRows && (hyper === this.#hyper || this.#hyperRows < this.#mostHypers);
  }

  lengthen(n: number, size: number): void {
    const { count } = this.#job, { u32 } = this.heap;
    const at = (this.heap.base + TABLE_AT) / 4 + (this.#rows - 1) * (2 + count) * 2;
    u32[at] = u32[at]! + n;
    this.#moveEnds(n * size);
  }

  add(n: number, size: number, flags: number, hyper: number, hypers: Float64Array): void {
    const { count, rule } = this.#job, { u32, f64, base } = this.heap, width = rule.hypers.length;
    if (hyper !== this.#hyper) {
      const to = (base + HYPERS_AT) / 8 + this.#hyperRows * width, from = hyper * width;
      for (let h = 0; h < width; h++) f64[to + h] = hypers[from + h]!;
      this.#hyperRows++;
    }
    let at = (base + TABLE_AT) / 4 + this.#rows * (2 + count) * 2;
    u32[at++] = n;
    u32[at++] = 0;
    u32[at++] = this.#hyperRows - 1;
    u32[at++] = flags;
    for (let b = 0; b < count; b++) {
      u32[at++] = this.pointers[b]!;
      u32[at++] = 0;
    }
    this.#hyper = hyper;
    this.#flags = flags;
    this.#rows++;
    this.#moveEnds(n * size);
  }

  /** Notes which elements of which row are next. */
  note(row: number, from: number, n: number): void {
    const piece = this.pieces++;
    this.pieceRow[piece] = row;
    this.pieceFrom[piece] = from;
    this.pieceLength[piece] = n;
    this.elements += n;
  }

  #moveEnds(bytes: number): void {
    const { count } = this.#job;
    for (let b = 0; b < count; b++) {
      const pointer = this.pointers[b]!;
      this.ends[b] = pointer === NONE ? NONE : pointer + bytes;
    }
  }
}

/** What gradients are multiplied by, where that changes them. */
export function factorsOf(step: Float64Array): Float64Array | null {
  return step[STEP_UNSCALE] === 1 && step[STEP_COEFFICIENT] === 1 ? null : step;
}
