/**
 * A rate that follows a metric.
 *
 * @module
 */

import { show, StateDictError } from "../errors.ts";
import type { AnyOptimizer } from "../optim/optimizer.ts";
import type { Schema } from "../optim/options.ts";
import { checkEntry, checkKeys, type Cursor, Engine, type Group, readInteger, readNumbers } from "./engine.ts";
import {
  atLeastZero,
  belowOne,
  checkOptimizer,
  forLateGroup,
  integer,
  listOf,
  numberOrList,
  oneOf,
  perGroup,
  read,
} from "./options.ts";
import { LRScheduler, stepBy } from "./scheduler.ts";

/** The options of {@linkcode ReduceLROnPlateau}. */
export interface ReduceLROnPlateauOptions {
  /** Whether a better metric is lower, `"min"` (default), or higher, `"max"`. */
  mode?: "min" | "max";
  /** What the rate is multiplied by, >= 0 and < 1; default 0.1. */
  factor?: number;
  /** How many bad epochs in a row are put up with, an integer >= 0; default 10. */
  patience?: number;
  /** By how much a metric must be better to count, >= 0; default 1e-4. */
  threshold?: number;
  /** Whether threshold is a part of the best metric's magnitude, `"rel"` (default), or a difference, `"abs"`. */
  thresholdMode?: "rel" | "abs";
  /** For how many epochs after a reduction bad ones do not count, an integer >= 0; default 0. */
  cooldown?: number;
  /** The lowest rate, >= 0, or one for each group; default 0. */
  minLr?: number | readonly number[];
  /** A reduction by no more than this is left out, >= 0; default 1e-8. */
  eps?: number;
}

type State = {
  mode: "min" | "max";
  factor: number;
  patience: number;
  threshold: number;
  thresholdMode: "rel" | "abs";
  cooldown: number;
  eps: number;
  minLrs: number[];
};

const STATE: Schema<State> = {
  mode: oneOf("min", ["min", "max"]),
  factor: belowOne(0.1),
  patience: integer(0, 10),
  threshold: atLeastZero(1e-4),
  thresholdMode: oneOf("rel", ["rel", "abs"]),
  cooldown: integer(0, 0),
  eps: atLeastZero(1e-8),
  minLrs: listOf(atLeastZero()),
};
const { minLrs: _, ...OPTIONS } = STATE;
const SCHEMA: Schema<ReduceLROnPlateauOptions> = { ...OPTIONS, minLr: numberOrList(0) };

class PlateauEngine extends Engine {
  override lastEpoch = 0;
  override readonly keepsBase = false;
  readonly field = "lr";
  best: number;
  cooldownCounter = 0;
  numBadEpochs = 0;

  constructor(readonly options: State, readonly minLr: number | readonly number[]) {
    super();
    this.best = this.#worst();
  }

  #worst(): number {
    return this.options.mode === "min" ? Infinity : -Infinity;
  }

  #isBetter(metric: number): boolean {
    const { mode, threshold, thresholdMode } = this.options, { best } = this;
    if (metric === best) return false; // a negative best's margin is on the wrong side, as torch has it
    if (Math.abs(best) === Infinity) return mode === "min" ? metric < best : metric > best;
    const [low, high] = thresholdMode === "abs"
      ? [best - threshold, best + threshold]
      : [best * (1 - threshold), best * (1 + threshold)];
    return mode === "min" ? metric < low : metric > high;
  }

  /** Takes a metric in. */
  take(values: number[], metric: number): void {
    const { patience, cooldown, factor, eps, minLrs } = this.options;
    this.lastEpoch++;
    if (this.#isBetter(metric)) {
      this.best = metric;
      this.numBadEpochs = 0;
    } else {
      this.numBadEpochs++;
    }
    if (this.cooldownCounter > 0) {
      this.cooldownCounter--;
      this.numBadEpochs = 0;
    }
    if (this.numBadEpochs <= patience) return;
    for (let i = 0; i < values.length; i++) {
      const value = values[i]!, reduced = Math.max(value * factor, minLrs[i]!);
      if (value - reduced > eps) values[i] = reduced;
    }
    this.cooldownCounter = cooldown;
    this.numBadEpochs = 0;
  }

  override adopt(groups: readonly Group[]): void {
    const { minLrs } = this.options;
    groups.forEach((group, i) => this.lastLr[i] ??= group["lr"] as number);
    for (let i = minLrs.length; i < groups.length; i++) {
      minLrs[i] = forLateGroup(this.minLr, "minLr", groups[i]!["minLr"], i);
    }
  }
  override mark(): void {}
  override construct(): void {}
  override first(): void {}
  override takeOver(): void {}
  override advance(): void {
    throw new TypeError("ReduceLROnPlateau has no values ahead: they depend on metrics");
  }
  override reset(): void {}
  override cursor(): Cursor {
    return [];
  }
  override seek(): void {}

  override save(): Record<string, unknown> {
    const { lastEpoch, best, cooldownCounter, numBadEpochs, options, lastLr } = this;
    return { lastEpoch, best, cooldownCounter, numBadEpochs, lastLr: [...lastLr], ...structuredClone(options) };
  }

  override read(dict: Record<string, unknown>, groups: number): () => void {
    const further = ["lastEpoch", "best", "cooldownCounter", "numBadEpochs", "lastLr"];
    checkKeys(dict, [...further, ...Object.keys(STATE), "defaultMinLr", "modeWorse"]);
    const options: Record<string, unknown> = {};
    for (const key of Object.keys(STATE) as (keyof State)[]) {
      if (!Object.hasOwn(dict, key)) {
        throw new StateDictError(`${key} must be in the state dict of a ReduceLROnPlateau, got none`);
      }
      checkEntry(STATE[key], dict[key], key);
      options[key] = structuredClone(dict[key]);
    }
    if (options["minLrs"]) readNumbers(dict, "minLrs", groups);
    const lastEpoch = readInteger(dict, "lastEpoch", 0);
    const cooldownCounter = readInteger(dict, "cooldownCounter", 0),
      numBadEpochs = readInteger(dict, "numBadEpochs", 0);
    const lastLr = readNumbers(dict, "lastLr", groups, this.lastLr);
    const { best } = dict, none = best === null || best === "Infinity" || best === "-Infinity"; // JSON has no infinity
    if (!none && (typeof best !== "number" || best !== best)) {
      throw new StateDictError(`best must be a number, or null for none yet, got ${show(best)}`);
    }
    return () => {
      Object.assign(this.options, options);
      Object.assign(this, { lastEpoch, cooldownCounter, numBadEpochs, lastLr });
      this.best = none ? this.#worst() : best as number;
    };
  }
}

/** Whether a scheduler goes by metrics. */
export const isPlateau = (engine: Engine): boolean => engine instanceof PlateauEngine;

/**
 * Multiplies the rate by `factor` when a metric has not become better for `patience` epochs.
 *
 * ```text
 * better: metric < best - margin with "min", metric > best + margin with "max"
 * margin = threshold best with "rel", threshold with "abs"; the best itself, come again, is not better
 * not better more than patience times in a row: lr = max(lr factor, minLr), then cooldown epochs that do not count
 * ```
 *
 * NaN is never better. It has no base and writes nothing at construction.
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: a metric that stays where it is never counts as better. (With
 * `"rel"` and a negative best the margin is on the wrong side, here as in torch, where a loss that stays at -10 counts as
 * better each time and the rate is never reduced: `"abs"` is the mode for such metrics.) Groups added later take part.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { ReduceLROnPlateau, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new ReduceLROnPlateau(optimizer, { factor: 0.5, patience: 1 });
 * for (const loss of [3, 2, 2, 2]) {
 *   optimizer.step();
 *   scheduler.step(loss);
 * }
 * assertEquals(scheduler.getLastLr(), [0.5]);
 * ```
 */
export class ReduceLROnPlateau extends LRScheduler {
  /**
   * Makes a scheduler; the rates stay as they are.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode ReduceLROnPlateauOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range, a `minLr` list of another length than the groups
   */
  constructor(optimizer: AnyOptimizer, options?: ReduceLROnPlateauOptions) {
    checkOptimizer(optimizer);
    const { minLr, ...o } = read(options, SCHEMA, "ReduceLROnPlateau") as Required<ReduceLROnPlateauOptions>;
    const minLrs = perGroup(minLr, "minLr", optimizer.paramGroups.length);
    super(optimizer, {}, new PlateauEngine({ ...o, minLrs }, minLr));
  }

  /**
   * Takes a metric in, and reduces the rates if it is time to.
   *
   * @param metric a number; NaN counts as bad
   * @throws {TypeError} for something that is no number
   */
  override step(metric: number): void {
    if (typeof metric !== "number") throw new TypeError(`metric must be a number, got ${show(metric)}`);
    stepBy(this, (engine, values) => (engine as PlateauEngine).take(values, metric));
  }

  /**
   * There is no looking ahead.
   *
   * @throws {TypeError} always
   */
  override values(_n: number): never {
    throw new TypeError("ReduceLROnPlateau has no values(n): they depend on metrics");
  }
}
