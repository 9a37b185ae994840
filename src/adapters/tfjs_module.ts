/**
 * A LayersModel of tfjs as a Module.
 *
 * @module
 */

import { describe, show } from "../errors.ts";
import type { Parameter } from "../parameter.ts";
import type { Module } from "../swa_utils/module.ts";
import { type NormLayer, TfBatchNorm } from "./tfjs_batch_norm.ts";
import { bind, type Bound } from "./tfjs_memory.ts";
import type { TfApi, TfLayer, TfLayersModel, TfLayerWeight, TfTensor, TfVariable } from "./tfjs_types.ts";
import { checkApi, readOptions, TfVariables, type TfVariablesOptions } from "./tfjs_variables.ts";

/** Options of {@linkcode LayersModule}. */
export interface LayersModuleOptions<M extends TfLayersModel = TfLayersModel> extends TfVariablesOptions {
  /** Makes another model with layers of the same names; default: from `getConfig()`. Its weights are overwritten. */
  clone?: () => M;
}

/** What a model gives for tensors: a tensor. A model with several outputs gives a list of them, which its type does not tell. */
export type TfOutput<M extends TfLayersModel> = Extract<ReturnType<M["apply"]>, TfTensor>;

/** A layer that has others in it, in any of tfjs's ways. */
interface Nest {
  readonly layers?: readonly TfLayer[];
  readonly layer?: TfLayer;
  readonly forwardLayer?: TfLayer;
  readonly backwardLayer?: TfLayer;
}

/** A batch norm, if the layer is one. */
interface MaybeNorm extends NormLayer {
  readonly movingMean?: TfLayerWeight;
  readonly movingVariance?: TfLayerWeight;
}

interface Weights {
  readonly parameters: Map<string, TfVariable>;
  readonly buffers: Map<string, TfVariable>;
  readonly norms: { layer: NormLayer; mean: string; variance: string }[];
}

/** All weights of a model, named `layer.weight`, a nested layer's with the names of all that it is in. */
function readWeights(model: TfLayersModel): Weights {
  const parameters = new Map<string, TfVariable>(),
    buffers = new Map<string, TfVariable>(),
    norms: Weights["norms"] = [];
  const seen = new Set<unknown>();
  const visit = (layer: TfLayer, path: string) => {
    const { layers, layer: wrapped, forwardLayer, backwardLayer } = layer as Nest;
    const below = layers ?? [wrapped, forwardLayer, backwardLayer].filter((inner) => inner !== undefined);
    for (const inner of below) visit(inner, path === "" ? inner.name : `${path}.${inner.name}`);
    const { movingMean, movingVariance } = layer as TfLayer & MaybeNorm, names = new Map<unknown, string>();
    for (const weight of layer.weights as readonly TfLayerWeight[]) {
      if (seen.has(weight)) continue;
      seen.add(weight);
      const plain = `${path}.${weight.originalName.split("/").at(-1)!}`;
      let name = plain;
      for (let n = 1; parameters.has(name) || buffers.has(name); n++) name = `${plain}_${n}`;
      names.set(weight, name);
      // In a frozen layer no weight is trainable; its statistics are buffers all the same.
      const isBuffer = weight === movingMean || weight === movingVariance || (!weight.trainable && layer.trainable);
      (isBuffer ? buffers : parameters).set(name, weight.read() as TfVariable);
    }
    const mean = names.get(movingMean), variance = names.get(movingVariance);
    if (mean !== undefined && variance !== undefined) {
      norms.push({ layer: layer as TfLayer & MaybeNorm, mean, variance });
    }
  };
  visit(model, "");
  return { parameters, buffers, norms };
}

function checkModel(model: unknown): void {
  const { apply, layers, weights } = (model ?? {}) as Partial<TfLayersModel>;
  if (typeof apply !== "function" || !Array.isArray(layers) || !Array.isArray(weights)) {
    throw new TypeError(
      `model must be a LayersModel of tfjs, got ${describe(model)}`,
    );
  }
  if (weights.length === 0) {
    throw new TypeError("model must have weights: a model without an inputShape has none before it is built");
  }
}

/** Another model of the same kind, by its configuration. */
function copyModel<M extends TfLayersModel>(model: M): M {
  type Kind = { fromConfig(kind: unknown, config: unknown, customObjects: object, fastWeightInit: boolean): M };
  const type = model.constructor as unknown as Kind;
  try {
    return type.fromConfig(type, model.getConfig(), {}, true);
  } catch (error) {
    throw new TypeError(
      `the model cannot be made from its configuration (${error instanceof Error ? error.message : show(error)}): ` +
        `give the option clone, which makes one`,
      { cause: error },
    );
  }
}

/**
 * A LayersModel of tfjs as a Module: for optimizers, {@linkcode AveragedModel}, {@linkcode updateBn} and checkpoints.
 *
 * Parameters are its weights, named `layer.weight`; give the layers names of your own where a checkpoint is to fit later, for
 * tfjs counts the others through the program. Frozen layers' weights are parameters too, and get no gradients. Buffers are the
 * batch norms' statistics, which are copied, and what else is never trained.
 *
 * Regularizers count only if the loss has them: `model.calculateLosses()`.
 *
 * @typeParam M the model
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import * as tf from "@tensorflow/tfjs";
 * import { AveragedModel, updateBn } from "@flatstep/optim";
 * import { LayersModule } from "@flatstep/optim/adapters/tfjs";
 *
 * await tf.setBackend("cpu");
 * const model = new LayersModule(tf, tf.sequential({ layers: [tf.layers.batchNormalization({ name: "norm", inputShape: [1] })] }));
 * const averaged = new AveragedModel(model);
 * averaged.updateParameters(model);
 * await updateBn([tf.tensor2d([[1], [3]]), tf.tensor2d([[5], [7]])], averaged);
 * assertEquals([...averaged.namedBuffers()].map(([name, buffer]) => [name, ...(buffer as typeof model.parameters[0]).data]), [
 *   ["module.norm.moving_mean", 4],
 *   ["module.norm.moving_variance", 1],
 * ]);
 * ```
 */
export class LayersModule<M extends TfLayersModel = TfLayersModel> extends TfVariables implements Module {
  /** tfjs's model. */
  readonly model: M;
  /** Whether {@linkcode LayersModule.forward} runs the layers as in training: by batch statistics, and with dropout. */
  training = true;
  /** The batch norms, in the order of the layers. */
  readonly norms: readonly TfBatchNorm[];
  readonly #tf: TfApi;
  readonly #options: LayersModuleOptions<M>;
  readonly #buffers: readonly Bound[];
  /** What the last pass gave while a batch norm's momentum was null: updateBn leaves it to nobody. */
  #leftover: unknown = null;

  /**
   * Makes the parameters.
   *
   * @param tf tfjs's namespace, `import * as tf from "@tensorflow/tfjs"`
   * @param model the model, built: it stays in use
   * @param options see {@linkcode LayersModuleOptions}
   * @throws {TypeError} for no tfjs, no model, one that is not built, weights of another dtype, or an unknown option
   */
  constructor(tf: TfApi, model: M, options: LayersModuleOptions<M> = {}) {
    checkApi(tf);
    readOptions(options, "LayersModule", ["clone"]);
    if (options.clone !== undefined && typeof options.clone !== "function") {
      throw new TypeError(`clone must be a function, got ${show(options.clone)}`);
    }
    checkModel(model);
    const { parameters, buffers, norms } = readWeights(model);
    super(tf, Object.fromEntries(parameters), options.copy === undefined ? {} : { copy: options.copy });
    this.#tf = tf;
    this.#options = options;
    this.model = model;
    // tfjs assigns statistics anew at every pass, so that their memory is another one each time.
    this.#buffers = [...buffers].map(([name, variable]) => bind(tf, name, variable, true));
    const find = (name: string) => this.#buffers.find((bound) => bound.name === name)!;
    this.norms = Object.freeze(
      norms.map(({ layer, mean, variance }) =>
        new TfBatchNorm(layer, find(mean), find(variance), () => this.#disposeLeftover())
      ),
    );
  }

  /** Every buffer, with its name. */
  namedBuffers(): [string, Parameter][] {
    return this.#buffers.map(({ name, parameter }) => [name, parameter]);
  }

  /** Itself and its batch norms. */
  modules(): unknown[] {
    return [this, ...this.norms];
  }

  /** Hands over to tfjs what is copied: statistics, and parameters too where they are copies. `forward` does so by itself. */
  override push(): void {
    super.push();
    for (const { memory } of this.#buffers) memory.push();
  }

  /**
   * Runs the model.
   *
   * @param inputs a tensor, or a list of them for a model with several inputs
   * @returns what the model gives, which is the caller's; while a batch norm's momentum is null, as in {@linkcode updateBn}, it is
   * good until the next pass
   */
  forward(inputs: TfTensor | readonly TfTensor[]): TfOutput<M> {
    const { norms, training } = this, isCumulative = training && norms.some((norm) => norm.momentum === null);
    if (isCumulative) this.#disposeLeftover();
    if (training) { for (const norm of norms) norm.prepare(); }
    this.push();
    const outputs = this.model.apply(inputs, { training }) as TfOutput<M>;
    if (training) {
      for (const norm of norms) norm.numBatchesTracked++;
      for (const { memory } of this.#buffers) memory.read(); // now: what is written from here on counts
    }
    if (isCumulative) this.#leftover = outputs;
    return outputs;
  }

  #disposeLeftover(): void {
    const outputs = this.#leftover;
    this.#leftover = null;
    for (const output of (Array.isArray(outputs) ? outputs : [outputs]) as (TfTensor | null)[]) {
      if (output !== null && !output.isDisposed) output.dispose();
    }
  }

  /** Puts the model into training mode, or out of it. */
  train(mode: boolean = true): this {
    this.training = mode;
    return this;
  }

  /** Puts the model out of training mode. */
  eval(): this {
    return this.train(false);
  }

  /**
   * An independent copy, with variables of its own.
   *
   * @throws {TypeError} if the model cannot be made from its configuration and there is no option `clone`, or the copy has other
   * weights
   */
  clone(): this {
    const copy = new LayersModule(this.#tf, (this.#options.clone ?? (() => copyModel(this.model)))(), {
      ...this.#options,
      copy: !this.zeroCopy,
    }) as this;
    const own = [...this.namedParameters(), ...this.namedBuffers()];
    const others = [...copy.namedParameters(), ...copy.namedBuffers()];
    if (own.length !== others.length) {
      throw new TypeError(`the copy must have ${own.length} weights, got ${others.length}`);
    }
    own.forEach(([name, { data, shape }], i) => {
      const [otherName, other] = others[i]!;
      if (name !== otherName || shape.join() !== other.shape.join()) {
        throw new TypeError(
          `the copy must have the weight ${show(name)} of shape ${show([...shape])}, got ${show(otherName)} of ${
            show([...other.shape])
          }`,
        );
      }
      (other.data as Float32Array).set(data as Float32Array);
    });
    this.norms.forEach((norm, i) => {
      copy.norms[i]!.momentum = norm.momentum;
      copy.norms[i]!.numBatchesTracked = norm.numBatchesTracked;
    });
    copy.push();
    return copy.train(this.training);
  }

  /** Gives the model's memory back to tfjs; its parameters are of no use then. */
  dispose(): void {
    this.#disposeLeftover();
    this.model.dispose();
  }
}
