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

/** The rows of a group's step. */
export class HyperRows<Group> {
  readonly #update: Update<Group>;
  readonly #starts: Readonly<Record<string, unknown>>[] = [];
  readonly #nexts: Scalars[] = [];
  /** The rows, behind each other. */
  hypers: Float64Array;

  constructor(update: Update<Group>) {
    this.#update = update;
    this.hypers = new Float64Array(update.rule.hypers.length);
  }

  /** Begins a step. */
  clear(): void {
    this.#starts.length = this.#nexts.length = 0;
  }

  /** The row for a state's numbers: one that is there, or a new one. */
  of(group: Group, state: Readonly<Record<string, unknown>>, label: () => string): number {
    const { scalars: keys, rule: { hypers: { length: width } } } = this.#update, rows = this.#starts.length;
    for (let r = 0; r < rows && r < SEARCHED; r++) {
      if (keys.every((key) => this.#starts[r]![key] === state[key])) return r;
    }
    for (const key of keys) {
      const value = state[key];
      if (typeof value !== "number" || value !== value) {
        throw new TypeError(`${key} of ${label()} must be a number, got ${show(value)}`);
      }
    }
    if ((rows + 1) * width > this.hypers.length) {
      const grown = new Float64Array(2 * (rows + 1) * width);
      grown.set(this.hypers);
      this.hypers = grown;
    }
    this.#starts.push(state);
    const next = {};
    this.#update.next(group, state as Scalars, next);
    this.#nexts.push(next);
    this.#update.hypers(group, state as Scalars, this.hypers, rows * width);
    return rows;
  }

  /** The numbers after a step that starts from a row's. */
  next(row: number): Scalars {
    return this.#nexts[row]!;
  }
}
