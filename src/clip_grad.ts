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
  STEP_UNSCALE,
  STEP_WORDS,
} from "../ffi/backend.ts";
import { getNumThreads } from "../ffi/load.ts";
import { larger } from "../ffi/reductions.ts";
import { type DType, DTYPES, isTypedArray, readInto, type TypedArray } from "./dtype.ts";
import { kind, show } from "./errors.ts";
import { listBackend } from "./foreach_plan.ts";
import { CLAMP_RULE, MUL_RULE, SCALE_RULE } from "./foreach_rules.ts";
import { WrittenMemory } from "./memory.ts";
import { checkArray } from "./optim/checks.ts";
import { pow } from "./optim/math.ts";
import { nonNegative } from "./optim/options.ts";
import { scaleArrays } from "./optim/scaling.ts";
import { sparseSquares } from "./optim/sparse_plan.ts";
import { Parameter } from "./parameter.ts";
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

/** The gradients of one dtype that are typed arrays. */
interface Dense {
  readonly dtype: DType;
  readonly arrays: TypedArray[];
}

/** The gradients of a list of parameters, checked. */
class Gradients {
  /** In the order of the library's numbers for dtypes. */
  readonly dense: readonly Dense[];
  readonly sparse: readonly SparseTensor[];
  /** Where the first sparse one is; -1: there is none. */
  readonly firstSparse: number;
  readonly #params: readonly Parameter[];
  readonly #grads: readonly (TypedArray | SparseTensor | null)[];
  readonly #sizes: readonly number[];
  readonly #jobs = new Map<Rule, { jobs: Job[]; hypers: Float64Array }>();

  constructor(readonly backend: Backend, readonly list: readonly unknown[]) {
    const params = this.#params = owners(list);
    const grads = this.#grads = params.map((p) => (p.grad ?? null) as TypedArray | SparseTensor | null); // a DeviceArray is refused
    this.#sizes = params.map((p) => p.size);
    const byType = new Map<DType, TypedArray[]>(), sparse: SparseTensor[] = [], used = new Set<ArrayBufferLike>();
    let apart = true;
    grads.forEach((grad, i) => {
      if (grad === null) return;
      const p = params[i]!, label = () => `grad of params[${i}]`;
      let array: TypedArray;
      if (grad instanceof SparseTensor) {
        checkSparse(grad, p.shape, p.dtype, label);
        sparse.push(grad);
        array = grad.values;
      } else {
        checkArray(grad, p, label);
        const same = byType.get(p.dtype);
        if (same) same.push(grad);
        else byType.set(p.dtype, [grad]);
        array = grad;
      }
      if (array.length === 0) return;
      if (used.has(array.buffer)) apart = false;
      used.add(array.buffer);
    });
    if (!apart) checkMemory(grads);
    this.dense = DTYPES.filter((dtype) => byType.has(dtype)).map((dtype) => ({ dtype, arrays: byType.get(dtype)! }));
    this.sparse = sparse;
    this.firstSparse = grads.findIndex((grad) => grad instanceof SparseTensor);
  }

  /** Whether they are still those of these parameters; sparse ones are looked at anew. */
  fit(backend: Backend, list: readonly unknown[]): boolean {
    const known = this.list, params = this.#params, grads = this.#grads, sizes = this.#sizes;
    if (backend !== this.backend || list.length !== known.length || this.sparse.length > 0) return false;
    for (let i = 0; i < known.length; i++) {
      const p = params[i]!, grad = grads[i];
      if (list[i] !== known[i] || (p.grad ?? null) !== grad) return false;
      if (grad !== null && (grad as TypedArray).length !== sizes[i]) return false;
    }
    return true;
  }

  /** The jobs of a rule whose buffers are all the gradient. */
  jobs(rule: Rule, hyper: number): readonly Job[] {
    let known = this.#jobs.get(rule);
    if (known === undefined) {
      const hypers = new Float64Array(new ArrayBuffer(8));
      const jobs = this.dense.map(({ dtype, arrays }) => {
        const job = this.backend.createJob(rule, dtype, arrays.length);
        arrays.forEach((array, i) => {
          if (array.length === 0) return;
          job.setLength(i, array.length);
          rule.buffers.forEach((_, b) => job.bind(i, b, array));
        });
        job.bindHypers(hypers, 1);
        return job;
      });
      this.#jobs.set(rule, known = { jobs, hypers });
    }
    known.hypers[0] = hyper;
    return known.jobs;
  }
}

/** Throws where two gradients share memory: they would be changed twice. */
function checkMemory(grads: readonly (TypedArray | SparseTensor | null)[]): void {
  const memory = new WrittenMemory();
  grads.forEach((grad, i) => {
    if (grad !== null) memory.add(grad instanceof SparseTensor ? grad.values : grad, `grad of params[${i}]`);
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

const describe = (value: unknown) => typeof value === "object" && value !== null ? kind(value) : show(value);

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
const REDUCTIONS: ReadonlyMap<number, Reduction> = new Map([[1, "sumAbs"], [Infinity, "maxAbs"]]);

const smaller = (a: number, b: number) => (a <= b || a !== a ? a : b);

/** The norm of the norms of all gradients. */
function totalNorm(grads: Gradients, order: number): number {
  const { backend, dense, sparse } = grads;
  if (order === 2) {
    const numbers = new Float64Array(new ArrayBuffer(STEP_WORDS * 8));
    numbers[STEP_UNSCALE] = 1;
    backend.step(grads.jobs(SCALE_RULE, 1), MEASURE, numbers, getNumThreads());
    judge(numbers, sparse.reduce((sum, grad) => sum + sparseSquares(grad, backend), 0));
    return numbers[STEP_NORM]!;
  }
  const lists = [...dense, ...sparse.map((grad) => ({ dtype: grad.dtype, arrays: [grad.coalesce().values] }))];
  const norms = lists.flatMap(({ dtype, arrays }) => {
    const full = arrays.filter((array) => array.length > 0), op = REDUCTIONS.get(order);
    return op === undefined
      ? full.map((array) => normOf(array, dtype, order))
      : backend.reduce(op, dtype, full, null, getNumThreads());
  });
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
 * multiplied each.
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
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`options must be an object, got ${show(options)}`);
  }
  for (const key of Object.keys(options)) {
    if (key !== "normType" && key !== "errorIfNonfinite") {
      throw new TypeError(`clipGradNorm() has no option ${show(key)}; it has normType, errorIfNonfinite`);
    }
  }
  const { normType = 2, errorIfNonfinite = false } = options;
  LIMIT.check(maxNorm, "maxNorm");
  if (typeof normType !== "number") throw new TypeError(`normType must be a number, got ${show(normType)}`);
  if (normType !== normType) throw new RangeError("normType must be a number, got NaN");
  if (typeof errorIfNonfinite !== "boolean") {
    throw new TypeError(`errorIfNonfinite must be a boolean, got ${show(errorIfNonfinite)}`);
  }
  const grads = read(params), norm = totalNorm(grads, normType);
  if (errorIfNonfinite && !Number.isFinite(norm)) {
    throw new RangeError(`the norm of the gradients must be finite where errorIfNonfinite is true, got ${norm}`);
  }
  const coefficient = clipCoefficient(norm, maxNorm);
  if (coefficient === 1) return norm;
  const { backend, sparse } = grads;
  backend.run(grads.jobs(MUL_RULE, coefficient), getNumThreads());
  for (const { dtype, values } of sparse) scaleArrays(backend, dtype, [values], null, coefficient);
  return norm;
}

/**
 * Clips each number of the gradients to `[-clipValue, clipValue]`, in place; a NaN stays one.
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
  grads.backend.run(grads.jobs(CLAMP_RULE, clipValue), getNumThreads());
}
