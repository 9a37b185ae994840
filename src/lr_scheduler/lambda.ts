/**
 * The schedules that are a function of the user's.
 *
 * @module
 */

import { show } from "../errors.ts";
import type { AnyOptimizer } from "../optim/optimizer.ts";
import type { Schema } from "../optim/options.ts";
import type { OwnSchedule } from "./engine.ts";
import {
  callableOrList,
  checkOptimizer,
  COMMON,
  common,
  forLateGroup,
  perGroup,
  read,
  type SchedulerOptions,
} from "./options.ts";
import { LRScheduler } from "./scheduler.ts";

/** A factor by epoch: the first epoch is 0. */
export type LrLambda = (epoch: number) => number;

/** The functions of all groups. */
function lambdasOf(
  lrLambda: LrLambda | readonly LrLambda[],
  optimizer: AnyOptimizer,
): { call: (group: number, t: number) => number; schedule: Pick<OwnSchedule, "adopt"> } {
  const lambdas = perGroup<LrLambda>(lrLambda, "lrLambda", optimizer.paramGroups.length);
  return {
    call(group, t) {
      const factor = lambdas[group]!(t);
      if (typeof factor !== "number") throw new TypeError(`lrLambda must return a number, got ${show(factor)}`);
      if (factor !== factor) throw new RangeError(`lrLambda must return a number, got NaN at epoch ${t}`);
      return factor;
    },
    schedule: {
      adopt(_group, i) {
        lambdas[i] ??= forLateGroup<LrLambda>(lrLambda, "lrLambda", undefined, i);
      },
    },
  };
}

/** The options of {@linkcode LambdaLR}. */
export interface LambdaLROptions extends SchedulerOptions {
  /**
   * A function of the epoch, or one for each group. It is not saved.
   *
   * @param epoch from 0
   */
  lrLambda: LrLambda | readonly LrLambda[];
}

const LAMBDALR_SCHEMA: Schema<LambdaLROptions> = {
  lrLambda: callableOrList,
  ...COMMON,
};

/**
 * Multiplies what a group started from by a function of the epoch.
 *
 * ```text
 * value(t) = base lrLambda(t)
 * ```
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: none; the value is not chained: it forgets what other
 * schedulers did. Groups added later take part if there is one function for all.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { LambdaLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new LambdaLR(optimizer, { lrLambda: (epoch) => 1 / (1 + epoch) });
 * assertEquals(scheduler.values(4), [[1], [1 / 2], [1 / 3], [1 / 4]]);
 * ```
 */
export class LambdaLR extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode LambdaLROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options: LambdaLROptions) {
    checkOptimizer(optimizer);
    const o = read(options, LAMBDALR_SCHEMA, "LambdaLR"), lambdas = lambdasOf(o.lrLambda, optimizer);
    super(optimizer, common(o), {
      ...lambdas.schedule,
      at: (base, t, group) => base * lambdas.call(group, t),
    });
  }
}

/** The options of {@linkcode MultiplicativeLR}. */
export interface MultiplicativeLROptions extends SchedulerOptions {
  /**
   * A function of the epoch, or one for each group. It is not saved.
   *
   * @param epoch from 0
   */
  lrLambda: LrLambda | readonly LrLambda[];
}

const MULTIPLICATIVELR_SCHEMA: Schema<MultiplicativeLROptions> = {
  lrLambda: callableOrList,
  ...COMMON,
};

/**
 * Multiplies the value by a function of the epoch, each time.
 *
 * ```text
 * value(t) = base lrLambda(1) lrLambda(2) … lrLambda(t)
 * from value(t - 1): times lrLambda(t), for t > 0
 * ```
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: none. In a SequentialLR it goes on from the value of
 * the scheduler before it, times lrLambda(0), as in torch, and not from the base.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { MultiplicativeLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new MultiplicativeLR(optimizer, { lrLambda: () => 0.5 });
 * assertEquals(scheduler.values(4), [[1], [0.5], [0.25], [0.125]]);
 * ```
 */
export class MultiplicativeLR extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode MultiplicativeLROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options: MultiplicativeLROptions) {
    checkOptimizer(optimizer);
    const o = read(options, MULTIPLICATIVELR_SCHEMA, "MultiplicativeLR"), lambdas = lambdasOf(o.lrLambda, optimizer);
    super(optimizer, common(o), {
      ...lambdas.schedule,
      at(base, t, group) {
        let value = base;
        for (let k = 1; k <= t; k++) value *= lambdas.call(group, k);
        return value;
      },
      next: (value, _base, t, group, steps) => steps === 0 ? value : value * lambdas.call(group, t),
      start: (value, _base, group) => value * lambdas.call(group, 0),
    });
  }
}
