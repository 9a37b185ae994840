/**
 * The CUDA kernels as they are shipped, run by the interpreter: packs what they take, and launches them.
 *
 * @module
 */

import type { DType, TypedArray } from "../../mod.ts";
import { REDUCE_CHUNK, type Reduction, REDUCTIONS, type Rule } from "../../ffi/backend.ts";
import {
  CUDA_FOLD,
  CUDA_LANES,
  CUDA_STEP,
  kernelNames,
  kernelPtx,
  SUFFIX,
  SUM_SQ_SCALED,
} from "../../ffi/cuda_kernels.ts";
import { fold } from "../../ffi/reductions.ts";
import { DeviceMemory, Module } from "./ptx.ts";

let shipped: Module | null = null;

/** The kernels of the package. */
export function shippedKernels(): Module {
  return shipped ??= new Module(kernelPtx(kernelNames()));
}

/** How a kernel is launched: any numbers give the same bits. */
export interface Launch {
  readonly grid: number;
  readonly block: number;
}

/** A tensor of a rule. */
export interface PtxRow {
  readonly flags: number;
  /** null: the flags do not use it. */
  readonly buffers: readonly (TypedArray | null)[];
}

const chunksOf = (lengths: readonly number[], length: number): BigUint64Array => {
  const chunks: bigint[] = [];
  lengths.forEach((n, row) => {
    for (let first = 0; first < n; first += length) chunks.push(BigInt(row), BigInt(first));
  });
  return BigUint64Array.from(chunks);
};

/** Runs a step of rows that have the same hyperparameters. `length`: the elements of a chunk. */
export function stepByPtx(
  rule: Rule,
  dtype: DType,
  rows: readonly PtxRow[],
  hypers: readonly number[],
  launch: Launch & { readonly length: number },
  factors: readonly [unscale: number, clip: number] = [1, 1],
  kernels: Module = shippedKernels(),
): void {
  const memory = new DeviceMemory(), words = 2 + rule.buffers.length, table = new BigUint64Array(rows.length * words);
  rows.forEach(({ flags, buffers }, r) => {
    table[r * words] = BigInt(buffers[0]!.length);
    table[r * words + 1] = BigInt(flags) << 32n;
    buffers.forEach((array, b) => {
      table[r * words + 2 + b] = array === null ? 0n : memory.map(array, rule.buffers[b]!.endsWith(":rw"));
    });
  });
  const chunks = chunksOf(rows.map((row) => row.buffers[0]!.length), launch.length);
  const bytes = new Uint8Array(CUDA_STEP.bytes), view = new DataView(bytes.buffer);
  view.setBigUint64(CUDA_STEP.table, memory.map(table, false), true);
  view.setBigUint64(CUDA_STEP.chunks, memory.map(chunks, false), true);
  view.setBigUint64(CUDA_STEP.count, BigInt(chunks.length / 2), true);
  view.setUint32(CUDA_STEP.words, words, true);
  view.setUint32(CUDA_STEP.length, launch.length, true);
  view.setFloat64(CUDA_STEP.unscale, factors[0], true);
  view.setFloat64(CUDA_STEP.clip, factors[1], true);
  hypers.forEach((h, k) => view.setFloat64(CUDA_STEP.hypers + 8 * k, h, true));
  kernels.kernel(`${rule.name}_${SUFFIX[dtype]}`).launch(memory, bytes, launch.grid, launch.block);
}

/** One number for each array; of `factor`, the sum of the squares of its products. */
export function reduceByPtx(
  op: Reduction,
  dtype: DType,
  xs: readonly TypedArray[],
  ys: readonly TypedArray[] | null,
  launch: Launch,
  factor?: number,
): number[] {
  const memory = new DeviceMemory(), words = 3, table = new BigUint64Array(xs.length * words);
  xs.forEach((x, r) => {
    table.set([BigInt(x.length), memory.map(x, false), ys ? memory.map(ys[r]!, false) : 0n], r * words);
  });
  const chunks = chunksOf(xs.map((x) => x.length), REDUCE_CHUNK), count = chunks.length / 2;
  const lanes = new Float64Array(16 * count), partials = new Float64Array(count);
  const lanesAt = memory.map(lanes), number = REDUCTIONS.indexOf(op);
  const first = new DataView(new ArrayBuffer(CUDA_LANES.bytes)),
    second = new DataView(new ArrayBuffer(CUDA_FOLD.bytes));
  first.setBigUint64(CUDA_LANES.table, memory.map(table, false), true);
  first.setBigUint64(CUDA_LANES.chunks, memory.map(chunks, false), true);
  first.setBigUint64(CUDA_LANES.count, BigInt(count), true);
  first.setBigUint64(CUDA_LANES.out, lanesAt, true);
  first.setUint32(CUDA_LANES.words, words, true);
  first.setUint32(CUDA_LANES.x, 1, true);
  first.setUint32(CUDA_LANES.y, 2, true);
  first.setUint32(CUDA_LANES.op, factor === undefined ? number : SUM_SQ_SCALED, true);
  first.setFloat64(CUDA_LANES.factor, factor ?? 0, true);
  second.setBigUint64(CUDA_FOLD.lanes, lanesAt, true);
  second.setBigUint64(CUDA_FOLD.out, memory.map(partials), true);
  second.setBigUint64(CUDA_FOLD.count, BigInt(count), true);
  second.setUint32(CUDA_FOLD.op, number, true);
  const kernels = shippedKernels();
  kernels.kernel(`lanes_${SUFFIX[dtype]}`).launch(memory, new Uint8Array(first.buffer), launch.grid, launch.block);
  kernels.kernel("fold").launch(memory, new Uint8Array(second.buffer), launch.grid, launch.block);
  let at = 0;
  return xs.map((x) => {
    const here = Math.ceil(x.length / REDUCE_CHUNK);
    return fold(op, [...partials.subarray(at, at += here)]);
  });
}
