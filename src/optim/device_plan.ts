/**
 * What has to be known between steps of a group's parameters on one device: as plan.ts for those in the host's memory.
 *
 * Whatever can fail (a gradient that does not fit, memory for state, an upload) comes in `prepare()`; then `launch()` queues one kernel for each
 * dtype, and `commit()` writes what has changed.
 *
 * @module
 */

import type { Device } from "../../ffi/cuda_driver.ts";
import {
  allocateArray,
  DeviceArray,
  deviceOf,
  downloadArray,
  releaseArray,
  spanOf,
  uploadArray,
} from "../cuda/device_array.ts";
import { DeviceJob } from "../cuda/job.ts";
import { Staging } from "../cuda/staging.ts";
import { bytesOf, type DType, holds, isTypedArray, type TypedArray } from "../dtype.ts";
import type { WrittenMemory } from "../memory.ts";
import { likeOf, type Parameter } from "../parameter.ts";
import { SparseTensor } from "../sparse_tensor.ts";
import { checkArray, checkDeviceArray } from "./checks.ts";
import { HyperRows } from "./hyper_rows.ts";
import { placeOf } from "./param_group.ts";
import type { ParameterState, StateMap } from "./state_dict.ts";
import type { Update } from "./update.ts";

/** A parameter in a plan. */
interface Slot {
  readonly param: Parameter;
  readonly index: number;
  readonly array: DeviceArray;
  readonly job: DeviceJob;
  readonly row: number;
  /** Whether the parameter is stepped. */
  active: boolean;
  /** A gradient on the device that is bound. */
  grad: DeviceArray | null;
  /** Whether its gradient has been one of the host's, and has room on the device. */
  uploaded: boolean;
  state: ParameterState | null;
  /** The state tensors that are bound. */
  readonly tensors: DeviceArray[];
  /** State that is made in this step, and is seen when the step has succeeded. */
  fresh: { readonly entry: boolean; readonly tensors: Record<string, DeviceArray> } | null;
  bound: boolean;
  hyper: number;
}

/** A group's parameters on one device. */
export class DevicePlan<Group extends { params: Parameter[] }> {
  readonly #slots: Slot[];
  readonly #jobs: DeviceJob[] = [];
  readonly #keys: readonly string[];
  readonly #buffers: readonly number[]; // which of the rule's buffers each tensor is
  readonly #rows: HyperRows<Group>;
  #flags: number;
  /** Whether state that was there already has been bound since gradients were last checked. */
  stateAdded = false;
  /** Room for gradients of the host's, by their slots. */
  readonly #staging: Staging;
  /** The rows of hyperparameters whose kernels have been queued, for each job. */
  readonly #queued = new Map<DeviceJob, Set<number>>();

  constructor(
    readonly group: Group,
    readonly index: number,
    readonly device: Device,
    readonly update: Update<Group>,
    readonly state: StateMap,
    readonly written: WrittenMemory,
  ) {
    if (update.sparse?.dense === false) {
      const at = group.params.findIndex((p) => p.device === device.name);
      throw new TypeError(
        `${placeOf(group, index, at)} must be on the cpu for ${update.name}: sparse gradients are for parameters there`,
      );
    }
    this.#staging = new Staging(device);
    this.#keys = update.tensors(group);
    this.#buffers = this.#keys.map((key) => update.rule.buffers.indexOf(`${key}:rw`));
    this.#flags = update.flags(group);
    this.#rows = new HyperRows(update, (index) => this.#label(index));
    const here = [...group.params.entries()].filter(([, p]) => p.device === device.name);
    const counts = new Map<DType, number>();
    for (const [, { dtype }] of here) counts.set(dtype, (counts.get(dtype) ?? 0) + 1);
    const places = new Map<DType, { job: DeviceJob; used: number }>();
    for (const [dtype, count] of counts) {
      const job = new DeviceJob(device, update.rule, dtype, count);
      places.set(dtype, { job, used: 0 });
      this.#jobs.push(job);
    }
    this.#slots = here.map(([index, param]): Slot => {
      const place = places.get(param.dtype)!;
      written.add(spanOf(param.deviceArray!), `data of ${this.#label(index)}`);
      return {
        param,
        index,
        array: param.deviceArray!,
        job: place.job,
        row: place.used++,
        active: false,
        grad: null,
        uploaded: false,
        state: null,
        tensors: [],
        fresh: null,
        bound: false,
        hyper: -1,
      };
    });
  }

  /**
   * Looks at every array, uploads gradients, and makes the jobs ready to run. Throws where something does not fit, or cannot be had;
   * changes nothing but the plan.
   *
   * @returns false if the plan is stale and must be built again
   */
  prepare(): boolean {
    const { group, update } = this, { params } = group, uploads: number[] = [];
    if (update.tensors(group) !== this.#keys) return false;
    const flags = update.flags(group);
    if (flags !== this.#flags) {
      this.#flags = flags;
      for (const slot of this.#slots) if (slot.bound) this.#setFlags(slot);
    }
    this.#rows.clear();
    for (const [k, slot] of this.#slots.entries()) {
      const p = slot.param, grad = p.grad;
      if (params[slot.index] !== p || p.deviceArray !== slot.array || slot.array.disposed) return false;
      slot.active = grad !== null && grad !== undefined;
      slot.job.setLength(slot.row, slot.active ? p.size : 0);
      if (grad === null || grad === undefined) continue;
      if (grad instanceof DeviceArray) this.#bindGrad(slot, grad);
      else {
        this.#checkGrad(slot, grad);
        slot.grad = null;
        uploads.push(k);
      }
      if (!slot.bound) this.#bindState(slot);
      else if (!this.#stillBound(slot)) return false;
      slot.hyper = this.#rows.of(group, slot.state ?? {}, slot.index);
      slot.job.setHyper(slot.row, slot.hyper);
    }
    this.#upload(uploads);
    for (const job of this.#jobs) {
      job.bindHypers(this.#rows.hypers);
      job.prepare();
    }
    this.#queued.clear();
    return true;
  }

  #checkGrad(slot: Slot, grad: unknown): void {
    const label = () => `grad of ${this.#label(slot.index)}`;
    if (grad instanceof SparseTensor) {
      throw new TypeError(
        `${label()} must be dense: sparse gradients are for parameters on the cpu, and this one is on ${this.device.name}`,
      );
    }
    checkArray(grad, slot.param, label);
  }

  /** Binds a gradient that is on a device. */
  #bindGrad(slot: Slot, grad: DeviceArray): void {
    const p = slot.param, label = () => `grad of ${this.#label(slot.index)}`;
    if (grad === slot.grad && !grad.disposed) return;
    checkDeviceArray(grad, p, label);
    this.written.checkRead(spanOf(grad), label);
    slot.grad = grad;
    slot.job.bind(slot.row, 1, grad.address);
  }

  /** Copies the gradients of some slots to the device. */
  #upload(slots: readonly number[]): void {
    const staging = this.#staging;
    if (slots.length === 0) return;
    if (slots.some((k) => !this.#slots[k]!.uploaded)) {
      for (const k of slots) this.#slots[k]!.uploaded = true;
      staging.lay(this.#slots.map(({ uploaded, param: p }) => uploaded ? p.size * bytesOf(p.dtype) : 0));
    }
    for (const k of slots) {
      const { param: p, job, row } = this.#slots[k]!;
      job.bind(row, 1, staging.address(k));
      staging.put(k, p.dtype, p.grad as TypedArray);
    }
    staging.flush();
  }

  /** Whether the state's tensors are the bound ones, and still there. */
  #stillBound(slot: Slot): boolean {
    if (slot.state === null) return true;
    return this.#keys.every((key, k) => {
      const tensor = slot.tensors[k]!;
      if (tensor.disposed) throw new TypeError(`${key} of ${this.#label(slot.index)} has been disposed`);
      return slot.state![key] === tensor || slot.fresh?.tensors[key] === tensor;
    });
  }

  /** Binds data and state; makes what state is missing. */
  #bindState(slot: Slot): void {
    const { param: p, job, row } = slot, keys = this.#keys, known = this.state.get(p);
    const fresh: Record<string, DeviceArray> = {};
    slot.tensors.length = 0;
    if (keys.length > 0 || this.update.scalars.length > 0) {
      slot.state = known ?? this.update.start(this.group);
      slot.fresh = known === undefined ? { entry: true, tensors: fresh } : null;
      for (const key of keys) {
        let tensor = slot.state[key] as DeviceArray | undefined;
        if (tensor === undefined) {
          tensor = fresh[key] = allocateArray(this.device, p.dtype, p.size);
          slot.fresh ??= { entry: false, tensors: fresh }; // known before the next one may fail
          tensor.fill(this.update.fill?.(this.group, key) ?? 0);
        } else {
          this.#checkState(tensor, p, `${key} of ${this.#label(slot.index)}`);
          this.stateAdded = true;
        }
        slot.tensors.push(tensor);
      }
    }
    if (p.size > 0) {
      job.bind(row, 0, slot.array.address);
      slot.tensors.forEach((tensor, k) => job.bind(row, this.#buffers[k]!, tensor.address));
    }
    this.#setFlags(slot);
    slot.bound = true;
  }

  #checkState(tensor: unknown, p: Parameter, label: string): void {
    if (tensor instanceof SparseTensor) {
      throw new TypeError(`${label} is sparse, as its gradients were: it does not go with a parameter on ${p.device}`);
    }
    if (!(tensor instanceof DeviceArray)) return checkArray(tensor, p, label); // it would have followed, were it right
    checkDeviceArray(tensor, p, label);
    this.written.checkRead(spanOf(tensor), () => label);
    this.written.add(spanOf(tensor), label);
  }

  #setFlags(slot: Slot): void {
    slot.job.setFlags(slot.row, slot.fresh === null ? this.#flags : this.#flags | this.update.freshFlags);
  }

  /** Throws if a gradient shares memory with anything that is written, state included that has been bound after it. */
  checkGradients(): void {
    for (const { grad, index } of this.#slots) {
      if (grad !== null) this.written.checkRead(spanOf(grad), () => `grad of ${this.#label(index)}`);
    }
  }

  /** The sum of the squares of each parameter's gradient, multiplied by a number first, by the parameter's place in the group. */
  squares(unscale: number): Map<number, number> {
    const found = new Map<number, number>();
    for (const job of this.#jobs) {
      const sums = job.reduce("sumSq", 1, unscale);
      for (const slot of this.#slots) if (slot.job === job && slot.active) found.set(slot.index, sums[slot.row]!);
    }
    return found;
  }

  /** Queues the kernels. */
  launch(unscale: number, clip: number): void {
    for (const job of this.#jobs) {
      const queued = new Set<number>();
      this.#queued.set(job, queued);
      job.launch(unscale, clip, (hyper) => queued.add(hyper));
    }
  }

  /**
   * Writes what a step changes: new state, and the state's numbers.
   *
   * @param all whether the step has succeeded; else only for parameters whose kernels have been queued
   * @returns how many parameters that are
   */
  commit(all: boolean): number {
    let count = 0;
    for (const slot of this.#slots) {
      const { state } = slot;
      if (!slot.active || !(all || this.#queued.get(slot.job)?.has(slot.hyper))) continue;
      count++;
      if (state === null) continue;
      if (slot.fresh !== null) {
        for (const [key, tensor] of Object.entries(slot.fresh.tensors)) {
          state[key] = tensor;
          this.written.add(spanOf(tensor), `${key} of ${this.#label(slot.index)}`);
        }
        if (slot.fresh.entry) this.state.adopt(slot.param, state);
        slot.fresh = null;
        this.#setFlags(slot);
      }
      const next = this.#rows.next(slot.hyper);
      for (const key of this.update.scalars) state[key] = next[key]!;
    }
    return count;
  }

  /** How many parameters a step updates. */
  get active(): number {
    return this.#slots.filter((slot) => slot.active).length;
  }

  /** Whether state has been made that no step has used yet. */
  get madeState(): boolean {
    return this.#slots.some(({ fresh }) => fresh !== null);
  }

  /** Gives back what the plan has on the device: its tables, room for gradients, and state that no step has used. */
  dispose(): void {
    for (const job of this.#jobs) job.dispose();
    this.#staging.dispose();
    for (const slot of this.#slots) {
      slot.uploaded = false;
      for (const tensor of Object.values(slot.fresh?.tensors ?? {})) releaseArray(tensor);
      slot.bound = false;
      slot.fresh = null;
    }
  }

  #label(index: number): string {
    return placeOf(this.group, this.index, index);
  }
}

/**
 * Moves state to where its parameters are: all of it, or none where that fails. Tensors that do not fit their parameter stay where they are.
 *
 * @param sizeOf how many elements a state tensor has to have; as many as its parameter if absent
 */
export function followParameters(
  params: readonly Parameter[],
  state: ReadonlyMap<Parameter, ParameterState>,
  sizeOf: (p: Parameter, key: string) => number | undefined = (p) => p.size,
): void {
  const moved: { entry: ParameterState; key: string; from: unknown; to: TypedArray | DeviceArray }[] = [];
  try {
    for (const p of params) {
      const entry = state.get(p), place = p.deviceArray;
      if (entry === undefined) continue;
      for (const [key, from] of Object.entries(entry)) {
        const device = from instanceof DeviceArray ? from.device : "cpu";
        if (device === p.device || !(from instanceof DeviceArray || isTypedArray(from))) continue;
        const host = from instanceof DeviceArray ? downloadArray(from, likeOf(p)) : from;
        if (!holds(host, p.dtype) || host.length !== sizeOf(p, key)) continue;
        moved.push({ entry, key, from, to: place === null ? host : uploadArray(deviceOf(place), p.dtype, host) });
      }
    }
  } catch (error) {
    for (const { to } of moved) if (to instanceof DeviceArray) releaseArray(to);
    throw error;
  }
  for (const { entry, key, from, to } of moved) {
    entry[key] = to;
    if (from instanceof DeviceArray) releaseArray(from);
  }
}
