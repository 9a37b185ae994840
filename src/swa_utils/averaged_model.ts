/**
 * A model whose weights are the average of another's.
 *
 * @module
 */

import { addLiveSource, announceChange, pendingSaves } from "../checkpoint/live.ts";
import { copyBits } from "../cuda/transfer.ts";
import type { TypedArray } from "../dtype.ts";
import { checkKeys, CudaError, show } from "../errors.ts";
import { forgetList } from "../foreach_plan.ts";
import { Parameter } from "../parameter.ts";
import { type AvgFn, getSwaMultiAvgFn, type MultiAvgFn } from "./averages.ts";
import { type AveragedStateDict, makeStateDict, readStateDict } from "./averaged_state.ts";
import { deepCopy } from "./deep_copy.ts";
import { averageElements, averageGroup, type Fetched, type Group, groupByType } from "./groups.ts";
import { type BatchNorm, batchNormsOf, type IntegerArray, isObject, type Module, modulesOf } from "./module.ts";
import {
  type AnyArray,
  arrayOf,
  checkFit,
  checkSeparate,
  copyAll,
  copyEach,
  type Entry,
  isHere,
  numbersOf,
  readTensors,
  release,
  type Somewhere,
  TensorTable,
} from "./tensors.ts";

/** Options of {@linkcode AveragedModel}. */
export interface AveragedModelOptions {
  /**
   * The new value of an element, from its value and the model's; by default the equal average. Not with `multiAvgFn`. It runs on the
   * host: what is on a device is downloaded and uploaded again at each update.
   */
  avgFn?: AvgFn | null;
  /** Changes all averaged tensors of a dtype in place; by default the equal average. Not with `avgFn`. */
  multiAvgFn?: MultiAvgFn | null;
  /** Whether buffers are averaged like parameters; default false: they are copied. Integers are copied always. */
  useBuffers?: boolean;
}

const OPTIONS = ["avgFn", "multiAvgFn", "useBuffers"];

/** What belongs together in the averaged model and in another. */
interface Pairing {
  readonly model: Module;
  readonly own: TensorTable;
  readonly other: TensorTable;
  readonly groups: readonly Group[];
  /** The tensors that are brought to the average before every update. */
  readonly fetched: readonly Fetched[];
  /** The tensors that are copied at every update. */
  readonly copied: readonly number[];
  readonly ownNorms: readonly BatchNorm[];
  readonly otherNorms: readonly BatchNorm[];
}

/** Models that have averaged weights in them for the time being. */
const swapped = new WeakSet<object>();

const AVERAGE = getSwaMultiAvgFn();

function readOptions(options: unknown): Required<AveragedModelOptions> {
  checkKeys(options, OPTIONS, "AveragedModel");
  const { avgFn = null, multiAvgFn = null, useBuffers = false } = options as AveragedModelOptions;
  for (const [name, fn] of [["avgFn", avgFn], ["multiAvgFn", multiAvgFn]] as const) {
    if (fn !== null && typeof fn !== "function") throw new TypeError(`${name} must be a function, got ${show(fn)}`);
  }
  if (avgFn !== null && multiAvgFn !== null) throw new TypeError("avgFn and multiAvgFn must not both be given");
  if (typeof useBuffers !== "boolean") throw new TypeError(`useBuffers must be a boolean, got ${show(useBuffers)}`);
  return { avgFn, multiAvgFn, useBuffers };
}

/** An independent copy of a model, or a TypeError that asks for `clone()`. */
function copyModel<M extends Module>(model: M): M {
  const entries = readTensors(model, "the model"), cloned = typeof model.clone === "function";
  try {
    const copy = cloned ? model.clone!() : deepCopy(model), copied = readTensors(copy, "the copy");
    checkFit(entries, copied, "the copy");
    checkSeparate(entries, copied, "the copy");
    const norms = new Set(batchNormsOf(model)), copies = batchNormsOf(copy);
    if (copies.length !== norms.size || copies.some((norm) => norms.has(norm))) {
      throw new TypeError("modules() of the copy does not give batch norms of its own");
    }
    if (cloned) copied.forEach((entry, i) => copyBits(arrayOf(entry), arrayOf(entries[i]!)));
    return copy;
  } catch (error) {
    if (error instanceof CudaError) throw error;
    const problem = error instanceof Error ? error.message : show(error);
    throw new TypeError(
      cloned
        ? `the model's clone() must return an independent copy, but ${problem}`
        : `the model cannot be deep-copied: ${problem}. Give it a method clone() that returns an independent copy`,
      { cause: error },
    );
  }
}

/**
 * The average of a model's weights over time: equal (stochastic weight averaging, SWA), exponential (EMA), or any other.
 *
 * ```text
 * first update:  averaged = model
 * later:         averaged += (model - averaged) / (nAveraged + 1)          or avgFn, or multiAvgFn
 * buffers:       copied                                                     with useBuffers: averaged, integers copied
 * ```
 *
 * It has its own copy of the model, `module`: `model.clone()` where there is one, else a deep copy that keeps prototypes and
 * shared references. It is a Module itself, whose names have the prefix `module.`. Averages have the parameter's dtype;
 * bfloat16 and float16 are computed in float32 and rounded once. The default and {@linkcode getEmaMultiAvgFn} are one native
 * call for all tensors of a dtype, with the same bits in TypeScript.
 *
 * Buffers are what `namedBuffers()` names; `numBatchesTracked` of batch norms is copied too.
 *
 * What is on a device is copied and averaged there, one launch for each dtype and device, with the same bits. The average stays where
 * it is: where the model is elsewhere, its tensors are brought to the average at each update, as in torch. So the average of a
 * model on a device can be kept in the host's memory, by `to("cpu")` for each of `averaged.namedParameters()`; and if the model is
 * moved to a device later, so may the average be.
 *
 * Papers: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv:1803.05407);
 * Polyak & Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging". torch source:
 * `torch/optim/swa_utils.py`. Differences: integer buffers are copied, not averaged; a model with other names, shapes or dtypes
 * is an error (torch stops at the shorter list and broadcasts); `swap`; a failed call changes nothing, unless a `multiAvgFn` of
 * one's own fails half-way.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { AveragedModel, getEmaMultiAvgFn, Parameter, SGD } from "@flatstep/optim";
 *
 * class Line {
 *   slope = new Parameter([0]);
 *   *namedParameters(): Iterable<[string, Parameter]> { yield ["slope", this.slope]; }
 *   forward(x: number) { return this.slope.data[0]! * x; }
 * }
 * const model = new Line();
 * const optimizer = new SGD(model.namedParameters(), { lr: 0.1 });
 * const averaged = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn(0.9) });
 * for (let i = 0; i < 100; i++) {
 *   model.slope.grad = Float32Array.of(2 * (model.forward(1) - 3));
 *   optimizer.step();
 *   averaged.updateParameters(model);
 * }
 * assert(Math.abs(averaged.forward(1) - 3) < 0.01);
 * ```
 */
export class AveragedModel<M extends Module = Module> implements Module {
  /** The averaged copy of the model. */
  readonly module: M;
  /** How many updates there were. */
  nAveraged = 0;
  /** Whether it is in training mode; see {@linkcode AveragedModel.train}. */
  training: boolean;
  readonly #options: Required<AveragedModelOptions>;
  #pairing: Pairing | null = null;

  static {
    addLiveSource((object) => {
      if (!(object instanceof AveragedModel) || object.stateDict !== AveragedModel.prototype.stateDict) {
        return undefined;
      }
      const entries = readTensors(object.module, "the averaged model");
      return { dict: makeStateDict(object.nAveraged, entries, true), version: () => object.nAveraged };
    });
  }

  /**
   * Copies a model.
   *
   * @param model the model to average; it stays as it is
   * @param options see {@linkcode AveragedModelOptions}
   * @throws {TypeError} for no Module, an unknown option, both functions at once, or a model that must have `clone()` to be copied
   * @throws {CudaError} if there is no memory for the copy on a device
   */
  constructor(model: M, options: AveragedModelOptions = {}) {
    this.#options = readOptions(options);
    this.module = copyModel(model);
    this.training = model.training ?? true;
  }

  /** What {@linkcode Module.forward} of the averaged copy gives. */
  forward(...inputs: Parameters<M["forward"]>): ReturnType<M["forward"]> {
    return this.module.forward(...inputs) as ReturnType<M["forward"]>;
  }

  /**
   * Takes a model's weights into the average.
   *
   * @param model the model that is trained: any with the same names, shapes and dtypes
   * @throws {TypeError} for a model that does not fit, or one inside of {@linkcode AveragedModel.swap}
   * @throws {RangeError} for shapes that differ, or tensors that share memory with the average
   * @example
   * ```ts
   * import { assert } from "@std/assert";
   * import { AveragedModel, Parameter } from "@flatstep/optim";
   *
   * const model = { w: new Parameter([2]), *namedParameters() { yield ["w", this.w] as [string, Parameter]; }, forward() {} };
   * const averaged = new AveragedModel(model);
   * averaged.updateParameters(model);
   * model.w.data[0] = 4;
   * averaged.updateParameters(model);
   * assert(averaged.module.w.data[0] === 3 && averaged.nAveraged === 2);
   * ```
   */
  updateParameters(model: Module): void {
    const n = this.nAveraged, { avgFn, multiAvgFn } = this.#options;
    if (!Number.isSafeInteger(n) || n < 0) throw new RangeError(`nAveraged must be an integer >= 0, got ${show(n)}`);
    const { own, other, groups, fetched, copied, ownNorms, otherNorms } = this.#pair(model);
    if (pendingSaves.size > 0) announceChange(() => own.arrays.filter(isHere));
    if (n === 0) {
      copyEach(own.arrays, other.arrays);
    } else {
      if (fetched.length > 0) { for (const { from, to } of fetched) copyBits(numbersOf(to), numbersOf(from)); }
      if (avgFn !== null) averageElements(groups, avgFn, n);
      else for (const group of groups) averageGroup(group, multiAvgFn ?? AVERAGE, n);
      for (const i of copied) copyBits(own.arrays[i]!, other.arrays[i]!);
    }
    copyCounts(ownNorms, otherNorms);
    this.nAveraged = n + 1;
  }

  /**
   * Runs a function while a model has the averaged weights, for example to evaluate it, and gives it its own back, also when
   * the function throws.
   *
   * Parameters and buffers of the model change and are restored, bit for bit, in the arrays that they had; whatever the function
   * does to them is undone (but one that it moves to another device stays there). Its own weights are set aside meanwhile, which
   * takes as much memory again where they are. The average does not change. The model may not be swapped twice at a time, nor
   * averaged meanwhile.
   *
   * @param model the model that is trained
   * @param fn what is run; may be asynchronous
   * @returns what the function returns
   * @throws {TypeError} for a model that does not fit; and whatever the function throws
   * @example
   * ```ts
   * import { assert } from "@std/assert";
   * import { AveragedModel, Parameter } from "@flatstep/optim";
   *
   * const model = { w: new Parameter([2]), *namedParameters() { yield ["w", this.w] as [string, Parameter]; }, forward() {} };
   * const averaged = new AveragedModel(model);
   * model.w.data[0] = 5;
   * const seen = await averaged.swap(model, () => model.w.data[0]);
   * assert(seen === 2 && model.w.data[0] === 5);
   * ```
   */
  async swap<T>(model: Module, fn: () => T): Promise<Awaited<T>> {
    if (typeof fn !== "function") throw new TypeError(`fn must be a function, got ${show(fn)}`);
    const { own, other, ownNorms, otherNorms } = this.#pair(model);
    const { arrays, entries } = other, saved = copyAll(arrays), here = arrays.filter(isHere);
    const counts = otherNorms.map((norm) => norm.numBatchesTracked);
    const giveBack = () => {
      announceChange(() => here);
      swapped.delete(model);
      otherNorms.forEach((norm, i) => norm.numBatchesTracked = counts[i]!);
      const giveTo = ({ param, raw }: Entry, i: number) => {
        const before = arrays[i]!;
        if (param !== null && isHere(before) && param.deviceArray === null && param.data !== before) {
          param.data = before as TypedArray;
        }
        const now = param === null ? raw as AnyArray : numbersOf(param); // an adapter's is where the other library has it now
        if (isHere(now) || !now.disposed) copyBits(now, saved[i]!);
      };
      try {
        entries.forEach((entry, i) => isHere(saved[i]!) && giveTo(entry, i));
        entries.forEach((entry, i) => isHere(saved[i]!) || giveTo(entry, i)); // this may fail
        if (!other.holds(model)) restoreReplaced(model, entries, saved);
      } finally {
        release(saved);
      }
    };
    announceChange(() => here);
    swapped.add(model);
    let result: Awaited<T>;
    try {
      copyEach(arrays, own.arrays);
      copyCounts(otherNorms, ownNorms);
      result = await fn();
    } catch (error) {
      try {
        giveBack();
      } catch { /* the first error tells more */ }
      throw error;
    }
    giveBack();
    return result;
  }

  /** What belongs together, checked: read again where anything has been replaced. */
  #pair(model: Module): Pairing {
    if (isObject(model) && swapped.has(model)) {
      throw new TypeError("the model has averaged weights in it: await swap() first");
    }
    const known = this.#pairing;
    if (known !== null && known.model === model && known.own.holds(this.module) && known.other.holds(model)) {
      return known;
    }
    this.#forget();
    const own = readTensors(this.module, "the averaged model"), other = readTensors(model, "the model");
    checkFit(own, other, "the model");
    checkSeparate(own, other, "the model");
    const ownNorms = batchNormsOf(this.module), otherNorms = batchNormsOf(model), { useBuffers } = this.#options;
    if (ownNorms.length !== otherNorms.length) {
      throw new TypeError(
        `the model must have as many batch norms as the averaged model, ${ownNorms.length}, got ${otherNorms.length}`,
      );
    }
    const fetched: Fetched[] = [];
    let groups: Group[];
    try {
      groups = groupByType(own, other, useBuffers, fetched);
    } catch (error) {
      release(fetched.map(({ to }) => numbersOf(to)));
      throw error;
    }
    return this.#pairing = {
      model,
      own: new TensorTable(own),
      other: new TensorTable(other),
      groups,
      fetched,
      copied: own.flatMap(({ param, isBuffer }, i) => param === null || (isBuffer && !useBuffers) ? [i] : []),
      ownNorms,
      otherNorms,
    };
  }

  #forget(): void {
    const { fetched, groups } = this.#pairing ?? { fetched: [], groups: [] };
    this.#pairing = null;
    release(fetched.map(({ to }) => numbersOf(to)));
    for (const { averaged } of groups) forgetList(averaged);
  }

  /**
   * Gives back what the average has in the memory of devices; it must not be used afterwards. In the host's memory there is nothing to
   * do. Without it that memory is freed some time after nobody holds the average any more.
   */
  dispose(): void {
    this.#forget();
    for (const pairs of [this.module.namedParameters(), this.module.namedBuffers?.() ?? []]) {
      for (const [, tensor] of pairs) if (tensor instanceof Parameter) tensor.dispose();
    }
  }

  /** `dispose()`, at the end of a block where the average is declared by `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * A snapshot: `nAveraged`, and each parameter and buffer by its name with the prefix `module.`. The averaging function is no
   * part of it, as in torch. What is on a device comes back in arrays of the host's.
   *
   * @returns plain data that survives `structuredClone`
   */
  stateDict(): AveragedStateDict {
    return makeStateDict(this.nAveraged, readTensors(this.module, "the averaged model"));
  }

  /**
   * Takes over what `stateDict()` gave: all names must be there, and no others, with their shapes and dtypes.
   *
   * @param stateDict the state dict, which is copied
   * @throws {StateDictError} if it does not fit; nothing has been changed then
   */
  loadStateDict(stateDict: AveragedStateDict): void {
    const entries = readTensors(this.module, "the averaged model"), read = readStateDict(stateDict, entries);
    const arrays = entries.map(arrayOf);
    announceChange(() => arrays.filter(isHere));
    copyEach(arrays, read.arrays);
    this.nAveraged = read.nAveraged;
  }

  /** The averaged parameters, named `module.…`. */
  *namedParameters(): Generator<[string, Parameter]> {
    for (const [name, p] of this.module.namedParameters()) yield [`module.${name}`, p];
  }

  /** The buffers of the averaged copy, named `module.…`. */
  *namedBuffers(): Generator<[string, Parameter | TypedArray | IntegerArray]> {
    for (const [name, buffer] of this.module.namedBuffers?.() ?? []) yield [`module.${name}`, buffer];
  }

  /** Itself, the averaged copy, and all modules below it. */
  *modules(): Generator<unknown> {
    yield this;
    yield* modulesOf(this.module);
  }

  /** Puts itself and the averaged copy into training mode, or out of it. */
  train(mode: boolean = true): this {
    this.training = mode;
    if (typeof this.module.train === "function") this.module.train(mode);
    else if (typeof this.module.training === "boolean") this.module.training = mode;
    return this;
  }

  /** Puts itself and the averaged copy out of training mode. */
  eval(): this {
    return this.train(false);
  }
}

function copyCounts(to: readonly BatchNorm[], from: readonly BatchNorm[]): void {
  for (let i = 0; i < to.length; i++) to[i]!.numBatchesTracked = from[i]!.numBatchesTracked;
}

/** Puts saved values into arrays that have taken the place of those that they were saved from. */
function restoreReplaced(
  model: Module,
  before: readonly Entry[],
  saved: readonly Somewhere[],
): void {
  const now = readTensors(model, "the model");
  checkFit(before, now, "the model after swap()");
  now.forEach((entry, i) => copyBits(arrayOf(entry), saved[i]!));
}
