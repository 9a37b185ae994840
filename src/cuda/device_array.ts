/**
 * Arrays in the memory of a CUDA device.
 *
 * @module
 */

import type { Device, DeviceName } from "../../ffi/cuda_driver.ts";
import { allocate, arrayNames, bytesOf, type DType, holds, type TypedArray, writeFrom } from "../dtype.ts";
import { describe, show } from "../errors.ts";

export type { DeviceName };

/** Frees memory whose array nobody holds any more. */
const net = new FinalizationRegistry<{ device: Device; address: bigint }>(({ device, address }) => {
  try {
    device.free(address);
  } catch {
    // nobody is there to hear of it: the device is lost, and its memory with it
  }
});

/** What the class lets the library do: the constructor, and the device behind it. */
interface Inside {
  make(device: Device, address: bigint, dtype: DType, length: number, owner: unknown): DeviceArray;
  device(array: DeviceArray): Device;
  owned(array: DeviceArray): boolean;
}
let inside: Inside;

/** Stands for "the array is its own memory's owner". */
const OURS: unique symbol = Symbol();

/**
 * Numbers in the memory of a CUDA device: a parameter's after `to("cuda")`, its state in `optimizer.state`, or another library's
 * ({@linkcode fromPointer}). Its memory is freed by `dispose()`, at the end of a block where it is declared by `using`, or some time after
 * nobody holds it any more. Memory of another library is never freed, and its owner is kept alive.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { cuda, Parameter } from "@flatstep/optim";
 *
 * if (cuda.isAvailable()) {
 *   using weight = new Parameter([1, 2, 3]).to("cuda");
 *   const array = weight.deviceArray!;
 *   assert(array.length === 3 && array.device === "cuda:0" && array.byteLength === 12);
 * }
 * ```
 */
export class DeviceArray {
  /** The number of elements. */
  readonly length: number;
  /** The element type. */
  readonly dtype: DType;
  /** Where it is: `"cuda:0"`. */
  readonly device: DeviceName;
  /** The number of bytes. */
  readonly byteLength: number;
  readonly #device: Device;
  readonly #address: bigint;
  /** Keeps another library's memory alive; OURS: it is our own. */
  #owner: unknown;
  #disposed = false;

  static {
    inside = {
      make: (...args) => new DeviceArray(...args),
      device: (array) => array.#device,
      owned: (array) => array.#owner === OURS,
    };
  }

  private constructor(device: Device, address: bigint, dtype: DType, length: number, owner: unknown) {
    this.#device = device;
    this.#address = address;
    this.#owner = owner;
    this.length = length;
    this.dtype = dtype;
    this.device = device.name;
    this.byteLength = length * bytesOf(dtype);
    if (owner === OURS && address !== 0n) net.register(this, { device, address }, this);
  }

  /**
   * The address of the first element, for other libraries; 0 where there is none.
   *
   * @throws {TypeError} if its memory has been disposed
   */
  get address(): bigint {
    if (this.#disposed) throw new TypeError(`${this} must not be used any more: its memory has been disposed`);
    return this.#address;
  }

  /** Whether its memory has been given back. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * A copy in the host's memory, as it is when the work that has been queued is done.
   *
   * @returns a typed array of the dtype; bfloat16 as a Uint16Array
   * @throws {TypeError} if its memory has been disposed
   * @throws {CudaError} if the driver cannot copy it
   */
  // deno-lint-ignore require-await -- what fails is a rejection
  async toHost(): Promise<TypedArray> {
    return downloadArray(this);
  }

  /**
   * Copies numbers into it.
   *
   * @param values a typed array of the same dtype and length
   * @throws {TypeError} if it is no such array, or the memory has been disposed
   * @throws {RangeError} if the length is another one
   * @throws {CudaError} if the driver cannot copy them
   */
  set(values: TypedArray): void {
    const { address } = this;
    if (!holds(values, this.dtype)) {
      throw new TypeError(
        `values must be ${arrayNames(this.dtype)} of ${this.length}, got ${describe(values)}`,
      );
    }
    if (values.length !== this.length) {
      throw new RangeError(`values must have ${this.length} elements, got ${values.length}`);
    }
    this.#device.upload(address, values);
  }

  /**
   * Makes all elements one number, rounded to the dtype.
   *
   * @param value the number
   * @returns itself
   * @throws {TypeError} if the value is no number, or the memory has been disposed
   * @throws {CudaError} if the driver cannot write it
   */
  fill(value: number): this {
    if (typeof value !== "number") throw new TypeError(`value must be a number, got ${show(value)}`);
    const { address, dtype, length } = this;
    if (length === 0) return this;
    const one = allocate(dtype, 1);
    writeFrom(one, dtype, 0, [value], 1);
    if (bytesOf(dtype) === 2) {
      this.#device.fill(address, 16, new Uint16Array(one.buffer)[0]!, length);
      return this;
    }
    const words = new Uint32Array(one.buffer);
    if (words.length === 1 || words[0] === words[1]) {
      this.#device.fill(address, 32, words[0]!, length * words.length);
    } else {
      this.#device.upload(address, (allocate(dtype, length) as Float64Array).fill(value));
    }
    return this;
  }

  /**
   * Gives its memory back, once the work that has been queued is done. A second call does nothing; another library's memory is let go,
   * and stays as it is.
   *
   * @throws {CudaError} if the driver cannot free it
   */
  dispose(): void {
    if (this.#disposed) return;
    if (this.#owner === OURS && this.#address !== 0n) {
      this.#device.free(this.#address);
      net.unregister(this);
    }
    this.#disposed = true;
    this.#owner = undefined;
  }

  /** `dispose()`, at the end of a block where it is declared by `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** `DeviceArray(float32 [12], cuda:0)`, for messages and logs. */
  toString(): string {
    return `DeviceArray(${this.dtype} [${this.length}], ${this.device})`;
  }
}

/** Memory of our own on a device; it holds whatever it holds. */
export function allocateArray(device: Device, dtype: DType, length: number): DeviceArray {
  const address = length === 0 ? 0n : device.allocate(length * bytesOf(dtype));
  return inside.make(device, address, dtype, length, OURS);
}

/** Memory of our own with the elements of an array. */
export function uploadArray(device: Device, dtype: DType, from: TypedArray): DeviceArray {
  const array = allocateArray(device, dtype, from.length);
  try {
    device.upload(array.address, from);
  } catch (error) {
    releaseArray(array);
    throw error;
  }
  return array;
}

/** Memory of another library. */
export function foreignArray(
  device: Device,
  address: bigint,
  dtype: DType,
  length: number,
  owner: unknown,
): DeviceArray {
  return inside.make(device, address, dtype, length, owner);
}

/** A copy in the host's memory, in an array of the kind of `like` where one is given (float16 has two kinds). */
export function downloadArray(array: DeviceArray, like?: TypedArray): TypedArray {
  const to = allocate(array.dtype, array.length, like);
  inside.device(array).download(to, array.address);
  return to;
}

/** Gives memory of our own back; where that fails it is tried again when nobody holds the array any more. */
export function releaseArray(array: DeviceArray): void {
  if (!inside.owned(array)) return;
  try {
    array.dispose();
  } catch {
    // what is being undone, or has been done, is what matters to the caller
  }
}

/** Memory of at least so many bytes: what is there if it is enough, else new memory, and the old is given back. */
export function atLeast(memory: DeviceArray | null, device: Device, bytes: number): DeviceArray {
  if (memory !== null && memory.byteLength >= bytes) return memory;
  const grown = allocateArray(device, "float64", Math.max(1, Math.ceil(bytes / 8)));
  if (memory !== null) releaseArray(memory);
  return grown;
}

/** The device of an array. */
export function deviceOf(array: DeviceArray): Device {
  return inside.device(array);
}

/** Whether an array's memory is our own. */
export function isOwned(array: DeviceArray): boolean {
  return inside.owned(array);
}

/** An array's memory, as overlaps are looked for: addresses have less than 53 bits. */
export function spanOf(array: DeviceArray): { buffer: object; byteOffset: number; byteLength: number } {
  return { buffer: inside.device(array), byteOffset: Number(array.address), byteLength: array.byteLength };
}

/** The number of a device, of its name; `name` is what the caller calls it. */
export function readCudaDevice(device: unknown, name: string, allowed = '"cuda" or "cuda:N"'): number {
  const match = typeof device === "string" ? /^cuda(?::(0|[1-9]\d{0,3}))?$/.exec(device) : null;
  if (match !== null) return Number(match[1] ?? 0);
  const message = `${name} must be ${allowed}, got ${show(device)}`;
  throw typeof device === "string" ? new RangeError(message) : new TypeError(message);
}
