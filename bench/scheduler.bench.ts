/**
 * `step()` of every scheduler on two groups; the goal is less than 1 µs:
 *
 *     deno bench -A bench/scheduler.bench.ts
 *
 * In Bun, or to have the best of several runs: `bun bench/scheduler_steps.ts`.
 *
 * @module
 */

import { SCHEDULERS, stepOf } from "./schedulers.ts";

for (const name of Object.keys(SCHEDULERS)) Deno.bench({ name, fn: stepOf(name) });
