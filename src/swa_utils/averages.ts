/**
 * The averages: how a new set of weights enters the average of those before.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";
import { checkKeys, show } from "../errors.ts";
import { runLists } from "../foreach_plan.ts";
import { LERP_RULE } from "../foreach_rules.ts";
import type { Parameter } from "../parameter.ts";

/**
 * A new value of an average's element, from its value, the model's, and how many updates came before. Numbers are float64, and
 * the result is rounded to the parameter's dtype once.
 */
export type AvgFn = (averaged: number, current: number, nAveraged: number) => number;

/**
 * Changes averages in place: the averaged tensors, the model's, which belong to them one by one and are all of one dtype, and
 * how many updates came before. The lists themselves, and the model's tensors, must stay as they are. A tensor and the one that
 * belongs to it are on the same device, where {@linkcode foreach} computes too.
 */
export type MultiAvgFn = (averaged: Parameter[], current: Parameter[], nAveraged: number) => void;

/** Options of {@linkcode getEmaMultiAvgFn} and {@linkcode getEmaAvgFn}. */
export interface EmaOptions {
  /** Whether the decay starts small and grows: `min(decay, (1 + n) / (10 + n))` after n updates; default false. */
  warmup?: boolean;
}

/** averaged += (current - averaged) / count. */
export const AVERAGE_RULE: Rule = {
  name: "average",
  buffers: ["averaged:rw", "current:r"],
  hypers: ["count"],
  flags: [],
  body(round, _flags, h, buffers, n) {
    const count = h[0]!, [averaged, current] = buffers as [Float64Array, Float64Array];
    for (let i = 0; i < n; i++) {
      const a = averaged[i]!;
      averaged[i] = round(a + round(round(current[i]! - a) / count));
    }
  },
};

const NAMES = ["averaged", "current"];

/** The decay after n updates, for checked options. */
function decayOf(decay: number, options: EmaOptions): (nAveraged: number) => number {
  if (typeof decay !== "number") throw new TypeError(`decay must be a number, got ${show(decay)}`);
  if (!(decay >= 0 && decay <= 1)) throw new RangeError(`decay must be >= 0 and <= 1, got ${show(decay)}`);
  checkKeys(options, ["warmup"], "an exponential average");
  const { warmup = false } = options;
  if (typeof warmup !== "boolean") throw new TypeError(`warmup must be a boolean, got ${show(warmup)}`);
  return warmup ? (n) => Math.min(decay, (1 + n) / (10 + n)) : () => decay;
}

/**
 * The exponential moving average, of all tensors in one call.
 *
 * ```text
 * averaged = decay averaged + (1 - decay) current          computed as averaged + (1 - decay) (current - averaged)
 * ```
 *
 * Paper: Polyak & Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging". torch source:
 * `torch/optim/swa_utils.py` (`get_ema_multi_avg_fn`). Differences: `warmup`, which torch does not have; without it the
 * first weights, which are hardly trained, keep a share of decay^n.
 *
 * @param decay what stays of the average, >= 0 and <= 1, default 0.999
 * @param options `warmup`: a decay of `min(decay, (1 + n) / (10 + n))` after n updates, default false
 * @returns a function for `new AveragedModel(model, { multiAvgFn })`
 * @throws {TypeError} for another kind of thing, or an unknown option
 * @throws {RangeError} for a decay out of range
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { getEmaMultiAvgFn, Parameter } from "@flatstep/optim";
 *
 * const averaged = new Parameter([0]), current = new Parameter([8]);
 * getEmaMultiAvgFn(0.75)([averaged], [current], 1);
 * assert(averaged.data[0] === 2);
 * ```
 */
export function getEmaMultiAvgFn(decay: number = 0.999, options: EmaOptions = {}): MultiAvgFn {
  const at = decayOf(decay, options);
  return (averaged, current, nAveraged) => {
    const d = at(nAveraged);
    runLists(LERP_RULE, 0, [averaged, current], NAMES, [1 - d, d]);
  };
}

/**
 * The equal average, of all tensors in one call: what {@linkcode AveragedModel} does by default.
 *
 * ```text
 * averaged += (current - averaged) / (nAveraged + 1)
 * ```
 *
 * Paper: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv:1803.05407). torch
 * source: `torch/optim/swa_utils.py` (`get_swa_multi_avg_fn`). Differences: torch multiplies by 1 / (nAveraged + 1), rounded
 * to the parameter's dtype; here the difference is divided.
 *
 * @returns a function for `new AveragedModel(model, { multiAvgFn })`
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { getSwaMultiAvgFn, Parameter } from "@flatstep/optim";
 *
 * const averaged = new Parameter([3]), current = new Parameter([6]);
 * getSwaMultiAvgFn()([averaged], [current], 2);
 * assert(averaged.data[0] === 4);
 * ```
 */
export function getSwaMultiAvgFn(): MultiAvgFn {
  return (averaged, current, nAveraged) => {
    runLists(AVERAGE_RULE, 0, [averaged, current], NAMES, [nAveraged + 1]);
  };
}

/**
 * The exponential moving average, element by element: `decay averaged + (1 - decay) current`. Slow;
 * {@linkcode getEmaMultiAvgFn} is the same but for rounding.
 *
 * torch source: `torch/optim/swa_utils.py` (`get_ema_avg_fn`). Differences: float64 arithmetic, rounded once; `warmup`.
 *
 * @param decay what stays of the average, >= 0 and <= 1, default 0.999
 * @param options `warmup`: a decay of `min(decay, (1 + n) / (10 + n))` after n updates, default false
 * @returns a function for `new AveragedModel(model, { avgFn })`
 * @throws {TypeError} for another kind of thing, or an unknown option
 * @throws {RangeError} for a decay out of range
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { getEmaAvgFn } from "@flatstep/optim";
 *
 * assert(getEmaAvgFn(0.75)(0, 8, 1) === 2);
 * ```
 */
export function getEmaAvgFn(decay: number = 0.999, options: EmaOptions = {}): AvgFn {
  const at = decayOf(decay, options);
  return (averaged, current, nAveraged) => {
    const d = at(nAveraged);
    return d * averaged + (1 - d) * current;
  };
}

/**
 * The equal average, element by element: `averaged + (current - averaged) / (nAveraged + 1)`. Slow;
 * {@linkcode getSwaMultiAvgFn} is the same but for rounding.
 *
 * torch source: `torch/optim/swa_utils.py` (`get_swa_avg_fn`). Differences: float64 arithmetic, rounded once.
 *
 * @returns a function for `new AveragedModel(model, { avgFn })`
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { getSwaAvgFn } from "@flatstep/optim";
 *
 * assert(getSwaAvgFn()(3, 6, 2) === 4);
 * ```
 */
export function getSwaAvgFn(): AvgFn {
  return (averaged, current, nAveraged) => averaged + (current - averaged) / (nAveraged + 1);
}
