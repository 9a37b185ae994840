/**
 * SparseAdam.
 *
 * @module
 */

import { ADAM_RULE } from "./adam.ts";
import { ElementwiseOptimizer } from "./elementwise.ts";
import { powersOf } from "./math.ts";
import { betas, boolean, positive, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import type { Update } from "./plan.ts";
import { countStep } from "./update.ts";

/** The options of {@linkcode SparseAdam}. */
export interface SparseAdamOptions {
  /** The learning rate, > 0; default 1e-3. */
  lr?: number;
  /** The decay rates per step of the averages of the gradient and of its square, >= 0 and < 1; default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Added to the denominator, > 0; default 1e-8. */
  eps?: number;
  /** Maximizes the objective instead of minimizing it; default false. */
  maximize?: boolean;
}

type Group = ParamGroup<SparseAdamOptions>;

/** The options of SparseAdam. */
export const SPARSE_ADAM_SCHEMA: Schema<SparseAdamOptions> = {
  lr: positive(1e-3),
  betas: betas([0.9, 0.999]),
  eps: positive(1e-8),
  maximize: boolean(false),
};

const TENSORS = ["expAvg", "expAvgSq"];

/** How a group of SparseAdam's becomes the inputs of Adam's rule, of which it lacks the decays and scales eps otherwise. */
export const SPARSE_ADAM_UPDATE: Update<Group> = {
  name: "SparseAdam",
  rule: ADAM_RULE,
  scalars: ["step"],
  freshFlags: 0,
  tensors: () => TENSORS,
  flags: () => 0,
  start: () => ({ step: 0 }),
  hypers(group, state, out, at) {
    const { lr, eps, maximize } = group, { 0: beta1, 1: beta2 } = group.betas, t = state["step"]! + 1;
    const powers = powersOf(group.betas, t);
    out[at] = maximize ? -1 : 1;
    out[at + 1] = 0; // weightDecay
    out[at + 2] = 1; // decay
    out[at + 3] = 1 - beta1;
    out[at + 4] = beta1;
    out[at + 5] = beta2;
    out[at + 6] = 1 - beta2;
    out[at + 7] = lr * Math.sqrt(1 - powers[1]!) / (1 - powers[0]!);
    out[at + 8] = eps;
  },
  next: countStep,
  sparse: { dense: false, sparseState: false },
};

/**
 * SparseAdam: Adam for sparse gradients, which updates only the rows that a gradient names, and their averages.
 *
 * ```text
 * for the rows of grad, duplicates added up:
 * g = grad (negated with maximize)
 * m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g²
 * p -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)
 * ```
 *
 * The averages of other rows stay as they are: what Adam would let decay, and would move the parameter by, is left out. `t`
 * counts steps and not a row's turns, so a row that comes up for the first time late is hardly corrected for the zeros that its
 * averages start from. `eps` is not scaled by the bias correction, as it is in Adam.
 *
 * State: `step` (number; counts every step with a gradient, empty ones too), `expAvg`, `expAvgSq` (each as long as the
 * parameter, in its dtype). bfloat16 and float16 are computed in float32 and rounded once, when they are stored.
 *
 * Paper: Kingma & Ba 2014, "Adam: A Method for Stochastic Optimization" (arXiv:1412.6980). torch source:
 * `torch/optim/sparse_adam.py`. Differences: integers are accepted as betas; dense gradients are refused before any parameter
 * has changed.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Parameter, SparseAdam, SparseTensor } from "@flatstep/optim";
 *
 * const embedding = new Parameter(new Float32Array(1000 * 4).fill(1), { shape: [1000, 4] });
 * const optimizer = new SparseAdam([embedding], { lr: 0.1 });
 * for (let i = 0; i < 100; i++) {
 *   const row = embedding.data.subarray(7 * 4, 8 * 4); // the loss is the sum of its squares
 *   embedding.grad = new SparseTensor([[7]], Float32Array.from(row, (x) => 2 * x), [1000, 4]);
 *   optimizer.step();
 * }
 * assert(embedding.data.subarray(28, 32).every((x) => Math.abs(x) < 0.1));
 * assert(embedding.data[0] === 1);
 * ```
 */
export class SparseAdam extends ElementwiseOptimizer<SparseAdamOptions> {
  /**
   * Makes an optimizer of parameters, whose gradients are to be {@linkcode SparseTensor}s.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode SparseAdamOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<SparseAdamOptions>, options?: SparseAdamOptions) {
    super(params, options, "SparseAdam", { schema: SPARSE_ADAM_SCHEMA, update: SPARSE_ADAM_UPDATE });
  }
}
