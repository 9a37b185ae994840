/**
 * Adamax.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";
import { ElementwiseOptimizer, type ElementwiseOptions } from "./elementwise.ts";
import { powersOf } from "./math.ts";
import { betas, ELEMENTWISE_SCHEMA, nonNegative, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import type { Update } from "./plan.ts";
import { countStep } from "./update.ts";

/** The options of {@linkcode Adamax}. */
export interface AdamaxOptions extends ElementwiseOptions {
  /** The learning rate, >= 0; default 2e-3. */
  lr?: number;
  /** The decay rates per step of the averages of the gradient and of its largest magnitude, >= 0 and < 1; default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Added to the gradient's magnitude, >= 0; default 1e-8. */
  eps?: number;
  /** Weight decay, >= 0; default 0. Added to the gradient. */
  weightDecay?: number;
}

type Group = ParamGroup<AdamaxOptions>;

const SCHEMA: Schema<AdamaxOptions> = {
  lr: nonNegative(2e-3),
  betas: betas([0.9, 0.999]),
  eps: nonNegative(1e-8),
  weightDecay: nonNegative(0),
  ...ELEMENTWISE_SCHEMA,
};

const L2 = 1;

/** csrc/rules/adamax.h in TypeScript. */
export const ADAMAX_RULE: Rule = {
  name: "adamax",
  buffers: ["param:rw", "grad:r", "expAvg:rw", "expInf:rw"],
  hypers: ["gradSign", "weightDecay", "oneMinusBeta1", "beta1", "beta2", "eps", "stepSize"],
  flags: ["l2"],
  body(round, flags, h, buffers, n) {
    const [gradSign, weightDecay, oneMinusBeta1, beta1, beta2, eps, stepSize] = h as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const [param, grad, expAvg, expInf] = buffers as [Float64Array, Float64Array, Float64Array, Float64Array];
    const l2 = (flags & L2) !== 0;
    for (let i = 0; i < n; i++) {
      const p = param[i]!;
      let g = round(gradSign * grad[i]!);
      if (l2) g = round(g + round(weightDecay * p));
      const m0 = expAvg[i]!, d = round(g - m0);
      const m = oneMinusBeta1 < 0.5 ? round(m0 + round(oneMinusBeta1 * d)) : round(g - round(beta1 * d));
      const decayed = round(beta2 * expInf[i]!), now = round(Math.abs(g) + eps);
      const u = decayed >= now || decayed !== decayed ? decayed : now;
      expAvg[i] = m;
      expInf[i] = u;
      param[i] = round(p - round(round(stepSize * m) / u));
    }
  },
};

const TENSORS = ["expAvg", "expInf"];

const UPDATE: Update<Group> = {
  name: "Adamax",
  rule: ADAMAX_RULE,
  scalars: ["step"],
  freshFlags: 0,
  tensors: () => TENSORS,
  flags: (group) => group.weightDecay === 0 ? 0 : L2,
  start: () => ({ step: 0 }),
  hypers(group, state, out, at) {
    const { 0: beta1, 1: beta2 } = group.betas;
    out[at] = group.maximize ? -1 : 1;
    out[at + 1] = group.weightDecay;
    out[at + 2] = 1 - beta1;
    out[at + 3] = beta1;
    out[at + 4] = beta2;
    out[at + 5] = group.eps;
    out[at + 6] = group.lr / (1 - powersOf(group.betas, state["step"]! + 1)[0]!);
  },
  next: countStep,
};

/**
 * Adamax: Adam with the largest recent gradient in place of the root of the average square.
 *
 * ```text
 * g = grad (negated with maximize) + weightDecay p
 * m = beta1 m + (1 - beta1) g        u = max(beta2 u, |g| + eps)
 * p -= lr / (1 - beta1^t) m / u
 * ```
 *
 * State: `step` (number), `expAvg`, `expInf` (each as long as the parameter, in its dtype).
 * bfloat16 and float16 are computed in float32 and rounded once, when they are stored.
 *
 * Paper: Kingma & Ba 2014, "Adam: A Method for Stochastic Optimization" (arXiv:1412.6980), section 7. torch source: `torch/optim/adamax.py`. Differences: integers are accepted as betas.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Adamax, Parameter } from "@flatstep/optim";
 *
 * const x = new Parameter([1, -2]);
 * const optimizer = new Adamax([x], { lr: 0.1 });
 * for (let i = 0; i < 200; i++) {
 *   x.grad = Float32Array.from(x.data, (v) => 2 * v); // of x²
 *   optimizer.step();
 * }
 * assert(x.data.every((v) => Math.abs(v) < 1e-2));
 * ```
 */
export class Adamax extends ElementwiseOptimizer<AdamaxOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode AdamaxOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<AdamaxOptions>, options?: AdamaxOptions) {
    super(params, options, "Adamax", { schema: SCHEMA, update: UPDATE });
  }
}
