/**
 * What a model is: anything with this shape. No base class is asked for.
 *
 * @module
 */

import { DeviceArray } from "../cuda/device_array.ts";
import { isTypedArray, type TypedArray } from "../dtype.ts";
import type { Parameter } from "../parameter.ts";

/** Arrays of integers, as buffers may be: they are copied and never averaged. */
export type IntegerArray =
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

/**
 * A model, to average and to update the batch norms of.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { AveragedModel, type Module, Parameter } from "@flatstep/optim";
 *
 * class Scale implements Module {
 *   weight = new Parameter([2]);
 *   *namedParameters(): Iterable<[string, Parameter]> {
 *     yield ["weight", this.weight];
 *   }
 *   forward(x: number): number {
 *     return this.weight.data[0]! * x;
 *   }
 * }
 * assert(new AveragedModel(new Scale()).forward(3) === 6);
 * ```
 */
export interface Module {
  /** Its parameters, each with its name. */
  namedParameters(): Iterable<[string, Parameter]>;
  /**
   * Its buffers, each with its name: numbers that belong to the model and are not trained. A plain Uint16Array holds integers,
   * unless a Parameter of dtype bfloat16 or float16 has been made of it.
   */
  namedBuffers?(): Iterable<[string, Parameter | TypedArray | IntegerArray]>;
  /** Itself and all modules below it. */
  modules?(): Iterable<unknown>;
  /** What the model computes; may be asynchronous. */
  // deno-lint-ignore no-explicit-any -- what goes in and comes out is the model's affair
  forward(...inputs: any[]): any;
  /** Whether it is in training mode. */
  training?: boolean;
  /** Puts it and all modules below it into training mode, or out of it. */
  train?(mode?: boolean): this;
  /** Puts it and all modules below it out of training mode. */
  eval?(): this;
  /** An independent copy. Without it a model is deep-copied. */
  clone?(): this;
}

/** What {@linkcode updateBn} takes for a batch norm, wherever `modules()` has it. */
export interface BatchNorm {
  /** The running mean of each channel. */
  runningMean: TypedArray;
  /** The running variance of each channel. */
  runningVar: TypedArray;
  /** The weight of a new batch in the running statistics; null: all batches count equally. */
  momentum: number | null;
  /** Batches that the running statistics are of. */
  numBatchesTracked: number;
  /** Forgets the statistics: mean 0, variance 1, no batches. */
  resetRunningStats(): void;
}

/** Whether something is an object. */
export function isObject(value: unknown): value is Record<PropertyKey, unknown> {
  return typeof value === "object" && value !== null;
}

/** Whether something is what a batch norm's statistics are; a model on a device may have them there. */
const isStatistics = (value: unknown): boolean => isTypedArray(value) || value instanceof DeviceArray;

/** Whether something is a batch norm. */
export function isBatchNorm(module: unknown): module is BatchNorm {
  return isObject(module) && isStatistics(module["runningMean"]) && isStatistics(module["runningVar"]) &&
    "momentum" in module && typeof module["resetRunningStats"] === "function";
}

/** All modules of a model, each once: what `modules()` gives, or the model alone. */
export function modulesOf(model: Module): Set<unknown> {
  return new Set(model.modules?.() ?? [model]);
}

/** The batch norms of a model, in order. */
export function batchNormsOf(model: Module): BatchNorm[] {
  return [...modulesOf(model)].filter(isBatchNorm);
}
