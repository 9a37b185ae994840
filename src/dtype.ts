/**
 * Element types: which typed array stands for which, and how the 16-bit ones are read and written.
 *
 * bfloat16 and float16 are computed in float32 and rounded to nearest, ties to even, when they are stored. There is no
 * BFloat16Array in JavaScript: bfloat16 is a Uint16Array with a dtype beside it, and float16 may be one too, where there
 * is no Float16Array.
 *
 * @module
 */

import { describe, kind, show } from "./errors.ts";

/** The element types of parameters, gradients and optimizer state. */
export type DType = "float32" | "float64" | "float16" | "bfloat16";

/** The arrays that hold them; a `Uint16Array` holds the bits of bfloat16 or float16. */
export type TypedArray = Float32Array | Float64Array | Float16Array | Uint16Array;

/** All dtypes, in the order of the native library's numbers for them. */
export const DTYPES: readonly DType[] = ["float32", "float64", "bfloat16", "float16"];

const HAS_FLOAT16 = typeof Float16Array !== "undefined";
const BYTES: Record<DType, number> = { float32: 4, float64: 8, float16: 2, bfloat16: 2 };

/** Bytes of one element. */
export function bytesOf(dtype: DType): number {
  return BYTES[dtype];
}

/** Whether something is an array that may hold elements. */
export function isTypedArray(value: unknown): value is TypedArray {
  return (value instanceof Float32Array || value instanceof Float64Array || value instanceof Uint16Array ||
    (HAS_FLOAT16 && value instanceof Float16Array)) && isWhole(value);
}

/**
 * Whether something that has an array's prototype is an array, with as many elements as it says: compiled code goes by the length
 * that it is told. A Proxy is none, and a class or a property may give another `length`.
 */
function isWhole(array: TypedArray): boolean {
  return ArrayBuffer.isView(array) && array.byteLength === array.length * array.BYTES_PER_ELEMENT;
}

/** Whether an array can hold elements of a dtype. */
export function holds(array: unknown, dtype: DType): array is TypedArray {
  switch (dtype) {
    case "float32":
      return array instanceof Float32Array && isWhole(array);
    case "float64":
      return array instanceof Float64Array && isWhole(array);
    case "bfloat16":
      return array instanceof Uint16Array && isWhole(array);
    case "float16":
      return ((HAS_FLOAT16 && array instanceof Float16Array) || array instanceof Uint16Array) && isWhole(array);
  }
}

/** The arrays that can hold a dtype, for error messages. */
export function arrayNames(dtype: DType): string {
  switch (dtype) {
    case "float32":
      return "a Float32Array";
    case "float64":
      return "a Float64Array";
    case "bfloat16":
      return "a Uint16Array (of bfloat16 bits)";
    case "float16":
      return "a Float16Array or a Uint16Array (of float16 bits)";
  }
}

/** Returns a dtype, or throws a TypeError for anything else. */
export function checkDType(dtype: unknown): DType {
  if (DTYPES.includes(dtype as DType)) return dtype as DType;
  throw new TypeError(`dtype must be one of ${DTYPES.map(show).join(", ")}, got ${show(dtype)}`);
}

/** The dtype of an array, given what was declared; throws a TypeError where the two do not go together. */
export function dtypeOf(array: TypedArray, declared: DType | undefined): DType {
  if (declared !== undefined) checkDType(declared);
  if (array instanceof Uint16Array) {
    if (declared === "bfloat16" || declared === "float16") return declared;
    throw new TypeError(`dtype must be "bfloat16" or "float16" for a Uint16Array, got ${show(declared)}`);
  }
  const own = array instanceof Float32Array ? "float32" : array instanceof Float64Array ? "float64" : "float16";
  if (declared !== undefined && declared !== own) {
    throw new TypeError(`dtype must be ${show(own)} for ${kind(array)}, got ${show(declared)}`);
  }
  return own;
}

/** What has been said of arrays that do not tell by themselves what they hold. */
const declared = new WeakMap<Uint16Array, DType>();

/** Remembers what a Uint16Array holds. */
export function declareDType(array: Uint16Array, dtype: DType): void {
  declared.set(array, dtype);
}

/** What a Uint16Array holds, if a Parameter has been made of it. */
export function declaredDType(array: Uint16Array): DType | undefined {
  return declared.get(array);
}

/** A new array of n zeros, of the kind of `like` where one is given (float16 has two kinds). */
export function allocate(dtype: DType, n: number, like?: TypedArray): TypedArray {
  switch (dtype) {
    case "float32":
      return new Float32Array(n);
    case "float64":
      return new Float64Array(n);
    case "bfloat16":
      return new Uint16Array(n);
    case "float16":
      return HAS_FLOAT16 && !(like instanceof Uint16Array) ? new Float16Array(n) : new Uint16Array(n);
  }
}

/** n elements of a buffer from a byte on, in an array of the kind that {@linkcode allocate} makes. */
export function viewOf(dtype: DType, buffer: ArrayBuffer, at: number, n: number, like?: TypedArray): TypedArray {
  switch (dtype) {
    case "float32":
      return new Float32Array(buffer, at, n);
    case "float64":
      return new Float64Array(buffer, at, n);
    case "bfloat16":
      return new Uint16Array(buffer, at, n);
    case "float16":
      return HAS_FLOAT16 && !(like instanceof Uint16Array)
        ? new Float16Array(buffer, at, n)
        : new Uint16Array(buffer, at, n);
  }
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** The number that 16 bits of bfloat16 stand for. */
export function fromBfloat16(half: number): number {
  bits[0] = half << 16;
  return float[0]!;
}

/** The bits of the bfloat16 nearest to a float32, ties to even. */
export function toBfloat16(x: number): number {
  float[0] = x;
  const u = bits[0]!;
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40;
  return ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number that 16 bits of float16 stand for. */
export function fromFloat16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1, exponent = (half >> 10) & 31, mantissa = half & 1023;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25));
}

/** The bits of the float16 nearest to a float32, ties to even. */
export function toFloat16(x: number): number {
  float[0] = x;
  const sign = (bits[0]! >>> 16) & 0x8000, u = bits[0]! & 0x7fffffff;
  if (u >= 143 << 23) return sign | (u > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (u < 113 << 23) {
    bits[0] = u;
    float[0] = float[0]! + 0.5; // 2^-1: a unit in the last place of the sum is one of float16's smallest; the addition rounds
    return sign | (bits[0]! - 0x3f000000);
  }
  return sign | ((u - (112 << 23) + 0xfff + ((u >>> 13) & 1)) >>> 13);
}

/** out[i] = array[from + i] as a number, for i in [0, n): exact for all dtypes but float64 into a Float32Array. */
export function readInto(
  out: Float32Array | Float64Array,
  array: TypedArray,
  dtype: DType,
  from: number,
  n: number,
): void {
  if (!(array instanceof Uint16Array)) {
    for (let i = 0; i < n; i++) out[i] = array[from + i]!;
  } else if (dtype === "bfloat16") {
    for (let i = 0; i < n; i++) out[i] = fromBfloat16(array[from + i]!);
  } else {
    for (let i = 0; i < n; i++) out[i] = fromFloat16(array[from + i]!);
  }
}

/** array[from + i] = values[i], rounded to the dtype once, for i in [0, n). */
export function writeFrom(
  array: TypedArray,
  dtype: DType,
  from: number,
  values: ArrayLike<number>,
  n: number,
): void {
  if (!(array instanceof Uint16Array)) {
    for (let i = 0; i < n; i++) array[from + i] = values[i]!;
  } else if (dtype === "bfloat16") {
    for (let i = 0; i < n; i++) array[from + i] = toBfloat16(values[i]!);
  } else {
    for (let i = 0; i < n; i++) array[from + i] = toFloat16(values[i]!);
  }
}

/** Checks a shape, and copies it. */
export function checkShape(shape: readonly number[]): number[] {
  if (!Array.isArray(shape)) {
    throw new TypeError(
      `shape must be an array of lengths, got ${describe(shape)}`,
    );
  }
  for (const n of shape) {
    if (typeof n !== "number") throw new TypeError(`shape must be integers >= 0, got ${show([...shape])}`);
    if (!Number.isSafeInteger(n) || n < 0) throw new RangeError(`shape must be integers >= 0, got ${show([...shape])}`);
  }
  return [...shape];
}
