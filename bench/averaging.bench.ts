/**
 * An update of an average on each shape set, beside the foreach call that is inside, a plain loop and the traffic limit:
 *
 *     deno bench -A bench/averaging.bench.ts
 *
 * For ratios to rely on, and torch beside them, see averaging.ts: here one contender runs after the other.
 *
 * @module
 */

import { AveragingWork } from "./averaging_work.ts";
import { SET_NAMES, type ShapeSet } from "./shapes.ts";

const KINDS = ["ema", "equal", "lerp", "plain", "limit"] as const;

let current: { set: ShapeSet; work: AveragingWork } | undefined;

function workOf(set: ShapeSet): AveragingWork {
  if (current?.set !== set) {
    current = undefined;
    current = { set, work: new AveragingWork(set) };
  }
  return current.work;
}

for (const set of SET_NAMES) {
  for (const kind of KINDS) {
    Deno.bench({
      name: `averaging ${set}: ${kind}`,
      group: `averaging ${set}`,
      baseline: kind === "ema",
      ...(set === "gpt2" || set === "1x16M" ? { warmup: 2, n: 5 } : {}),
      fn: () => workOf(set)[kind](),
    });
  }
}
