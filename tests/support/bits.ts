/**
 * Comparing bit for bit, where every NaN counts as one value.
 *
 * @module
 */

import type { StateValue, TypedArray } from "../../mod.ts";
import { DeviceArray, downloadArray } from "../../src/cuda/device_array.ts";
import { isTypedArray } from "../../src/dtype.ts";

/** A state's entry as arrays: of a sparse tensor the values and the indices, of a list each entry's, of a device's array a copy. */
export function arraysOf(value: StateValue): TypedArray[] {
  if (typeof value === "number") return [Float64Array.of(value)];
  if (Array.isArray(value)) return value.flatMap((entry: number | TypedArray) => arraysOf(entry));
  if (value instanceof DeviceArray) return [downloadArray(value)];
  return isTypedArray(value) ? [value] : [value.values, Float64Array.from(value.indices)];
}

/** An element's bits as text, for messages. */
function bitsOf(array: TypedArray, i: number): string {
  const bytes = new Uint8Array(array.buffer, array.byteOffset + i * array.BYTES_PER_ELEMENT, array.BYTES_PER_ELEMENT);
  return `${array[i]} (0x${[...bytes].reverse().map((b) => b.toString(16).padStart(2, "0")).join("")})`;
}

/** Whether 16 bits are a NaN. */
const isNaN16 = (bits: number, dtype: string): boolean => {
  return (bits & 0x7fff) > (dtype === "bfloat16" ? 0x7f80 : 0x7c00);
};

/** Throws unless two arrays have the same bits. `dtype` says what a Uint16Array holds. */
export function assertSameBits(actual: TypedArray, expected: TypedArray, dtype: string, what: string): void {
  if (actual.length !== expected.length) {
    throw new Error(`${what}: ${actual.length} elements, expected ${expected.length}`);
  }
  const halves = actual instanceof Uint16Array;
  for (let i = 0; i < actual.length; i++) {
    const a = actual[i]!, b = expected[i]!;
    if (Object.is(a, b) || (halves && isNaN16(a, dtype) && isNaN16(b, dtype))) continue;
    throw new Error(`${what}[${i}] is ${bitsOf(actual, i)}, expected ${bitsOf(expected, i)}`);
  }
}
