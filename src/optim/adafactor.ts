/**
 * Adafactor.
 *
 * @module
 */

import { type Numbers, REDUCE_CHUNK, type TensorRule, type TensorShape } from "../../ffi/backend.ts";
import { jsBackend } from "../../ffi/js.ts";
import { bestBackend, compiledBackend } from "../../ffi/load.ts";
import { Lanes, sumOfSquares } from "../../ffi/tensors.ts";
import type { DType } from "../dtype.ts";
import { show } from "../errors.ts";
import { pow } from "./math.ts";
import { boolean, choice, nonNegative, type OptionSpec, type Schema } from "./options.ts";
import type { ParamGroup, ParamsInput } from "./param_group.ts";
import { type TensorUpdate, TensorwiseOptimizer } from "./tensorwise.ts";

/** The options of {@linkcode Adafactor}. */
export interface AdafactorOptions {
  /** The largest relative step size, and the rate of the weight decay, >= 0; default 1e-2. */
  lr?: number;
  /** What is new in the averages weighs t^beta2Decay in step t, <= 0; default -0.8. */
  beta2Decay?: number;
  /**
   * The least root of the variance, and of its mean (>= 0, or null: the machine epsilon of the parameter's own dtype), and
   * the least size of a parameter, >= 0; default [null, 1e-3].
   */
  eps?: readonly [number | null, number];
  /** Updates whose root mean square is larger are made as small, >= 1; default 1. */
  d?: number;
  /** Weight decay, >= 0; default 0. The parameter shrinks by lr * weightDecay at each step. */
  weightDecay?: number;
  /** Maximizes the objective instead of minimizing it; default false. */
  maximize?: boolean;
  /** true: compiled code, or an error where there is none; false: TypeScript; default null: let the library choose. */
  foreach?: boolean | null;
}

type Group = ParamGroup<AdafactorOptions>;

function within(fallback: number, holds: (x: number) => boolean, range: string): OptionSpec<number> {
  return {
    default: fallback,
    check(value, name) {
      if (typeof value !== "number") throw new TypeError(`${name} must be a number, got ${show(value)}`);
      if (!holds(value)) throw new RangeError(`${name} must be ${range}, got ${show(value)}`);
    },
  };
}

const epsilons: OptionSpec<readonly [number | null, number]> = {
  default: [null, 1e-3],
  check(value, name) {
    if (!Array.isArray(value) || value.length !== 2) {
      throw new TypeError(`${name} must be null or a number, and a number, got ${show(value)}`);
    }
    value.forEach((x: unknown, i) => {
      if (x === null && i === 0) return;
      const allowed = i === 0 ? "null or >= 0" : ">= 0";
      if (typeof x !== "number") throw new TypeError(`${name}[${i}] must be ${allowed}, got ${show(x)}`);
      if (!(x >= 0)) throw new RangeError(`${name}[${i}] must be ${allowed}, got ${show(x)}`);
    });
  },
};

/** The options of Adafactor. */
export const ADAFACTOR_SCHEMA: Schema<AdafactorOptions> = {
  lr: nonNegative(1e-2),
  beta2Decay: within(-0.8, (x) => x <= 0, "<= 0"),
  eps: epsilons,
  d: within(1, (x) => x >= 1, ">= 1"),
  weightDecay: nonNegative(0),
  maximize: boolean(false),
  foreach: choice,
};

const TILE_ROWS = 64, TILE_COLUMNS = 2048; // as in csrc/tensor.h
const EPSILON: Record<DType, number> = { float32: 2 ** -23, float64: 2 ** -52, float16: 2 ** -10, bfloat16: 2 ** -7 };
/** The smallest normal number of the arithmetic type: what eps[0] is at least, so that nothing is divided by zero. */
const LEAST: Record<DType, number> = {
  float32: 2 ** -126,
  float64: 2 ** -1022,
  float16: 2 ** -126,
  bfloat16: 2 ** -126,
};

const lerp = (a: number, b: number, weight: number): number =>
  weight < 0.5 ? a + weight * (b - a) : b - (1 - weight) * (b - a);

/** Calls `each` for every tile of a matrix of `rows` and `columns`, row blocks outermost. */
function tiles(
  { rows, columns }: TensorShape,
  each: (row: number, rowEnd: number, column: number, columnEnd: number) => void,
): void {
  for (let row = 0; row < rows; row += TILE_ROWS) {
    for (let column = 0; column < columns; column += TILE_COLUMNS) {
      each(row, Math.min(row + TILE_ROWS, rows), column, Math.min(column + TILE_COLUMNS, columns));
    }
  }
}

/** The step size: the parameter's size before the step, and that of its change, say how far it goes. */
function stepSize(param: number, change: number, n: number, h: readonly number[]): number {
  const [, , , , eps2, rho, clip] = h as Eight;
  const size = Math.sqrt(param / n), by = Math.sqrt(change / n) / clip;
  return (size > eps2 ? size : eps2) * rho / (by > 1 ? by : 1);
}

/** csrc/adafactor.c for matrices. */
function stepMatrices(
  round: (x: number) => number,
  shape: TensorShape,
  h: readonly number[],
  [param, grad, rowVar, colVar]: readonly Numbers[] & Four,
): void {
  const { batches, rows, columns } = shape, [sign, weight, eps1, limit, , , , decay] = h as Eight;
  const most = grad instanceof Float64Array ? Number.MAX_VALUE : 3.4028234663852886e38, atMost = round(limit);
  const a = new Float64Array(batches * rows), b = grad.slice(0, batches * columns).fill(0), lanes = new Lanes();
  const sums = new Float64Array(columns), block = new Float64Array(columns);
  let change = 0;
  const size = sumOfSquares(param);
  for (let m = 0; m < batches; m++) {
    const from = m * rows * columns, own = a.subarray(m * rows, (m + 1) * rows), factors = b.subarray(m * columns);
    sums.fill(0);
    for (let row = 0; row < rows; row += TILE_ROWS) { // a block's columns, then all of them
      block.fill(0);
      for (let i = row; i < row + TILE_ROWS && i < rows; i++) {
        for (let j = 0; j < columns; j++) {
          const g = grad[from + i * columns + j]!;
          block[j]! += g * g;
        }
      }
      for (let j = 0; j < columns; j++) sums[j] = sums[j]! + block[j]!;
    }
    let sum = 0;
    for (let i = 0; i < rows; i++) { // a row's strips
      let squares = 0;
      for (let column = 0; column < columns; column += TILE_COLUMNS) {
        for (let j = column; j < column + TILE_COLUMNS && j < columns; j++) {
          lanes.add(j - column, grad[from + i * columns + j]!);
        }
        squares += lanes.total();
      }
      own[i] = round(lerp(rowVar[m * rows + i]!, squares / columns, weight));
      rowVar[m * rows + i] = own[i]!;
      sum += own[i]!;
    }
    const average = sum / rows, mean = average >= eps1 || average !== average ? average : eps1;
    for (let i = 0; i < rows; i++) own[i] = own[i] === 0 ? 1e300 : Math.sqrt(mean / own[i]!);
    for (let j = 0; j < columns; j++) {
      const now = round(lerp(colVar[m * columns + j]!, sums[j]! / rows, weight));
      colVar[m * columns + j] = now;
      factors[j] = now === 0 ? most : 1 / Math.sqrt(now);
    }
    tiles(shape, (row, rowEnd, column, columnEnd) => {
      for (let i = row; i < rowEnd; i++) {
        const r = round(own[i]!);
        for (let j = column; j < columnEnd; j++) {
          const scale = round(r * factors[j]!), g = grad[from + i * columns + j]!;
          lanes.add(j - column, round(g * (scale > atMost ? atMost : scale)));
        }
      }
      change += lanes.total();
    });
  }
  const step = stepSize(size, change, param.length, h), by = round(decay);
  const capped = round(limit * step > most ? most : limit * step);
  for (let m = 0, at = 0; m < batches; m++) {
    for (let i = 0; i < rows; i++) {
      const r = round(a[m * rows + i]! * step);
      for (let j = 0; j < columns; j++, at++) {
        const scale = round(r * b[m * columns + j]!), g = sign * grad[at]!;
        param[at] = round(round(by * param[at]!) - round(g * (scale > capped ? capped : scale)));
      }
    }
  }
}

/** csrc/adafactor.c for vectors. */
function stepVector(
  round: (x: number) => number,
  h: readonly number[],
  [param, grad, variance]: readonly Numbers[] & Three,
): void {
  const [sign, weight, , , , , , decay] = h as Eight, n = param.length, by = round(decay);
  const near = round(weight),
    rest = round(1 - weight),
    least = round(h[2]!),
    size = sumOfSquares(param),
    lanes = new Lanes();
  const update = new Float64Array(n);
  let change = 0;
  for (let i = 0; i < n; i++) {
    const g = grad[i]!, square = round(g * g), before = variance[i]!, up = round(square - before);
    const now = near < 0.5 ? round(before + round(near * up)) : round(square - round(rest * up));
    const root = round(Math.sqrt(now));
    variance[i] = now;
    update[i] = round(g / (root >= least || root !== root ? root : least));
    lanes.add(i % REDUCE_CHUNK, update[i]!);
    if (i % REDUCE_CHUNK === REDUCE_CHUNK - 1 || i === n - 1) change += lanes.total();
  }
  const step = round(sign * stepSize(size, change, n, h));
  for (let i = 0; i < n; i++) param[i] = round(round(by * param[i]!) - round(step * update[i]!));
}

type Three = readonly [Numbers, Numbers, Numbers];
type Four = readonly [Numbers, Numbers, Numbers, Numbers];
type Eight = [number, number, number, number, number, number, number, number];

/** csrc/adafactor.c in TypeScript. */
export const ADAFACTOR_RULE: TensorRule = {
  name: "adafactor",
  buffers: ["param:rw", "grad:r", "first:rw", "second:rw"],
  hypers: ["sign", "weight", "eps1", "limit", "eps2", "rho", "clip", "decay"],
  body(round, shape, h, buffers) {
    if (shape.batches === 0) stepVector(round, h, buffers as unknown as Three);
    else stepMatrices(round, shape, h, buffers as unknown as Four);
  },
};

/** How a group of Adafactor's becomes the rule's inputs. */
export const ADAFACTOR_UPDATE: TensorUpdate<Group> = {
  name: "Adafactor",
  rule: ADAFACTOR_RULE,
  counted: true,
  shape({ shape, size }) {
    if (shape.length < 2) return { batches: 0, rows: 1, columns: size };
    const rows = shape.at(-2)!, columns = shape.at(-1)!;
    return size === 0 ? { batches: 1, rows: 0, columns: 0 } : { batches: size / rows / columns, rows, columns };
  },
  tensors({ shape, size }) {
    if (shape.length < 2) return [["variance", size]];
    const product = (lengths: readonly number[]) => lengths.reduce((x, y) => x * y, 1);
    return [["rowVar", product(shape.slice(0, -1))], ["colVar", product(shape.toSpliced(-2, 1))]];
  },
  hypers({ lr, beta2Decay, eps, d, weightDecay, maximize }, { dtype }, step) {
    const eps1 = Math.max(eps[0] ?? EPSILON[dtype], LEAST[dtype]), most = 1 / Math.sqrt(step);
    return [
      maximize ? -1 : 1,
      pow(step, beta2Decay),
      eps1,
      1 / eps1,
      eps[1],
      most < lr ? most : lr,
      d,
      weightDecay === 0 ? 1 : 1 - lr * weightDecay, // lr may be infinite
    ];
  },
  backend({ foreach }) {
    if (foreach === true) return compiledBackend("foreach is true");
    return foreach === false ? jsBackend : bestBackend();
  },
};

/**
 * Adafactor: divides the gradient by the root of an average of its square, of which only the means of rows and columns are
 * kept; steps are relative to the size of the parameter.
 *
 * ```text
 * g = grad (negated with maximize)     w = t^beta2Decay     alpha = max(eps[1], RMS(p)) min(lr, 1 / sqrt(t))
 * p -= lr weightDecay p
 * 2-D and more: r += w (mean of g² over the row - r)        c += w (mean of g² over the column - c)
 *               v = r c / max(mean(r), eps[0])
 * else:         v += w (g² - v)
 * u = g / max(sqrt(v), eps[0])         p -= alpha u / max(1, RMS(u) / d)
 * ```
 *
 * State: `step` (number); for parameters of two dimensions and more `rowVar` (a number for each row, shape `[…, R, 1]`) and
 * `colVar` (one for each column, `[…, 1, C]`), where the last two dimensions are the matrix and the others are kept; else
 * `variance` (as long as the parameter). In the parameter's dtype; bfloat16 and float16 are computed in float32 and rounded
 * once, when they are stored. The update is stored nowhere: a step reads the gradient three times instead. Parameters on a device are
 * stepped there, with the same bits, by as many launches for one tensor as for all of a dtype; `foreach` is not looked at.
 *
 * Paper: Shazeer & Stern 2018, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost" (arXiv:1804.04235); the roles
 * of `lr` and `eps[0]` are torch's. torch source: `torch/optim/_adafactor.py`. Differences: `eps[0]` null is the machine
 * epsilon of each parameter's dtype (torch: of the first one's, for all); sums of squares are in float64; r c does not overflow
 * or underflow before the root is taken; no division by zero with `eps[0]` 0 (torch: NaN for zero gradients); parameters without
 * elements are no error (torch: ZeroDivisionError); compiled code is the default (torch: the for-loop, unless `foreach`).
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { Adafactor, Parameter } from "@flatstep/optim";
 *
 * const weight = new Parameter(new Float32Array(6 * 4).fill(1), { shape: [6, 4] });
 * const optimizer = new Adafactor([weight], { lr: 0.1 });
 * for (let i = 0; i < 100; i++) {
 *   weight.grad = Float32Array.from(weight.data, (w) => 2 * w); // of sum(w²)
 *   optimizer.step();
 * }
 * assert(weight.data.every((w) => Math.abs(w) < 0.1));
 * assert((optimizer.state.get(weight)?.["rowVar"] as Float32Array).length === 6);
 * ```
 */
export class Adafactor extends TensorwiseOptimizer<AdafactorOptions> {
  /**
   * Makes an optimizer of parameters.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups `{ params, ...options }`
   * @param options see {@linkcode AdafactorOptions}
   * @throws {TypeError} for an unknown option or one of the wrong kind
   * @throws {RangeError} for an option out of range
   */
  constructor(params: ParamsInput<AdafactorOptions>, options?: AdafactorOptions) {
    super(params, options, ADAFACTOR_SCHEMA, ADAFACTOR_UPDATE);
  }
}
