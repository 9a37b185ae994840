/**
 * A group's plan: what has to be known between steps to make a step one call.
 *
 * A plan has a slot for each parameter and a job for each dtype. At each step `prepare()` looks at every array again: a
 * gradient that is another array is bound anew, one of a wrong length or kind is an error, and whatever else has been
 * replaced makes the plan stale, so that it is built again. Only then the jobs run, and `commit()` writes what has changed.
 *
 * @module
 */

import type { Backend, Job, StateMemory } from "../../ffi/backend.ts";
import { allocate, type DType, type TypedArray, writeFrom } from "../dtype.ts";
import type { WrittenMemory } from "../memory.ts";
import type { Parameter } from "../parameter.ts";
import { checkArray } from "./checks.ts";
import { HyperRows } from "./hyper_rows.ts";
import { placeOf } from "./param_group.ts";
import { SparseTensor } from "../sparse_tensor.ts";
import { refuseDense, refuseSparse, SparseRows, sparseSquares } from "./sparse_plan.ts";
import { LOOSE, MOST, SteadyState } from "./steady.ts";
import type { ParameterState, StateMap } from "./state_dict.ts";
import type { Update } from "./update.ts";

export type { Update };

const NO_STATE: Readonly<Record<string, number>> = {};
const NO_FACTORS: readonly number[] = [];

/** State that is made in this step, and enters the optimizer's map when the step has succeeded. */
interface Fresh {
  /** Whether the whole entry is new; else some tensors of it. */
  readonly entry: boolean;
  readonly tensors: Record<string, TypedArray>;
}

/** A parameter in a plan. */
interface Slot {
  readonly param: Parameter;
  readonly index: number;
  readonly data: TypedArray;
  readonly job: Job;
  readonly row: number;
  /** The gradient that is bound; null: the row is skipped. */
  grad: TypedArray | null;
  /** The state; null where the group needs none, or none is bound yet. */
  state: ParameterState | null;
  /** The state tensors that are bound. */
  readonly tensors: TypedArray[];
  fresh: Fresh | null;
  /** Whether data and state are bound. */
  bound: boolean;
  /** The row of hyperparameters. */
  hyper: number;
  /** What goes to single rows, once there was a sparse gradient. */
  rows: SparseRows | null;
  /** The sparse gradient of this step, multiplied by what the step wants. */
  sparse: SparseTensor | null;
}

/** Makes plain objects that have their properties inside: an engine gives a constructor's objects room for them. */
const State = function () {} as unknown as new () => ParameterState;
(State as unknown as { prototype: object }).prototype = Object.prototype;

function newState(numbers: Readonly<Record<string, number>>): ParameterState {
  return Object.assign(new State(), numbers);
}

/** Fills a new state tensor with a number, rounded to the dtype. */
export function fillTensor(tensor: TypedArray, dtype: DType, value: number): void {
  if (value === 0 || tensor.length === 0) return;
  writeFrom(tensor, dtype, 0, [value], 1);
  tensor.fill(tensor[0]!);
}

/** A group's plan. */
export class GroupPlan<Group extends { params: Parameter[] }> {
  /** One for each dtype. */
  readonly jobs: Job[] = [];
  /** One for each sparse gradient of the step. */
  readonly sparseJobs: Job[] = [];
  readonly #slots: Slot[];
  /** The slots whose gradient is sparse in this step. */
  readonly #sparse: Slot[] = [];
  readonly #params: readonly Parameter[];
  readonly #tensors: readonly string[];
  readonly #buffers: readonly number[]; // which of the rule's buffers each tensor is
  readonly #scalars: readonly string[];
  #flags: number;
  /** Whether state that was there already has been bound since gradients were last checked. */
  stateAdded = false;
  readonly #rows: HyperRows<Group>;
  #steady: SteadyState | null = null;
  /** Where new state is made; undefined until there is some. */
  #memory: StateMemory | null | undefined = undefined;
  /** What sparse gradients are multiplied by, one factor after the other. */
  #factors: readonly number[] = NO_FACTORS;

  constructor(
    readonly group: Group,
    readonly index: number,
    readonly backend: Backend,
    readonly update: Update<Group>,
    readonly state: StateMap,
    readonly written: WrittenMemory,
  ) {
    this.#params = group.params;
    this.#tensors = update.tensors(group);
    this.#buffers = this.#tensors.map((key) => update.rule.buffers.indexOf(`${key}:rw`));
    this.#scalars = update.scalars;
    this.#flags = update.flags(group);
    this.#rows = new HyperRows(update, (index) => this.#label(index));
    const places = new Map<DType, { job: Job; used: number }>();
    for (const { dtype } of group.params) {
      if (places.has(dtype)) continue;
      const job = backend.createJob(update.rule, dtype, group.params.filter((p) => p.dtype === dtype).length);
      places.set(dtype, { job, used: 0 });
      this.jobs.push(job);
    }
    this.#slots = group.params.map((param, index): Slot => {
      checkArray(param.data, param, `data of ${this.#label(index)}`);
      written.add(param.data, `data of ${this.#label(index)}`);
      const place = places.get(param.dtype)!, { job } = place, row = place.used++, { data } = param;
      return {
        param,
        index,
        data,
        job,
        row,
        grad: null,
        state: null,
        tensors: [],
        fresh: null,
        bound: false,
        hyper: -1,
        rows: null,
        sparse: null,
      };
    });
  }

  /**
   * Looks at every array and makes the jobs ready to run. Throws where something does not fit; changes nothing but the plan.
   *
   * @param factors what sparse gradients are multiplied by, one after the other (dense ones are as their job runs)
   * @returns false if the plan is stale and must be built again
   */
  prepare(factors: readonly number[] = NO_FACTORS): boolean {
    this.#factors = factors;
    const { group, update } = this, slots = this.#slots, params = group.params, keys = this.#tensors;
    if (params !== this.#params || params.length !== slots.length || update.tensors(group) !== keys) return false;
    const flags = update.flags(group);
    if (this.#steady !== null && flags === this.#flags && this.#prepareSteady(this.#steady)) return true;
    this.#unsettle();
    if (flags !== this.#flags) this.#setFlags(flags);
    this.#rows.clear();
    this.#sparse.length = this.sparseJobs.length = 0;
    const scalar = this.#scalars[0];
    let last: unknown = undefined, lastRow = -1;
    for (let i = 0; i < slots.length; i++) {
      const slot = slots[i]!, p = slot.param, data = p.data, grad = p.grad;
      if (params[i] !== p || data !== slot.data) return false;
      if (grad === null || grad === undefined) {
        if (slot.grad !== null) {
          slot.grad = null;
          slot.job.setLength(slot.row, 0);
        }
        continue;
      }
      if (data.length !== p.size) checkArray(data, p, `data of ${this.#label(i)}`);
      if (grad !== slot.grad) {
        if (grad instanceof SparseTensor) {
          this.#readSparse(slot, grad);
          continue;
        }
        this.#bindGrad(slot, grad);
      } else if (grad.length !== p.size) checkArray(grad, p, `grad of ${this.#label(i)}`);
      if (!slot.bound) this.#bindState(slot);
      const state = slot.state;
      if (state === null) {
        if (lastRow < 0) lastRow = this.#rows.of(this.group, NO_STATE, slot.index);
        this.#setHyper(slot, lastRow);
        continue;
      }
      if (slot.fresh === null && !this.#stillBound(slot, state)) return false;
      if (scalar === undefined || this.#scalars.length > 1 || state[scalar] !== last || lastRow < 0) {
        lastRow = this.#rows.of(this.group, state, slot.index);
        last = scalar === undefined ? undefined : state[scalar];
      }
      this.#setHyper(slot, lastRow);
    }
    for (const slot of this.#sparse) {
      if (!this.#prepareSparse(slot)) return false;
    }
    for (const job of this.jobs) job.bindHypers(this.#rows.hypers, this.#rows.count);
    for (const job of this.sparseJobs) job.bindHypers(this.#rows.hypers, this.#rows.count);
    return true;
  }

  /** The common case: nothing but gradients and numbers has changed. False: look at everything. */
  #prepareSteady(steady: SteadyState): boolean {
    const scalars = steady.first ?? NO_STATE;
    this.#rows.clear();
    const row = this.#rows.of(this.group, scalars, -1);
    if (row < 0 || !steady.raise(this.#params, this.#rows.next(row))) return false;
    for (const job of this.jobs) job.bindHypers(this.#rows.hypers, this.#rows.count);
    return true;
  }

  /** After a step in which all parameters used one row of hyperparameters: the next one may be quick. */
  #settle(): void {
    if (this.#sparse.length > 0 || this.#rows.count !== 1) return;
    if (this.#tensors.length > MOST || this.#scalars.length > MOST) return;
    this.#steady = new SteadyState(
      this.#slots,
      this.#tensors,
      this.#scalars,
      this.state,
      this.written,
      (index, grad) => {
        this.#bindGrad(this.#slots[index]!, grad);
      },
      (index, grad) => {
        this.#bindGrad(this.#slots[index]!, grad); // throws where it can name what is written
        const label = `grad of ${this.#label(index)}`;
        throw new RangeError(`${label} must not share memory with what the step writes, but they overlap`);
      },
    );
    for (const slot of this.#slots) if (slot.grad !== null) slot.grad = LOOSE; // the steady state keeps the arrays now
  }

  /** The slots know what is bound again. */
  #unsettle(): void {
    if (this.#steady === null) return;
    this.#noteGradients();
    this.state.catchUp();
    this.#steady = null;
  }

  /** Binds the gradients that `prepare()` has left for later. To be called right before the jobs run: nothing may come between. */
  bindGradients(): void {
    this.#steady?.bindGrads();
  }

  /** Notes the gradients that a steady step has bound. */
  #noteGradients(): void {
    const grads = this.#steady?.grads;
    if (grads !== undefined) { for (let i = 0; i < grads.length; i++) this.#slots[i]!.grad = grads[i]!; }
  }

  /**
   * Undoes what `prepare()` has done to numbers that can be seen.
   *
   * @returns whether it had made state: from options and a map that may be others at the next step, so the plan is of no more use
   */
  rollback(): boolean {
    this.#steady?.lower();
    return this.#steady === null && this.#slots.some(({ bound, fresh }) => bound && fresh !== null);
  }

  /** Whether the state's tensors are the bound ones; throws where one has lost its elements. */
  #stillBound(slot: Slot, state: ParameterState): boolean {
    const keys = this.#tensors;
    for (let k = 0; k < keys.length; k++) {
      const bound = slot.tensors[k]!;
      if (state[keys[k]!] !== bound) return false;
      if (bound.length !== slot.param.size) {
        checkArray(bound, slot.param, `${keys[k]} of ${this.#label(slot.index)}`);
      }
    }
    return true;
  }

  /** Reads a sparse gradient. */
  #readSparse(slot: Slot, grad: SparseTensor): void {
    const { update, group } = this, p = slot.param, label = () => `grad of ${this.#label(slot.index)}`;
    if (update.sparse === undefined) refuseSparse(update.name, label());
    update.sparse.check?.(group, label);
    slot.rows ??= new SparseRows(this.backend, update.rule, p);
    this.written.checkRead(grad.values, label);
    slot.sparse = slot.rows.scale(grad, this.#factors, label);
    slot.rows.read(slot.sparse, label);
    if (slot.grad !== null) {
      slot.grad = null;
      slot.job.setLength(slot.row, 0);
    }
    this.#sparse.push(slot);
  }

  /** The sum of the squares of each sparse gradient, as `prepare()` has multiplied it. */
  sparseSquares(): number[] {
    return this.#sparse.map((slot) => sparseSquares(slot.sparse!, this.backend));
  }

  /** Makes a sparse gradient's job ready; false if the plan is stale. */
  #prepareSparse(slot: Slot): boolean {
    const { update } = this, p = slot.param, rows = slot.rows!, key = this.#tensors[0];
    const had = key === undefined ? undefined : this.state.get(p)?.[key];
    const spread = update.sparse!.sparseState && had !== undefined && !(had instanceof SparseTensor);
    const joined = update.sparse!.sparseState && key !== undefined && !spread;
    let flags = this.#flags;
    if (joined) {
      const label = () => `${key} of ${this.#label(slot.index)}`, known = this.state.get(p);
      slot.state = known ?? update.start(this.group);
      const tensor = slot.state[key] as SparseTensor | undefined;
      if (rows.known !== null && tensor !== rows.known) return false;
      rows.join(tensor, slot.sparse!, label);
      if (tensor === undefined) {
        flags |= update.freshFlags;
      } else if (rows.known === null) {
        this.written.checkRead(tensor.values, label);
        this.written.add(tensor.values, label());
        this.stateAdded = true;
        rows.known = tensor;
      }
      slot.fresh = { entry: known === undefined, tensors: {} };
    } else {
      if (!slot.bound) this.#bindState(slot);
      else if (slot.state !== null && slot.fresh === null && !this.#stillBound(slot, slot.state)) return false;
    }
    this.#setHyper(slot, this.#rows.of(this.group, slot.state ?? NO_STATE, slot.index));
    if (joined) rows.bindJoined(rows.next ?? rows.known!, this.#buffers[0]!, slot.hyper, flags);
    else if (spread) rows.bindDense(slot.tensors, this.#buffers, slot.hyper, flags); // the state is dense: every row is stepped
    else rows.bind(slot.tensors, this.#buffers, slot.hyper, flags);
    this.sparseJobs.push(rows.job);
    return true;
  }

  /** Throws if a gradient shares memory with anything that is written, state included that has been bound after it. */
  checkGradients(): void {
    this.#noteGradients();
    for (const slot of this.#slots) {
      if (slot.grad !== null) this.written.checkRead(slot.grad, () => `grad of ${this.#label(slot.index)}`);
    }
    for (const { param, index } of this.#sparse) {
      this.written.checkRead((param.grad as SparseTensor).values, () => `grad of ${this.#label(index)}`);
    }
  }

  /** Writes what a successful step has changed: new state, and the state's numbers. */
  commit(): void {
    if (this.#steady !== null) return this.#steady.keep();
    for (const slot of this.#slots) {
      if (slot.grad !== null && slot.state !== null) this.#commitSlot(slot, slot.state);
    }
    for (const slot of this.#sparse) {
      const { state, rows } = slot;
      if (state === null) continue;
      if (rows!.next !== null) this.#adoptRows(slot, rows!, rows!.next, state);
      this.#commitSlot(slot, state);
    }
    this.#settle();
  }

  #commitSlot(slot: Slot, state: ParameterState): void {
    const keys = this.#scalars;
    if (slot.fresh !== null) this.#adopt(slot, slot.fresh, state);
    const next = this.#rows.next(slot.hyper);
    for (let k = 0; k < keys.length; k++) state[keys[k]!] = next[keys[k]!]!;
  }

  /** A sparse state tensor with new rows takes the place of the one before. */
  #adoptRows(slot: Slot, rows: SparseRows, next: SparseTensor, state: ParameterState): void {
    const key = this.#tensors[0]!;
    if (rows.known !== null) this.written.remove(rows.known.values);
    this.written.add(next.values, `${key} of ${this.#label(slot.index)}`);
    state[key] = rows.known = next;
    rows.next = null;
  }

  #setFlags(flags: number): void {
    this.#flags = flags;
    for (const slot of this.#slots) {
      slot.job.setFlags(slot.row, slot.fresh === null ? flags : flags | this.update.freshFlags);
    }
  }

  #setHyper(slot: Slot, row: number): void {
    if (slot.hyper === row) return;
    slot.hyper = row;
    slot.job.setHyper(slot.row, row);
  }

  #bindGrad(slot: Slot, grad: unknown): void {
    const p = slot.param, label = () => `grad of ${this.#label(slot.index)}`, { sparse, name } = this.update;
    if (sparse?.dense === false && !(p.grad instanceof SparseTensor)) refuseDense(name, label());
    checkArray(grad, p, label);
    this.written.checkRead(grad, label);
    slot.grad = grad;
    if (p.size > 0) {
      if (slot.job.bindHeld) slot.job.bindHeld(slot.row, 1, grad); // by the slot
      else slot.job.bind(slot.row, 1, grad);
    }
    slot.job.setLength(slot.row, p.size);
  }

  /** Binds data and state; makes what state is missing. */
  #bindState(slot: Slot): void {
    const { param: p, job, row } = slot, keys = this.#tensors;
    const known = this.state.get(p);
    let fresh: Fresh | null = null;
    if (keys.length > 0 || this.#scalars.length > 0) {
      if (known === undefined) fresh = { entry: true, tensors: {} };
      slot.state = known ?? newState(this.update.start(this.group));
      slot.tensors.length = 0;
      for (const key of keys) {
        let tensor = slot.state[key] as TypedArray | undefined;
        if (tensor === undefined) {
          tensor = this.#newTensor(slot, keys.indexOf(key));
          const fill = this.update.fill?.(this.group, key) ?? 0;
          fillTensor(tensor, p.dtype, fill);
          fresh ??= { entry: false, tensors: {} };
          fresh.tensors[key] = tensor;
          if (known === undefined) slot.state[key] = tensor; // nobody sees it yet
        } else {
          const label = `${key} of ${this.#label(slot.index)}`;
          if ((tensor as unknown) instanceof SparseTensor) {
            throw new TypeError(`${label} is sparse, as its gradients were: it does not go with a dense gradient`);
          }
          checkArray(tensor, p, label);
          this.written.checkRead(tensor, () => label); // no other tensor may be where this one is written
          this.written.add(tensor, label);
          this.stateAdded = true;
        }
        slot.tensors.push(tensor);
      }
    }
    slot.fresh = fresh;
    if (p.size > 0) {
      job.bind(row, 0, slot.data);
      slot.tensors.forEach((tensor, k) => job.bind(row, this.#buffers[k]!, tensor));
    }
    job.setFlags(row, fresh === null ? this.#flags : this.#flags | this.update.freshFlags);
    slot.bound = true;
  }

  /** A state tensor of zeros, where the backend likes it to be. */
  #newTensor({ param: p }: Slot, key: number): TypedArray {
    if (this.#memory === undefined) {
      const without = this.#params.filter((p) => !this.state.has(p));
      this.#memory = this.backend.stateMemory?.(without, this.#tensors.length) ?? null;
    }
    return this.#memory?.allocate(key, p.dtype, p.size, p.data) ?? allocate(p.dtype, p.size, p.data);
  }

  /** New state becomes part of the optimizer's. */
  #adopt(slot: Slot, fresh: Fresh, state: ParameterState): void {
    for (const [key, tensor] of Object.entries(fresh.tensors)) {
      state[key] = tensor;
      this.written.add(tensor, `${key} of ${this.#label(slot.index)}`);
    }
    if (fresh.entry) this.state.adopt(slot.param, state);
    slot.fresh = null;
    if (this.update.freshFlags !== 0) slot.job.setFlags(slot.row, this.#flags);
  }

  #label(index: number): string {
    return placeOf(this.group, this.index, index);
  }
}
