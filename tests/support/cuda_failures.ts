/**
 * Every driver call of a piece of work fails once.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { CudaError } from "../../mod.ts";
import type { Standin } from "./cuda.ts";

const OUT_OF_MEMORY = 2;
/** The calls in which a piece of work may fail; freeing is tried again by itself. */
const CALLS = [
  "cuMemAlloc_v2",
  "cuMemcpyHtoD_v2",
  "cuMemcpyDtoH_v2",
  "cuMemcpyDtoD_v2",
  "cuMemsetD16_v2",
  "cuMemsetD32_v2",
  "cuLaunchKernel",
];

/**
 * Runs a piece of work again and again, in which another driver call fails each time, and at last as it is.
 *
 * @param begin makes everything as it has to be before the work
 * @param work what is run; it has to fail each time with the driver's error
 * @param check looks whether everything is as it was; told which call has failed
 * @returns how often it has failed
 */
export async function eachFailure(
  standin: Standin,
  begin: () => void,
  work: () => unknown,
  check: (what: string) => void | Promise<void>,
): Promise<number> {
  let count = 0;
  for (const call of CALLS) {
    for (let nth = 1;; nth++) {
      begin();
      standin.fail(call, nth, OUT_OF_MEMORY);
      const before = standin.calls(call);
      let error: unknown = null;
      try {
        await work();
      } catch (thrown) {
        error = thrown;
      }
      const failed = standin.calls(call) - before >= nth;
      standin.reset();
      if (!failed) {
        if (error !== null) throw error;
        break; // that were all
      }
      const name = `${call} number ${nth}`;
      if (!(error instanceof CudaError)) throw new Error(`${name} has failed, and the work says ${error}`);
      assertEquals(error.code, "CUDA_ERROR_OUT_OF_MEMORY", name);
      count++;
      await check(name);
    }
  }
  return count;
}
