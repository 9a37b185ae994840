import { defaultDevice, init, jit, nn, numpy as np, valueAndGrad } from "@jax-js/jax";
import { Parameter } from "../../mod.ts";
import { type Batch, CLASSES, PIXELS } from "./data.ts";
import type { Random } from "./random.ts";

/** Width of each layer's output, and before them all the input's. */
export const WIDTHS: readonly number[] = [PIXELS, 256, 128, CLASSES];

/** The logits of a batch; `parameters` is weight, bias, weight, bias, ... jax-js moves what it uses: `.ref` keeps it. */
function forward(parameters: np.Array[], images: np.Array): np.Array {
  let x = images;
  for (let i = 0; i < parameters.length; i += 2) {
    if (i > 0) x = nn.relu(x);
    x = np.matmul(x, parameters[i]!).add(parameters[i + 1]!);
  }
  return x;
}

/** Softmax cross entropy, averaged over the batch. */
function crossEntropy(parameters: np.Array[], images: np.Array, labels: np.Array): np.Array {
  const logProbabilities = nn.logSoftmax(forward(parameters, images));
  return np.mean(np.sum(logProbabilities.mul(nn.oneHot(labels, CLASSES)), -1)).mul(-1);
}

/** A multi-layer perceptron with ReLU. Its parameters are flatstep's, its gradients come from jax-js. */
export class Classifier {
  readonly weights: Parameter[] = [];
  readonly biases: Parameter[] = [];
  readonly #lossAndGradient = jit(valueAndGrad(crossEntropy));
  readonly #logits = jit(forward);

  private constructor(random: Random) {
    for (let layer = 1; layer < WIDTHS.length; layer++) {
      const [inputs, outputs] = [WIDTHS[layer - 1]!, WIDTHS[layer]!];
      // He's initialisation, uniform: the variance is 2 / inputs.
      const bound = Math.sqrt(6 / inputs);
      const weight = Float32Array.from({ length: inputs * outputs }, () => random.uniform(-bound, bound));
      this.weights.push(new Parameter(weight, { shape: [inputs, outputs], name: `layer${layer}.weight` }));
      this.biases.push(new Parameter(new Float32Array(outputs), { shape: [outputs], name: `layer${layer}.bias` }));
    }
  }

  /** Starts jax-js on its WebAssembly backend and draws the weights; biases start at zero. */
  static async create(random: Random): Promise<Classifier> {
    await init("wasm");
    defaultDevice("wasm");
    withoutRelaxedMadd(() => np.dot(np.array([1, 2]), np.array([3, 4])).dataSync());
    return new Classifier(random);
  }

  /** All parameters: weight, bias, weight, bias, ... */
  get parameters(): Parameter[] {
    return this.weights.flatMap((weight, i) => [weight, this.biases[i]!]);
  }

  /** The batch's loss; sets every parameter's gradient. */
  backward(batch: Batch): number {
    const [loss, gradients] = this.#lossAndGradient(this.#upload(), imageArray(batch), np.array(batch.labels));
    // dataSync, not data: the asynchronous one starts Workers, and they keep the program from ending.
    this.parameters.forEach((parameter, i) => parameter.grad = floats(gradients[i]!));
    return floats(loss)[0]!;
  }

  /** How many images of the batch get the right digit. */
  correct(batch: Batch): number {
    const logits = floats(this.#logits(this.#upload(), imageArray(batch)));
    let correct = 0;
    for (let i = 0; i < batch.count; i++) {
      const row = logits.subarray(i * CLASSES, (i + 1) * CLASSES);
      if (row.indexOf(Math.max(...row)) === batch.labels[i]) correct++;
    }
    return correct;
  }

  #upload(): np.Array[] {
    return this.parameters.map((parameter) =>
      np.array(parameter.data as Float32Array<ArrayBuffer>, { shape: [...parameter.shape] })
    );
  }
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
