/**
 * Plans of the multi-tensor operations: a job for each dtype over lists of tensors, kept from call to call.
 *
 * A plan is found again by the list that is written. Each call looks at every array of every list; where one is not what it
 * was (another array, another length), the plan is built again with every check, before anything has been written.
 *
 * @module
 */

import type { Backend, Job, Rule } from "../ffi/backend.ts";
import { bestBackend, getNumThreads } from "../ffi/load.ts";
import { DeviceArray } from "./cuda/device_array.ts";
import { memorySpan, placeName } from "./cuda/transfer.ts";
import { arrayNames, type DType, holds, isTypedArray, type TypedArray } from "./dtype.ts";
import { describe, show } from "./errors.ts";
import { DeviceRows } from "./foreach_device.ts";
import { WrittenMemory } from "./memory.ts";
import { moveCount, Parameter } from "./parameter.ts";

/** A list of tensors, as the multi-tensor operations take it. */
export type TensorList = readonly (Parameter | TypedArray | DeviceArray)[];

/** A tensor of a list. */
export interface ListTensor {
  readonly dtype: DType;
  readonly size: number;
  /** Its numbers, on the host or on a device. */
  readonly array: TypedArray | DeviceArray;
}

/** Which backend runs the operations; null: the best there is. For tests. */
export const override: { backend: Backend | null } = { backend: null };

/** What runs the operations. */
export function listBackend(): Backend {
  return override.backend ?? bestBackend();
}

/** The numbers of a list's entry. */
export function arrayOf(entry: Parameter | TypedArray | DeviceArray): TypedArray | DeviceArray {
  return entry instanceof Parameter ? entry.deviceArray ?? entry.data : entry;
}

/** The tensors of a list's entries. Throws where one is no tensor, or its array no longer fits it. */
export function readList(list: unknown, name: string): ListTensor[] {
  if (!Array.isArray(list)) {
    throw new TypeError(
      `${name} must be an array of Parameters or typed arrays, got ${describe(list)}`,
    );
  }
  return (list as unknown[]).map((entry, i) => {
    const label = `${name}[${i}]`;
    if (!(entry instanceof Parameter) && !isTypedArray(entry) && !(entry instanceof DeviceArray)) {
      throw new TypeError(`${label} must be a Parameter or a typed array, got ${describe(entry)}`);
    }
    const array = arrayOf(entry);
    if (array instanceof DeviceArray) {
      if (array.disposed) throw new TypeError(`${label} must be there, and ${array} has been disposed`);
      return { dtype: array.dtype, size: array.length, array };
    }
    const p = Parameter.of(entry as Parameter | TypedArray);
    checkArray(array, p, label);
    return { dtype: p.dtype, size: p.size, array };
  });
}

/** Throws unless an array has its parameter's dtype and number of elements. */
export function checkArray(data: unknown, p: Parameter, label: string): asserts data is TypedArray {
  if (!holds(data, p.dtype)) {
    throw new TypeError(`${label} must be ${arrayNames(p.dtype)} of ${p.size}, got ${describe(data)}`);
  }
  if (data.length !== p.size) {
    throw new RangeError(
      `${label} must have ${p.size} elements, as its shape ${show(p.shape)} has, got ${data.length}`,
    );
  }
}

/** Throws unless lists have as many tensors as the first, of the same sizes, and (if asked) the same dtypes on the same devices. */
export function checkLists(lists: readonly ListTensor[][], names: readonly string[], alike: boolean): void {
  const self = lists[0]!;
  for (let k = 1; k < lists.length; k++) {
    const list = lists[k]!, name = names[k]!;
    if (list.length !== self.length) {
      throw new RangeError(`${name} must have as many tensors as ${names[0]}, ${self.length}, got ${list.length}`);
    }
    list.forEach((p, i) => {
      const q = self[i]!;
      if (alike && p.dtype !== q.dtype) {
        throw new TypeError(`${name}[${i}] must be ${q.dtype} as ${names[0]}[${i}] is, got ${p.dtype}`);
      }
      const here = placeName(p.array), there = placeName(q.array);
      if (alike && here !== there) {
        throw new TypeError(`${name}[${i}] must be on ${there} as ${names[0]}[${i}] is, got a tensor on ${here}`);
      }
      if (p.size !== q.size) {
        throw new RangeError(`${name}[${i}] must have ${q.size} elements as ${names[0]}[${i}] has, got ${p.size}`);
      }
    });
  }
}

/** Whether two arrays are the same memory from end to end. */
export function sameMemory(a: TypedArray | DeviceArray, b: TypedArray | DeviceArray): boolean {
  if (a === b) return true;
  const x = memorySpan(a), y = memorySpan(b);
  return x.buffer === y.buffer && x.byteOffset === y.byteOffset && x.byteLength === y.byteLength;
}

/** An operand that is the written tensor itself: its values are copied before each run. */
interface Copied {
  readonly from: TypedArray;
  readonly to: TypedArray;
}

/** The numbers of an entry that is not on a device. */
const dataOf = (entry: TensorList[number]): TypedArray | DeviceArray => entry instanceof Parameter ? entry.data : entry;

/** One operation over certain lists. */
class ListPlan {
  readonly #jobs: Job[] = [];
  readonly #entries: readonly TensorList[]; // by list
  readonly #arrays: readonly (TypedArray | DeviceArray)[][];
  readonly #sizes: readonly number[];
  readonly #copied: Copied[] = [];
  readonly #hypers: Float64Array;
  /** The tensors on devices; null where all are in the host's memory. */
  readonly #rows: DeviceRows | null;
  /** The count of moves when all tensors were seen to be on the host; no count where some are not. */
  #moves: number;

  constructor(
    readonly backend: Backend,
    readonly rule: Rule,
    readonly flags: number,
    lists: readonly TensorList[],
    names: readonly string[],
  ) {
    const tensors = lists.map((list, k) => readList(list, names[k]!)), [self] = tensors as [ListTensor[]];
    checkLists(tensors, names, true);
    this.#entries = lists.map((list) => [...list]);
    this.#arrays = tensors.map((list) => list.map(({ array }) => array));
    this.#sizes = self.map(({ size }) => size);
    checkMemory(this.#arrays, names);
    this.#hypers = new Float64Array(new ArrayBuffer(Math.max(1, rule.hypers.length) * 8));
    const isHere = ({ array }: ListTensor) => !(array instanceof DeviceArray);
    const places = new Map<DType, { job: Job; used: number }>(), away: DeviceArray[][] = [];
    self.forEach((tensor, i) => {
      const { dtype, size } = tensor, arrays = this.#arrays.map((list) => list[i]!);
      if (!isHere(tensor)) {
        away.push(arrays as DeviceArray[]);
        return;
      }
      let place = places.get(dtype);
      if (place === undefined) {
        const job = backend.createJob(
          rule,
          dtype,
          self.filter((other) => isHere(other) && other.dtype === dtype).length,
        );
        places.set(dtype, place = { job, used: 0 });
        job.bindHypers(this.#hypers, 1);
        this.#jobs.push(job);
      }
      const { job } = place, row = place.used++;
      job.setFlags(row, flags);
      job.setLength(row, size);
      if (size > 0) (arrays as TypedArray[]).forEach((array, k) => job.bind(row, k, this.#operand(array, i, k)));
    });
    this.#rows = away.length === 0 ? null : new DeviceRows(rule, flags, away, this.#hypers);
    this.#moves = away.length === 0 ? moveCount() : -1;
  }

  /** What is bound of an array: itself, or a copy of an operand that is the tensor that is written. */
  #operand(array: TypedArray, i: number, k: number): TypedArray {
    if (k === 0 || !sameMemory(array, this.#arrays[0]![i]!)) return array;
    const to = array.slice();
    this.#copied.push({ from: array, to });
    return to;
  }

  /** Whether it is a plan for these lists, as they are now. */
  fits(lists: readonly TensorList[]): boolean {
    if (this.#moves !== moveCount()) return this.#fitsAnywhere(lists);
    const sizes = this.#sizes;
    for (let k = 0; k < lists.length; k++) {
      const list = lists[k]!, entries = this.#entries[k]!, arrays = this.#arrays[k]!;
      if (list.length !== sizes.length) return false;
      for (let i = 0; i < sizes.length; i++) {
        const entry = list[i]!, array = arrays[i]!;
        if (entry !== entries[i] || array.length !== sizes[i] || (entry !== array && dataOf(entry) !== array)) {
          return false;
        }
      }
    }
    return true;
  }

  /** The same where some tensors are on devices, or may have come to be. */
  #fitsAnywhere(lists: readonly TensorList[]): boolean {
    const fits = lists.every((list, k) =>
      list.length === this.#sizes.length && list.every((entry, i) => {
        if (entry !== this.#entries[k]![i]) return false;
        const array = arrayOf(entry);
        return array === this.#arrays[k]![i] && array.length === this.#sizes[i] &&
          !(array instanceof DeviceArray && array.disposed);
      })
    );
    if (fits && this.#rows === null) this.#moves = moveCount();
    return fits;
  }

  run(hypers: readonly number[]): void {
    for (let k = 0; k < hypers.length; k++) this.#hypers[k] = hypers[k]!;
    const threads = getNumThreads(), rows = this.#rows; // throws before anything runs
    if (rows !== null) {
      rows.prepare();
      rows.launch();
    }
    for (const { from, to } of this.#copied) to.set(from);
    this.backend.run(this.#jobs, threads);
    if (rows !== null) rows.endCall();
  }

  /** Gives back what it has on devices. */
  dispose(): void {
    this.#rows?.dispose();
  }
}

/** Throws where a tensor that is written (the first list's) shares memory with another; an operand may be the tensor itself. */
export function checkMemory(
  arrays: readonly (readonly (TypedArray | DeviceArray)[])[],
  names: readonly string[],
): void {
  const written = new WrittenMemory(), self = arrays[0]!;
  self.forEach((array, i) => written.add(memorySpan(array), `${names[0]}[${i}]`));
  written.check();
  for (let k = 1; k < arrays.length; k++) {
    arrays[k]!.forEach((array, i) => {
      if (!sameMemory(array, self[i]!)) written.checkRead(memorySpan(array), () => `${names[k]}[${i}]`);
    });
  }
}

/** The plans of a list that is written, one for each operation. */
const plans = new WeakMap<TensorList, ListPlan[]>();

/** Gives back what is kept on devices for a list that is written, which will not come again. */
export function forgetList(self: TensorList): void {
  for (const plan of plans.get(self) ?? []) plan.dispose();
  plans.delete(self);
}

/**
 * Runs a rule over lists of tensors: one call for all of them.
 *
 * @param rule the rule; its buffers are the lists, in order
 * @param flags its flags
 * @param lists the list that is written, then those that are read
 * @param names their names, for messages
 * @param hypers the hyperparameters
 */
export function runLists(
  rule: Rule,
  flags: number,
  lists: readonly TensorList[],
  names: readonly string[],
  hypers: readonly number[],
): void {
  const backend = listBackend(), self = lists[0]!;
  if (!Array.isArray(self)) readList(self, names[0]!); // throws
  let known = plans.get(self);
  if (known === undefined) plans.set(self, known = []);
  const at = known.findIndex((p) => p.rule === rule && p.flags === flags && p.backend === backend);
  let plan = known[at];
  if (plan === undefined || !lists.every(Array.isArray) || !plan.fits(lists)) {
    if (plan !== undefined) { // one that throws is not kept
      known.splice(at, 1);
      plan.dispose();
    }
    known.push(plan = new ListPlan(backend, rule, flags, lists, names));
  }
  plan.run(hypers);
}
