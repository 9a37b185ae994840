/**
 * Binding a job's arrays where each is another one at every step, eight in a call: gradients of libraries that make new ones.
 *
 * Bun moves the elements of small arrays when their `buffer` is first read, which takes 130 ns. So it is not read: as long as
 * nobody reads it, the elements stay. Who binds an array in this way does so right before the run, and must not take it for
 * bound at the next one. What the arrays overlap with is found by addresses, in C, since that too would need their `buffer`.
 *
 * @module
 */

import { type DType, DTYPES, type TypedArray } from "../src/dtype.ts";
import type { WrittenMemory } from "../src/memory.ts";
import type { Binder, Job } from "./backend.ts";
import { LARGE } from "./pages.ts";
import { type Functions, STATUS } from "./symbols.ts";

/** 32-bit words of an fs_binding, and one of them. */
const WORDS = 10, SPAN_COUNT = 4;
/** 64-bit words of it. */
const TABLE = 3, SPANS = 4;
/** What says that an array cannot be bound, but not that the call was wrong: null, misaligned, an overlap. */
const REFUSED: readonly number[] = [-1, -7, -12];

/** The addresses of what is written; null where they may change. */
interface Spans {
  readonly version: number;
  readonly words: Uint32Array | null;
  readonly count: number;
}

const made = new WeakMap<WrittenMemory, Spans>();

/** The addresses of what is written, as fs_bind_arrays wants them. */
function spansOf(written: WrittenMemory, functions: Functions): Spans {
  const known = made.get(written);
  if (known?.version === written.version) return known;
  const spans = makeSpans(written, functions);
  made.set(written, spans);
  return spans;
}

function makeSpans(written: WrittenMemory, functions: Functions): Spans {
  const { version } = written, none: Spans = { version, words: null, count: 0 };
  const words = new Uint32Array(new ArrayBuffer(Math.max(1, written.size) * 6 * 4));
  let count = 0;
  for (const [buffer, pieces] of written.pieces()) {
    const resizable = buffer as { resizable?: boolean; growable?: boolean };
    if (resizable.resizable === true || resizable.growable === true) return none; // it may be somewhere else tomorrow
    if (!(buffer instanceof ArrayBuffer) && !isShared(buffer)) continue; // a device's
    if (buffer.byteLength === 0) return none; // it has been taken away, which the step is going to notice
    const bytes = new Uint8Array(buffer);
    for (const { from, to } of pieces) {
      if (to > bytes.length) return none;
      functions.fs_bind(words, 3 * count, bytes);
      words[6 * count + 2] = from >>> 0;
      words[6 * count + 3] = from / 0x100000000;
      words[6 * count + 4] = to >>> 0;
      words[6 * count + 5] = to / 0x100000000;
      count++;
    }
  }
  const left = functions.fs_make_spans(words, count);
  if (left < 0) throw new Error(`fs_make_spans failed: ${STATUS[left] ?? `status ${left}`}`);
  return { version, words: words.slice(0, Math.max(1, 4 * left)), count: left };
}

function isShared(buffer: object): buffer is SharedArrayBuffer {
  return typeof SharedArrayBuffer !== "undefined" && buffer instanceof SharedArrayBuffer;
}

let whenRead: boolean | undefined;

/** Whether the elements of small arrays move when their `buffer` is first read. */
export function moveWhenRead(functions: Functions): boolean {
  if (whenRead === undefined) {
    const words = new Uint32Array(new ArrayBuffer(4 * 8)), arrays = [new Float32Array(1), new Float64Array(9)];
    arrays.forEach((array, k) => functions.fs_bind(words, k, array));
    arrays.forEach((array, k) => array.buffer.byteLength > 0 && functions.fs_bind(words, 2 + k, array));
    whenRead = words.subarray(0, 4).some((word, k) => word !== words[4 + k]);
  }
  return whenRead;
}

/** Binds a buffer of a job's rows, some in a call. */
export class NativeBinder implements Binder {
  readonly dtype: DType;
  readonly moves: boolean;
  readonly #functions: Functions;
  readonly #written: WrittenMemory;
  /** Forgets what the job knows about the arrays of some rows. */
  readonly #release: (row: number, count: number) => void;
  readonly #words: Uint32Array = new Uint32Array(new ArrayBuffer(WORDS * 4));
  #spans: Spans | null = null;

  /**
   * @param job its number of rows and its dtype
   * @param table its table, of rows of `stride` 64-bit words
   * @param word the word of a row that is bound
   */
  constructor(
    functions: Functions,
    job: Pick<Job, "rows" | "dtype">,
    table: Uint32Array,
    stride: number,
    word: number,
    written: WrittenMemory,
    release: (row: number, count: number) => void,
  ) {
    this.#functions = functions;
    this.#written = written;
    this.#release = release;
    this.dtype = job.dtype;
    this.moves = moveWhenRead(functions);
    this.#words.set([DTYPES.indexOf(job.dtype), job.rows, stride, word]);
    functions.fs_bind(this.#words, TABLE, table);
  }

  takes(n: number): boolean {
    return n > 0 && n < LARGE;
  }

  ready(): boolean {
    if (this.#spans?.version !== this.#written.version) this.#look();
    return this.#spans!.words !== null;
  }

  /** Looks where what is written is. */
  #look(): void {
    const spans = this.#spans = spansOf(this.#written, this.#functions);
    if (spans.words === null) return;
    this.#functions.fs_bind(this.#words, SPANS, spans.words);
    this.#words[SPAN_COUNT] = spans.count;
  }

  bind(row: number, count: number, arrays: readonly (TypedArray | null)[], at: number): number {
    this.#release(row, count);
    const status = this.#call(row, count, arrays, at);
    return status === 0 ? -1 : this.#refused(status, row, count, arrays, at);
  }

  #call(row: number, count: number, arrays: readonly (TypedArray | null)[], at: number): number {
    const words = this.#words; // any memory where there is no array
    return this.#functions.fs_bind_arrays(
      words,
      row,
      count,
      arrays[at]!,
      count > 1 ? arrays[at + 1]! : words,
      count > 2 ? arrays[at + 2]! : words,
      count > 3 ? arrays[at + 3]! : words,
      count > 4 ? arrays[at + 4]! : words,
      count > 5 ? arrays[at + 5]! : words,
      count > 6 ? arrays[at + 6]! : words,
      count > 7 ? arrays[at + 7]! : words,
    );
  }

  /** The place of the first array that is refused. */
  #refused(status: number, row: number, count: number, arrays: readonly (TypedArray | null)[], at: number): number {
    if (!REFUSED.includes(status)) throw new Error(`fs_bind_arrays failed: ${STATUS[status] ?? `status ${status}`}`);
    let k = 0;
    while (k < count - 1 && this.#call(row + k, 1, arrays, at + k) === 0) k++;
    return at + k;
  }
}
