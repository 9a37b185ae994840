/**
 * The garbage collector, to be called.
 *
 * @module
 */

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Gives what collects garbage, all of it and at once. */
export function collector(): () => void {
  const { Bun } = globalThis as unknown as { Bun?: { gc(now: boolean): void } };
  if (Bun) return () => void Bun.gc(true);
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
}
