/**
 * RMSprop.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";
import { ElementwiseOptimizer, type ElementwiseOptions } from "./elementwise.ts";
import { boolean, ELEMENTWISE_SCHEMA, nonNegative, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import type { Update } from "./plan.ts";
import { countStep } from "./update.ts";

/** The options of {@linkcode RMSprop}. */
export interface RMSpropOptions extends ElementwiseOptions {
  /** The learning rate, >= 0; default 1e-2. */
  lr?: number;
  /** The decay rate per step of the average square, >= 0; default 0.99. */
  alpha?: number;
  /** Added to the denominator, >= 0; default 1e-8. */
  eps?: number;
  /** Weight decay, >= 0; default 0. Added to the gradient. */
  weightDecay?: number;
  /** How much of the last step's direction is kept, >= 0; default 0: no momentum. */
  momentum?: number;
  /** Divides by the root of the variance in place of the average square; default false. */
  centered?: boolean;
}

type Group = ParamGroup<RMSpropOptions>;

const SCHEMA: Schema<RMSpropOptions> = {
  lr: nonNegative(1e-2),
  alpha: nonNegative(0.99),
  eps: nonNegative(1e-8),
  weightDecay: nonNegative(0),
  momentum: nonNegative(0),
  centered: boolean(false),
  ...ELEMENTWISE_SCHEMA,
};

const L2 = 1, CENTERED = 2, MOMENTUM = 4;

/** csrc/rules/rmsprop.h in TypeScript. */
export const RMSPROP_RULE: Rule = {
  name: "rmsprop",
  buffers: ["param:rw", "grad:r", "squareAvg:rw", "gradAvg:rw", "momentumBuffer:rw"],
  hypers: ["gradSign", "weightDecay", "alpha", "oneMinusAlpha", "eps", "momentum", "lr"],
  flags: ["l2", "centered", "momentum"],
  body(round, flags, h, buffers, n) {
    const [gradSign, weightDecay, alpha, oneMinusAlpha, eps, momentum, lr] = h as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const [param, grad, squareAvg, gradAvg, momentumBuffer] = buffers as [
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    const l2 = (flags & L2) !== 0, centered = (flags & CENTERED) !== 0, withMomentum = (flags & MOMENTUM) !== 0;
    for (let i = 0; i < n; i++) {
      const p = param[i]!;
      let g = round(gradSign * grad[i]!);
      if (l2) g = round(g + round(weightDecay * p));
      let v = round(round(alpha * squareAvg[i]!) + round(round(oneMinusAlpha * g) * g));
      squareAvg[i] = v;
      if (centered) {
        const a0 = gradAvg[i]!, d = round(g - a0);
        const a = oneMinusAlpha < 0.5 ? round(a0 + round(oneMinusAlpha * d)) : round(g - round(alpha * d));
        gradAvg[i] = a;
        v = round(v - round(a * a));
        if (v < 0) v = 0;
      }
      const denominator = round(round(Math.sqrt(v)) + eps);
      if (withMomentum) {
        const b = round(round(momentum * momentumBuffer[i]!) + round(g / denominator));
        momentumBuffer[i] = b;
        param[i] = round(p - round(lr * b));
      } else {
        param[i] = round(p - round(round(lr * g) / denominator));
      }
    }
  },
};

const PLAIN = ["squareAvg"], WITH_MOMENTUM = ["squareAvg", "momentumBuffer"];
const WITH_CENTER = ["squareAvg", "gradAvg"], WITH_BOTH = ["squareAvg", "gradAvg", "momentumBuffer"];

const UPDATE: Update<Group> = {
  name: "RMSprop",
  rule: RMSPROP_RULE,
  scalars: ["step"],
  freshFlags: 0,
  tensors: (group) =>
    group.centered ? (group.momentum > 0 ? WITH_BOTH : WITH_CENTER) : group.momentum > 0 ? WITH_MOMENTUM : PLAIN,
  flags: (group) =>
    (group.weightDecay === 0 ? 0 : L2) | (group.centered ? CENTERED : 0) | (group.momentum > 0 ? MOMENTUM : 0),
  start: () => ({ step: 0 }),
  hypers(group, _state, out, at) {
    out[at] = group.maximize ? -1 : 1;
    out[at + 1] = group.weightDecay;
    out[at + 2] = group.alpha;
    out[at + 3] = 1 - group.alpha;
    out[at + 4] = group.eps;
    out[at + 5] = group.momentum;
    out[at + 6] = group.lr;
  },
  next: countStep,
};

/**
 * RMSprop: steps by the gradient, divided by the root of the average of its square, or of its variance.
 *
 * ```text
 * g = grad (negated with maximize) + weightDecay p
 * v = alpha v + (1 - alpha) g²       a = alpha a + (1 - alpha) g with centered
 * d = g / (sqrt(v) + eps)            g / (sqrt(max(v - a², 0)) + eps) with centered
 * p -= lr d                          b = momentum b + d, p -= lr b with momentum
 * ```
 *
 * State: `step` (number), `squareAvg`, with momentum `momentumBuffer` (from zero, unlike SGD's), with centered `gradAvg` (each
 * as long as the parameter, in its dtype).
 * bfloat16 and float16 are computed in float32 and rounded once, when they are stored.
 *
 * Paper: Hinton 2012, lecture 6e of "Neural Networks for Machine Learning"; centered: Graves 2013 (arXiv:1308.0850). torch source: `torch/optim/rmsprop.py`.
 * Differences: with centered the variance is clamped at 0 (torch's becomes negative by rounding, and the parameter NaN);
 * momentum and centered may be switched on later (torch: KeyError).
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { RMSprop, Parameter } from "@flatstep/optim";
 *
 * const x = new Parameter([1, -2]);
 * const optimizer = new RMSprop([x], { lr: 0.01 });
 * for (let i = 0; i < 400; i++) {
 *   x.grad = Float32Array.from(x.data, (v) => 2 * v); // of x²
 *   optimizer.step();
 * }
 * assert(x.data.every((v) => Math.abs(v) < 0.1));
 * ```
 */
export class RMSprop extends ElementwiseOptimizer<RMSpropOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode RMSpropOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<RMSpropOptions>, options?: RMSpropOptions) {
    super(params, options, "RMSprop", { schema: SCHEMA, update: UPDATE });
  }
}
