/**
 * The schedulers' options: what each one may be, and what is said when it is not.
 *
 * @module
 */

import { describe, show } from "../errors.ts";
import { type AnyOptimizer, Optimizer } from "../optim/optimizer.ts";
import { type OptionSpec, readOptions, type Schema } from "../optim/options.ts";

/** The options that nearly every scheduler has. */
export interface SchedulerOptions {
  /**
   * The epoch that was the last one done, an integer >= -1; default -1, a new start. To go on from another epoch every group
   * must have `initialLr`, as it has in a loaded state dict.
   */
  lastEpoch?: number;
  /**
   * The numeric group option to schedule; default `"lr"`. The value it starts from is kept in the group as
   * `initial<Field>`: `initialLr`, `initialWeightDecay`.
   */
  field?: string;
}

/** A number for which `holds` is true. Without a default the option must be given. */
function number(fallback: number | undefined, holds: (x: number) => boolean, range: string): OptionSpec<unknown> {
  return {
    default: fallback,
    check(value, name) {
      if (typeof value !== "number") throw new TypeError(`${name} must be a number, got ${show(value)}`);
      if (!holds(value)) throw new RangeError(`${name} must be ${range}, got ${show(value)}`);
    },
  };
}

/** A finite number. */
export const finite = (fallback?: number): OptionSpec<unknown> => number(fallback, Number.isFinite, "finite");

/** A finite number >= 0. */
export const atLeastZero = (fallback?: number): OptionSpec<unknown> =>
  number(fallback, (x) => x >= 0 && x < Infinity, ">= 0 and finite");

/** A finite number > 0. */
export const aboveZero = (fallback?: number): OptionSpec<unknown> =>
  number(fallback, (x) => x > 0 && x < Infinity, "> 0 and finite");

/** A number >= 0 and <= 1. */
export const upToOne = (fallback?: number): OptionSpec<unknown> =>
  number(fallback, (x) => x >= 0 && x <= 1, ">= 0 and <= 1");

/** A number > 0 and <= 1. */
export const partOfOne = (fallback?: number): OptionSpec<unknown> =>
  number(fallback, (x) => x > 0 && x <= 1, "> 0 and <= 1");

/** A number >= 0 and < 1. */
export const belowOne = (fallback?: number): OptionSpec<unknown> =>
  number(fallback, (x) => x >= 0 && x < 1, ">= 0 and < 1");

/** An integer >= `least`. */
export const integer = (least: number, fallback?: number): OptionSpec<unknown> =>
  number(fallback, (x) => Number.isSafeInteger(x) && x >= least, `an integer >= ${least}`);

/** true or false. */
export const flag = (fallback: boolean): OptionSpec<unknown> => ({
  default: fallback,
  check(value, name) {
    if (typeof value !== "boolean") throw new TypeError(`${name} must be a boolean, got ${show(value)}`);
  },
});

/** One of some words. */
export const oneOf = (fallback: string, words: readonly string[]): OptionSpec<unknown> => ({
  default: fallback,
  check(value, name) {
    if (typeof value === "string" && words.includes(value)) return;
    const message = `${name} must be ${words.map((w) => `"${w}"`).join(" or ")}, got ${show(value)}`;
    throw typeof value === "string" ? new RangeError(message) : new TypeError(message);
  },
});

/** null, or what another check allows. */
export const orNull = (spec: OptionSpec<unknown>): OptionSpec<unknown> => ({
  default: null,
  check(value, name) {
    if (value !== null) spec.check(value, name);
  },
});

/** A number, or an array with one for each group. */
export const numberOrList = (fallback?: number, spec: OptionSpec<unknown> = atLeastZero()): OptionSpec<unknown> => ({
  default: fallback,
  check(value, name) {
    if (!Array.isArray(value)) return spec.check(value, name);
    value.forEach((v, i) => spec.check(v, `${name}[${i}]`));
  },
});

/** An array in which every element passes a check. */
export const listOf = (spec: OptionSpec<unknown>): OptionSpec<unknown> => ({
  default: undefined,
  check(value, name) {
    if (!Array.isArray(value)) throw new TypeError(`${name} must be an array, got ${show(value)}`);
    value.forEach((v, i) => spec.check(v, `${name}[${i}]`));
  },
});

/** A function. */
export const callable: OptionSpec<unknown> = {
  default: undefined,
  check(value, name) {
    if (typeof value !== "function") throw new TypeError(`${name} must be a function, got ${show(value)}`);
  },
};

/** A function, or an array with one for each group. */
export const callableOrList: OptionSpec<unknown> = {
  default: undefined,
  check(value, name) {
    if (!Array.isArray(value)) return callable.check(value, name);
    value.forEach((v, i) => callable.check(v, `${name}[${i}]`));
  },
};

/** `lastEpoch` of every scheduler that has it. */
export const LAST_EPOCH: Schema<{ lastEpoch: number }> = { lastEpoch: integer(-1, -1) };

/** The options of every scheduler that can drive any field. */
export const COMMON: Schema<SchedulerOptions> = {
  ...LAST_EPOCH,
  field: {
    default: "lr",
    check(value, name) {
      if (typeof value !== "string") throw new TypeError(`${name} must be a string, got ${show(value)}`);
    },
  },
};

/** Throws unless something is an optimizer. */
export function checkOptimizer(optimizer: unknown): asserts optimizer is AnyOptimizer {
  if (optimizer instanceof Optimizer) return;
  throw new TypeError(
    `optimizer must be an Optimizer, got ${describe(optimizer)}`,
  );
}

/**
 * Reads a scheduler's options, with defaults, all checked.
 *
 * @param options what the caller gave
 * @param schema the options there are
 * @param owner the class, for messages
 */
export function read<Options extends object>(options: unknown, schema: Schema<Options>, owner: string): Options {
  const given = readOptions(options ?? {}, schema, owner, false), all: Record<string, unknown> = {};
  for (const [key, spec] of Object.entries<OptionSpec<unknown>>(schema)) {
    all[key] = Object.hasOwn(given, key) ? given[key] : spec.default;
    spec.check(all[key], key);
  }
  return all as Options;
}

/** An option that is one value, or one for each group: the value of each group there is. */
export function perGroup<T>(value: T | readonly T[], name: string, count: number): T[] {
  if (!Array.isArray(value)) return new Array<T>(count).fill(value as T);
  if (value.length !== count) {
    throw new RangeError(`${name} must have a value for each of ${count} param groups, got ${value.length}`);
  }
  return [...value] as T[];
}

/** The value of a group that came later: of an option that is one value, or the group's own. */
export function forLateGroup<T>(value: T | readonly T[], name: string, own: unknown, group: number): T {
  if (!Array.isArray(value)) return value as T;
  if (typeof own === "number") return own as T;
  throw new RangeError(
    `${name} must have a value for each param group: it has ${value.length}, and paramGroups[${group}] was added later`,
  );
}

/** Throws unless a step was called without an argument, by untyped programs. */
export function refuseEpoch(args: readonly unknown[], owner: string): void {
  if (args[0] !== undefined) {
    throw new TypeError(`${owner}.step() takes no epoch, got ${show(args[0])}: it moves on by one`);
  }
}

/** The options that `super()` takes. */
export const common = (
  { lastEpoch, field }: SchedulerOptions,
): SchedulerOptions => ({ lastEpoch, field } as SchedulerOptions);

/** A scheduler's options, apart: those that `super()` takes, and the others with their checks, as a schedule's state. */
export function readState<Options extends SchedulerOptions>(
  options: Options | undefined,
  schema: Schema<Options>,
  owner: string,
): {
  common: SchedulerOptions;
  state: Required<Omit<Options, keyof SchedulerOptions>> & Record<string, unknown>;
  schema: Record<string, OptionSpec<unknown>>;
} {
  const { lastEpoch, field, ...state } = read(options, schema, owner);
  const { lastEpoch: _l, field: _f, ...checks } = schema as Record<string, OptionSpec<unknown>>;
  return {
    common: common({ lastEpoch, field } as SchedulerOptions),
    state: state as Required<Omit<Options, keyof SchedulerOptions>> & Record<string, unknown>,
    schema: checks,
  };
}
