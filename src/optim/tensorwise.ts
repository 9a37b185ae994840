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
import type { Device } from "../../ffi/cuda_driver.ts";
import { allocateArray, DeviceArray, deviceOf } from "../cuda/device_array.ts";
import { memorySpan } from "../cuda/transfer.ts";
import { allocate, type DType, DTYPES, type TypedArray } from "../dtype.ts";
import { show, StateDictError } from "../errors.ts";
import { WrittenMemory } from "../memory.ts";
import { likeOf, moveCount, type Parameter } from "../parameter.ts";
import { SparseTensor } from "../sparse_tensor.ts";
import { checkArray, checkDeviceArray } from "./checks.ts";
import { followParameters } from "./device_plan.ts";
import { DeviceTensors } from "./device_tensorwise.ts";
import { Optimizer } from "./optimizer.ts";
import { readDefaults, type Schema } from "./options.ts";
import { checkGroups, type ParamGroup, type ParamsInput, placeOf } from "./param_group.ts";
import { scaleArrays } from "./scaling.ts";
import { refuseSparse } from "./sparse_plan.ts";
import { type GradOptions, Outcome, type StepResult } from "./step_options.ts";
import { type ParameterState, readTensor, releaseState } from "./state_dict.ts";

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
  /** Its buffers are on the host, or, all but the gradient, on a device. */
  readonly tensor: TensorShape & { readonly buffers: readonly (TypedArray | DeviceArray)[] };
  readonly hypers: readonly number[];
  /** The state, which is new where `fresh` is true. */
  readonly state: ParameterState;
  readonly fresh: boolean;
}

/** Elements of gradients that are multiplied at once, unless a single one has more. */
const AT_ONCE = 1 << 20;

const isHere = ({ param }: Entry): boolean => param.deviceArray === null;

/** The parameters of one dtype on one device. */
interface Away {
  readonly tensors: DeviceTensors;
  readonly members: Entry[];
}

/** The parameters of one call. */
interface TensorJob {
  readonly backend: Backend;
  readonly dtype: DType;
  readonly members: Entry[];
}

/** Parameters in the host's memory by backend and dtype, in order; in parts of at most `most` elements, or of one parameter. */
function jobsOf(entries: readonly Entry[], most = Infinity): TensorJob[] {
  const jobs: TensorJob[] = [], last = new Map<Backend, Map<DType, TensorJob & { size: number }>>();
  for (const entry of entries) {
    const { backend, param: { dtype, size } } = entry;
    if (!isHere(entry)) continue;
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

/** Gives back state on devices that a step has made and not come to use. */
function releaseFresh(entries: readonly Entry[]): void {
  releaseState(entries.filter(({ fresh }) => fresh).map(({ state }) => state));
}

/** Throws unless an array is where its parameter is, or on the host, and has `size` elements of its dtype. */
function checkPlace(
  array: unknown,
  p: Parameter,
  label: () => string,
  size: number = p.size,
): asserts array is TypedArray | DeviceArray {
  if (array instanceof DeviceArray && p.deviceArray !== null) checkDeviceArray(array, p, label, size);
  else checkArray(array, p, label, size);
}

/** The base of the optimizers whose rule looks at a whole tensor. */
export abstract class TensorwiseOptimizer<Options extends object> extends Optimizer<Options> {
  readonly #update: TensorUpdate<ParamGroup<Options>>;
  /** For gradients that have been multiplied, by dtype: as long as the longest part of a step. */
  readonly #memory = new Map<DType, TypedArray>();
  #moves = 0;
  /** What runs parameters on devices, by device and dtype. */
  readonly #devices = new Map<Device, Map<DType, DeviceTensors>>();

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
    this.#attempt(entries, () => {
      const away = this.#away(entries, false);
      for (const { tensors } of away) tensors.ready([]);
      this.#launch(away);
      for (const { backend, dtype, members } of jobsOf(entries)) {
        this.#runJob(backend, dtype, members, members.map((entry) => entry.tensor as Tensor));
      }
    });
    this.#commit(entries);
  }

  /** The same with gradients that are unscaled and clipped on their way: a part of them at a time, in memory of our own. */
  protected override updateClipped({ unscale, maxNorm }: GradOptions): StepResult {
    const entries = this.#ready();
    return this.#attempt(entries, () => {
      const result = this.#runClipped(entries, unscale, maxNorm);
      if (result.skipped) releaseFresh(entries);
      else this.#commit(entries);
      return result;
    });
  }

  #runClipped(entries: readonly Entry[], unscale: number, maxNorm: number): StepResult {
    const parts = jobsOf(entries, AT_ONCE), away = this.#away(entries, true);
    const numbers = new Float64Array(new ArrayBuffer(STEP_WORDS * 8)), squares = new Map<Entry, number>();
    for (const { backend, dtype, members } of parts) {
      const grads = this.#scaled(backend, dtype, members, [unscale]);
      backend.reduce("sumSq", dtype, grads, null, getNumThreads()).forEach((sum, i) => squares.set(members[i]!, sum));
    }
    for (const { tensors, members } of away) {
      tensors.squares(unscale).forEach((sum, i) => squares.set(members[i]!, sum));
    }
    for (const entry of entries) numbers[STEP_SUMS + DTYPES.indexOf(entry.param.dtype)]! += squares.get(entry)!;
    numbers[STEP_MAX_NORM] = maxNorm;
    judge(numbers);
    const result = new Outcome().read(numbers);
    if (result.skipped) return result;
    for (const { tensors } of away) tensors.ready([unscale, result.clipCoefficient]);
    this.#launch(away);
    for (const { backend, dtype, members } of parts) {
      const grads = this.#scaled(backend, dtype, members, [unscale, result.clipCoefficient]);
      const tensors = members.map(({ tensor }, i) => {
        const buffers = [...tensor.buffers] as TypedArray[];
        buffers[1] = grads[i]!;
        return { ...tensor, buffers };
      });
      this.#runJob(backend, dtype, members, tensors);
    }
    return result;
  }

  /** Runs a step; what it had made on devices is given back where it fails. */
  #attempt<T>(entries: readonly Entry[], work: () => T): T {
    try {
      return work();
    } catch (error) {
      releaseFresh(entries);
      this.#forget();
      throw error;
    }
  }

  /** The parameters on devices by device and dtype, ready but for what their gradients are multiplied by. */
  #away(entries: readonly Entry[], scaling: boolean): Away[] {
    const found: Away[] = [];
    for (const entry of entries) {
      const { deviceArray, dtype } = entry.param;
      if (deviceArray === null) continue;
      const device = deviceOf(deviceArray);
      let known = found.find(({ tensors }) => tensors.device === device && tensors.dtype === dtype);
      if (known === undefined) found.push(known = { tensors: this.#tensorsOf(device, dtype), members: [] });
      known.members.push(entry);
    }
    for (const { tensors, members } of found) {
      tensors.prepare(
        members.map(({ tensor, hypers }) => {
          const [param, grad, ...state] = tensor.buffers;
          return { shape: tensor, buffers: [param, ...state] as DeviceArray[], grad: grad!, hypers };
        }),
        scaling,
      );
    }
    return found;
  }

  #tensorsOf(device: Device, dtype: DType): DeviceTensors {
    let byDType = this.#devices.get(device);
    if (byDType === undefined) this.#devices.set(device, byDType = new Map());
    let known = byDType.get(dtype);
    if (known === undefined) byDType.set(dtype, known = new DeviceTensors(device, this.#update.rule, dtype));
    return known;
  }

  /** Queues the steps of parameters on devices. */
  #launch(away: readonly Away[]): void {
    away.forEach(({ tensors }, i) => {
      try {
        tensors.launch();
      } catch (error) {
        if (i > 0 && error instanceof Error) error.message += `; other parameters on devices had been updated before`;
        throw error;
      }
    });
  }

  /** Gives back what it has on devices for steps. */
  #forget(): void {
    for (const byDType of this.#devices.values()) for (const tensors of byDType.values()) tensors.dispose();
    this.#devices.clear();
  }

  /** Gives back what the optimizer has in the memory of devices. */
  override dispose(): void {
    this.#forget();
    super.dispose();
  }

  /** Checks everything. */
  #ready(): Entry[] {
    this.checkAllOptions();
    checkGroups(this.paramGroups);
    this.groupsChange(this.paramGroups);
    this.#follow();
    const entries = this.#look();
    if (entries.some((entry) => isHere(entry) && entry.backend !== jsBackend)) getNumThreads(); // throws before anything runs
    return entries;
  }

  /** Moves state to where its parameters are. */
  #follow(): void {
    if (moveCount() === 0 && this.paramGroups.every(({ params }) => params.every((p) => p.deviceArray === null))) {
      return;
    }
    const params = this.paramGroups.flatMap((group) => group.params);
    if (this.#moves !== moveCount()) { // what has moved away needs no room there
      const places = new Set(params.map(({ device, dtype }) => `${device} ${dtype}`));
      for (const [device, byDType] of this.#devices) {
        for (const [dtype, tensors] of byDType) if (!places.has(`${device.name} ${dtype}`)) tensors.dispose();
      }
      this.#moves = moveCount();
    }
    followParameters(params, this.state, (p, key) => {
      return this.#update.tensors(p).find(([name]) => name === key)?.[1];
    });
  }

  #runJob(backend: Backend, dtype: DType, members: readonly Entry[], tensors: readonly Tensor[]): void {
    const { rule } = this.#update, width = rule.hypers.length;
    const hypers = new Float64Array(new ArrayBuffer(members.length * width * 8));
    members.forEach((entry, i) => hypers.set(entry.hypers, i * width));
    backend.runTensors(rule, dtype, tensors, hypers, backend === jsBackend ? 1 : getNumThreads());
  }

  /** The gradients of some parameters, multiplied by some factors and rounded each time; valid until the next ones. */
  #scaled(backend: Backend, dtype: DType, members: readonly Entry[], factors: readonly number[]): TypedArray[] {
    const grads = members.map((entry) => entry.tensor.buffers[1] as TypedArray),
      used = factors.filter((factor) => factor !== 1);
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
    const written = new WrittenMemory(), found: Entry[] = [];
    try {
      this.paramGroups.forEach((group, g) => {
        let chosen: Backend | undefined;
        group.params.forEach((param, i) => {
          const choose = () => chosen ??= this.#update.backend?.(group) ?? bestBackend();
          const backend = param.deviceArray === null ? choose() : jsBackend; // which has nothing to do
          const entry = this.#lookAt(group, param, placeOf(group, g, i), backend, written);
          if (entry !== null) found.push(entry);
        });
      });
      written.check();
      for (const { label, tensor } of found) {
        written.checkRead(memorySpan(tensor.buffers[1]!), () => `grad of ${label}`);
      }
      return found;
    } catch (error) {
      releaseFresh(found);
      throw error;
    }
  }

  /** A parameter and its state; null if it has no gradient. */
  #lookAt(
    group: ParamGroup<Options>,
    param: Parameter,
    label: string,
    backend: Backend,
    written: WrittenMemory,
  ): Entry | null {
    const { name, rule, counted } = this.#update, data = param.deviceArray ?? param.data, { grad } = param;
    checkPlace(data, param, () => `data of ${label}`);
    written.add(memorySpan(data), `data of ${label}`);
    if (grad === null || grad === undefined) return null;
    if (grad instanceof SparseTensor) refuseSparse(name, `grad of ${label}`);
    checkPlace(grad, param, () => `grad of ${label}`);
    const known = this.state.get(param), step = counted && known !== undefined ? known["step"] : 0;
    if (typeof step !== "number" || !(step >= 0)) {
      throw new TypeError(`step of ${label} must be a number >= 0, got ${show(step)}`);
    }
    const hypers = this.#update.hypers(group, param, step + 1);
    if (hypers.length !== rule.hypers.length) throw new TypeError(`${name} has other hyperparameters than its rule`);
    const state = known ?? this.#start(param), buffers = [data, grad];
    for (const [key, size] of this.#update.tensors(param)) {
      const array = state[key];
      checkPlace(array, param, () => `${key} of ${label}`, size);
      written.add(memorySpan(array), `${key} of ${label}`);
      buffers.push(array);
    }
    const tensor = { ...this.#update.shape(param), buffers };
    return { param, label, backend, tensor, hypers, state, fresh: known === undefined };
  }

  /** A new state, where its parameter is. */
  #start(p: Parameter): ParameterState {
    const state: ParameterState = this.#update.counted ? { step: 0 } : {};
    try {
      for (const [key, size] of this.#update.tensors(p)) {
        if (p.deviceArray === null) {
          state[key] = allocate(p.dtype, size, p.data);
        } else {
          const tensor = allocateArray(deviceOf(p.deviceArray), p.dtype, size);
          state[key] = tensor; // given back where it cannot be filled
          tensor.fill(0);
        }
      }
    } catch (error) {
      releaseState([state]);
      throw error;
    }
    return state;
  }

  /** Makes the state of every parameter that has none: zeros. */
  override initState(): void {
    this.checkAllOptions();
    this.groupsChange(this.paramGroups);
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
        { data: likeOf(p), dtype: p.dtype, size },
        `${where}.${key}`,
        size === p.size ? "its parameter" : `that of shape ${show(p.shape)}`,
      );
    }
    return state;
  }
}
