import { numpy as np } from "@jax-js/jax";
import { type BatchNorm as BatchNormLike, Parameter } from "../../mod.ts";

/** Keeps a channel that never changes from being divided by zero. */
const EPSILON = 1e-5;

/** Batch normalisation of each column. The object keeps the numbers; the arithmetic is in the functions below it. */
export class BatchNorm implements BatchNormLike {
  readonly scale: Parameter;
  readonly shift: Parameter;
  runningMean: Float32Array<ArrayBuffer>;
  runningVar: Float32Array<ArrayBuffer>;
  /** The weight of a new batch in the running statistics; null: all batches count equally. */
  momentum: number | null = 0.1;
  numBatchesTracked = 0;
  training = true;

  constructor(width: number, readonly name: string) {
    this.scale = new Parameter(new Float32Array(width).fill(1), { name: `${name}.scale` });
    this.shift = new Parameter(new Float32Array(width), { name: `${name}.shift` });
    this.runningMean = new Float32Array(width);
    this.runningVar = new Float32Array(width).fill(1);
  }

  /** Forgets the statistics. */
  resetRunningStats(): void {
    this.runningMean.fill(0);
    this.runningVar.fill(1);
    this.numBatchesTracked = 0;
  }

  /** Takes the mean and the variance of a batch of `count` images into the running statistics. */
  track(mean: Float32Array, variance: Float32Array, count: number): void {
    this.numBatchesTracked++;
    const weight = this.momentum ?? 1 / this.numBatchesTracked;
    // A batch is normalised by its own variance, divided by n; an estimate of all images' variance divides by n - 1.
    const unbiased = count / Math.max(1, count - 1);
    for (let i = 0; i < mean.length; i++) {
      this.runningMean[i]! += weight * (mean[i]! - this.runningMean[i]!);
      this.runningVar[i]! += weight * (unbiased * variance[i]! - this.runningVar[i]!);
    }
  }
}

/** The mean and the variance of each column. */
export function momentsOf(x: np.Array): [mean: np.Array, variance: np.Array] {
  const mean = np.mean(x.ref, 0);
  return [mean.ref, np.mean(np.square(x.sub(mean)), 0)];
}

/** Brings columns of this mean and variance to mean 0 and variance 1, then to those that were learnt. */
export function normalise(
  x: np.Array,
  mean: np.Array,
  variance: np.Array,
  scale: np.Array,
  shift: np.Array,
): np.Array {
  return x.sub(mean).mul(scale.div(np.sqrt(variance.add(EPSILON)))).add(shift);
}
