/**
 * jax-js: pytrees of its arrays become Parameters, and gradients come back as pytrees.
 *
 * jax-js computes on arrays of its own that nothing can change; an optimizer changes its parameters in place. So the parameters
 * are flatstep's, `arrays()` makes fresh arrays of them for each pass, and `setGrads()` reads the gradients back. jax-js is not
 * imported here: it is the user's, and `np` (its `numpy`) is handed in. flatstep's part gives the same bits everywhere; jax-js's wasm
 * backend uses a multiply-add that V8 and JavaScriptCore round differently, so that its gradients may differ in the last bits.
 *
 * ```ts
 * import { assert } from "@std/assert";
 * import { defaultDevice, init, jit, numpy as np, valueAndGrad } from "@jax-js/jax";
 * import { AdamW } from "@flatstep/optim";
 * import { ParameterTree } from "@flatstep/optim/adapters/jax";
 *
 * await init("wasm");
 * defaultDevice("wasm");
 * const x = np.array([[0], [1], [2], [3]]), y = np.array([[1], [3], [5], [7]]); // y = 2 x + 1
 * const line = new ParameterTree(np, { slope: np.zeros([1, 1]), offset: np.zeros([1]) });
 * const gradient = jit(valueAndGrad((p: { slope: np.Array; offset: np.Array }, x: np.Array, y: np.Array) =>
 *   np.mean(np.square(np.matmul(x, p.slope).add(p.offset).sub(y)))
 * ));
 * const optimizer = new AdamW(line.namedParameters(), { lr: 0.1, weightDecay: 0 });
 * for (let step = 0; step < 400; step++) {
 *   optimizer.step(line.closure((p) => gradient(p, x.ref, y.ref))); // jax-js moves what it uses: `.ref` keeps it
 * }
 * const [slope, offset] = line.parameters.map((p) => p.data[0]!);
 * assert(Math.abs(slope! - 2) < 0.01 && Math.abs(offset! - 1) < 0.01);
 * ```
 *
 * @module
 */

import type { TypedArray } from "../dtype.ts";
import { describe, show } from "../errors.ts";
import { Parameter } from "../parameter.ts";
import type { Module } from "../swa_utils/module.ts";

/** What is used of a jax-js array. */
export interface JaxArray {
  /** The lengths of its dimensions. */
  readonly shape: readonly number[];
  /** Its element type: `"float32"`, `"float16"` or `"float64"`. */
  readonly dtype: string;
  /** Its numbers, in an array of their own; uses the jax-js array up. */
  dataSync(): ArrayBufferView;
}

/** What is used of jax-js's `numpy`. */
export interface JaxNumpy {
  /** A new array of these numbers, which are copied. */
  array(
    values: Float32Array<ArrayBuffer> | Float16Array<ArrayBuffer> | Float64Array<ArrayBuffer>,
    options: { shape: number[] },
  ): JaxArray;
  /** A new array of zeros; used where there are none, for `array` of jax-js 0.1.25 throws then. */
  // deno-lint-ignore no-explicit-any -- a type of jax-js's
  zeros(shape: number[], options: { dtype: any }): JaxArray;
}

/** What {@linkcode ParameterTree.closure} runs: from fresh arrays to the loss and the gradients. */
export type JaxGradient<T> = (arrays: T) => readonly [loss: JaxArray | number, gradients: T];

/** The structure of a pytree; a number is the index of a parameter. */
type Structure = number | readonly Structure[] | { readonly [key: string]: Structure };

type Leaf = readonly [path: string, array: JaxArray];

const DTYPES = ["float32", "float16", "float64"];

const isArray = (value: unknown): value is JaxArray =>
  typeof value === "object" && value !== null && typeof (value as JaxArray).dataSync === "function" &&
  Array.isArray((value as JaxArray).shape);

/** Whether jax-js looks into it: plain objects, and no others. */
const isBranch = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && value.constructor === Object;

const step = (path: string, key: string) => /^[\w$]+$/.test(key) ? `${path}.${key}` : `${path}[${show(key)}]`;

/** The structure of a tree, and its arrays in order. */
function flatten(tree: unknown, path: string, leaves: Leaf[], names: string[], name: string): Structure {
  if (Array.isArray(tree)) {
    return tree.map((child, i) => flatten(child, `${path}[${i}]`, leaves, names, name ? `${name}.${i}` : `${i}`));
  }
  if (isBranch(tree) && !isArray(tree)) {
    return Object.fromEntries(
      Object.entries(tree).map(([key, child]) => [
        key,
        flatten(child, step(path, key), leaves, names, name ? `${name}.${key}` : key),
      ]),
    );
  }
  if (!isArray(tree)) {
    throw new TypeError(`${path} must be a jax-js array, or an object or array of such, got ${describe(tree)}`);
  }
  if (!DTYPES.includes(tree.dtype)) {
    throw new TypeError(`${path} must be of dtype ${DTYPES.map(show).join(", ")}, got ${show(tree.dtype)}`);
  }
  if (names.includes(name)) throw new RangeError(`${path} must have a name of its own, got ${show(name)} again`);
  names.push(name);
  return leaves.push([path, tree]) - 1;
}

/** The arrays of a tree that must have this structure, in order. */
function match(tree: unknown, structure: Structure, path: string, leaves: Leaf[]): void {
  if (typeof structure === "number") {
    if (!isArray(tree)) throw new TypeError(`${path} must be a jax-js array, got ${describe(tree)}`);
    leaves[structure] = [path, tree];
  } else if (Array.isArray(structure)) {
    if (!Array.isArray(tree)) throw new TypeError(`${path} must be an array, got ${describe(tree)}`);
    if (tree.length !== structure.length) {
      throw new RangeError(`${path} must have ${structure.length} elements, got ${tree.length}`);
    }
    structure.forEach((child: Structure, i) => match(tree[i], child, `${path}[${i}]`, leaves));
  } else {
    if (!isBranch(tree)) throw new TypeError(`${path} must be an object, got ${describe(tree)}`);
    const extra = Object.keys(tree).find((key) => !Object.hasOwn(structure, key));
    if (extra !== undefined) throw new TypeError(`${step(path, extra)} is not in the parameters' tree`);
    for (const [key, child] of Object.entries(structure)) {
      if (!Object.hasOwn(tree, key)) throw new TypeError(`${step(path, key)} is missing`);
      match(tree[key], child, step(path, key), leaves);
    }
  }
}

function unflatten(structure: Structure, leaves: readonly unknown[]): unknown {
  if (typeof structure === "number") return leaves[structure];
  if (Array.isArray(structure)) return structure.map((child: Structure) => unflatten(child, leaves));
  return Object.fromEntries(Object.entries(structure).map(([key, child]) => [key, unflatten(child, leaves)]));
}

/** Reads an array, which is used up: jax-js would start Workers that never end in `data()`, but not in `dataSync()`. */
function read(array: JaxArray): TypedArray {
  return array.dataSync() as TypedArray;
}

/**
 * The Parameters of a pytree: arrays of jax-js in plain objects and arrays, nested at will.
 *
 * Names are the keys on the way, joined by dots (`layers.0.weight`), in the order of the tree. It is a Module where it is given
 * a `forward`, so that {@linkcode AveragedModel}, checkpoints and `modelStateDict` take it as it is.
 *
 * jax-js counts references, and whoever is handed an array uses it up: the constructor and `setGrads` do so with theirs, and
 * the function that is given `arrays()` must. Where they throw for an array that does not fit, all are still the caller's.
 *
 * @typeParam T the tree, with a jax-js array at each leaf
 * @typeParam I what `forward` takes beside the tree
 * @typeParam O what `forward` gives
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { numpy as np } from "@jax-js/jax";
 * import { SGD } from "@flatstep/optim";
 * import { ParameterTree } from "@flatstep/optim/adapters/jax";
 *
 * const tree = new ParameterTree(np, { layers: [{ w: np.ones([2, 2]), b: np.zeros([2]) }] });
 * assertEquals(tree.namedParameters().map(([name]) => name), ["layers.0.w", "layers.0.b"]);
 * tree.setGrads({ layers: [{ w: np.ones([2, 2]), b: np.ones([2]) }] });
 * new SGD(tree.namedParameters(), { lr: 0.5 }).step();
 * assertEquals(tree.arrays().layers[0]!.w.js(), [[0.5, 0.5], [0.5, 0.5]]);
 * ```
 */
export class ParameterTree<T, I extends unknown[] = unknown[], O = unknown> implements Module {
  /** The parameters, in the order of the tree; each has its own memory. */
  readonly parameters: readonly Parameter[];
  readonly #np: JaxNumpy;
  readonly #structure: Structure;
  readonly #forward: ((arrays: T, ...inputs: I) => O) | null;

  /**
   * Copies the numbers of a tree, which is used up.
   *
   * @param np jax-js's `numpy`
   * @param tree the first values
   * @param forward what the model computes, from fresh arrays and inputs; default none
   * @throws {TypeError} for a leaf that is no float32, float16 or float64 array of jax-js, named by its path
   * @throws {RangeError} if two leaves have the same name
   */
  constructor(np: JaxNumpy, tree: T, forward?: (arrays: T, ...inputs: I) => O) {
    if (typeof (np as JaxNumpy | null)?.array !== "function") {
      throw new TypeError(`np must be jax-js's numpy, got ${describe(np)}`);
    }
    if (forward !== undefined && typeof forward !== "function") {
      throw new TypeError(`forward must be a function, got ${show(forward)}`);
    }
    const leaves: Leaf[] = [], names: string[] = [];
    this.#structure = flatten(tree, "tree", leaves, names, "");
    this.#np = np;
    this.#forward = forward ?? null;
    this.parameters = Object.freeze(leaves.map(([, array], i) => {
      const shape = [...array.shape]; // an array that has been used up cannot be asked
      return new Parameter(read(array), { shape, name: names[i]! });
    }));
  }

  /** Every parameter, with its name: what an optimizer takes. */
  namedParameters(): [string, Parameter][] {
    return this.parameters.map((parameter) => [parameter.name!, parameter]);
  }

  /**
   * The tree with fresh arrays of the parameters' numbers, for one use: a pass through the model, for example.
   *
   * @returns a new tree, whose arrays are the caller's
   * @example
   * ```ts
   * import { assertEquals } from "@std/assert";
   * import { numpy as np } from "@jax-js/jax";
   * import { ParameterTree } from "@flatstep/optim/adapters/jax";
   *
   * const tree = new ParameterTree(np, [np.array([1, 2])]);
   * tree.parameters[0]!.data[0] = 5;
   * assertEquals(tree.arrays()[0]!.js(), [5, 2]);
   * ```
   */
  arrays(): T {
    const fresh = this.parameters.map(({ data, shape, dtype, size }) =>
      size > 0
        ? this.#np.array(data as Float32Array<ArrayBuffer>, { shape: [...shape] })
        : this.#np.zeros([...shape], { dtype })
    );
    return unflatten(this.#structure, fresh) as T;
  }

  /**
   * Sets each parameter's `grad`, by a tree of the same structure, which is used up.
   *
   * @param gradients what `grad` or `valueAndGrad` of jax-js gives
   * @throws {TypeError} for another structure or dtype, named by its path
   * @throws {RangeError} for another shape; nothing has been changed or used up then
   */
  setGrads(gradients: T): void {
    this.#setGrads(this.#check(gradients, "gradients"));
  }

  /** The arrays of a tree that fits, in order. */
  #check(tree: unknown, path: string): JaxArray[] {
    const leaves: Leaf[] = [];
    match(tree, this.#structure, path, leaves);
    this.parameters.forEach(({ dtype, shape }, i) => {
      const [path, array] = leaves[i]!;
      if (array.dtype !== dtype) throw new TypeError(`${path} must be of dtype ${dtype}, got ${show(array.dtype)}`);
      if (array.shape.length !== shape.length || array.shape.some((n, k) => n !== shape[k])) {
        throw new RangeError(`${path} must have the shape ${show([...shape])}, got ${show([...array.shape])}`);
      }
    });
    return leaves.map(([, array]) => array);
  }

  #setGrads(arrays: readonly JaxArray[]): void {
    const values = arrays.map(read);
    this.parameters.forEach((parameter, i) => parameter.grad = values[i]!);
  }

  /**
   * A closure for `optimizer.step()`: runs a function on fresh arrays, sets the gradients, and gives the loss.
   *
   * @param fn what `valueAndGrad` makes, or a function around it that adds the data
   * @returns the closure; it may be kept and called again
   * @throws {TypeError} when it is called, if fn does not give `[loss, gradients]`
   * @example
   * ```ts
   * import { assert } from "@std/assert";
   * import { numpy as np, valueAndGrad } from "@jax-js/jax";
   * import { LBFGS } from "@flatstep/optim";
   * import { ParameterTree } from "@flatstep/optim/adapters/jax";
   *
   * const tree = new ParameterTree(np, { x: np.array([3, -4]) });
   * const gradient = valueAndGrad(({ x }: { x: np.Array }) => np.sum(np.square(x)));
   * new LBFGS(tree.parameters, { lineSearchFn: "strong_wolfe" }).step(tree.closure((p) => gradient(p)));
   * assert(tree.parameters[0]!.data.every((x) => Math.abs(x) < 1e-3));
   * ```
   */
  closure(fn: JaxGradient<T>): () => number {
    if (typeof fn !== "function") throw new TypeError(`fn must be a function, got ${show(fn)}`);
    return () => {
      const result = fn(this.arrays()) as unknown;
      if (!Array.isArray(result) || result.length !== 2) {
        throw new TypeError(`fn must return [loss, gradients], got ${describe(result)}`);
      }
      const [loss, gradients] = result as unknown[];
      if (typeof loss !== "number" && !(isArray(loss) && loss.shape.every((n) => n === 1))) {
        throw new TypeError(
          `fn must return a loss that is one number, got ${
            isArray(loss) ? `an array of shape ${show([...loss.shape])}` : describe(loss)
          }`,
        );
      }
      const arrays = this.#check(gradients, "gradients");
      const value = typeof loss === "number" ? loss : Number((loss.dataSync() as Float32Array)[0]);
      this.#setGrads(arrays);
      return value;
    };
  }

  /**
   * What the model computes: the `forward` that the constructor was given, on fresh arrays.
   *
   * @param inputs what that function takes after the tree
   * @throws {TypeError} if the constructor was given none
   */
  forward(...inputs: I): O {
    if (this.#forward === null) throw new TypeError("forward must be given to the constructor, got none");
    return this.#forward(this.arrays(), ...inputs);
  }

  /** An independent copy, without gradients. */
  clone(): this {
    const values = this.parameters.map(({ data, shape, dtype }) => ({ shape, dtype, dataSync: () => data.slice() }));
    const tree = unflatten(this.#structure, values) as T;
    return new ParameterTree(this.#np, tree, this.#forward ?? undefined) as this;
  }
}
