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
  /**
   * The calls of the last run, which may be made again while nothing has changed but arrays that are copied; or what there is
   * instead: it has changed since the last run, it has run once, it consists of pieces of tensors.
   */
  calls: readonly Call[] | "changed" | "new" | "unfit" = "changed";

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
    if (this.lengths[row] !== n) this.calls = "changed";
    this.lengths[row] = n;
  }
  setHyper(row: number, hyper: number): void {
    if (this.#hyper[row] !== hyper) this.calls = "changed";
    this.#hyper[row] = hyper;
  }
  setFlags(row: number, flags: number): void {
    if (this.#flags[row] !== flags) this.calls = "changed";
    this.#flags[row] = flags;
  }
  bind(row: number, buffer: number, array: TypedArray): void {
    const k = row * this.count + buffer, home = this.homes[row];
    this.arrays[k] = asBits(array);
    if (this.starts !== null) this.starts[k] = 0;
    if (home === undefined || (home === null && heapOf(array) !== undefined)) {
      this.homes[row] = undefined;
      this.calls = "changed";
      return;
    }
    const address = this.#addressOf(k, home);
    if (address !== this.#addresses[k]) this.calls = "changed";
    this.#addresses[k] = address;
  }
  reset(rows: number): void {
    if (rows > this.rows) throw new RangeError(`a job of ${this.rows} rows cannot have ${rows}`);
    this.#used = rows;
    this.calls = "changed";
    this.lengths.fill(0);
    this.arrays.fill(undefined);
    this.homes.fill(undefined);
  }
  setRows(first: number, count: number, n: number, hyper: number, flags: number): void {
    this.calls = "changed";
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
    this.calls = "changed";
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

  /** The copies that a batch of whole tensors has made; null where a piece is not a whole tensor. */
  copiesOf(batch: Batch): Pick<Call, "reads" | "writes"> | null {
    const { count, size } = this, { heap } = batch, reads: number[] = [], writes: number[] = [];
    let at = 0;
    if (this.starts !== null) return null;
    for (let piece = 0; piece < batch.pieces; piece++) {
      const row = batch.pieceRow[piece]!, n = batch.pieceLength[piece]!;
      if (n !== this.lengths[row]) return null;
      for (let b = 0; b < count; b++) {
        const k = row * count + b;
        if (this.#addresses[k] !== COPIED) continue;
        reads.push(k, heap.base + blockAt(b) + at * size, n);
        if (this.#written.includes(b)) writes.push(k, heap.base + blockAt(b) + at * size, n);
      }
      at += n;
    }
    return { reads: Uint32Array.from(reads), writes: Uint32Array.from(writes) };
  }

  /** Writes rows of hyperparameters, one behind the other. */
  writeHypers(f64: Float64Array, to: number, rows: readonly number[]): void {
    const width = this.rule.hypers.length, hypers = this.#hypers;
    for (const row of rows) {
      if (row >= this.#hyperRows) throw new Error(`row ${row} of the hyperparameters is not there`);
      for (let h = 0; h < width; h++) f64[to++] = hypers[row * width + h]!;
    }
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

/** A call over whole tensors, as it is made again. */
interface Call {
  /** Where the state lies; null: nowhere, it is made in the workspace. */
  readonly home: Heap | null;
  /** The table. */
  readonly words: Uint32Array;
  /** Which rows of the hyperparameters it uses. */
  readonly hypers: readonly number[];
  /** What is copied, three numbers each: the place of the array in the job, the address, and the elements. */
  readonly reads: Uint32Array;
  /** See {@linkcode reads}. */
  readonly writes: Uint32Array;
}

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
  /** The rows of hyperparameters that are in it. */
  readonly #hypers: number[] = [];
  /** The calls of this run; null where they are not noted. */
  #calls: Call[] | null = null;
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
    if (typeof job.calls === "object") return this.#again(job, job.calls, workspace, factors);
    this.#calls = job.calls === "new" ? [] : null;
    this.#job = job;
    this.#mostRows = Math.floor(TABLE_BYTES / ((2 + job.count) * WORD));
    this.#mostHypers = Math.floor(HYPER_BYTES / (Math.max(1, job.rule.hypers.length) * WORD));
    this.#begin(workspace);
    for (let row = 0; row < used; row++) {
      const n = lengths[row]!;
      if (n === 0) continue;
      const known = homes[row], home = (known === undefined ? job.findHome(row) : known) ?? workspace;
      if (home !== this.heap) {
        this.#flush(factors);
        this.#begin(home);
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
    job.calls = this.#calls ?? (job.calls === "changed" ? "new" : "unfit");
  }

  /** Makes the calls of the last run again. */
  #again(job: WasmJob, calls: readonly Call[], workspace: Heap, factors: Float64Array | null): void {
    const { arrays, kind, id, type, count } = job;
    for (const { home, words, hypers, reads, writes } of calls) {
      const heap = home ?? workspace, { base, u32, f64 } = heap;
      u32.set(words, (base + TABLE_AT) / 4);
      job.writeHypers(f64, (base + HYPERS_AT) / 8, hypers);
      this.#writeJob(heap, id, type, words.length / (2 * (2 + count)), hypers.length, factors);
      for (let r = 0; r < reads.length; r += 3) heap.read(kind, reads[r + 1]!, arrays[reads[r]!]!, 0, reads[r + 2]!);
      call(heap, factors);
      for (let w = 0; w < writes.length; w += 3) {
        heap.write(kind, writes[w + 1]!, arrays[writes[w]!]!, 0, writes[w + 2]!);
      }
    }
  }

  #begin(heap: Heap): void {
    this.heap = heap;
    this.#clear();
  }

  #writeJob(heap: Heap, id: number, type: number, rows: number, hypers: number, factors: Float64Array | null): void {
    const { base, u32 } = heap, at = (base + JOB_AT) / 4;
    u32[at] = id;
    u32[at + 1] = type;
    u32[at + 2] = rows;
    u32[at + 3] = hypers;
    u32[at + 4] = base + TABLE_AT;
    u32[at + 6] = base + HYPERS_AT;
    u32[at + 5] = u32[at + 7] = 0;
    if (factors !== null) heap.f64.set(factors, (base + STEP_AT) / 8);
  }

  #clear(): void {
    this.elements =
      this.pieces =
      this.#rows =
      this.#hyperRows =
        0;
    this.#hypers.length = 0;
    this.#hyper = this.#flags = -1;
  }

  /** Runs what is in it. */
  #flush(factors: Float64Array | null): void {
    if (this.#rows === 0) return;
    const { heap } = this, job = this.#job;
    this.#writeJob(heap, job.id, job.type, this.#rows, this.#hyperRows, factors);
    call(heap, factors);
    job.takeFrom(this);
    this.#note(heap, job);
    this.#clear();
  }

  /** Notes the call that has been made. */
  #note(heap: Heap, job: WasmJob): void {
    if (this.#calls === null) return;
    const copies = job.copiesOf(this), table = (heap.base + TABLE_AT) / 4;
    if (copies === null) {
      this.#calls = null;
      return;
    }
    const home = job.homes[this.pieceRow[0]!] ?? null,
      words = heap.u32.slice(table, table + this.#rows * 2 * (2 + job.count));
    this.#calls.push({ home, words, hypers: [...this.#hypers], ...copies });
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
      this.#hypers.push(hyper);
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

/** The module's call for the job that lies in a memory. */
function call({ base, exports }: Heap, factors: Float64Array | null): void {
  if (factors === null) checkStatus(exports.fs_run(base + JOB_AT, 1, 1), "fs_run");
  else checkStatus(exports.fs_step(base + JOB_AT, 1, UPDATE, base + STEP_AT, 0, 0, 1), "fs_step");
}

/** What gradients are multiplied by, where that changes them. */
export function factorsOf(step: Float64Array): Float64Array | null {
  return step[STEP_UNSCALE] === 1 && step[STEP_COEFFICIENT] === 1 ? null : step;
}
