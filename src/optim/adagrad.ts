/**
 * Adagrad.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";
import { ElementwiseOptimizer, type ElementwiseOptions } from "./elementwise.ts";
import { ELEMENTWISE_SCHEMA, nonNegative, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import type { Update } from "./plan.ts";
import { countStep } from "./update.ts";
import { refuseWeightDecay } from "./sparse_plan.ts";

/** The options of {@linkcode Adagrad}. */
export interface AdagradOptions extends ElementwiseOptions {
  /** The learning rate, >= 0; default 1e-2. */
  lr?: number;
  /** How fast the learning rate falls, per step, >= 0; default 0: lr / (1 + (t - 1) lrDecay). */
  lrDecay?: number;
  /** Weight decay, >= 0; default 0. Added to the gradient. */
  weightDecay?: number;
  /** What the sum of squares starts from, >= 0; default 0. Read when a parameter's state is made. */
  initialAccumulatorValue?: number;
  /** Added to the denominator, >= 0; default 1e-10. */
  eps?: number;
}

type Group = ParamGroup<AdagradOptions>;

const SCHEMA: Schema<AdagradOptions> = {
  lr: nonNegative(1e-2),
  lrDecay: nonNegative(0),
  weightDecay: nonNegative(0),
  initialAccumulatorValue: nonNegative(0),
  eps: nonNegative(1e-10),
  ...ELEMENTWISE_SCHEMA,
};

const L2 = 1;

/** csrc/rules/adagrad.h in TypeScript. */
export const ADAGRAD_RULE: Rule = {
  name: "adagrad",
  buffers: ["param:rw", "grad:r", "sum:rw"],
  hypers: ["gradSign", "weightDecay", "stepSize", "eps"],
  flags: ["l2"],
  body(round, flags, h, buffers, n) {
    const [gradSign, weightDecay, stepSize, eps] = h as [number, number, number, number];
    const [param, grad, sum] = buffers as [Float64Array, Float64Array, Float64Array];
    const l2 = (flags & L2) !== 0;
    for (let i = 0; i < n; i++) {
      const p = param[i]!;
      let g = round(gradSign * grad[i]!);
      if (l2) g = round(g + round(weightDecay * p));
      const s = round(sum[i]! + round(g * g));
      sum[i] = s;
      param[i] = round(p - round(round(stepSize * g) / round(round(Math.sqrt(s)) + eps)));
    }
  },
};

const TENSORS = ["sum"];

const UPDATE: Update<Group> = {
  name: "Adagrad",
  rule: ADAGRAD_RULE,
  scalars: ["step"],
  freshFlags: 0,
  tensors: () => TENSORS,
  flags: (group) => group.weightDecay === 0 ? 0 : L2,
  start: () => ({ step: 0 }),
  fill: (group) => group.initialAccumulatorValue,
  hypers(group, state, out, at) {
    out[at] = group.maximize ? -1 : 1;
    out[at + 1] = group.weightDecay;
    out[at + 2] = group.lr / (1 + state["step"]! * group.lrDecay);
    out[at + 3] = group.eps;
  },
  next: countStep,
  sparse: { dense: true, sparseState: false, check: refuseWeightDecay },
};

/**
 * Adagrad: steps that shrink with the sum of all squared gradients so far, for each element by its own.
 *
 * ```text
 * g = grad (negated with maximize) + weightDecay p
 * s = s + g²
 * p -= lr / (1 + (t - 1) lrDecay) g / (sqrt(s) + eps)
 * ```
 *
 * State: `step` (number), `sum` (as long as the parameter, in its dtype). It is made in the constructor, as in torch, and for
 * groups that are added later at their first step.
 * bfloat16 and float16 are computed in float32 and rounded once, when they are stored.
 *
 * A sparse gradient updates the rows that it names, and their sums, and no others (without `weightDecay`, which would change
 * every row); `step` counts all the same.
 *
 * Paper: Duchi, Hazan & Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization". torch source: `torch/optim/adagrad.py`. Differences:
 * a group's own `initialAccumulatorValue` counts (torch uses the constructor's for all groups).
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Adagrad, Parameter } from "@flatstep/optim";
 *
 * const x = new Parameter([1, -2]);
 * const optimizer = new Adagrad([x], { lr: 1 });
 * for (let i = 0; i < 200; i++) {
 *   x.grad = Float32Array.from(x.data, (v) => 2 * v); // of x²
 *   optimizer.step();
 * }
 * assert(x.data.every((v) => Math.abs(v) < 1e-2));
 * ```
 */
export class Adagrad extends ElementwiseOptimizer<AdagradOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode AdagradOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<AdagradOptions>, options?: AdagradOptions) {
    super(params, options, "Adagrad", { schema: SCHEMA, update: UPDATE });
    this.initState();
  }
}
