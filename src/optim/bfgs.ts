/**
 * BFGS.
 *
 * @module
 */

import type { Numbers } from "../../ffi/backend.ts";
import { show, StateDictError } from "../errors.ts";
import type { Parameter } from "../parameter.ts";
import { checkArray } from "./checks.ts";
import type { FlatParameters } from "./flat.ts";
import { boolean, oneOf, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import {
  type AcceptedStep,
  checkVector,
  type Curvature,
  type Direction,
  type Evaluated,
  QuasiNewton,
  readCount,
  readNumber,
  readVector,
  type StepWork,
} from "./quasi_newton.ts";
import { type QuasiNewtonOptions, quasiNewtonSchema } from "./quasi_newton_options.ts";
import type { ParameterState } from "./state_dict.ts";

/** The options of {@linkcode BFGS}. */
export interface BFGSOptions extends QuasiNewtonOptions {
  /**
   * What to do with a step along which the gradient does not grow: "skip" (the default) learns nothing from it, "damp" learns
   * from a step that is mixed with what the matrix expects. "damp" is for noisy gradients and for steps without a line search.
   */
  curvature?: "skip" | "damp";
  /** Whether the matrix starts as (s·y / y·y) I, as soon as there is a first step, and not as I; default true. */
  scaleInit?: boolean;
}

type Work = StepWork<ParamGroup<BFGSOptions>>;

/** The options of BFGS. */
export const BFGS_SCHEMA: Schema<BFGSOptions> = {
  ...quasiNewtonSchema("strong_wolfe"),
  curvature: oneOf("skip", ["skip", "damp"]),
  scaleInit: boolean(true),
};

/** The largest matrix, in bytes. */
const MOST_BYTES = 2 ** 32;

/** After so many steps the direction is a product with the matrix itself, and not carried on. */
const REFRESH = 50;

/** Trials after the first one that a search may make. */
const MOST_TRIALS = 24;

/** What the state has beside its counts. */
const KEYS = ["d", "t", "h", "prevFlatGrad", "prevLoss", "scaled", "hzQ", "hzC"];

/** The inverse Hessian, its updates, and the next direction from them. */
class InverseHessian implements Curvature<ParamGroup<BFGSOptions>> {
  /** The direction at a point, where it is known already. */
  #next: { readonly at: Evaluated; readonly direction: Direction } | null = null;
  /** Steps since the direction was a product with the matrix. */
  #carried = 0;

  /** -H g. */
  direct(work: Work, here: Evaluated, anew: boolean): Direction {
    const { flat, state } = work;
    const next = this.#next;
    this.#next = null;
    if (state["h"] === undefined || anew) {
      state["h"] ??= matrix(flat);
      setIdentity(state["h"] as Numbers, flat.n, 1);
      state["scaled"] = 0;
    } else if (state["t"] !== 0 && state["t"] !== undefined) { // a step of which the gradient was not known
      const s = work.take(), y = work.take(), previous = state["prevFlatGrad"] as Numbers;
      flat.combine(s, state["d"] as Numbers, { c: state["t"] as number });
      const sy = flat.combine(y, here.grad, { y: previous, a: -1, z: s }).slope;
      this.#learn(work, s, y, sy, null);
      work.give(s);
      work.give(y);
    }
    if (next !== null && next.at === here && !anew) {
      const old = state["d"] as Numbers;
      state["d"] = next.direction.d;
      work.give(old);
      return next.direction;
    }
    this.#carried = 0;
    const d = state["d"] as Numbers | undefined ?? work.take();
    state["d"] = d;
    flat.backend.packedProduct(flat.n, state["h"] as Numbers, here.grad, d, flat.threads);
    const { slope, largest } = flat.combine(d, d, { negate: true, z: here.grad });
    return { d, slope, largest, unscaled: state["scaled"] === 0 };
  }

  /** Learns from a step, if its gradient is known. */
  accepted(work: Work, { x, d, t, to }: AcceptedStep): void {
    const { flat, state } = work;
    if (to === null) {
      state["t"] = t;
      return;
    }
    const s = work.take(), y = work.take();
    flat.read(s); // the step as it was made: in float32 it is not t d
    flat.combine(s, s, { y: x, a: -1 });
    const sy = flat.combine(y, to.grad, { y: state["prevFlatGrad"] as Numbers, a: -1, z: s }).slope;
    this.#learn(work, s, y, sy, { d, to });
    work.give(s);
    work.give(y);
    state["prevFlatGrad"] = to.grad;
    state["prevLoss"] = to.loss;
  }

  /**
   * Updates H by a step s that changed the gradient by y.
   *
   * @param carry the direction that the step was made along, and where it led, if the next direction is to be made from it
   */
  #learn(
    { flat, group, state, take, give }: Work,
    s: Numbers,
    y: Numbers,
    curvature: number,
    carry: { readonly d: Numbers; readonly to: Evaluated } | null,
  ): void {
    const { n, backend, threads } = flat, h = state["h"] as Numbers, damp = group.curvature === "damp";
    let sy = curvature;
    const yy = flat.dot(y, y), least = flat.epsilon * Math.sqrt(flat.dot(s, s)) * Math.sqrt(yy);
    const curved = sy > least && sy < Infinity && yy < Infinity;
    if (!curved && !(damp && yy > 0 && yy < Infinity && sy > -Infinity)) return;
    const hy = take(), u = take();
    if (state["scaled"] === 0 && group.scaleInit && curved) {
      setIdentity(h, n, sy / yy);
      flat.combine(hy, y, { c: sy / yy });
      if (carry !== null) flat.combine(carry.d, state["prevFlatGrad"] as Numbers, { negate: true, c: sy / yy }); // what d is with this H
    } else {
      backend.packedProduct(n, h, y, hy, threads);
    }
    const yHy = flat.dot(y, hy);
    if (damp && sy < 0.2 * yHy) {
      const theta = 0.8 * yHy / (yHy - sy);
      flat.combine(s, s, { c: theta });
      flat.combine(s, s, { y: hy, a: 1 - theta });
      sy = flat.dot(s, y);
    }
    flat.combine(u, hy, { y: s, a: -0.5 * (1 + yHy / sy), c: 1 / sy });
    backend.packedUpdate(n, h, u, s, threads);
    state["scaled"] = 1;
    if (carry !== null && ++this.#carried < REFRESH) {
      const g = carry.to.grad, d = take(), su = flat.dot(s, g), ug = flat.dot(u, g);
      flat.combine(d, carry.d, { y: hy, a: -1 });
      flat.combine(d, d, { y: u, a: su });
      const { slope, largest } = flat.combine(d, d, { y: s, a: ug, z: g });
      if (slope < 0) this.#next = { at: carry.to, direction: { d, slope, largest, unscaled: false } };
      else give(d);
    }
    give(hy);
    give(u);
  }

  /** Where there is no lower point, the gradient's direction is tried. */
  restarts(): boolean {
    return true;
  }

  /** The first trial is an evaluation, too. */
  trials(left: number): number {
    return Math.min(MOST_TRIALS, left - 1);
  }

  /** Throws unless the state under the first parameter is as it must be. */
  checkState(state: ParameterState, flat: FlatParameters, first: Parameter): void {
    this.#next = null;
    for (const key of ["d", "prevFlatGrad"]) checkVector(state, key, first, flat.n);
    if (state["h"] !== undefined) checkArray(state["h"], first, "h of the state", flat.n * (flat.n + 1) / 2);
  }

  /** The state of the first parameter from a state dict's entry, copied and cast. */
  readState(entry: Readonly<Record<string, unknown>>, p: Parameter, size: number, where: string): ParameterState {
    const state: ParameterState = {};
    for (const key of ["funcEvals", "nIter"]) state[key] = readCount(entry[key], `${where}.${key}`);
    for (const [key, value] of Object.entries(entry)) {
      if (key === "funcEvals" || key === "nIter") continue;
      if (!KEYS.includes(key)) {
        throw new StateDictError(`${where}.${key} is no state of BFGS; it has ${KEYS.join(", ")}`);
      }
      if (key === "d" || key === "prevFlatGrad") state[key] = readVector(value, p, size, `${where}.${key}`);
      else if (key === "h") state[key] = readVector(value, p, size * (size + 1) / 2, `${where}.${key}`);
      else state[key] = readNumber(value, `${where}.${key}`);
    }
    if (state["h"] !== undefined && (state["d"] === undefined || state["prevFlatGrad"] === undefined)) {
      throw new StateDictError(`${where} must have d and prevFlatGrad where it has h, got ${show(Object.keys(entry))}`);
    }
    return state;
  }
}

function tooLarge(n: number, bytes: number, why: string): RangeError {
  return new RangeError(
    `BFGS of ${n} parameters needs a matrix of ${bytes} bytes, ${why}: use LBFGS, which keeps some vectors instead`,
  );
}

/** A packed matrix of zeros. */
function matrix(flat: FlatParameters): Numbers {
  const size = flat.n * (flat.n + 1) / 2;
  try {
    return flat.vector(size);
  } catch {
    throw tooLarge(flat.n, size * (flat.bytes), "which could not be allocated");
  }
}

/** H = value I. */
function setIdentity(h: Numbers, n: number, value: number): void {
  h.fill(0);
  for (let i = 0; i < n; i++) h[i * (i + 1) / 2 + i] = value;
}

/**
 * BFGS: the full inverse Hessian learned from gradients, for smooth functions of up to some thousand parameters whose
 * gradients are exact: fits of curves, above all.
 *
 * ```text
 * d = -H g        p += t d        t: what the line search finds from lr on (at first from min(1, 1 / |g|₁) lr)
 * s = p₊ - p      y = g₊ - g      before the first update: H = (s·y / y·y) I
 * H₊ = H - u sᵀ - s uᵀ      u = H y / s·y - ½ (1 + y·H y / s·y) s / s·y
 * ```
 *
 * The update is the one of Nocedal & Wright 2006 (6.17) as one symmetric update of rank 2: H₊ y = s, and H stays symmetric and
 * positive definite. It is made where s·y > eps |s| |y|, which does not depend on the function's scale. The next direction comes
 * from H y without a second product (every 50 steps from the matrix itself): an iteration reads the matrix twice and writes it
 * once, of which only the lower triangle is stored. Where there is no lower point along d, H is forgotten and the gradient's
 * direction tried; only if that fails too the step ends.
 *
 * A step calls the closure several times: at most `maxIter` iterations of that, and `maxEval` evaluations. It returns the first
 * loss; {@linkcode QuasiNewton.lastResult | lastResult} says why it ended, and where. The tolerances are absolute, as torch's are
 * for LBFGS: for a loss in very small units set them to 0 or scale them. Losses and gradients that are not finite are never
 * accepted. A closure that throws leaves the parameters at the last accepted point, with the state that belongs to it.
 *
 * State, under the first parameter: `funcEvals`, `nIter`, `d` (the direction), `t` (a step along it that H has not learned from
 * yet: one without a line search at the end of `step()`; else 0), `h` (the lower triangle of H, row behind row: row i from
 * i (i + 1) / 2 on), `prevFlatGrad`, `prevLoss`, `scaled` (1: H has learned), and with "hager_zhang" `hzQ` and `hzC`. Vectors are
 * all parameters behind each other, in their dtype: float32 or float64, one for all. Sums are in float64.
 *
 * Papers: Nocedal & Wright 2006, "Numerical Optimization", algorithm 6.1, (6.17), (6.20); damping: the inverse form of
 * procedure 18.2; the line searches are {@linkcode LineSearchFn}. torch has no BFGS.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { BFGS, Parameter } from "@flatstep/optim";
 *
 * const p = new Parameter(Float64Array.of(-1.2, 1));
 * const optimizer = new BFGS([p], { maxIter: 100, toleranceChange: 0 });
 * optimizer.step(() => { // Rosenbrock's valley
 *   const [x, y] = p.data as Float64Array as unknown as [number, number];
 *   p.grad = Float64Array.of(-400 * x * (y - x * x) - 2 * (1 - x), 200 * (y - x * x));
 *   return 100 * (y - x * x) ** 2 + (1 - x) ** 2;
 * });
 * assert(p.data.every((x) => Math.abs(x - 1) < 1e-6));
 * assert(optimizer.lastResult?.reason === "toleranceGrad");
 * ```
 */
export class BFGS extends QuasiNewton<BFGSOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or one group `{ params, ...options }`; of one dtype, float32 or float64
   * @param options see {@linkcode BFGSOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind, other dtypes
   * @throws {RangeError} for an option out of range, more than one group, a matrix of more than 4 GiB
   */
  constructor(params: ParamsInput<BFGSOptions>, options?: BFGSOptions) {
    super(params, options, BFGS_SCHEMA, "BFGS", new InverseHessian());
  }

  /** Refuses matrices that are too large. */
  protected override checkSize(elements: number, bytes: number): void {
    const needed = elements * (elements + 1) / 2 * bytes;
    if (needed > MOST_BYTES) throw tooLarge(elements, needed, "more than 4 GiB");
  }
}
