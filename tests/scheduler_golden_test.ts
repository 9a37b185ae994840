/** Replays torch's schedules, and what torch refuses. */

import { readFileSync } from "node:fs";
import { test } from "node:test";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import {
  ChainedScheduler,
  type CosineAnnealingWarmRestarts,
  type LRScheduler,
  type ReduceLROnPlateau,
  SequentialLR,
} from "../mod.ts";
import { ROOT } from "./support/runtime.ts";
import {
  makeOptimizer,
  makeScheduler,
  type OptimizerSpec,
  rates,
  type Spec,
  warningsOf,
} from "./support/schedulers.ts";

interface SchedulerCase {
  name: string;
  optimizer: OptimizerSpec;
  scheduler?: Spec;
  schedulers?: Spec[];
  metrics?: (number | string)[];
  stepArgs?: (number | null)[];
  stepWhich?: number[];
  resumeAt?: number;
  stateDict?: Record<string, number | number[]>[];
  expectLr: number[][];
  expectMomentum?: number[][];
  expectLastLr: number[];
  tolerance: { rtol: number; atol: number };
}

const read = <T>(file: string): T[] => {
  return (JSON.parse(readFileSync(join(ROOT, "tests", "golden", file), "utf8")) as { cases: T[] }).cases;
};

function near(what: string, got: number[], want: number[], { rtol, atol }: { rtol: number; atol: number }): void {
  assertEquals(got.length, want.length, what);
  got.forEach((x, i) => {
    const allowed = atol + rtol * Math.abs(want[i]!);
    assert(Math.abs(x - want[i]!) <= allowed, `${what}[${i}] is ${x}, expected ${want[i]} within ${allowed}`);
  });
}

function makeTrial(c: SchedulerCase) {
  const optimizer = makeOptimizer(c.optimizer);
  const specs = c.schedulers ?? [c.scheduler!], schedulers = specs.map((s) => makeScheduler(s, optimizer));
  return {
    optimizer,
    schedulers,
    step(t: number) {
      optimizer.step();
      schedulers.forEach((s, i) => {
        if (c.stepWhich && c.stepWhich[t] !== i) return;
        const epoch = c.stepArgs?.[t] ?? null;
        if (c.metrics) (s as ReduceLROnPlateau).step(Number(c.metrics[t]));
        else if (epoch !== null) (s as CosineAnnealingWarmRestarts).step(epoch);
        else s.step();
      });
    },
  };
}

const EXACT = { rtol: 1e-12, atol: 0 };

function replay(c: SchedulerCase): void {
  let trial = makeTrial(c);
  const look = (t: number, label: string) => {
    near(`${label}lr after ${t} steps`, rates(trial.optimizer), c.expectLr[t]!, c.tolerance);
    if (!c.expectMomentum) return;
    const momenta = trial.optimizer.paramGroups.map((g) => g.momentum ?? g.betas[0]);
    near(`${label}momentum after ${t} steps`, momenta, c.expectMomentum[t]!, EXACT);
  };
  look(0, "");
  const steps = c.expectLr.length - 1;
  let saved: string | undefined;
  for (let t = 0; t < steps; t++) {
    trial.step(t);
    look(t + 1, "");
    if (c.resumeAt !== t + 1) continue;
    trial.schedulers.forEach((s, i) => {
      const dict = s.stateDict();
      for (const [key, want] of Object.entries(c.stateDict?.[i] ?? {})) {
        near(`stateDict().${key}`, [dict[key]].flat() as number[], [want].flat(), EXACT);
      }
    });
    saved = JSON.stringify([trial.schedulers.map((s) => s.stateDict()), trial.optimizer.stateDict()]);
  }
  near("getLastLr()", trial.schedulers.at(-1)!.getLastLr(), c.expectLastLr, c.tolerance);
  if (saved === undefined) return;
  const [schedulers, optimizer] = JSON.parse(saved);
  trial = makeTrial(c);
  trial.schedulers.forEach((s, i) => s.loadStateDict(schedulers[i]));
  trial.optimizer.loadStateDict(optimizer);
  for (let t = c.resumeAt!; t < steps; t++) {
    trial.step(t);
    look(t + 1, "resumed: ");
  }
}

for (const c of read<SchedulerCase>("schedulers.json")) {
  test(`a schedule has torch's values, also when it is resumed: ${c.name}`, () => {
    const said = warningsOf(() => replay(c));
    assertEquals(said.filter((s) => !s.includes("a momentum that it did not have")), []);
  });
}

interface ErrorCase {
  name: string;
  kind: string;
  optimizer: string;
  options?: Record<string, unknown>;
  groups?: { options: Record<string, unknown> }[];
  scheduler: Spec;
  steps?: number;
  stepArg?: number;
  expectError: boolean;
  mentions?: string;
}

for (const c of read<ErrorCase>("errors.json")) {
  if (c.kind !== "scheduler" && c.kind !== "otherOptimizer") continue;
  test(`golden errors: ${c.name} is ${c.expectError ? "refused" : "accepted"} (${c.kind})`, () => {
    const make = () => {
      return makeOptimizer({ type: c.optimizer, options: c.options ?? {}, groups: c.groups ?? [{ options: {} }] });
    };
    const optimizer = make(), before = rates(optimizer);
    let attempt: () => void, unchanged = () => {};
    if (c.kind === "otherOptimizer") {
      const parts = c.scheduler.schedulers!.map((s, i) => makeScheduler(s, i === 0 ? optimizer : make()));
      attempt = () => {
        if (c.scheduler.type === "ChainedScheduler") new ChainedScheduler(parts);
        else new SequentialLR(optimizer, { schedulers: parts, milestones: [2] });
      };
    } else if (c.steps === undefined && c.stepArg === undefined) {
      attempt = () => void makeScheduler(c.scheduler, optimizer);
      if (!c.scheduler.schedulers) unchanged = () => assertEquals(rates(optimizer), before);
    } else {
      const scheduler: LRScheduler = makeScheduler(c.scheduler, optimizer), last = c.expectError ? 1 : 0;
      const step = () => {
        optimizer.step();
        scheduler.step();
      };
      for (let i = last; i < (c.steps ?? 0); i++) step();
      const now = scheduler.stateDict(), there = rates(optimizer);
      attempt = () => {
        if (c.stepArg !== undefined) (scheduler as CosineAnnealingWarmRestarts).step(c.stepArg);
        else if (c.expectError) step();
      };
      unchanged = () => {
        assertEquals(scheduler.stateDict(), now);
        assertEquals(rates(optimizer), there);
      };
    }
    if (!c.expectError) return attempt();
    let thrown: unknown;
    try {
      attempt();
    } catch (error) {
      thrown = error;
    }
    assert(thrown instanceof TypeError || thrown instanceof RangeError, `threw ${thrown}`);
    if (c.mentions) assertStringIncludes(thrown.message, c.mentions);
    unchanged();
  });
}
