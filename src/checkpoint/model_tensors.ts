/**
 * The tensors of a model, by name.
 *
 * @module
 */

import { DeviceArray, downloadArray } from "../cuda/device_array.ts";
import { declaredDType } from "../dtype.ts";
import { describe, show } from "../errors.ts";
import { arrayNameOf, isTensorDType, ownDType, sizeOf, Tensor, TENSOR_DTYPES, type TensorArray } from "./value.ts";

/** A parameter or a buffer of a model. */
export interface ModelTensor {
  /** Its name. */
  readonly name: string;
  /** Its memory; of one on a device a copy. */
  readonly tensor: Tensor;
  /** Its memory on a device; null where it is in the host's. */
  readonly device: DeviceArray | null;
  /** Whether its shape is its own: a plain array has none but its length. */
  readonly shaped: boolean;
}

/** A Parameter on a device as a tensor in the host's memory; undefined for anything else. */
export function deviceTensor(value: unknown): Tensor | undefined {
  const { deviceArray, shape } = (typeof value === "object" && value !== null ? value : {}) as Record<string, unknown>;
  if (!(deviceArray instanceof DeviceArray)) return undefined;
  return new Tensor(deviceArray.dtype, [...shape as number[]], downloadArray(deviceArray), null);
}

function readTensor(raw: unknown, label: string): Omit<ModelTensor, "name"> {
  const away = deviceTensor(raw);
  if (away !== undefined) {
    return { tensor: away, shaped: true, device: (raw as { deviceArray: DeviceArray }).deviceArray };
  }
  const name = arrayNameOf(raw);
  if (name !== undefined) {
    const array = raw as TensorArray;
    const dtype = (array instanceof Uint16Array ? declaredDType(array) : undefined) ?? ownDType(name);
    return { tensor: new Tensor(dtype, [array.length], array, null), shaped: false, device: null };
  }
  const { dtype, shape, data } = (typeof raw === "object" && raw !== null ? raw : {}) as Record<string, unknown>;
  const held = arrayNameOf(data);
  if (!isTensorDType(dtype) || !Array.isArray(shape) || held === undefined) {
    throw new TypeError(
      `${label} must be a Parameter or a typed array, got ${describe(raw)}`,
    );
  }
  if (!TENSOR_DTYPES[dtype].arrays.includes(held)) throw new TypeError(`${label} is ${dtype}, got a ${held} in it`);
  const size = sizeOf(shape), { length } = data as TensorArray;
  if (size !== length) throw new RangeError(`${label} has the shape ${show(shape)}, its data has ${length} elements`);
  return { tensor: new Tensor(dtype, [...shape], data as TensorArray, null), shaped: true, device: null };
}

/** Reads a model's parameters and buffers, as they are now. */
export function modelTensors(model: unknown, where: string): ModelTensor[] {
  const { namedParameters, namedBuffers } = (model ?? {}) as Record<string, unknown>;
  if (typeof namedParameters !== "function") {
    throw new TypeError(
      `${where} must be a model with namedParameters(), got ${describe(model)}`,
    );
  }
  const found: ModelTensor[] = [], names = new Set<string>();
  const add = (call: string, pairs: Iterable<unknown>) => {
    for (const pair of pairs) {
      if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== "string") {
        throw new TypeError(`${call} of ${where} must give [name, tensor] pairs, got ${show(pair)}`);
      }
      const name = pair[0], label = `${show(name)} of ${where}`;
      if (names.has(name)) throw new RangeError(`${where} must not have a name twice, got ${label} again`);
      names.add(name);
      found.push({ name, ...readTensor(pair[1], label) });
    }
  };
  add("namedParameters()", namedParameters.call(model));
  if (typeof namedBuffers === "function") add("namedBuffers()", namedBuffers.call(model));
  return found;
}
