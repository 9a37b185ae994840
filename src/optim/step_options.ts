/**
 * What `step()` can be told beside its closure, and what it tells of it afterwards.
 *
 * @module
 */

import { STEP_COEFFICIENT, STEP_NORM } from "../../ffi/backend.ts";
import { show } from "../errors.ts";

/**
 * Options of a step: gradients are unscaled and clipped on their way into the update, and stay as they are.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Parameter, SGD } from "@flatstep/optim";
 *
 * const p = new Parameter([0, 0]);
 * p.grad = Float32Array.of(3 * 1024, 4 * 1024); // of a loss that was multiplied by 1024
 * const optimizer = new SGD([p], { lr: 1 });
 * optimizer.step(null, { gradScale: 1024, maxGradNorm: 1 });
 * assert(optimizer.lastStep!.gradNorm === 5);
 * assert(Math.abs(p.data[0]! + 0.6) < 1e-6 && p.grad[0] === 3 * 1024);
 * ```
 */
export interface StepOptions {
  /**
   * Clips the gradients of all groups together to this norm (the root of the sum of all squares): they are multiplied by
   * `maxGradNorm / (norm + 1e-6)` where that is below 1. A number > 0; Infinity: the norm is found, and nothing is clipped.
   */
  maxGradNorm?: number;
  /** What the loss was multiplied by: gradients are multiplied by `1 / gradScale` first. A finite number > 0, default 1. */
  gradScale?: number;
}

/** What became of a step with {@linkcode StepOptions}. */
export interface StepResult {
  /** Whether the gradients, or their norm, were not finite: nothing has been changed, and the step does not count. */
  readonly skipped: boolean;
  /** The norm of all gradients, unscaled and not clipped. */
  readonly gradNorm: number;
  /** What clipping has multiplied them by: 1 if nothing was clipped, 0 in a step that was skipped. */
  readonly clipCoefficient: number;
}

/** The options of a step that has some. */
export interface GradOptions {
  /** What gradients are multiplied by first. */
  readonly unscale: number;
  /** The norm that they are clipped to; Infinity: they are not. */
  readonly maxNorm: number;
}

/** What the numbers of a backend's step say. */
export function stepResult(numbers: Float64Array): StepResult {
  const gradNorm = numbers[STEP_NORM]!;
  return { skipped: !Number.isFinite(gradNorm), gradNorm, clipCoefficient: numbers[STEP_COEFFICIENT]! };
}

const KEYS = ["maxGradNorm", "gradScale"];

/** Reads a step's options; null where there are none. Throws for anything else. */
export function readStepOptions(options: StepOptions | null | undefined): GradOptions | null {
  if (options === undefined || options === null) return null;
  if (typeof options !== "object") throw new TypeError(`options of step() must be an object, got ${show(options)}`);
  for (const key of Object.keys(options)) {
    if (!KEYS.includes(key)) throw new TypeError(`step() has no option ${show(key)}; it has ${KEYS.join(", ")}`);
  }
  const { maxGradNorm, gradScale } = options;
  if (maxGradNorm === undefined && gradScale === undefined) return null;
  checkPositive("maxGradNorm", maxGradNorm, "> 0", (x) => x > 0);
  checkPositive("gradScale", gradScale, "finite and > 0", (x) => x > 0 && x < Infinity && 1 / x < Infinity);
  return { unscale: 1 / (gradScale ?? 1), maxNorm: maxGradNorm ?? Infinity };
}

function checkPositive(name: string, value: unknown, range: string, holds: (x: number) => boolean): void {
  if (value === undefined) return;
  if (typeof value !== "number") throw new TypeError(`${name} must be a number, got ${show(value)}`);
  if (!holds(value)) throw new RangeError(`${name} must be ${range}, got ${show(value)}`);
}
