/**
 * Sparse state tensors in state dicts.
 *
 * @module
 */

import { isTypedArray } from "../dtype.ts";
import { show, StateDictError } from "../errors.ts";
import type { Parameter } from "../parameter.ts";
import { SparseTensor } from "../sparse_tensor.ts";
import { readTensor } from "./state_dict.ts";

/** Whether an entry of a state dict is a sparse tensor. */
export function isSparseEntry(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && "indices" in value && "values" in value;
}

/** How many elements a tensor in a state dict has, whatever it is written as; 0 where it is none. */
function lengthOf(value: unknown): number {
  if (typeof value !== "object" || value === null) return 0;
  if (isTypedArray(value) || Array.isArray(value)) return value.length;
  return "data" in value ? lengthOf(value.data) : Object.keys(value).length;
}

/** Indices as the constructor of SparseTensor takes them: JSON has an object for a typed array. */
function readIndices(value: unknown, where: string): Int32Array | number[][] {
  if (value instanceof Int32Array) return value.slice();
  if (Array.isArray(value) && value.some(Array.isArray)) return value as number[][];
  const numbers: unknown[] = Array.isArray(value)
    ? value
    : typeof value === "object" && value !== null
    ? Object.values(value)
    : [undefined];
  numbers.forEach((x, i) => {
    if (typeof x !== "number" || (x | 0) !== x) {
      throw new StateDictError(`${where}.indices[${i}] must be an integer, got ${show(x)}`);
    }
  });
  return Int32Array.from(numbers as number[]);
}

/**
 * A sparse state tensor of a parameter, from `{ indices, values, shape, dtype }`: each row once, in rising order, cast to the
 * parameter's dtype. Always a copy.
 */
export function readSparse(value: Record<string, unknown>, p: Parameter, where: string): SparseTensor {
  const { indices, values, shape, dtype } = value;
  if (!Array.isArray(shape) || shape.length !== p.shape.length || shape.some((n, d) => n !== p.shape[d])) {
    throw new StateDictError(`${where}.shape is ${show(shape)}, its parameter's is ${show([...p.shape])}`);
  }
  const size = lengthOf(values);
  const given = isTypedArray(values) && dtype !== undefined ? { data: values, dtype } : values;
  const read = readTensor(given, { data: p.data, dtype: p.dtype, size }, `${where}.values`);
  try {
    return new SparseTensor(readIndices(indices, where), read, p.shape, { dtype: p.dtype }).coalesce();
  } catch (error) {
    if (error instanceof StateDictError) throw error;
    throw new StateDictError(`${where}: ${(error as Error).message}`, { cause: error });
  }
}
