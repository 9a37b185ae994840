/**
 * The options that LBFGS and BFGS have both.
 *
 * @module
 */

import { boolean, count, nonNegative, oneOf, type Schema } from "./options.ts";

/** How a step is searched for along a direction. */
export type LineSearchFn = "strong_wolfe" | "hager_zhang";

/** The options that LBFGS and BFGS have both. */
export interface QuasiNewtonOptions {
  /** The first trial step is lr, and lr times the step itself without a line search; >= 0, default 1. */
  lr?: number;
  /** At most so many iterations a step, an integer >= 1; default 20. */
  maxIter?: number;
  /** At most so many evaluations a step, an integer >= 1; null (the default): maxIter * 5 / 4, rounded down. */
  maxEval?: number | null;
  /** A step ends where no gradient's magnitude is above this; >= 0, default 1e-7; 0 switches it off. */
  toleranceGrad?: number;
  /** A step ends where parameters or the loss change by no more than this; >= 0, default 1e-9; 0 switches it off. */
  toleranceChange?: number;
  /** How the step's length is found: null takes lr as it is. Default null for LBFGS, `"strong_wolfe"` for BFGS. */
  lineSearchFn?: LineSearchFn | null;
  /** Maximizes the objective instead of minimizing it; default false. */
  maximize?: boolean;
}

/** The options' checks, with a default for the line search. */
export function quasiNewtonSchema(lineSearchFn: LineSearchFn | null): Schema<QuasiNewtonOptions> {
  return {
    lr: nonNegative(1),
    maxIter: count(20),
    maxEval: {
      default: null,
      check: (value, name) => value === null ? undefined : count(1).check(value, name),
    },
    toleranceGrad: nonNegative(1e-7),
    toleranceChange: nonNegative(1e-9),
    lineSearchFn: oneOf(lineSearchFn, [null, "strong_wolfe", "hager_zhang"]),
    maximize: boolean(false),
  };
}
