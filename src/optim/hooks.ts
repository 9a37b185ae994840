/**
 * Hooks: lists of functions that can be added to, in front or behind, and taken from.
 *
 * @module
 */

import { checkKeys, show } from "../errors.ts";

/** What a `register…` call returns. */
export interface HookHandle {
  /** Takes the hook out again; a second call does nothing. */
  remove(): void;
}

/** Options of the `register…` calls that have an order. */
export interface HookOptions {
  /** Runs this hook before those that are there; default false. */
  prepend?: boolean;
}

/** A list of hooks, in the order in which they run. */
export class Hooks<Hook> {
  #hooks: readonly { readonly hook: Hook }[] = [];

  /** Adds a hook. */
  add(hook: Hook, options: HookOptions = {}): HookHandle {
    if (typeof hook !== "function") throw new TypeError(`a hook must be a function, got ${show(hook)}`);
    checkKeys(options, ["prepend"], "a hook");
    const { prepend = false } = options, entry = { hook };
    if (typeof prepend !== "boolean") throw new TypeError(`prepend must be a boolean, got ${show(prepend)}`);
    this.#hooks = prepend ? [entry, ...this.#hooks] : [...this.#hooks, entry];
    return {
      remove: () => {
        this.#hooks = this.#hooks.filter((h) => h !== entry);
      },
    };
  }

  /** Whether there are none. */
  get empty(): boolean {
    return this.#hooks.length === 0;
  }

  /** Calls a function with each hook, in order. Hooks added or removed meanwhile count from the next time. */
  each(call: (hook: Hook) => void): void {
    for (const { hook } of this.#hooks) call(hook);
  }
}
