/**
 * What LBFGS and BFGS share: a step that calls its closure several times, along directions that the class gives.
 *
 * The step is a generator that asks for the loss and the gradients at the parameters' values: `step()` and `stepAsync()`
 * answer it, so both go the same way.
 *
 * @module
 */

import type { Numbers } from "../../ffi/backend.ts";
import { hagerZhang } from "../line_search/hager_zhang.ts";
import { isFinitePoint, type Point, type Search } from "../line_search/line_search.ts";
import { strongWolfe } from "../line_search/strong_wolfe.ts";
import { show, StateDictError } from "../errors.ts";
import type { Parameter } from "../parameter.ts";
import { checkArray, checkLoss } from "./checks.ts";
import { FlatParameters } from "./flat.ts";
import { type AsyncClosure, type Closure, Optimizer } from "./optimizer.ts";
import { readDefaults, type Schema } from "./options.ts";
import type { QuasiNewtonOptions } from "./quasi_newton_options.ts";
import { checkGroups, type ParamGroup, type ParamsInput } from "./param_group.ts";
import { type ParameterState, readTensor } from "./state_dict.ts";

/** Why a step of LBFGS or BFGS ended. */
export type StopReason =
  | "toleranceGrad"
  | "toleranceChange"
  | "maxIter"
  | "maxEval"
  | "lineSearch"
  | "nonFinite";

/** What became of a step of LBFGS or BFGS. */
export interface QuasiNewtonResult {
  /**
   * Why it ended: the gradient is small enough, or the step, the change of the loss or the slope; so many iterations or
   * evaluations were made; the line search found no lower point, from the gradient's direction either; the loss or a gradient
   * was not finite where the step began, or kept the search from a lower point.
   */
  readonly reason: StopReason;
  /** Iterations of this step. */
  readonly iterations: number;
  /** How often it called the closure. */
  readonly evaluations: number;
  /** The last loss that was accepted. */
  readonly loss: number;
  /** The largest magnitude in the gradient that belongs to it. */
  readonly gradNorm: number;
}

/** A point that the closure was called at. The loss is the one to be minimized. */
export interface Evaluated {
  readonly loss: number;
  /** The gradient; belongs to the step. */
  readonly grad: Numbers;
  /** Its largest magnitude, NaN if there is one. */
  readonly gradNorm: number;
  /** Its product with the direction. */
  readonly slope: number;
}

/** Asks for an evaluation at the parameters' values, and is given the closure's loss. */
type Asking<T> = Generator<void, T, number>;

/** A direction, and what is known of it. */
export interface Direction {
  readonly d: Numbers;
  /** Its product with the gradient. */
  readonly slope: number;
  /** Its largest magnitude. */
  readonly largest: number;
  /** Whether nothing is known of the curvature, so that the first trial has to be short. */
  readonly unscaled: boolean;
}

/** What a step works with. */
export interface StepWork<Group> {
  readonly flat: FlatParameters;
  readonly group: Group;
  /** What is kept under the first parameter. */
  readonly state: ParameterState;
  /** A vector whose contents are anything. */
  take(): Numbers;
  /** A vector that is not needed any more. */
  give(vector: Numbers): void;
}

/** A step that has been made. */
export interface AcceptedStep {
  /** The parameters before it. */
  readonly x: Numbers;
  readonly d: Numbers;
  readonly t: number;
  readonly from: Evaluated;
  /** Null where the loss is not known there. */
  readonly to: Evaluated | null;
}

/**
 * What a class knows of the curvature: it makes directions, and learns from steps. What it learns from are `t`, the last step along `d`
 * that it has not learned from yet (0: there is none), and `prevFlatGrad`, the gradient where that step began.
 */
export interface Curvature<Group> {
  /**
   * The direction at an evaluated point.
   *
   * @param anew whether what is known of the curvature is to be forgotten first
   */
  direct(work: StepWork<Group>, here: Evaluated, anew: boolean): Direction;
  /** A step has been made. */
  accepted(work: StepWork<Group>, step: AcceptedStep): void;
  /** Whether to begin anew with the gradient's direction where there is no lower point. */
  restarts(group: Group): boolean;
  /** How many trials a search may make after its first one, where so many evaluations are left. */
  trials(left: number): number;
  /** Called when a step begins: throws unless the state under the first parameter is as it must be. */
  checkState(state: ParameterState, flat: FlatParameters, first: Parameter): void;
  /** The state from a state dict's entry, copied and cast; `size` is the elements of all parameters. */
  readState(entry: Readonly<Record<string, unknown>>, first: Parameter, size: number, where: string): ParameterState;
}

/** How far a search went, and what is known there: 0 where there was no lower point. */
interface Reached {
  readonly t: number;
  readonly to: Evaluated | null;
  /** Whether a point that was tried was not finite. */
  readonly blocked: boolean;
}

/** What the state has before the first step, too. */
const COUNTS = ["funcEvals", "nIter"];

/** Hager & Zhang: how much of the average of |f| is forgotten at a step, and how much of it is taken for rounding. */
const HZ_DECAY = 0.7, HZ_EPSILON = 1e-6;

/** What maxEval is where it is null. */
const mostEvaluations = (maxIter: number): number => Math.floor(maxIter * 5 / 4);

/** The lowest of some points. */
function lowest(start: Point, points: Iterable<Point>): Point {
  let best = start;
  for (const p of points) if (isFinitePoint(p) && p.value < best.value) best = p;
  return best;
}

const finite = (e: Evaluated): boolean => Number.isFinite(e.loss) && Number.isFinite(e.gradNorm);

/** The base of LBFGS and BFGS. */
export abstract class QuasiNewton<Options extends QuasiNewtonOptions> extends Optimizer<Options> {
  readonly #owner: string;
  readonly #curvature: Curvature<ParamGroup<Options>>;
  #lastResult: QuasiNewtonResult | null = null;
  /** Vectors that nothing refers to. */
  #free: Numbers[] = [];

  /** For subclasses. */
  protected constructor(
    params: ParamsInput<Options>,
    options: Options | undefined,
    schema: Schema<Options>,
    owner: string,
    curvature: Curvature<ParamGroup<Options>>,
  ) {
    const defaults = readDefaults(options, schema, owner);
    schema.maxIter.check(defaults.maxIter, "maxIter");
    defaults.maxEval ??= mostEvaluations(defaults.maxIter as number);
    super(params, defaults, schema);
    this.#owner = owner;
    this.#curvature = curvature;
  }

  /** What became of the last step; null before the first. */
  get lastResult(): QuasiNewtonResult | null {
    return this.#lastResult;
  }

  /** One group: curvature is that of all parameters together. */
  protected override groupsChange(groups: readonly ParamGroup<Options>[]): void {
    const owner = this.constructor.name;
    if (groups.length > 1) {
      throw new RangeError(`${owner} takes one param group, got ${groups.length}: its curvature joins all parameters`);
    }
    const { n, bytes } = new FlatParameters(owner, groups[0]!);
    this.checkSize(n, bytes);
  }

  /** Throws if there are too many parameters: so many elements, of so many bytes each. */
  protected checkSize(_elements: number, _bytes: number): void {}

  /** The inside of `step()`. */
  protected override runStep(closure: Closure | null | undefined): number {
    this.#checkClosure(closure);
    const step = this.#minimize();
    let next = step.next();
    while (!next.done) {
      let loss: number;
      try {
        loss = closure!();
      } catch (error) {
        step.throw(error); // puts the parameters back, and throws it on
        throw error;
      }
      next = step.next(loss);
    }
    return next.value;
  }

  /** The inside of `stepAsync()`. */
  protected override async runStepAsync(closure: AsyncClosure): Promise<number> {
    this.#checkClosure(closure);
    const step = this.#minimize();
    let next = step.next();
    while (!next.done) {
      let loss: number;
      try {
        loss = await closure();
      } catch (error) {
        step.throw(error);
        throw error;
      }
      next = step.next(loss);
    }
    return next.value;
  }

  /** Not called: a step is more than one update. */
  protected override update(): void {
    this.#checkClosure(null);
  }

  #checkClosure(closure: unknown): void {
    if (typeof closure === "function") return;
    throw new TypeError(
      `closure must be a function: ${this.#owner} calls it several times a step, got ${show(closure)}`,
    );
  }

  *#evaluate(work: StepWork<ParamGroup<Options>>, d: Numbers | null): Asking<Evaluated> {
    const loss = yield;
    checkLoss(loss);
    const { flat, state, group } = work, maximize = group.maximize === true;
    const grad = work.take();
    try {
      const { slope, largest } = flat.gather(grad, maximize, d);
      state["funcEvals"] = (state["funcEvals"] as number) + 1;
      return { loss: maximize ? -loss : loss, grad, gradNorm: largest, slope };
    } catch (error) {
      work.give(grad);
      throw error;
    }
  }

  /** A step of t along d; tenfold shorter as long as the loss is not finite. `left` 0: the loss is not asked for. */
  *#fixed(work: StepWork<ParamGroup<Options>>, x: Numbers, d: Numbers, t: number, left: number): Asking<Reached> {
    const { flat } = work;
    flat.move(x, t, d);
    if (left === 0) return { t, to: null, blocked: false };
    for (let used = 1;; used++) {
      const to = yield* this.#evaluate(work, null);
      if (finite(to)) return { t, to, blocked: used > 1 };
      work.give(to.grad);
      if (used >= left) return { t: 0, to: null, blocked: true };
      t *= 0.1;
      flat.move(x, t, d);
    }
  }

  /** A step along d that a line search finds. The parameters are left there. */
  *#search(
    work: StepWork<ParamGroup<Options>>,
    x: Numbers,
    direction: Direction,
    t: number,
    from: Evaluated,
    left: number,
  ): Asking<Reached> {
    const { flat, group, state } = work, { d, slope, largest } = direction;
    const start: Point = { alpha: 0, value: from.loss, slope }, maxTrials = this.#curvature.trials(left);
    let search: Search, q = 0, c = 0;
    if (group.lineSearchFn === "hager_zhang") {
      q = 1 + HZ_DECAY * ((state["hzQ"] as number | undefined) ?? 0);
      const before = (state["hzC"] as number | undefined) ?? 0;
      c = before + (Math.abs(from.loss) - before) / q;
      search = hagerZhang(start, t, { limit: from.loss + HZ_EPSILON * c, maxTrials });
    } else {
      search = strongWolfe(start, t, { maxTrials, tolerance: group.toleranceChange as number / largest });
    }
    const known = new Map<Point, Evaluated>();
    let at = 0, blocked = false;
    const drop = (keep: readonly Point[]) => {
      for (const [point, { grad }] of known) {
        if (keep.includes(point)) continue;
        known.delete(point);
        work.give(grad);
      }
    };
    try {
      let next = search.next();
      while (!next.done) {
        const { alpha, keep } = next.value;
        drop(keep);
        flat.move(x, alpha, d);
        at = alpha;
        const to = yield* this.#evaluate(work, d);
        const point = { alpha, value: to.loss, slope: finite(to) ? to.slope : NaN };
        known.set(point, to);
        blocked ||= !finite(to);
        if (to.loss === from.loss && flat.equals(x)) break; // so short a step is none: nor is any shorter one
        next = search.next(point);
      }
      const point = next.done ? next.value.point : lowest(start, known.keys()), to = known.get(point) ?? null;
      if (to !== null) known.delete(point);
      drop([]);
      if (to === null) return { t: 0, to: null, blocked };
      if (at !== point.alpha) flat.move(x, point.alpha, d);
      if (group.lineSearchFn === "hager_zhang") {
        state["hzQ"] = q;
        state["hzC"] = c;
      }
      return { t: point.alpha, to, blocked };
    } catch (error) {
      drop([]);
      throw error;
    }
  }

  /** A direction has been made: no step along it yet. */
  #begin({ state, give }: StepWork<ParamGroup<Options>>, here: Evaluated): void {
    const previous = state["prevFlatGrad"] as Numbers | undefined;
    if (previous !== undefined && previous !== here.grad) give(previous);
    state["prevFlatGrad"] = here.grad;
    state["prevLoss"] = here.loss;
    state["t"] = 0;
  }

  /** A gradient that belongs to the step, unless the state has it now. */
  #release({ grad }: Evaluated, state: ParameterState): void {
    if (state["prevFlatGrad"] !== grad) this.#free.push(grad);
  }

  /** A parameter's state from a state dict's entry: the first one has it all. */
  protected override readState(entry: Readonly<Record<string, unknown>>, p: Parameter, where: string): ParameterState {
    const { params } = this.paramGroups[0]!;
    if (p !== params[0]) throw new StateDictError(`${where}: ${this.#owner} keeps its state under the first parameter`);
    return this.#curvature.readState(entry, p, params.reduce((sum, { size }) => sum + size, 0), where);
  }

  /** A whole step: asks for evaluations, returns the first loss. */
  *#minimize(): Asking<number> {
    this.checkAllOptions();
    checkGroups(this.paramGroups);
    this.groupsChange(this.paramGroups);
    const group = this.paramGroups[0]!, flat = new FlatParameters(this.#owner, group), first = group.params[0];
    flat.check();
    if (first === undefined) throw new RangeError(`${this.#owner} has no parameters`);
    const like = flat.vector(0);
    this.#free = this.#free.filter((v) => v.length === flat.n && v.constructor === like.constructor);
    const known = this.state.get(first), state: ParameterState = known ?? { funcEvals: 0, nIter: 0 };
    this.#curvature.checkState(state, flat, first);
    const free = this.#free;
    const work: StepWork<ParamGroup<Options>> = {
      flat,
      group,
      state,
      take: () => free.pop() ?? flat.vector(),
      give: (vector) => void free.push(vector),
    };
    const sign = group.maximize === true ? -1 : 1;
    const maxIter = group.maxIter as number, maxEval = group.maxEval as number | null ?? mostEvaluations(maxIter);
    const toleranceGrad = group.toleranceGrad as number, toleranceChange = group.toleranceChange as number;
    const lr = group.lr as number;

    let here = yield* this.#evaluate(work, null); // where this throws nothing has changed
    if (known === undefined) this.state.set(first, state);
    const firstLoss = sign * here.loss;
    let evaluations = 1, iterations = 0, failures = 0, anew = false;
    const end = (reason: StopReason): number => {
      this.#lastResult = { reason, iterations, evaluations, loss: sign * here.loss, gradNorm: here.gradNorm };
      this.#release(here, state);
      return firstLoss;
    };
    if (!finite(here)) return end("nonFinite");
    if (here.gradNorm <= toleranceGrad) return end("toleranceGrad");

    const x = work.take();
    try {
      for (;;) {
        iterations++;
        state["nIter"] = (state["nIter"] as number) + 1;
        const direction = this.#curvature.direct(work, here, anew), { d, slope, largest } = direction;
        this.#begin(work, here);
        const downhill = slope < 0 && slope > -Infinity;
        if (!downhill && !anew && this.#curvature.restarts(group)) {
          anew = true;
          iterations--;
          state["nIter"] = (state["nIter"] as number) - 1;
          continue;
        }
        const t = direction.unscaled ? Math.min(1, 1 / flat.sumAbs(here.grad)) * lr : lr;
        if (!downhill || slope > -toleranceChange || t === 0) {
          return end(downhill || !this.#curvature.restarts(group) ? "toleranceChange" : "lineSearch");
        }
        anew = false;

        flat.read(x);
        const from = here, left = maxEval - evaluations, before = state["funcEvals"] as number;
        let reached: Reached;
        try {
          reached = group.lineSearchFn === null
            ? yield* this.#fixed(work, x, d, t, iterations < maxIter ? left : 0)
            : yield* this.#search(work, x, direction, t, from, left);
        } catch (error) {
          flat.write(x);
          state["nIter"] = (state["nIter"] as number) - 1;
          if (state["nIter"] === 0) {
            for (const key of Object.keys(state)) if (!COUNTS.includes(key)) delete state[key];
          }
          this.#release(from, state);
          throw error;
        }
        evaluations += (state["funcEvals"] as number) - before;

        if (reached.to !== null && reached.to.loss === from.loss && flat.equals(x)) { // so short a step is none
          work.give(reached.to.grad);
          reached = { ...reached, t: 0, to: null };
        }
        if (reached.t === 0) { // there is no lower point
          flat.write(x);
          if (failures++ === 0 && this.#curvature.restarts(group) && evaluations < maxEval && iterations < maxIter) {
            anew = true;
            continue;
          }
          return end(reached.blocked ? "nonFinite" : evaluations >= maxEval ? "maxEval" : "lineSearch");
        }
        failures = 0;
        if (reached.to !== null) here = reached.to;
        const change = Math.abs(here.loss - from.loss), moved = reached.t * largest;
        this.#curvature.accepted(work, { x, d, t: reached.t, from, to: reached.to });
        if (reached.to !== null) this.#release(from, state);

        if (reached.to !== null && here.gradNorm <= toleranceGrad) return end("toleranceGrad");
        if (iterations >= maxIter) return end("maxIter");
        if (evaluations >= maxEval) return end("maxEval");
        if (moved <= toleranceChange || change < toleranceChange) return end("toleranceChange");
      }
    } finally {
      work.give(x);
    }
  }
}

/** A state dict's number: a number, or a tensor of one element as torch has it. */
export function readNumber(value: unknown, where: string): number {
  let found = value;
  if (typeof found === "object" && found !== null && !ArrayBuffer.isView(found) && "data" in found) found = found.data;
  if (ArrayBuffer.isView(found) || Array.isArray(found)) {
    const list = found as unknown as ArrayLike<unknown>;
    if (list.length === 1) found = list[0];
  }
  if (typeof found !== "number") throw new StateDictError(`${where} must be a number, got ${show(value)}`);
  return found;
}

/** A count of a state dict: an integer >= 0. */
export function readCount(value: unknown, where: string): number {
  const n = readNumber(value, where);
  if (!Number.isInteger(n) || n < 0) throw new StateDictError(`${where} must be an integer >= 0, got ${show(n)}`);
  return n;
}

/** A state dict's vector of `size` elements in the dtype of `p`, copied and cast. */
export function readVector(value: unknown, p: Parameter, size: number, where: string): Numbers {
  return readTensor(value, { data: p.data, dtype: p.dtype, size }, where, "the group") as Numbers;
}

/** Throws unless what is kept under `key` is a vector of the parameters' dtype, or nothing. */
export function checkVector(state: ParameterState, key: string, first: Parameter, size: number): void {
  if (state[key] !== undefined) checkArray(state[key], first, `${key} of the state`, size);
}
