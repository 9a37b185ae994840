/**
 * The schedules that are a factor times what a group started from.
 *
 * @module
 */

import { pow, powInt } from "../optim/math.ts";
import type { AnyOptimizer } from "../optim/optimizer.ts";
import type { Schema } from "../optim/options.ts";
import {
  atLeastZero,
  COMMON,
  finite,
  integer,
  listOf,
  partOfOne,
  readState,
  type SchedulerOptions,
  upToOne,
} from "./options.ts";
import { LRScheduler } from "./scheduler.ts";

/** The options of {@linkcode StepLR}. */
export interface StepLROptions extends SchedulerOptions {
  /** The length of a period in epochs, an integer >= 1. */
  stepSize: number;
  /** The factor, finite; default 0.1. */
  gamma?: number;
}

const STEPLR_SCHEMA: Schema<StepLROptions> = {
  stepSize: integer(1),
  gamma: finite(0.1),
  ...COMMON,
};

/**
 * Multiplies the value by gamma every `stepSize` epochs.
 *
 * ```text
 * value(t) = base gamma^floor(t / stepSize)
 * from value(t - 1): times gamma where t is a multiple of stepSize, t > 0
 * ```
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: a `stepSize` of 0 is refused (torch: ZeroDivisionError at the first step).
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { StepLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new StepLR(optimizer, { stepSize: 2, gamma: 0.5 });
 * assertEquals(scheduler.values(5), [[1], [1], [0.5], [0.5], [0.25]]);
 * ```
 */
export class StepLR extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode StepLROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options: StepLROptions) {
    const o = readState(options, STEPLR_SCHEMA, "StepLR");
    super(optimizer, o.common, {
      ...o,
      at: (base, t) => base * powInt(o.state.gamma, Math.floor(t / o.state.stepSize)),
      next: (value, _base, t) => t === 0 || t % o.state.stepSize !== 0 ? value : value * o.state.gamma,
    });
  }
}

/** The options of {@linkcode MultiStepLR}. */
export interface MultiStepLROptions extends SchedulerOptions {
  /** The epochs, integers >= 0; each counts as often as it is there. */
  milestones: readonly number[];
  /** The factor, finite; default 0.1. */
  gamma?: number;
}

const MULTISTEPLR_SCHEMA: Schema<MultiStepLROptions> = {
  milestones: listOf(integer(0)),
  gamma: finite(0.1),
  ...COMMON,
};

/**
 * Multiplies the value by gamma at each milestone.
 *
 * ```text
 * value(t) = base gamma^(how many milestones are <= t)
 * from value(t - 1): times gamma for each milestone that is t
 * ```
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: none; milestones may repeat and come in any order.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { MultiStepLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new MultiStepLR(optimizer, { milestones: [1, 3], gamma: 0.5 });
 * assertEquals(scheduler.values(5), [[1], [0.5], [0.5], [0.25], [0.25]]);
 * ```
 */
export class MultiStepLR extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode MultiStepLROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options: MultiStepLROptions) {
    const o = readState(options, MULTISTEPLR_SCHEMA, "MultiStepLR");
    const count = (holds: (m: number) => boolean) => {
      let n = 0;
      for (const m of o.state.milestones) if (holds(m)) n++;
      return n;
    };
    super(optimizer, o.common, {
      ...o,
      at: (base, t) => base * powInt(o.state.gamma, count((m) => m <= t)),
      next: (value, _base, t) => {
        const { milestones, gamma } = o.state;
        let times = 0;
        for (let i = 0; i < milestones.length; i++) if (milestones[i] === t) times++;
        return times === 0 ? value : value * powInt(gamma, times);
      },
    });
  }
}

/** The options of {@linkcode ConstantLR}. */
export interface ConstantLROptions extends SchedulerOptions {
  /** The factor, > 0 and <= 1; default 1/3. */
  factor?: number;
  /** How many epochs have it, an integer >= 1; default 5. */
  totalIters?: number;
}

const CONSTANTLR_SCHEMA: Schema<ConstantLROptions> = {
  factor: partOfOne(1 / 3),
  totalIters: integer(1, 5),
  ...COMMON,
};

/**
 * Multiplies the value by a factor for the first `totalIters` epochs.
 *
 * ```text
 * value(t) = base factor for t < totalIters, base afterwards
 * from value(t - 1): times factor at t = 0, divided by it at t = totalIters
 * ```
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: a factor of 0 is refused (torch: ZeroDivisionError at `totalIters`), and so is a `totalIters` of 0
 * (torch never undoes the factor).
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { ConstantLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new ConstantLR(optimizer, { factor: 0.5, totalIters: 2 });
 * assertEquals(scheduler.values(4), [[0.5], [0.5], [1], [1]]);
 * ```
 */
export class ConstantLR extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode ConstantLROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options?: ConstantLROptions) {
    const o = readState(options, CONSTANTLR_SCHEMA, "ConstantLR");
    super(optimizer, o.common, {
      ...o,
      at: (base, t) => t < o.state.totalIters ? base * o.state.factor : base,
      next(value, _base, t) {
        if (t === 0) return value * o.state.factor;
        return t === o.state.totalIters ? value * (1 / o.state.factor) : value;
      },
    });
  }
}

/** The options of {@linkcode LinearLR}. */
export interface LinearLROptions extends SchedulerOptions {
  /** The first factor, > 0 and <= 1; default 1/3. */
  startFactor?: number;
  /** The last factor, >= 0 and <= 1; default 1. */
  endFactor?: number;
  /** The epochs between them, an integer >= 1; default 5. */
  totalIters?: number;
}

const LINEARLR_SCHEMA: Schema<LinearLROptions> = {
  startFactor: partOfOne(1 / 3),
  endFactor: upToOne(1),
  totalIters: integer(1, 5),
  ...COMMON,
};

/**
 * Multiplies the value by a factor that goes from `startFactor` to `endFactor` in a straight line.
 *
 * ```text
 * value(t) = base (start + (end - start) min(t, T) / T)        T = totalIters
 * from value(t - 1): times 1 + (end - start) / (T start + (t - 1) (end - start)) for 0 < t <= T
 * ```
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: a `totalIters` of 0 is refused (torch stays at `startFactor` for ever);
 * an `endFactor` of 0 ends at 0 or a rounding above it (torch: or below it).
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { LinearLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new LinearLR(optimizer, { startFactor: 0.5, totalIters: 2 });
 * assertEquals(scheduler.values(4), [[0.5], [0.75], [1], [1]]);
 * ```
 */
export class LinearLR extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode LinearLROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options?: LinearLROptions) {
    const o = readState(options, LINEARLR_SCHEMA, "LinearLR");
    super(optimizer, o.common, {
      ...o,
      at(base, t) {
        const { startFactor, endFactor, totalIters } = o.state;
        return base * (startFactor + (endFactor - startFactor) * Math.min(totalIters, t) / totalIters);
      },
      next(value, _base, t, _group, steps) {
        const { startFactor, endFactor, totalIters } = o.state, rise = endFactor - startFactor;
        if (t === 0) return value * startFactor;
        if (steps === 0 || t > totalIters) return value;
        // with endFactor 0 the last factor is 0, which rounding may take below
        return value * Math.max(0, 1 + rise / (totalIters * startFactor + (t - 1) * rise));
      },
    });
  }
}

/** The options of {@linkcode ExponentialLR}. */
export interface ExponentialLROptions extends SchedulerOptions {
  /** The factor, finite. */
  gamma: number;
}

const EXPONENTIALLR_SCHEMA: Schema<ExponentialLROptions> = {
  gamma: finite(),
  ...COMMON,
};

/**
 * Multiplies the value by gamma every epoch.
 *
 * ```text
 * value(t) = base gamma^t
 * ```
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: none.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { ExponentialLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new ExponentialLR(optimizer, { gamma: 0.5 });
 * assertEquals(scheduler.values(4), [[1], [0.5], [0.25], [0.125]]);
 * ```
 */
export class ExponentialLR extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode ExponentialLROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options: ExponentialLROptions) {
    const o = readState(options, EXPONENTIALLR_SCHEMA, "ExponentialLR");
    super(optimizer, o.common, {
      ...o,
      at: (base, t) => base * powInt(o.state.gamma, t),
      next: (value, _base, _t, _group, steps) => steps === 0 ? value : value * o.state.gamma,
    });
  }
}

/** The options of {@linkcode PolynomialLR}. */
export interface PolynomialLROptions extends SchedulerOptions {
  /** The epochs until 0, an integer >= 1; default 5. */
  totalIters?: number;
  /** The power, >= 0; default 1. */
  power?: number;
}

const POLYNOMIALLR_SCHEMA: Schema<PolynomialLROptions> = {
  totalIters: integer(1, 5),
  power: atLeastZero(1),
  ...COMMON,
};

/**
 * Takes the value to 0 by a power of what is left of `totalIters`.
 *
 * ```text
 * value(t) = base (1 - min(t, T) / T)^power        T = totalIters
 * from value(t - 1): times ((1 - t / T) / (1 - (t - 1) / T))^power for 0 < t <= T
 * ```
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: a `totalIters` of 0 is refused (torch leaves the
 * value as it is, and its closed form is a ZeroDivisionError).
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { PolynomialLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new PolynomialLR(optimizer, { totalIters: 4, power: 1 });
 * assertEquals(scheduler.values(3), [[1], [0.75], [0.5]]);
 * ```
 */
export class PolynomialLR extends LRScheduler {
  /**
   * Makes a schedule, and writes its first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode PolynomialLROptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options?: PolynomialLROptions) {
    const o = readState(options, POLYNOMIALLR_SCHEMA, "PolynomialLR");
    super(optimizer, o.common, {
      ...o,
      at: (base, t) => base * pow(1 - Math.min(o.state.totalIters, t) / o.state.totalIters, o.state.power),
      next(value, _base, t, _group, steps) {
        const { totalIters, power } = o.state;
        if (steps === 0 || t > totalIters) return value;
        return value * pow((1 - t / totalIters) / (1 - (t - 1) / totalIters), power);
      },
    });
  }
}
