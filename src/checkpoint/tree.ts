/**
 * What the object of a save becomes: models, optimizers and whatever has a `stateDict()` give their state, all else is
 * taken as it is. Nothing large is copied.
 *
 * @module
 */

import { declaredDType } from "../dtype.ts";
import { kind, show } from "../errors.ts";
import { liveStateOf } from "./live.ts";
import { deviceTensor, modelTensors } from "./model_tensors.ts";
import {
  type ArrayName,
  arrayNameOf,
  type Dict,
  isTensorDType,
  MAX_DEPTH,
  MAX_DIGITS,
  ownDType,
  sizeOf,
  Tensor,
  TENSOR_DTYPES,
  type TensorArray,
  type TensorDType,
  type Value,
} from "./value.ts";

/** What is to be saved. */
export interface Tree {
  /** The content. */
  readonly root: Value;
  /** The memory that is read. */
  readonly buffers: Set<ArrayBufferLike>;
  /** Whether the optimizers in it have changed since. */
  changed(): boolean;
}

type Plain = Record<string, unknown>;

/** A little fewer than the bits of as many digits as may be read. */
const MAX_BITS = Math.floor((MAX_DIGITS - 2) * Math.log2(10));

/** Whether an object's keys are all there is to it. */
function isPlain(value: object): boolean {
  const proto = Object.getPrototypeOf(value);
  return proto === null || proto === Object.prototype || Object.getPrototypeOf(proto) === null;
}

/** A tensor, from something with `dtype`, `shape` and `data`; undefined where these do not go together. */
export function tensorFrom({ dtype, shape, data }: Plain): Tensor | undefined {
  const name = arrayNameOf(data);
  if (!isTensorDType(dtype) || name === undefined || !TENSOR_DTYPES[dtype].arrays.includes(name)) return undefined;
  if (!Array.isArray(shape) || !shape.every((n) => Number.isSafeInteger(n) && n >= 0)) return undefined;
  if (sizeOf(shape) !== (data as TensorArray).length) return undefined;
  return new Tensor(dtype, [...shape], data as TensorArray, null);
}

/** The dtype of each parameter's state, where a typed array alone does not tell: by the number of the parameter. */
function halves(dict: Plain): Map<string, TensorDType> | null {
  const { state, paramGroups } = dict;
  if (typeof state !== "object" || state === null || !Array.isArray(paramGroups)) return null;
  const found = new Map<string, TensorDType>();
  for (const group of paramGroups) {
    const { params, paramDtypes } = (group ?? {}) as Plain;
    if (!Array.isArray(params) || !Array.isArray(paramDtypes)) continue;
    params.forEach((id, i) => {
      const dtype = paramDtypes[i];
      if (dtype === "bfloat16" || dtype === "float16") found.set(String(id), dtype);
    });
  }
  return found.size > 0 ? found : null;
}

/** Reads the object of a save; throws a TypeError for what cannot be saved. */
export function readTree(content: unknown): Tree {
  const buffers = new Set<ArrayBufferLike>();
  const versions: (() => boolean)[] = [];
  const path = new Set<object>();

  const add = (tensor: Tensor): Tensor => {
    buffers.add(tensor.array.buffer);
    return tensor;
  };

  const typedArray = (array: TensorArray, name: ArrayName, half: TensorDType | undefined): Tensor => {
    const declared = array instanceof Uint16Array ? half ?? declaredDType(array) : undefined;
    return add(new Tensor(declared ?? ownDType(name), [array.length], array, name));
  };

  function container(value: object, where: string, depth: number, half: TensorDType | undefined): Value {
    if (path.has(value)) throw new TypeError(`${where} must not contain itself`);
    if (depth >= MAX_DEPTH) throw new RangeError(`${where} must be at most ${MAX_DEPTH} levels deep`);
    path.add(value);
    try {
      if (Array.isArray(value)) {
        return Array.from(value, (entry, i) => read(entry, `${where}[${i}]`, depth + 1, half));
      }
      return object(value as Plain, where, depth, half);
    } finally {
      path.delete(value);
    }
  }

  function object(value: Plain, where: string, depth: number, half: TensorDType | undefined): Value {
    if (typeof value["stateDict"] === "function") {
      const live = liveStateOf(value);
      if (live === undefined) return read(value["stateDict"](), `${where}.stateDict()`, depth + 1, half);
      const before = live.version();
      versions.push(() => live.version() === before);
      return read(live.dict, where, depth + 1, half);
    }
    if (typeof value["namedParameters"] === "function") {
      return new Map(modelTensors(value, where).map(({ name, tensor }) => [name, add(tensor)]));
    }
    const tensor = deviceTensor(value) ?? tensorFrom(value);
    if (!isPlain(value)) {
      if (tensor && "grad" in value) return add(tensor); // a Parameter
      if (arrayNameOf(value["indices"]) && arrayNameOf(value["values"])) { // a SparseTensor
        const { indices, values, shape, dtype } = value;
        return object({ indices, values, shape, dtype }, where, depth, half);
      }
      throw new TypeError(`${where} must be a model, plain values, or something with stateDict(), got ${kind(value)}`);
    }
    const keys = Object.keys(value);
    if (tensor && keys.length === 3) return add(tensor);
    const dict: Dict = new Map(), ofState = halves(value);
    for (const key of keys) {
      if (key === "state" && ofState) dict.set(key, state(value[key] as Plain, `${where}.state`, depth + 1, ofState));
      else dict.set(key, read(value[key], `${where}.${key}`, depth + 1, half));
    }
    return dict;
  }

  function state(value: Plain, where: string, depth: number, dtypes: Map<string, TensorDType>): Dict {
    return new Map(Object.keys(value).map((id) => [id, read(value[id], `${where}[${id}]`, depth + 1, dtypes.get(id))]));
  }

  function read(value: unknown, where: string, depth: number, half: TensorDType | undefined): Value {
    if (value === null || typeof value === "boolean" || typeof value === "number" || typeof value === "string") {
      return value;
    }
    if (typeof value === "bigint") {
      if (BigInt.asIntN(MAX_BITS, value) !== value) {
        throw new RangeError(`${where} must have at most ${MAX_DIGITS} digits`);
      }
      return value;
    }
    if (typeof value === "object") {
      const name = arrayNameOf(value);
      if (name !== undefined) return typedArray(value as TensorArray, name, half);
      return container(value, where, depth, half);
    }
    throw new TypeError(
      `${where} must be a model, plain values, or something with stateDict(), got ${
        typeof value === "symbol" ? "a symbol" : show(value)
      }`,
    );
  }

  const root = read(content, "checkpoint", 0, undefined);
  return { root, buffers, changed: () => versions.some((same) => !same()) };
}
