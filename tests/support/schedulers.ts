/**
 * Schedulers from descriptions, as golden files have them.
 *
 * @module
 */

import * as optim from "../../mod.ts";
import type { AnyOptimizer } from "../../mod.ts";
import { revive } from "./golden.ts";

/** A scheduler, described. */
export interface Spec {
  type: string;
  options?: Record<string, unknown>;
  schedulers?: Spec[];
}

/** An optimizer with a parameter of one element in each group, described. */
export interface OptimizerSpec {
  type: string;
  options?: Record<string, unknown>;
  groups: { options: Record<string, unknown> }[];
}

/** One of every class, for tests that go through all of them. */
export const SCHEDULES: readonly Spec[] = [
  { type: "StepLR", options: { stepSize: 3, gamma: 0.7 } },
  { type: "MultiStepLR", options: { milestones: [2, 5, 5, 9], gamma: 0.6 } },
  { type: "LambdaLR", options: { lrLambda: "inverse" } },
  { type: "MultiplicativeLR", options: { lrLambda: "constant0.9" } },
  { type: "ConstantLR", options: { factor: 0.5, totalIters: 6 } },
  { type: "LinearLR", options: { startFactor: 0.3, totalIters: 9 } },
  { type: "ExponentialLR", options: { gamma: 0.93 } },
  { type: "PolynomialLR", options: { totalIters: 20, power: 1.7 } },
  { type: "CosineAnnealingLR", options: { tMax: 5, etaMin: 1e-3 } },
  { type: "CosineAnnealingWarmRestarts", options: { t0: 3, tMult: 2 } },
  { type: "CyclicLR", options: { baseLr: 0.01, maxLr: 0.2, stepSizeUp: 3, mode: "exp_range", gamma: 0.9 } },
  { type: "OneCycleLR", options: { maxLr: 0.1, totalSteps: 30, threePhase: true } },
  { type: "ReduceLROnPlateau", options: { patience: 0, factor: 0.5 } },
  { type: "SWALR", options: { swaLr: 0.02, annealEpochs: 6 } },
  {
    type: "SequentialLR",
    options: { milestones: [3, 6] },
    schedulers: [
      { type: "LinearLR", options: { startFactor: 0.2, totalIters: 3 } },
      { type: "CosineAnnealingLR", options: { tMax: 4 } },
      { type: "ExponentialLR", options: { gamma: 0.8 } },
    ],
  },
  {
    type: "ChainedScheduler",
    schedulers: [
      { type: "ConstantLR", options: { factor: 0.4, totalIters: 5 } },
      { type: "ExponentialLR", options: { gamma: 0.9 } },
    ],
  },
];

const LAMBDAS: Record<string, (e: number) => number> = {
  "pow0.95": (e) => 0.95 ** e,
  "step10half": (e) => 0.5 ** Math.floor(e / 10),
  "inverse": (e) => 1 / (1 + 0.1 * e),
  "warmup5": (e) => Math.min(1, (e + 1) / 5),
  "constant0.9": () => 0.9,
  "alternate": (e) => e % 2 === 0 ? 1 : 0.5,
  "growth": (e) => 1 + 0.01 * e,
};

const SCALES: Record<string, (x: number) => number> = {
  "inverse": (x) => 1 / (1 + x),
  "pow0.8": (x) => 0.8 ** x,
  "sawtooth": (x) => 1 - 0.1 * (x % 5),
};

type Scheduler = new (...args: unknown[]) => optim.LRScheduler;

/** Makes what is described. */
export function makeScheduler(spec: Spec, optimizer: AnyOptimizer): optim.LRScheduler {
  const children = (spec.schedulers ?? []).map((s) => makeScheduler(s, optimizer));
  const Class = (optim as unknown as Record<string, Scheduler>)[spec.type]!;
  if (spec.type === "ChainedScheduler") return new Class(children);
  const options = revive({ ...spec.options }), { lrLambda, scaleFn } = options;
  if (typeof lrLambda === "string") options["lrLambda"] = LAMBDAS[lrLambda];
  if (Array.isArray(lrLambda)) options["lrLambda"] = lrLambda.map((name: string) => LAMBDAS[name]);
  if (typeof scaleFn === "string") options["scaleFn"] = SCALES[scaleFn];
  return new Class(optimizer, spec.type === "SequentialLR" ? { ...options, schedulers: children } : options);
}

type Make = new (params: unknown[], options?: Record<string, unknown>) => AnyOptimizer;

/** Makes an optimizer whose parameters have gradients. */
export function makeOptimizer({ type, options = {}, groups }: OptimizerSpec): AnyOptimizer {
  const Class = (optim as unknown as Record<string, Make>)[type]!;
  return new Class(
    groups.map((g) => {
      const p = new optim.Parameter(new Float32Array(1));
      p.grad = new Float32Array(1);
      return { ...revive(g.options), params: [p] };
    }),
    revive(options),
  );
}

/** SGD with momentum and a group for each rate. */
export function sgd(...rates: number[]): AnyOptimizer {
  return makeOptimizer({
    type: "SGD",
    options: { momentum: 0.9, weightDecay: 0.01 },
    groups: rates.map((lr) => ({ options: { lr } })),
  });
}

/** The groups' rates. */
export const rates = (optimizer: AnyOptimizer, field = "lr"): number[] => {
  return optimizer.paramGroups.map((g) => (g as unknown as Record<string, number>)[field]!);
};

/** The rates now and after each of some steps. */
export function run(optimizer: AnyOptimizer, scheduler: { step(): void }, steps: number, field = "lr"): number[][] {
  const rows = [rates(optimizer, field)];
  for (let i = 0; i < steps; i++) {
    optimizer.step();
    scheduler.step();
    rows.push(rates(optimizer, field));
  }
  return rows;
}

/** What is said on console.warn during a call. */
export function warningsOf(call: () => void): string[] {
  const said: string[] = [], warn = console.warn;
  console.warn = (...args: unknown[]) => said.push(args.join(" "));
  try {
    call();
  } finally {
    console.warn = warn;
  }
  return said;
}
