/**
 * Every scheduler, for benchmarks of their steps.
 *
 * @module
 */

import {
  type AnyOptimizer,
  ChainedScheduler,
  ConstantLR,
  CosineAnnealingLR,
  CosineAnnealingWarmRestarts,
  CyclicLR,
  ExponentialLR,
  LambdaLR,
  LinearLR,
  MultiplicativeLR,
  MultiStepLR,
  OneCycleLR,
  PolynomialLR,
  ReduceLROnPlateau,
  SequentialLR,
  SGD,
  StepLR,
  SWALR,
} from "../mod.ts";

const FOREVER = Number.MAX_SAFE_INTEGER;

/** Every scheduler, in the middle of its schedule for as long as the benchmark runs. */
export const SCHEDULERS: Record<string, (optimizer: AnyOptimizer) => { step(metric?: number): void }> = {
  LambdaLR: (o) => new LambdaLR(o, { lrLambda: (t) => 1 / (1 + t) }),
  MultiplicativeLR: (o) => new MultiplicativeLR(o, { lrLambda: () => 0.9999999 }),
  StepLR: (o) => new StepLR(o, { stepSize: 30, gamma: 1 }),
  MultiStepLR: (o) => new MultiStepLR(o, { milestones: [30, 60, 90] }),
  ConstantLR: (o) => new ConstantLR(o, { totalIters: FOREVER }),
  LinearLR: (o) => new LinearLR(o, { totalIters: FOREVER }),
  ExponentialLR: (o) => new ExponentialLR(o, { gamma: 0.9999999 }),
  PolynomialLR: (o) => new PolynomialLR(o, { totalIters: FOREVER, power: 0.9 }),
  CosineAnnealingLR: (o) => new CosineAnnealingLR(o, { tMax: 1000 }),
  CosineAnnealingWarmRestarts: (o) => new CosineAnnealingWarmRestarts(o, { t0: 10, tMult: 2 }),
  CyclicLR: (o) => new CyclicLR(o, { baseLr: 0.1, maxLr: 0.5, mode: "exp_range", gamma: 0.9999999 }),
  OneCycleLR: (o) => new OneCycleLR(o, { maxLr: 1, totalSteps: FOREVER }),
  SWALR: (o) => new SWALR(o, { swaLr: 0.1, annealEpochs: FOREVER }),
  ReduceLROnPlateau: (o) => {
    const scheduler = new ReduceLROnPlateau(o, { factor: 0.5, minLr: 0.1 });
    return { step: () => scheduler.step(1) };
  },
  ChainedScheduler: (o) =>
    new ChainedScheduler([new LinearLR(o, { totalIters: FOREVER }), new ExponentialLR(o, { gamma: 0.9999999 })]),
  SequentialLR: (o) =>
    new SequentialLR(o, {
      schedulers: [new LinearLR(o, { totalIters: 5 }), new CosineAnnealingLR(o, { tMax: 1000 })],
      milestones: [5],
    }),
};

/** A scheduler's step, on two groups. */
export function stepOf(name: string): () => void {
  const optimizer = new SGD([{ params: [new Float32Array(1)] }, { params: [new Float32Array(1)] }], { momentum: 0.9 });
  optimizer.step();
  const scheduler = SCHEDULERS[name]!(optimizer);
  return () => scheduler.step();
}
