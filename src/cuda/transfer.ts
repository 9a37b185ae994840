/**
 * Numbers wherever they are: in the host's memory or on a device.
 *
 * @module
 */

import type { TypedArray } from "../dtype.ts";
import type { MemorySpan } from "../memory.ts";
import { allocateArray, DeviceArray, deviceOf, downloadArray, releaseArray, spanOf } from "./device_array.ts";

/** An array of any kind in the host's memory. */
export type HostArray = ArrayBufferView & { readonly length: number };

/** Whether two arrays are at one place: the host's memory, or the same device. */
export function sameDevice(a: HostArray | DeviceArray, b: HostArray | DeviceArray): boolean {
  return placeName(a) === placeName(b);
}

/** Where an array is: `"cpu"`, or `"cuda:0"` and so on. */
export function placeName(array: HostArray | DeviceArray): string {
  return array instanceof DeviceArray ? array.device : "cpu";
}

/** An array's memory, as overlaps are looked for. */
export function memorySpan(array: HostArray | DeviceArray): MemorySpan {
  return array instanceof DeviceArray ? spanOf(array) : array;
}

/** A copy on the same device. */
export function copyOnDevice(array: DeviceArray): DeviceArray {
  const { address, dtype, length, byteLength } = array, device = deviceOf(array);
  const copy = allocateArray(device, dtype, length);
  try {
    device.copy(copy.address, address, byteLength);
  } catch (error) {
    releaseArray(copy);
    throw error;
  }
  return copy;
}

/** The numbers in the host's memory: the array itself, or a copy in an array of the kind of `like` (float16 has two kinds). */
export function onHost(array: TypedArray | DeviceArray, like?: TypedArray): TypedArray {
  return array instanceof DeviceArray ? downloadArray(array, like) : array;
}

/** Copies all elements, bit by bit, between arrays of one dtype and length, wherever they are. */
export function copyBits(to: HostArray | DeviceArray, from: HostArray | DeviceArray): void {
  if (to instanceof DeviceArray) {
    const { address } = to, device = deviceOf(to);
    if (!(from instanceof DeviceArray)) device.upload(address, from);
    else if (deviceOf(from) === device) device.copy(address, from.address, to.byteLength);
    else device.upload(address, downloadArray(from));
  } else if (from instanceof DeviceArray) {
    deviceOf(from).download(to, from.address);
  } else if (to instanceof Uint16Array !== from instanceof Uint16Array) { // float16 has two kinds of arrays
    new Uint16Array(to.buffer, to.byteOffset, to.length).set(
      new Uint16Array(from.buffer, from.byteOffset, from.length),
    );
  } else {
    (to as Float64Array).set(from as Float64Array);
  }
}
