/**
 * Rprop.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";
import { ElementwiseOptimizer, type ElementwiseOptions } from "./elementwise.ts";
import { ELEMENTWISE_SCHEMA, nonNegative, pair, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import type { Update } from "./plan.ts";
import { countStep } from "./update.ts";

/** The options of {@linkcode Rprop}. */
export interface RpropOptions extends ElementwiseOptions {
  /** The first step size, >= 0; default 1e-2. Read when a parameter's state is made, and not again. */
  lr?: number;
  /** By what the step size shrinks and grows: two numbers > 0 and < 1, and > 1; default [0.5, 1.2]. */
  etas?: readonly [number, number];
  /** The smallest and the largest step size, >= 0; default [1e-6, 50]. */
  stepSizes?: readonly [number, number];
}

type Group = ParamGroup<RpropOptions>;

const SCHEMA: Schema<RpropOptions> = {
  lr: nonNegative(1e-2),
  etas: pair([0.5, 1.2], (x) => x > 0, "> 0"),
  stepSizes: pair([1e-6, 50], (x) => x >= 0, ">= 0"),
  ...ELEMENTWISE_SCHEMA,
};

const sign = (x: number): number => x > 0 ? 1 : x < 0 ? -1 : 0; // of a NaN too, as torch's

/** csrc/rules/rprop.h in TypeScript. */
export const RPROP_RULE: Rule = {
  name: "rprop",
  buffers: ["param:rw", "grad:r", "prev:rw", "stepSize:rw"],
  hypers: ["gradSign", "etaMinus", "etaPlus", "stepMin", "stepMax"],
  flags: [],
  body(round, _flags, h, buffers, n) {
    const [gradSign, etaMinus, etaPlus, stepMin, stepMax] = h as [number, number, number, number, number];
    const [param, grad, prev, stepSize] = buffers as [Float64Array, Float64Array, Float64Array, Float64Array];
    for (let i = 0; i < n; i++) {
      const g0 = round(gradSign * grad[i]!), s = sign(g0) * sign(prev[i]!);
      let size = round(stepSize[i]! * (s > 0 ? etaPlus : s < 0 ? etaMinus : 1));
      size = size < stepMin ? stepMin : size > stepMax ? stepMax : size;
      const g = s < 0 ? 0 : g0;
      stepSize[i] = size;
      prev[i] = g;
      param[i] = round(param[i]! - sign(g) * size);
    }
  },
};

const TENSORS = ["prev", "stepSize"];

const UPDATE: Update<Group> = {
  name: "Rprop",
  rule: RPROP_RULE,
  scalars: ["step"],
  freshFlags: 0,
  tensors: () => TENSORS,
  flags: () => 0,
  start: () => ({ step: 0 }),
  fill: (group, tensor) => tensor === "stepSize" ? group.lr : 0,
  hypers(group, _state, out, at) {
    out[at] = group.maximize ? -1 : 1;
    out[at + 1] = group.etas[0];
    out[at + 2] = group.etas[1];
    out[at + 3] = group.stepSizes[0];
    out[at + 4] = group.stepSizes[1];
  },
  next: countStep,
};

/**
 * Rprop: each element has its own step size, which grows while its gradient keeps its sign and shrinks when it changes. For
 * full batches.
 *
 * ```text
 * g = grad (negated with maximize)             s = sign(g) sign(prev)
 * size = clamp(size (etas[1] if s > 0, etas[0] if s < 0, else 1), stepSizes[0], stepSizes[1])
 * g = 0 where s < 0
 * p -= sign(g) size                            prev = g
 * ```
 *
 * State: `step` (number), `prev`, `stepSize` (from lr) (each as long as the parameter, in its dtype). **`lr` is read only when
 * the state is made**, as in torch: a schedule of lr does nothing, and a large lr is clamped at the first step already.
 * bfloat16 and float16 are computed in float32 and rounded once, when they are stored.
 *
 * Paper: Riedmiller & Braun 1993, "A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP Algorithm". torch source: `torch/optim/rprop.py`.
 * Differences: signs are compared, where torch takes the sign of a product that underflows for small gradients; stepSizes are
 * checked.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Rprop, Parameter } from "@flatstep/optim";
 *
 * const x = new Parameter([1, -2]);
 * const optimizer = new Rprop([x], { lr: 0.1 });
 * for (let i = 0; i < 100; i++) {
 *   x.grad = Float32Array.from(x.data, (v) => 2 * v); // of x²
 *   optimizer.step();
 * }
 * assert(x.data.every((v) => Math.abs(v) < 1e-2));
 * ```
 */
export class Rprop extends ElementwiseOptimizer<RpropOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode RpropOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<RpropOptions>, options?: RpropOptions) {
    super(params, options, "Rprop", { schema: SCHEMA, update: UPDATE });
  }

  /** Throws unless etas and stepSizes are in order. */
  protected override validate(options: Readonly<Required<RpropOptions>>): void {
    super.validate(options);
    const { 0: minus, 1: plus } = options.etas, { 0: least, 1: most } = options.stepSizes;
    if (!(minus < 1 && plus > 1)) throw new RangeError(`etas must be < 1 and > 1, got [${minus}, ${plus}]`);
    if (!(least <= most)) throw new RangeError(`stepSizes must be in order, got [${least}, ${most}]`);
  }
}
