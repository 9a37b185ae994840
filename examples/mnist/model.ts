import { defaultDevice, init, jit, nn, numpy as np, valueAndGrad } from "@jax-js/jax";
import { type Module, Parameter } from "../../mod.ts";
import { BatchNorm, momentsOf, normalise } from "./batch_norm.ts";
import { type Batch, CLASSES, PIXELS } from "./data.ts";
import type { Random } from "./random.ts";

/** Width of each layer's output, and before them all the input's. */
export const WIDTHS: readonly number[] = [PIXELS, 256, 128, CLASSES];

/**
 * The logits of a batch, and the moments that each hidden layer was normalised by: mean, variance, mean, variance, ...
 * They are the batch's own if `moments` is empty. `parameters` is weight, scale, shift of each hidden layer, then weight
 * and bias. jax-js moves what it uses: `.ref` keeps it.
 */
function forward(parameters: np.Array[], images: np.Array, moments: np.Array[]): [np.Array, np.Array[]] {
  const [weight, bias] = parameters.slice(-2) as [np.Array, np.Array];
  const used: np.Array[] = [];
  let x = images;
  for (let layer = 0; layer < WIDTHS.length - 2; layer++) {
    const [weight, scale, shift] = parameters.slice(3 * layer) as [np.Array, np.Array, np.Array];
    x = np.matmul(x, weight);
    const [mean, variance] = moments.length > 0 ? moments.slice(2 * layer) as [np.Array, np.Array] : momentsOf(x.ref);
    used.push(mean.ref, variance.ref);
    x = nn.relu(normalise(x, mean, variance, scale, shift));
  }
  return [np.matmul(x, weight).add(bias), used];
}

/** Softmax cross entropy, averaged over the batch; and the moments of the batch. */
function crossEntropy(parameters: np.Array[], images: np.Array, labels: np.Array): [np.Array, np.Array[]] {
  const [logits, moments] = forward(parameters, images, []);
  const logProbabilities = nn.logSoftmax(logits);
  return [np.mean(np.sum(logProbabilities.mul(nn.oneHot(labels, CLASSES)), -1)).mul(-1), moments];
}

// They are not the model's, which is deep-copied to be averaged.
const jitForward = jit(forward);
const jitGradient = jit(valueAndGrad(crossEntropy, { hasAux: true }));

/**
 * A multi-layer perceptron with batch norm and ReLU. Its parameters are flatstep's, its gradients come from jax-js. Hidden
 * layers have no bias: the batch norm would take it away again.
 */
export class Classifier implements Module {
  readonly weights: Parameter[] = [];
  readonly norms: BatchNorm[] = [];
  readonly bias: Parameter = new Parameter(new Float32Array(CLASSES), { name: "bias" });
  /** Normalises by the batch and keeps running statistics if true, normalises by these if false. */
  training = true;

  private constructor(random: Random) {
    for (let layer = 1; layer < WIDTHS.length; layer++) {
      const [inputs, outputs] = [WIDTHS[layer - 1]!, WIDTHS[layer]!];
      // He's initialisation, uniform: the variance is 2 / inputs.
      const bound = Math.sqrt(6 / inputs);
      const weight = Float32Array.from({ length: inputs * outputs }, () => random.uniform(-bound, bound));
      this.weights.push(new Parameter(weight, { shape: [inputs, outputs], name: `layer${layer}.weight` }));
      if (layer < WIDTHS.length - 1) this.norms.push(new BatchNorm(outputs, `norm${layer}`));
    }
  }

  /** Starts jax-js on its WebAssembly backend and draws the weights; biases start at zero. */
  static async create(random: Random): Promise<Classifier> {
    await init("wasm");
    defaultDevice("wasm");
    withoutRelaxedMadd(() => np.dot(np.array([1, 2]), np.array([3, 4])).dataSync());
    return new Classifier(random);
  }

  /** All parameters: weight, scale and shift of each hidden layer, then weight and bias. */
  get parameters(): Parameter[] {
    return this.weights.flatMap((weight, i) => {
      const norm = this.norms[i];
      return norm ? [weight, norm.scale, norm.shift] : [weight, this.bias];
    });
  }

  namedParameters(): [string, Parameter][] {
    return this.parameters.map((parameter) => [parameter.name!, parameter]);
  }

  namedBuffers(): [string, Float32Array<ArrayBuffer>][] {
    return this.norms.flatMap(({ name, runningMean, runningVar }): [string, Float32Array<ArrayBuffer>][] => [
      [`${name}.runningMean`, runningMean],
      [`${name}.runningVar`, runningVar],
    ]);
  }

  modules(): unknown[] {
    return [this, ...this.norms];
  }

  train(mode = true): this {
    this.training = mode;
    for (const norm of this.norms) norm.training = mode;
    return this;
  }

  eval(): this {
    return this.train(false);
  }

  /** The logits of a batch, image after image. */
  forward(batch: Batch): Float32Array {
    const given = this.training ? [] : this.namedBuffers().map(([, buffer]) => np.array(buffer));
    const [logits, moments] = jitForward(arrays(this.parameters), imageArray(batch), given);
    if (this.training) track(this.norms, moments, batch.count);
    else for (const moment of moments) moment.dispose();
    return floats(logits);
  }

  /** The batch's loss; sets every parameter's gradient. */
  backward(batch: Batch): number {
    const [[loss, moments], gradients] = jitGradient(
      arrays(this.parameters),
      imageArray(batch),
      np.array(batch.labels),
    );
    // dataSync, not data: the asynchronous one starts Workers, and they keep the program from ending.
    this.parameters.forEach((parameter, i) => parameter.grad = floats(gradients[i]!));
    track(this.norms, moments, batch.count);
    return floats(loss)[0]!;
  }
}

/** Takes the moments of a batch into the running statistics. */
function track(norms: readonly BatchNorm[], moments: readonly np.Array[], count: number): void {
  const values = moments.map(floats);
  norms.forEach((norm, i) => norm.track(values[2 * i]!, values[2 * i + 1]!, count));
}

/** Uploads parameters. */
function arrays(parameters: readonly Parameter[]): np.Array[] {
  return parameters.map(({ data, shape }) => np.array(data as Float32Array<ArrayBuffer>, { shape: [...shape] }));
}

function imageArray(batch: Batch): np.Array {
  return np.array(batch.images, { shape: [batch.count, PIXELS] });
}

/** Downloads an array, which is used up. */
function floats(array: np.Array): Float32Array<ArrayBuffer> {
  return array.dataSync() as Float32Array<ArrayBuffer>;
}

/**
 * Keeps jax-js from using WebAssembly's `relaxed_madd`, a multiply-add that V8 rounds once and JavaScriptCore twice: with
 * it, Deno's and Bun's losses would drift apart. jax-js asks `validate` for it when it first compiles a dot product, and
 * remembers the answer.
 */
function withoutRelaxedMadd(compileDotProduct: () => void): void {
  const validate = WebAssembly.validate;
  WebAssembly.validate = () => false;
  try {
    compileDotProduct();
  } finally {
    WebAssembly.validate = validate;
  }
}
