/**
 * The best of several runs of every scheduler's `step()` on two groups, in nanoseconds, in either runtime:
 *
 *     deno run -A bench/scheduler_steps.ts
 *     bun bench/scheduler_steps.ts
 *
 * @module
 */

import { SCHEDULERS, stepOf } from "./schedulers.ts";

const STEPS = 20_000, RUNS = 9;
for (const name of Object.keys(SCHEDULERS)) {
  const step = stepOf(name);
  let best = Infinity;
  for (let run = 0; run < RUNS; run++) {
    const start = performance.now();
    for (let i = 0; i < STEPS; i++) step();
    best = Math.min(best, (performance.now() - start) / STEPS * 1e6);
  }
  console.log(`${name.padEnd(28)} ${best.toFixed(0).padStart(5)} ns`);
}
