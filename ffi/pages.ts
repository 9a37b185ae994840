/**
 * Huge pages under the large arrays of a job.
 *
 * Runtimes get memory in pages of 4 KiB. A step over hundreds of megabytes goes through more of them than a processor keeps
 * addresses of, and waits for the look-ups. So the system is asked for huge pages: at once for memory that the step will be the
 * first to touch (new state: that also makes the first step faster), and for arrays that have been there before (parameters,
 * gradients) little by little, once a job has run with them for a while, since the system copies what is in them. A gradient
 * that is another array at each step is never copied.
 *
 * @module
 */

import type { TypedArray } from "../src/dtype.ts";
import type { Functions } from "./symbols.ts";

const MIB = 2 ** 20;
/** Elements from which an array is large. */
export const LARGE: number = MIB;
/** Calls in which a job has had the same array before its memory is moved. */
const CALLS = 8;
/** Moving takes at most this part of the time that passes. */
const PART = 32;
/** Milliseconds of a call that may go into moving, however long ago the last one was. */
const MOST_MS = 20;
/** Bytes of a huge page, where they are the usual ones. */
const HUGE = 2 * MIB;

/** Whether an array is worth huge pages. */
export function isLarge(array: TypedArray): boolean {
  return array.length >= LARGE;
}

/** The large arrays of a job, until all of them have huge pages or cannot have them. */
export class LargeArrays {
  readonly #functions: Functions;
  /** By place in the job's table: an array, the calls it has been there, and the bytes that have been moved. */
  readonly #arrays: Map<number, { readonly array: TypedArray; calls: number; moved: number }> = new Map();
  /** Milliseconds that moving may take. */
  #credit = 0;
  #last: number = performance.now();

  constructor(functions: Functions) {
    this.#functions = functions;
  }

  /** Takes note of an array, in the place of the one before. */
  set(index: number, array: TypedArray): void {
    this.#arrays.delete(index);
    if (this.#functions.fs_huge_pages(array, Math.floor(array.byteLength / 1024), 0) !== 1) return;
    this.#arrays.set(index, { array, calls: 0, moved: 0 });
  }

  /** Forgets the array of a place, where there is one. */
  delete(index: number): void {
    this.#arrays.delete(index);
  }

  /** Moves some of what is to be moved; whether something is left. To be called before each run of the job. */
  move(): boolean {
    let now = performance.now();
    this.#credit = Math.min(MOST_MS, this.#credit + (now - this.#last) / PART);
    for (const [index, entry] of this.#arrays) {
      if (++entry.calls <= CALLS) continue;
      while (this.#credit > 0) {
        const before = now, moved = this.#move(entry.array, entry.moved);
        now = performance.now();
        this.#credit -= now - before;
        entry.moved += HUGE;
        if (moved) continue;
        this.#arrays.delete(index);
        break;
      }
    }
    this.#last = now;
    return this.#arrays.size > 0;
  }

  /** Moves the huge page that begins in these 2 MiB of an array; false where there is none, or the system does not. */
  #move(array: TypedArray, at: number): boolean {
    const length = Math.min(2 * HUGE - 1, array.byteLength - at); // it ends behind them
    if (length < HUGE) return false;
    const part = new Uint8Array(array.buffer, array.byteOffset + at, length);
    return this.#functions.fs_huge_pages(part, length >>> 10, 1) === 1;
  }
}
