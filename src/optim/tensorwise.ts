/**
 * Optimizers whose rule looks at a whole tensor: options in, tensors out.
 *
 * @module
 */

import {
  type Backend,
  judge,
  STEP_MAX_NORM,
  STEP_SUMS,
  STEP_WORDS,
  type Tensor,
  type TensorRule,
  type TensorShape,
} from "../../ffi/backend.ts";
import { jsBackend } from "../../ffi/js.ts";
import { bestBackend, getNumThreads } from "../../ffi/load.ts";
import { allocate, type DType, DTYPES, type TypedArray } from "../dtype.ts";
import { show, StateDictError } from "../errors.ts";
import { WrittenMemory } from "../memory.ts";
import type { Parameter } from "../parameter.ts";
import { SparseTensor } from "../sparse_tensor.ts";
import { checkArray, refuseDevice } from "./checks.ts";
import { Optimizer } from "./optimizer.ts";
import { readDefaults, type Schema } from "./options.ts";
import { checkGroups, type ParamGroup, type ParamsInput, placeOf } from "./param_group.ts";
import { scaleArrays } from "./scaling.ts";
import { refuseSparse } from "./sparse_plan.ts";
import { type GradOptions, type StepResult, stepResult } from "./step_options.ts";
import { type ParameterState, readTensor } from "./state_dict.ts";

/** What a class tells of its update: how a group's options and a parameter's state become a rule's inputs. */
export interface TensorUpdate<Group> {
  /** The class, for messages. */
  readonly name: string;
  /** The rule; its first two buffers are the parameter and the gradient, then come the state tensors. */
  readonly rule: TensorRule;
  /** Whether the state has a `step`. */
  readonly counted: boolean;
  /** How a parameter's elements lie. */
  shape(p: Parameter): TensorShape;
  /** The names of a parameter's state tensors, and how many elements they have. */
  tensors(p: Parameter): readonly (readonly [string, number])[];
  /** The rule's hyperparameters for step number `step` of a parameter; without a count, `step` is 0. */
  hypers(group: Group, p: Parameter, step: number): readonly number[];
  /** What runs a group's steps; the best there is if absent. */
  backend?(group: Group): Backend;
}

/** A parameter in a step. */
interface Entry {
  readonly param: Parameter;
  readonly label: string;
  readonly backend: Backend;
  readonly tensor: Tensor;
  readonly hypers: readonly number[];
  /** The state, which is new where `fresh` is true. */
  readonly state: ParameterState;
  readonly fresh: boolean;
}

/** Elements of gradients that are multiplied at once, unless a single one has more. */
const AT_ONCE = 1 << 20;

/** The parameters of one call. */
interface TensorJob {
  readonly backend: Backend;
  readonly dtype: DType;
  readonly members: Entry[];
}

/** Parameters by backend and dtype, in order; in parts of at most `most` elements, or of one parameter. */
function jobsOf(entries: readonly Entry[], most = Infinity): TensorJob[] {
  const jobs: TensorJob[] = [], last = new Map<Backend, Map<DType, TensorJob & { size: number }>>();
  for (const entry of entries) {
    const { backend, param: { dtype, size } } = entry;
    let byDType = last.get(backend);
    if (byDType === undefined) last.set(backend, byDType = new Map());
    let job = byDType.get(dtype);
    if (job === undefined || job.size + size > most) {
      byDType.set(dtype, job = { backend, dtype, members: [], size: 0 });
      jobs.push(job);
    }
    job.members.push(entry);
    job.size += size;
  }
  return jobs;
}

/** The base of the optimizers whose rule looks at a whole tensor. */
export abstract class TensorwiseOptimizer<Options extends object> extends Optimizer<Options> {
  readonly #update: TensorUpdate<ParamGroup<Options>>;
  /** For gradients that have been multiplied, by dtype: as long as the longest part of a step. */
  readonly #memory = new Map<DType, TypedArray>();

  /** For subclasses. */
  protected constructor(
    params: ParamsInput<Options>,
    options: Options | undefined,
    schema: Schema<Options>,
    update: TensorUpdate<ParamGroup<Options>>,
  ) {
    super(params, readDefaults(options, schema, update.name), schema);
    this.#update = update;
  }

  /** Looks at every array, runs the rule, and writes the new state. */
  protected override update(): void {
    const entries = this.#ready();
    for (const { backend, dtype, members } of jobsOf(entries)) {
      this.#runJob(backend, dtype, members, members.map((entry) => entry.tensor));
    }
    this.#commit(entries);
  }

  /** The same with gradients that are unscaled and clipped on their way: a part of them at a time, in memory of our own. */
  protected override updateClipped({ unscale, maxNorm }: GradOptions): StepResult {
    const entries = this.#ready(), parts = jobsOf(entries, AT_ONCE);
    const numbers = new Float64Array(new ArrayBuffer(STEP_WORDS * 8)), squares = new Map<Entry, number>();
    for (const { backend, dtype, members } of parts) {
      const grads = this.#scaled(backend, dtype, members, [unscale]);
      backend.reduce("sumSq", dtype, grads, null, getNumThreads()).forEach((sum, i) => squares.set(members[i]!, sum));
    }
    for (const entry of entries) numbers[STEP_SUMS + DTYPES.indexOf(entry.param.dtype)]! += squares.get(entry)!;
    numbers[STEP_MAX_NORM] = maxNorm;
    judge(numbers);
    const result = stepResult(numbers);
    if (result.skipped) return result;
    for (const { backend, dtype, members } of parts) {
      const grads = this.#scaled(backend, dtype, members, [unscale, result.clipCoefficient]);
      const tensors = members.map(({ tensor }, i) => {
        const buffers = [...tensor.buffers];
        buffers[1] = grads[i]!;
        return { ...tensor, buffers };
      });
      this.#runJob(backend, dtype, members, tensors);
    }
    this.#commit(entries);
    return result;
  }

  /** Checks everything. */
  #ready(): Entry[] {
    this.checkAllOptions();
    checkGroups(this.paramGroups);
    this.groupsChange(this.paramGroups);
    const entries = this.#look();
    if (entries.some((entry) => entry.backend !== jsBackend)) getNumThreads(); // throws before anything runs
    return entries;
  }

  #runJob(backend: Backend, dtype: DType, members: readonly Entry[], tensors: readonly Tensor[]): void {
    const { rule } = this.#update, width = rule.hypers.length;
    const hypers = new Float64Array(new ArrayBuffer(members.length * width * 8));
    members.forEach((entry, i) => hypers.set(entry.hypers, i * width));
    backend.runTensors(rule, dtype, tensors, hypers, backend === jsBackend ? 1 : getNumThreads());
  }

  /** The gradients of some parameters, multiplied by some factors and rounded each time; valid until the next ones. */
  #scaled(backend: Backend, dtype: DType, members: readonly Entry[], factors: readonly number[]): TypedArray[] {
    const grads = members.map((entry) => entry.tensor.buffers[1]!), used = factors.filter((factor) => factor !== 1);
    if (used.length === 0) return grads;
    const size = grads.reduce((sum, grad) => sum + grad.length, 0);
    let memory = this.#memory.get(dtype);
    if (memory === undefined || memory.length < size) {
      this.#memory.set(dtype, memory = allocate(dtype, size, members[0]!.param.data));
    }
    let at = 0;
    const products = grads.map((grad) => memory.subarray(at, at += grad.length));
    used.forEach((factor, i) => {
      scaleArrays(backend, dtype, i === 0 ? grads : products, i === 0 ? products : null, factor);
    });
    return products;
  }

  #commit(entries: readonly Entry[]): void {
    for (const { param, state, fresh } of entries) {
      if (this.#update.counted) state["step"] = (state["step"] as number) + 1;
      if (fresh) this.state.set(param, state);
    }
  }

  /** The parameters that have a gradient, with everything that their step needs. Throws where something does not fit. */
  #look(): Entry[] {
    const { name, rule, counted } = this.#update, written = new WrittenMemory(), found: Entry[] = [];
    this.paramGroups.forEach((group, g) => {
      const backend = this.#update.backend?.(group) ?? bestBackend();
      group.params.forEach((param, i) => {
        const label = placeOf(group, g, i);
        refuseDevice(param, label, name);
        const { data, grad } = param;
        checkArray(data, param, () => `data of ${label}`);
        written.add(data, `data of ${label}`);
        if (grad === null || grad === undefined) return;
        if (grad instanceof SparseTensor) refuseSparse(name, `grad of ${label}`);
        checkArray(grad, param, () => `grad of ${label}`);
        const known = this.state.get(param), state = known ?? this.#start(param);
        const step = counted ? state["step"] : 0;
        if (typeof step !== "number" || !(step >= 0)) {
          throw new TypeError(`step of ${label} must be a number >= 0, got ${show(step)}`);
        }
        const buffers: TypedArray[] = [data, grad];
        for (const [key, size] of this.#update.tensors(param)) {
          const tensor = state[key];
          checkArray(tensor, param, () => `${key} of ${label}`, size);
          written.add(tensor, `${key} of ${label}`);
          buffers.push(tensor);
        }
        const hypers = this.#update.hypers(group, param, step + 1);
        if (hypers.length !== rule.hypers.length) {
          throw new TypeError(`${name} has other hyperparameters than its rule`);
        }
        const tensor = { ...this.#update.shape(param), buffers };
        found.push({ param, label, backend, tensor, hypers, state, fresh: known === undefined });
      });
    });
    written.check();
    for (const { label, tensor } of found) written.checkRead(tensor.buffers[1]!, () => `grad of ${label}`);
    return found;
  }

  /** A new state. */
  #start(p: Parameter): ParameterState {
    const state: ParameterState = this.#update.counted ? { step: 0 } : {};
    for (const [key, size] of this.#update.tensors(p)) state[key] = allocate(p.dtype, size, p.data);
    return state;
  }

  /** Makes the state of every parameter that has none: zeros. */
  override initState(): void {
    this.checkAllOptions();
    this.groupsChange(this.paramGroups);
    this.paramGroups.forEach((group, g) => {
      group.params.forEach((p, i) => refuseDevice(p, placeOf(group, g, i), this.#update.name));
    });
    for (const { params } of this.paramGroups) {
      for (const p of params) if (!this.state.has(p)) this.state.set(p, this.#start(p));
    }
  }

  /** A parameter's state from a state dict's entry: the rule's tensors, copied and cast, and its count. */
  protected override readState(entry: Readonly<Record<string, unknown>>, p: Parameter, where: string): ParameterState {
    const tensors = this.#update.tensors(p), state: ParameterState = {};
    const names = [...(this.#update.counted ? ["step"] : []), ...tensors.map(([key]) => key)];
    for (const key of Object.keys(entry)) {
      if (names.includes(key)) continue;
      throw new StateDictError(
        `${where}.${key} is no state of ${this.#update.name} for shape ${show(p.shape)}; it has ${names.join(", ")}`,
      );
    }
    for (const key of names) {
      if (!(key in entry)) {
        throw new StateDictError(`${where} must have ${key}, got ${Object.keys(entry).join(", ") || "nothing"}`);
      }
    }
    if (this.#update.counted) {
      const step = entry["step"];
      if (typeof step !== "number" || !(step >= 0)) {
        throw new StateDictError(`${where}.step must be a number >= 0, got ${show(step)}`);
      }
      state["step"] = step;
    }
    for (const [key, size] of tensors) {
      state[key] = readTensor(
        entry[key],
        { data: p.data, dtype: p.dtype, size },
        `${where}.${key}`,
        size === p.size ? "its parameter" : `that of shape ${show(p.shape)}`,
      );
    }
    return state;
  }
}
