/**
 * Where a variable's numbers are, and the Parameter that stands for them.
 *
 * @module
 */

import { show } from "../errors.ts";
import { Parameter } from "../parameter.ts";
import type { TfApi, TfTensor, TfVariable } from "./tfjs_types.ts";

/** A backend, as far as this looks at one. */
interface Backend {
  /** How many tensors share the memory; 0 for one that is on another backend. */
  refCount?(id: object): number;
  /** Only wasm's: a view of the heap, which another one replaces when it grows. */
  typedArrayFromHeap?(tensor: TfTensor): unknown;
  /** Only wasm's: its own number for the tensor, and the address. */
  dataIdMap?: { get(id: object): { id: number; memoryOffset: number } };
  /** Only wasm's. */
  wasm?: {
    tfjs?: { disposeData?(id: number): void; registerTensor?(id: number, size: number, address: number): void };
  };
}

const isWasm = ({ typedArrayFromHeap, dataIdMap, wasm }: Backend): boolean =>
  typeof typedArrayFromHeap === "function" && typeof dataIdMap?.get === "function" &&
  typeof wasm?.tfjs?.disposeData === "function" && typeof wasm.tfjs.registerTensor === "function";

/** Whether the current backend has memory that JavaScript can write. */
export function canShare(tf: TfApi): boolean {
  const backend = tf.backend() as Backend;
  return typeof backend.refCount === "function" && (tf.getBackend() === "cpu" || isWasm(backend));
}

/**
 * Makes the wasm backend forget what it has made of a variable's numbers: its products and convolutions pack their weights once
 * (XNNPACK does) and keep that until the tensor is disposed of. So it is, and registered again, with its memory where it was.
 */
function forgetPacked(backend: Backend, variable: TfVariable, size: number): void {
  if (!isWasm(backend)) return;
  const { id, memoryOffset } = backend.dataIdMap!.get(variable.dataId), { tfjs } = backend.wasm!;
  tfjs!.disposeData!(id);
  tfjs!.registerTensor!(id, size, memoryOffset);
}

/** A float32 tensor's numbers as they lie in the backend's memory; a copy where there is none that can be read. */
export function numbersOf(tf: TfApi, tensor: TfTensor): Float32Array<ArrayBuffer> {
  const backend = tf.backend() as Backend;
  const lies = typeof backend.typedArrayFromHeap === "function" && backend.refCount?.(tensor.dataId);
  return (lies ? backend.typedArrayFromHeap!(tensor) : tensor.dataSync()) as Float32Array<ArrayBuffer>;
}

/** A variable's numbers. */
export interface Memory {
  /** The array to read and write, as it is now. */
  read(): Float32Array;
  /** Hands over to tfjs what it does not see by itself. */
  push(): void;
}

/** Gives the variable memory that nothing else has: neither the tensor it was made of, nor a clone, nor the user's array. */
function assign(tf: TfApi, variable: TfVariable, values: Float32Array): void {
  const tensor = tf.tensor(values, variable.shape, "float32") as TfTensor;
  variable.assign(tensor);
  tensor.dispose();
}

/** The variable's own memory. */
class SharedMemory implements Memory {
  #backend: Backend | null = null;
  #id: object | null = null;
  #view: Float32Array = new Float32Array(0);
  readonly #size: number;

  constructor(readonly tf: TfApi, readonly variable: TfVariable, readonly label: string) {
    this.#size = variable.shape.reduce((a, b) => a * b, 1);
    assign(tf, variable, (variable.dataSync() as Float32Array).slice()); // the array may be the user's
  }

  read(): Float32Array {
    const { variable } = this, id = variable.dataId, backend = this.tf.backend() as Backend;
    // An assignment brings another id, a clone another count, a heap that grew detaches the view.
    if (
      id === this.#id && backend === this.#backend && this.#view.length === this.#size && backend.refCount!(id) === 1
    ) {
      forgetPacked(backend, variable, this.#size); // whoever asks may write
      return this.#view;
    }
    if (!canShare(this.tf)) {
      throw new TypeError(
        `${this.label} was shared with tfjs, which now has the backend ${show(this.tf.getBackend())}: ` +
          `make a new adapter, or one with the option copy`,
      );
    }
    if (backend.refCount!(id) !== 1) assign(this.tf, variable, (variable.dataSync() as Float32Array).slice());
    this.#id = variable.dataId;
    this.#backend = backend;
    return this.#view = numbersOf(this.tf, variable);
  }

  push(): void {
    this.read(); // an array that somebody has kept may have been written
  }
}

/** An array of our own, copied out when tfjs has assigned another value, and in when its bits have changed. */
class CopiedMemory implements Memory {
  #id: object;
  readonly #own: Float32Array;
  readonly #bits: Uint32Array;
  readonly #known: Uint32Array;

  constructor(readonly tf: TfApi, readonly variable: TfVariable) {
    this.#own = (variable.dataSync() as Float32Array).slice();
    this.#bits = new Uint32Array(this.#own.buffer);
    this.#known = this.#bits.slice();
    this.#id = variable.dataId;
  }

  read(): Float32Array {
    const { variable } = this;
    if (variable.dataId !== this.#id) {
      this.#own.set(variable.dataSync() as Float32Array);
      this.#known.set(this.#bits);
      this.#id = variable.dataId;
    }
    return this.#own;
  }

  push(): void {
    this.read();
    if (this.#bits.every((word, i) => word === this.#known[i])) return;
    assign(this.tf, this.variable, this.#own.slice());
    this.#known.set(this.#bits);
    this.#id = this.variable.dataId;
  }
}

/** A variable with the Parameter that stands for it. */
export interface Bound {
  readonly name: string;
  readonly variable: TfVariable;
  readonly parameter: Parameter;
  readonly memory: Memory;
}

/**
 * Makes the Parameter of a variable. Its `data` is asked anew each time, for it may be elsewhere after any operation of tfjs.
 *
 * @throws {TypeError} for what is no float32 variable
 */
export function bind(tf: TfApi, name: string, variable: TfVariable, copy: boolean): Bound {
  const label = `the variable ${show(name)}`;
  if (typeof variable?.assign !== "function" || typeof variable.dataSync !== "function") {
    throw new TypeError(`${label} must be a variable of tfjs, got ${show(variable)}`);
  }
  if (variable.isDisposed) throw new TypeError(`${label} has been disposed of`);
  if (variable.dtype !== "float32") {
    throw new TypeError(`${label} must be of dtype "float32", got ${show(variable.dtype)}`);
  }
  const memory = copy ? new CopiedMemory(tf, variable) : new SharedMemory(tf, variable, label);
  const parameter = new Parameter(memory.read(), {
    shape: [...variable.shape],
    name,
    requiresGrad: variable.trainable,
  });
  Object.defineProperty(parameter, "data", {
    enumerable: true,
    get: () => memory.read(),
    set(values: Float32Array) { // where tfjs keeps its numbers is not for us to choose: they are copied
      const data = memory.read();
      if (values === data || values.length === 0 && data.length > 0) return; // a view that a grown heap has left behind
      data.set(values);
    },
  });
  return { name, variable, parameter, memory };
}
