/**
 * Muon.
 *
 * @module
 */

import type { Numbers, TensorRule, TensorShape } from "../../ffi/backend.ts";
import { matmul, sumOfSquares } from "../../ffi/tensors.ts";
import { show } from "../errors.ts";
import { boolean, nonNegative, type OptionSpec, type Schema } from "./options.ts";
import { type ParamGroup, type ParamsInput, placeOf } from "./param_group.ts";
import { type TensorUpdate, TensorwiseOptimizer } from "./tensorwise.ts";

/** The options of {@linkcode Muon}. */
export interface MuonOptions {
  /** The learning rate, >= 0; default 1e-3. */
  lr?: number;
  /** Weight decay, >= 0; default 0.1. The parameter shrinks by lr * weightDecay at each step. */
  weightDecay?: number;
  /** How much of the average of the gradients stays in a step, >= 0; default 0.95. */
  momentum?: number;
  /** Nesterov momentum; default true. */
  nesterov?: boolean;
  /** The coefficients a, b, c of the Newton–Schulz iteration; default [3.4445, -4.775, 2.0315]. */
  nsCoefficients?: readonly [number, number, number];
  /** The least norm that the matrix is divided by, >= 0; default 1e-7. */
  eps?: number;
  /** Newton–Schulz iterations, an integer from 0 to 99; default 5. */
  nsSteps?: number;
  /**
   * What lr is multiplied by: `"original"` (and null, the default): sqrt(max(1, rows / columns)); `"match_rms_adamw"`:
   * 0.2 sqrt(max(rows, columns)), so that AdamW's lr and weightDecay can be kept.
   */
  adjustLrFn?: "original" | "match_rms_adamw" | null;
  /** Maximizes the objective instead of minimizing it; default false. */
  maximize?: boolean;
}

type Group = ParamGroup<MuonOptions>;

const coefficients: OptionSpec<readonly [number, number, number]> = {
  default: [3.4445, -4.775, 2.0315],
  check(value, name) {
    if (!Array.isArray(value) || value.length !== 3) {
      throw new TypeError(`${name} must be three numbers, got ${show(value)}`);
    }
    value.forEach((x: unknown, i) => {
      if (typeof x !== "number") throw new TypeError(`${name}[${i}] must be a number, got ${show(x)}`);
      if (x !== x) throw new RangeError(`${name}[${i}] must be a number, got NaN`);
    });
  },
};

const steps: OptionSpec<number> = {
  default: 5,
  check(value, name) {
    if (typeof value !== "number") throw new TypeError(`${name} must be a number, got ${show(value)}`);
    if (!Number.isInteger(value) || value < 0 || value > 99) {
      throw new RangeError(`${name} must be an integer from 0 to 99, got ${show(value)}`);
    }
  },
};

const adjustment: OptionSpec<string | null> = {
  default: null,
  check(value, name) {
    if (value === null || value === "original" || value === "match_rms_adamw") return;
    const allowed = `${name} must be null, "original" or "match_rms_adamw", got ${show(value)}`;
    throw typeof value === "string" ? new RangeError(allowed) : new TypeError(allowed);
  },
};

/** The options of Muon. */
export const MUON_SCHEMA: Schema<MuonOptions> = {
  lr: nonNegative(1e-3),
  weightDecay: nonNegative(0.1),
  momentum: nonNegative(0.95),
  nesterov: boolean(true),
  nsCoefficients: coefficients,
  eps: nonNegative(1e-7),
  nsSteps: steps,
  adjustLrFn: adjustment,
  maximize: boolean(false),
};

/** The Newton–Schulz iteration of csrc/muon.c; returns x or another array. */
function newtonSchulz(
  start: Numbers,
  { rows, columns }: TensorShape,
  coefficients: readonly [number, number, number],
  count: number,
): Numbers {
  const m = Math.min(rows, columns), tall = rows > columns, [a, b, c] = coefficients;
  const make = (n: number) => start instanceof Float64Array ? new Float64Array(n) : new Float32Array(n);
  const gram = make(m * m), polynomial = make(m * m);
  const symmetric = { m, n: m, symmetric: true };
  let x = start, next: Numbers = make(start.length);
  for (let step = 0; step < count; step++) {
    const k = Math.max(rows, columns);
    matmul({
      ...symmetric,
      ...{ k, a: x, b: x, add: null, out: gram, aTransposed: tall, bTransposed: !tall, alpha: 1, beta: 0 },
    });
    const plain = { aTransposed: false, bTransposed: false };
    matmul({ ...symmetric, ...plain, k: m, a: gram, b: gram, add: gram, out: polynomial, alpha: c, beta: b });
    const [left, right] = tall ? [x, polynomial] : [polynomial, x];
    const shape = { m: rows, n: columns, k: m, symmetric: false };
    matmul({ ...shape, ...plain, a: left, b: right, add: x, out: next, alpha: 1, beta: a });
    [x, next] = [next, x];
  }
  return x;
}

/** csrc/muon.c in TypeScript. */
export const MUON_RULE: TensorRule = {
  name: "muon",
  buffers: ["param:rw", "grad:r", "momentumBuffer:rw"],
  hypers: ["sign", "momentum", "oneMinusMomentum", "nesterov", "a", "b", "c", "steps", "eps", "decay", "step"],
  body(round, shape, h, buffers) {
    const [sign, momentum, oneMinusMomentum, nesterov, a, b, c, count, eps, decay, step] = h as Eleven;
    const [param, grad, buffer] = buffers as readonly Numbers[] & readonly [Numbers, Numbers, Numbers];
    const n = param.length, x = buffer.slice(), stays = round(momentum), comes = round(oneMinusMomentum);
    for (let i = 0; i < n; i++) {
      const g = sign * grad[i]!, before = buffer[i]!, up = round(g - before);
      const average = comes < 0.5 ? round(before + round(comes * up)) : round(g - round(stays * up));
      const down = round(average - g);
      buffer[i] = average;
      x[i] = nesterov === 0
        ? average
        : stays < 0.5
        ? round(g + round(stays * down))
        : round(average - round(comes * down));
    }
    const norm = Math.sqrt(sumOfSquares(x)), by = round(norm < eps ? eps : norm);
    for (let i = 0; i < n; i++) x[i] = round(x[i]! / by);
    const y = newtonSchulz(x, shape, [a, b, c], count), kept = round(decay), size = round(step);
    for (let i = 0; i < n; i++) param[i] = round(round(kept * param[i]!) - round(size * y[i]!));
  },
};

type Eleven = [number, number, number, number, number, number, number, number, number, number, number];

/** How a group of Muon's becomes the rule's inputs. */
export const MUON_UPDATE: TensorUpdate<Group> = {
  name: "Muon",
  rule: MUON_RULE,
  counted: false,
  shape: ({ shape: [rows, columns] }) => ({ batches: 1, rows: rows!, columns: columns! }),
  tensors: ({ size }) => [["momentumBuffer", size]],
  hypers(group, { shape, dtype }) {
    const { lr, weightDecay, momentum, nesterov, nsCoefficients: [a, b, c], eps, nsSteps, adjustLrFn, maximize } =
      group;
    const [rows, columns] = shape as [number, number];
    const ratio = adjustLrFn === "match_rms_adamw"
      ? 0.2 * Math.sqrt(Math.max(rows, columns))
      : Math.sqrt(Math.max(1, rows / columns));
    const least = Math.max(eps, dtype === "float64" ? 2 ** -1022 : 2 ** -126);
    return [
      maximize ? -1 : 1,
      momentum,
      1 - momentum,
      nesterov ? 1 : 0,
      a,
      b,
      c,
      nsSteps,
      least,
      1 - lr * weightDecay,
      lr * ratio,
    ];
  },
};

/**
 * Muon: steps by the average of the gradient, made nearly orthogonal (all its singular values brought near 1) by a few
 * Newton–Schulz iterations. For the matrices of hidden layers; embeddings, biases and the like go to AdamW.
 *
 * ```text
 * g = grad (negated with maximize)     m = momentum m + (1 - momentum) g     x = m (with nesterov: momentum m + (1 - momentum) g)
 * x = x / max(|x|, eps)                nsSteps times: s = x xᵀ,  x = a x + (b s + c s²) x
 * p -= lr weightDecay p                p -= lr ratio x,  ratio = sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns))
 * ```
 *
 * State: `momentumBuffer` (as long as the parameter, in its dtype). bfloat16 and float16 are computed in float32 and rounded
 * once, when they are stored. Parameters on a device are stepped there, with the same bits; the optimizer keeps room there for two
 * matrices of each parameter's size between steps.
 *
 * Paper: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"
 * (kellerjordan.github.io/posts/muon); Liu et al. 2025, "Muon is Scalable for LLM Training" (arXiv:2502.16982). torch source:
 * `torch/optim/_muon.py`. Differences: the iteration is in float32 (float64 for float64 parameters; torch: bfloat16 for all, whose
 * steps are less exact, by about 1e-2 of the update, and several times faster on processors that multiply bfloat16 matrices by
 * themselves); parameters that are not 2-D are refused in groups added later as well (torch: at the step); `maximize`; the
 * coefficients and `nsSteps` are checked in the constructor (torch: at the step); no division by zero with `eps` 0.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Muon, Parameter } from "@flatstep/optim";
 *
 * const weight = new Parameter([3, 1, 0, 2, -1, 1], { shape: [2, 3] });
 * const optimizer = new Muon([weight], { lr: 0.1, weightDecay: 0 });
 * const norm = () => Math.hypot(...weight.data);
 * const before = norm();
 * for (let i = 0; i < 40; i++) {
 *   weight.grad = Float32Array.from(weight.data, (w) => 2 * w); // of sum(w²)
 *   optimizer.step();
 * }
 * assert(norm() < before / 4);
 * ```
 */
export class Muon extends TensorwiseOptimizer<MuonOptions> {
  /**
   * Makes an optimizer of 2-D parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode MuonOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, a parameter that is not 2-D
   */
  constructor(params: ParamsInput<MuonOptions>, options?: MuonOptions) {
    super(params, options, MUON_SCHEMA, MUON_UPDATE);
  }

  /** Throws unless all parameters are matrices. */
  protected override groupsChange(groups: readonly ParamGroup<MuonOptions>[]): void {
    groups.forEach((group, g) =>
      group.params.forEach(({ shape }, i) => {
        if (shape.length === 2) return;
        throw new RangeError(`Muon takes 2-D parameters, got shape ${show([...shape])} for ${placeOf(group, g, i)}`);
      })
    );
  }
}
