/**
 * The part of the CUDA driver API that is used, once, in neutral terms, and its translation for each runtime's FFI.
 *
 * Handles and device addresses are 64-bit words, which JavaScript has as bigint; what a call gives back it writes into memory of ours.
 *
 * @module
 */

import type { Memory } from "./symbols.ts";

type Type = "u8" | "u16" | "u32" | "i32" | "u64" | "buffer";

/** The parameters of each function; all return a CUresult. */
export const CUDA_SYMBOLS = {
  cuInit: ["u32"],
  cuDriverGetVersion: ["buffer"],
  cuDeviceGetCount: ["buffer"],
  cuDeviceGet: ["buffer", "i32"],
  cuDeviceGetName: ["buffer", "i32", "i32"],
  cuDeviceTotalMem_v2: ["buffer", "i32"],
  cuDeviceGetAttribute: ["buffer", "i32", "i32"],
  cuDevicePrimaryCtxRetain: ["buffer", "i32"],
  cuCtxSetCurrent: ["u64"],
  cuCtxSynchronize: [],
  cuModuleLoadDataEx: ["buffer", "buffer", "u32", "buffer", "buffer"],
  cuModuleUnload: ["u64"],
  cuModuleGetFunction: ["buffer", "u64", "buffer"],
  cuMemAlloc_v2: ["buffer", "u64"],
  cuMemFree_v2: ["u64"],
  cuMemcpyHtoD_v2: ["u64", "buffer", "u64"],
  cuMemcpyDtoH_v2: ["buffer", "u64", "u64"],
  cuMemcpyDtoD_v2: ["u64", "u64", "u64"],
  cuMemsetD16_v2: ["u64", "u16", "u64"],
  cuMemsetD32_v2: ["u64", "u32", "u64"],
  cuLaunchKernel: ["u64", "u32", "u32", "u32", "u32", "u32", "u32", "u32", "u64", "buffer", "buffer"],
  cuPointerGetAttribute: ["buffer", "i32", "u64"],
  cuGetErrorName: ["i32", "buffer"],
  cuGetErrorString: ["i32", "buffer"],
} as const satisfies Record<string, readonly Type[]>;

type Argument<T> = T extends "u64" ? bigint : T extends "buffer" ? Memory | Int32Array | BigUint64Array | null : number;
type Arguments<T extends readonly Type[]> = { -readonly [K in keyof T]: Argument<T[K]> };

/** A function of the driver API. */
export type CudaCall = keyof typeof CUDA_SYMBOLS;

/** The functions, as both runtimes hand them out. */
export type CudaFunctions = {
  readonly [Name in CudaCall]: (...args: Arguments<(typeof CUDA_SYMBOLS)[Name]>) => number;
};

/** The symbols as Deno.dlopen takes them. */
export function cudaToDeno(): Record<string, { parameters: readonly string[]; result: string }> {
  return Object.fromEntries(
    Object.entries(CUDA_SYMBOLS).map(([name, parameters]) => [name, { parameters, result: "i32" }]),
  );
}

/** The symbols as bun:ffi's dlopen takes them. */
export function cudaToBun(): Record<string, { args: string[]; returns: string }> {
  const type = (t: Type) => t === "buffer" ? "ptr" : t;
  return Object.fromEntries(
    Object.entries(CUDA_SYMBOLS).map(([name, parameters]) => [name, { args: parameters.map(type), returns: "i32" }]),
  );
}

/** CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR. */
export const CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76;

/** CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL. */
export const POINTER_DEVICE = 9;

/** CU_JIT_ERROR_LOG_BUFFER and CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES. */
export const JIT_ERROR_LOG = 5, JIT_ERROR_LOG_BYTES = 6;

/**
 * CUresults after which the context can no more be used: whatever is on the device is lost, and every further call fails the same way.
 * The driver API says of each that "the process must be terminated and relaunched", or that the device has gone.
 */
export const LOST: ReadonlySet<string> = new Set([
  "CUDA_ERROR_DEVICE_UNAVAILABLE",
  "CUDA_ERROR_ECC_UNCORRECTABLE",
  "CUDA_ERROR_NVLINK_UNCORRECTABLE",
  "CUDA_ERROR_CONTAINED",
  "CUDA_ERROR_ILLEGAL_ADDRESS",
  "CUDA_ERROR_LAUNCH_TIMEOUT",
  "CUDA_ERROR_CONTEXT_IS_DESTROYED",
  "CUDA_ERROR_ASSERT",
  "CUDA_ERROR_HARDWARE_STACK_ERROR",
  "CUDA_ERROR_ILLEGAL_INSTRUCTION",
  "CUDA_ERROR_MISALIGNED_ADDRESS",
  "CUDA_ERROR_INVALID_ADDRESS_SPACE",
  "CUDA_ERROR_INVALID_PC",
  "CUDA_ERROR_LAUNCH_FAILED",
  "CUDA_ERROR_TENSOR_MEMORY_LEAK",
  "CUDA_ERROR_EXTERNAL_DEVICE",
]);
