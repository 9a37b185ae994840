/**
 * Schedulers made of schedulers: one after the other, or all at once.
 *
 * @module
 */

import { describe, show, StateDictError } from "../errors.ts";
import type { AnyOptimizer } from "../optim/optimizer.ts";
import type { Schema } from "../optim/options.ts";
import { checkKeys, type Cursor, Engine, type Group, initialKey, readInteger, readNumbers } from "./engine.ts";
import { checkOptimizer, integer, LAST_EPOCH, listOf, read } from "./options.ts";
import { isPlateau } from "./plateau.ts";
import { engineOf, LRScheduler } from "./scheduler.ts";

/** Throws unless schedulers can go together on an optimizer; gives their field. */
function checkChildren(schedulers: unknown, optimizer: AnyOptimizer | null, owner: string): string {
  if (!Array.isArray(schedulers)) throw new TypeError(`schedulers must be an array, got ${show(schedulers)}`);
  if (schedulers.length === 0) {
    throw new RangeError(`${owner} must have at least one scheduler in schedulers, got none`);
  }
  let field: string | null = null;
  schedulers.forEach((scheduler: unknown, i) => {
    if (!(scheduler instanceof LRScheduler)) {
      throw new TypeError(
        `schedulers[${i}] must be a scheduler, got ${describe(scheduler)}`,
      );
    }
    if (isPlateau(engineOf(scheduler))) {
      throw new TypeError(`schedulers[${i}] must not be a ReduceLROnPlateau: its step() needs a metric`);
    }
    if (scheduler.optimizer !== (optimizer ?? schedulers[0].optimizer)) {
      throw new RangeError(`schedulers must all be of one optimizer, got another one's in schedulers[${i}]`);
    }
    field ??= scheduler.field;
    if (scheduler.field !== field) {
      throw new RangeError(
        `schedulers must all have one field, got ${show(field)} and ${
          show(scheduler.field)
        }: step them one after the other`,
      );
    }
    if (schedulers.indexOf(scheduler) !== i) {
      throw new RangeError(`schedulers must be different ones, got the same in schedulers[${i}] as before`);
    }
  });
  return field!;
}

/** What both have. */
abstract class CompositeEngine extends Engine {
  override lastEpoch = 0;
  readonly children: readonly Engine[];

  constructor(readonly schedulers: readonly LRScheduler[], readonly field: string) {
    super();
    this.children = schedulers.map((s) => engineOf(s));
  }

  override adopt(groups: readonly Group[]): void {
    for (const child of this.children) child.adopt(groups);
    const key = initialKey(this.field);
    for (let i = this.baseLrs.length; i < groups.length; i++) {
      const now = groups[i]![this.field] as number;
      this.baseLrs.push((groups[i]![key] ?? now) as number);
      this.lastLr[i] ??= now;
    }
  }
  override mark(groups: readonly Group[]): void {
    for (const child of this.children) child.mark(groups);
  }
  override reset(): void {
    this.lastEpoch = -1;
    this.steps = 0;
    for (const child of this.children) child.reset();
  }
  override undo(groups: readonly Group[]): void {
    for (let i = this.children.length - 1; i >= 0; i--) this.children[i]!.undo(groups);
  }
  override cursor(): Cursor {
    return [this.lastEpoch, this.steps, this.baseLrs.length, [...this.lastLr], ...this.children.map((c) => c.cursor())];
  }
  override seek(cursor: Cursor): void {
    const [lastEpoch, steps, count, lastLr, ...children] = cursor as [number, number, number, number[], ...Cursor[]];
    this.lastEpoch = lastEpoch;
    this.steps = steps;
    this.baseLrs.length = count;
    this.lastLr = [...lastLr];
    this.children.forEach((child, i) => child.seek(children[i]!));
  }

  override save(): Record<string, unknown> {
    return {
      lastEpoch: this.lastEpoch,
      stepCount: this.steps + 1,
      lastLr: [...this.lastLr],
      schedulers: this.schedulers.map((s) => s.stateDict()),
    };
  }

  override read(dict: Record<string, unknown>, groups: number): () => void {
    checkKeys(dict, ["lastEpoch", "stepCount", "lastLr", "schedulers", ...this.furtherKeys]);
    const { schedulers } = dict;
    if (!Array.isArray(schedulers) || schedulers.length !== this.schedulers.length) {
      throw new StateDictError(
        `schedulers must be ${this.schedulers.length} state dicts, got ${
          Array.isArray(schedulers) ? schedulers.length : show(schedulers)
        }`,
      );
    }
    // torch's ChainedScheduler has no lastEpoch of its own
    const fallback = (schedulers[0] as Record<string, unknown> | null)?.["lastEpoch"] as number | undefined;
    const lastEpoch = readInteger(dict, "lastEpoch", -1, fallback);
    const steps = readInteger(dict, "stepCount", 0, lastEpoch + 1) - 1;
    const lastLr = readNumbers(dict, "lastLr", groups, this.lastLr);
    return () => {
      // a child may have a loadStateDict() of its own: those before one that throws go back
      const before = this.schedulers.map((s) => s.stateDict());
      let done = 0;
      try {
        for (; done < schedulers.length; done++) {
          this.schedulers[done]!.loadStateDict(schedulers[done] as Record<string, unknown>);
        }
      } catch (error) {
        for (let i = 0; i < done; i++) this.schedulers[i]!.loadStateDict(before[i]!);
        if (error instanceof Error) error.message += ` (in schedulers[${done}])`;
        throw error;
      }
      this.lastEpoch = lastEpoch;
      this.steps = Math.max(0, steps);
      this.lastLr = lastLr;
    };
  }
  protected readonly furtherKeys: readonly string[] = [];
}

class ChainedEngine extends CompositeEngine {
  override construct(): void {} // its children have written their first values
  override first(values: number[]): void {
    this.children.forEach((child) => child.first(values));
    this.lastEpoch = this.steps = 0;
  }
  override takeOver(values: number[]): void {
    this.children.forEach((child, i) => i === 0 ? child.takeOver(values) : child.first(values));
    this.lastEpoch = this.steps = 0;
  }
  override advance(values: number[]): void {
    const before = this.children.length > 1 ? this.cursor() : null;
    try {
      for (let i = 0; i < this.children.length; i++) this.children[i]!.advance(values);
    } catch (error) {
      if (before) this.seek(before);
      throw error;
    }
    this.lastEpoch++;
    this.steps++;
    for (let i = 0; i < values.length; i++) this.lastLr[i] = values[i]!;
  }
  override settle(groups: readonly Group[]): void {
    for (let i = 0; i < this.children.length; i++) this.children[i]!.settle(groups);
  }
}

class SequentialEngine extends CompositeEngine {
  protected override readonly furtherKeys = ["milestones"];

  constructor(
    schedulers: readonly LRScheduler[],
    field: string,
    readonly milestones: number[],
    readonly startAfter: number,
  ) {
    super(schedulers, field);
  }

  /** Which child's turn an epoch is. */
  #turn(t: number): number {
    const { milestones } = this;
    let i = 0;
    while (i < milestones.length && milestones[i]! <= t) i++;
    return i;
  }

  #begin(values: number[], how: "first" | "takeOver"): void {
    for (const child of this.children) child.reset();
    this.children[this.#turn(0)]![how](values);
    this.lastEpoch = this.steps = 0;
  }

  override construct(values: number[]): void {
    const saved = this.cursor();
    try {
      this.first(values);
      for (let t = 0; t <= this.startAfter; t++) this.advance(values);
      this.steps = 0;
    } catch (error) {
      this.seek(saved);
      throw error;
    }
  }
  override first(values: number[]): void {
    for (let i = 0; i < values.length; i++) values[i] = this.baseLrs[i]!;
    this.#begin(values, "first");
  }
  override takeOver(values: number[]): void {
    this.#begin(values, "takeOver");
  }
  override advance(values: number[]): void {
    const t = this.lastEpoch + 1, turn = this.#turn(t), child = this.children[turn]!;
    if (turn > 0 && this.milestones[turn - 1] === t) {
      const before = this.cursor();
      try {
        child.takeOver(values);
      } catch (error) {
        this.seek(before);
        throw error;
      }
    } else {
      child.advance(values);
    }
    this.lastEpoch = t;
    this.steps++;
    for (let i = 0; i < values.length; i++) this.lastLr[i] = values[i]!;
  }
  override prepare(groups: readonly Group[]): void {
    this.undo(groups);
  }
  override settle(groups: readonly Group[]): void {
    this.children[this.#turn(this.lastEpoch)]!.settle(groups);
  }

  override save(): Record<string, unknown> {
    return { ...super.save(), milestones: [...this.milestones] };
  }
  override read(dict: Record<string, unknown>, groups: number): () => void {
    const commit = super.read(dict, groups), { milestones } = dict;
    if (milestones !== undefined) {
      try {
        checkMilestones(milestones, this.children.length);
      } catch (error) {
        throw new StateDictError((error as Error).message, { cause: error });
      }
    }
    return () => {
      commit();
      if (milestones !== undefined) this.milestones.splice(0, Infinity, ...(milestones as number[]));
    };
  }
}

const MILESTONES = listOf(integer(0));

function checkMilestones(milestones: unknown, schedulers: number): void {
  MILESTONES.check(milestones, "milestones");
  const list = milestones as number[];
  if (list.length !== schedulers - 1) {
    throw new RangeError(
      `milestones must be one fewer than schedulers, got ${list.length} milestones for ${schedulers} schedulers`,
    );
  }
  list.forEach((m, i) => {
    if (i > 0 && m < list[i - 1]!) throw new RangeError(`milestones must not decrease, got ${show(list)}`);
  });
}

/**
 * All schedulers at once: each step is a step of every one of them, in order, each from the value that the one before left.
 *
 * Schedulers that multiply the value (StepLR, ExponentialLR, CosineAnnealingLR, …) go together; those whose value does not
 * depend on the one before (LambdaLR, CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR, and SequentialLR where it goes from
 * one to the next) overwrite what comes before them.
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: may stand anywhere in a {@linkcode SequentialLR} (torch steps one
 * that comes first once too often, and refuses it elsewhere); has `lastEpoch`; there is no `optimizer` option.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { ChainedScheduler, ConstantLR, ExponentialLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new ChainedScheduler([
 *   new ConstantLR(optimizer, { factor: 0.5, totalIters: 2 }),
 *   new ExponentialLR(optimizer, { gamma: 0.5 }),
 * ]);
 * assertEquals(scheduler.values(4), [[0.5], [0.25], [0.25], [0.125]]);
 * ```
 */
export class ChainedScheduler extends LRScheduler {
  /**
   * Makes a scheduler of schedulers, which have written their first values.
   *
   * @param schedulers at least one, all of one optimizer and one field; not to be stepped by themselves any more
   * @throws {TypeError} for something that is no scheduler, a ReduceLROnPlateau
   * @throws {RangeError} for no schedulers, schedulers of two optimizers or fields, the same one twice
   */
  constructor(schedulers: readonly LRScheduler[]) {
    const field = checkChildren(schedulers, null, "ChainedScheduler");
    super(schedulers[0]!.optimizer, {}, new ChainedEngine([...schedulers], field));
  }
}

/** The options of {@linkcode SequentialLR}. */
export interface SequentialLROptions {
  /** At least one scheduler, all of the optimizer and of one field; not to be stepped by themselves any more. */
  schedulers: readonly LRScheduler[];
  /** The epochs at which the second, third, … take over: integers >= 0 that do not decrease, one fewer than schedulers. */
  milestones: readonly number[];
  /** The epoch that was the last one done, an integer >= -1; default -1, a new start. */
  lastEpoch?: number;
}

const SEQUENTIAL: Schema<SequentialLROptions> = {
  schedulers: { default: undefined, check() {} },
  milestones: MILESTONES,
  ...LAST_EPOCH,
};

/**
 * One scheduler after the other.
 *
 * ```text
 * value(t) = the value of the scheduler whose turn it is, at t minus the milestone where its turn began
 * ```
 *
 * At its milestone a scheduler starts from the initial value of each group, whatever the one before it left; MultiplicativeLR
 * and SWALR go on from that. Schedulers may be sequential or chained themselves, at any depth and place.
 *
 * torch source: `torch/optim/lr_scheduler.py`. Differences: nesting (torch refuses it but in first place, where a child is
 * stepped once too often); `lastEpoch` finds its scheduler and its value (torch starts again from the first one); a OneCycleLR
 * or CyclicLR in it changes neither the other schedulers' bases nor, before its turn, momentum; milestones that decrease are
 * refused.
 *
 * @example A warm-up
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { ExponentialLR, LinearLR, SequentialLR, SGD } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(1)], { lr: 1 });
 * const scheduler = new SequentialLR(optimizer, {
 *   schedulers: [
 *     new LinearLR(optimizer, { startFactor: 0.5, totalIters: 2 }),
 *     new ExponentialLR(optimizer, { gamma: 0.5 }),
 *   ],
 *   milestones: [2],
 * });
 * assertEquals(scheduler.values(5), [[0.5], [0.75], [1], [0.5], [0.25]]);
 * ```
 */
export class SequentialLR extends LRScheduler {
  /**
   * Makes a scheduler of schedulers, and writes the first values of the first one.
   *
   * @param optimizer the optimizer
   * @param options see {@linkcode SequentialLROptions}
   * @throws {TypeError} for something that is no scheduler, a ReduceLROnPlateau, an unknown option
   * @throws {RangeError} for no schedulers, schedulers of two optimizers or fields, the same one twice, milestones that are
   * too many, too few or decrease
   */
  constructor(optimizer: AnyOptimizer, options: SequentialLROptions) {
    checkOptimizer(optimizer);
    const { schedulers, milestones, lastEpoch } = read(options, SEQUENTIAL, "SequentialLR");
    const field = checkChildren(schedulers, optimizer, "SequentialLR");
    checkMilestones(milestones, schedulers.length);
    super(optimizer, {}, new SequentialEngine([...schedulers], field, [...milestones], lastEpoch!));
  }
}
