/**
 * Stochastic gradient descent.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";
import { ElementwiseOptimizer, type ElementwiseOptions } from "./elementwise.ts";
import { anyNumber, boolean, ELEMENTWISE_SCHEMA, nonNegative, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import type { Update } from "./plan.ts";
import { refuseWeightDecay } from "./sparse_plan.ts";

/** The options of {@linkcode SGD}. */
export interface SGDOptions extends ElementwiseOptions {
  /** The learning rate, >= 0; default 1e-3. */
  lr?: number;
  /** How much of the last step's direction is kept, >= 0; default 0: no momentum. */
  momentum?: number;
  /** How much of the gradient is left out of the momentum, any number; default 0. */
  dampening?: number;
  /** Weight decay, >= 0; default 0. Added to the gradient. */
  weightDecay?: number;
  /** Looks ahead along the momentum; default false. Needs a momentum and no dampening. */
  nesterov?: boolean;
}

type Group = ParamGroup<SGDOptions>;

const SCHEMA: Schema<SGDOptions> = {
  lr: nonNegative(1e-3),
  momentum: nonNegative(0),
  dampening: anyNumber(0),
  weightDecay: nonNegative(0),
  nesterov: boolean(false),
  ...ELEMENTWISE_SCHEMA,
};

const L2 = 1, MOMENTUM = 2, NESTEROV = 4, FIRST = 8;

/** csrc/rules/sgd.h in TypeScript. */
export const SGD_RULE: Rule = {
  name: "sgd",
  buffers: ["param:rw", "grad:r", "momentumBuffer:rw"],
  hypers: ["gradSign", "weightDecay", "momentum", "oneMinusDampening", "lr"],
  flags: ["l2", "momentum", "nesterov", "first"],
  body(round, flags, h, buffers, n) {
    const [gradSign, weightDecay, momentum, oneMinusDampening, lr] = h as [number, number, number, number, number];
    const [param, grad, momentumBuffer] = buffers as [Float64Array, Float64Array, Float64Array];
    const l2 = (flags & L2) !== 0, withMomentum = (flags & MOMENTUM) !== 0;
    const nesterov = (flags & NESTEROV) !== 0, first = (flags & FIRST) !== 0;
    for (let i = 0; i < n; i++) {
      const p = param[i]!;
      let g = round(gradSign * grad[i]!);
      if (l2) g = round(g + round(weightDecay * p));
      if (withMomentum) {
        const b = first ? g : round(round(momentum * momentumBuffer[i]!) + round(oneMinusDampening * g));
        momentumBuffer[i] = b;
        g = nesterov ? round(g + round(momentum * b)) : b;
      }
      param[i] = round(p - round(lr * g));
    }
  },
};

const NONE: readonly string[] = [], BUFFER: readonly string[] = ["momentumBuffer"];

const UPDATE: Update<Group> = {
  name: "SGD",
  rule: SGD_RULE,
  scalars: [],
  freshFlags: FIRST,
  tensors: (group) => group.momentum === 0 ? NONE : BUFFER,
  flags: (group) =>
    (group.weightDecay === 0 ? 0 : L2) | (group.momentum === 0 ? 0 : MOMENTUM | (group.nesterov ? NESTEROV : 0)),
  start: () => ({}),
  hypers(group, _state, out, at) {
    out[at] = group.maximize ? -1 : 1;
    out[at + 1] = group.weightDecay;
    out[at + 2] = group.momentum;
    out[at + 3] = 1 - group.dampening;
    out[at + 4] = group.lr;
  },
  next() {},
  sparse: { dense: true, sparseState: true, check: refuseWeightDecay },
};

/**
 * Stochastic gradient descent, with momentum, dampening, weight decay and Nesterov's look ahead.
 *
 * ```text
 * g = grad (negated with maximize) + weightDecay p
 * b = momentum b + (1 - dampening) g       (b = g at the first step)
 * p -= lr (g without momentum; b with it; g + momentum b with nesterov)
 * ```
 *
 * State: `momentumBuffer`, only with momentum (as long as the parameter, in its dtype). The first gradient enters it
 * undampened, whenever momentum begins. bfloat16 and float16 are computed in float32 and rounded once, when stored.
 *
 * A sparse gradient updates the rows that it names (without `weightDecay`, which would change every row). With momentum the
 * buffer is sparse then: a SparseTensor that has the rows named so far, all of which move at each step, so that a step costs
 * as much as they are many. A dense buffer stays dense, and so does the step.
 *
 * Paper: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning". torch source:
 * `torch/optim/sgd.py`. Differences: a NaN lr is refused; a parameter whose first gradient comes late is no error; a sparse
 * momentum buffer has each row once (torch's grows by every gradient), and nesterov goes with a sparse gradient on a dense one.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Parameter, SGD } from "@flatstep/optim";
 *
 * const x = new Parameter([4]);
 * const optimizer = new SGD([x], { lr: 0.1, momentum: 0.5 });
 * const loss = optimizer.step(() => {
 *   x.grad = Float32Array.of(2 * x.data[0]!);
 *   return x.data[0]! ** 2;
 * });
 * assert(loss === 16 && Math.abs(x.data[0]! - 3.2) < 1e-6);
 * ```
 */
export class SGD extends ElementwiseOptimizer<SGDOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode SGDOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, or nesterov without momentum or with dampening
   */
  constructor(params: ParamsInput<SGDOptions>, options?: SGDOptions) {
    super(params, options, "SGD", { schema: SCHEMA, update: UPDATE });
  }

  /** Throws unless nesterov has a momentum and no dampening. */
  protected override validate(options: Readonly<Required<SGDOptions>>): void {
    super.validate(options);
    const { nesterov, momentum, dampening } = options;
    if (nesterov && (momentum <= 0 || dampening !== 0)) {
      throw new RangeError(
        `nesterov must be false unless momentum > 0 and dampening is 0, got momentum ${momentum} and dampening ${dampening}`,
      );
    }
  }
}
