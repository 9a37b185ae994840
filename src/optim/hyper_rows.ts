/**
 * The rows of hyperparameters of a step: one for each set of numbers that states start from.
 *
 * @module
 */

import { show } from "../errors.ts";
import type { Update } from "./update.ts";

type Scalars = Readonly<Record<string, number>>;

/** Rows that are searched for an equal one. */
const SEARCHED = 64;

function sameNumbers(
  a: Readonly<Record<string, unknown>>,
  b: Readonly<Record<string, unknown>>,
  keys: readonly string[],
): boolean {
  for (const key of keys) if (a[key] !== b[key]) return false;
  return true;
}

/** The rows of a group's step. What it has made is used again by the next one. */
export class HyperRows<Group> {
  readonly #update: Update<Group>;
  readonly #label: (index: number) => string;
  /** The numbers that rows start from, and the numbers after the step. */
  readonly #starts: Readonly<Record<string, unknown>>[] = [];
  readonly #nexts: Record<string, number>[] = [];
  /** Takes the place of one of them from which the next step starts. */
  #spare: Record<string, number> = {};
  /** How many there are. */
  count = 0;
  /** The rows, behind each other. */
  hypers: Float64Array;

  /** @param label what a parameter of the group is called in messages, by its place */
  constructor(update: Update<Group>, label: (index: number) => string) {
    this.#update = update;
    this.#label = label;
    this.hypers = new Float64Array(new ArrayBuffer(update.rule.hypers.length * 8));
  }

  /** Begins a step. */
  clear(): void {
    this.count = 0;
  }

  /**
   * The row for the numbers of a parameter's state: one that is there, or a new one. What {@linkcode next} has given may be that
   * state, too. Throws where they are no numbers.
   *
   * @param index the parameter's place; -1: it is not known, and there is no error but the row -1
   */
  of(group: Group, state: Readonly<Record<string, unknown>>, index: number): number {
    const { scalars: keys, rule: { hypers: { length: width } } } = this.#update, rows = this.count;
    for (let r = 0; r < rows && r < SEARCHED; r++) {
      if (sameNumbers(this.#starts[r]!, state, keys)) return r;
    }
    let next = this.#nexts[rows] ??= {};
    const own = next === state || this.#spare === state;
    if (next === state) {
      this.#nexts[rows] = this.#spare;
      this.#spare = next;
      next = this.#nexts[rows]!;
    }
    if (!own && !this.#fine(state, index)) return -1;
    if ((rows + 1) * width > this.hypers.length) {
      const grown = new Float64Array(new ArrayBuffer(2 * (rows + 1) * width * 8));
      grown.set(this.hypers);
      this.hypers = grown;
    }
    this.#starts[rows] = state;
    this.#update.next(group, state as Scalars, next);
    this.#update.hypers(group, state as Scalars, this.hypers, rows * width);
    if (own && this.#hasNaN(rows * width, width) && !this.#fine(state, index)) return -1;
    return this.count++;
  }

  /** Whether a state's numbers are numbers; throws where they are not, and the parameter is known. */
  #fine(state: Readonly<Record<string, unknown>>, index: number): boolean {
    for (const key of this.#update.scalars) {
      const value = state[key];
      if (typeof value === "number" && value === value) continue;
      if (index < 0) return false;
      throw new TypeError(`${key} of ${this.#label(index)} must be a number, got ${show(value)}`);
    }
    return true;
  }

  /** Whether a NaN has come of a state's numbers: our own are looked at only then, since V8 makes an object of each. */
  #hasNaN(at: number, width: number): boolean {
    for (let k = at; k < at + width; k++) if (this.hypers[k] !== this.hypers[k]) return true;
    return false;
  }

  /** The numbers after a step that starts from a row's. They stay as they are until two more steps have begun. */
  next(row: number): Record<string, number> {
    return this.#nexts[row]!;
  }
}
