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

const KEYS = ["maxGradNorm", "gradScale"];

/** What a step has to do to gradients: an optimizer has one of these, into which it reads each step's options. */
export class KnownGradOptions implements GradOptions {
  /** What gradients are multiplied by first. */
  unscale: number = 1;
  /** The norm that they are clipped to; Infinity: they are not. */
  maxNorm: number = Infinity;

  /** Reads a step's options; false where there are none. Throws for anything else. */
  read(options: StepOptions | null | undefined): boolean {
    if (options === undefined || options === null) return false;
    if (typeof options !== "object") throw new TypeError(`options of step() must be an object, got ${show(options)}`);
    for (const key in options) {
      if (key === "maxGradNorm" || key === "gradScale" || !Object.hasOwn(options, key)) continue;
      throw new TypeError(`step() has no option ${show(key)}; it has ${KEYS.join(", ")}`);
    }
    const { maxGradNorm: most, gradScale: scale } = options;
    if (most === undefined && scale === undefined) return false;
    if (most !== undefined && !(typeof most === "number" && most > 0)) refuse("maxGradNorm", most, "> 0");
    if (scale !== undefined && !(typeof scale === "number" && scale > 0 && scale < Infinity && 1 / scale < Infinity)) {
      refuse("gradScale", scale, "finite and > 0");
    }
    this.unscale = 1 / (scale ?? 1);
    this.maxNorm = most ?? Infinity;
    return true;
  }
}

function refuse(name: string, value: unknown, range: string): never {
  if (typeof value !== "number") throw new TypeError(`${name} must be a number, got ${show(value)}`);
  throw new RangeError(`${name} must be ${range}, got ${show(value)}`);
}

/** A result that each step writes again. */
export class Outcome implements StepResult {
  skipped: boolean = false;
  gradNorm: number = 0;
  clipCoefficient: number = 1;

  /** What the numbers of a backend's step say. */
  read(numbers: Float64Array): this {
    this.gradNorm = numbers[STEP_NORM]!;
    this.clipCoefficient = numbers[STEP_COEFFICIENT]!;
    this.skipped = !Number.isFinite(this.gradNorm);
    return this;
  }

  /** Becomes the same as another. */
  copy({ skipped, gradNorm, clipCoefficient }: StepResult): void {
    this.skipped = skipped;
    this.gradNorm = gradNorm;
    this.clipCoefficient = clipCoefficient;
  }
}

/** What became of an optimizer's last step, if it had options. What others get is made when they ask for it. */
export class LastStep {
  #clipped = false;
  readonly #outcome = new Outcome();
  #shown: StepResult | null = null;

  /**
   * Notes a step that has been made.
   *
   * @param result what became of it, which is copied; null: it had no options
   */
  note(result: StepResult | null): void {
    this.#clipped = result !== null;
    this.#shown = null;
    if (result !== null) this.#outcome.copy(result);
  }

  /** Whether it was skipped. */
  get skipped(): boolean {
    return this.#clipped && this.#outcome.skipped;
  }

  /** The result; null where there is none. */
  get result(): StepResult | null {
    if (this.#clipped && this.#shown === null) this.#shown = { ...this.#outcome };
    return this.#shown;
  }
}
