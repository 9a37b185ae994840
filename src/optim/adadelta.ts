/**
 * Adadelta.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";
import { ElementwiseOptimizer, type ElementwiseOptions } from "./elementwise.ts";
import { ELEMENTWISE_SCHEMA, fraction, nonNegative, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import type { Update } from "./plan.ts";
import { countStep } from "./update.ts";

/** The options of {@linkcode Adadelta}. */
export interface AdadeltaOptions extends ElementwiseOptions {
  /** The learning rate, >= 0; default 1. */
  lr?: number;
  /** The decay rate per step of the averages of squares, >= 0 and <= 1; default 0.9. */
  rho?: number;
  /** Added to both averages, >= 0; default 1e-6. */
  eps?: number;
  /** Weight decay, >= 0; default 0. Added to the gradient. */
  weightDecay?: number;
}

type Group = ParamGroup<AdadeltaOptions>;

const SCHEMA: Schema<AdadeltaOptions> = {
  lr: nonNegative(1),
  rho: fraction(0.9),
  eps: nonNegative(1e-6),
  weightDecay: nonNegative(0),
  ...ELEMENTWISE_SCHEMA,
};

const L2 = 1;

/** csrc/rules/adadelta.h in TypeScript. */
export const ADADELTA_RULE: Rule = {
  name: "adadelta",
  buffers: ["param:rw", "grad:r", "squareAvg:rw", "accDelta:rw"],
  hypers: ["gradSign", "weightDecay", "rho", "oneMinusRho", "eps", "lr"],
  flags: ["l2"],
  body(round, flags, h, buffers, n) {
    const [gradSign, weightDecay, rho, oneMinusRho, eps, lr] = h as [number, number, number, number, number, number];
    const [param, grad, squareAvg, accDelta] = buffers as [Float64Array, Float64Array, Float64Array, Float64Array];
    const l2 = (flags & L2) !== 0;
    for (let i = 0; i < n; i++) {
      const p = param[i]!;
      let g = round(gradSign * grad[i]!);
      if (l2) g = round(g + round(weightDecay * p));
      const u = accDelta[i]!;
      const v = round(round(rho * squareAvg[i]!) + round(round(oneMinusRho * g) * g));
      const d = round(round(Math.sqrt(round(round(u + eps) / round(v + eps)))) * g);
      squareAvg[i] = v;
      accDelta[i] = round(round(rho * u) + round(round(oneMinusRho * d) * d));
      param[i] = round(p - round(lr * d));
    }
  },
};

const TENSORS = ["squareAvg", "accDelta"];

const UPDATE: Update<Group> = {
  name: "Adadelta",
  rule: ADADELTA_RULE,
  scalars: ["step"],
  freshFlags: 0,
  tensors: () => TENSORS,
  flags: (group) => group.weightDecay === 0 ? 0 : L2,
  start: () => ({ step: 0 }),
  hypers(group, _state, out, at) {
    out[at] = group.maximize ? -1 : 1;
    out[at + 1] = group.weightDecay;
    out[at + 2] = group.rho;
    out[at + 3] = 1 - group.rho;
    out[at + 4] = group.eps;
    out[at + 5] = group.lr;
  },
  next: countStep,
};

/**
 * Adadelta: steps in the unit of the parameter, by the ratio of two averages: of past steps, and of past gradients.
 *
 * ```text
 * g = grad (negated with maximize) + weightDecay p
 * v = rho v + (1 - rho) g²
 * d = sqrt(u + eps) / sqrt(v + eps) g
 * u = rho u + (1 - rho) d²
 * p -= lr d
 * ```
 *
 * State: `step` (number), `squareAvg` (v), `accDelta` (u) (each as long as the parameter, in its dtype).
 * bfloat16 and float16 are computed in float32 and rounded once, when they are stored.
 *
 * Paper: Zeiler 2012, "ADADELTA: An Adaptive Learning Rate Method" (arXiv:1212.5701). torch source: `torch/optim/adadelta.py`. Differences: the
 * root is taken of the quotient, which is one rounding nearer to the exact result.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Adadelta, Parameter } from "@flatstep/optim";
 *
 * const x = new Parameter([1, -2]);
 * const optimizer = new Adadelta([x], { lr: 10 });
 * for (let i = 0; i < 300; i++) {
 *   x.grad = Float32Array.from(x.data, (v) => 2 * v); // of x²
 *   optimizer.step();
 * }
 * assert(x.data.every((v) => Math.abs(v) < 0.1));
 * ```
 */
export class Adadelta extends ElementwiseOptimizer<AdadeltaOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode AdadeltaOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<AdadeltaOptions>, options?: AdadeltaOptions) {
    super(params, options, "Adadelta", { schema: SCHEMA, update: UPDATE });
  }
}
