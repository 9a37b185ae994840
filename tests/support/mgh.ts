/**
 * The problems of Moré, Garbow and Hillstrom that BFGS is judged by, with the evaluations that a prototype of its
 * specification took to a gradient of at most 1e-8 in each line search; minima are in tests/golden/mgh.json.
 *
 * @module
 */

import { FUNCTIONS, type TestFunction } from "./functions.ts";

/** A problem. */
export interface Problem {
  /** Its number in the paper. */
  readonly number: number;
  /** Its name in tests/golden/mgh.json. */
  readonly name: string;
  /** The function. */
  readonly fn: TestFunction;
  /** Where the search starts. */
  readonly start: readonly number[];
  /** Evaluations of the prototype, by line search. */
  readonly evaluations: { readonly strong_wolfe: number; readonly hager_zhang: number };
}

const repeated = (n: number, ...values: number[]): number[] =>
  Array.from({ length: n }, (_, i) => values[i % values.length]!);
const formula = (n: number, at: (j: number) => number): number[] => Array.from({ length: n }, (_, i) => at(i + 1));

function problem(number: number, name: string, start: readonly number[], wolfe: number, hagerZhang: number): Problem {
  const fn = FUNCTIONS[name]!;
  return { number, name, fn, start, evaluations: { strong_wolfe: wolfe, hager_zhang: hagerZhang } };
}

/** The problems. */
export const PROBLEMS: readonly Problem[] = [
  problem(1, "rosenbrock", [-1.2, 1], 48, 60),
  problem(3, "powellBadlyScaled", [0, 1], 216, 282),
  problem(5, "beale", [1, 1], 18, 18),
  problem(7, "helicalValley", [-1, 0, 0], 34, 32),
  problem(8, "bard", [1, 1, 1], 29, 29),
  problem(12, "box3d", [0, 10, 20], 42, 37),
  problem(13, "powellSingular", [3, -1, 0, 1], 71, 71),
  problem(14, "wood", [-3, -1, -3, -1], 62, 51),
  problem(15, "kowalikOsborne", [0.25, 0.39, 0.415, 0.39], 38, 38),
  problem(16, "brownDennis", [25, 5, -5, -1], 180, 40), // the prototype's strong Wolfe search stalls at 2e-4
  problem(18, "biggsExp6", [1, 2, 1, 1, 1, 1], 49, 51),
  problem(20, "watson", repeated(9, 0), 121, 122),
  problem(21, "extendedRosenbrock", repeated(100, -1.2, 1), 50, 62),
  problem(23, "penaltyOne", formula(10, (j) => j), 89, 81),
  problem(25, "variablyDimensioned", formula(10, (j) => 1 - j / 10), 22, 22),
  problem(30, "broydenTridiagonal", repeated(50, -1), 37, 37),
  problem(35, "chebyquad", formula(8, (j) => j / 9), 33, 33),
];
