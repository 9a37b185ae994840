/**
 * AdamW.
 *
 * @module
 */

import { ADAM_SCHEMA, ADAM_UPDATE, type AdamOptions } from "./adam.ts";
import { ElementwiseOptimizer } from "./elementwise.ts";
import { nonNegative, type OptionSpec, type Schema } from "./options.ts";
import type { ParamsInput } from "./param_group.ts";
import { show } from "../errors.ts";

/** The options of {@linkcode AdamW}: Adam's, with `weightDecay` 1e-2 by default. */
export interface AdamWOptions extends AdamOptions {
  /** Weight decay, >= 0; default 1e-2. The parameter shrinks by lr * weightDecay at each step. */
  weightDecay?: number;
  /** Must be true, which it is: it is what AdamW is. */
  decoupledWeightDecay?: boolean;
}

const decoupled: OptionSpec<boolean> = {
  default: true,
  check(value, name) {
    if (value !== true) throw new TypeError(`${name} must be true for AdamW, got ${show(value)}: use Adam`);
  },
};

const SCHEMA: Schema<AdamWOptions> = {
  ...ADAM_SCHEMA,
  weightDecay: nonNegative(1e-2),
  decoupledWeightDecay: decoupled,
};

const UPDATE: typeof ADAM_UPDATE = { ...ADAM_UPDATE, name: "AdamW" };

/**
 * AdamW: Adam whose weight decay shrinks the parameter itself and does not pass through the averages.
 *
 * ```text
 * p -= lr weightDecay p              g = grad (negated with maximize)
 * m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g²        vmax = max(vmax, v) with amsgrad
 * p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
 * ```
 *
 * State: `step` (number), `expAvg`, `expAvgSq` and, with amsgrad, `maxExpAvgSq` (each as long as the parameter, in its
 * dtype). bfloat16 and float16 are computed in float32 and rounded once, when they are stored.
 *
 * Paper: Loshchilov & Hutter 2017, "Decoupled Weight Decay Regularization" (arXiv:1711.05101). torch source:
 * `torch/optim/adamw.py`. Differences: as Adam's. A state dict of Adam's may be loaded; decay is decoupled from then on.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { AdamW, Parameter } from "@flatstep/optim";
 *
 * const weight = new Parameter([1, 2], { name: "weight" }), bias = new Parameter([1], { name: "bias" });
 * const optimizer = new AdamW([{ params: [weight] }, { params: [bias], weightDecay: 0 }], { lr: 0.1, weightDecay: 0.5 });
 * weight.grad = new Float32Array(2);
 * bias.grad = new Float32Array(1);
 * optimizer.step(); // gradients are zero: only the decay acts
 * assert(weight.data.join() === "0.949999988079071,1.899999976158142" && bias.data[0] === 1);
 * ```
 */
export class AdamW extends ElementwiseOptimizer<AdamWOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode AdamWOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<AdamWOptions>, options?: AdamWOptions) {
    super(params, options, "AdamW", { schema: SCHEMA, update: UPDATE });
  }

  /** Adam's groups say that decay is not decoupled; here it is. */
  protected override upgradeGroup(group: Record<string, unknown>): void {
    group["decoupledWeightDecay"] = true;
  }
}
