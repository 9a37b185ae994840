/**
 * RAdam.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";
import { ElementwiseOptimizer, type ElementwiseOptions } from "./elementwise.ts";
import { powersOf } from "./math.ts";
import { betas, boolean, ELEMENTWISE_SCHEMA, nonNegative, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import type { Update } from "./plan.ts";
import { countStep } from "./update.ts";

/** The options of {@linkcode RAdam}. */
export interface RAdamOptions extends ElementwiseOptions {
  /** The learning rate, >= 0; default 1e-3. */
  lr?: number;
  /** The decay rates per step of the averages of the gradient and of its square, >= 0 and < 1; default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Added to the denominator, >= 0; default 1e-8. */
  eps?: number;
  /** Weight decay, >= 0; default 0. Added to the gradient, unless `decoupledWeightDecay`. */
  weightDecay?: number;
  /** Shrinks the parameter by lr * weightDecay instead; default false. */
  decoupledWeightDecay?: boolean;
}

type Group = ParamGroup<RAdamOptions>;

const SCHEMA: Schema<RAdamOptions> = {
  lr: nonNegative(1e-3),
  betas: betas([0.9, 0.999]),
  eps: nonNegative(1e-8),
  weightDecay: nonNegative(0),
  decoupledWeightDecay: boolean(false),
  ...ELEMENTWISE_SCHEMA,
};

const L2 = 1;

/** csrc/rules/radam.h in TypeScript. */
export const RADAM_RULE: Rule = {
  name: "radam",
  buffers: ["param:rw", "grad:r", "expAvg:rw", "expAvgSq:rw"],
  hypers: [
    "gradSign",
    "weightDecay",
    "decay",
    "oneMinusBeta1",
    "beta1",
    "beta2",
    "oneMinusBeta2",
    "stepSize",
    "eps",
    "adaptive",
  ],
  flags: ["l2"],
  body(round, flags, h, buffers, n) {
    const [gradSign, weightDecay, decay, oneMinusBeta1, beta1, beta2, oneMinusBeta2, stepSize, eps, adaptive] = h as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    const [param, grad, expAvg, expAvgSq] = buffers as [Float64Array, Float64Array, Float64Array, Float64Array];
    const l2 = (flags & L2) !== 0;
    for (let i = 0; i < n; i++) {
      let p = param[i]!, g = round(gradSign * grad[i]!);
      if (l2) g = round(g + round(weightDecay * p));
      p = round(decay * p);
      const m0 = expAvg[i]!, d = round(g - m0);
      const m = oneMinusBeta1 < 0.5 ? round(m0 + round(oneMinusBeta1 * d)) : round(g - round(beta1 * d));
      const v = round(round(beta2 * expAvgSq[i]!) + round(round(oneMinusBeta2 * g) * g));
      const denominator = adaptive > 0.5 ? round(round(Math.sqrt(v)) + eps) : 1;
      expAvg[i] = m;
      expAvgSq[i] = v;
      param[i] = round(p - round(round(stepSize * m) / denominator));
    }
  },
};

const TENSORS = ["expAvg", "expAvgSq"];

const UPDATE: Update<Group> = {
  name: "RAdam",
  rule: RADAM_RULE,
  scalars: ["step"],
  freshFlags: 0,
  tensors: () => TENSORS,
  flags: (group) => group.weightDecay !== 0 && !group.decoupledWeightDecay ? L2 : 0,
  start: () => ({ step: 0 }),
  hypers(group, state, out, at) {
    const { lr, weightDecay } = group, { 0: beta1, 1: beta2 } = group.betas, t = state["step"]! + 1;
    const powers = powersOf(group.betas, t), power = powers[1]!, correction = 1 - power;
    const most = 2 / (1 - beta2) - 1, length = most - 2 * t * power / correction; // rho, at infinity and now
    const adaptive = length > 5;
    const rectifier = Math.sqrt((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length));
    const step = lr / (1 - powers[0]!);
    out[at] = group.maximize ? -1 : 1;
    out[at + 1] = weightDecay;
    out[at + 2] = group.decoupledWeightDecay ? 1 - lr * weightDecay : 1;
    out[at + 3] = 1 - beta1;
    out[at + 4] = beta1;
    out[at + 5] = beta2;
    out[at + 6] = 1 - beta2;
    out[at + 7] = adaptive ? step * Math.sqrt(correction) * rectifier : step;
    out[at + 8] = group.eps;
    out[at + 9] = adaptive ? 1 : 0;
  },
  next: countStep,
};

/**
 * RAdam: Adam that steps by its momentum alone until the average square can be trusted, and is rectified from then on.
 *
 * ```text
 * g = grad (negated with maximize; + weightDecay p, unless decoupled: p -= lr weightDecay p first)
 * m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g²
 * R = 2 / (1 - beta2) - 1            r = R - 2 t beta2^t / (1 - beta2^t)
 * p -= lr / (1 - beta1^t) m                                                             while r <= 5
 * p -= lr / (1 - beta1^t) m sqrt(1 - beta2^t) / (sqrt(v) + eps) sqrt((r-4)(r-2)R / ((R-4)(R-2)r))   from then on
 * ```
 *
 * State: `step` (number), `expAvg`, `expAvgSq` (each as long as the parameter, in its dtype). The first rectified step is the
 * sixth for beta2 >= 0.9; for beta2 <= 2/3 there is none.
 * bfloat16 and float16 are computed in float32 and rounded once, when they are stored.
 *
 * Paper: Liu et al. 2019, "On the Variance of the Adaptive Learning Rate and Beyond" (arXiv:1908.03265). torch source: `torch/optim/radam.py`. Differences:
 * integers are accepted as betas.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { RAdam, Parameter } from "@flatstep/optim";
 *
 * const x = new Parameter([1, -2]);
 * const optimizer = new RAdam([x], { lr: 0.1 });
 * for (let i = 0; i < 300; i++) {
 *   x.grad = Float32Array.from(x.data, (v) => 2 * v); // of x²
 *   optimizer.step();
 * }
 * assert(x.data.every((v) => Math.abs(v) < 1e-2));
 * ```
 */
export class RAdam extends ElementwiseOptimizer<RAdamOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode RAdamOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<RAdamOptions>, options?: RAdamOptions) {
    super(params, options, "RAdam", { schema: SCHEMA, update: UPDATE });
  }
}
