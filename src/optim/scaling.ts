/**
 * Arrays times a number, by the rules of csrc/rules/: what happens to gradients outside of a job.
 *
 * @module
 */

import type { Backend } from "../../ffi/backend.ts";
import { getNumThreads } from "../../ffi/load.ts";
import type { DType, TypedArray } from "../dtype.ts";
import { MUL_RULE, SCALE_RULE } from "../foreach_rules.ts";

/**
 * Multiplies arrays by a number, rounded to their dtype.
 *
 * @param from the arrays
 * @param to where the products go, arrays of the same lengths; null: into `from`
 */
export function scaleArrays(
  backend: Backend,
  dtype: DType,
  from: readonly TypedArray[],
  to: readonly TypedArray[] | null,
  factor: number,
): void {
  const job = backend.createJob(to === null ? MUL_RULE : SCALE_RULE, dtype, from.length);
  const hypers = new Float64Array(new ArrayBuffer(8)).fill(factor);
  from.forEach((array, i) => {
    if (array.length === 0) return;
    job.setLength(i, array.length);
    job.bind(i, 0, to === null ? array : to[i]!);
    if (to !== null) job.bind(i, 1, array);
  });
  job.bindHypers(hypers, 1);
  backend.run([job], getNumThreads());
}
