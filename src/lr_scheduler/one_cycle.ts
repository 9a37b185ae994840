/**
 * The one cycle policy.
 *
 * @module
 */

import { show } from "../errors.ts";
import { cos } from "../optim/math.ts";
import type { AnyOptimizer } from "../optim/optimizer.ts";
import type { Schema } from "../optim/options.ts";
import type { OwnSchedule } from "./engine.ts";
import { momentumOf, momentumWriter } from "./momentum.ts";
import {
  aboveZero,
  atLeastZero,
  belowOne,
  checkOptimizer,
  flag,
  forLateGroup,
  integer,
  LAST_EPOCH,
  listOf,
  numberOrList,
  oneOf,
  orNull,
  perGroup,
  read,
  upToOne,
} from "./options.ts";
import { LRScheduler } from "./scheduler.ts";

/** The options of {@linkcode OneCycleLR}. */
export interface OneCycleLROptions {
  /** The highest rate, >= 0, or one for each group. */
  maxLr: number | readonly number[];
  /** The number of steps of the cycle, an integer >= 1; default null: `epochs` times `stepsPerEpoch`. */
  totalSteps?: number | null;
  /** The number of epochs, an integer >= 1; default null. */
  epochs?: number | null;
  /** The steps of an epoch, an integer >= 1; default null. */
  stepsPerEpoch?: number | null;
  /** The part of the cycle in which the rate goes up, >= 0 and <= 1, with `threePhase` <= 0.5; default 0.3. */
  pctStart?: number;
  /** How the rate goes from one value to the next: `"cos"` (default) or `"linear"`. */
  annealStrategy?: "cos" | "linear";
  /** Whether momentum, or the first beta, moves the other way; default true. */
  cycleMomentum?: boolean;
  /** The lower momentum, >= 0 and < 1, or one for each group; default 0.85. */
  baseMomentum?: number | readonly number[];
  /** The upper momentum, >= 0 and < 1, or one for each group; default 0.95. */
  maxMomentum?: number | readonly number[];
  /** The first rate is maxLr / divFactor; > 0; default 25. */
  divFactor?: number;
  /** The last rate is the first one / finalDivFactor; > 0; default 1e4. */
  finalDivFactor?: number;
  /** Whether the rate goes down in two phases: to the first rate in as long as it went up, then to the last; default false. */
  threePhase?: boolean;
  /** The epoch that was the last one done, an integer >= -1; default -1, a new start. */
  lastEpoch?: number;
}

const STATE = {
  totalSteps: integer(1),
  ends: listOf(atLeastZero()),
  annealStrategy: oneOf("cos", ["cos", "linear"]),
  cycleMomentum: flag(true),
  maxLrs: listOf(atLeastZero()),
  minLrs: listOf(atLeastZero()),
  baseMomentums: listOf(belowOne()),
  maxMomentums: listOf(belowOne()),
};
const SCHEMA: Schema<OneCycleLROptions> = {
  maxLr: numberOrList(),
  totalSteps: orNull(STATE.totalSteps),
  epochs: orNull(integer(1)),
  stepsPerEpoch: orNull(integer(1)),
  pctStart: upToOne(0.3),
  annealStrategy: STATE.annealStrategy,
  cycleMomentum: STATE.cycleMomentum,
  baseMomentum: numberOrList(0.85, belowOne()),
  maxMomentum: numberOrList(0.95, belowOne()),
  divFactor: aboveZero(25),
  finalDivFactor: aboveZero(1e4),
  threePhase: flag(false),
  ...LAST_EPOCH,
};

/** The length of the cycle. */
function totalOf({ totalSteps, epochs, stepsPerEpoch }: OneCycleLROptions): number {
  if (typeof totalSteps === "number") return totalSteps;
  if (typeof epochs === "number" && typeof stepsPerEpoch === "number") return epochs * stepsPerEpoch;
  throw new TypeError(
    `totalSteps, or epochs and stepsPerEpoch, must be given, got totalSteps ${show(totalSteps)}, epochs ${
      show(epochs)
    }, stepsPerEpoch ${show(stepsPerEpoch)}`,
  );
}

/**
 * One cycle: up from maxLr / divFactor to maxLr, and down to next to nothing. Step it after each batch.
 *
 * ```text
 * first = maxLr / divFactor        last = first / finalDivFactor        T = totalSteps
 * first → maxLr until step pctStart T - 1, then maxLr → last until step T - 1
 * with threePhase: first → maxLr until pctStart T - 1, maxLr → first until 2 pctStart T - 2, first → last until T - 1
 * momentum the other way: maxMomentum → baseMomentum → maxMomentum
 * a → b: b + (a - b) (1 + cos(pi x)) / 2 with "cos", a + (b - a) x with "linear", x from 0 to 1
 * ```
 *
 * The groups get `maxLr`, `minLr` and, with `cycleMomentum`, `maxMomentum` and `baseMomentum`.
 *
 * Paper: Smith & Topin 2017, "Super-Convergence" (arXiv:1708.07120). torch source: `torch/optim/lr_scheduler.py`.
 * Differences: a phase that ends before it begins has no length and the next one begins at step 0 (torch divides by zero, or
 * begins in the middle); `threePhase` with `pctStart` above 0.5, which never gets to its end, is refused; `step()` may be
 * called totalSteps times, once more than there are rates for, as in torch, and then keeps the last rate (torch's shoots up
 * again); `initialLr` is what the group had before, so that schedules beside this one in a SequentialLR keep their bases
 * (torch's is overwritten); momentum that the optimizer did not have is warned of.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { OneCycleLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { momentum: 0.9 });
 * const scheduler = new OneCycleLR(optimizer, {
 *   maxLr: 10, totalSteps: 6, pctStart: 0.5, divFactor: 5, annealStrategy: "linear", cycleMomentum: false,
 * });
 * assertEquals(scheduler.values(4).map(([lr]) => lr!.toFixed(2)), ["2.00", "6.00", "10.00", "6.67"]);
 * ```
 */
export class OneCycleLR extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode OneCycleLROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind, no length of the cycle
   * @throws {RangeError} for an option out of range, lists of another length than the groups, `cycleMomentum` with an
   * optimizer that has no momentum, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options: OneCycleLROptions) {
    checkOptimizer(optimizer);
    const o = read(options, SCHEMA, "OneCycleLR") as Required<OneCycleLROptions>;
    const { maxLr, baseMomentum, maxMomentum, pctStart, divFactor, finalDivFactor, threePhase, lastEpoch } = o;
    const total = totalOf(o), count = optimizer.paramGroups.length;
    if (threePhase && pctStart > 0.5) {
      throw new RangeError(`pctStart must be <= 0.5 with threePhase, got ${show(pctStart)}`);
    }
    const top = Math.max(0, pctStart * total - 1);
    const maxLrs = perGroup(maxLr, "maxLr", count), firsts = maxLrs.map((max) => max / divFactor);
    const state = {
      totalSteps: total,
      ends: threePhase ? [top, Math.max(top, 2 * pctStart * total - 2), total - 1] : [top, total - 1],
      annealStrategy: o.annealStrategy,
      cycleMomentum: o.cycleMomentum,
      maxLrs,
      minLrs: firsts.map((first) => first / finalDivFactor),
      baseMomentums: o.cycleMomentum ? perGroup(baseMomentum, "baseMomentum", count) : [],
      maxMomentums: o.cycleMomentum ? perGroup(maxMomentum, "maxMomentum", count) : [],
    };
    // the phase that t is in, and how far it has come: x from 0 to 1
    let phase = 0, x = 0;
    const find = (t: number) => {
      const { ends, totalSteps } = state, step = Math.min(t, totalSteps - 1);
      let start = 0;
      for (phase = 0; phase < ends.length - 1 && (step > ends[phase]! || ends[phase]! <= start); phase++) {
        start = ends[phase]!;
      }
      const length = ends[phase]! - start;
      x = length > 0 ? (step - start) / length : 1;
    };
    const between = (a: number, b: number) => {
      return state.annealStrategy === "cos" ? b + (a - b) / 2 * (cos(Math.PI * x) + 1) : (b - a) * x + a;
    };
    const schedule: OwnSchedule = {
      state,
      schema: STATE,
      inGroups: ["maxLrs", "minLrs", "baseMomentums", "maxMomentums"],
      lists: ["maxLrs", "minLrs", ...(o.cycleMomentum ? ["baseMomentums", "maxMomentums"] : [])],
      usesBase: false,
      at(base, t, group) {
        if (t > state.totalSteps) {
          throw new RangeError(`OneCycleLR must be stepped at most totalSteps = ${state.totalSteps} times, got ${t}`);
        }
        find(t);
        const max = state.maxLrs[group]!, min = state.minLrs[group]!, last = phase === state.ends.length - 1;
        if (phase === 0) return between(base, max);
        return phase === 1 ? between(max, last ? min : base) : between(base, min);
      },
      base: (_group, i) => firsts[i]!,
      adopt(group, i) {
        if (i < count) return;
        state.maxLrs[i] = forLateGroup(maxLr, "maxLr", group["maxLr"], i);
        firsts[i] = state.maxLrs[i]! / divFactor;
        state.minLrs[i] = firsts[i]! / finalDivFactor;
        if (!o.cycleMomentum) return;
        state.baseMomentums[i] = forLateGroup(baseMomentum, "baseMomentum", group["baseMomentum"], i);
        state.maxMomentums[i] = forLateGroup(maxMomentum, "maxMomentum", group["maxMomentum"], i);
      },
      mark(group, i) {
        group["maxLr"] = state.maxLrs[i];
        group["minLr"] = state.minLrs[i];
        if (!o.cycleMomentum) return;
        group["maxMomentum"] = state.maxMomentums[i];
        group["baseMomentum"] = state.baseMomentums[i];
      },
    };
    if (o.cycleMomentum) {
      const writer = momentumWriter(optimizer, momentumOf(optimizer, "OneCycleLR"), (group, t) => {
        const most = state.maxMomentums[group]!, least = state.baseMomentums[group]!;
        find(t);
        return phase === 0 ? between(most, least) : phase === 1 ? between(least, most) : most;
      });
      Object.assign(schedule, writer);
    }
    super(optimizer, { lastEpoch }, schedule);
  }
}
