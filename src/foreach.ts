/**
 * Flat operations over lists of tensors: what a custom `multiAvgFn` is written with.
 *
 * Each works in place on its first list, element by element, tensor i of one list with tensor i of the others. Where
 * compiled code is available all tensors go down in one call; the bits are the same without. A list may mix dtypes; bfloat16
 * and float16 are computed in float32 and rounded once, when they are stored. Everything is checked before anything is
 * written: a failed call changes nothing.
 *
 * Lists are arrays of Parameters, typed arrays or DeviceArrays. An operand may be the tensor that is written itself (`mul_(x, x)`);
 * apart from that no tensor may share memory with one that is written. A call with the same list objects as one before finds its
 * tables again.
 *
 * What is on a device is computed there, with the same bits: one launch for each dtype and device. A list may mix devices, but the
 * tensors at one place of all lists must be on the same one, except in `copy_`.
 *
 * torch source: `torch._foreach_*` (`aten/src/ATen/native/ForeachOpsKernels.cpp`). Differences: sizes must be equal (torch
 * broadcasts), dtypes too, except in `copy_`; tensors that overlap are refused (torch's result then depends on the order).
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { AveragedModel, foreach, Parameter } from "@flatstep/optim";
 *
 * const model = { w: new Parameter([1, 2]), *namedParameters() { yield ["w", this.w] as [string, Parameter]; }, forward() {} };
 * const averaged = new AveragedModel(model, {
 *   multiAvgFn: (averaged, current) => foreach.maximum_(averaged, current),
 * });
 * averaged.updateParameters(model);
 * model.w.data.set([0, 5]);
 * averaged.updateParameters(model);
 * assert(averaged.module.w.data.join() === "1,5");
 * ```
 *
 * @module
 */

import { DeviceArray } from "./cuda/device_array.ts";
import { copyBits, onHost } from "./cuda/transfer.ts";
import { allocate, type DType, readInto, type TypedArray, writeFrom } from "./dtype.ts";
import { checkKeys, show } from "./errors.ts";
import { DeviceRows } from "./foreach_device.ts";
import {
  checkLists,
  checkMemory,
  listBackend,
  type ListTensor,
  readList,
  runLists,
  sameMemory,
  type TensorList,
} from "./foreach_plan.ts";
import {
  ADD_RULE,
  ADDCDIV_RULE,
  ADDCMUL_RULE,
  DIV_RULE,
  LERP_RULE,
  MAXIMUM_RULE,
  MUL_RULE,
  SQRT_RULE,
  TENSOR,
} from "./foreach_rules.ts";
import { getNumThreads } from "../ffi/load.ts";
import type { Reduction } from "../ffi/backend.ts";

export type { TensorList };

/** Throws unless something is a number. */
function checkNumber(value: unknown, name: string): asserts value is number {
  if (typeof value !== "number") throw new TypeError(`${name} must be a number, got ${show(value)}`);
}

/** Reads the one option that a function has. */
function readOption(options: unknown, call: string, key: string): unknown {
  checkKeys(options, [key], `${call}()`);
  return (options as Record<string, unknown>)[key];
}

const SELF = ["self"], SELF_OTHER = ["self", "other"], SELF_END = ["self", "end"], SELF_A_B = ["self", "a", "b"];

/**
 * Moves each tensor towards another: linear interpolation.
 *
 * ```text
 * self += weight (end - self)        (self = end - (1 - weight) (end - self) where weight >= 0.5: the same, better rounded)
 * ```
 *
 * @param self the tensors that are changed
 * @param end the tensors they move towards, of the same sizes and dtypes
 * @param weight how far: 0 not at all, 1 all the way; any number
 * @throws {TypeError} for another kind of thing, or dtypes that differ
 * @throws {RangeError} for lengths that differ, or tensors that share memory
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const x = Float32Array.of(0, 4);
 * foreach.lerp_([x], [Float32Array.of(1, 0)], 0.25);
 * assert(x.join() === "0.25,3");
 * ```
 */
export function lerp_(self: TensorList, end: TensorList, weight: number): void {
  checkNumber(weight, "weight");
  runLists(LERP_RULE, 0, [self, end], SELF_END, [weight, 1 - weight]);
}

function addScaled(self: TensorList, other: TensorList | number, alpha: number): void {
  if (typeof other === "number") runLists(ADD_RULE, 0, [self], SELF, [alpha, other]);
  else runLists(ADD_RULE, TENSOR, [self, other], SELF_OTHER, [alpha, 0]);
}

function readAlpha(options: unknown, call: string): number {
  const alpha = readOption(options, call, "alpha") ?? 1;
  checkNumber(alpha, "alpha");
  return alpha;
}

/**
 * Adds to each tensor: `self += alpha other`.
 *
 * @param self the tensors that are changed
 * @param other tensors of the same sizes and dtypes, or a number
 * @param options `alpha`: a factor, default 1
 * @throws {TypeError} for another kind of thing, an unknown option, or dtypes that differ
 * @throws {RangeError} for lengths that differ, or tensors that share memory
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const x = Float32Array.of(1, 2);
 * foreach.add_([x], [Float32Array.of(1, 1)], { alpha: 0.5 });
 * foreach.add_([x], 10);
 * assert(x.join() === "11.5,12.5");
 * ```
 */
export function add_(self: TensorList, other: TensorList | number, options: { alpha?: number } = {}): void {
  addScaled(self, other, readAlpha(options, "add_"));
}

/**
 * Subtracts from each tensor: `self -= alpha other`.
 *
 * @param self the tensors that are changed
 * @param other tensors of the same sizes and dtypes, or a number
 * @param options `alpha`: a factor, default 1
 * @throws {TypeError} for another kind of thing, an unknown option, or dtypes that differ
 * @throws {RangeError} for lengths that differ, or tensors that share memory
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const x = Float32Array.of(1, 2);
 * foreach.sub_([x], [Float32Array.of(1, 0)]);
 * assert(x.join() === "0,2");
 * ```
 */
export function sub_(self: TensorList, other: TensorList | number, options: { alpha?: number } = {}): void {
  addScaled(self, other, -readAlpha(options, "sub_"));
}

/**
 * Multiplies each tensor: `self *= other`.
 *
 * @param self the tensors that are changed
 * @param other tensors of the same sizes and dtypes, or a number
 * @throws {TypeError} for another kind of thing, or dtypes that differ
 * @throws {RangeError} for lengths that differ, or tensors that share memory
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const x = Float32Array.of(1, 2), y = Float64Array.of(3);
 * foreach.mul_([x, y], 2);
 * foreach.mul_([x], [x]);
 * assert(x.join() === "4,16" && y[0] === 6);
 * ```
 */
export function mul_(self: TensorList, other: TensorList | number): void {
  if (typeof other === "number") runLists(MUL_RULE, 0, [self], SELF, [other]);
  else runLists(MUL_RULE, TENSOR, [self, other], SELF_OTHER, [0]);
}

/**
 * Divides each tensor: `self /= other`.
 *
 * @param self the tensors that are changed
 * @param other tensors of the same sizes and dtypes, or a number
 * @throws {TypeError} for another kind of thing, or dtypes that differ
 * @throws {RangeError} for lengths that differ, or tensors that share memory
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const x = Float32Array.of(1, 2);
 * foreach.div_([x], [Float32Array.of(4, 4)]);
 * assert(x.join() === "0.25,0.5");
 * ```
 */
export function div_(self: TensorList, other: TensorList | number): void {
  if (typeof other === "number") runLists(DIV_RULE, 0, [self], SELF, [other]);
  else runLists(DIV_RULE, TENSOR, [self, other], SELF_OTHER, [0]);
}

/**
 * Adds a product to each tensor: `self += value a b`.
 *
 * @param self the tensors that are changed
 * @param a tensors of the same sizes and dtypes
 * @param b tensors of the same sizes and dtypes
 * @param value a factor, default 1
 * @throws {TypeError} for another kind of thing, or dtypes that differ
 * @throws {RangeError} for lengths that differ, or tensors that share memory
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const x = Float32Array.of(1, 2), g = Float32Array.of(3, 4);
 * foreach.addcmul_([x], [g], [g], 0.5);
 * assert(x.join() === "5.5,10");
 * ```
 */
export function addcmul_(self: TensorList, a: TensorList, b: TensorList, value: number = 1): void {
  checkNumber(value, "value");
  runLists(ADDCMUL_RULE, 0, [self, a, b], SELF_A_B, [value]);
}

/**
 * Adds a quotient to each tensor: `self += value a / b`.
 *
 * @param self the tensors that are changed
 * @param a tensors of the same sizes and dtypes
 * @param b tensors of the same sizes and dtypes
 * @param value a factor, default 1
 * @throws {TypeError} for another kind of thing, or dtypes that differ
 * @throws {RangeError} for lengths that differ, or tensors that share memory
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const x = Float32Array.of(1, 2);
 * foreach.addcdiv_([x], [Float32Array.of(1, 3)], [Float32Array.of(2, 4)], -1);
 * assert(x.join() === "0.5,1.25");
 * ```
 */
export function addcdiv_(self: TensorList, a: TensorList, b: TensorList, value: number = 1): void {
  checkNumber(value, "value");
  runLists(ADDCDIV_RULE, 0, [self, a, b], SELF_A_B, [value]);
}

/**
 * Replaces each element by its square root; NaN for numbers below 0.
 *
 * @param self the tensors that are changed
 * @throws {TypeError} for another kind of thing
 * @throws {RangeError} for tensors that share memory
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const x = Float32Array.of(4, 9);
 * foreach.sqrt_([x]);
 * assert(x.join() === "2,3");
 * ```
 */
export function sqrt_(self: TensorList): void {
  runLists(SQRT_RULE, 0, [self], SELF, []);
}

/**
 * Replaces each element by the larger one of two, NaN if either is.
 *
 * @param self the tensors that are changed
 * @param other tensors of the same sizes and dtypes
 * @throws {TypeError} for another kind of thing, or dtypes that differ
 * @throws {RangeError} for lengths that differ, or tensors that share memory
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const x = Float32Array.of(1, 2);
 * foreach.maximum_([x], [Float32Array.of(5, 0)]);
 * assert(x.join() === "5,2");
 * ```
 */
export function maximum_(self: TensorList, other: TensorList): void {
  runLists(MAXIMUM_RULE, 0, [self, other], SELF_OTHER, []);
}

/** Copies one tensor's elements into another of the same length; bits where the dtypes are equal, else rounded. */
function copyInto(to: TypedArray, toType: DType, from: TypedArray, fromType: DType): void {
  if (toType === fromType && to.constructor === from.constructor) return to.set(from);
  const n = Math.min(from.length, 4096);
  const block = toType === "float64" ? new Float64Array(n) : new Float32Array(n); // 16 bits are rounded from float32
  for (let at = 0; at < from.length; at += block.length) {
    const count = Math.min(block.length, from.length - at);
    readInto(block, from, fromType, at, count);
    writeFrom(to, toType, at, block, count);
  }
}

/** What has to be written into one tensor to make it a copy of another of the same size; for the host's memory it is there. */
function copyOf(to: ListTensor, from: ListTensor): TypedArray | DeviceArray {
  const kind = to.array instanceof DeviceArray ? undefined : to.array;
  if (to.dtype === from.dtype) return kind === undefined ? from.array : onHost(from.array, kind);
  const values = allocate(to.dtype, to.size, kind);
  copyInto(values, to.dtype, onHost(from.array), from.dtype);
  return values;
}

/**
 * Copies tensors, from one dtype to another where they differ: rounded to nearest, ties to even. As in torch they may be on different
 * devices; one that is on a device is rounded on the host.
 *
 * @param self the tensors that are changed
 * @param from tensors of the same sizes
 * @throws {TypeError} for another kind of thing
 * @throws {RangeError} for lengths that differ, or tensors that share memory
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const x = new Float32Array(2);
 * foreach.copy_([x], [Float64Array.of(1, 0.1)]);
 * assert(x[0] === 1 && x[1] === Math.fround(0.1));
 * ```
 */
export function copy_(self: TensorList, from: TensorList): void {
  const to = readList(self, "self"), source = readList(from, "from");
  checkLists([to, source], ["self", "from"], false);
  checkMemory([to.map(({ array }) => array), source.map(({ array }) => array)], ["self", "from"]);
  const isAway = ({ array }: ListTensor) => array instanceof DeviceArray;
  const pairs = to.map((tensor, i) => ({ to: tensor, from: source[i]! }));
  const away = pairs.filter(({ to, from }) => isAway(to) || isAway(from));
  const read = away.map(({ to, from }) => copyOf(to, from)); // this may fail, and so may writing to a device
  away.forEach(({ to }, i) => isAway(to) && copyBits(to.array, read[i]!));
  away.forEach(({ to }, i) => isAway(to) || copyBits(to.array, read[i]!));
  for (const { to, from } of pairs) {
    if (isAway(to) || isAway(from) || (to.dtype === from.dtype && sameMemory(to.array, from.array))) continue;
    copyInto(to.array as TypedArray, to.dtype, from.array as TypedArray, from.dtype);
  }
}

/**
 * Sets every element to 0.
 *
 * @param self the tensors that are changed
 * @throws {TypeError} for another kind of thing
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const x = Float32Array.of(1, 2);
 * foreach.zero_([x]);
 * assert(x.join() === "0,0");
 * ```
 */
export function zero_(self: TensorList): void {
  const arrays = readList(self, "self").map(({ array }) => array);
  for (const array of arrays) if (array instanceof DeviceArray) array.fill(0); // these may fail
  for (const array of arrays) if (!(array instanceof DeviceArray)) array.fill(0);
}

/** The reduction of each order, and what is left to do. */
const NORMS: ReadonlyMap<unknown, Exclude<Reduction, "dot">> = new Map<unknown, Exclude<Reduction, "dot">>([
  [1, "sumAbs"],
  [2, "sumSq"],
  [Infinity, "maxAbs"],
]);

/**
 * Each tensor's norm: by default the root of the sum of squares. Added in float64, in an order that depends on the length
 * alone: the same bits on every processor and device, and with any number of threads.
 *
 * @param self the tensors, which are not changed
 * @param options `ord`: 1 (sum of magnitudes), 2 (the default), or Infinity (the largest magnitude)
 * @returns a number for each tensor; 0 for one without elements
 * @throws {TypeError} for another kind of thing, or an unknown option
 * @throws {RangeError} for another order
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { foreach } from "@flatstep/optim";
 *
 * const [norm] = foreach.norm([Float32Array.of(3, -4)]);
 * assert(norm === 5);
 * ```
 */
export function norm(self: TensorList, options: { ord?: number } = {}): number[] {
  const ord = readOption(options, "norm", "ord") ?? 2, op = NORMS.get(ord);
  if (op === undefined) throw new RangeError(`ord must be 1, 2 or Infinity, got ${show(ord)}`);
  const tensors = readList(self, "self"), norms = new Array<number>(tensors.length);
  const away: number[] = [], byType = new Map<DType, number[]>();
  tensors.forEach(({ dtype, array }, i) => {
    if (array instanceof DeviceArray) away.push(i);
    else byType.get(dtype)?.push(i) ?? byType.set(dtype, [i]);
  });
  const tell = (indices: readonly number[], values: readonly number[]) =>
    indices.forEach((i, k) => norms[i] = op === "sumSq" ? Math.sqrt(values[k]!) : values[k]!);
  for (const [dtype, indices] of byType) {
    const arrays = indices.map((i) => tensors[i]!.array as TypedArray);
    tell(indices, listBackend().reduce(op, dtype, arrays, null, getNumThreads()));
  }
  if (away.length > 0) tell(away, reduceAway(op, away.map((i) => tensors[i]!.array as DeviceArray)));
  return norms;
}

/** A number for each array on a device. */
function reduceAway(op: Exclude<Reduction, "dot">, arrays: readonly DeviceArray[]): number[] {
  const rows = new DeviceRows(SQRT_RULE, 0, arrays.map((array) => [array]), new Float64Array(0)); // no rule is launched
  try {
    rows.prepare();
    return rows.reduce(op);
  } finally {
    rows.dispose();
  }
}
