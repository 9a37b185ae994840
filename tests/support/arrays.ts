/**
 * Arrays that are watched, and arrays that lie.
 *
 * @module
 */

import type { DType, TypedArray } from "../../mod.ts";
import { bytesOf } from "../../src/dtype.ts";
import { typed } from "./golden.ts";

/** A view of n elements in the middle of memory, whose other bytes are watched. */
export function guarded(
  buffer: ArrayBufferLike,
  dtype: DType,
  n: number,
  offset: number,
): { view: TypedArray; check: () => void } {
  const all = new Uint8Array(buffer), end = offset + n * bytesOf(dtype);
  all.fill(0xa5);
  const View = typed([], dtype).constructor as new (
    buffer: ArrayBufferLike,
    offset: number,
    length: number,
  ) => TypedArray;
  return {
    view: new View(buffer, offset, n),
    check() {
      for (let i = 0; i < all.length; i++) {
        if (i === offset) i = end;
        if (i < all.length && all[i] !== 0xa5) throw new Error(`byte ${i} outside [${offset}, ${end}) is ${all[i]}`);
      }
    },
  };
}

/** An array of the same kind that has `real` elements, and says that it has `said` of them. */
export function lying(like: TypedArray, said: number, real: number): TypedArray {
  const array = new (like.constructor as new (n: number) => TypedArray)(real);
  return Object.defineProperty(array, "length", { value: said });
}
