/**
 * Cosine annealing with warm restarts.
 *
 * @module
 */

import { show, StateDictError } from "../errors.ts";
import { cos } from "../optim/math.ts";
import type { AnyOptimizer } from "../optim/optimizer.ts";
import type { Schema } from "../optim/options.ts";
import { LeafEngine, type OwnSchedule } from "./engine.ts";
import { checkOptimizer, COMMON, finite, integer, readState, type SchedulerOptions } from "./options.ts";
import { LRScheduler, stepBy } from "./scheduler.ts";

/** The options of {@linkcode CosineAnnealingWarmRestarts}. */
export interface CosineAnnealingWarmRestartsOptions extends SchedulerOptions {
  /** The epochs until the first restart, an integer >= 1. */
  t0: number;
  /** The factor by which each cycle is longer than the one before, an integer >= 1; default 1. */
  tMult?: number;
  /** The lowest value, finite; default 0. */
  etaMin?: number;
}

const SCHEMA: Schema<CosineAnnealingWarmRestartsOptions> = {
  t0: integer(1),
  tMult: integer(1, 1),
  etaMin: finite(0),
  ...COMMON,
};

/** Where in its cycle an epoch is: the epochs since the restart, and the length of the cycle. */
function cycleOf(t: number, t0: number, tMult: number): [current: number, length: number] {
  if (tMult === 1) return [t % t0, t0];
  let start = 0, length = t0;
  while (t >= start + length) {
    start += length;
    length *= tMult;
  }
  return [t - start, length];
}

class WarmRestartsEngine extends LeafEngine {
  protected override readonly furtherKeys = ["tCur", "tI"];

  #options(): { t0: number; tMult: number } {
    return this.schedule.state as { t0: number; tMult: number };
  }

  override save(): Record<string, unknown> {
    const { t0, tMult } = this.#options(), [tCur, tI] = cycleOf(this.lastEpoch + this.fraction, t0, tMult);
    return { ...super.save(), tCur, tI };
  }

  override read(dict: Record<string, unknown>, groups: number): () => void {
    const commit = super.read(dict, groups), { tCur } = dict, lastEpoch = dict["lastEpoch"] as number;
    const { t0 = this.#options().t0, tMult = this.#options().tMult } = dict as { t0?: number; tMult?: number };
    let fraction = 0;
    if (tCur !== undefined) {
      const whole = cycleOf(Math.max(0, lastEpoch), t0, tMult)[0];
      fraction = typeof tCur === "number" ? tCur - whole : NaN;
      if (lastEpoch >= 0 && !(fraction >= 0 && fraction < 1)) {
        throw new StateDictError(
          `tCur must be >= ${whole} and < ${whole + 1} at lastEpoch ${lastEpoch}, got ${show(tCur)}`,
        );
      }
    }
    return () => {
      commit();
      this.fraction = lastEpoch < 0 ? 0 : fraction;
    };
  }
}

/**
 * Takes the value to `etaMin` along half a cosine, and then starts again from the top, each time for `tMult` times as long.
 *
 * ```text
 * value(t) = etaMin + (base - etaMin) (1 + cos(pi tCur / tI)) / 2
 * tCur = t - (start of the cycle that t is in), tI = the length of that cycle: t0, t0 tMult, t0 tMult², …
 * ```
 *
 * `step(epoch)` goes to any epoch, whole or not, say `epoch + batch / batches`; `step()` to the next.
 *
 * Paper: Loshchilov & Hutter 2016, "SGDR: Stochastic Gradient Descent with Warm Restarts" (arXiv:1608.03983). torch source:
 * `torch/optim/lr_scheduler.py`. Differences: cycles are counted in integers, where torch takes a logarithm that is one
 * cycle off at some restarts (t0 1, tMult 3, epoch 121), and `lastEpoch` finds its cycle (torch takes it to be in the first
 * one).
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { CosineAnnealingWarmRestarts, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new CosineAnnealingWarmRestarts(optimizer, { t0: 2, tMult: 2 });
 * assertEquals(scheduler.values(7).map(([lr]) => lr!.toFixed(2)), ["1.00", "0.50", "1.00", "0.85", "0.50", "0.15", "1.00"]);
 * optimizer.step();
 * scheduler.step(2.5);
 * assertEquals(optimizer.paramGroups[0]!.lr.toFixed(3), "0.962");
 * ```
 */
export class CosineAnnealingWarmRestarts extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode CosineAnnealingWarmRestartsOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options: CosineAnnealingWarmRestartsOptions) {
    checkOptimizer(optimizer);
    const o = readState(options, SCHEMA, "CosineAnnealingWarmRestarts");
    const schedule: OwnSchedule = {
      state: o.state,
      schema: o.schema,
      at(base, t) {
        const { t0, tMult, etaMin } = o.state, [current, length] = cycleOf(t, t0, tMult);
        return etaMin + (base - etaMin) * (1 + cos(Math.PI * current / length)) / 2;
      },
      engine: (owner, field, lastEpoch) => new WarmRestartsEngine(schedule, owner, field, lastEpoch),
    };
    super(optimizer, o.common, schedule);
  }

  /**
   * Goes to an epoch and writes its values.
   *
   * @param epoch the epoch, >= 0, whole or not; without it the next one
   * @throws {TypeError} for an epoch that is no number
   * @throws {RangeError} for an epoch that is negative or not finite
   */
  override step(epoch?: number): void {
    if (epoch === undefined) {
      stepBy(this, (engine, values) => engine.advance(values));
      return;
    }
    if (typeof epoch !== "number") throw new TypeError(`epoch must be a number, got ${show(epoch)}`);
    if (!(epoch >= 0 && epoch < Infinity)) throw new RangeError(`epoch must be >= 0 and finite, got ${show(epoch)}`);
    stepBy(this, (engine, values) => (engine as LeafEngine).jump(values, epoch));
  }
}
