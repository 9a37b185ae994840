/**
 * Batch norm statistics of a model whose weights were not trained but averaged.
 *
 * @module
 */

import { describe } from "../errors.ts";
import type { TypedArray } from "../dtype.ts";
import { type BatchNorm, isBatchNorm, isObject, type Module, modulesOf } from "./module.ts";
import { copyAll, copyEach, release } from "./tensors.ts";

/** What a batch norm was before. */
interface Saved {
  readonly norm: BatchNorm;
  readonly momentum: number | null;
  readonly mean: TypedArray;
  readonly variance: TypedArray;
  /** Copies of both. */
  readonly values: ReturnType<typeof copyAll>;
  readonly batches: number;
}

function save(norm: BatchNorm): Saved {
  const { momentum, runningMean: mean, runningVar: variance, numBatchesTracked: batches } = norm;
  return { norm, momentum, mean, variance, values: copyAll([mean, variance]), batches };
}

/** Gives a batch norm its statistics back, in the arrays that it had. */
function restore({ norm, mean, variance, values, batches }: Saved): void {
  copyEach([mean, variance], values);
  if (norm.runningMean !== mean) norm.runningMean = mean;
  if (norm.runningVar !== variance) norm.runningVar = variance;
  norm.numBatchesTracked = batches;
}

function isTraining(module: unknown): module is { training: boolean } {
  return isObject(module) && typeof module["training"] === "boolean";
}

/**
 * Computes the running statistics of all batch norms anew, by one pass over data: weights that were averaged have not seen
 * any activations.
 *
 * The model runs in training mode, each batch norm with the momentum null, so that all batches count equally. In the end
 * every batch norm has its momentum back, and every module its own training mode. A model without batch norms is not run. Where the
 * model's parameters are makes no difference; statistics that are DeviceArrays are kept and given back on their device.
 *
 * Paper: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv:1803.05407),
 * section 3.2. torch source: `torch/optim/swa_utils.py`. Differences: every module gets its own training mode back (torch puts
 * a frozen layer into training mode with the rest); if the loader or the model throws, everything is as it was before (torch
 * leaves momentum None, training mode and half the statistics); a loader without batches changes nothing (torch wipes the
 * statistics).
 *
 * @param loader batches, synchronous or asynchronous: the input, or an array whose first element is the input
 * @param model the model; its batch norms are found by `modules()`, see {@linkcode BatchNorm}
 * @throws {TypeError} if loader is no iterable, or model no Module; and whatever the loader or the model throws
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { updateBn } from "@flatstep/optim";
 *
 * class Norm { // a batch norm of one channel
 *   runningMean = Float32Array.of(7);
 *   runningVar = Float32Array.of(7);
 *   momentum: number | null = 0.1;
 *   numBatchesTracked = 5;
 *   training = false;
 *   *namedParameters() {}
 *   *modules() { yield this; }
 *   resetRunningStats() {
 *     this.runningMean.fill(0);
 *     this.runningVar.fill(1);
 *     this.numBatchesTracked = 0;
 *   }
 *   forward(x: number[]) {
 *     const mean = x.reduce((a, b) => a + b) / x.length;
 *     if (this.training) this.runningMean[0]! += (mean - this.runningMean[0]!) / ++this.numBatchesTracked;
 *   }
 * }
 * const norm = new Norm();
 * await updateBn([[[1, 3]], [[5, 7]]], norm);
 * assert(norm.runningMean[0] === 4 && norm.momentum === 0.1 && !norm.training);
 * ```
 */
export async function updateBn(loader: Iterable<unknown> | AsyncIterable<unknown>, model: Module): Promise<void> {
  if (!isObject(loader) || !(Symbol.asyncIterator in loader || Symbol.iterator in loader)) {
    throw new TypeError(
      `loader must be an iterable of batches, or an asynchronous one, got ${describe(loader)}`,
    );
  }
  if (!isObject(model) || typeof model.forward !== "function") {
    throw new TypeError(`model must be a Module with forward(), got ${describe(model)}`);
  }
  const modules = [...modulesOf(model).add(model)], norms = modules.filter(isBatchNorm);
  if (norms.length === 0) return;
  const modes = modules.filter(isTraining).map((module) => ({ module, training: module.training }));
  let saved: Saved[] | null = null;
  try {
    for await (const batch of loader as AsyncIterable<unknown>) {
      if (saved === null) {
        saved = [];
        for (const norm of norms) saved.push(save(norm)); // all of them, before any is reset
        for (const norm of norms) {
          norm.resetRunningStats();
          norm.momentum = null;
        }
        if (typeof model.train === "function") model.train(true);
        else for (const { module } of modes) module.training = true;
      }
      await model.forward(Array.isArray(batch) ? batch[0] : batch);
    }
  } catch (error) {
    saved?.forEach(restore);
    throw error;
  } finally {
    saved?.forEach(({ norm, momentum }) => norm.momentum = momentum);
    saved?.forEach(({ values }) => release(values));
    for (const { module, training } of modes) module.training = training;
  }
}
