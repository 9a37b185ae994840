/**
 * Parameters: a typed array with a shape, and the gradient that goes with it.
 *
 * @module
 */

import {
  allocate,
  checkDType,
  declareDType,
  type DType,
  dtypeOf,
  isTypedArray,
  type TypedArray,
  writeFrom,
} from "./dtype.ts";
import { kind, show } from "./errors.ts";
import type { SparseTensor } from "./sparse_tensor.ts";

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
  /** The numbers, row-major and contiguous; `step()` updates them in place. As many as `shape` says. */
  data: TypedArray;
  /**
   * The gradient: same length and dtype as `data`, or a {@linkcode SparseTensor} of the same shape and dtype, for optimizers
   * that take one. `null`: the parameter is skipped by `step()`.
   */
  grad: TypedArray | SparseTensor | null = null;
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

  /**
   * Wraps a typed array (which is not copied), or makes a Float32Array of plain numbers.
   *
   * @param data the numbers; `number[]` becomes an array of `dtype`, by default float32
   * @param options see {@linkcode ParameterOptions}
   * @throws {TypeError} if data is no such array, or dtype does not go with it, or an option is unknown
   * @throws {RangeError} if the shape does not have as many elements as data
   */
  constructor(data: TypedArray | readonly number[], options: ParameterOptions = {}) {
    if (typeof options !== "object" || options === null) {
      throw new TypeError(`options must be an object, got ${show(options)}`);
    }
    for (const key of Object.keys(options)) {
      if (!OPTIONS.includes(key)) {
        throw new TypeError(`Parameter has no option ${show(key)}; it has ${OPTIONS.join(", ")}`);
      }
    }
    const { shape, name, dtype, requiresGrad = true } = options;
    if (name !== undefined && typeof name !== "string") throw new TypeError(`name must be a string, got ${show(name)}`);
    if (typeof requiresGrad !== "boolean") {
      throw new TypeError(`requiresGrad must be a boolean, got ${show(requiresGrad)}`);
    }
    if (Array.isArray(data)) {
      const strange = data.find((x) => typeof x !== "number");
      if (strange !== undefined) throw new TypeError(`data must be numbers, got ${show(strange)} among them`);
      this.dtype = dtype === undefined ? "float32" : checkDType(dtype);
      this.data = allocate(this.dtype, data.length);
      writeFrom(this.data, this.dtype, 0, data, data.length);
    } else if (isTypedArray(data)) {
      this.dtype = dtypeOf(data, dtype);
      this.data = data;
    } else {
      throw new TypeError(
        `data must be a Float32Array, Float64Array, Float16Array, Uint16Array or an array of numbers, got ${
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
    if (!wrapped.has(this.data)) {
      wrapped.set(this.data, this);
      if (this.data instanceof Uint16Array) declareDType(this.data, this.dtype);
    }
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

  /** `Parameter(float32 [3, 4], "fc.weight")`, for messages and logs. */
  toString(): string {
    return `Parameter(${this.dtype} [${this.shape.join(", ")}]${
      this.name === undefined ? "" : `, ${show(this.name)}`
    })`;
  }
}

function checkShape(shape: readonly number[]): number[] {
  if (!Array.isArray(shape)) {
    throw new TypeError(
      `shape must be an array of lengths, got ${typeof shape === "object" ? kind(shape) : show(shape)}`,
    );
  }
  for (const n of shape) {
    if (!Number.isSafeInteger(n) || n < 0) throw new RangeError(`shape must be integers >= 0, got ${show([...shape])}`);
  }
  return [...shape];
}
