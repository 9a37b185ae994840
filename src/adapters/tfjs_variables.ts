/**
 * Variables of tfjs as Parameters.
 *
 * @module
 */

import { checkKeys, kind, show } from "../errors.ts";
import type { Parameter } from "../parameter.ts";
import { bind, type Bound, canShare, numbersOf } from "./tfjs_memory.ts";
import type { TfApi, TfTensor, TfVariable } from "./tfjs_types.ts";

/** Options of {@linkcode TfVariables}. */
export interface TfVariablesOptions {
  /**
   * Whether numbers are copied between tfjs and the parameters, by `dataSync()` and `assign()`; default: only where the backend's
   * memory cannot be shared.
   */
  copy?: boolean;
}

/** Checks the options; those of a subclass are in `more`. */
export function readOptions(options: unknown, owner: string, more: readonly string[] = []): { copy?: boolean } {
  checkKeys(options, ["copy", ...more], owner);
  const { copy } = options as TfVariablesOptions;
  if (copy === undefined) return {};
  if (typeof copy !== "boolean") throw new TypeError(`copy must be a boolean, got ${show(copy)}`);
  return { copy };
}

/** Checks tfjs's namespace. */
export function checkApi(tf: unknown): TfApi {
  const api = tf as TfApi | null | undefined;
  const names = ["backend", "getBackend", "tensor", "variableGrads"] as const;
  if (names.some((name) => typeof api?.[name] !== "function")) {
    throw new TypeError(`tf must be tfjs's namespace, with ${names.join(", ")}, got ${show(tf)}`);
  }
  if (!api!.backend()) throw new TypeError("tf must have a backend: await tf.setBackend() or tf.ready() first");
  return api!;
}

/**
 * Parameters that stand for variables of tfjs.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import * as tf from "@tensorflow/tfjs";
 * import { SGD } from "@flatstep/optim";
 * import { TfVariables } from "@flatstep/optim/adapters/tfjs";
 *
 * await tf.setBackend("cpu");
 * const w = tf.variable(tf.tensor1d([3, -4]));
 * const variables = new TfVariables(tf, { w });
 * const optimizer = new SGD(variables.namedParameters(), { lr: 0.25 });
 * const loss = optimizer.step(variables.closure(() => w.square().sum()));
 * assert(loss === 25 && w.dataSync().join() === "1.5,-2");
 * ```
 */
export class TfVariables {
  /** Whether a parameter's `data` is the variable's own memory. */
  readonly zeroCopy: boolean;
  /** The parameters, in order. */
  readonly parameters: readonly Parameter[];
  readonly #tf: TfApi;
  readonly #bound: readonly Bound[];
  /** Where each gradient is kept: the same arrays at every step. */
  readonly #grads = new Map<Bound, Float32Array<ArrayBuffer>>();

  /**
   * Makes the parameters. On a shared backend each variable is given memory of its own, so that a step changes neither the tensor
   * that it was made of nor a clone.
   *
   * @param tf tfjs's namespace, `import * as tf from "@tensorflow/tfjs"`
   * @param variables float32 variables: by the name that their parameters shall have, or in a list, by their own names
   * @param options see {@linkcode TfVariablesOptions}
   * @throws {TypeError} for no tfjs, no variables, another dtype, or an unknown option
   */
  constructor(
    tf: TfApi,
    variables: Iterable<TfVariable> | Readonly<Record<string, TfVariable>>,
    options: TfVariablesOptions = {},
  ) {
    this.#tf = checkApi(tf);
    this.zeroCopy = !(readOptions(options, "TfVariables").copy ?? !canShare(tf));
    if (typeof variables !== "object" || variables === null) {
      throw new TypeError(`variables must be a list or an object of variables, got ${show(variables)}`);
    }
    const entries = Symbol.iterator in variables
      ? [...variables as Iterable<TfVariable>].map((v) => [v?.name, v] as const)
      : Object.entries(variables);
    const seen = new Set<unknown>();
    for (const [name, variable] of entries) {
      if (seen.has(variable)) throw new RangeError(`the variable ${show(name)} must not be given twice`);
      seen.add(variable);
    }
    this.#bound = entries.map(([name, variable]) => bind(tf, name, variable, !this.zeroCopy));
    this.parameters = Object.freeze(this.#bound.map(({ parameter }) => parameter));
  }

  /** Every parameter, with its name: what an optimizer takes. */
  namedParameters(): [string, Parameter][] {
    return this.#bound.map(({ name, parameter }) => [name, parameter]);
  }

  /**
   * Hands the parameters' numbers over to tfjs, where they are copies; `closure` does so by itself. Without a change, and with
   * `zeroCopy`, it does nothing.
   */
  push(): void {
    for (const { memory } of this.#bound) memory.push();
  }

  /**
   * Copies gradients from tfjs. The tensors stay the caller's, who disposes of them.
   *
   * @param grads what `tf.variableGrads` gives as `grads`: by the variables' own names; a parameter without one gets null
   * @throws {TypeError} for a name that no variable has, or what is no float32 tensor
   * @throws {RangeError} for another shape; nothing has been changed then
   */
  setGrads(grads: Readonly<Record<string, TfTensor | null>>): void {
    if (typeof grads !== "object" || grads === null) throw new TypeError(`grads must be an object, got ${show(grads)}`);
    const names = new Set(this.#bound.map(({ variable }) => variable.name));
    const strange = Object.keys(grads).find((name) => !names.has(name));
    if (strange !== undefined) throw new TypeError(`grads has ${show(strange)}, which none of the variables is called`);
    for (const { variable } of this.#bound) {
      const grad = grads[variable.name] ?? null, { shape } = variable;
      if (grad === null) continue;
      if (typeof grad.dataSync !== "function" || grad.dtype !== "float32") {
        throw new TypeError(
          `the gradient of ${show(variable.name)} must be a float32 tensor, got ${grad.dtype ?? kind(grad)}`,
        );
      }
      if (grad.shape.length !== shape.length || grad.shape.some((n, i) => n !== shape[i])) {
        throw new RangeError(
          `the gradient of ${show(variable.name)} must have the shape ${show([...shape])}, got ${
            show([...grad.shape])
          }`,
        );
      }
    }
    for (const bound of this.#bound) {
      const { parameter, variable } = bound, grad = grads[variable.name] ?? null;
      if (grad === null) {
        parameter.grad = null;
        continue;
      }
      let array = this.#grads.get(bound);
      if (array === undefined) this.#grads.set(bound, array = new Float32Array(parameter.size));
      array.set(numbersOf(this.#tf, grad)); // the tensor's memory may be another tensor's too
      parameter.grad = array;
    }
  }

  /**
   * A closure for `optimizer.step()`: runs a function under `tf.variableGrads`, sets the gradients, and gives the loss. No tensor
   * is left over. Variables that are not `trainable`, or that the loss does not depend on, get no gradient and are skipped.
   *
   * @param fn the loss, as a scalar tensor
   * @returns the closure; it may be kept and called again
   * @throws {TypeError} if fn is no function; and, when it is called, whatever tfjs throws
   * @example
   * ```ts
   * import { assert } from "@std/assert";
   * import * as tf from "@tensorflow/tfjs";
   * import { LBFGS } from "@flatstep/optim";
   * import { TfVariables } from "@flatstep/optim/adapters/tfjs";
   *
   * await tf.setBackend("cpu");
   * const x = tf.variable(tf.tensor1d([3, -4]));
   * const variables = new TfVariables(tf, [x]);
   * new LBFGS(variables.parameters, { lineSearchFn: "strong_wolfe" }).step(variables.closure(() => x.square().sum()));
   * assert(x.dataSync().every((value) => Math.abs(value) < 1e-3));
   * ```
   */
  closure(fn: () => TfTensor): () => number {
    if (typeof fn !== "function") throw new TypeError(`fn must be a function, got ${show(fn)}`);
    const variables = this.#bound.map(({ variable }) => variable);
    return () => {
      this.push();
      const { value, grads } = this.#tf.variableGrads(fn, variables) as {
        value: TfTensor;
        grads: Record<string, TfTensor | null>;
      };
      try {
        const loss = Number((value.dataSync() as Float32Array)[0]);
        this.setGrads(grads);
        return loss;
      } finally {
        value.dispose();
        for (const grad of Object.values(grads)) grad?.dispose();
      }
    };
  }
}
