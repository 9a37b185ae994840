/**
 * Clipping of gradients, in place.
 *
 * torch source: `torch/nn/utils/clip_grad.py`.
 *
 * @module
 */

import {
  type Backend,
  clipCoefficient,
  type Job,
  judge,
  MEASURE,
  type Reduction,
  type Rule,
  STEP_NORM,
  STEP_SUMS,
  STEP_UNSCALE,
  STEP_WORDS,
} from "../ffi/backend.ts";
import { getNumThreads } from "../ffi/load.ts";
import { larger } from "../ffi/reductions.ts";
import { DeviceArray } from "./cuda/device_array.ts";
import { memorySpan, onHost } from "./cuda/transfer.ts";
import { type DType, DTYPES, isTypedArray, readInto, type TypedArray } from "./dtype.ts";
import { checkKeys, describe, show } from "./errors.ts";
import { DeviceRows } from "./foreach_device.ts";
import { listBackend } from "./foreach_plan.ts";
import { CLAMP_RULE, MUL_RULE, SCALE_RULE } from "./foreach_rules.ts";
import { WrittenMemory } from "./memory.ts";
import { checkArray, checkDeviceArray } from "./optim/checks.ts";
import { pow } from "./optim/math.ts";
import { nonNegative } from "./optim/options.ts";
import { scaleArrays } from "./optim/scaling.ts";
import { sparseSquares } from "./optim/sparse_plan.ts";
import { moveCount, Parameter } from "./parameter.ts";
import { checkSparse, SparseTensor } from "./sparse_tensor.ts";

/** Whose gradients are clipped: Parameters or typed arrays, or a single one. */
export type GradOwners = Parameter | TypedArray | Iterable<Parameter | TypedArray>;

/** Options of {@linkcode clipGradNorm}. */
export interface ClipGradNormOptions {
  /** The order of the norm: any number; default 2. Infinity: the largest magnitude. 0: how many gradients are not all zero. */
  normType?: number;
  /** Throws where the norm is NaN or infinite, before anything is changed; default false. */
  errorIfNonfinite?: boolean;
}

/** The gradients of one dtype that are not sparse, in order. */
interface Dense {
  readonly dtype: DType;
  readonly arrays: (TypedArray | DeviceArray)[];
}

type Gradient = TypedArray | SparseTensor | DeviceArray | null;

const isHere = (array: TypedArray | DeviceArray): array is TypedArray => !(array instanceof DeviceArray);

/** The jobs of a rule over some gradients. */
interface Jobs {
  readonly jobs: Job[];
  /** Those on devices; null: there are none. */
  readonly away: DeviceRows | null;
  readonly hypers: Float64Array;
}

/** The gradients of a list of parameters, checked. */
class Gradients {
  /** In the order of the library's numbers for dtypes. */
  readonly dense: readonly Dense[];
  readonly sparse: readonly SparseTensor[];
  /** Those on devices that have elements, in the order in which they stand in `dense`. */
  readonly away: readonly DeviceArray[];
  /** Where the first sparse one is; -1: there is none. */
  readonly firstSparse: number;
  readonly #params: readonly Parameter[];
  readonly #grads: readonly Gradient[];
  readonly #sizes: readonly number[];
  readonly #jobs = new Map<Rule, Jobs>();
  #moves = moveCount();

  constructor(readonly backend: Backend, readonly list: readonly unknown[]) {
    const params = this.#params = owners(list);
    const grads = this.#grads = params.map((p) => p.grad ?? null);
    this.#sizes = params.map((p) => p.size);
    const byType = new Map<DType, (TypedArray | DeviceArray)[]>(),
      sparse: SparseTensor[] = [],
      used = new Set<object>();
    let apart = true;
    grads.forEach((grad, i) => {
      if (grad === null) return;
      const p = params[i]!, label = () => `grad of params[${i}]`;
      let array: TypedArray | DeviceArray;
      if (grad instanceof SparseTensor) {
        checkSparse(grad, p.shape, p.dtype, label);
        sparse.push(grad);
        array = grad.values;
      } else {
        if (grad instanceof DeviceArray && p.device !== "cpu") checkDeviceArray(grad, p, label);
        else checkArray(grad, p, label);
        const same = byType.get(p.dtype);
        if (same) same.push(grad);
        else byType.set(p.dtype, [grad]);
        array = grad;
      }
      if (array.length === 0) return;
      const { buffer } = memorySpan(array);
      if (used.has(buffer)) apart = false;
      used.add(buffer);
    });
    if (!apart) checkMemory(grads);
    this.dense = DTYPES.filter((dtype) => byType.has(dtype)).map((dtype) => ({ dtype, arrays: byType.get(dtype)! }));
    this.away = this.dense.flatMap(({ arrays }) =>
      arrays.filter((array) => array instanceof DeviceArray).filter(isFull)
    );
    this.sparse = sparse;
    this.firstSparse = grads.findIndex((grad) => grad instanceof SparseTensor);
  }

  /** Whether they are still those of these parameters; sparse ones are looked at anew. */
  fit(backend: Backend, list: readonly unknown[]): boolean {
    const known = this.list, params = this.#params, grads = this.#grads, sizes = this.#sizes;
    if (backend !== this.backend || list.length !== known.length || this.sparse.length > 0) return false;
    if (this.#moves !== moveCount()) {
      const isApart = (p: Parameter, i: number) => grads[i] instanceof DeviceArray && grads[i].device !== p.device;
      if (params.some(isApart)) return false;
      this.#moves = moveCount();
    }
    for (let i = 0; i < known.length; i++) {
      const p = params[i]!, grad = grads[i];
      if (list[i] !== known[i] || (p.grad ?? null) !== grad) return false;
      if (grad !== null && (grad as TypedArray).length !== sizes[i]) return false;
    }
    return this.away.length === 0 || !this.away.some((array) => array.disposed);
  }

  /** The jobs of a rule whose buffers are all the gradient. */
  #jobsOf(rule: Rule, hyper: number): Jobs {
    let known = this.#jobs.get(rule);
    if (known === undefined) {
      const hypers = new Float64Array(new ArrayBuffer(8));
      const jobs = this.dense.map(({ dtype, arrays }) => {
        const job = this.backend.createJob(rule, dtype, arrays.length);
        arrays.forEach((array, i) => {
          if (array.length === 0 || !isHere(array)) return;
          job.setLength(i, array.length);
          rule.buffers.forEach((_, b) => job.bind(i, b, array));
        });
        job.bindHypers(hypers, 1);
        return job;
      });
      const { away } = this;
      const rows = away.length > 0 ? new DeviceRows(rule, 0, away.map((array) => [array]), hypers) : null;
      this.#jobs.set(rule, known = { jobs, away: rows, hypers });
    }
    known.hypers[0] = hyper;
    return known;
  }

  /** Changes all gradients that are not sparse by a rule, in place. */
  run(rule: Rule, hyper: number): void {
    const { jobs, away } = this.#jobsOf(rule, hyper), threads = getNumThreads();
    away?.prepare();
    away?.launch();
    this.backend.run(jobs, threads);
  }

  /** Adds the squares of all gradients that are not sparse to the sums of a step, in order. */
  measure(numbers: Float64Array): void {
    numbers[STEP_UNSCALE] = 1;
    if (this.away.length === 0) {
      this.backend.step(this.#jobsOf(SCALE_RULE, 1).jobs, MEASURE, numbers, getNumThreads());
      return;
    }
    const sums = this.reduce("sumSq"); // one after the other, as a step adds them
    for (const { dtype, values } of sums) {
      for (const value of values) numbers[STEP_SUMS + DTYPES.indexOf(dtype)]! += value;
    }
  }

  /** A number for each gradient that is neither sparse nor without elements, by dtype and in order. */
  reduce(op: Exclude<Reduction, "dot">): { dtype: DType; values: number[] }[] {
    const rows = this.away.length > 0 ? this.#jobsOf(MUL_RULE, 1).away! : null;
    rows?.prepare();
    const away = rows?.reduce(op) ?? [];
    let next = 0;
    return this.dense.map(({ dtype, arrays }) => {
      const full = arrays.filter(isFull);
      const here = this.backend.reduce(op, dtype, full.filter(isHere), null, getNumThreads()).values();
      return { dtype, values: full.map((array) => isHere(array) ? here.next().value! : away[next++]!) };
    });
  }

  /** Ends a call: what is kept on devices from the second one on is given back after the first. */
  endCall(): void {
    if (this.away.length === 0) return;
    for (const { away } of this.#jobs.values()) away?.endCall();
  }

  /** Gives back what it has on devices. */
  dispose(): void {
    for (const { away } of this.#jobs.values()) away?.dispose();
  }
}

const isFull = ({ length }: { length: number }): boolean => length > 0;

/** Throws where two gradients share memory: they would be changed twice. */
function checkMemory(grads: readonly Gradient[]): void {
  const memory = new WrittenMemory();
  grads.forEach((grad, i) => {
    if (grad === null) return;
    memory.add(memorySpan(grad instanceof SparseTensor ? grad.values : grad), `grad of params[${i}]`);
  });
  memory.check();
}

/** What was found of a list, kept until the next call. */
const known = new WeakMap<readonly unknown[], Gradients>();

function read(params: GradOwners): Gradients {
  const backend = listBackend();
  if (Array.isArray(params)) {
    const before = known.get(params);
    if (before?.fit(backend, params)) return before;
    before?.dispose();
    const found = new Gradients(backend, [...params]);
    known.set(params, found);
    return found;
  }
  if (params instanceof Parameter || isTypedArray(params)) return new Gradients(backend, [params]);
  if (typeof (params as Partial<Iterable<unknown>> | null | undefined)?.[Symbol.iterator] !== "function") {
    throw new TypeError(`params must be Parameters or typed arrays, got ${describe(params)}`);
  }
  return new Gradients(backend, [...params]);
}

function owners(list: readonly unknown[]): Parameter[] {
  return list.map((entry, i) => {
    if (!(entry instanceof Parameter) && !isTypedArray(entry)) {
      throw new TypeError(`params[${i}] must be a Parameter or a typed array, got ${describe(entry)}`);
    }
    return Parameter.of(entry);
  });
}

/** What norms and values may be clipped to. */
const LIMIT = nonNegative(0);

/** The norms that the backends know. */
const REDUCTIONS: ReadonlyMap<number, "sumAbs" | "maxAbs"> = new Map([[1, "sumAbs"], [Infinity, "maxAbs"]]);

const smaller = (a: number, b: number) => (a <= b || a !== a ? a : b);

/** The norm of the norms of all gradients. */
function totalNorm(grads: Gradients, order: number): number {
  const { backend, dense, sparse } = grads;
  if (order === 2) {
    const numbers = new Float64Array(new ArrayBuffer(STEP_WORDS * 8));
    grads.measure(numbers);
    judge(numbers, sparse.reduce((sum, grad) => sum + sparseSquares(grad, backend), 0));
    return numbers[STEP_NORM]!;
  }
  const op = REDUCTIONS.get(order);
  const norms = op === undefined
    ? dense.flatMap(({ dtype, arrays }) => arrays.filter(isFull).map((array) => normOf(onHost(array), dtype, order)))
    : grads.reduce(op).flatMap(({ values }) => values);
  for (const grad of sparse) {
    const { dtype } = grad, { values } = grad.coalesce();
    if (values.length === 0) continue;
    norms.push(
      op === undefined ? normOf(values, dtype, order) : backend.reduce(op, dtype, [values], null, getNumThreads())[0]!,
    );
  }
  return combine(norms, order);
}

/** Elements that are read at a time. */
const BLOCK = 4096;

/** The norm of one tensor, of an order that no backend knows. */
function normOf(array: TypedArray, dtype: DType, order: number): number {
  const block = new Float64Array(Math.min(BLOCK, array.length));
  let sum = order === -Infinity ? Infinity : 0;
  for (let from = 0; from < array.length; from += BLOCK) {
    const n = Math.min(BLOCK, array.length - from);
    readInto(block, array, dtype, from, n);
    for (let i = 0; i < n; i++) sum = add(sum, Math.abs(block[i]!), order);
  }
  return root(sum, order);
}

function combine(norms: readonly number[], order: number): number {
  if (norms.length === 0) return 0;
  return root(norms.reduce((sum, norm) => add(sum, norm, order), order === -Infinity ? Infinity : 0), order);
}

function add(sum: number, x: number, order: number): number {
  switch (order) {
    case Infinity:
      return larger(sum, x);
    case -Infinity:
      return smaller(sum, x);
    case 0:
      return sum + (x === 0 ? 0 : 1);
    default:
      return sum + pow(x, order);
  }
}

function root(sum: number, order: number): number {
  return order === 0 || order === 1 || !Number.isFinite(order) ? sum : pow(sum, 1 / order);
}

/**
 * Clips the gradients of parameters together: where the norm of them all is above `maxNorm`, every gradient is multiplied, in
 * place, by `maxNorm / (norm + 1e-6)`.
 *
 * Norms of order 1, 2 and Infinity are found in one call into compiled code, in float64 and in an order that follows from the
 * sizes alone: the same bits with any number of threads, on any processor, and in TypeScript. Gradients that are null, and those
 * without elements, are passed over. Where the norm is infinite all gradients become 0 (infinite ones NaN), where it is NaN
 * all become NaN: `errorIfNonfinite` throws instead. Of a sparse gradient the entries of a row are added up for the norm, and
 * multiplied each. Gradients on a device are measured and multiplied there, with the same bits (for other orders than 1, 2 and
 * Infinity they are downloaded to be measured); one in the host's memory stays there, also where its parameter is on a device.
 *
 * torch source: `torch.nn.utils.clip_grad_norm_`. Differences: norm and coefficient are float64, the coefficient is rounded to
 * the arithmetic type of the gradient's dtype (torch rounds norms to the dtype: a float32 norm can overflow there); sparse
 * gradients are taken; gradients that share memory, which would be multiplied twice, are refused, and so is a `maxNorm` below 0.
 *
 * @param params Parameters or typed arrays, or a single one
 * @param maxNorm the norm that is allowed, >= 0
 * @param options `normType`: the order, default 2; `errorIfNonfinite`: default false
 * @returns the norm of all gradients as they were; 0 if there are none
 * @throws {TypeError} for the wrong kind of thing, an unknown option
 * @throws {RangeError} for a number out of range, gradients that do not fit or share memory, a norm that is not finite
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { clipGradNorm, Parameter } from "@flatstep/optim";
 *
 * const p = new Parameter([0, 0]);
 * p.grad = Float32Array.of(3, 4);
 * assert(clipGradNorm([p], 2.5) === 5);
 * assert(Math.abs(p.grad[0]! - 1.5) < 1e-6);
 * ```
 */
export function clipGradNorm(params: GradOwners, maxNorm: number, options: ClipGradNormOptions = {}): number {
  checkKeys(options, ["normType", "errorIfNonfinite"], "clipGradNorm()");
  const { normType = 2, errorIfNonfinite = false } = options;
  LIMIT.check(maxNorm, "maxNorm");
  if (typeof normType !== "number") throw new TypeError(`normType must be a number, got ${show(normType)}`);
  if (normType !== normType) throw new RangeError("normType must be a number, got NaN");
  if (typeof errorIfNonfinite !== "boolean") {
    throw new TypeError(`errorIfNonfinite must be a boolean, got ${show(errorIfNonfinite)}`);
  }
  const grads = read(params);
  try {
    const norm = totalNorm(grads, normType);
    if (errorIfNonfinite && !Number.isFinite(norm)) {
      throw new RangeError(`the norm of the gradients must be finite where errorIfNonfinite is true, got ${norm}`);
    }
    const coefficient = clipCoefficient(norm, maxNorm);
    if (coefficient === 1) return norm;
    const { backend, sparse } = grads;
    grads.run(MUL_RULE, coefficient);
    for (const { dtype, values } of sparse) scaleArrays(backend, dtype, [values], null, coefficient);
    return norm;
  } finally {
    grads.endCall();
  }
}

/**
 * Clips each number of the gradients to `[-clipValue, clipValue]`, in place and wherever they are; a NaN stays one.
 *
 * torch source: `torch.nn.utils.clip_grad_value_`. Differences: a `clipValue` below 0, gradients that share memory, and sparse
 * gradients, whose entries may have to be added up first, are refused.
 *
 * @param params Parameters or typed arrays, or a single one; those without a gradient are passed over
 * @param clipValue the largest magnitude that is allowed, >= 0
 * @throws {TypeError} for the wrong kind of thing
 * @throws {RangeError} for a number out of range, gradients that do not fit or share memory
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { clipGradValue, Parameter } from "@flatstep/optim";
 *
 * const p = new Parameter([0, 0]);
 * p.grad = Float32Array.of(3, -0.25);
 * clipGradValue([p], 0.5);
 * assert(p.grad.join() === "0.5,-0.25");
 * ```
 */
export function clipGradValue(params: GradOwners, clipValue: number): void {
  LIMIT.check(clipValue, "clipValue");
  const grads = read(params);
  if (grads.firstSparse >= 0) {
    throw new TypeError(
      `clipGradValue() does not support sparse gradients, got one as grad of params[${grads.firstSparse}]`,
    );
  }
  try {
    grads.run(CLAMP_RULE, clipValue);
  } finally {
    grads.endCall();
  }
}
