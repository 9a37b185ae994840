/**
 * Adam.
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

/** The options of {@linkcode Adam}. */
export interface AdamOptions extends ElementwiseOptions {
  /** The learning rate, >= 0; default 1e-3. */
  lr?: number;
  /** The decay rates per step of the averages of the gradient and of its square, >= 0 and < 1; default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Added to the denominator, >= 0; default 1e-8. */
  eps?: number;
  /** Weight decay, >= 0; default 0. Added to the gradient, unless `decoupledWeightDecay`. */
  weightDecay?: number;
  /** Divides by the largest average of the squared gradient so far (Reddi et al. 2018); default false. */
  amsgrad?: boolean;
  /** Shrinks the parameter by lr * weightDecay instead, as AdamW does; default false. */
  decoupledWeightDecay?: boolean;
}

type Group = ParamGroup<AdamOptions>;

/** The options of Adam. */
export const ADAM_SCHEMA: Schema<AdamOptions> = {
  lr: nonNegative(1e-3),
  betas: betas([0.9, 0.999]),
  eps: nonNegative(1e-8),
  weightDecay: nonNegative(0),
  amsgrad: boolean(false),
  decoupledWeightDecay: boolean(false),
  ...ELEMENTWISE_SCHEMA,
};

const L2 = 1, AMSGRAD = 2;

/** csrc/rules/adam.h in TypeScript. */
export const ADAM_RULE: Rule = {
  name: "adam",
  buffers: ["param:rw", "grad:r", "expAvg:rw", "expAvgSq:rw", "maxExpAvgSq:rw"],
  hypers: ["gradSign", "weightDecay", "decay", "oneMinusBeta1", "beta1", "beta2", "oneMinusBeta2", "stepSize", "eps"],
  flags: ["l2", "amsgrad"],
  body(round, flags, h, buffers, n) {
    const [gradSign, weightDecay, decay, oneMinusBeta1, beta1, beta2, oneMinusBeta2, stepSize, eps] = h as Nine;
    const [param, grad, expAvg, expAvgSq, maxExpAvgSq] = buffers as Five;
    const l2 = (flags & L2) !== 0, amsgrad = (flags & AMSGRAD) !== 0;
    for (let i = 0; i < n; i++) {
      let p = param[i]!, g = round(gradSign * grad[i]!);
      if (l2) g = round(g + round(weightDecay * p));
      p = round(decay * p);
      const m0 = expAvg[i]!, d = round(g - m0);
      const m = oneMinusBeta1 < 0.5 ? round(m0 + round(oneMinusBeta1 * d)) : round(g - round(beta1 * d));
      let v = round(round(beta2 * expAvgSq[i]!) + round(round(oneMinusBeta2 * g) * g));
      expAvg[i] = m;
      expAvgSq[i] = v;
      if (amsgrad) {
        const most = maxExpAvgSq[i]!;
        v = most >= v || most !== most ? most : v;
        maxExpAvgSq[i] = v;
      }
      param[i] = round(p - round(round(stepSize * m) / round(round(Math.sqrt(v)) + eps)));
    }
  },
};

type Five = [Float64Array, Float64Array, Float64Array, Float64Array, Float64Array];
type Nine = [number, number, number, number, number, number, number, number, number];

const TENSORS = ["expAvg", "expAvgSq"], TENSORS_AMSGRAD = ["expAvg", "expAvgSq", "maxExpAvgSq"];

/** How a group of Adam's becomes the rule's inputs. */
export const ADAM_UPDATE: Update<Group> = {
  name: "Adam",
  rule: ADAM_RULE,
  scalars: ["step"],
  freshFlags: 0,
  tensors: (group) => group.amsgrad ? TENSORS_AMSGRAD : TENSORS,
  flags: (group) => (group.weightDecay !== 0 && !group.decoupledWeightDecay ? L2 : 0) | (group.amsgrad ? AMSGRAD : 0),
  start: () => ({ step: 0 }),
  hypers(group, state, out, at) {
    const { lr, weightDecay, eps } = group, { 0: beta1, 1: beta2 } = group.betas, t = state["step"]! + 1;
    const powers = powersOf(group.betas, t), root = Math.sqrt(1 - powers[1]!);
    out[at] = group.maximize ? -1 : 1;
    out[at + 1] = weightDecay;
    out[at + 2] = group.decoupledWeightDecay ? 1 - lr * weightDecay : 1;
    out[at + 3] = 1 - beta1;
    out[at + 4] = beta1;
    out[at + 5] = beta2;
    out[at + 6] = 1 - beta2;
    out[at + 7] = lr * root / (1 - powers[0]!);
    out[at + 8] = eps * root;
  },
  next: countStep,
};

/**
 * Adam: steps by the average of the gradient, divided by the root of the average of its square.
 *
 * ```text
 * g = grad (negated with maximize; + weightDecay p, unless decoupled: p -= lr weightDecay p first)
 * m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g²        vmax = max(vmax, v) with amsgrad
 * p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
 * ```
 *
 * State: `step` (number), `expAvg`, `expAvgSq` and, with amsgrad, `maxExpAvgSq` (each as long as the parameter, in its
 * dtype). bfloat16 and float16 are computed in float32 and rounded once, when they are stored.
 *
 * Paper: Kingma & Ba 2014, "Adam: A Method for Stochastic Optimization" (arXiv:1412.6980); amsgrad: Reddi et al. 2018,
 * "On the Convergence of Adam and Beyond". torch source: `torch/optim/adam.py`. Differences: integers are accepted as
 * betas; amsgrad may be switched on later (torch: KeyError), its maximum then starts at that step.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Adam, Parameter } from "@flatstep/optim";
 *
 * const x = new Parameter([1, -2]);
 * const optimizer = new Adam([x], { lr: 0.1 });
 * for (let i = 0; i < 200; i++) {
 *   x.grad = Float32Array.from(x.data, (v) => 2 * v); // of x²
 *   optimizer.step();
 * }
 * assert(x.data.every((v) => Math.abs(v) < 1e-2));
 * ```
 */
export class Adam extends ElementwiseOptimizer<AdamOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode AdamOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<AdamOptions>, options?: AdamOptions) {
    super(params, options, "Adam", { schema: ADAM_SCHEMA, update: ADAM_UPDATE });
  }
}
