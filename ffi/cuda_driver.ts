/**
 * NVIDIA's driver: its library, its devices, and what it says when something fails.
 *
 * The library is opened at the first use, and needs nothing but the driver: no toolkit to build or to run. Work goes to the device's
 * primary context, which the runtime API and other libraries share, and to the legacy default stream: it is ordered with theirs
 * unless they ask for a stream of their own that does not wait, and a copy from or to the host is ordered with it. A context is current for a thread, and
 * Workers are threads: so every piece of work makes its context current first.
 *
 * @module
 */

import { CudaError, NativeLibraryError } from "../src/errors.ts";
import {
  CAPABILITY_MAJOR,
  CAPABILITY_MINOR,
  type CudaCall,
  type CudaFunctions,
  cudaToBun,
  cudaToDeno,
  JIT_ERROR_LOG,
  JIT_ERROR_LOG_BYTES,
  LOST,
  POINTER_DEVICE,
} from "./cuda_symbols.ts";
import { kernelPtx } from "./cuda_kernels.ts";
import { addressOf, deno, env, granted, isBun, openBun, openDeno, platform, textAt } from "./runtime.ts";

/** A device's name, as torch has it. */
export type DeviceName = `cuda:${number}`;

/** The least compute capability that the kernels are compiled for. */
const LEAST: readonly [number, number] = [7, 5];
/** What compiles kernels for the device writes its complaints here. */
const LOG_BYTES = 8192;

/** What calls give back. */
const out64 = new BigUint64Array(new ArrayBuffer(8));
const out32 = new Int32Array(out64.buffer);

/** Where the library may be. */
function candidates(): string[] {
  const given = env("FLATSTEP_LIBCUDA");
  if (given !== undefined) return [given];
  // WSL keeps it out of the loader's way
  return platform()?.startsWith("win32") ? ["nvcuda.dll"] : ["libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"];
}

/** Deno closes libraries when a program ends, and the driver's own threads may still be in this one. */
function keep(path: string): void {
  if (!deno || deno.build.os !== "linux" || !granted({ name: "ffi", path: "libdl.so.2" })) return;
  try {
    const symbols = { dlopen: { parameters: ["buffer", "i32"], result: "pointer" } };
    const { dlopen } = deno.dlopen("libdl.so.2", symbols).symbols as {
      dlopen(path: Uint8Array, flags: number): unknown;
    };
    dlopen(new TextEncoder().encode(`${path}\0`), 0x1002); // RTLD_NODELETE | RTLD_NOW
  } catch {
    // as it would be without
  }
}

let driver: Driver | undefined;

/**
 * The driver.
 *
 * @param asked what asked for it, for the message: `"to(\"cuda\")"`
 * @throws {NativeLibraryError} where its library cannot be opened
 * @throws {CudaError} where it says that there is no device
 */
export function openDriver(asked: string): Driver {
  return driver ??= open(asked);
}

function open(asked: string): Driver {
  const reasons: string[] = [];
  if (!deno && !isBun) reasons.push("its library can be opened in Deno and in Bun only");
  for (const path of reasons.length > 0 ? [] : candidates()) {
    let functions: CudaFunctions;
    try {
      functions = (deno ? openDeno(path, cudaToDeno()) : openBun(path, cudaToBun())) as unknown as CudaFunctions;
    } catch (error) {
      const [why] = (error as Error).message.replaceAll("Could not open library: ", "").split("\n");
      reasons.push(why!.startsWith(path) ? why! : `${path}: ${why}`);
      continue;
    }
    keep(path);
    return new Driver(path, functions);
  }
  throw new NativeLibraryError(
    `${asked} needs NVIDIA's driver, and it cannot be had:\n${reasons.map((line) => `  ${line}`).join("\n")}\n` +
      "To mend it: install the driver of an NVIDIA GPU (no toolkit is needed); give Deno --allow-ffi; or set FLATSTEP_LIBCUDA " +
      "to the path of libcuda. Without it parameters stay on the cpu.",
  );
}

/** The driver's library. */
export class Driver {
  readonly #devices: (Device | undefined)[] = [];
  /** How many devices there are. */
  readonly count: number;

  constructor(readonly library: string, readonly functions: CudaFunctions) {
    this.check(functions.cuInit(0), "cuInit");
    this.check(functions.cuDeviceGetCount(out32), "cuDeviceGetCount");
    this.count = out32[0]!;
  }

  /** Throws a CudaError unless a call has succeeded. */
  check(status: number, call: CudaCall, more = ""): void {
    if (status === 0) return;
    const code = this.#text("cuGetErrorName", status) ?? `CUresult ${status}`;
    const text = this.#text("cuGetErrorString", status);
    const lost = LOST.has(code) ? "; what was on the device is lost, and only another process can use it again" : "";
    throw new CudaError(
      `${call} failed: ${code}${text === null ? "" : ` (${text})`}${more === "" ? "" : `: ${more}`}${lost}`,
      code,
    );
  }

  #text(call: "cuGetErrorName" | "cuGetErrorString", status: number): string | null {
    out64[0] = 0n;
    return this.functions[call](status, out64) === 0 && out64[0] !== 0n ? textAt(out64[0]!) : null;
  }

  /** A device by its number. */
  device(index: number): Device {
    if (index >= this.count) {
      throw new RangeError(
        `"cuda:${index}" must be one of the ${this.count} devices that there are, "cuda:0" the first`,
      );
    }
    return this.#devices[index] ??= new Device(this, index);
  }

  /** The number of the device on which there is memory at an address; null if the driver knows of none. */
  deviceAt(address: bigint): number | null {
    this.device(0).use();
    const status = this.functions.cuPointerGetAttribute(out32, POINTER_DEVICE, address);
    if (status === 1) return null; // CUDA_ERROR_INVALID_VALUE: no memory of CUDA's
    this.check(status, "cuPointerGetAttribute");
    return out32[0]!;
  }
}

/** A device: its memory, its kernels. */
export class Device {
  readonly name: DeviceName;
  readonly #handle: number;
  #context: bigint | null = null;
  readonly #functions = new Map<string, bigint>();
  /** The array of pointers to a kernel's parameters: there is one, a structure. */
  readonly #parameters: BigUint64Array = new BigUint64Array(new ArrayBuffer(8));
  #parametersOf: ArrayBufferView | null = null;

  constructor(readonly driver: Driver, readonly index: number) {
    this.name = `cuda:${index}`;
    driver.check(driver.functions.cuDeviceGet(out32, index), "cuDeviceGet", this.name);
    this.#handle = out32[0]!;
  }

  /** The product's name. */
  get label(): string {
    const text = new Uint8Array(new ArrayBuffer(256));
    this.#check(this.driver.functions.cuDeviceGetName(text, text.length, this.#handle), "cuDeviceGetName");
    return new TextDecoder().decode(text.subarray(0, text.indexOf(0)));
  }

  /** Bytes of memory. */
  get memory(): number {
    this.#check(this.driver.functions.cuDeviceTotalMem_v2(out64, this.#handle), "cuDeviceTotalMem_v2");
    return Number(out64[0]);
  }

  /** The compute capability. */
  get capability(): [major: number, minor: number] {
    return [this.#attribute(CAPABILITY_MAJOR), this.#attribute(CAPABILITY_MINOR)];
  }

  #attribute(attribute: number): number {
    this.#check(
      this.driver.functions.cuDeviceGetAttribute(out32, attribute, this.#handle),
      "cuDeviceGetAttribute",
    );
    return out32[0]!;
  }

  #check(status: number, call: CudaCall, more = ""): void {
    if (status !== 0) this.driver.check(status, call, more === "" ? this.name : `${more} on ${this.name}`);
  }

  /** Makes the device's context that of this thread. */
  use(): CudaFunctions {
    const { functions } = this.driver;
    if (this.#context === null) {
      const [major, minor] = this.capability;
      if (major < LEAST[0] || (major === LEAST[0] && minor < LEAST[1])) {
        throw new CudaError(
          `${this.name} (${this.label}) has compute capability ${major}.${minor}, and at least ${
            LEAST.join(".")
          } is needed`,
          "CUDA_ERROR_NO_BINARY_FOR_GPU",
        );
      }
      this.#check(functions.cuDevicePrimaryCtxRetain(out64, this.#handle), "cuDevicePrimaryCtxRetain");
      this.#context = out64[0]!;
    }
    this.#check(functions.cuCtxSetCurrent(this.#context), "cuCtxSetCurrent");
    return functions;
  }

  /** Memory; it holds whatever it holds. */
  allocate(bytes: number): bigint {
    const functions = this.use();
    this.#check(functions.cuMemAlloc_v2(out64, BigInt(bytes)), "cuMemAlloc_v2", `${bytes} bytes`);
    return out64[0]!;
  }

  /** Gives memory back, once the work that has been queued is done. */
  free(address: bigint): void {
    this.#check(this.use().cuMemFree_v2(address), "cuMemFree_v2");
  }

  /** Copies an array to the device. Its memory may be used again afterwards. */
  upload(address: bigint, from: ArrayBufferView): void {
    if (from.byteLength === 0) return;
    this.#check(
      this.use().cuMemcpyHtoD_v2(address, from as Uint8Array, BigInt(from.byteLength)),
      "cuMemcpyHtoD_v2",
      `${from.byteLength} bytes`,
    );
  }

  /** Copies from the device into an array, once the work that has been queued is done. */
  download(to: ArrayBufferView, address: bigint): void {
    if (to.byteLength === 0) return;
    if (to.buffer === undefined) throw new TypeError("an array without memory");
    this.#check(
      this.use().cuMemcpyDtoH_v2(to as Uint8Array, address, BigInt(to.byteLength)),
      "cuMemcpyDtoH_v2",
      `${to.byteLength} bytes`,
    );
  }

  /** Copies within the device. */
  copy(to: bigint, from: bigint, bytes: number): void {
    if (bytes === 0) return;
    this.#check(this.use().cuMemcpyDtoD_v2(to, from, BigInt(bytes)), "cuMemcpyDtoD_v2", `${bytes} bytes`);
  }

  /** Fills memory with a pattern of 16 or 32 bits. */
  fill(address: bigint, bits: 16 | 32, pattern: number, count: number): void {
    if (count === 0) return;
    const functions = this.use(), n = BigInt(count);
    if (bits === 16) this.#check(functions.cuMemsetD16_v2(address, pattern, n), "cuMemsetD16_v2");
    else this.#check(functions.cuMemsetD32_v2(address, pattern, n), "cuMemsetD32_v2");
  }

  /** A kernel by its name; compiled for the device by the driver when it is first asked for. */
  kernel(name: string): bigint {
    const known = this.#functions.get(name);
    if (known !== undefined) return known;
    const functions = this.use();
    const log = new Uint8Array(new ArrayBuffer(LOG_BYTES));
    const options = Int32Array.of(JIT_ERROR_LOG, JIT_ERROR_LOG_BYTES);
    const values = new BigUint64Array(new ArrayBuffer(16));
    values[0] = addressOf(log);
    values[1] = BigInt(LOG_BYTES);
    const image = new TextEncoder().encode(`${kernelPtx([name])}\0`);
    const status = functions.cuModuleLoadDataEx(out64, image, 2, options, values);
    const end = log.indexOf(0),
      complaint = new TextDecoder().decode(log.subarray(0, end < 0 ? log.length : end)).trim();
    this.#check(status, "cuModuleLoadDataEx", `${name}${complaint === "" ? "" : ` (${complaint})`}`);
    const module = out64[0]!;
    const found = functions.cuModuleGetFunction(out64, module, new TextEncoder().encode(`${name}\0`));
    if (found !== 0) functions.cuModuleUnload(module);
    this.#check(found, "cuModuleGetFunction", name);
    this.#functions.set(name, out64[0]!);
    return out64[0]!;
  }

  /**
   * Queues a kernel.
   *
   * @param kernel what `kernel()` gave
   * @param parameters its structure, in memory made by `new ArrayBuffer`; it is read during the call
   * @param threads how many threads there should be; at least that many, up to a limit
   */
  launch(kernel: bigint, parameters: ArrayBufferView, threads: number): void {
    const functions = this.use(), blocks = Math.min(Math.ceil(threads / BLOCK), MAX_GRID);
    if (this.#parametersOf !== parameters) {
      this.#parameters[0] = addressOf(parameters);
      this.#parametersOf = parameters;
    }
    this.#check(
      functions.cuLaunchKernel(kernel, blocks, 1, 1, BLOCK, 1, 1, 0, 0n, this.#parameters, null),
      "cuLaunchKernel",
    );
  }

  /** Waits until all that has been queued on the device is done. */
  synchronize(): void {
    this.#check(this.use().cuCtxSynchronize(), "cuCtxSynchronize");
  }
}

/** Threads of a block. */
const BLOCK = 256;
/** Blocks of a grid: its threads then take turns. */
const MAX_GRID = 0x7fffffff;
