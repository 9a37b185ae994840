/**
 * Room on a device for arrays of the host's, gradients above all: uploaded one by one, but for small ones, which are put behind each
 * other on the host and uploaded at once.
 *
 * @module
 */

import type { Device } from "../../ffi/cuda_driver.ts";
import { bytesOf, type DType, type TypedArray, viewOf } from "../dtype.ts";
import { atLeast, type DeviceArray, releaseArray } from "./device_array.ts";

/** A piece of at most so many bytes is small. */
const SMALL = 64 << 10;
/** Where a piece begins: a multiple of this. */
const LINE = 256;

/** Room on one device, in numbered pieces. */
export class Staging {
  /** The pieces' bytes; as long as they stay, so does where they begin. */
  #bytes: readonly number[] = [];
  #places: number[] = [];
  /** The small pieces on the host, and those parts of them that have been written to. */
  #packed = new ArrayBuffer(0);
  #views: (TypedArray | undefined)[] = [];
  /** How far they have been written to since the last upload. */
  #written = 0;
  /** The room itself; null before the first `lay()`. */
  memory: DeviceArray | null = null;

  constructor(readonly device: Device) {}

  /**
   * Makes room. Where pieces were as long before, they stay where they were.
   *
   * @param bytes the length of each piece; 0 for one that is not needed
   */
  lay(bytes: readonly number[]): void {
    if (bytes.length === this.#bytes.length && bytes.every((n, i) => n === this.#bytes[i])) return;
    const places: number[] = [];
    let at = 0, packed = 0;
    for (const small of [true, false]) {
      bytes.forEach((n, i) => {
        if (n <= SMALL !== small) return;
        places[i] = at;
        at += Math.ceil(n / LINE) * LINE;
      });
      if (small) packed = at;
    }
    this.memory = atLeast(this.memory, this.device, at);
    if (this.#packed.byteLength < packed) this.#packed = new ArrayBuffer(packed);
    this.#places = places;
    this.#bytes = [...bytes];
    this.#views = [];
  }

  /** Where a piece is on the device. */
  address(piece: number): bigint {
    return this.memory!.address + BigInt(this.#places[piece]!);
  }

  /** Copies an array into its piece: at once, or, if it is small, at the next `flush()`. */
  put(piece: number, dtype: DType, array: TypedArray): void {
    if (array.length * bytesOf(dtype) > SMALL) return this.device.upload(this.address(piece), array);
    const place = this.#places[piece]!;
    let view = this.#views[piece];
    if (view === undefined || view instanceof Uint16Array !== array instanceof Uint16Array) {
      view = this.#views[piece] = viewOf(dtype, this.#packed, place, array.length, array);
    }
    (view as Float32Array).set(array as Float32Array);
    this.#written = Math.max(this.#written, place + view.byteLength);
  }

  /** Uploads what is small. */
  flush(): void {
    const bytes = this.#written;
    this.#written = 0;
    if (bytes > 0) this.device.upload(this.memory!.address, new Uint8Array(this.#packed, 0, bytes));
  }

  /** Gives the room back. */
  dispose(): void {
    if (this.memory !== null) releaseArray(this.memory);
    this.memory = null;
    this.#bytes = [];
  }
}
