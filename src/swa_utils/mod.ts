/**
 * Averages of weights over time, and what goes with them: `AveragedModel`, its averages, and `updateBn`.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { swaUtils } from "@flatstep/optim";
 *
 * assert(swaUtils.getSwaAvgFn()(3, 6, 2) === 4);
 * ```
 *
 * @module
 */

export { AveragedModel, type AveragedModelOptions } from "./averaged_model.ts";
export type { AveragedStateDict, TensorData } from "./averaged_state.ts";
export {
  type AvgFn,
  type EmaOptions,
  getEmaAvgFn,
  getEmaMultiAvgFn,
  getSwaAvgFn,
  getSwaMultiAvgFn,
  type MultiAvgFn,
} from "./averages.ts";
export type { BatchNorm, IntegerArray, Module } from "./module.ts";
export { SWALR, type SWALROptions } from "./swalr.ts";
export type { IntegerType } from "./tensors.ts";
export { updateBn } from "./update_bn.ts";
