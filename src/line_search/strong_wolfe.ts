/**
 * A line search for the strong Wolfe conditions, by cubic interpolation: torch's, with its constants.
 *
 * ```text
 * phi(a) <= phi(0) + c1 a phi'(0)     and     |phi'(a)| <= -c2 phi'(0)
 * ```
 *
 * First a bracket is sought, by extrapolation to at most ten times the step; then it is narrowed (Nocedal & Wright 2006,
 * algorithms 3.5 and 3.6; the way of minFunc, of which torch's `_strong_wolfe` is a port). Departures from the book:
 *
 * - a trial close to an end of the bracket (a tenth of its width), twice in a row or beyond it, is moved a tenth inside: else
 *   an interpolation that is wrong in the same way each time converges on an end;
 * - a value or a slope that is not finite is "too far": before any finite trial the step shrinks tenfold, later it is
 *   halved towards the last good point, and such a point is never returned. (torch compares with NaN, which is always
 *   false, and then extrapolates: the step grows fivefold at each trial);
 * - the lower end of the bracket is one that satisfies the first condition, as in the book. torch takes the lower value: a point
 *   far out that is a little lower than the start, but not as much as its distance demands, then throws the start out of the
 *   bracket, and the search closes in on nothing (Moré & Thuente's function 5.1 from a first trial of 1000);
 * - the search ends where the bracket has no number inside it any more, where torch asks for the same point until its
 *   evaluations are used up;
 * - the comparison with the previous trial begins at the second trial, as in the book (torch's begins at the third).
 *
 * @module
 */

import { isFinitePoint, type Point, type Search } from "./line_search.ts";

/** Options of {@linkcode strongWolfe}. */
export interface StrongWolfeOptions {
  /** How many trials may follow the first one. */
  readonly maxTrials: number;
  /** The search ends where the bracket is narrower than this; default 0. */
  readonly tolerance?: number;
  /** Sufficient decrease, > 0 and < c2; default 1e-4. */
  readonly c1?: number;
  /** Curvature, > c1 and < 1; default 0.9. */
  readonly c2?: number;
}

/**
 * The minimum of the cubic through two points and their slopes, kept within bounds; the middle of the bounds where there is
 * none.
 */
export function cubicMinimum(p: Point, q: Point, low: number, high: number): number {
  const [left, right] = p.alpha <= q.alpha ? [p, q] : [q, p];
  const d1 = p.slope + q.slope - 3 * (p.value - q.value) / (p.alpha - q.alpha);
  const square = d1 * d1 - p.slope * q.slope;
  if (!(square >= 0)) return (low + high) / 2;
  const d2 = Math.sqrt(square);
  const at = right.alpha -
    (right.alpha - left.alpha) * ((right.slope + d2 - d1) / (right.slope - left.slope + 2 * d2));
  return at !== at ? (low + high) / 2 : Math.min(Math.max(at, low), high);
}

/**
 * Searches for a step that satisfies the strong Wolfe conditions.
 *
 * @param start alpha 0: the value, and the slope, which is < 0
 * @param first the first trial, > 0
 * @param options see {@linkcode StrongWolfeOptions}
 */
export function* strongWolfe(start: Point, first: number, options: StrongWolfeOptions): Search {
  const { maxTrials, tolerance = 0, c1 = 1e-4, c2 = 0.9 } = options;
  const tooHigh = (p: Point) => p.value > start.value + c1 * p.alpha * start.slope;
  const flat = (p: Point) => Math.abs(p.slope) <= -c2 * start.slope;
  let trials = 0, previous = start, ceiling = Infinity, found = false;
  let p = yield { alpha: first, keep: [] };
  let ends: [Point, Point] | null = null; // of the bracket: the lower one, which satisfies the first condition, and the other

  while (trials < maxTrials) {
    let next: number;
    if (!isFinitePoint(p)) {
      ceiling = p.alpha;
      next = previous === start ? 0.1 * p.alpha : (previous.alpha + p.alpha) / 2;
      if (!(next > previous.alpha && next < ceiling)) break;
    } else {
      if (tooHigh(p) || (trials > 0 && previous !== start && p.value >= previous.value)) {
        ends = [previous, p];
        break;
      }
      if (flat(p)) {
        found = true;
        break;
      }
      if (p.slope >= 0) {
        ends = [p, previous];
        break;
      }
      const least = p.alpha + 0.01 * (p.alpha - previous.alpha), most = 10 * p.alpha;
      next = cubicMinimum(previous, p, least, most);
      if (next >= ceiling) next = (p.alpha + ceiling) / 2;
      previous = p;
    }
    p = yield { alpha: next, keep: [previous] };
    trials++;
  }
  if (found) return { point: p, ok: true };
  if (ends === null) { // out of trials
    const best = [start, previous, p].filter(isFinitePoint).reduce((a, b) => b.value < a.value ? b : a);
    return { point: best, ok: false };
  }

  let [low, high] = ends, stuck = false;
  while (trials < maxTrials) {
    const from = Math.min(low.alpha, high.alpha), to = Math.max(low.alpha, high.alpha), width = to - from;
    if (width < tolerance) break;
    let at = isFinitePoint(high) ? cubicMinimum(low, high, from, to) : (from + to) / 2;
    if (Math.min(to - at, at - from) < 0.1 * width) {
      if (stuck || at >= to || at <= from) {
        at = Math.abs(at - to) < Math.abs(at - from) ? to - 0.1 * width : from + 0.1 * width;
        stuck = false;
      } else {
        stuck = true;
      }
    } else {
      stuck = false;
    }
    if (!(at > from && at < to)) break;
    p = yield { alpha: at, keep: [low, high] };
    trials++;
    if (!isFinitePoint(p) || tooHigh(p) || p.value >= low.value) {
      high = p;
    } else {
      if (flat(p)) return { point: p, ok: true };
      if (p.slope * (high.alpha - low.alpha) >= 0) high = low;
      low = p;
    }
  }
  const best = isFinitePoint(high) && high.value < low.value ? high : low;
  return { point: best, ok: false };
}
