/**
 * What moves a scheduler on: apart from the classes, so that it can run on any list of values. `step()` runs it on the
 * groups' values, `values(n)` on a copy, and a composite runs its children's.
 *
 * @module
 */

import { show, StateDictError } from "../errors.ts";
import type { OptionSpec } from "../optim/options.ts";

/** A param group, as schedulers see it: options by name. */
export type Group = Record<string, unknown>;

/**
 * A schedule: the value of a group at each epoch t = 0, 1, 2, …, as a pure function of its base, and the same as a step from
 * the value before, which lets several schedules work on one value.
 */
export interface Schedule {
  /**
   * The pure form: the value at t.
   *
   * @param base the value that the group starts from
   * @param t the epoch, from 0
   * @param group the group's index
   */
  at(base: number, t: number, group: number): number;
  /**
   * The chainable form: the value at t from the value at t - 1; without it, `at`. At the first step, which a constructor
   * makes, `steps` is 0 and `value` is what the group has.
   *
   * @param value the value that the group has
   * @param base the value that the group started from
   * @param t the epoch, from 0
   * @param group the group's index
   * @param steps how many steps have been made since the first one
   */
  next?(value: number, base: number, t: number, group: number, steps: number): number;
  /**
   * The first value in a SequentialLR after another scheduler's last; without it, `at(base, 0, group)`.
   *
   * @param value the value that the group has
   * @param base the value that the group started from
   * @param group the group's index
   */
  start?(value: number, base: number, group: number): number;
  /** What the schedule depends on, as plain values: saved in the state dict, and written to when one is loaded. */
  readonly state?: Record<string, unknown>;
}

/** A schedule with what only the library's own ones need. */
export interface OwnSchedule extends Schedule {
  /** Checks for the entries of `state`; without it their types must be as they are. */
  readonly schema?: Readonly<Record<string, OptionSpec<unknown>>>;
  /** The entries of `state` that have a number for each group. */
  readonly lists?: readonly string[];
  /** The entries of `state` that torch has in the groups: a state dict of torch's lacks them, and they stay as they are. */
  readonly inGroups?: readonly string[];
  /** Called when `state` has been loaded. */
  loaded?(): void;
  /** The base of a group, where it is not the group's initial value. */
  base?(group: Group, index: number): number;
  /** Takes in a group's own numbers; must change no group. */
  adopt?(group: Group, index: number): void;
  /** Writes what goes into a group when it is first seen, beside its initial value. */
  mark?(group: Group, index: number): void;
  /** Writes what goes with the value at t: momentum. */
  settle?(groups: readonly Group[], t: number): void;
  /** Takes back what `settle` wrote at construction. */
  undo?(groups: readonly Group[]): void;
  /** Another engine than {@linkcode LeafEngine}. */
  engine?(owner: string, field: string, lastEpoch: number): LeafEngine;
  /** Whether base is used by the chainable form, so that one that is out of date matters. */
  readonly usesBase?: boolean;
}

/** Where an engine stands. */
export type Cursor = readonly (number | readonly number[] | Cursor)[];

/** What moves values on. */
export abstract class Engine implements Schedule {
  /** The epoch of the values. */
  abstract lastEpoch: number;
  /** The number of steps since construction. */
  steps = 0;
  /** What each group started from. */
  baseLrs: number[] = [];
  /** The values of the last step. */
  lastLr: number[] = [];
  /** Whether the base of a group is kept in it, as `initial<Field>`. */
  readonly keepsBase: boolean = true;
  /** Whether an initial value that is out of date matters. */
  readonly usesBase: boolean = false;
  /** The group option that is scheduled. */
  abstract readonly field: string;

  /** Engines are no pure schedules: they are asked for by themselves. */
  at(): number {
    return NaN;
  }
  /** Takes in groups that it has not seen; changes no group. */
  abstract adopt(groups: readonly Group[]): void;
  /** Writes into groups what belongs there when they are first seen. */
  abstract mark(groups: readonly Group[]): void;
  /** What a constructor does with the values that the groups have. */
  abstract construct(values: number[]): void;
  /** The first values, when it is the first of its sequence. */
  abstract first(values: number[]): void;
  /** The first values, when another one was before it. */
  abstract takeOver(values: number[]): void;
  /** Moves on by one. If it throws, nothing has changed. */
  abstract advance(values: number[]): void;
  /** Back to before the first values. */
  abstract reset(): void;
  /** Writes what goes with the values: momentum. */
  settle(_groups: readonly Group[]): void {}
  /** Called at construction, before anything is written. */
  prepare(_groups: readonly Group[]): void {}
  /** Takes back what `settle` wrote at construction. */
  undo(_groups: readonly Group[]): void {}
  /** Where it stands. */
  abstract cursor(): Cursor;
  /** Goes back to where it stood. */
  abstract seek(cursor: Cursor): void;
  /** What a state dict has. */
  abstract save(): Record<string, unknown>;
  /** Checks a state dict, and gives what takes it over. */
  abstract read(dict: Record<string, unknown>, groups: number): () => void;
}

/** Keys that torch's state dicts have and that say nothing here. */
const IGNORED = new Set(["isInitial", "getLrCalledWithinStep", "lrLambdas", "scaleFnCustom", "useBeta1", "verbose"]);

/** Throws a StateDictError unless something is an object that has none but these keys. */
export function checkKeys(dict: unknown, keys: readonly string[]): asserts dict is Record<string, unknown> {
  if (typeof dict !== "object" || dict === null || Array.isArray(dict)) {
    throw new StateDictError(`a scheduler's state dict must be an object, got ${show(dict)}`);
  }
  for (const key of Object.keys(dict)) {
    if (!keys.includes(key) && !IGNORED.has(key)) {
      throw new StateDictError(`${key} is no state of this scheduler; it has ${keys.join(", ")}`);
    }
  }
}

/** An integer of a state dict. */
export function readInteger(dict: Record<string, unknown>, key: string, least: number, fallback?: number): number {
  const value = dict[key] ?? fallback;
  if (!Number.isSafeInteger(value) || (value as number) < least) {
    throw new StateDictError(`${key} must be an integer >= ${least}, got ${show(value)}`);
  }
  return value as number;
}

/** Numbers of a state dict, one for each group. */
export function readNumbers(dict: Record<string, unknown>, key: string, groups: number, fallback?: number[]): number[] {
  const value = dict[key] ?? fallback;
  if (!Array.isArray(value) || value.some((v) => typeof v !== "number")) {
    throw new StateDictError(`${key} must be an array of numbers, got ${show(value)}`);
  }
  if (value.length !== groups) {
    throw new StateDictError(
      `${key} has ${value.length} numbers in the state dict, the optimizer has ${groups} groups`,
    );
  }
  return [...value] as number[];
}

/** Throws a StateDictError where a check throws. */
export function checkEntry(spec: OptionSpec<unknown>, value: unknown, key: string): void {
  try {
    spec.check(value, key);
  } catch (error) {
    throw new StateDictError((error as Error).message, { cause: error });
  }
}

/** A field's key for the value that it starts from: `initialLr`. */
export const initialKey = (field: string): string => `initial${field[0]?.toUpperCase() ?? ""}${field.slice(1)}`;

/** The engine of one schedule. */
export class LeafEngine extends Engine {
  override lastEpoch: number;
  override readonly usesBase: boolean;
  /** What is past the whole epoch, of CosineAnnealingWarmRestarts. */
  fraction = 0;
  readonly #key: string;
  #initials: number[] = [];
  #marked = 0;
  #scratch: number[] = [];

  constructor(
    readonly schedule: OwnSchedule,
    readonly owner: string,
    readonly field: string,
    lastEpoch: number,
  ) {
    super();
    this.lastEpoch = lastEpoch;
    this.usesBase = schedule.usesBase ?? schedule.next === undefined;
    this.#key = initialKey(field);
  }

  override adopt(groups: readonly Group[]): void {
    for (let i = this.baseLrs.length; i < groups.length; i++) {
      const group = groups[i]!, initial = (group[this.#key] ?? group[this.field]) as number;
      this.schedule.adopt?.(group, i);
      this.baseLrs.push(this.schedule.base?.(group, i) ?? initial);
      this.#initials[i] = initial;
      this.lastLr[i] ??= group[this.field] as number;
    }
  }

  override mark(groups: readonly Group[]): void {
    for (; this.#marked < groups.length; this.#marked++) {
      const i = this.#marked, group = groups[i]!;
      group[this.#key] ??= this.#initials[i];
      this.schedule.mark?.(group, i);
    }
  }

  /** The values of an epoch, from the present ones. */
  protected compute(values: readonly number[], out: number[], t: number, steps: number, starting: boolean): void {
    const { baseLrs, schedule } = this, n = values.length;
    if (starting && schedule.start) {
      for (let i = 0; i < n; i++) out[i] = schedule.start(values[i]!, baseLrs[i]!, i);
    } else if (starting || !schedule.next) {
      for (let i = 0; i < n; i++) out[i] = schedule.at(baseLrs[i]!, t, i);
    } else {
      for (let i = 0; i < n; i++) out[i] = schedule.next(values[i]!, baseLrs[i]!, t, i, steps);
    }
  }

  /** The values that the next step would compute if the present epoch were not done. */
  again(values: readonly number[]): number[] {
    const out: number[] = [];
    this.compute(values, out, this.lastEpoch + this.fraction, this.steps, false);
    return out;
  }

  #move(values: number[], epoch: number, fraction: number, steps: number, starting: boolean): void {
    const scratch = this.#scratch, n = values.length, last = this.lastLr;
    this.compute(values, scratch, epoch + fraction, steps, starting);
    for (let i = 0; i < n; i++) {
      const v = scratch[i];
      if (typeof v !== "number" || v !== v) {
        const message = `${this.owner} must give a number for each param group, got ${
          show(v)
        } for paramGroups[${i}] at epoch ${epoch}`;
        throw typeof v === "number" ? new RangeError(message) : new TypeError(message);
      }
    }
    for (let i = 0; i < n; i++) last[i] = values[i] = scratch[i]!;
    this.lastEpoch = epoch;
    this.fraction = fraction;
    this.steps = steps;
  }

  override construct(values: number[]): void {
    this.#move(values, this.lastEpoch + 1, 0, 0, false);
  }
  override first(values: number[]): void {
    this.#move(values, 0, 0, 0, false);
  }
  override takeOver(values: number[]): void {
    this.#move(values, 0, 0, 0, true);
  }
  override advance(values: number[]): void {
    this.#move(values, this.lastEpoch + 1, this.fraction, this.steps + 1, false);
  }
  /** Goes to an epoch, which need not be whole. */
  jump(values: number[], epoch: number): void {
    const whole = Math.floor(epoch);
    this.#move(values, whole, epoch - whole, this.steps + 1, false);
  }
  override reset(): void {
    this.lastEpoch = -1;
    this.fraction = 0;
    this.steps = 0;
  }
  override settle(groups: readonly Group[]): void {
    this.schedule.settle?.(groups, this.lastEpoch + this.fraction);
  }
  override undo(groups: readonly Group[]): void {
    this.schedule.undo?.(groups);
  }

  override cursor(): Cursor {
    return [this.lastEpoch, this.steps, this.fraction, this.baseLrs.length, [...this.lastLr]];
  }
  override seek(cursor: Cursor): void {
    const [lastEpoch, steps, fraction, count, lastLr] = cursor as [number, number, number, number, number[]];
    this.lastEpoch = lastEpoch;
    this.steps = steps;
    this.fraction = fraction;
    this.baseLrs.length = count;
    this.lastLr = [...lastLr];
  }

  /** Further keys of the state dict, beside the schedule's own. */
  protected readonly furtherKeys: readonly string[] = [];

  override save(): Record<string, unknown> {
    return {
      lastEpoch: this.lastEpoch,
      baseLrs: [...this.baseLrs],
      stepCount: this.steps + 1,
      lastLr: [...this.lastLr],
      ...(this.field === "lr" ? {} : { field: this.field }),
      ...structuredClone(this.schedule.state ?? {}),
    };
  }

  override read(dict: Record<string, unknown>, groups: number): () => void {
    const { state = {}, schema } = this.schedule;
    checkKeys(dict, [
      "lastEpoch",
      "baseLrs",
      "stepCount",
      "lastLr",
      "field",
      ...Object.keys(state),
      ...this.furtherKeys,
    ]);
    const lastEpoch = readInteger(dict, "lastEpoch", -1), field = dict["field"] ?? "lr";
    if (field !== this.field) {
      throw new StateDictError(`field is ${show(field)} in the state dict, ${show(this.field)} in the scheduler`);
    }
    const steps = readInteger(dict, "stepCount", 0, lastEpoch + 1) - 1;
    const baseLrs = readNumbers(dict, "baseLrs", groups), lastLr = readNumbers(dict, "lastLr", groups, baseLrs);
    const options: Record<string, unknown> = {};
    for (const key of Object.keys(state)) {
      if (!Object.hasOwn(dict, key)) {
        if (this.schedule.inGroups?.includes(key)) continue;
        throw new StateDictError(`${key} must be in the state dict of a ${this.owner}, got none`);
      }
      if (schema) checkEntry(schema[key]!, dict[key], key);
      else if (typeof dict[key] !== typeof state[key]) {
        throw new StateDictError(`${key} must be a ${typeof state[key]}, got ${show(dict[key])}`);
      }
      if (this.schedule.lists?.includes(key)) readNumbers(dict, key, groups);
      options[key] = structuredClone(dict[key]);
    }
    return () => {
      this.lastEpoch = lastEpoch;
      this.steps = Math.max(0, steps);
      this.fraction = 0;
      this.baseLrs = baseLrs;
      this.lastLr = lastLr;
      Object.assign(state, options);
      this.schedule.loaded?.();
    };
  }
}
