/**
 * Closures over the test functions, which count how often they are called.
 *
 * @module
 */

import type { Parameter } from "../../mod.ts";
import type { FunctionData, TestFunction } from "./functions.ts";
import { plain, typed } from "./golden.ts";

/** A closure, and how often it has been called. */
export interface Counted {
  calls: number;
  /** Sets the parameters' gradients and returns the value. */
  readonly closure: () => number;
}

/**
 * A closure over a function of all parameters' elements in order. It computes in float64 from the numbers as they are stored,
 * and rounds gradient and value to the parameters' dtype.
 *
 * @param scale what value and gradient are multiplied by; default 1
 */
export function counted(
  fn: TestFunction,
  params: readonly Parameter[],
  data: FunctionData = {},
  scale = 1,
): Counted {
  const counter = {
    calls: 0,
    closure: () => {
      counter.calls++;
      const { f, g } = fn(params.flatMap((p) => [...plain(p.data, p.dtype)]), data);
      let at = 0;
      for (const p of params) {
        p.grad = typed(g.slice(at, at + p.size).map((v) => v * scale), p.dtype);
        at += p.size;
      }
      return params[0]!.dtype === "float32" ? Math.fround(f * scale) : f * scale;
    },
  };
  return counter;
}

/** The largest magnitude. */
export function maxNorm(values: ArrayLike<number>): number {
  let largest = 0;
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]!));
  return largest;
}
