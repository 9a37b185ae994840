/**
 * NAdam.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";
import { ElementwiseOptimizer, type ElementwiseOptions } from "./elementwise.ts";
import { powersOf, powOf } from "./math.ts";
import { betas, boolean, ELEMENTWISE_SCHEMA, nonNegative, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import type { Update } from "./plan.ts";

/** The options of {@linkcode NAdam}. */
export interface NAdamOptions extends ElementwiseOptions {
  /** The learning rate, >= 0; default 2e-3. */
  lr?: number;
  /** The decay rates per step of the averages of the gradient and of its square, >= 0 and < 1; default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Added to the denominator, >= 0; default 1e-8. */
  eps?: number;
  /** Weight decay, >= 0; default 0. Added to the gradient, unless `decoupledWeightDecay`. */
  weightDecay?: number;
  /** How fast the momentum warms up, >= 0; default 4e-3. */
  momentumDecay?: number;
  /** Shrinks the parameter by lr * weightDecay instead; default false. */
  decoupledWeightDecay?: boolean;
}

type Group = ParamGroup<NAdamOptions>;

const SCHEMA: Schema<NAdamOptions> = {
  lr: nonNegative(2e-3),
  betas: betas([0.9, 0.999]),
  eps: nonNegative(1e-8),
  weightDecay: nonNegative(0),
  momentumDecay: nonNegative(4e-3),
  decoupledWeightDecay: boolean(false),
  ...ELEMENTWISE_SCHEMA,
};

const L2 = 1;

/** csrc/rules/nadam.h in TypeScript. */
export const NADAM_RULE: Rule = {
  name: "nadam",
  buffers: ["param:rw", "grad:r", "expAvg:rw", "expAvgSq:rw"],
  hypers: [
    "gradSign",
    "weightDecay",
    "decay",
    "oneMinusBeta1",
    "beta1",
    "beta2",
    "oneMinusBeta2",
    "gradStep",
    "momentumStep",
    "eps",
  ],
  flags: ["l2"],
  body(round, flags, h, buffers, n) {
    const [gradSign, weightDecay, decay, oneMinusBeta1, beta1, beta2, oneMinusBeta2, gradStep, momentumStep, eps] =
      h as [number, number, number, number, number, number, number, number, number, number];
    const [param, grad, expAvg, expAvgSq] = buffers as [Float64Array, Float64Array, Float64Array, Float64Array];
    const l2 = (flags & L2) !== 0;
    for (let i = 0; i < n; i++) {
      let p = param[i]!, g = round(gradSign * grad[i]!);
      if (l2) g = round(g + round(weightDecay * p));
      p = round(decay * p);
      const m0 = expAvg[i]!, d = round(g - m0);
      const m = oneMinusBeta1 < 0.5 ? round(m0 + round(oneMinusBeta1 * d)) : round(g - round(beta1 * d));
      const v = round(round(beta2 * expAvgSq[i]!) + round(round(oneMinusBeta2 * g) * g));
      expAvg[i] = m;
      expAvgSq[i] = v;
      const step = round(round(gradStep * g) + round(momentumStep * m));
      param[i] = round(p - round(step / round(round(Math.sqrt(v)) + eps)));
    }
  },
};

const TENSORS = ["expAvg", "expAvgSq"];

const power = new Float64Array(2);
/** The momentum of a step and of the one after it, as they were last asked for; then beta1, the decay and the step that they belong to. */
const momenta = new Float64Array(5).fill(NaN);

/** The momentum of step t and of the one after it, in an array that the next call overwrites. A step asks twice, and the next one goes on. */
function momentaOf(group: Group, t: number): Float64Array {
  const { momentumDecay } = group, beta1 = group.betas[0];
  const known = momenta[2] === beta1 && momenta[3] === momentumDecay ? momenta[4]! : NaN;
  if (known === t) return momenta;
  if (known === t - 1) momenta[0] = momenta[1]!;
  else writeMomentum(beta1, momentumDecay, t, 0);
  writeMomentum(beta1, momentumDecay, t + 1, 1);
  momenta[2] = beta1;
  momenta[3] = momentumDecay;
  momenta[4] = t;
  return momenta;
}

function writeMomentum(beta1: number, decay: number, t: number, at: number): void {
  power[0] = 0.96;
  power[1] = t * decay;
  powOf(power);
  momenta[at] = beta1 * (1 - 0.5 * power[0]!);
}

const UPDATE: Update<Group> = {
  name: "NAdam",
  rule: NADAM_RULE,
  scalars: ["step", "muProduct"],
  freshFlags: 0,
  tensors: () => TENSORS,
  flags: (group) => group.weightDecay !== 0 && !group.decoupledWeightDecay ? L2 : 0,
  start: () => ({ step: 0, muProduct: 1 }),
  hypers(group, state, out, at) {
    const { lr, weightDecay } = group, { 0: beta1, 1: beta2 } = group.betas, t = state["step"]! + 1;
    const found = momentaOf(group, t), mu = found[0]!, next = found[1]!, product = state["muProduct"]! * mu;
    const root = Math.sqrt(1 - powersOf(group.betas, t)[1]!);
    out[at] = group.maximize ? -1 : 1;
    out[at + 1] = weightDecay;
    out[at + 2] = group.decoupledWeightDecay ? 1 - lr * weightDecay : 1;
    out[at + 3] = 1 - beta1;
    out[at + 4] = beta1;
    out[at + 5] = beta2;
    out[at + 6] = 1 - beta2;
    out[at + 7] = lr * (1 - mu) / (1 - product) * root;
    out[at + 8] = lr * next / (1 - product * next) * root;
    out[at + 9] = group.eps * root;
  },
  next(group, state, out) {
    const t = out["step"] = state["step"]! + 1;
    out["muProduct"] = state["muProduct"]! * momentaOf(group, t)[0]!;
  },
};

/**
 * NAdam: Adam with Nesterov's momentum, which warms up.
 *
 * ```text
 * g = grad (negated with maximize; + weightDecay p, unless decoupled: p -= lr weightDecay p first)
 * mu_t = beta1 (1 - 0.96^(t momentumDecay) / 2)        P_t = mu_1 mu_2 … mu_t
 * m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g²
 * p -= lr ((1 - mu_t) / (1 - P_t) g + mu_(t+1) / (1 - P_(t+1)) m) / (sqrt(v / (1 - beta2^t)) + eps)
 * ```
 *
 * State: `step`, `muProduct` (numbers), `expAvg`, `expAvgSq` (each as long as the parameter, in its dtype).
 * bfloat16 and float16 are computed in float32 and rounded once, when they are stored.
 *
 * Paper: Dozat 2016, "Incorporating Nesterov Momentum into Adam". torch source: `torch/optim/nadam.py`. Differences: `muProduct` is a float64
 * number (float32 in torch, and cast to the parameter's dtype when it is loaded); integers are accepted as betas.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { NAdam, Parameter } from "@flatstep/optim";
 *
 * const x = new Parameter([1, -2]);
 * const optimizer = new NAdam([x], { lr: 0.1 });
 * for (let i = 0; i < 200; i++) {
 *   x.grad = Float32Array.from(x.data, (v) => 2 * v); // of x²
 *   optimizer.step();
 * }
 * assert(x.data.every((v) => Math.abs(v) < 1e-2));
 * ```
 */
export class NAdam extends ElementwiseOptimizer<NAdamOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode NAdamOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<NAdamOptions>, options?: NAdamOptions) {
    super(params, options, "NAdam", { schema: SCHEMA, update: UPDATE });
  }
}
