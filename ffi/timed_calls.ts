/**
 * Times what goes through a backend, for {@linkcode profile}: while nobody does, the backend is as it was, and nothing is slower.
 *
 * @module
 */

import { bytesOf, type DType, type TypedArray } from "../src/dtype.ts";
import { type Backend, type Job, MEASURE, type Rule, STEP_NORM, type Tensor, UPDATE } from "./backend.ts";

/**
 * Takes the times of a call, in milliseconds, and the bytes that it has read and written; and what it took to find that out.
 */
export type CallReceiver = (callMs: number, kernelMs: number, bytes: number, ownMs: number) => void;

/** How often the elements of a buffer cross the memory bus: read, written. */
const passes = (buffer: string): number => buffer.endsWith(":rw") ? 2 : 1;

/**
 * {@linkcode Job.bytes}, of a job whose rows are told by functions.
 *
 * @param only the buffer that counts; all of them if it is absent
 */
export function countBytes(
  { buffers }: Rule,
  dtype: DType,
  rows: number,
  length: (row: number) => number,
  isBound: (row: number, buffer: number) => boolean,
  only?: number,
): number {
  const times = buffers.map((buffer, b) => only === undefined || only === b ? passes(buffer) : 0);
  let elements = 0;
  for (let row = 0; row < rows; row++) {
    const n = length(row);
    if (n === 0) continue;
    for (let b = 0; b < times.length; b++) if (isBound(row, b)) elements += n * times[b]!;
  }
  return elements * bytesOf(dtype);
}

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);
const bytesOfJobs = (jobs: readonly Job[], only?: number) => sum(jobs.map((job) => job.bytes?.(only) ?? 0));
const bytesOfArrays = (...arrays: readonly (TypedArray | null)[]) => sum(arrays.map((array) => array?.byteLength ?? 0));

type Timed =
  | "run"
  | "step"
  | "sumRows"
  | "runTensors"
  | "matmul"
  | "combine"
  | "packedProduct"
  | "packedUpdate"
  | "reduce";

/** The bytes of each call, each array counted once for reading and once for writing, however often a cache is asked. */
const BYTES: { readonly [Name in Timed]: (...args: Parameters<Backend[Name]>) => number } = {
  run: (jobs) => bytesOfJobs(jobs),
  step: (jobs, phases, step) => {
    const stopped = (phases & MEASURE) !== 0 && !Number.isFinite(step[STEP_NORM]!);
    return ((phases & MEASURE) === 0 ? 0 : bytesOfJobs(jobs, 1)) +
      ((phases & UPDATE) === 0 || stopped ? 0 : bytesOfJobs(jobs));
  },
  sumRows: (dtype, _out, count, length, _values, _sources, starts) =>
    (starts[count]! + count) * length * bytesOf(dtype),
  runTensors: (rule, _dtype, tensors) => {
    const one = ({ buffers }: Tensor) =>
      sum(buffers.map((array, b) => array.byteLength * passes(rule.buffers[b] ?? "")));
    return sum(tensors.map(one));
  },
  matmul: ({ a, b, add, out }) => bytesOfArrays(a, b, add, out),
  combine: ({ n, x, y, z, out }) => n * out.BYTES_PER_ELEMENT * [x, y, z, out].filter((array) => array !== null).length,
  packedProduct: (_n, matrix, v, out) => bytesOfArrays(matrix, v, out),
  packedUpdate: (_n, matrix, u, s) => bytesOfArrays(matrix, matrix, u, s),
  reduce: (_op, _dtype, xs, ys) => bytesOfArrays(...xs, ...(ys ?? [])),
};

/**
 * Times a backend's calls from now on. Calls inside of a call count as part of it.
 *
 * @param receive is told of each call
 * @returns ends it
 */
export function timeCalls(backend: Backend, receive: CallReceiver): () => void {
  const own = backend as unknown as Record<string, unknown>, undo: (() => void)[] = [];
  let inside = false;
  backend.kernelTime?.(true);
  for (const [name, bytes] of Object.entries(BYTES) as [Timed, (...args: unknown[]) => number][]) {
    const call = own[name] as (...args: unknown[]) => unknown, wasOwn = Object.hasOwn(own, name);
    undo.unshift(() => { // the last one first: so engines find the way back to the form that the object had
      if (wasOwn) own[name] = call;
      else delete own[name];
    });
    own[name] = (...args: unknown[]) => {
      if (inside) return call.apply(backend, args);
      inside = true;
      const start = performance.now();
      try {
        const result = call.apply(backend, args), end = performance.now(), ms = end - start;
        const kernelMs = backend.kernelTime?.(true) ?? 0, moved = bytes(...args);
        // 0: nobody tells; the call counts as a whole
        receive(ms, kernelMs > 0 ? Math.min(kernelMs, ms) : ms, moved, performance.now() - end);
        return result;
      } finally {
        inside = false;
      }
    };
  }
  return () => {
    for (const step of undo) step();
    backend.kernelTime?.(false);
  };
}
