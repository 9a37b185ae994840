/**
 * Options: what each one may be, and what is said when it is not.
 *
 * A schema has an entry for every option of a class: its default, and a check that throws a TypeError for the wrong kind of
 * thing and a RangeError for a value out of range. The same checks run for the constructor, for each group, and again at
 * each step, since groups are live.
 *
 * @module
 */

import { checkOptionsObject, show } from "../errors.ts";

/** One option: its default value, and a check that throws. */
export interface OptionSpec<T> {
  /** The value where the option is absent. */
  readonly default: T;
  /** Throws if a value is not allowed; `name` is the option's. */
  readonly check: (value: unknown, name: string) => void;
}

/** The options of a class. */
export type Schema<Options> = { readonly [Key in keyof Options]-?: OptionSpec<unknown> };

function checkNumber(value: unknown, name: string): asserts value is number {
  if (typeof value !== "number") throw new TypeError(`${name} must be a number, got ${show(value)}`);
}

/** A number for which `holds` is true; NaN never is. */
function number(fallback: number, holds: (x: number) => boolean, range: string): OptionSpec<number> {
  return {
    default: fallback,
    check(value, name) {
      checkNumber(value, name);
      if (!holds(value)) throw new RangeError(`${name} must be ${range}, got ${show(value)}`);
    },
  };
}

/** A number >= 0. */
export const nonNegative = (fallback: number): OptionSpec<number> => number(fallback, (x) => x >= 0, ">= 0");

/** Any number but NaN. */
export const anyNumber = (fallback: number): OptionSpec<number> => number(fallback, (x) => x === x, "a number");

/** A number > 0. */
export const positive = (fallback: number): OptionSpec<number> => number(fallback, (x) => x > 0, "> 0");

/** A number >= 0 and <= 1. */
export const fraction = (fallback: number): OptionSpec<number> =>
  number(fallback, (x) => x >= 0 && x <= 1, ">= 0 and <= 1");

/** true or false. */
export const boolean = (fallback: boolean): OptionSpec<boolean> => ({
  default: fallback,
  check(value, name) {
    if (typeof value !== "boolean") throw new TypeError(`${name} must be a boolean, got ${show(value)}`);
  },
});

/** true, false, or null for "let the library choose". */
export const choice: OptionSpec<boolean | null> = {
  default: null,
  check(value, name) {
    if (value !== null && typeof value !== "boolean") {
      throw new TypeError(`${name} must be a boolean or null, got ${show(value)}`);
    }
  },
};

/** An option that exists in torch and cannot be had here: only `false` is accepted. */
export const unsupported = (reason: string): OptionSpec<false> => ({
  default: false,
  check(value, name) {
    if (value !== false) throw new TypeError(`${name} must be false, got ${show(value)}: ${reason}`);
  },
});

/** A pair of numbers, each of which satisfies `holds`. */
export const pair = (
  fallback: readonly [number, number],
  holds: (x: number) => boolean,
  range: string,
): OptionSpec<readonly [number, number]> => ({
  default: fallback,
  check(value, name) {
    if (!Array.isArray(value) || value.length !== 2) {
      throw new TypeError(`${name} must be two numbers, got ${show(value)}`);
    }
    for (let i = 0; i < 2; i++) {
      if (typeof value[i] === "number" && holds(value[i])) continue; // no name is made in vain
      checkNumber(value[i], `${name}[${i}]`);
      throw new RangeError(`${name}[${i}] must be ${range}, got ${show(value[i])}`);
    }
  },
});

/** An integer >= 1. */
export const count = (fallback: number): OptionSpec<number> => ({
  default: fallback,
  check(value, name) {
    if (typeof value !== "number") throw new TypeError(`${name} must be a number, got ${show(value)}`);
    if (!Number.isInteger(value) || value < 1) {
      throw new RangeError(`${name} must be an integer >= 1, got ${show(value)}`);
    }
  },
});

/** One of some strings, or null where that is allowed. */
export const oneOf = (fallback: string | null, allowed: readonly (string | null)[]): OptionSpec<unknown> => ({
  default: fallback,
  check(value, name) {
    if (allowed.includes(value as string | null)) return;
    const what = `${name} must be one of ${allowed.map((x) => show(x)).join(", ")}, got ${show(value)}`;
    throw typeof value === "string" ? new RangeError(what) : new TypeError(what);
  },
});

/** Decay rates: two numbers >= 0 and < 1. */
export const betas = (fallback: readonly [number, number]): OptionSpec<readonly [number, number]> =>
  pair(fallback, (x) => x >= 0 && x < 1, ">= 0 and < 1");

/** The options that every elementwise optimizer has. */
export const ELEMENTWISE_SCHEMA: Schema<
  { maximize: boolean; foreach: boolean | null; fused: boolean | null; differentiable: false }
> = {
  maximize: boolean(false),
  foreach: choice,
  fused: choice,
  differentiable: unsupported("there is no autograd here to record the step"),
};

/** What schedulers write into groups beside an optimizer's own options. */
const SCHEDULED = new Set(["initialLr", "swaLr", "maxLr", "minLr", "baseMomentum", "maxMomentum"]);

/** Whether a group may have a key that is not one of the optimizer's options. */
export function isGroupKey(key: string, schema: object): boolean {
  if (key === "params" || key === "paramNames" || key === "name" || key === "meta" || SCHEDULED.has(key)) return true;
  return /^initial[A-Z]/.test(key) && Object.hasOwn(schema, key[7]!.toLowerCase() + key.slice(8));
}

const isString = (value: unknown) => typeof value === "string";

/** Throws unless a key that {@linkcode isGroupKey} allows has a fitting value. */
export function checkGroupKey(key: string, value: unknown): void {
  if (key === "params" || key === "meta") return;
  if (key === "name") {
    if (typeof value !== "string") throw new TypeError(`name must be a string, got ${show(value)}`);
  } else if (key === "paramNames") {
    if (!Array.isArray(value) || !value.every(isString)) {
      throw new TypeError(`paramNames must be an array of strings, got ${show(value)}`);
    }
  } else if (typeof value !== "number" && !(Array.isArray(value) && value.every((x) => typeof x === "number"))) {
    throw new TypeError(`${key} must be a number, got ${show(value)}`);
  }
}

/** Whether an array has two elements, and these. */
function isPair(value: object, first: number, second: number): boolean {
  return Array.isArray(value) && value.length === 2 && value[0] === first && value[1] === second;
}

/**
 * A group's options as they were when they were checked last. Most steps find the same values, which need no second look, and
 * some find another number.
 */
export class KnownOptions {
  readonly #schema: Readonly<Record<string, OptionSpec<unknown>>>;
  readonly #keys: string[] = [];
  readonly #values: unknown[] = [];
  /** The numbers of values that are pairs of numbers, by twos; NaN where a value is none. */
  #pairs: Float64Array = new Float64Array(0);

  /** @param schema the options there are */
  constructor(schema: Readonly<Record<string, OptionSpec<unknown>>>) {
    this.#schema = schema;
  }

  /** Notes options that have been checked. */
  note(options: object): void {
    this.#keys.length = this.#values.length = 0;
    this.#pairs = new Float64Array(2 * Object.keys(options).length);
    for (const key in options) {
      if (!Object.hasOwn(options, key)) return this.#forget();
      this.#keys.push(key);
      this.#noteValue(this.#keys.length - 1, options[key as keyof typeof options]);
    }
    for (const key in this.#schema) if (!this.#keys.includes(key)) return this.#forget();
  }

  /** What has been noted does not say enough: everything is checked again. */
  #forget(): void {
    this.#keys.length = 0;
  }

  #noteValue(index: number, value: unknown): void {
    this.#values[index] = value;
    for (let k = 0; k < 2; k++) {
      this.#pairs[2 * index + k] = Array.isArray(value) && typeof value[k] === "number" ? value[k] as number : NaN;
    }
  }

  /**
   * Checks values that are others than those that have been noted, or may have changed inside.
   *
   * @returns false if there are other options than those that have been noted: all have to be checked
   */
  check(options: object): boolean {
    const keys = this.#keys, values = this.#values, pairs = this.#pairs;
    let i = 0;
    for (const key in options) {
      if (key !== keys[i]) return false;
      const value: unknown = options[key as keyof typeof options];
      let same = value === values[i];
      if (same && typeof value === "object" && value !== null) {
        if (key === "paramNames") checkGroupKey(key, value);
        else if (key !== "params" && key !== "meta") same = isPair(value, pairs[2 * i]!, pairs[2 * i + 1]!);
      }
      if (!same) this.#checkOne(key, value, i);
      i++;
    }
    return i > 0 && i === keys.length;
  }

  #checkOne(key: string, value: unknown, index: number): void {
    if (Object.hasOwn(this.#schema, key)) this.#schema[key]!.check(value, key);
    else checkGroupKey(key, value);
    this.#noteValue(index, value);
  }
}

/** Makes plain objects, whose shapes V8 does not mix with those of objects that others have made. */
const OptionsObject = function () {} as unknown as new () => Record<string, unknown>;
(OptionsObject as unknown as { prototype: object }).prototype = Object.prototype;

/**
 * Makes a plain object of options. V8 keeps a number that may change inside the object, and makes a copy for each function that gets
 * it: garbage. A property that has been null once keeps the number itself.
 */
export function optionsObject(options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const object = new OptionsObject();
  for (const key of Object.keys(options)) object[key] = null;
  return Object.assign(object, options);
}

/**
 * Reads options: own keys, and options that the object inherits (a class's getters), each read once; those that are undefined are
 * absent, arrays are copied. Throws a TypeError for an unknown key.
 *
 * @param options what the caller gave
 * @param schema the options there are
 * @param owner the class, for the message
 * @param group whether a group's further keys are allowed
 */
export function readOptions(options: unknown, schema: object, owner: string, group: boolean): Record<string, unknown> {
  checkOptionsObject(options, group ? "a param group" : "options");
  const read: Record<string, unknown> = {};
  const own = Object.keys(options);
  const inherited = Object.keys(schema).filter((key) => !own.includes(key) && key in options);
  for (const key of [...own, ...inherited]) {
    const value = (options as Record<string, unknown>)[key];
    if (value === undefined) continue;
    if (!Object.hasOwn(schema, key) && !(group && isGroupKey(key, schema))) {
      throw new TypeError(`${owner} has no option ${show(key)}; it has ${Object.keys(schema).join(", ")}`);
    }
    read[key] = Array.isArray(value) && key !== "params" && key !== "meta" ? [...value] : value;
  }
  return read;
}

/** Every option of a class: what the constructor was given, else its default. Throws a TypeError for an unknown one. */
export function readDefaults<Options>(
  options: Options | undefined,
  schema: Schema<Options>,
  owner: string,
): Required<Options> {
  const given = options === undefined ? {} : readOptions(options, schema, owner, false);
  return Object.fromEntries(
    Object.entries<OptionSpec<unknown>>(schema).map(([key, spec]) => [key, key in given ? given[key] : spec.default]),
  ) as Required<Options>;
}
