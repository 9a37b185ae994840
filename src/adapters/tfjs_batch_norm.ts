/**
 * A BatchNormalization layer of tfjs, as updateBn takes it.
 *
 * @module
 */

import { show } from "../errors.ts";
import type { BatchNorm } from "../swa_utils/module.ts";
import type { Bound } from "./tfjs_memory.ts";

/** The layer's own fields. */
export interface NormLayer {
  momentum: number;
}

/**
 * A batch norm of a {@linkcode LayersModule}. Its momentum is torch's, the weight of the new batch; Keras's, which the layer has,
 * is one minus that. tfjs's running variance is of a batch divided by n, as Keras has it (torch divides by n − 1).
 */
export class TfBatchNorm implements BatchNorm {
  /** Batches that the running statistics are of, as far as {@linkcode LayersModule.forward} has seen them. */
  numBatchesTracked = 0;
  readonly #layer: NormLayer;
  readonly #mean: Bound;
  readonly #variance: Bound;
  readonly #onMomentum: () => void;
  #own: number | null = null;

  /**
   * For {@linkcode LayersModule}, which makes them.
   *
   * @param layer the layer
   * @param mean its running mean
   * @param variance its running variance
   * @param onMomentum called when the momentum has been set
   */
  constructor(layer: NormLayer, mean: Bound, variance: Bound, onMomentum: () => void) {
    this.#layer = layer;
    this.#mean = mean;
    this.#variance = variance;
    this.#onMomentum = onMomentum;
  }

  /** The running mean of each channel: a copy that the next pass hands over to tfjs. */
  get runningMean(): Float32Array {
    return this.#mean.memory.read();
  }

  set runningMean(values: Float32Array) {
    this.#mean.memory.read().set(values);
  }

  /** The running variance of each channel: a copy that the next pass hands over to tfjs. */
  get runningVar(): Float32Array {
    return this.#variance.memory.read();
  }

  set runningVar(values: Float32Array) {
    this.#variance.memory.read().set(values);
  }

  /** The weight of a new batch in the running statistics, from 0 to 1; null: all batches count equally. */
  get momentum(): number | null {
    return this.#own === null ? 1 - this.#layer.momentum : null;
  }

  set momentum(momentum: number | null) {
    if (momentum !== null && !(typeof momentum === "number" && momentum >= 0 && momentum <= 1)) {
      throw new RangeError(`momentum must be a number from 0 to 1, or null, got ${show(momentum)}`);
    }
    if (momentum === null) {
      this.#own ??= this.#layer.momentum;
    } else {
      const own = this.#own ?? this.#layer.momentum;
      this.#layer.momentum = 1 - own === momentum ? own : 1 - momentum; // what it had comes back to the last bit
      this.#own = null;
    }
    this.#onMomentum();
  }

  /** Forgets the statistics: mean 0, variance 1, no batches. */
  resetRunningStats(): void {
    this.runningMean.fill(0);
    this.runningVar.fill(1);
    this.numBatchesTracked = 0;
  }

  /** Before a pass in training mode: the weight that this batch has. */
  prepare(): void {
    if (this.#own === null) return;
    this.#layer.momentum = 1 - 1 / (this.numBatchesTracked + 1);
    if (this.numBatchesTracked === 0) this.runningVar.fill(0); // what it has no longer counts: not even by a rounding
  }
}
