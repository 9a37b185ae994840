/**
 * Learning rate schedulers, and schedules of any other numeric group option.
 *
 * A scheduler writes a value into each param group when it is made, and another at each `step()`:
 *
 * ```ts
 * import { assert } from "@std/assert";
 * import { AdamW, CosineAnnealingLR, LinearLR, Parameter, SequentialLR } from "@flatstep/optim";
 *
 * const weight = new Parameter([1, 2, 3]);
 * const optimizer = new AdamW([weight], { lr: 0.1 });
 * const scheduler = new SequentialLR(optimizer, {
 *   schedulers: [new LinearLR(optimizer, { totalIters: 5 }), new CosineAnnealingLR(optimizer, { tMax: 95 })],
 *   milestones: [5],
 * });
 * for (let epoch = 0; epoch < 100; epoch++) {
 *   weight.grad = Float32Array.from(weight.data, (w) => 2 * w);
 *   optimizer.step();
 *   scheduler.step();
 * }
 * assert(Math.abs(scheduler.getLastLr()[0]!) < 1e-12);
 * ```
 *
 * @module
 */

export { LRScheduler, type SchedulerStateDict } from "./scheduler.ts";
export type { Schedule } from "./engine.ts";
export type { SchedulerOptions } from "./options.ts";
export {
  LambdaLR,
  type LambdaLROptions,
  type LrLambda,
  MultiplicativeLR,
  type MultiplicativeLROptions,
} from "./lambda.ts";
export {
  ConstantLR,
  type ConstantLROptions,
  ExponentialLR,
  type ExponentialLROptions,
  LinearLR,
  type LinearLROptions,
  MultiStepLR,
  type MultiStepLROptions,
  PolynomialLR,
  type PolynomialLROptions,
  StepLR,
  type StepLROptions,
} from "./simple.ts";
export { CosineAnnealingLR, type CosineAnnealingLROptions } from "./cosine.ts";
export { CosineAnnealingWarmRestarts, type CosineAnnealingWarmRestartsOptions } from "./warm_restarts.ts";
export { CyclicLR, type CyclicLROptions } from "./cyclic.ts";
export { OneCycleLR, type OneCycleLROptions } from "./one_cycle.ts";
export { ReduceLROnPlateau, type ReduceLROnPlateauOptions } from "./plateau.ts";
export { ChainedScheduler, SequentialLR, type SequentialLROptions } from "./compose.ts";
