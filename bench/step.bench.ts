/**
 * A step of each rule on each shape set, in each implementation, beside a plain loop and the traffic limit:
 *
 *     deno task bench
 *     deno bench -A bench/ --filter=1000x1000
 *
 * For ratios to rely on, see limit.ts: here one contender runs after the other. bench/README.md says what they are.
 *
 * @module
 */

import { SET_NAMES, type ShapeSet } from "./shapes.ts";
import { MAIN_RULES, RULE_NAMES, type RuleName, Work } from "./work.ts";

const BIG: readonly ShapeSet[] = ["gpt2", "1x16M"];

/** Steps that take about a second or longer: left out, as the group's name says. */
const SLOW: readonly ShapeSet[] = ["gpt2"];

const KINDS = ["fused", "foreach", "for-loop", "plain loop", "traffic limit"] as const;
type Kind = typeof KINDS[number];

/** The one work there is: made when its first benchmark warms up, dropped when the next one's does. */
let current: { group: string; work: Work; steps: Record<Kind, () => void> } | undefined;

function stepOf(group: string, kind: Kind, rule: RuleName, set: ShapeSet): () => void {
  if (current?.group !== group) {
    current = undefined;
    const work = new Work(rule, set);
    const { fused, foreach, forLoop, plain, limit } = work;
    current = {
      group,
      work,
      steps: { fused, foreach, "for-loop": forLoop, "plain loop": plain ?? (() => {}), "traffic limit": limit },
    };
  }
  return current.steps[kind];
}

for (const set of SET_NAMES) {
  for (const rule of RULE_NAMES) {
    if (!MAIN_RULES.includes(rule) && set !== "1x16M" && set !== "1000x1000") continue;
    const slow = SLOW.includes(set), group = `${rule} ${set}${slow ? " (for-loop left out: seconds a step)" : ""}`;
    for (const kind of KINDS) {
      if (slow && kind === "for-loop") continue;
      if (kind === "plain loop" && !MAIN_RULES.includes(rule)) continue;
      Deno.bench({
        name: `${rule} ${set}: ${kind}`,
        group,
        baseline: kind === "fused",
        ...(BIG.includes(set) ? { warmup: 2, n: 5 } : {}),
        fn: () => stepOf(group, kind, rule, set)(),
      });
    }
  }
}
