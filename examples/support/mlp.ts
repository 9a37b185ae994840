/**
 * A small perceptron with batch norm, its gradients by hand: linear, batch norm, ReLU, linear, and the squared distance to
 * the right species' corner as loss. Only + − × ÷ and square roots, so that every runtime computes the same bits.
 */
import { type BatchNorm as Statistics, type Module, Parameter } from "@flatstep/optim";
import type { Random } from "../mnist/random.ts";
import type { Flowers } from "./iris.ts";

/** outputs = inputs weightᵀ + bias */
class Linear {
  readonly weight: Parameter;
  readonly bias: Parameter;
  private seen: Float64Array = new Float64Array();

  constructor(readonly from: number, readonly to: number, random: Random) {
    const bound = 1 / Math.sqrt(from);
    this.weight = new Parameter(Float32Array.from({ length: to * from }, () => random.uniform(-bound, bound)), {
      shape: [to, from],
    });
    this.bias = new Parameter(new Float32Array(to));
  }

  forward(inputs: Float64Array): Float64Array {
    const { from, to, weight, bias } = this, outputs = new Float64Array(inputs.length / from * to);
    this.seen = inputs;
    for (let o = 0; o < outputs.length; o++) {
      const column = o % to, row = (o - column) / to;
      outputs[o] = bias.data[column]!;
      for (let i = 0; i < from; i++) outputs[o]! += inputs[row * from + i]! * weight.data[column * from + i]!;
    }
    return outputs;
  }

  /** From the outputs' gradient, the parameters' and the inputs'. */
  backward(grad: Float64Array): Float64Array {
    const { from, to, weight, bias } = this, inputs = this.seen, back = new Float64Array(inputs.length);
    const weightGrad = new Float64Array(weight.data.length), biasGrad = new Float64Array(to);
    for (let o = 0; o < grad.length; o++) {
      const column = o % to, row = (o - column) / to;
      biasGrad[column]! += grad[o]!;
      for (let i = 0; i < from; i++) {
        weightGrad[column * from + i]! += grad[o]! * inputs[row * from + i]!;
        back[row * from + i]! += grad[o]! * weight.data[column * from + i]!;
      }
    }
    weight.grad = Float32Array.from(weightGrad);
    bias.grad = Float32Array.from(biasGrad);
    return back;
  }
}

/** outputs = weight (inputs − mean) / √(variance + eps) + bias, over the batch in training, else by the running statistics */
class BatchNorm implements Statistics {
  readonly weight: Parameter;
  readonly bias: Parameter;
  runningMean: Float32Array;
  runningVar: Float32Array;
  momentum: number | null = 0.1;
  numBatchesTracked = 0;
  training = true;
  private normal: Float64Array = new Float64Array();
  private scale: number[] = [];

  constructor(readonly width: number) {
    this.weight = new Parameter(new Float32Array(width).fill(1));
    this.bias = new Parameter(new Float32Array(width));
    this.runningMean = new Float32Array(width);
    this.runningVar = new Float32Array(width).fill(1);
  }

  resetRunningStats(): void {
    this.runningMean.fill(0);
    this.runningVar.fill(1);
    this.numBatchesTracked = 0;
  }

  forward(inputs: Float64Array): Float64Array {
    const { width, weight, bias, runningMean, runningVar } = this, rows = inputs.length / width;
    const normal = new Float64Array(inputs.length), outputs = new Float64Array(inputs.length);
    if (this.training) this.numBatchesTracked++;
    const share = this.momentum ?? 1 / this.numBatchesTracked;
    for (let c = 0; c < width; c++) {
      let mean = runningMean[c]!, variance = runningVar[c]!;
      if (this.training) {
        mean = variance = 0;
        for (let r = 0; r < rows; r++) mean += inputs[r * width + c]! / rows;
        for (let r = 0; r < rows; r++) {
          variance += (inputs[r * width + c]! - mean) * (inputs[r * width + c]! - mean) / rows;
        }
        runningMean[c]! += share * (mean - runningMean[c]!);
        runningVar[c]! += share * (variance * rows / (rows - 1) - runningVar[c]!);
      }
      this.scale[c] = 1 / Math.sqrt(variance + 1e-5);
      for (let r = 0; r < rows; r++) {
        const i = r * width + c;
        normal[i] = (inputs[i]! - mean) * this.scale[c]!;
        outputs[i] = normal[i]! * weight.data[c]! + bias.data[c]!;
      }
    }
    this.normal = normal;
    return outputs;
  }

  /** From the outputs' gradient, the parameters' and the inputs', in training. */
  backward(grad: Float64Array): Float64Array {
    const { width, weight, bias } = this, rows = grad.length / width, normal = this.normal;
    const weightGrad = new Float64Array(width), biasGrad = new Float64Array(width);
    grad.forEach((g, i) => {
      weightGrad[i % width]! += g * normal[i]!;
      biasGrad[i % width]! += g;
    });
    weight.grad = Float32Array.from(weightGrad);
    bias.grad = Float32Array.from(biasGrad);
    return grad.map((g, i) => {
      const c = i % width;
      return weight.data[c]! * this.scale[c]! * (g - (biasGrad[c]! + normal[i]! * weightGrad[c]!) / rows);
    });
  }
}

/** The model. */
export class Mlp implements Module {
  readonly first: Linear;
  readonly norm: BatchNorm;
  readonly second: Linear;
  private activations: Float64Array = new Float64Array();

  constructor(readonly inputs: number, readonly hidden: number, readonly outputs: number, random: Random) {
    this.first = new Linear(inputs, hidden, random);
    this.norm = new BatchNorm(hidden);
    this.second = new Linear(hidden, outputs, random);
  }

  *namedParameters(): Generator<[string, Parameter]> {
    for (const layer of ["first", "norm", "second"] as const) {
      yield [`${layer}.weight`, this[layer].weight];
      yield [`${layer}.bias`, this[layer].bias];
    }
  }

  *namedBuffers(): Generator<[string, Float32Array]> {
    yield ["norm.runningMean", this.norm.runningMean];
    yield ["norm.runningVar", this.norm.runningVar];
  }

  *modules(): Generator<object> {
    yield* [this, this.first, this.norm, this.second];
  }

  train(mode = true): this {
    this.norm.training = mode;
    return this;
  }

  eval(): this {
    return this.train(false);
  }

  forward(inputs: Float64Array): Float64Array {
    this.activations = this.norm.forward(this.first.forward(inputs));
    return this.second.forward(this.activations.map((x) => x > 0 ? x : 0));
  }

  /** From the gradient of the last outputs, that of all parameters. */
  propagate(grad: Float64Array): void {
    const back = this.second.backward(grad);
    this.first.backward(this.norm.backward(back.map((g, i) => this.activations[i]! > 0 ? g : 0)));
  }

  /** The mean loss of a batch; sets the gradients of all parameters. */
  backward(inputs: Float64Array, labels: readonly number[]): number {
    const errors = this.forward(inputs).map((x, i) => x - targetAt(i, labels, this.outputs));
    this.propagate(errors.map((error) => 2 * error / labels.length));
    return errors.reduce((sum, error) => sum + error * error, 0) / labels.length;
  }
}

/** What an output should be: 1 for the right species, else 0. */
function targetAt(i: number, labels: readonly number[], outputs: number): number {
  return labels[Math.floor(i / outputs)] === i % outputs ? 1 : 0;
}

/** The mean loss of any model's outputs for flowers, and the share that gets the right species. */
export function score(outputs: Float64Array, { count, labels }: Flowers): { loss: number; accuracy: number } {
  const width = outputs.length / count;
  const loss = outputs.reduce((sum, x, i) => {
    const error = x - targetAt(i, labels, width);
    return sum + error * error;
  }, 0) / count;
  const right = labels.filter((label, row) => {
    const own = outputs.subarray(row * width, (row + 1) * width);
    return own.indexOf(Math.max(...own)) === label;
  });
  return { loss, accuracy: right.length / count };
}
