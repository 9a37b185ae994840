/**
 * The neutral tree that both formats are written from and read into, and its tensors.
 *
 * @module
 */

/** The element types that checkpoints may have. */
export type TensorDType =
  | "float64"
  | "float32"
  | "float16"
  | "bfloat16"
  | "int64"
  | "int32"
  | "int16"
  | "int8"
  | "uint64"
  | "uint32"
  | "uint16"
  | "uint8"
  | "bool";

/** The arrays that hold them. */
export type TensorArray =
  | Float64Array
  | Float32Array
  | Float16Array
  | BigInt64Array
  | BigUint64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint32Array
  | Uint16Array
  | Uint8Array
  | Uint8ClampedArray;

/** The names of their classes. */
export type ArrayName =
  | "Float64Array"
  | "Float32Array"
  | "Float16Array"
  | "BigInt64Array"
  | "BigUint64Array"
  | "Int32Array"
  | "Int16Array"
  | "Int8Array"
  | "Uint32Array"
  | "Uint16Array"
  | "Uint8Array"
  | "Uint8ClampedArray";

/** A tensor outside of optimizer state: what a checkpoint gives for it, and what may be saved. */
export interface CheckpointTensor {
  /** The element type. */
  dtype: TensorDType;
  /** The lengths of the dimensions; `[]` is a single number. */
  shape: number[];
  /** The numbers, row-major. A Uint16Array holds the bits of bfloat16, and of float16 where there is no Float16Array. */
  data: TensorArray;
}

/** What is known of an element type. */
export interface DTypeInfo {
  /** Bytes of an element. */
  readonly bytes: number;
  /** Its name in safetensors. */
  readonly code: string;
  /** torch's storage class; null where torch has an untyped storage and a dtype. */
  readonly storage: string | null;
  /** The classes of arrays that may hold it; the first is what a load makes. */
  readonly arrays: readonly ArrayName[];
}

const HALF: readonly ArrayName[] = typeof Float16Array === "undefined"
  ? ["Uint16Array"]
  : ["Float16Array", "Uint16Array"];

/** All element types. */
export const TENSOR_DTYPES: Readonly<Record<TensorDType, DTypeInfo>> = {
  float64: { bytes: 8, code: "F64", storage: "DoubleStorage", arrays: ["Float64Array"] },
  float32: { bytes: 4, code: "F32", storage: "FloatStorage", arrays: ["Float32Array"] },
  float16: { bytes: 2, code: "F16", storage: "HalfStorage", arrays: HALF },
  bfloat16: { bytes: 2, code: "BF16", storage: "BFloat16Storage", arrays: ["Uint16Array"] },
  int64: { bytes: 8, code: "I64", storage: "LongStorage", arrays: ["BigInt64Array"] },
  int32: { bytes: 4, code: "I32", storage: "IntStorage", arrays: ["Int32Array"] },
  int16: { bytes: 2, code: "I16", storage: "ShortStorage", arrays: ["Int16Array"] },
  int8: { bytes: 1, code: "I8", storage: "CharStorage", arrays: ["Int8Array"] },
  uint64: { bytes: 8, code: "U64", storage: null, arrays: ["BigUint64Array"] },
  uint32: { bytes: 4, code: "U32", storage: null, arrays: ["Uint32Array"] },
  uint16: { bytes: 2, code: "U16", storage: null, arrays: ["Uint16Array"] },
  uint8: { bytes: 1, code: "U8", storage: "ByteStorage", arrays: ["Uint8Array", "Uint8ClampedArray"] },
  bool: { bytes: 1, code: "BOOL", storage: "BoolStorage", arrays: ["Uint8Array"] },
};

/** Whether something is the name of an element type. */
export const isTensorDType = (name: unknown): name is TensorDType =>
  typeof name === "string" && Object.hasOwn(TENSOR_DTYPES, name);

const OWN_DTYPE: Readonly<Record<ArrayName, TensorDType>> = {
  Float64Array: "float64",
  Float32Array: "float32",
  Float16Array: "float16",
  BigInt64Array: "int64",
  BigUint64Array: "uint64",
  Int32Array: "int32",
  Int16Array: "int16",
  Int8Array: "int8",
  Uint32Array: "uint32",
  Uint16Array: "uint16",
  Uint8Array: "uint8",
  Uint8ClampedArray: "uint8",
};

/** The class of an array that may hold elements; undefined for anything else. */
export function arrayNameOf(value: unknown): ArrayName | undefined {
  if (!ArrayBuffer.isView(value)) return undefined;
  const name = (value as TensorArray)[Symbol.toStringTag]; // the engine's own name, whatever `constructor` says
  return name !== undefined && Object.hasOwn(OWN_DTYPE, name) ? name as ArrayName : undefined;
}

/** The element type that a class of arrays has unless it is said otherwise. */
export const ownDType = (name: ArrayName): TensorDType => OWN_DTYPE[name];

/** Whether a name is that of a class of arrays. */
export const isArrayName = (name: unknown): name is ArrayName =>
  typeof name === "string" && Object.hasOwn(OWN_DTYPE, name);

/** A view of memory as elements of a class. */
export function viewAs(name: ArrayName, buffer: ArrayBuffer, byteOffset: number, length: number): TensorArray {
  switch (name) {
    case "Float64Array":
      return new Float64Array(buffer, byteOffset, length);
    case "Float32Array":
      return new Float32Array(buffer, byteOffset, length);
    case "Float16Array": // where there is none, its bits
      return new (typeof Float16Array === "undefined" ? Uint16Array : Float16Array)(buffer, byteOffset, length);
    case "BigInt64Array":
      return new BigInt64Array(buffer, byteOffset, length);
    case "BigUint64Array":
      return new BigUint64Array(buffer, byteOffset, length);
    case "Int32Array":
      return new Int32Array(buffer, byteOffset, length);
    case "Int16Array":
      return new Int16Array(buffer, byteOffset, length);
    case "Int8Array":
      return new Int8Array(buffer, byteOffset, length);
    case "Uint32Array":
      return new Uint32Array(buffer, byteOffset, length);
    case "Uint16Array":
      return new Uint16Array(buffer, byteOffset, length);
    case "Uint8Array":
      return new Uint8Array(buffer, byteOffset, length);
    case "Uint8ClampedArray":
      return new Uint8ClampedArray(buffer, byteOffset, length);
  }
}

/** The number of elements of a shape, or -1 where it is beyond any array. */
export function sizeOf(shape: readonly number[]): number {
  if (shape.includes(0)) return 0;
  let size = 1;
  for (const n of shape) {
    size *= n;
    if (size > Number.MAX_SAFE_INTEGER) return -1;
  }
  return size;
}

/** A tensor that is to be saved: live memory, not a copy. */
export class Tensor {
  /** How many elements it has; the array must still have them when it is written. */
  readonly length: number;

  constructor(
    readonly dtype: TensorDType,
    readonly shape: readonly number[],
    readonly array: TensorArray,
    /** The class of a typed array that was given by itself; null for `{ dtype, shape, data }`. */
    readonly as: ArrayName | null,
  ) {
    this.length = array.length;
  }

  /** Bytes of all elements. */
  get bytes(): number {
    return this.length * TENSOR_DTYPES[this.dtype].bytes;
  }
}

/** What may be saved, after objects have given their state. Maps are what was an object, whatever its keys. */
export type Value = null | boolean | number | string | bigint | Tensor | Value[] | Dict;
/** An object's keys and values. */
export type Dict = Map<string, Value>;

/** The most digits of a BigInt: reading one takes time that rises with their square. */
export const MAX_DIGITS = 100_000;

/** A BigInt in decimal; null for other text, or too many digits. */
export const readBigInt = (text: string): bigint | null =>
  text.length <= MAX_DIGITS && /^-?\d+$/.test(text) ? BigInt(text) : null;

/** Containers in containers: more than that is refused, so that no recursion can overflow the stack. */
export const MAX_DEPTH = 500;

/** Sets a key of an object as its own, whatever its name is: `__proto__` is a key like others. */
export function setOwn(object: Record<string, unknown>, key: string, value: unknown): void {
  if (key === "__proto__") {
    Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
  } else {
    object[key] = value;
  }
}

/** Throws where numbers are not stored as the formats have them. */
export function checkLittleEndian(): void {
  if (new Uint8Array(Uint16Array.of(1).buffer)[0] !== 1) {
    throw new TypeError("checkpoints need a little-endian processor, which this is not");
  }
}
