/**
 * What a line search is: it looks for a step along a direction, and knows nothing but phi(alpha) = f(x + alpha d).
 *
 * A search is a generator: it asks for phi at a point and is given it, so that one and the same code serves closures that
 * return a number and closures that return a Promise.
 *
 * @module
 */

/** A point on the line. */
export interface Point {
  /** The step. */
  readonly alpha: number;
  /** phi(alpha). */
  readonly value: number;
  /** The derivative of phi at alpha. */
  readonly slope: number;
}

/** What a search asks for: phi at `alpha`. */
export interface Trial {
  /** Where. */
  readonly alpha: number;
  /** The points asked for so far that the search may still end at; what belongs to others may be forgotten. */
  readonly keep: readonly Point[];
}

/** How a search ended. */
export interface Found {
  /** The point, which is finite: the start itself where nothing better was found. */
  readonly point: Point;
  /** Whether the point satisfies the search's conditions. */
  readonly ok: boolean;
}

/** A search: yields trials, is given points, returns what it found. */
export type Search = Generator<Trial, Found, Point>;

/** Whether phi and its derivative are finite at a point. */
export function isFinitePoint(p: Point): boolean {
  return Number.isFinite(p.value) && Number.isFinite(p.slope);
}

/**
 * Runs a search on a function.
 *
 * @param search the search
 * @param phi the value and the derivative at a step
 * @returns what it found, and how often phi was called
 */
export function runSearch(
  search: Search,
  phi: (alpha: number) => { readonly value: number; readonly slope: number },
): Found & { readonly evaluations: number } {
  let evaluations = 0, next = search.next();
  while (!next.done) {
    const { alpha } = next.value;
    evaluations++;
    next = search.next({ alpha, ...phi(alpha) });
  }
  return { ...next.value, evaluations };
}
