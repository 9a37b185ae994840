/**
 * Memory for the state of many small tensors: side by side, in the order in which a step goes through them.
 *
 * Thousands of small arrays of their own lie all over the heap: a step then waits for memory, and has to look at each of
 * them to know that it still has its elements. In one block they are read ahead, and one look is enough.
 *
 * @module
 */

import { bytesOf, type DType, type TypedArray, viewOf } from "../src/dtype.ts";
import type { StateMemory } from "./backend.ts";

/** Larger arrays have memory of their own. */
const SMALL = 32 << 10;
/** Fewer bytes than this are not worth it. */
const LEAST = 8 << 10;
/** Blocks are not longer than this, so that what is dropped can be freed. */
const BLOCK = 4 << 20;
/** Arrays begin at a cache line. */
const LINE = 64;

const padded = (bytes: number): number => Math.ceil(bytes / LINE) * LINE;

/** A block for the state of small tensors, `keys` arrays each; null where there are too few of them. */
export function stateArena(
  tensors: readonly { readonly dtype: DType; readonly size: number }[],
  keys: number,
): StateMemory | null {
  let left = 0;
  for (const { dtype, size } of tensors) {
    const bytes = size * bytesOf(dtype);
    if (bytes <= SMALL) left += keys * padded(bytes);
  }
  if (left < LEAST) return null;
  let block = new ArrayBuffer(0), at = 0;
  return {
    allocate(_key: number, dtype: DType, n: number, like: TypedArray): TypedArray | null {
      const bytes = n * bytesOf(dtype), room = padded(bytes);
      if (bytes > SMALL || n === 0) return null;
      if (at + room > block.byteLength) {
        block = new ArrayBuffer(Math.max(room, Math.min(BLOCK, left)));
        at = 0;
      }
      const array = viewOf(dtype, block, at, n, like);
      at += room;
      left -= room;
      return array;
    },
  };
}
