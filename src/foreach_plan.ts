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
import { arrayNames, type DType, holds, isTypedArray, type TypedArray } from "./dtype.ts";
import { kind, show } from "./errors.ts";
import { WrittenMemory } from "./memory.ts";
import { Parameter } from "./parameter.ts";

/** A list of tensors, as the multi-tensor operations take it. */
export type TensorList = readonly (Parameter | TypedArray)[];

/** Which backend runs the operations; null: the best there is. For tests. */
export const override: { backend: Backend | null } = { backend: null };

/** What runs the operations. */
export function listBackend(): Backend {
  return override.backend ?? bestBackend();
}

const describe = (value: unknown) => typeof value === "object" && value !== null ? kind(value) : show(value);

/** The Parameters of a list's entries. Throws where one is no tensor, or its array no longer fits it. */
export function readList(list: unknown, name: string): Parameter[] {
  if (!Array.isArray(list)) {
    throw new TypeError(`${name} must be an array of Parameters or typed arrays, got ${describe(list)}`);
  }
  return (list as unknown[]).map((entry, i) => {
    if (!(entry instanceof Parameter) && !isTypedArray(entry)) {
      throw new TypeError(`${name}[${i}] must be a Parameter or a typed array, got ${describe(entry)}`);
    }
    const p = Parameter.of(entry), data: unknown = entry instanceof Parameter ? entry.data : entry;
    checkArray(data, p, `${name}[${i}]`);
    return p;
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

/** Throws unless lists have as many tensors as the first, of the same sizes, and (if asked) the same dtypes. */
export function checkLists(lists: readonly Parameter[][], names: readonly string[], dtypes: boolean): void {
  const self = lists[0]!;
  for (let k = 1; k < lists.length; k++) {
    const list = lists[k]!, name = names[k]!;
    if (list.length !== self.length) {
      throw new RangeError(`${name} must have as many tensors as ${names[0]}, ${self.length}, got ${list.length}`);
    }
    list.forEach((p, i) => {
      const q = self[i]!;
      if (dtypes && p.dtype !== q.dtype) {
        throw new TypeError(`${name}[${i}] must be ${q.dtype} as ${names[0]}[${i}] is, got ${p.dtype}`);
      }
      if (p.size !== q.size) {
        throw new RangeError(`${name}[${i}] must have ${q.size} elements as ${names[0]}[${i}] has, got ${p.size}`);
      }
    });
  }
}

/** Whether two arrays are the same memory from end to end. */
export function sameMemory(a: TypedArray, b: TypedArray): boolean {
  return a === b || (a.buffer === b.buffer && a.byteOffset === b.byteOffset && a.byteLength === b.byteLength);
}

/** An operand that is the written tensor itself: its values are copied before each run. */
interface Copied {
  readonly from: TypedArray;
  readonly to: TypedArray;
}

const arrayOf = (entry: Parameter | TypedArray): TypedArray => entry instanceof Parameter ? entry.data : entry;

/** One operation over certain lists. */
class ListPlan {
  readonly #jobs: Job[] = [];
  readonly #entries: readonly TensorList[]; // by list
  readonly #arrays: readonly TypedArray[][];
  readonly #sizes: readonly number[];
  readonly #copied: Copied[] = [];
  readonly #hypers: Float64Array;

  constructor(
    readonly backend: Backend,
    readonly rule: Rule,
    readonly flags: number,
    lists: readonly TensorList[],
    names: readonly string[],
  ) {
    const params = lists.map((list, k) => readList(list, names[k]!)), [self] = params as [Parameter[]];
    checkLists(params, names, true);
    this.#entries = lists.map((list) => [...list]);
    this.#arrays = lists.map((list) => list.map(arrayOf));
    this.#sizes = self.map((p) => p.size);
    checkMemory(this.#arrays, names);
    this.#hypers = new Float64Array(new ArrayBuffer(Math.max(1, rule.hypers.length) * 8));
    const places = new Map<DType, { job: Job; used: number }>();
    self.forEach((p, i) => {
      let place = places.get(p.dtype);
      if (place === undefined) {
        const job = backend.createJob(rule, p.dtype, self.filter((q) => q.dtype === p.dtype).length);
        places.set(p.dtype, place = { job, used: 0 });
        job.bindHypers(this.#hypers, 1);
        this.#jobs.push(job);
      }
      const { job } = place, row = place.used++;
      job.setFlags(row, flags);
      job.setLength(row, p.size);
      if (p.size > 0) this.#arrays.forEach((arrays, k) => job.bind(row, k, this.#operand(arrays[i]!, i, k)));
    });
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
    const sizes = this.#sizes;
    for (let k = 0; k < lists.length; k++) {
      const list = lists[k]!, entries = this.#entries[k]!, arrays = this.#arrays[k]!;
      if (list.length !== sizes.length) return false;
      for (let i = 0; i < sizes.length; i++) {
        const entry = list[i]!, array = arrays[i]!;
        if (entry !== entries[i] || array.length !== sizes[i] || (entry !== array && arrayOf(entry) !== array)) {
          return false;
        }
      }
    }
    return true;
  }

  run(hypers: readonly number[]): void {
    for (let k = 0; k < hypers.length; k++) this.#hypers[k] = hypers[k]!;
    for (const { from, to } of this.#copied) to.set(from);
    this.backend.run(this.#jobs, getNumThreads());
  }
}

/** Throws where a tensor that is written (the first list's) shares memory with another; an operand may be the tensor itself. */
export function checkMemory(arrays: readonly (readonly TypedArray[])[], names: readonly string[]): void {
  const written = new WrittenMemory(), [self] = arrays as [TypedArray[]];
  self.forEach((array, i) => written.add(array, `${names[0]}[${i}]`));
  written.check();
  for (let k = 1; k < arrays.length; k++) {
    arrays[k]!.forEach((array, i) => {
      if (!sameMemory(array, self[i]!)) written.checkRead(array, () => `${names[k]}[${i}]`);
    });
  }
}

/** The plans of a list that is written, one for each operation. */
const plans = new WeakMap<TensorList, ListPlan[]>();

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
    if (at >= 0) known.splice(at, 1); // one that throws is not kept
    known.push(plan = new ListPlan(backend, rule, flags, lists, names));
  }
  plan.run(hypers);
}
