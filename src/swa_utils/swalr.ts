/**
 * The rate of stochastic weight averaging.
 *
 * @module
 */

import { cos } from "../optim/math.ts";
import type { AnyOptimizer } from "../optim/optimizer.ts";
import type { Schema } from "../optim/options.ts";
import type { OwnSchedule } from "../lr_scheduler/engine.ts";
import {
  atLeastZero,
  checkOptimizer,
  forLateGroup,
  integer,
  LAST_EPOCH,
  listOf,
  numberOrList,
  oneOf,
  perGroup,
  read,
} from "../lr_scheduler/options.ts";
import { LRScheduler } from "../lr_scheduler/scheduler.ts";

/** The options of {@linkcode SWALR}. */
export interface SWALROptions {
  /** The rate to go to, >= 0, or one for each group. */
  swaLr: number | readonly number[];
  /** The epochs until it is there, an integer >= 0; default 10. */
  annealEpochs?: number;
  /** How it goes there: `"cos"` (default) or `"linear"`. */
  annealStrategy?: "cos" | "linear";
  /** The epoch that was the last one done, an integer >= -1; default -1, a new start. */
  lastEpoch?: number;
}

const STATE = {
  swaLrs: listOf(atLeastZero()),
  annealEpochs: integer(0, 10),
  annealStrategy: oneOf("cos", ["cos", "linear"]),
};
const SCHEMA: Schema<SWALROptions> = {
  swaLr: numberOrList(),
  annealEpochs: STATE.annealEpochs,
  annealStrategy: STATE.annealStrategy,
  ...LAST_EPOCH,
};

/**
 * Takes the rate from whatever it is to `swaLr`, where it stays while weights are averaged.
 *
 * ```text
 * lr(k) = swaLr a(k) + lr (1 - a(k)) after k steps, where lr is what it would be without it
 * a(k) = min(1, k / annealEpochs), with "cos" (1 - cos(pi min(1, k / annealEpochs))) / 2
 * from lr(k - 1): lr = (lr(k - 1) - swaLr a(k - 1)) / (1 - a(k - 1))
 * ```
 *
 * It may be made at the start of training and stepped only later, in place of another scheduler. The groups get `swaLr`.
 *
 * Paper: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv:1803.05407). torch
 * source: `torch/optim/swa_utils.py`. Differences: none.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { SGD, SWALR } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new SWALR(optimizer, { swaLr: 0.5, annealEpochs: 2, annealStrategy: "linear" });
 * assertEquals(scheduler.values(4), [[1], [0.75], [0.5], [0.5]]);
 * ```
 */
export class SWALR extends LRScheduler {
  /**
   * Makes a schedule; the rates stay as they are, unless annealEpochs is 0.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode SWALROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, a `swaLr` list of another length than the groups, `lastEpoch` without
   * `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options: SWALROptions) {
    checkOptimizer(optimizer);
    const o = read(options, SCHEMA, "SWALR") as Required<SWALROptions>, count = optimizer.paramGroups.length;
    const { swaLr, annealEpochs, annealStrategy, lastEpoch } = o;
    const state = { swaLrs: perGroup(swaLr, "swaLr", count), annealEpochs, annealStrategy };
    const alpha = (k: number) => {
      const t = Math.max(0, Math.min(1, k / Math.max(1, state.annealEpochs)));
      return state.annealStrategy === "cos" ? (1 - cos(Math.PI * t)) / 2 : t;
    };
    const next = (value: number, group: number, steps: number) => {
      const k = state.annealEpochs === 0 ? Math.max(1, steps) : steps, swa = state.swaLrs[group]!;
      const before = alpha(k - 1), a = alpha(k), own = before === 1 ? swa : (value - before * swa) / (1 - before);
      return swa * a + own * (1 - a);
    };
    const schedule: OwnSchedule = {
      state,
      schema: STATE,
      inGroups: ["swaLrs"],
      lists: ["swaLrs"],
      at(base, t, group) {
        const a = state.annealEpochs === 0 ? 1 : alpha(t);
        return state.swaLrs[group]! * a + base * (1 - a);
      },
      next: (value, _base, _t, group, steps) => next(value, group, steps),
      start: (value, _base, group) => next(value, group, 0),
      adopt(group, i) {
        if (i >= count) state.swaLrs[i] = forLateGroup(swaLr, "swaLr", group["swaLr"], i);
      },
      mark(group, i) {
        group["swaLr"] = state.swaLrs[i];
      },
    };
    super(optimizer, { lastEpoch }, schedule);
  }
}
