/**
 * What a pickle is made of, as far as checkpoints have it: Python's None, bool, int, float and str are null, booleans, numbers
 * (bigint beyond 2⁵³) and strings; lists and tuples are arrays; dicts are Maps.
 *
 * @module
 */

import type { CheckpointTensor, Tensor, TensorDType } from "./value.ts";

/** A value that is read from a pickle. */
export type PythonValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | PythonValue[]
  | PythonDict
  | TensorView
  | SparseView;
/** A dict; also an OrderedDict. */
export type PythonDict = Map<PythonKey, PythonValue>;
/** A key of a dict. */
export type PythonKey = string | number | bigint;

/** A Counter: a dict of counts. */
export class Counter extends Map<PythonKey, PythonValue> {}

/** A storage that tensors are views of. */
export interface Storage {
  /** Its name in the archive. */
  readonly key: string;
  /** Its bytes. */
  readonly bytes: number;
}

/** A tensor in a pickle: a view of a storage. */
export class TensorView {
  /** The tensor, when its storage has been read. */
  loaded: CheckpointTensor | null = null;
  constructor(
    readonly storage: Storage,
    readonly dtype: TensorDType,
    readonly offset: number,
    readonly shape: number[],
    readonly strides: readonly number[],
  ) {}
}

/** A sparse tensor in coordinates. */
export class SparseView {
  constructor(readonly indices: TensorView, readonly values: TensorView, readonly shape: number[]) {}
}

/** A value that is written into a pickle. */
export type WritableValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | WritableValue[]
  | ReadonlyMap<string | number, WritableValue>
  | Float
  | Tuple
  | Counts
  | TensorSpec
  | SparseSpec;

/** A float, whatever its value is. */
export class Float {
  constructor(readonly value: number) {}
}
/** A tuple. */
export class Tuple {
  constructor(readonly items: readonly WritableValue[]) {}
}
/** A Counter. */
export class Counts {
  constructor(readonly counts: ReadonlyMap<number, number>) {}
}
/** A tensor: some elements of an array that is a storage, in row-major order. */
export class TensorSpec {
  readonly #source: { readonly tensor: Tensor };
  constructor(source: { readonly tensor: Tensor }, readonly shape: readonly number[], readonly offset: number = 0) {
    this.#source = source;
  }
  /** The array. */
  get tensor(): Tensor {
    return this.#source.tensor;
  }
}
/** A sparse tensor. */
export class SparseSpec {
  constructor(readonly indices: TensorSpec, readonly values: TensorSpec, readonly shape: readonly number[]) {}
}

/** Most bytes of a pickle: numbers that tensors hold are not in it. */
export const MAX_PICKLE: number = 64 << 20;
/** Most lists, tuples and dicts in one, so that memory stays within some hundred megabytes. */
export const MAX_CONTAINERS = 2_000_000;
