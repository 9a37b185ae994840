/**
 * The line search of Hager & Zhang, for the Wolfe conditions or, where rounding hides them, the approximate ones.
 *
 * ```text
 * T1:  phi(a) - phi(0) <= delta a phi'(0)               and  phi'(a) >= sigma phi'(0)
 * T2:  (2 delta - 1) phi'(0) >= phi'(a) >= sigma phi'(0)  and  phi(a) <= limit
 * ```
 *
 * Near a minimum phi(a) - phi(0) is all rounding; the slopes of T2 are still exact there, so that the search reaches a gradient
 * of 1e-9 where one for T1 alone stops at 1e-4.
 *
 * Papers: Hager & Zhang 2005, "A new conjugate gradient method with guaranteed descent and an efficient line search", SIAM J.
 * Optim. 16; 2006, "Algorithm 851: CG_DESCENT", ACM TOMS 32. Departures, and why:
 *
 * - every point is tested as soon as it is known, not only at the ends of steps: it can only save evaluations;
 * - the first trial is the caller's (a quasi-Newton method knows the step's length: 1), not that of CG_DESCENT;
 * - a value or a slope that is not finite is "too far" (the papers have none): before any finite trial the step shrinks
 *   tenfold, later it is halved towards the last good point;
 * - the search ends where the interval has no number inside it, or after `maxTrials`, with the best point it has seen.
 *
 * @module
 */

import { type Found, isFinitePoint, type Point, type Search, type Trial } from "./line_search.ts";

/** Options of {@linkcode hagerZhang}. */
export interface HagerZhangOptions {
  /** What phi may be in T2: phi(0) + epsilon C, with C an average of |f| (the papers' epsilon_k). */
  readonly limit: number;
  /** How many trials may follow the first one; default 49. */
  readonly maxTrials?: number;
  /** Sufficient decrease, > 0 and < 0.5; default 0.1. */
  readonly delta?: number;
  /** Curvature, >= delta and < 1; default 0.9. */
  readonly sigma?: number;
  /** Where an interval is split when a point is too high: default 0.5, the middle. */
  readonly theta?: number;
  /** How much an interval has to shrink before it is halved; default 0.66. */
  readonly gamma?: number;
  /** How much the step grows while a bracket is sought; default 5. */
  readonly rho?: number;
}

/** An interval [a, b]: phi(a) <= limit, phi'(a) < 0, phi'(b) >= 0. */
type Interval = readonly [Point, Point];

/** Where a line through two slopes is 0. */
function secant(p: Point, q: Point): number {
  return (p.alpha * q.slope - q.alpha * p.slope) / (q.slope - p.slope);
}

/** The state of a search. */
class HagerZhang {
  best: Point;
  accepted: Point | null = null;
  #trials = 0;
  readonly #options: Required<HagerZhangOptions>;

  constructor(readonly start: Point, options: HagerZhangOptions) {
    this.best = start;
    this.#options = { maxTrials: 49, delta: 0.1, sigma: 0.9, theta: 0.5, gamma: 0.66, rho: 5, ...options };
  }

  /** Whether to stop: a point was accepted, or there are no trials left. */
  get over(): boolean {
    return this.accepted !== null || this.#trials > this.#options.maxTrials;
  }

  /** phi at a point, which is tested. */
  *at(alpha: number): Generator<Trial, Point, Point> {
    const p = yield { alpha, keep: this.best === this.start ? [] : [this.best] };
    this.#trials++;
    if (isFinitePoint(p)) {
      const { start } = this, { delta, sigma, limit } = this.#options;
      const curved = p.slope >= sigma * start.slope;
      const lower = p.value - start.value <= delta * alpha * start.slope;
      const nearly = (2 * delta - 1) * start.slope >= p.slope && p.value <= limit;
      if (curved && (lower || nearly)) this.accepted = p;
      if (p.value < this.best.value) this.best = p;
    }
    return p;
  }

  /** An interval, from a first trial on. */
  *bracket(first: number): Generator<Trial, Interval | null, Point> {
    const { limit, rho } = this.#options;
    let good = this.start, alpha = first, ceiling = Infinity;
    while (!this.over) {
      const p = yield* this.at(alpha);
      if (this.over) break;
      if (!isFinitePoint(p)) {
        ceiling = alpha;
        alpha = good === this.start ? 0.1 * alpha : (good.alpha + alpha) / 2;
      } else {
        if (p.slope >= 0) return [good, p];
        if (p.value > limit) return yield* this.split(this.start, p);
        good = p;
        alpha = rho * alpha < ceiling ? rho * alpha : (alpha + ceiling) / 2;
      }
      if (!(alpha > good.alpha && alpha < ceiling)) break;
    }
    return null;
  }

  /** U3: an interval within [a, b], where phi'(b) < 0 but phi(b) is too high, or not finite. */
  *split(a: Point, b: Point): Generator<Trial, Interval, Point> {
    const { limit, theta } = this.#options;
    while (!this.over) {
      const alpha = (1 - theta) * a.alpha + theta * b.alpha;
      if (!(alpha > a.alpha && alpha < b.alpha)) break;
      const p = yield* this.at(alpha);
      if (isFinitePoint(p) && p.slope >= 0) return [a, p];
      if (p.value <= limit && isFinitePoint(p)) a = p;
      else b = p;
    }
    return [a, b];
  }

  /** U0 … U3: a narrower interval, by the point at `alpha`; the same one where that lies outside. */
  *update([a, b]: Interval, alpha: number): Generator<Trial, Interval, Point> {
    if (!(alpha > a.alpha && alpha < b.alpha) || this.over) return [a, b];
    const p = yield* this.at(alpha);
    if (isFinitePoint(p)) {
      if (p.slope >= 0) return [a, p];
      if (p.value <= this.#options.limit) return [p, b];
    }
    return yield* this.split(a, p);
  }

  /** S1 … S4: the double secant step. */
  *secant2(interval: Interval): Generator<Trial, Interval, Point> {
    const [a, b] = interval, c = secant(a, b);
    const narrower = yield* this.update(interval, c), [A, B] = narrower;
    if (this.over) return narrower;
    if (c === B.alpha) return yield* this.update(narrower, secant(b, B));
    if (c === A.alpha) return yield* this.update(narrower, secant(a, A));
    return narrower;
  }

  /** The whole search. */
  *run(first: number): Search {
    let interval = yield* this.bracket(first);
    while (interval !== null && !this.over) {
      const [a, b] = interval, width = b.alpha - a.alpha;
      if (!(width > Number.EPSILON * b.alpha)) break;
      let next = yield* this.secant2(interval);
      if (!this.over && next[1].alpha - next[0].alpha > this.#options.gamma * width) {
        next = yield* this.update(next, (next[0].alpha + next[1].alpha) / 2);
      }
      if (next[0] === a && next[1] === b) break;
      interval = next;
    }
    return this.#found();
  }

  #found(): Found {
    return this.accepted ? { point: this.accepted, ok: true } : { point: this.best, ok: false };
  }
}

/**
 * Searches for a step that satisfies the Wolfe conditions or the approximate ones.
 *
 * @param start alpha 0: the value, and the slope, which is < 0
 * @param first the first trial, > 0
 * @param options see {@linkcode HagerZhangOptions}
 */
export function hagerZhang(start: Point, first: number, options: HagerZhangOptions): Search {
  return new HagerZhang(start, options).run(first);
}
