/**
 * LBFGS.
 *
 * @module
 */

import type { Numbers } from "../../ffi/backend.ts";
import { show, StateDictError } from "../errors.ts";
import type { Parameter } from "../parameter.ts";
import { checkArray } from "./checks.ts";
import type { FlatParameters } from "./flat.ts";
import { count, type Schema } from "./options.ts";
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

/** The options of {@linkcode LBFGS}. */
export interface LBFGSOptions extends QuasiNewtonOptions {
  /** How many pairs of steps and changes of the gradient are kept, an integer >= 1; default 100. */
  historySize?: number;
}

type Work = StepWork<ParamGroup<LBFGSOptions>>;

/** The options of LBFGS. */
export const LBFGS_SCHEMA: Schema<LBFGSOptions> = { ...quasiNewtonSchema(null), historySize: count(100) };

/** What torch's update asks of a pair: y·s above this. */
const LEAST_CURVATURE = 1e-10;

/** What the state has beside its counts. */
const KEYS = ["d", "t", "oldDirs", "oldStps", "ro", "hDiag", "prevFlatGrad", "prevLoss", "hzQ", "hzC"];

/** Pairs of steps and changes of the gradient, and the two loops over them. */
class History implements Curvature<ParamGroup<LBFGSOptions>> {
  /** The two loops, after the last step's pair has been taken in. */
  direct(work: Work, here: Evaluated, anew: boolean): Direction {
    const { flat, state } = work;
    const fresh = anew || state["nIter"] === 1;
    if (fresh) {
      for (const v of [...(state["oldDirs"] as Numbers[] ?? []), ...(state["oldStps"] as Numbers[] ?? [])]) {
        work.give(v);
      }
      state["oldDirs"] = [];
      state["oldStps"] = [];
      state["ro"] = [];
      state["hDiag"] = 1;
    } else {
      this.#learn(work, here);
    }
    const d = state["d"] as Numbers | undefined ?? work.take();
    state["d"] = d;

    const ys = state["oldDirs"] as Numbers[], ss = state["oldStps"] as Numbers[], ro = state["ro"] as number[];
    const hDiag = state["hDiag"] as number, g = here.grad, m = ys.length, al: number[] = new Array(m);
    if (m === 0) {
      const { slope, largest } = flat.combine(d, g, { negate: true, c: hDiag, z: g });
      return { d, slope, largest, unscaled: fresh };
    }
    // each pass also makes the product that the next one needs
    al[m - 1] = -flat.dot(ss[m - 1]!, g) * ro[m - 1]!;
    let beta = 0, slope = 0, largest = 0;
    for (let i = m - 1; i >= 0; i--) {
      const first = i === m - 1, last = i === 0;
      const z = last ? ys[0]! : ss[i - 1]!;
      const sums = flat.combine(d, first ? g : d, { negate: first, y: ys[i]!, a: -al[i]!, c: last ? hDiag : null, z });
      if (last) beta = sums.slope * ro[0]!;
      else al[i - 1] = sums.slope * ro[i - 1]!;
    }
    for (let i = 0; i < m; i++) {
      const sums = flat.combine(d, d, { y: ss[i]!, a: al[i]! - beta, z: i + 1 < m ? ys[i + 1]! : g });
      if (i + 1 < m) beta = sums.slope * ro[i + 1]!;
      else ({ slope, largest } = sums);
    }
    return { d, slope, largest, unscaled: false };
  }

  /** Takes in the pair of the last step. */
  #learn({ flat, group, state, take, give }: Work, here: Evaluated): void {
    const t = state["t"] as number | undefined, d = state["d"] as Numbers | undefined;
    const previous = state["prevFlatGrad"] as Numbers | undefined;
    if (t === undefined || t === 0 || d === undefined || previous === undefined) return;
    const s = take(), y = take();
    flat.combine(s, d, { c: t });
    const ys = flat.combine(y, here.grad, { y: previous, a: -1, z: s }).slope, yy = flat.dot(y, y);
    const least = group.lineSearchFn === "hager_zhang"
      ? flat.epsilon * Math.sqrt(flat.dot(s, s)) * Math.sqrt(yy)
      : LEAST_CURVATURE;
    if (!(ys > least) || !(ys < Infinity)) {
      give(s);
      give(y);
      return;
    }
    const dirs = state["oldDirs"] as Numbers[], steps = state["oldStps"] as Numbers[], ro = state["ro"] as number[];
    while (dirs.length >= group.historySize) {
      give(dirs.shift()!);
      give(steps.shift()!);
      ro.shift();
    }
    dirs.push(y);
    steps.push(s);
    ro.push(1 / ys);
    state["hDiag"] = ys / yy;
  }

  /** The pair is made when the next gradient is known. */
  accepted({ state }: Work, { t }: AcceptedStep): void {
    state["t"] = t;
  }

  /** torch's searches end the step. */
  restarts(group: ParamGroup<LBFGSOptions>): boolean {
    return group.lineSearchFn === "hager_zhang";
  }

  /** torch's search may go one evaluation beyond maxEval. */
  trials(left: number): number {
    return left;
  }

  /** Throws unless the state under the first parameter is as it must be. */
  checkState(state: ParameterState, flat: FlatParameters, first: Parameter): void {
    for (const key of ["d", "prevFlatGrad"]) checkVector(state, key, first, flat.n);
    const dirs = state["oldDirs"] ?? [], steps = state["oldStps"] ?? [], ro = state["ro"] ?? [];
    for (const [key, list] of Object.entries({ oldDirs: dirs, oldStps: steps, ro })) {
      if (!Array.isArray(list) || list.length !== (dirs as unknown[]).length) {
        throw new TypeError(`${key} of the state must be an array as long as oldDirs, got ${show(list)}`);
      }
      if (key !== "ro") {
        list.forEach((v, i) => checkArray(v, first, `${key}[${i}] of the state`, flat.n));
      }
    }
  }

  /** The state of the first parameter from a state dict's entry, copied and cast. torch's `al` is scratch, and left out. */
  readState(entry: Readonly<Record<string, unknown>>, p: Parameter, size: number, where: string): ParameterState {
    const state: ParameterState = {};
    for (const key of ["funcEvals", "nIter"]) state[key] = readCount(entry[key], `${where}.${key}`);
    for (const [key, value] of Object.entries(entry)) {
      if (key === "funcEvals" || key === "nIter" || key === "al") continue;
      if (!KEYS.includes(key)) {
        throw new StateDictError(`${where}.${key} is no state of LBFGS; it has ${KEYS.join(", ")}`);
      }
      if (value === null || value === undefined) continue; // torch: nothing yet
      const at = `${where}.${key}`;
      if (key === "d" || key === "prevFlatGrad") {
        state[key] = readVector(value, p, size, at);
      } else if (key === "oldDirs" || key === "oldStps" || key === "ro") {
        if (!Array.isArray(value)) throw new StateDictError(`${at} must be an array, got ${show(value)}`);
        state[key] = key === "ro"
          ? value.map((x, i) => readNumber(x, `${at}[${i}]`))
          : value.map((x, i) => readVector(x, p, size, `${at}[${i}]`));
      } else {
        state[key] = readNumber(value, at);
      }
    }
    const lengths = ["oldDirs", "oldStps", "ro"].map((key) => (state[key] as unknown[] | undefined)?.length);
    if (lengths.some((n) => n !== lengths[0])) {
      throw new StateDictError(`${where}: oldDirs, oldStps and ro must be of one length, got ${lengths.join(", ")}`);
    }
    return state;
  }
}

/**
 * LBFGS: the BFGS method with a limited memory, for smooth functions of many parameters whose gradients are exact.
 *
 * ```text
 * pairs (s, y): the last historySize steps and what they changed the gradient by; rho = 1 / (y·s)
 * q = -g;  from the newest pair to the oldest:  alpha = rho (s·q);  q -= alpha y
 * d = (y·s / y·y) q;  from the oldest to the newest:  d += (alpha - rho (y·d)) s
 * p += t d        t: lr (at first min(1, 1 / |g|₁) lr), or what the line search finds from there
 * ```
 *
 * A step calls the closure several times: at most `maxIter` iterations of that, and about `maxEval` evaluations. It returns the
 * first loss; {@linkcode QuasiNewton.lastResult | lastResult} says why it ended, and where. Losses and gradients that are not
 * finite are never accepted: the trial step shrinks. A closure that throws leaves the parameters at the last accepted point, with
 * the state that belongs to it.
 *
 * State, under the first parameter: `funcEvals`, `nIter`, `d` (the direction), `t` (the last step along it; 0: none was made),
 * `oldDirs` (the y), `oldStps` (the s), `ro`, `hDiag`, `prevFlatGrad`, `prevLoss`, and with "hager_zhang" `hzQ` and `hzC`.
 * Vectors are all parameters behind each other, in their dtype: float32 or float64, one for all. Sums are in float64. Memory:
 * 2 historySize + about 6 vectors.
 *
 * Papers: Nocedal 1980, "Updating quasi-Newton matrices with limited storage"; Liu & Nocedal 1989, "On the limited memory BFGS
 * method"; the line searches are {@linkcode LineSearchFn}. torch source: `torch/optim/lbfgs.py`, whose trajectories these are
 * with `lineSearchFn` null and "strong_wolfe". Differences: `maximize`; "hager_zhang", with a relative guard for pairs and a
 * restart; where the slope is too small for a step, none is remembered (torch remembers one that it has not made); trial points
 * that are not finite.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { LBFGS, Parameter } from "@flatstep/optim";
 *
 * const p = new Parameter(Float64Array.of(-1.2, 1));
 * const optimizer = new LBFGS([p], { lineSearchFn: "strong_wolfe", maxIter: 100, toleranceChange: 0 });
 * optimizer.step(() => { // Rosenbrock's valley
 *   const [x, y] = p.data as Float64Array as unknown as [number, number];
 *   p.grad = Float64Array.of(-400 * x * (y - x * x) - 2 * (1 - x), 200 * (y - x * x));
 *   return 100 * (y - x * x) ** 2 + (1 - x) ** 2;
 * });
 * assert(p.data.every((x) => Math.abs(x - 1) < 1e-6));
 * assert(optimizer.lastResult?.reason === "toleranceGrad");
 * ```
 */
export class LBFGS extends QuasiNewton<LBFGSOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or one group `{ params, ...options }`; of one dtype, float32 or float64
   * @param options see {@linkcode LBFGSOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind, other dtypes
   * @throws {RangeError} for an option out of range, more than one group
   */
  constructor(params: ParamsInput<LBFGSOptions>, options?: LBFGSOptions) {
    super(params, options, LBFGS_SCHEMA, "LBFGS", new History());
  }
}
