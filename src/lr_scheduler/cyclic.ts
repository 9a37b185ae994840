/**
 * Cyclical learning rates.
 *
 * @module
 */

import { show } from "../errors.ts";
import { powInt } from "../optim/math.ts";
import type { AnyOptimizer } from "../optim/optimizer.ts";
import type { Schema } from "../optim/options.ts";
import type { OwnSchedule } from "./engine.ts";
import { momentumOf, momentumWriter } from "./momentum.ts";
import {
  aboveZero,
  atLeastZero,
  belowOne,
  callable,
  checkOptimizer,
  finite,
  flag,
  forLateGroup,
  LAST_EPOCH,
  listOf,
  numberOrList,
  oneOf,
  orNull,
  perGroup,
  read,
} from "./options.ts";
import { LRScheduler } from "./scheduler.ts";

/** The options of {@linkcode CyclicLR}. */
export interface CyclicLROptions {
  /** The lower rate, >= 0, or one for each group; written at once. */
  baseLr: number | readonly number[];
  /** The upper rate, >= 0, or one for each group. */
  maxLr: number | readonly number[];
  /** The steps from the lower rate to the upper one, > 0; default 2000. */
  stepSizeUp?: number;
  /** The steps back, >= 0; default null: as many as up. */
  stepSizeDown?: number | null;
  /**
   * How the height changes: `"triangular"` (default) not at all, `"triangular2"` halves with each cycle, `"exp_range"` is
   * times gamma^steps. Not used with `scaleFn`.
   */
  mode?: "triangular" | "triangular2" | "exp_range";
  /** The factor of `"exp_range"`, finite; default 1. */
  gamma?: number;
  /** The height as a function of the cycle (from 1) or of the steps (from 0), as `scaleMode` says. It is not saved. */
  scaleFn?: ((x: number) => number) | null;
  /** What `scaleFn` is a function of: `"cycle"` (default) or `"iterations"`. */
  scaleMode?: "cycle" | "iterations";
  /** Whether momentum, or the first beta, moves the other way; default true. */
  cycleMomentum?: boolean;
  /** The lower momentum, >= 0 and < 1, or one for each group; default 0.8. */
  baseMomentum?: number | readonly number[];
  /** The upper momentum, >= 0 and < 1, or one for each group; default 0.9. */
  maxMomentum?: number | readonly number[];
  /** The epoch that was the last one done, an integer >= -1; default -1, a new start. */
  lastEpoch?: number;
}

const MODES = ["triangular", "triangular2", "exp_range"];
const STATE = {
  maxLrs: listOf(atLeastZero()),
  totalSize: aboveZero(),
  stepRatio: aboveZero(),
  mode: oneOf("triangular", MODES),
  gamma: finite(1),
  scaleMode: oneOf("cycle", ["cycle", "iterations"]),
  cycleMomentum: flag(true),
  baseMomentums: listOf(belowOne()),
  maxMomentums: listOf(belowOne()),
};
const SCHEMA: Schema<CyclicLROptions> = {
  baseLr: numberOrList(),
  maxLr: numberOrList(),
  stepSizeUp: aboveZero(2000),
  stepSizeDown: orNull(atLeastZero()),
  mode: STATE.mode,
  gamma: STATE.gamma,
  scaleFn: orNull(callable),
  scaleMode: STATE.scaleMode,
  cycleMomentum: STATE.cycleMomentum,
  baseMomentum: numberOrList(0.8, belowOne()),
  maxMomentum: numberOrList(0.9, belowOne()),
  ...LAST_EPOCH,
};

/**
 * Goes up from `baseLr` to `maxLr` and back in straight lines, over and over. Step it after each batch.
 *
 * ```text
 * x = position in the cycle, 0 … 1        up = stepSizeUp / (stepSizeUp + stepSizeDown)
 * height = x / up while x <= up, (1 - x) / (1 - up) afterwards
 * lr = baseLr + (maxLr - baseLr) height scale        momentum = maxMomentum - (maxMomentum - baseMomentum) height scale
 * ```
 *
 * Paper: Smith 2015, "Cyclical Learning Rates for Training Neural Networks" (arXiv:1506.01186). torch source:
 * `torch/optim/lr_scheduler.py`. Differences: with `lastEpoch`, and after another scheduler was made, the first rate comes from
 * `baseLr` as well (torch's from `initialLr`); `initialLr` is what the group had before, so that other schedules' bases stay;
 * momentum that the optimizer did not have is warned of; inside a SequentialLR momentum is as it was until the turn comes.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { CyclicLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { momentum: 0.9 });
 * const scheduler = new CyclicLR(optimizer, { baseLr: 1, maxLr: 3, stepSizeUp: 2 });
 * assertEquals(scheduler.values(6), [[1], [2], [3], [2], [1], [2]]);
 * ```
 */
export class CyclicLR extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode CyclicLROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, lists of another length than the groups, `cycleMomentum` with an
   * optimizer that has no momentum, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options: CyclicLROptions) {
    checkOptimizer(optimizer);
    const custom = typeof options?.scaleFn === "function";
    const o = read(custom ? { ...options, mode: undefined } : options, SCHEMA, "CyclicLR") as Required<CyclicLROptions>;
    const { baseLr, maxLr, baseMomentum, maxMomentum, scaleFn, stepSizeUp, lastEpoch } = o;
    const count = optimizer.paramGroups.length, total = stepSizeUp + (o.stepSizeDown ?? stepSizeUp);
    const baseLrs = perGroup(baseLr, "baseLr", count);
    const state = {
      maxLrs: perGroup(maxLr, "maxLr", count),
      totalSize: total,
      stepRatio: stepSizeUp / total,
      mode: o.mode,
      gamma: o.gamma,
      scaleMode: custom ? o.scaleMode : o.mode === "exp_range" ? "iterations" : "cycle",
      cycleMomentum: o.cycleMomentum,
      baseMomentums: o.cycleMomentum ? perGroup(baseMomentum, "baseMomentum", count) : [],
      maxMomentums: o.cycleMomentum ? perGroup(maxMomentum, "maxMomentum", count) : [],
    };
    const scale = (cycle: number, t: number) => {
      const x = state.scaleMode === "cycle" ? cycle : t;
      if (scaleFn) {
        const factor: unknown = scaleFn(x);
        if (typeof factor !== "number") throw new TypeError(`scaleFn must return a number, got ${show(factor)}`);
        return factor;
      }
      return state.mode === "triangular" ? 1 : powInt(
        state.mode === "triangular2" ? 0.5 : state.gamma,
        x - (
          state.mode === "triangular2" ? 1 : 0
        ),
      );
    };
    // rate and momentum of all groups have the same height
    let knownAt = NaN, known = 0;
    const height = (t: number) => {
      if (t === knownAt) return known;
      const { totalSize, stepRatio } = state, cycle = Math.floor(1 + t / totalSize), x = 1 + t / totalSize - cycle;
      known = (x <= stepRatio ? x / stepRatio : (x - 1) / (stepRatio - 1)) * scale(cycle, t);
      knownAt = t;
      return known;
    };
    const schedule: OwnSchedule = {
      state,
      schema: STATE,
      lists: ["maxLrs", ...(o.cycleMomentum ? ["baseMomentums", "maxMomentums"] : [])],
      usesBase: false,
      loaded() {
        knownAt = NaN;
      },
      at: (base, t, group) => base + (state.maxLrs[group]! - base) * height(t),
      base: (_group, i) => baseLrs[i]!,
      adopt(group, i) {
        if (i < count) return;
        baseLrs[i] = forLateGroup(baseLr, "baseLr", group["lr"], i);
        state.maxLrs[i] = forLateGroup(maxLr, "maxLr", group["maxLr"], i);
        if (!o.cycleMomentum) return;
        state.baseMomentums[i] = forLateGroup(baseMomentum, "baseMomentum", group["baseMomentum"], i);
        state.maxMomentums[i] = forLateGroup(maxMomentum, "maxMomentum", group["maxMomentum"], i);
      },
    };
    if (o.cycleMomentum) {
      Object.assign(schedule, {
        ...momentumWriter(optimizer, momentumOf(optimizer, "CyclicLR"), (group, t) => {
          const most = state.maxMomentums[group]!;
          return most - (most - state.baseMomentums[group]!) * height(t);
        }),
        mark(group: Record<string, unknown>, i: number) {
          group["maxMomentum"] = state.maxMomentums[i];
          group["baseMomentum"] = state.baseMomentums[i];
        },
      });
    }
    super(optimizer, { lastEpoch }, schedule);
  }
}
