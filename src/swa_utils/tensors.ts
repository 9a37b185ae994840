/**
 * The tensors of a model: what its names stand for, and whether two models have the same.
 *
 * @module
 */

import { DeviceArray, releaseArray } from "../cuda/device_array.ts";
import { copyBits, copyOnDevice, memorySpan } from "../cuda/transfer.ts";
import { type DType, isTypedArray, type TypedArray } from "../dtype.ts";
import { describe, show } from "../errors.ts";
import { checkArray } from "../foreach_plan.ts";
import { WrittenMemory } from "../memory.ts";
import { moveCount, Parameter } from "../parameter.ts";
import { type IntegerArray, isObject, type Module } from "./module.ts";

/** The element types of integer buffers. */
export type IntegerType = "int8" | "uint8" | "int16" | "uint16" | "int32" | "uint32" | "int64" | "uint64";

/** A parameter or buffer of a model. */
export interface Entry {
  readonly name: string;
  readonly isBuffer: boolean;
  /** What the model gave. */
  readonly raw: Parameter | TypedArray | IntegerArray;
  /** As a Parameter; null for integers. */
  readonly param: Parameter | null;
  readonly dtype: DType | IntegerType;
  readonly shape: readonly number[];
  readonly size: number;
  /** The index of the first entry that is the same tensor: its own, unless it is tied. */
  readonly first: number;
}

/** An array of any of these. */
export type AnyArray = TypedArray | IntegerArray;

/** The numbers of a tensor: in the host's memory, or on a device. */
export type Somewhere = AnyArray | DeviceArray;

/** Whether an array is in the host's memory. */
export const isHere = (array: Somewhere): array is AnyArray => !(array instanceof DeviceArray);

/** A parameter's numbers, wherever they are. */
export const numbersOf = (p: Parameter): TypedArray | DeviceArray => p.deviceArray ?? p.data;

/** The array of an entry, as it is now. */
export function arrayOf({ param, raw }: Entry): Somewhere {
  return param === null ? raw as IntegerArray : numbersOf(param);
}

const INTEGERS: Readonly<Record<string, IntegerType>> = {
  Int8Array: "int8",
  Uint8Array: "uint8",
  Uint8ClampedArray: "uint8",
  Int16Array: "int16",
  Uint16Array: "uint16",
  Int32Array: "int32",
  Uint32Array: "uint32",
  BigInt64Array: "int64",
  BigUint64Array: "uint64",
};

/** The integer type of an array, or undefined for anything else. */
function integerType(value: unknown): IntegerType | undefined {
  return ArrayBuffer.isView(value) ? INTEGERS[(value as IntegerArray)[Symbol.toStringTag]] : undefined;
}

/** A tensor as a Parameter; null for integers, undefined for what is no tensor. */
function parameterOf(raw: unknown): Parameter | null | undefined {
  if (raw instanceof Parameter) return raw;
  if (!isTypedArray(raw)) return integerType(raw) === undefined ? undefined : null;
  try {
    const known = Parameter.of(raw);
    return known.data === raw ? known : new Parameter(raw, { dtype: known.dtype });
  } catch {
    return null; // a Uint16Array that nobody has given a dtype
  }
}

/**
 * Reads a model's parameters and buffers.
 *
 * @param model the model
 * @param whose what it is called in messages
 * @throws {TypeError} for what is no tensor, or a name that is none
 * @throws {RangeError} for a name that appears twice, or an array that does not fit its shape
 */
export function readTensors(model: Module, whose: string): Entry[] {
  if (!isObject(model) || typeof model.namedParameters !== "function") {
    throw new TypeError(
      `${whose} must be a Module with namedParameters(), got ${describe(model)}`,
    );
  }
  const entries: Entry[] = [], names = new Set<string>(), firsts = new Map<unknown, number>();
  const add = (pair: unknown, call: string, isBuffer: boolean) => {
    if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== "string") {
      throw new TypeError(`${call} of ${whose} must give [name, tensor] pairs, got ${show(pair)}`);
    }
    const [name, raw] = pair as [string, unknown], param = parameterOf(raw), label = `${show(name)} of ${whose}`;
    if (param === undefined || (param === null && !isBuffer)) {
      throw new TypeError(
        `${label} must be a Parameter or a typed array, got ${describe(raw)}`,
      );
    }
    if (names.has(name)) throw new RangeError(`${whose} must not have a name twice, got ${label} again`);
    names.add(name);
    const array = param === null ? raw as IntegerArray : numbersOf(param);
    if (!(array instanceof DeviceArray)) { if (param !== null) checkArray(array, param, label); }
    else if (array.disposed) throw new TypeError(`${label} must be there, and ${array} has been disposed`);
    const first = firsts.get(raw) ?? entries.length;
    firsts.set(raw, first);
    const shape = raw instanceof Parameter ? raw.shape : [array.length];
    const dtype = param === null ? integerType(raw)! : param.dtype;
    entries.push({ name, isBuffer, raw: raw as Entry["raw"], param, dtype, shape, size: array.length, first });
  };
  for (const pair of model.namedParameters()) add(pair, "namedParameters()", false);
  for (const pair of model.namedBuffers?.() ?? []) add(pair, "namedBuffers()", true);
  return entries;
}

const NOTHING: readonly [] = [];

const isThere = (array: Somewhere) => isHere(array) || !array.disposed;

/** What a model's names stood for when it was read, to tell whether they still do. */
export class TensorTable {
  readonly arrays: readonly Somewhere[];
  /** The count of moves when all arrays were seen to be on the host; no count where some are not. */
  #moves: number;
  readonly #names: readonly string[];
  readonly #raws: readonly unknown[];
  /** What has to be there still: the arrays, but on a device the Parameter, which only a move gives another array. */
  readonly #held: readonly { readonly length?: number }[];
  readonly #lengths: readonly (number | undefined)[];
  readonly #params: number;

  constructor(readonly entries: readonly Entry[]) {
    this.arrays = entries.map(arrayOf);
    this.#moves = this.arrays.every(isHere) ? moveCount() : -1;
    this.#names = entries.map(({ name }) => name);
    this.#raws = entries.map(({ raw }) => raw);
    this.#held = this.arrays.map((array, i) => isHere(array) ? array : entries[i]!.raw as object);
    this.#lengths = this.arrays.map((array, i) => isHere(array) ? entries[i]!.size : undefined);
    this.#params = entries.filter(({ isBuffer }) => !isBuffer).length;
  }

  /** Whether a model still has these very tensors under these names, and they their arrays with all elements. */
  holds(model: Module): boolean {
    if (this.#moves !== moveCount() && !this.#stay()) return false;
    return this.#hold(model.namedParameters(), 0, this.#params) &&
      this.#hold(model.namedBuffers?.() ?? NOTHING, this.#params, this.#raws.length);
  }

  /** Whether all arrays are where they were, and there. */
  #stay(): boolean {
    if (!this.entries.every((entry, i) => arrayOf(entry) === this.arrays[i]) || !this.arrays.every(isThere)) {
      return false;
    }
    if (this.arrays.every(isHere)) this.#moves = moveCount();
    return true;
  }

  #hold(pairs: Iterable<readonly [string, Entry["raw"]]>, from: number, to: number): boolean {
    let i = from;
    if (Array.isArray(pairs)) { // without an iterator, which makes an object a step
      if (pairs.length !== to - from) return false;
      for (; i < to; i++) if (!this.#same(pairs[i - from][0], pairs[i - from][1], i)) return false;
      return true;
    }
    for (const pair of pairs) if (i >= to || !this.#same(pair[0], pair[1], i++)) return false;
    return i === to;
  }

  #same(name: string, raw: Entry["raw"], i: number): boolean {
    const held = this.#held[i]!;
    return raw === this.#raws[i] && name === this.#names[i] &&
      (raw === held || (raw as Parameter).data === held) && held.length === this.#lengths[i];
  }
}

const what = ({ isBuffer }: Entry) => isBuffer ? "buffer" : "parameter";

/**
 * Throws unless two models have the same tensors: names, order, shapes, dtypes, and which of them are tied.
 *
 * @param own the tensors that are expected
 * @param other the tensors that are compared
 * @param whose what the other model is called in messages
 */
export function checkFit(own: readonly Entry[], other: readonly Entry[], whose: string): void {
  for (let i = 0; i < Math.max(own.length, other.length); i++) {
    const a = own[i], b = other[i];
    if (a === undefined) {
      throw new TypeError(`${whose} has the ${what(b!)} ${show(b!.name)}, the averaged model has not`);
    }
    if (b === undefined) throw new TypeError(`${whose} lacks the ${what(a)} ${show(a.name)} of the averaged model`);
    if (a.name !== b.name || a.isBuffer !== b.isBuffer) {
      throw new TypeError(
        `${whose} has the ${what(b)} ${show(b.name)} where the averaged model has the ${what(a)} ${show(a.name)}`,
      );
    }
    if (a.dtype !== b.dtype) {
      throw new TypeError(`${show(a.name)} of ${whose} must be ${a.dtype} as in the averaged model, got ${b.dtype}`);
    }
    if (a.shape.length !== b.shape.length || a.shape.some((n, k) => n !== b.shape[k])) {
      throw new RangeError(
        `${show(a.name)} of ${whose} must have the shape ${show(a.shape)} of the averaged model, got ${show(b.shape)}`,
      );
    }
    if (a.first !== b.first) {
      throw new TypeError(
        `${show(a.name)} of ${whose} must be tied to the same parameters as in the averaged model, and is not`,
      );
    }
  }
}

/** Throws where two tensors of two models, or of one, share memory. */
export function checkSeparate(own: readonly Entry[], other: readonly Entry[], whose: string): void {
  const one = memoryOf(own, "the averaged model");
  memoryOf(other, whose);
  for (const entry of other) one.checkRead(memorySpan(arrayOf(entry)), () => `${show(entry.name)} of ${whose}`);
}

function memoryOf(entries: readonly Entry[], whose: string): WrittenMemory {
  const memory = new WrittenMemory();
  entries.forEach((entry, i) => {
    if (entry.first === i) memory.add(memorySpan(arrayOf(entry)), `${show(entry.name)} of ${whose}`);
  });
  memory.check();
  return memory;
}

/** Copies arrays into others; those on devices first, for they may fail. */
export function copyEach(to: readonly Somewhere[], from: readonly Somewhere[]): void {
  const isLocal = (i: number) => isHere(to[i]!) && isHere(from[i]!);
  for (let i = 0; i < to.length; i++) if (!isLocal(i)) copyBits(to[i]!, from[i]!);
  for (let i = 0; i < to.length; i++) if (isLocal(i)) copyBits(to[i]!, from[i]!);
}

/** Gives back what is on devices. */
export function release(arrays: readonly Somewhere[]): void {
  for (const array of arrays) if (!isHere(array)) releaseArray(array);
}

/** Copies of arrays where they are: of all, or of none where there is no memory. */
export function copyAll(arrays: readonly Somewhere[]): Somewhere[] {
  const copies: Somewhere[] = [];
  try {
    for (const array of arrays) copies.push(isHere(array) ? array.slice() : copyOnDevice(array));
    return copies;
  } catch (error) {
    release(copies);
    throw error;
  }
}
