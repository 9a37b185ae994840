/**
 * Huge pages under the large arrays of a job.
 *
 * Runtimes get memory in pages of 4 KiB. A step over hundreds of megabytes goes through more of them than a processor keeps
 * addresses of, and waits for the look-ups. So the system is asked for huge pages: at once for memory that the step will be the
 * first to touch (new state: that also makes the first step faster), and for arrays that have been there before (parameters,
 * gradients) once a job has run with them for a while, since the system copies what is in them. A gradient that is another array at each step is
 * never copied.
 *
 * @module
 */

import type { TypedArray } from "../src/dtype.ts";
import type { Functions } from "./symbols.ts";

const MIB = 2 ** 20;
/** Elements from which an array is large. */
const LARGE = MIB / 2;
/** Calls in which a job has had the same array before its memory is moved. */
const CALLS = 8;
/** Each call moves this part of a job's bytes: about a tenth of its time, for some dozens of calls. */
const PART = 64;
/** Bytes of a huge page, where they are the usual ones. */
const HUGE = 2 * MIB;

/** Whether an array is worth huge pages. */
export function isLarge(array: TypedArray): boolean {
  return array.length >= LARGE;
}

/** The large arrays of a job, until all of them have huge pages or cannot have them. */
export class LargeArrays {
  readonly #functions: Functions;
  /** By place in the job's table. */
  readonly #arrays: Map<number, { readonly array: TypedArray; calls: number; moved: number }> = new Map();
  /** Bytes that a call may move. */
  #share = HUGE;

  constructor(functions: Functions) {
    this.#functions = functions;
  }

  /** Takes note of an array, in the place of the one before. */
  set(index: number, array: TypedArray): void {
    this.#arrays.delete(index);
    if (this.#functions.fs_huge_pages(array, array.byteLength >>> 10, 0) !== 1) return;
    this.#arrays.set(index, { array, calls: 0, moved: 0 });
    let bytes = 0;
    for (const { array } of this.#arrays.values()) bytes += array.byteLength;
    this.#share = Math.max(HUGE, Math.ceil(bytes / PART / HUGE) * HUGE);
  }

  /** Forgets the array of a place, where there is one. */
  delete(index: number): void {
    this.#arrays.delete(index);
  }

  /** Moves a part of what is to be moved; whether something is left. To be called before each run of the job. */
  move(): boolean {
    let share = this.#share;
    for (const [index, entry] of this.#arrays) {
      if (++entry.calls <= CALLS || share === 0) continue;
      const { array, moved } = entry, bytes = Math.min(share, array.byteLength - moved);
      if (bytes <= 0 || !this.#move(array, moved, bytes)) this.#arrays.delete(index);
      entry.moved += bytes;
      share = Math.max(0, share - bytes);
    }
    return this.#arrays.size > 0;
  }

  /** Moves the huge pages that begin in a part of an array; whether the system did. */
  #move(array: TypedArray, at: number, bytes: number): boolean {
    const length = Math.min(bytes + HUGE - 1, array.byteLength - at); // the last of them ends behind the part
    if (length < HUGE) return false;
    const part = new Uint8Array(array.buffer, array.byteOffset + at, length);
    return this.#functions.fs_huge_pages(part, length >>> 10, 1) === 1;
  }
}
