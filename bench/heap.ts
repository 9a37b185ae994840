/**
 * What a steady step leaves for the garbage collector:
 *
 *     deno run -A bench/heap.ts [--rules=all] [--sets=1x1000]
 *     bun bench/heap.ts
 *
 * bench/README.md says what the columns mean.
 *
 * @module
 */

import process from "node:process";
import { readArguments } from "./arguments.ts";
import { type Counter, heapCounter, madeByStep } from "./heap_counter.ts";
import { digits, table } from "./ratios.ts";
import type { ShapeSet } from "./shapes.ts";
import { type RuleName, Work } from "./work.ts";

/** Steps that are looked at together. */
const STEPS: Readonly<Partial<Record<ShapeSet, number>>> = {
  "1x1000": 100_000,
  "1000x1000": 2000,
  "10000x64": 1000,
};
/** A table of what steps make: as they are, with a closure, with clipping, and with another learning rate in each; and what of it stays. */
export async function heapTable(rules: readonly RuleName[], sets: readonly ShapeSet[]): Promise<string> {
  const counter = await heapCounter();
  if (counter === null) return "this runtime does not tell what it allocates";
  const rows: string[][] = [];
  for (const rule of rules) {
    for (const set of sets) {
      const steps = STEPS[set];
      if (steps !== undefined) rows.push(heapRow(counter, rule, set, steps));
    }
  }
  const head = ["rule", "shapes", "steps", `${counter.unit} a step`, "closure", "clipped", "lr set", "kept"];
  return rows.length === 0 ? "" : table(head, rows);
}

function heapRow(counter: Counter, rule: RuleName, set: ShapeSet, steps: number): string[] {
  const { optimizer } = new Work(rule, set), options = { maxGradNorm: 1, gradScale: 2 }, closure = () => 0.5;
  const group = optimizer.paramGroups[0]!;
  const { lr } = group;
  let up = false;
  const made = [
    () => void optimizer.step(),
    () => void optimizer.step(closure),
    () => void optimizer.step(null, options),
    () => {
      up = !up;
      group.lr = lr * (up ? 2 : 1);
      optimizer.step();
    },
  ].map((step) => digits(madeByStep(counter, step, steps)));
  counter.collect();
  const used = process.memoryUsage().heapUsed;
  for (let i = 0; i < steps; i++) optimizer.step();
  counter.collect();
  return [rule, set, String(steps), ...made, ((process.memoryUsage().heapUsed - used) / steps).toFixed(2)];
}

async function main(): Promise<void> {
  const { rules, sets } = readArguments();
  console.log(await heapTable(rules, sets));
}

if (import.meta.main) await main();
