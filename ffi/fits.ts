/**
 * What compiled code is asked to do has to fit into the arrays that it is given: the same checks for each backend of it.
 *
 * @module
 */

import type { TypedArray } from "../src/dtype.ts";
import type { Combination, Numbers, Product } from "./backend.ts";

/** Throws unless a pass's vectors have its elements, and are of one kind. */
export function checkCombination({ n, x, y, z, out }: Combination): void {
  for (const array of [x, y, z, out]) {
    if (array !== null && (array.length < n || array instanceof Float64Array !== out instanceof Float64Array)) {
      throw new RangeError(`a vector of ${n} elements does not fit into an array of ${array.length}`);
    }
  }
}

/** Throws unless a packed matrix of n rows and vectors have their elements, and are of one kind. */
export function checkPacked(n: number, matrix: Numbers, ...vectors: readonly Numbers[]): void {
  for (const array of [matrix, ...vectors]) {
    const needed = array === matrix ? n * (n + 1) / 2 : n;
    if (array.length < needed || array instanceof Float64Array !== matrix instanceof Float64Array) {
      throw new RangeError(`a packed matrix of ${n} rows does not go with an array of ${array.length}`);
    }
  }
}

/** Throws unless a product's matrices have their elements. */
export function checkProduct({ m, n, k, a, b, add, out }: Product): void {
  if (a.length < m * k || b.length < k * n || out.length < m * n || (add !== null && add.length < m * n)) {
    throw new RangeError(`a product of [${m}, ${k}] and [${k}, ${n}] does not fit into arrays of these lengths`);
  }
}

/** Throws unless rows that are to be added up, and their places, have their elements. */
export function checkRows(
  out: TypedArray,
  count: number,
  length: number,
  sources: Uint32Array,
  starts: Uint32Array,
): void {
  if (out.length < count * length || starts.length <= count || sources.length < starts[count]!) {
    throw new RangeError(`${count} rows of ${length} do not fit into arrays of these lengths`);
  }
}
