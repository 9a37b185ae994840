/**
 * ASGD.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";
import { ElementwiseOptimizer, type ElementwiseOptions } from "./elementwise.ts";
import { powOf } from "./math.ts";
import { anyNumber, ELEMENTWISE_SCHEMA, nonNegative, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import type { Update } from "./plan.ts";

/** The options of {@linkcode ASGD}. */
export interface ASGDOptions extends ElementwiseOptions {
  /** The learning rate, >= 0; default 1e-2. */
  lr?: number;
  /** How fast the parameter shrinks and the step size falls, any number; default 1e-4. */
  lambd?: number;
  /** The power with which the step size falls, any number; default 0.75. */
  alpha?: number;
  /** The step at which averaging begins; default 1e6. */
  t0?: number;
  /** Weight decay, >= 0; default 0. Added to the gradient. */
  weightDecay?: number;
}

type Group = ParamGroup<ASGDOptions>;

const SCHEMA: Schema<ASGDOptions> = {
  lr: nonNegative(1e-2),
  lambd: anyNumber(1e-4),
  alpha: anyNumber(0.75),
  t0: anyNumber(1e6),
  weightDecay: nonNegative(0),
  ...ELEMENTWISE_SCHEMA,
};

const L2 = 1;

/** csrc/rules/asgd.h in TypeScript. */
export const ASGD_RULE: Rule = {
  name: "asgd",
  buffers: ["param:rw", "grad:r", "ax:rw"],
  hypers: ["gradSign", "weightDecay", "decay", "eta", "mu"],
  flags: ["l2"],
  body(round, flags, h, buffers, n) {
    const [gradSign, weightDecay, decay, eta, mu] = h as [number, number, number, number, number];
    const [param, grad, ax] = buffers as [Float64Array, Float64Array, Float64Array];
    const l2 = (flags & L2) !== 0;
    for (let i = 0; i < n; i++) {
      const p0 = param[i]!, a = ax[i]!;
      let g = round(gradSign * grad[i]!);
      if (l2) g = round(g + round(weightDecay * p0));
      const p = round(round(decay * p0) - round(eta * g));
      param[i] = p;
      ax[i] = mu === 1 ? p : round(a + round(mu * round(p - a)));
    }
  },
};

const TENSORS = ["ax"], power = new Float64Array(2);

const UPDATE: Update<Group> = {
  name: "ASGD",
  rule: ASGD_RULE,
  scalars: ["step", "eta", "mu"],
  freshFlags: 0,
  tensors: () => TENSORS,
  flags: (group) => group.weightDecay === 0 ? 0 : L2,
  start: (group) => ({ step: 0, eta: group.lr, mu: 1 }),
  hypers(group, state, out, at) {
    const eta = state["eta"]!;
    out[at] = group.maximize ? -1 : 1;
    out[at + 1] = group.weightDecay;
    out[at + 2] = 1 - group.lambd * eta;
    out[at + 3] = eta;
    out[at + 4] = state["mu"]!;
  },
  next(group, state, out) {
    const { lr, lambd, alpha, t0 } = group, t = out["step"] = state["step"]! + 1;
    power[0] = 1 + lambd * lr * t;
    power[1] = alpha;
    powOf(power);
    out["eta"] = lr / power[0]!;
    out["mu"] = 1 / Math.max(1, t - t0);
  },
};

/**
 * ASGD: stochastic gradient descent with a falling step size, which keeps the average of its parameters.
 *
 * ```text
 * g = grad (negated with maximize) + weightDecay p
 * p = (1 - lambd eta) p - eta g
 * ax = ax + mu (p - ax)              (p while mu is 1)
 * eta = lr / (1 + lambd lr t)^alpha  mu = 1 / max(1, t - t0)        for the next step
 * ```
 *
 * State: `step`, `eta`, `mu` (numbers), `ax` (the averaged parameters: as long as the parameter, in its dtype; nothing puts
 * them into the parameter for you). **eta is computed at the end of a step**, as in torch: a new lr counts one step later.
 * bfloat16 and float16 are computed in float32 and rounded once, when they are stored.
 *
 * Paper: Polyak & Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging". torch source: `torch/optim/asgd.py`. Differences: `eta` and
 * `mu` are float64 numbers (float32 in torch, and cast to the parameter's dtype when they are loaded).
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { ASGD, Parameter } from "@flatstep/optim";
 *
 * const x = new Parameter([1, -2]);
 * const optimizer = new ASGD([x], { lr: 0.1 });
 * for (let i = 0; i < 100; i++) {
 *   x.grad = Float32Array.from(x.data, (v) => 2 * v); // of x²
 *   optimizer.step();
 * }
 * assert(x.data.every((v) => Math.abs(v) < 1e-2));
 * ```
 */
export class ASGD extends ElementwiseOptimizer<ASGDOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode ASGDOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<ASGDOptions>, options?: ASGDOptions) {
    super(params, options, "ASGD", { schema: SCHEMA, update: UPDATE });
  }
}
