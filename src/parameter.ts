/**
 * Parameters: a typed array with a shape, and the gradient that goes with it.
 *
 * @module
 */

import { type DeviceName, openDriver } from "../ffi/cuda_driver.ts";
import { DeviceArray, downloadArray, readCudaDevice, releaseArray, uploadArray } from "./cuda/device_array.ts";
import {
  allocate,
  arrayNames,
  checkDType,
  checkShape,
  declareDType,
  type DType,
  dtypeOf,
  holds,
  isTypedArray,
  type TypedArray,
  writeFrom,
} from "./dtype.ts";
import { checkKeys, show } from "./errors.ts";
import { SparseTensor } from "./sparse_tensor.ts";

/** What {@linkcode Parameter}'s constructor takes beside the data. */
export interface ParameterOptions {
  /** The lengths of the dimensions, row-major; default `[data.length]`. `[]` is a single number. */
  shape?: readonly number[];
  /** A name for error messages; default none. (Names in param groups and state dicts come from `[name, parameter]` pairs.) */
  name?: string;
  /** The element type; by default what the array is. A Uint16Array needs `"bfloat16"` or `"float16"`. */
  dtype?: DType;
  /** Whether gradients are wanted; default true. For the code that computes them: a step looks at `grad` alone. */
  requiresGrad?: boolean;
}

const OPTIONS = ["shape", "name", "dtype", "requiresGrad"];

/** Which Parameter stands for a typed array. */
const wrapped = new WeakMap<TypedArray, Parameter>();

/** How often a parameter has been moved or disposed: what has been bound to its memory may have to be bound anew. */
let moves = 0;

/** {@linkcode moves}, as it is now. */
export function moveCount(): number {
  return moves;
}

let likeOfDevice: (p: Parameter) => TypedArray | null;

/** An array of the kind that a parameter's numbers are in on the host: its data, or an empty one. */
export function likeOf(p: Parameter): TypedArray {
  return likeOfDevice(p) ?? p.data;
}

/**
 * A tensor that an optimizer updates in place: row-major, contiguous numbers, their shape, and their gradient.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Parameter, SGD } from "@flatstep/optim";
 *
 * const weight = new Parameter([1, 2, 3, 4], { shape: [2, 2] });
 * weight.grad = Float32Array.of(1, 1, 1, 1);
 * new SGD([weight], { lr: 0.5 }).step();
 * assert(weight.data.join() === "0.5,1.5,2.5,3.5");
 * ```
 */
export class Parameter {
  /**
   * The numbers, row-major and contiguous; `step()` updates them in place. As many as `shape` says. On a device it throws: the numbers
   * are read by {@linkcode toHost}.
   */
  data!: TypedArray;
  /**
   * The gradient: same length and dtype as `data`, or a {@linkcode SparseTensor} of the same shape and dtype, for optimizers
   * that take one. For a parameter on a device it is an array in the host's memory, which each step uploads, or a
   * {@linkcode DeviceArray} on the same device. `null`: the parameter is skipped by `step()`.
   */
  grad: TypedArray | SparseTensor | DeviceArray | null = null;
  /** The lengths of the dimensions. */
  readonly shape: readonly number[];
  /** The element type of data, gradient and state. */
  readonly dtype: DType;
  /** A name for error messages. */
  readonly name: string | undefined;
  /** Whether gradients are wanted. A step looks at `grad` alone. */
  requiresGrad: boolean;
  /** The number of elements: the product of the shape. */
  readonly size: number;
  /** The numbers on a device, and an empty array of the kind that they were in on the host. */
  #away: { readonly array: DeviceArray; readonly like: TypedArray } | null = null;

  static {
    likeOfDevice = (p) => p.#away?.like ?? null;
  }

  /**
   * Wraps a typed array or a device's (which is not copied), or makes a Float32Array of plain numbers.
   *
   * @param data the numbers; `number[]` becomes an array of `dtype`, by default float32
   * @param options see {@linkcode ParameterOptions}
   * @throws {TypeError} if data is no such array, or dtype does not go with it, or an option is unknown
   * @throws {RangeError} if the shape does not have as many elements as data
   */
  constructor(data: TypedArray | DeviceArray | readonly number[], options: ParameterOptions = {}) {
    checkKeys(options, OPTIONS, "Parameter");
    const { shape, name, dtype, requiresGrad = true } = options;
    if (name !== undefined && typeof name !== "string") throw new TypeError(`name must be a string, got ${show(name)}`);
    if (typeof requiresGrad !== "boolean") {
      throw new TypeError(`requiresGrad must be a boolean, got ${show(requiresGrad)}`);
    }
    if (Array.isArray(data)) {
      const strange = data.findIndex((x) => typeof x !== "number");
      if (strange >= 0) throw new TypeError(`data must be numbers, got ${show(data[strange])} among them`);
      this.dtype = dtype === undefined ? "float32" : checkDType(dtype);
      this.data = allocate(this.dtype, data.length);
      writeFrom(this.data, this.dtype, 0, data, data.length);
    } else if (isTypedArray(data)) {
      this.dtype = dtypeOf(data, dtype);
      this.data = data;
    } else if (data instanceof DeviceArray) {
      data.address; // throws if it has been disposed
      if (dtype !== undefined && checkDType(dtype) !== data.dtype) {
        throw new TypeError(`dtype must be ${show(data.dtype)} for ${data}, got ${show(dtype)}`);
      }
      this.dtype = data.dtype;
      this.#bind(data, allocate(data.dtype, 0));
    } else {
      throw new TypeError(
        `data must be a Float32Array, Float64Array, Float16Array, Uint16Array, DeviceArray or an array of numbers, got ${
          show(data)
        }`,
      );
    }
    this.shape = Object.freeze(shape === undefined ? [data.length] : checkShape(shape));
    this.size = this.shape.reduce((a, b) => a * b, 1);
    if (this.size !== data.length) {
      throw new RangeError(`shape ${show([...this.shape])} has ${this.size} elements, data has ${data.length}`);
    }
    this.name = name;
    this.requiresGrad = requiresGrad;
    if (this.#away === null) this.#remember(this.data);
  }

  /** Makes this the Parameter of an array, unless it has one. */
  #remember(data: TypedArray): void {
    if (wrapped.has(data)) return;
    wrapped.set(data, this);
    if (data instanceof Uint16Array) declareDType(data, this.dtype);
  }

  /**
   * The Parameter of a typed array: always the same one for the same array, made at the first call. A Parameter is
   * returned as it is.
   *
   * @param array a typed array, or a Parameter
   * @throws {TypeError} if it is neither, or a Uint16Array that no `new Parameter(array, { dtype })` was made of
   * @example
   * ```ts
   * import { assert } from "@std/assert";
   * import { Parameter, SGD } from "@flatstep/optim";
   *
   * const array = Float32Array.of(1, 2);
   * const optimizer = new SGD([array], { lr: 1 });
   * Parameter.of(array).grad = Float32Array.of(1, 1);
   * optimizer.step();
   * assert(array.join() === "0,1");
   * ```
   */
  static of(array: TypedArray | Parameter): Parameter {
    if (array instanceof Parameter) return array;
    if (!isTypedArray(array)) {
      throw new TypeError(`a parameter must be a Parameter or a typed array, got ${show(array)}`);
    }
    return wrapped.get(array) ?? new Parameter(array);
  }

  /** Where the numbers are: `"cpu"`, or `"cuda:0"` and so on. */
  get device(): "cpu" | DeviceName {
    return this.#away?.array.device ?? "cpu";
  }

  /** The numbers on a device; null where they are in the host's memory. */
  get deviceArray(): DeviceArray | null {
    return this.#away?.array ?? null;
  }

  /**
   * Moves the numbers, and a gradient that is there, to a device or back: in place, and done when it returns. An optimizer's state
   * follows at its next step. A move that fails changes nothing. Back in the host's memory `data` is a new array.
   *
   * @param device `"cpu"`, `"cuda"` (which is `"cuda:0"`) or `"cuda:N"`
   * @returns itself
   * @throws {TypeError} if data or gradient cannot be moved: a SparseTensor, another library's variable, memory that has been disposed
   * @throws {RangeError} if there is no such device
   * @throws {NativeLibraryError} if NVIDIA's driver cannot be opened: it says what is missing
   * @throws {CudaError} if the driver fails: out of memory, for one
   * @example
   * ```ts
   * import { assert } from "@std/assert";
   * import { cuda, Parameter } from "@flatstep/optim";
   *
   * const weight = new Parameter([1, 2, 3]);
   * if (cuda.isAvailable()) {
   *   weight.to("cuda");
   *   assert(weight.device === "cuda:0" && (await weight.toHost()).join() === "1,2,3");
   *   weight.to("cpu");
   * }
   * assert(weight.device === "cpu" && weight.data.join() === "1,2,3");
   * ```
   */
  to(device: "cpu" | "cuda" | DeviceName): this {
    const index = device === "cpu" ? null : readCudaDevice(device, "device", '"cpu", "cuda" or "cuda:N"');
    if ((index === null ? "cpu" : `cuda:${index}`) === this.device) return this;
    if (this.grad instanceof SparseTensor) {
      throw new TypeError(`${this} must not have a sparse gradient when it is moved: sparse gradients are for the cpu`);
    }
    const before = this.deviceArray, { grad } = this, own = Object.getOwnPropertyDescriptor(this, "data");
    if (before === null && own?.get !== undefined) {
      throw new TypeError(`${this} must have its numbers in an array of its own, and they are another library's`);
    }
    const data = before === null ? this.data : downloadArray(before, likeOf(this));
    this.#check(data, "data");
    const hostGrad = grad instanceof DeviceArray ? downloadArray(grad, likeOf(this)) : grad;
    if (hostGrad !== null && hostGrad !== undefined) this.#check(hostGrad, "grad");
    if (index === null) {
      this.#unbind(data);
      this.grad = hostGrad;
    } else {
      const target = openDriver(`to(${show(device)})`).device(index);
      const array = uploadArray(target, this.dtype, data);
      try {
        if (hostGrad !== null && hostGrad !== undefined) this.grad = uploadArray(target, this.dtype, hostGrad);
      } catch (error) {
        releaseArray(array);
        throw error;
      }
      this.#bind(array, likeOf(this).subarray(0, 0));
    }
    moves++;
    if (before !== null) releaseArray(before);
    if (grad instanceof DeviceArray) releaseArray(grad);
    return this;
  }

  /** Throws unless an array has the parameter's elements. */
  #check(array: TypedArray, what: string): void {
    if (holds(array, this.dtype) && array.length === this.size) return;
    throw new TypeError(`${what} of ${this} must be ${arrayNames(this.dtype)} of ${this.size}, got ${show(array)}`);
  }

  /** The numbers are on a device now. */
  #bind(array: DeviceArray, like: TypedArray): void {
    this.#away = { array, like };
    const place = `data of a parameter on ${array.device} is not in the host's memory`;
    Object.defineProperty(this, "data", {
      get() {
        throw new TypeError(`${place}: await parameter.toHost() gives a copy, parameter.to("cpu") moves it back`);
      },
      set() {
        throw new TypeError(`${place}: parameter.deviceArray.set(array) writes it, parameter.to("cpu") moves it back`);
      },
      configurable: true,
      enumerable: false,
    });
  }

  /** The numbers are in the host's memory again. */
  #unbind(data: TypedArray): void {
    this.#away = null;
    Object.defineProperty(this, "data", { value: data, writable: true, configurable: true, enumerable: true });
    this.#remember(data);
  }

  /**
   * A copy of the numbers in the host's memory, wherever they are.
   *
   * @returns a typed array of the parameter's dtype, as it is when the work that has been queued is done
   * @throws {TypeError} if the memory has been disposed
   * @throws {CudaError} if the driver cannot copy it
   * @example
   * ```ts
   * import { assert } from "@std/assert";
   * import { Parameter } from "@flatstep/optim";
   *
   * const weight = new Parameter([1, 2]);
   * assert((await weight.toHost()).join() === "1,2" && await weight.toHost() !== weight.data);
   * ```
   */
  // deno-lint-ignore require-await -- what fails is a rejection
  async toHost(): Promise<TypedArray> {
    return this.#away === null ? this.data.slice() : downloadArray(this.#away.array, this.#away.like);
  }

  /**
   * Gives memory on a device back: that of the numbers, and of a gradient that was moved with them. Using the parameter afterwards is an
   * error. In the host's memory there is nothing to do. Without it memory is freed some time after nobody holds the parameter any more.
   *
   * @throws {CudaError} if the driver cannot free it
   */
  dispose(): void {
    const array = this.deviceArray;
    if (array === null || array.disposed) return;
    array.dispose();
    moves++;
    if (this.grad instanceof DeviceArray) releaseArray(this.grad);
  }

  /** `dispose()`, at the end of a block where the parameter is declared by `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** `Parameter(float32 [3, 4], "fc.weight")`, for messages and logs; on a device that stands behind it. */
  toString(): string {
    const name = this.name === undefined ? "" : `, ${show(this.name)}`;
    const place = this.#away === null ? "" : `, ${this.device}`;
    return `Parameter(${this.dtype} [${this.shape.join(", ")}]${name}${place})`;
  }
}
