/**
 * Small models for the tests of averages and batch norms.
 *
 * @module
 */

import { type DType, foreach, type Module, Parameter, type TypedArray } from "../../mod.ts";
import { typed } from "./golden.ts";

/** A model that is nothing but its tensors. */
export class TinyModel implements Module {
  training = true;
  constructor(
    readonly params: [string, Parameter][],
    readonly buffers: [string, Parameter | TypedArray | Int32Array | BigInt64Array][] = [],
  ) {}
  *namedParameters(): Iterable<[string, Parameter]> {
    yield* this.params;
  }
  *namedBuffers(): Iterable<[string, Parameter | TypedArray | Int32Array | BigInt64Array]> {
    yield* this.buffers;
  }
  forward(x: unknown): unknown {
    return x;
  }
}

/** A model of one parameter "w", in float32. */
export function modelOf(...values: number[]): TinyModel & { w: Parameter } {
  const w = new Parameter(values);
  return Object.assign(new TinyModel([["w", w]]), { w });
}

/** Rows of numbers. */
export interface Batch {
  readonly rows: number;
  readonly cols: number;
  readonly data: Float64Array;
}

/** A layer. */
export abstract class Layer {
  training = true;
  /** What it computes. */
  abstract forward(x: Batch): Batch;
  /** Sets its mode. */
  train(mode = true): this {
    this.training = mode;
    return this;
  }
}

/** A golden layer's numbers. */
export interface LayerSpec {
  type: "Linear" | "BatchNorm1d" | "ReLU";
  out: number;
  weight: number[];
  bias: number[];
  runningMean: number[];
  runningVar: number[];
  momentum: number | null;
  numBatchesTracked: number;
  eps: number;
}

class Linear extends Layer {
  constructor(readonly spec: LayerSpec, readonly round: (x: number) => number) {
    super();
  }
  forward(x: Batch): Batch {
    const { out, weight, bias } = this.spec, data = new Float64Array(x.rows * out);
    for (let r = 0; r < x.rows; r++) {
      for (let o = 0; o < out; o++) {
        let sum = bias[o]!;
        for (let k = 0; k < x.cols; k++) sum += weight[o * x.cols + k]! * x.data[r * x.cols + k]!;
        data[r * out + o] = this.round(sum);
      }
    }
    return { rows: x.rows, cols: out, data };
  }
}

class ReLU extends Layer {
  forward(x: Batch): Batch {
    return { ...x, data: x.data.map((v) => Math.max(v, 0)) };
  }
}

/** A batch norm, as updateBn wants it. */
export class BatchNorm1d extends Layer {
  runningMean: TypedArray;
  runningVar: TypedArray;
  momentum: number | null;
  numBatchesTracked: number;
  constructor(readonly spec: LayerSpec, dtype: DType, readonly round: (x: number) => number) {
    super();
    this.runningMean = typed(spec.runningMean, dtype);
    this.runningVar = typed(spec.runningVar, dtype);
    this.momentum = spec.momentum;
    this.numBatchesTracked = spec.numBatchesTracked;
  }
  resetRunningStats(): void {
    foreach.zero_([this.runningMean]);
    this.runningVar.fill(1);
    this.numBatchesTracked = 0;
  }
  forward(x: Batch): Batch {
    const data = new Float64Array(x.data.length), { weight, bias, eps } = this.spec;
    if (this.training) this.numBatchesTracked++;
    const factor = this.momentum ?? 1 / this.numBatchesTracked;
    for (let k = 0; k < x.cols; k++) {
      let mean = this.runningMean[k]!, variance = this.runningVar[k]!;
      if (this.training) {
        mean = variance = 0;
        for (let r = 0; r < x.rows; r++) mean += x.data[r * x.cols + k]! / x.rows;
        for (let r = 0; r < x.rows; r++) variance += (x.data[r * x.cols + k]! - mean) ** 2 / x.rows;
        this.runningMean[k]! += factor * (mean - this.runningMean[k]!);
        this.runningVar[k]! += factor * (variance * x.rows / (x.rows - 1) - this.runningVar[k]!);
      }
      for (let r = 0; r < x.rows; r++) {
        const i = r * x.cols + k;
        data[i] = this.round((x.data[i]! - mean) / Math.sqrt(variance + eps) * weight[k]! + bias[k]!);
      }
    }
    return { ...x, data };
  }
}

/** Layers, one after the other. */
export class Sequential extends Layer {
  calls = 0;
  constructor(readonly layers: Layer[]) {
    super();
  }
  *namedParameters(): Iterable<[string, Parameter]> {}
  *namedBuffers(): Iterable<[string, TypedArray]> {
    for (const [i, layer] of this.layers.entries()) {
      if (!(layer instanceof BatchNorm1d)) continue;
      yield [`${i}.runningMean`, layer.runningMean];
      yield [`${i}.runningVar`, layer.runningVar];
    }
  }
  *modules(): Iterable<unknown> {
    yield this;
    yield* this.layers;
  }
  forward(x: Batch): Batch {
    this.calls++;
    return this.layers.reduce((v, layer) => layer.forward(v), x);
  }
  override train(mode = true): this {
    for (const layer of this.layers) layer.train(mode);
    return super.train(mode);
  }
}

/** A golden net. */
export function makeNet(layers: readonly LayerSpec[], dtype: DType): Sequential {
  const round = dtype === "float32" ? Math.fround : (x: number) => x;
  return new Sequential(layers.map((spec) => {
    if (spec.type === "Linear") return new Linear(spec, round);
    return spec.type === "ReLU" ? new ReLU() : new BatchNorm1d(spec, dtype, round);
  }));
}
