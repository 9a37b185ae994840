/**
 * CUDA: parameters and state in the memory of an NVIDIA GPU, the same rules as kernels there, the same bits. Experimental: has run on no
 * real GPU yet.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { AdamW, cuda, Parameter } from "@flatstep/optim";
 *
 * if (cuda.isAvailable()) {
 *   using weight = new Parameter([1, 2, 3, 4]).to("cuda");
 *   const optimizer = new AdamW([weight], { lr: 0.1 });
 *   weight.grad = Float32Array.of(1, -1, 1, -1); // uploaded by the step
 *   optimizer.step();
 *   const [first] = await weight.toHost();
 *   assert(Math.abs(first! - 0.899) < 1e-6);
 * }
 * ```
 *
 * @module
 */

import { type DeviceName, openDriver } from "../../ffi/cuda_driver.ts";
import { bytesOf, checkDType, type DType } from "../dtype.ts";
import { show } from "../errors.ts";
import { type DeviceArray, foreignArray, readCudaDevice } from "./device_array.ts";

export { DeviceArray } from "./device_array.ts";
export type { DeviceName };

/** A device, as {@linkcode devices} tells it. */
export interface CudaDevice {
  /** Its number. */
  index: number;
  /** What `to()` takes: `"cuda:0"`. */
  device: DeviceName;
  /** The product's name. */
  name: string;
  /** Its memory, in bytes. */
  memory: number;
  /** Its compute capability; at least 7.5 is needed. */
  computeCapability: [major: number, minor: number];
}

/**
 * Whether there is a CUDA device that could be used. Never throws; where it is false, `to("cuda")` says why.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { cuda } from "@flatstep/optim";
 *
 * assert(cuda.isAvailable() === (cuda.isAvailable() && cuda.devices().length > 0));
 * ```
 */
export function isAvailable(): boolean {
  try {
    return openDriver("isAvailable()").count > 0;
  } catch {
    return false;
  }
}

/**
 * The CUDA devices that there are.
 *
 * @returns one entry a device, in the driver's order
 * @throws {NativeLibraryError} if the driver's library cannot be opened
 * @throws {CudaError} if the driver says that there is no device
 * @example
 * ```ts
 * import { cuda } from "@flatstep/optim";
 *
 * if (cuda.isAvailable()) {
 *   for (const { device, name, memory } of cuda.devices()) console.log(device, name, memory / 2 ** 30, "GiB");
 * }
 * ```
 */
export function devices(): CudaDevice[] {
  const driver = openDriver("devices()");
  return Array.from({ length: driver.count }, (_, index) => {
    const { name: device, label: name, memory, capability } = driver.device(index);
    return { index, device, name, memory, computeCapability: capability };
  });
}

/**
 * Waits until everything that has been queued on a device is done: steps return before the device has made them. Only needed for
 * measuring, and before another library uses the memory on a stream that does not wait.
 *
 * @param device `"cuda"` (the default, which is `"cuda:0"`) or `"cuda:N"`
 * @throws {RangeError} if there is no such device
 * @throws {NativeLibraryError} if the driver's library cannot be opened
 * @throws {CudaError} if something that was queued has failed
 * @example
 * ```ts
 * import { cuda } from "@flatstep/optim";
 *
 * if (cuda.isAvailable()) cuda.synchronize();
 * ```
 */
export function synchronize(device: "cuda" | DeviceName = "cuda"): void {
  openDriver("synchronize()").device(readCudaDevice(device, "device")).synchronize();
}

/**
 * Another library's memory on a device, as data or gradient of a parameter. Nothing is copied, and it is never freed from here.
 *
 * @param address the address of the first element
 * @param length the number of elements
 * @param dtype their type
 * @param owner what the memory belongs to: it is kept alive as long as the array; null where nothing has to be
 * @param device where it is: `"cuda:N"`; by default what the driver says of the address
 * @returns the array
 * @throws {TypeError} for the wrong kind of thing
 * @throws {RangeError} if the address is 0 or not a multiple of an element's size, or the driver knows of no memory there
 * @throws {NativeLibraryError} if the driver's library cannot be opened
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { cuda, Parameter, SGD } from "@flatstep/optim";
 *
 * if (cuda.isAvailable()) {
 *   const library = new Parameter([1, 1]).to("cuda"); // stands for another library's tensor
 *   const { address, length, dtype } = library.deviceArray!;
 *   using weight = new Parameter([0, 0]).to("cuda");
 *   weight.grad = cuda.fromPointer(address, length, dtype, library);
 *   new SGD([weight], { lr: 1 }).step();
 *   assert([...await weight.toHost()].join() === "-1,-1");
 * }
 * ```
 */
export function fromPointer(
  address: bigint | number,
  length: number,
  dtype: DType,
  owner: unknown,
  device?: DeviceName,
): DeviceArray {
  if (typeof address !== "bigint" && typeof address !== "number") {
    throw new TypeError(`address must be a bigint or an integer, got ${show(address)}`);
  }
  if (typeof address === "number" && !Number.isSafeInteger(address)) {
    throw new RangeError(`address must be a bigint or an integer below 2 ** 53, got ${show(address)}`);
  }
  const at = BigInt(address);
  checkDType(dtype);
  if (!Number.isSafeInteger(length) || length < 0) {
    throw new RangeError(`length must be an integer >= 0, got ${show(length)}`);
  }
  const bytes = bytesOf(dtype);
  if (at <= 0n && length > 0 || at < 0n || at >= 1n << 53n) {
    throw new RangeError(`address must be that of memory on a device, got ${show(address)}`);
  }
  if (at % BigInt(bytes) !== 0n) {
    throw new RangeError(`address must be a multiple of ${bytes}, as elements of ${dtype} are, got ${show(address)}`);
  }
  const driver = openDriver("fromPointer()");
  let index = device === undefined ? null : readCudaDevice(device, "device");
  if (index === null) {
    index = length === 0 ? 0 : driver.deviceAt(at);
    if (index === null) {
      throw new RangeError(
        `address must be that of memory on a device, got ${show(address)}, of which the driver knows nothing`,
      );
    }
  }
  return foreignArray(driver.device(index), at, dtype, length, owner);
}
