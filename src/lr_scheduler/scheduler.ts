/**
 * The base of all schedulers.
 *
 * @module
 */

import { show, StateDictError } from "../errors.ts";
import type { AnyOptimizer } from "../optim/optimizer.ts";
import { Engine, type Group, initialKey, LeafEngine, type OwnSchedule, type Schedule } from "./engine.ts";
import { checkOptimizer, COMMON, read, refuseEpoch, type SchedulerOptions } from "./options.ts";

/**
 * A scheduler's state dict: where it stands, and its options, in torch's layout with camelCase names. Functions are not in
 * it, nor are the groups' values: those are in the optimizer's.
 */
export type SchedulerStateDict = Record<string, unknown>;

/** The engine of a scheduler, for the library's own classes. */
export let engineOf: (scheduler: LRScheduler) => Engine;
/** Moves a scheduler on by something else than one epoch, and writes the values. */
export let stepBy: (scheduler: LRScheduler, move: (engine: Engine, values: number[]) => void) => void;

/** What constructors wrote last: a value that differs from the initial one and is not here is the user's. */
const constructed = new WeakMap<object, Record<string, unknown>>();

/** Says once what torch says. */
const ORDER = "scheduler.step() was called before optimizer.step(): the first value of the schedule is skipped. " +
  "Call optimizer.step() first";

/**
 * The base class of all schedulers, to be subclassed: a scheduler writes a value into each param group of an optimizer, one
 * at construction and one at each `step()`, which comes after the optimizer's.
 *
 * A subclass gives a {@linkcode Schedule}, a pure function of a group's initial value and the epoch, and gets `values(n)`,
 * nesting in {@linkcode SequentialLR} and {@linkcode ChainedScheduler}, exact resuming and `field` with it. Or it overrides
 * `getLr()`, as in torch.
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: `values(n)` and `field`; groups added later take part, from
 * what they have then; `optimizer.step` is not wrapped; a constructor or a step that fails changes nothing; `initialLr`
 * that is out of date (the rate was changed by hand) is warned of; there is no `step(epoch)` but
 * CosineAnnealingWarmRestarts's.
 *
 * @example A schedule of one's own, two ways
 * ```ts
 * import { assert } from "@std/assert";
 * import { type AnyOptimizer, LRScheduler, SGD } from "@flatstep/optim";
 *
 * class InverseRoot extends LRScheduler {
 *   constructor(optimizer: AnyOptimizer, { lastEpoch = -1, field = "lr" } = {}) {
 *     super(optimizer, { lastEpoch, field }, { at: (base, t) => base / Math.sqrt(1 + t) });
 *   }
 * }
 * class AsInTorch extends LRScheduler {
 *   override getLr(): number[] {
 *     return this.baseLrs.map((base) => base / Math.sqrt(1 + this.lastEpoch));
 *   }
 * }
 * for (const Class of [InverseRoot, AsInTorch]) {
 *   const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 *   const scheduler = new Class(optimizer);
 *   for (let epoch = 0; epoch < 3; epoch++) {
 *     optimizer.step();
 *     scheduler.step();
 *   }
 *   assert(optimizer.paramGroups[0]!.lr === 0.5);
 * }
 * ```
 */
export abstract class LRScheduler {
  /** The optimizer whose groups are written to. */
  readonly optimizer: AnyOptimizer;
  /** The group option that is scheduled. */
  readonly field: string;

  readonly #engine: Engine;
  readonly #values: number[] = [];
  #known = 0;
  #checked = false;

  static {
    engineOf = (scheduler) => scheduler.#engine;
    stepBy = (scheduler, move) => scheduler.#stepBy(move);
  }

  /**
   * Makes a scheduler, and writes the first values.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode SchedulerOptions}
   * @param schedule the schedule; without it `getLr()` must be overridden. It is called before the subclass's fields are set
   * @throws {TypeError} for something that is no optimizer, an unknown option or one of the wrong kind, a field that the
   * groups do not have
   * @throws {RangeError} for an option out of range, `lastEpoch` without `initialLr` in every group
   */
  constructor(optimizer: AnyOptimizer, options?: SchedulerOptions, schedule?: Schedule) {
    checkOptimizer(optimizer);
    const owner = this.constructor.name;
    const own = schedule instanceof Engine ? schedule : null;
    const { lastEpoch, field } = own
      ? { lastEpoch: -1, field: own.field }
      : read(options, COMMON, owner) as { lastEpoch: number; field: string };
    this.optimizer = optimizer;
    this.field = field;
    const groups = optimizer.paramGroups as Group[], key = initialKey(field);
    groups.forEach((group, g) => {
      if (typeof group[field] !== "number" || !Object.hasOwn(optimizer.defaults, field)) {
        const numeric = Object.keys(optimizer.defaults).filter((k) => typeof group[k] === "number");
        throw new TypeError(`field must be a numeric group option, got ${show(field)}; there is ${numeric.join(", ")}`);
      }
      if (lastEpoch >= 0 && group[key] === undefined) {
        throw new RangeError(
          `${key} must be in paramGroups[${g}] to go on with lastEpoch ${lastEpoch}, got none: load the optimizer's ` +
            "state dict first, or the scheduler's own",
        );
      }
    });
    if (own) {
      this.#engine = own;
    } else if (this.getLr !== LRScheduler.prototype.getLr) {
      this.#engine = new GetLrEngine(this, schedule ?? NONE, owner, field, lastEpoch);
    } else {
      if (!schedule) throw new TypeError(`${owner} must give a schedule or override getLr()`);
      this.#engine = (schedule as OwnSchedule).engine?.(owner, field, lastEpoch) ??
        new LeafEngine(schedule, owner, field, lastEpoch);
    }
    const engine = this.#engine, values = this.#read(groups);
    engine.adopt(groups);
    engine.construct(values);
    if (engine.usesBase && lastEpoch < 0) warnOfStale(groups, field, key, owner);
    engine.prepare(groups);
    this.#write(groups, values, true);
    for (const group of groups) {
      const written = constructed.get(group) ?? {};
      constructed.set(group, written);
      written[field] = group[field];
    }
  }

  /** The epoch of the present values: 0 at first. */
  get lastEpoch(): number {
    return this.#engine.lastEpoch;
  }

  /** What each group's value started from. */
  get baseLrs(): number[] {
    return this.#engine.baseLrs;
  }

  #read(groups: readonly Group[]): number[] {
    const values = this.#values, field = this.field;
    values.length = groups.length;
    for (let i = 0; i < groups.length; i++) {
      const value = groups[i]![field];
      if (typeof value !== "number") {
        throw new TypeError(`${field} must be a number, got ${show(value)} (in paramGroups[${i}])`);
      }
      values[i] = value;
    }
    return values;
  }

  #write(groups: readonly Group[], values: readonly number[], fresh: boolean): void {
    const field = this.field, engine = this.#engine;
    if (fresh) {
      engine.mark(groups);
      this.#known = groups.length;
    }
    for (let i = 0; i < values.length; i++) groups[i]![field] = values[i];
    engine.settle(groups);
    const last = engine.lastLr;
    for (let i = 0; i < values.length; i++) last[i] = values[i]!;
  }

  #stepBy(move: ((engine: Engine, values: number[]) => void) | null): void {
    const engine = this.#engine, groups = this.optimizer.paramGroups as Group[];
    const values = this.#read(groups), fresh = groups.length !== this.#known;
    if (fresh) engine.adopt(groups);
    if (move === null) engine.advance(values);
    else move(engine, values);
    this.#write(groups, values, fresh);
  }

  /**
   * Moves on by one epoch and writes the values. Call it after `optimizer.step()`: before the optimizer's first step it
   * says so, once.
   *
   * @throws {RangeError} for OneCycleLR past its end, a function that gives NaN
   * @throws {TypeError} for a function that gives no number, an argument
   */
  step(...args: never[]): void {
    if (args.length > 0) refuseEpoch(args, this.constructor.name);
    if (!this.#checked) {
      if (this.#engine.steps === 0 && this.optimizer.stepCount === 0 && this.optimizer.lastStep === null) {
        console.warn(ORDER);
      }
      this.#checked = true;
    }
    this.#stepBy(null);
  }

  /**
   * The values of `lastEpoch`, from those that the groups have: for subclasses to override, in which it is called when
   * `lastEpoch` has been raised and before the groups are written to. To look at values, use `getLastLr()` or `values(n)`.
   *
   * @returns a number for each group
   */
  getLr(): number[] {
    const engine = this.#engine;
    if (!(engine instanceof LeafEngine)) return this.#current();
    if (!(engine instanceof GetLrEngine && engine.inside)) {
      console.warn(
        "getLr() is for subclasses: to look at the present values use getLastLr(), for those to come values(n)",
      );
    }
    return engine.again(this.#current());
  }

  #current(): number[] {
    return this.optimizer.paramGroups.map((group) => (group as Group)[this.field] as number);
  }

  /**
   * The values that were written last, a number for each group: of `lr`, or whatever `field` is.
   *
   * @returns a copy
   */
  getLastLr(): number[] {
    return [...this.#engine.lastLr];
  }

  /**
   * Looks ahead: each group's value now and after each of the next n - 1 steps, exactly as stepping would give them if
   * nothing else changed the groups. Changes nothing.
   *
   * @param n how many, an integer >= 0
   * @returns n arrays of a number for each group, of which the first has the present values
   * @throws {RangeError} for n out of range, OneCycleLR past its end
   * @example
   * ```ts
   * import { assertEquals } from "@std/assert";
   * import { SGD, StepLR } from "@flatstep/optim";
   *
   * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
   * const scheduler = new StepLR(optimizer, { stepSize: 2, gamma: 0.5 });
   * assertEquals(scheduler.values(5), [[1], [1], [0.5], [0.5], [0.25]]);
   * assertEquals(scheduler.lastEpoch, 0);
   * ```
   */
  values(n: number): number[][] {
    if (typeof n !== "number") throw new TypeError(`n must be a number, got ${show(n)}`);
    if (!Number.isSafeInteger(n) || n < 0) throw new RangeError(`n must be an integer >= 0, got ${show(n)}`);
    const engine = this.#engine, saved = engine.cursor(), groups = this.optimizer.paramGroups as Group[];
    const values = [...this.#read(groups)], rows: number[][] = [];
    try {
      if (groups.length !== this.#known) engine.adopt(groups);
      for (let k = 0; k < n; k++) {
        if (k > 0) engine.advance(values);
        rows.push([...values]);
      }
    } finally {
      engine.seek(saved);
    }
    return rows;
  }

  /**
   * A snapshot: where the schedule stands, and its options. Functions are left out. It survives `structuredClone` and JSON.
   *
   * @returns `{ lastEpoch, baseLrs, stepCount, lastLr, …options }`
   */
  stateDict(): SchedulerStateDict {
    const groups = this.optimizer.paramGroups as Group[];
    if (groups.length !== this.#known) this.#engine.adopt(groups);
    return this.#engine.save();
  }

  /**
   * Loads a state dict, options too. The groups' values are not in it: load the optimizer's state dict afterwards.
   *
   * @param stateDict what `stateDict()` gave, of a scheduler of the same class
   * @throws {StateDictError} if it does not fit; nothing has changed then
   * @example
   * ```ts
   * import { assertEquals } from "@std/assert";
   * import { ExponentialLR, SGD } from "@flatstep/optim";
   *
   * const make = () => {
   *   const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
   *   return { optimizer, scheduler: new ExponentialLR(optimizer, { gamma: 0.5 }) };
   * };
   * const one = make(), other = make();
   * one.optimizer.step();
   * one.scheduler.step();
   * other.scheduler.loadStateDict(one.scheduler.stateDict());
   * other.optimizer.loadStateDict(one.optimizer.stateDict());
   * assertEquals(other.scheduler.values(3), [[0.5], [0.25], [0.125]]);
   * ```
   */
  loadStateDict(stateDict: SchedulerStateDict): void {
    if (typeof stateDict !== "object" || stateDict === null) {
      throw new StateDictError(`a scheduler's state dict must be an object, got ${show(stateDict)}`);
    }
    const engine = this.#engine, groups = this.optimizer.paramGroups as Group[];
    engine.adopt(groups);
    const commit = engine.read(stateDict, groups.length);
    commit();
    engine.mark(groups);
    this.#known = groups.length;
  }
}

/** Says so where a group's value is not what it started from, and no constructor of a scheduler has changed it. */
function warnOfStale(groups: readonly Group[], field: string, key: string, owner: string): void {
  groups.forEach((group, g) => {
    const initial = group[key], now = group[field];
    if (initial === undefined || initial === now || constructed.get(group)?.[field] === now) return;
    console.warn(
      `${owner} starts from ${key} of paramGroups[${g}], which is ${show(initial)}, while its ${field} is ${
        show(now)
      }: ` +
        `delete ${key} first if it is to start from ${show(now)}`,
    );
  });
}

const NONE: Schedule = {
  at() {
    throw new TypeError("getLr() must be overridden: there is no schedule");
  },
};

/** The engine of a class that overrides `getLr()`: it sees the groups as if the values were written. */
class GetLrEngine extends LeafEngine {
  /** Whether `getLr()` is being called by a step. */
  inside = false;

  constructor(readonly scheduler: LRScheduler, schedule: Schedule, owner: string, field: string, lastEpoch: number) {
    super(schedule, owner, field, lastEpoch);
  }

  protected override compute(values: readonly number[], out: number[], t: number, steps: number): void {
    const groups = this.scheduler.optimizer.paramGroups as Group[], { field, lastEpoch, steps: before } = this;
    const had = groups.map((group) => group[field]);
    try {
      this.lastEpoch = t;
      this.steps = steps;
      this.inside = true;
      groups.forEach((group, i) => group[field] = values[i]);
      const given = this.scheduler.getLr();
      if (!Array.isArray(given) || given.length !== groups.length) {
        throw new TypeError(
          `getLr() must return a number for each of ${groups.length} param groups, got ${show(given)}`,
        );
      }
      given.forEach((value, i) => out[i] = value);
    } finally {
      this.inside = false;
      this.lastEpoch = lastEpoch;
      this.steps = before;
      groups.forEach((group, i) => group[field] = had[i]);
    }
  }

  override again(values: readonly number[]): number[] {
    const out: number[] = [];
    super.compute(values, out, this.lastEpoch, this.steps, false);
    return out;
  }
}
