/**
 * What every step checks of the arrays it is going to read and write.
 *
 * @module
 */

import { DeviceArray } from "../cuda/device_array.ts";
import { arrayNames, holds, type TypedArray } from "../dtype.ts";
import { describe, show } from "../errors.ts";
import type { Parameter } from "../parameter.ts";

/** Throws if a closure of `step()` returned a Promise. */
export function refusePromise(loss: unknown): void {
  if (typeof (loss as { then?: unknown } | null | undefined)?.then === "function") {
    throw new TypeError("closure must return a number, got a Promise: use stepAsync()");
  }
}

/** Throws unless what a closure returned is a number. */
export function checkLoss(loss: unknown): asserts loss is number {
  refusePromise(loss);
  if (typeof loss !== "number") throw new TypeError(`closure must return a number, got ${show(loss)}`);
}

/** Throws if a parameter is on a device, for a class that has no kernels there. */
export function refuseDevice(p: Parameter, label: string | (() => string), name: string): void {
  if (p.device === "cpu") return;
  const what = typeof label === "string" ? label : label();
  throw new TypeError(
    `${what} must be on the cpu for ${name}, which has no kernels for ${p.device} yet: move it by to("cpu")`,
  );
}

/** Throws unless an array on a device is there, where its parameter is, and has the parameter's dtype and `size` elements. */
export function checkDeviceArray(
  array: DeviceArray,
  p: Parameter,
  label: string | (() => string),
  size: number = p.size,
): void {
  const { device, dtype, length, disposed } = array;
  if (!disposed && device === p.device && dtype === p.dtype && length === size) return;
  const what = typeof label === "string" ? label : label();
  if (disposed) throw new TypeError(`${what} must be there, and ${array} has been disposed`);
  if (device !== p.device) throw new TypeError(`${what} must be where its parameter is, on ${p.device}, got ${array}`);
  if (dtype !== p.dtype) throw new TypeError(`${what} must be ${p.dtype}, got ${array}`);
  throw new RangeError(
    size === p.size
      ? `${what} must have ${size} elements, as its parameter has, got ${length}`
      : `${what} must have ${size} elements for its parameter's shape ${show(p.shape)}, got ${length}`,
  );
}

/**
 * Throws unless an array has its parameter's dtype, and as many elements: `size` of them where it is given, else as many as
 * the parameter.
 */
export function checkArray(
  array: unknown,
  p: Parameter,
  label: string | (() => string),
  size: number = p.size,
): asserts array is TypedArray {
  if (holds(array, p.dtype) && array.length === size) return;
  const what = typeof label === "string" ? label : label();
  if (array instanceof DeviceArray) {
    throw new TypeError(`${what} must be where its parameter is, on ${p.device}, got ${array}`);
  }
  if (!holds(array, p.dtype)) {
    throw new TypeError(
      `${what} must be ${arrayNames(p.dtype)} of ${size}, got ${describe(array)}`,
    );
  }
  throw new RangeError(
    size === p.size
      ? `${what} must have ${size} elements, as its parameter's shape ${show(p.shape)} has, got ${array.length}`
      : `${what} must have ${size} elements for its parameter's shape ${show(p.shape)}, got ${array.length}`,
  );
}
