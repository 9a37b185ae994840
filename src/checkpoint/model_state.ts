/**
 * State dicts of models.
 *
 * @module
 */

import { deviceOf } from "../cuda/device_array.ts";
import { checkKeys, show, StateDictError } from "../errors.ts";
import { announceChange } from "./live.ts";
import { type ModelTensor, modelTensors } from "./model_tensors.ts";
import { tensorFrom } from "./tree.ts";
import {
  arrayNameOf,
  type CheckpointTensor,
  ownDType,
  setOwn,
  Tensor,
  type TensorArray,
  type TensorDType,
} from "./value.ts";

/** What a model must have to be saved: its tensors by name. Every `Module` does. */
export interface NamedTensors {
  /** Its parameters, each with its name. */
  namedParameters(): Iterable<readonly [string, unknown]>;
  /** Its buffers, each with its name. */
  namedBuffers?(): Iterable<readonly [string, unknown]>;
}

/** A model's parameters and buffers by name. */
export type ModelStateDict = Record<string, CheckpointTensor>;

/** Options of {@linkcode loadModelStateDict}. */
export interface LoadModelOptions {
  /** Whether the names must be the same on both sides; default true. */
  strict?: boolean;
}

/** What {@linkcode loadModelStateDict} did not find; nothing where it is strict. */
export interface LoadModelResult {
  /** Names that the model has and the state dict has not: they keep their values. */
  missingKeys: string[];
  /** Names that the state dict has and the model has not. */
  unexpectedKeys: string[];
}

/**
 * A model's parameters and buffers by name, as a snapshot: later steps do not change it.
 *
 * To save a model, give the model itself to {@linkcode save}: that copies nothing.
 *
 * @param model anything with `namedParameters()`, and `namedBuffers()` where it has buffers
 * @returns `{ name: { dtype, shape, data } }`
 * @throws {TypeError} for no model, or a tensor that is none
 * @throws {RangeError} for a name that is there twice
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { modelStateDict, Parameter } from "@flatstep/optim";
 *
 * const weight = new Parameter([1, 2, 3, 4], { shape: [2, 2] });
 * const model = { *namedParameters(): Iterable<[string, Parameter]> { yield ["weight", weight]; } };
 * const { dtype, shape, data } = modelStateDict(model)["weight"]!;
 * assertEquals([dtype, shape, [...data]], ["float32", [2, 2], [1, 2, 3, 4]]);
 * ```
 */
export function modelStateDict(model: NamedTensors): ModelStateDict {
  const dict: ModelStateDict = {};
  for (const { name, tensor: { dtype, shape, array } } of modelTensors(model, "the model")) {
    setOwn(dict, name, { dtype, shape: [...shape], data: array.slice() });
  }
  return dict;
}

/**
 * Puts the numbers of a state dict into a model, in place: the arrays stay the same.
 *
 * Each tensor must have the shape and the dtype that the model's has. Integers of another type are taken where they fit, and a
 * plain array, which has no shape of its own, takes any shape with as many elements.
 *
 * @param model anything with `namedParameters()`, and `namedBuffers()` where it has buffers
 * @param stateDict `{ name: { dtype, shape, data } }`: what {@linkcode modelStateDict} or a load gave
 * @param options `strict`: whether names must be the same on both sides (default true)
 * @returns the names that one side has and the other has not
 * @throws {StateDictError} if it does not fit; nothing has been changed then
 * @throws {TypeError} for no model, an unknown option
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { loadModelStateDict, modelStateDict, Parameter } from "@flatstep/optim";
 *
 * const make = (start: number[]) => {
 *   const weight = new Parameter(start);
 *   return { weight, *namedParameters(): Iterable<[string, Parameter]> { yield ["weight", weight]; } };
 * };
 * const one = make([1, 2]), other = make([0, 0]);
 * loadModelStateDict(other, modelStateDict(one));
 * assertEquals([...other.weight.data], [1, 2]);
 * ```
 */
export function loadModelStateDict(
  model: NamedTensors,
  stateDict: ModelStateDict,
  options: LoadModelOptions = {},
): LoadModelResult {
  checkKeys(options, ["strict"], "loadModelStateDict()");
  const { strict = true } = options;
  if (typeof strict !== "boolean") throw new TypeError(`strict must be a boolean, got ${show(strict)}`);
  const own = modelTensors(model, "the model");
  if (typeof stateDict !== "object" || stateDict === null || Array.isArray(stateDict)) {
    throw new StateDictError(`a model's state dict must be an object, got ${show(stateDict)}`);
  }
  const names = new Set(own.map(({ name }) => name));
  const missingKeys = own.filter(({ name }) => !Object.hasOwn(stateDict, name)).map(({ name }) => name);
  const unexpectedKeys = Object.keys(stateDict).filter((name) => !names.has(name));
  if (strict && missingKeys.length > 0) throw new StateDictError(`the state dict lacks ${list(missingKeys)}`);
  if (strict && unexpectedKeys.length > 0) {
    throw new StateDictError(`the state dict has ${list(unexpectedKeys)}, which the model has not`);
  }
  const fits = own.filter(({ name }) => Object.hasOwn(stateDict, name));
  const bits = fits.map((entry) => bitsFor(entry, stateDict[entry.name]));
  announceChange(() => fits.map(({ tensor }) => tensor.array));
  uploadAll(fits, bits);
  fits.forEach(({ tensor }, i) => raw(tensor.array).set(bits[i]!));
  return { missingKeys, unexpectedKeys };
}

/** Writes the tensors that are on devices; where that fails those that have been written get their numbers back. */
function uploadAll(entries: readonly ModelTensor[], bits: readonly Uint8Array[]): void {
  let written = 0;
  try {
    for (; written < entries.length; written++) upload(entries[written]!, bits[written]!);
  } catch (error) {
    for (const entry of entries.slice(0, written)) {
      try {
        upload(entry, raw(entry.tensor.array));
      } catch {
        // the device is lost, and what was on it
      }
    }
    throw error;
  }
}

function upload({ device }: ModelTensor, bits: Uint8Array): void {
  if (device !== null) deviceOf(device).upload(device.address, bits);
}

const list = (names: readonly string[]) =>
  names.slice(0, 5).map(show).join(", ") + (names.length > 5 ? ` and ${names.length - 5} more` : "");

/** The memory of an array. */
const raw = (array: TensorArray) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

const isInteger = (dtype: TensorDType) => !/float|bool/.test(dtype);

/** The memory of a model's tensor as it is to be; throws where the state dict's does not fit. */
function bitsFor({ name, tensor, shaped }: ModelTensor, value: unknown): Uint8Array {
  const label = show(name), held = arrayNameOf(value);
  const given = held !== undefined
    ? new Tensor(held === "Uint16Array" ? tensor.dtype : ownDType(held), tensor.shape, value as TensorArray, null)
    : typeof value === "object" && value !== null
    ? tensorFrom(value as Record<string, unknown>)
    : undefined;
  if (given === undefined) {
    throw new StateDictError(`${label} must be { dtype, shape, data } that go with each other, got ${show(value)}`);
  }
  const { shape, dtype } = tensor;
  if (given.length !== tensor.length) {
    throw new StateDictError(
      `${label} has ${given.length} elements in the state dict, ${tensor.length} in the model`,
    );
  }
  if (shaped && (given.shape.length !== shape.length || given.shape.some((n, d) => n !== shape[d]))) {
    throw new StateDictError(
      `${label} has shape ${show([...given.shape])} in the state dict, ${show([...shape])} in the model`,
    );
  }
  if (given.dtype === dtype) return raw(given.array);
  if (!isInteger(given.dtype) || !isInteger(dtype)) {
    throw new StateDictError(`${label} is ${given.dtype} in the state dict, ${dtype} in the model`);
  }
  return raw(castIntegers(given.array, tensor.array, dtype, label));
}

function castIntegers(from: TensorArray, like: TensorArray, dtype: TensorDType, label: string): TensorArray {
  const to = like.slice() as Int32Array | BigInt64Array, big = typeof to[0] === "bigint";
  for (let i = 0; i < to.length; i++) {
    const value = from[i] as number | bigint;
    (to as { [i: number]: number | bigint })[i] = big ? BigInt(value) : Number(value);
    if (BigInt(to[i]!) !== BigInt(value)) {
      throw new StateDictError(`${label} must be ${dtype}, got ${value} in the state dict`);
    }
  }
  return to;
}
