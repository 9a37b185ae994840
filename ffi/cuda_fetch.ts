/**
 * The CUDA kernels' compressed text, where the package came over the network.
 *
 * There is no file then, and modules come by `import()` alone, which is asynchronous; `to("cuda")` is not. So in Deno, where FFI has been
 * granted and there may be a device, this module awaits the text when it is imported (prebuilt.ts says more); elsewhere nobody pays for it.
 *
 * @module
 */

import { deno, env, granted } from "./runtime.ts";

/** What ffi/cuda_ptx.ts has. */
export interface CompressedPtx {
  /** SHA-256 of the text. */
  readonly PTX_SHA256: string;
  /** Its length in bytes. */
  readonly PTX_SIZE: number;
  /** The text, compressed by brotli, in base64. */
  readonly PTX_BROTLI: string;
}

/** What NVIDIA's driver has put where it is loaded: Linux, WSL. */
const DRIVERS: readonly string[] = ["/dev/nvidiactl", "/dev/dxg"];

/** Whether there may be a device: where it cannot be known, yes. */
function mayHaveDevice(): boolean {
  if (deno === undefined || !granted({ name: "ffi" })) return false;
  if (deno.build.os === "darwin") return false;
  if (env("FLATSTEP_LIBCUDA") !== undefined || deno.build.os !== "linux") return true;
  return DRIVERS.some((path) => {
    if (!granted({ name: "read", path })) return true;
    try {
      deno!.statSync(path);
      return true;
    } catch (error) {
      return (error as Error).name !== "NotFound"; // Deno refuses to look into /dev without --allow-all
    }
  });
}

/** The text; null where the sources are files, or there is no device for it. */
export const fetched: CompressedPtx | null = !import.meta.url.startsWith("file:") && mayHaveDevice()
  ? await import("./cuda_ptx.ts")
  : null;
