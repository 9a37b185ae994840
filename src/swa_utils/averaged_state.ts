/**
 * State dicts of averaged models.
 *
 * @module
 */

import { DeviceArray, downloadArray } from "../cuda/device_array.ts";
import { type DType, isTypedArray, type TypedArray } from "../dtype.ts";
import { show, StateDictError } from "../errors.ts";
import { readTensor } from "../optim/state_dict.ts";
import { likeOf, Parameter } from "../parameter.ts";
import { type IntegerArray, isObject } from "./module.ts";
import { type AnyArray, arrayOf, type Entry, type IntegerType } from "./tensors.ts";

/** A parameter or buffer in a state dict. */
export interface TensorData {
  /** The element type. */
  dtype: DType | IntegerType;
  /** The lengths of the dimensions. */
  shape: number[];
  /** The numbers, row-major. */
  data: TypedArray | IntegerArray;
}

/** What `stateDict()` of an averaged model gives and `loadStateDict()` takes. */
export interface AveragedStateDict {
  /** How many updates there were. */
  nAveraged: number;
  /** Each parameter and buffer of the averaged copy. */
  [name: `module.${string}`]: TensorData;
}

/** A snapshot, in the host's memory; `live`: of the arrays themselves where they are there, for a save that copies nothing. */
export function makeStateDict(nAveraged: number, entries: readonly Entry[], live = false): AveragedStateDict {
  const dict: AveragedStateDict = { nAveraged };
  for (const entry of entries) {
    const array = arrayOf(entry);
    const data = array instanceof DeviceArray
      ? downloadArray(array, likeOf(entry.param!))
      : live
      ? array
      : array.slice();
    dict[`module.${entry.name}`] = { dtype: entry.dtype, shape: [...entry.shape], data };
  }
  return dict;
}

/** Reads a state dict for given tensors: their arrays, copied. Throws a StateDictError where anything does not fit. */
export function readStateDict(dict: unknown, entries: readonly Entry[]): { nAveraged: number; arrays: AnyArray[] } {
  if (!isObject(dict)) throw new StateDictError(`a state dict must be an object, got ${show(dict)}`);
  const nAveraged = dict["nAveraged"];
  if (typeof nAveraged !== "number" || !Number.isSafeInteger(nAveraged) || nAveraged < 0) {
    throw new StateDictError(`nAveraged must be an integer >= 0, got ${show(nAveraged)}`);
  }
  const names = new Set(["nAveraged", ...entries.map(({ name }) => `module.${name}`)]);
  for (const key of Object.keys(dict)) {
    if (!names.has(key)) throw new StateDictError(`the state dict has ${show(key)}, which the averaged model has not`);
  }
  return { nAveraged, arrays: entries.map((entry) => readEntry(dict, entry)) };
}

function readEntry(dict: Record<PropertyKey, unknown>, entry: Entry): AnyArray {
  const where = `module.${entry.name}`, value = dict[where];
  if (value === undefined) throw new StateDictError(`the state dict lacks ${show(where)}`);
  const { dtype, shape, data } = isObject(value) && !ArrayBuffer.isView(value) && !Array.isArray(value)
    ? value
    : { dtype: undefined, shape: undefined, data: value };
  const isInteger = entry.param === null && typeof dtype === "string" && /^u?int\d+$/.test(dtype); // taken where they fit
  if (dtype !== undefined && dtype !== entry.dtype && !isInteger) {
    throw new StateDictError(`${where} is ${show(dtype)} in the state dict, ${entry.dtype} in the averaged model`);
  }
  // a plain array has no shape of its own: torch's count of batches has none, here it has one element
  if (shape !== undefined && (entry.raw instanceof Parameter || !Array.isArray(shape))) {
    if (!Array.isArray(shape) || shape.length !== entry.shape.length || shape.some((n, k) => n !== entry.shape[k])) {
      throw new StateDictError(
        `${where} has shape ${show(shape)} in the state dict, ${show(entry.shape)} in the averaged model`,
      );
    }
  }
  if (entry.param === null) return readIntegers(data, entry, where);
  if (isTypedArray(data) && !sameKind(data, likeOf(entry.param))) {
    throw new StateDictError(`${where} is no ${entry.dtype} in the state dict, as it is in the averaged model`);
  }
  const { param } = entry;
  return readTensor(data, { data: likeOf(param), dtype: param.dtype, size: param.size }, where);
}

const is16 = (array: TypedArray) => array.BYTES_PER_ELEMENT === 2;
const sameKind = (a: TypedArray, b: TypedArray) => a.constructor === b.constructor || (is16(a) && is16(b));

function readIntegers(data: unknown, entry: Entry, where: string): AnyArray {
  const array = (arrayOf(entry) as IntegerArray).slice(), big = typeof array[0] === "bigint";
  const values = ArrayBuffer.isView(data) || Array.isArray(data) ? [...data as unknown as Iterable<unknown>] : null;
  if (values === null || values.length !== entry.size) {
    throw new StateDictError(`${where} must be ${entry.size} integers, got ${show(data)}`);
  }
  values.forEach((value, i) => {
    if (typeof value !== "bigint" && !Number.isSafeInteger(value)) {
      throw new StateDictError(`${where} must be ${entry.size} integers, got ${show(value)} among them`);
    }
    (array as { [i: number]: number | bigint })[i] = big ? BigInt(value as number) : Number(value);
    if (BigInt(array[i]!) !== BigInt(value as number)) {
      throw new StateDictError(`${where} must be ${entry.dtype}, got ${show(value)} among them`);
    }
  });
  return array;
}
