/**
 * Deep copies of models: everything a model refers to, prototypes and shared references kept.
 *
 * @module
 */

import { DeviceArray, releaseArray } from "../cuda/device_array.ts";
import { copyOnDevice } from "../cuda/transfer.ts";
import { CudaError, kind, show } from "../errors.ts";
import { Parameter } from "../parameter.ts";
import { isObject } from "./module.ts";

type AnyArray = Uint8Array & { readonly [Symbol.toStringTag]: string };

/** Methods of a Module: a copy whose own ones are bound would do the original's work. */
const METHODS = new Set<PropertyKey>(["forward", "namedParameters", "namedBuffers", "modules", "train", "eval"]);

/** Objects that live once, and are shared. */
const SHARED_TAGS = new Set(["[object Module]", "[object Math]", "[object JSON]", "[object Atomics]"]);

/** Objects whose content cannot be read. */
const OPAQUE = ["WeakMap", "WeakSet", "WeakRef", "Promise", "SharedArrayBuffer"] as const;

const tagOf = (value: object): string => Object.prototype.toString.call(value);

/** Whether a function belongs to the object that it is a property of: an arrow function with `this`, or a bound method. */
function isBound(value: unknown, key: PropertyKey): boolean {
  if (typeof value !== "function" || Object.hasOwn(value, "prototype")) return false;
  if (METHODS.has(key) && value.name.startsWith("bound ")) return true;
  const text = Function.prototype.toString.call(value);
  return /^(async\b)?\s*(\([^]*?\)|[\w$]+)\s*=>/.test(text) && /\bthis\b/.test(text);
}

class Copier {
  readonly #copies = new Map<object, object>();

  /** Gives back what has been copied on devices. */
  release(): void {
    for (const copy of this.#copies.values()) if (copy instanceof DeviceArray) releaseArray(copy);
  }

  copy<T>(value: T): T {
    if (!isObject(value) || Object.is(value, globalThis)) return value; // functions, classes among them, are shared
    const known = this.#copies.get(value);
    return (known ?? this.#copyObject(value)) as T;
  }

  #copyObject(value: object): object {
    if (SHARED_TAGS.has(tagOf(value))) return value;
    for (const name of OPAQUE) {
      const type = (globalThis as Record<string, unknown>)[name];
      if (typeof type === "function" && value instanceof type) throw new TypeError(`${kind(value)} cannot be copied`);
    }
    const copy = this.#shell(value);
    const prototype = Object.getPrototypeOf(value) as object | null;
    if (Object.getPrototypeOf(copy) !== prototype) Object.setPrototypeOf(copy, prototype);
    this.#copies.set(value, copy);
    if (value instanceof Map && copy instanceof Map) {
      for (const [key, item] of value as Map<unknown, unknown>) copy.set(this.copy(key), this.copy(item));
    } else if (value instanceof Set && copy instanceof Set) {
      for (const item of value as Set<unknown>) copy.add(this.copy(item));
    }
    if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return copy; // their keys would be all their elements
    if (value instanceof DeviceArray) return copy;
    this.#copyProperties(value, copy);
    if (Object.isFrozen(value)) Object.freeze(copy);
    else if (Object.isSealed(value)) Object.seal(copy);
    else if (!Object.isExtensible(value)) Object.preventExtensions(copy);
    return copy;
  }

  /** A new object of the same kind, with what is not in its properties. */
  #shell(value: object): object {
    if (value instanceof Parameter) {
      const { shape, dtype, name, requiresGrad } = value;
      const options = name === undefined ? { shape, dtype, requiresGrad } : { shape, dtype, name, requiresGrad };
      return new Parameter(this.copy(value.deviceArray ?? value.data), options); // without its gradient, as torch
    }
    if (value instanceof DeviceArray) return copyOnDevice(value);
    if (Array.isArray(value)) return new Array<unknown>(value.length);
    if (value instanceof Map) return new Map();
    if (value instanceof Set) return new Set();
    if (value instanceof Date) return new Date(value.getTime());
    if (value instanceof RegExp) return new RegExp(value.source, value.flags);
    if (value instanceof ArrayBuffer) return value.slice(0);
    if (ArrayBuffer.isView(value)) return this.#copyView(value as AnyArray);
    if (value instanceof Error) return new Error();
    if (value instanceof Number || value instanceof String || value instanceof Boolean) return Object(value.valueOf());
    return Object.create(null) as object;
  }

  /** A view of the copied buffer: views that share memory share it in the copy too. */
  #copyView(value: AnyArray): object {
    const { byteOffset, buffer } = value as { byteOffset: number; buffer: ArrayBufferLike };
    if (!(buffer instanceof ArrayBuffer)) throw new TypeError(`${kind(value)} in shared memory cannot be copied`);
    const copied = this.copy(buffer);
    if (value as unknown instanceof DataView) return new DataView(copied, byteOffset, value.byteLength);
    type ViewConstructor = new (buffer: ArrayBuffer, byteOffset: number, length: number) => object;
    const type = (globalThis as unknown as Record<string, ViewConstructor>)[value[Symbol.toStringTag]]!;
    const copy = new type(copied, byteOffset, value.length);
    if (value as unknown instanceof Uint16Array) declareSame(value as unknown as Uint16Array, copy as Uint16Array);
    return copy;
  }

  #copyProperties(from: object, to: object): void {
    for (const key of Reflect.ownKeys(from)) {
      if (from instanceof String && Object.hasOwn(to, key)) continue;
      const property = Object.getOwnPropertyDescriptor(from, key)!;
      if (from instanceof Parameter && (key === "data" || key === "grad" || key === "shape")) continue;
      if ("value" in property) {
        if (isBound(property.value, key)) {
          throw new TypeError(`${kind(from)}'s own ${String(key)} is bound to the original`);
        }
        property.value = this.copy(property.value as unknown);
      }
      Object.defineProperty(to, key, property);
    }
  }
}

/** A Uint16Array that a Parameter was made of: the copy holds the same dtype. */
function declareSame(from: Uint16Array, to: Uint16Array): void {
  let declared: Parameter;
  try {
    declared = Parameter.of(from);
  } catch {
    return; // integers
  }
  const { dtype, shape } = declared;
  new Parameter(to, declared.size === to.length ? { dtype, shape } : { dtype });
}

/**
 * A deep copy. Functions and classes are shared; so are symbols and other primitives. What is on a device is copied there. Private
 * fields are lost: JavaScript gives nobody else access to them.
 *
 * @param value what is copied
 * @throws {TypeError} for what cannot be copied: a function that is bound to the original, a WeakMap, a Promise, …
 */
export function deepCopy<T>(value: T): T {
  const copier = new Copier();
  try {
    return copier.copy(value);
  } catch (error) {
    copier.release();
    if (error instanceof TypeError || error instanceof CudaError) throw error;
    throw new TypeError(`it cannot be copied: ${error instanceof Error ? error.message : show(error)}`, {
      cause: error,
    });
  }
}
