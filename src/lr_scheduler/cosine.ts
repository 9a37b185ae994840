/**
 * Cosine annealing, without restarts.
 *
 * @module
 */

import { cos } from "../optim/math.ts";
import type { AnyOptimizer } from "../optim/optimizer.ts";
import type { Schema } from "../optim/options.ts";
import { COMMON, finite, integer, readState, type SchedulerOptions } from "./options.ts";
import { LRScheduler } from "./scheduler.ts";

/** The options of {@linkcode CosineAnnealingLR}. */
export interface CosineAnnealingLROptions extends SchedulerOptions {
  /** The epochs of half a period, an integer >= 1. */
  tMax: number;
  /** The lowest value, finite; default 0. */
  etaMin?: number;
}

const COSINEANNEALINGLR_SCHEMA: Schema<CosineAnnealingLROptions> = {
  tMax: integer(1),
  etaMin: finite(0),
  ...COMMON,
};

/**
 * Takes the value to `etaMin` along half a cosine, and, if stepped on, back again.
 *
 * ```text
 * value(t) = etaMin + (base - etaMin) (1 + cos(pi t / tMax)) / 2
 * from value(t - 1): etaMin + (value - etaMin) (1 + cos(pi t / tMax)) / (1 + cos(pi (t - 1) / tMax)); at t = tMax + 1, where
 * that is 0 / 0, value + (base - etaMin) (1 - cos(pi / tMax)) / 2
 * ```
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: a `tMax` below 1 or not whole is refused (torch:
 * ZeroDivisionError at the first step for 0). As in torch, the value **rises again after tMax**: the period is 2 tMax. Paper:
 * Loshchilov & Hutter 2016, "SGDR" (arXiv:1608.03983), of which this has no restarts.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { CosineAnnealingLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new CosineAnnealingLR(optimizer, { tMax: 2 });
 * assertEquals(scheduler.values(3).map(([lr]) => Math.round(lr! * 1e9) / 1e9), [1, 0.5, 0]);
 * ```
 */
export class CosineAnnealingLR extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode CosineAnnealingLROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options: CosineAnnealingLROptions) {
    const o = readState(options, COSINEANNEALINGLR_SCHEMA, "CosineAnnealingLR");
    super(optimizer, o.common, {
      ...o,
      at: (base, t) => o.state.etaMin + (base - o.state.etaMin) * (1 + cos(Math.PI * t / o.state.tMax)) / 2,
      next(value, base, t, _group, steps) {
        const { tMax, etaMin } = o.state;
        if (steps === 0) return value;
        if ((t - 1 - tMax) % (2 * tMax) === 0) return value + (base - etaMin) * (1 - cos(Math.PI / tMax)) / 2;
        return (1 + cos(Math.PI * t / tMax)) / (1 + cos(Math.PI * (t - 1) / tMax)) * (value - etaMin) + etaMin;
      },
    });
  }
}
