/**
 * The steady state of a group: what a step looks like when nothing but numbers has changed since the last one.
 *
 * Most steps are of this kind, and with thousands of small tensors what costs time is not arithmetic but fetching the
 * objects to look at. So everything is looked at in one pass, against arrays of what was there before, and the counts are
 * raised in the same pass; they are put back if the step fails.
 *
 * As long as nobody outside has seen the optimizer's state, nobody can have changed it: then it is not looked at, and the
 * counts, which are the same for all, are kept here until somebody asks for them.
 *
 * @module
 */

import { type Binder, type Job, TOGETHER } from "../../ffi/backend.ts";
import { holds, type TypedArray } from "../dtype.ts";
import type { WrittenMemory } from "../memory.ts";
import type { Parameter } from "../parameter.ts";
import { SparseTensor } from "../sparse_tensor.ts";
import type { ParameterState, StateMap } from "./state_dict.ts";

type Scalars = Readonly<Record<string, number>>;
type Grad = TypedArray | SparseTensor;

/** A parameter as it was bound. */
export interface Bound {
  readonly param: Parameter;
  readonly data: TypedArray;
  /** Where it is bound. */
  readonly job: Job;
  readonly row: number;
  /** The gradient; null: the parameter was skipped. */
  readonly grad: TypedArray | null;
  readonly state: ParameterState | null;
  readonly tensors: readonly TypedArray[];
}

/**
 * The buffers of tensors, where there are much fewer of them than tensors and none is resizable: a view of such a buffer has
 * its elements as long as the buffer has its bytes. Else null.
 */
function blocksOf(lists: readonly (readonly (TypedArray | undefined)[])[]): ArrayBufferLike[] | null {
  const blocks = new Set<ArrayBufferLike>();
  let tensors = 0;
  for (const list of lists) {
    for (const tensor of list) {
      if (tensor === undefined) continue;
      tensors++;
      const { buffer } = tensor as { buffer: ArrayBufferLike & { resizable?: boolean; growable?: boolean } };
      if (buffer.resizable || buffer.growable) return null;
      blocks.add(buffer);
      if (blocks.size > 64 && blocks.size * 8 > tensors) return null;
    }
  }
  return blocks.size * 8 <= tensors ? [...blocks] : null;
}

/** Stands for a gradient that is not bound any more, or not yet. */
export const LOOSE: TypedArray = new Float32Array(0);

/** More state tensors or numbers than these no rule has; with more, every step looks at everything. */
export const MOST = 3;

/** A group whose parameters all start their step from the same numbers. */
export class SteadyState {
  readonly #params: readonly Parameter[];
  readonly #data: readonly TypedArray[];
  readonly #jobs: readonly Job[];
  readonly #rows: readonly number[];
  /**
   * The gradients that are bound, or will be by `bindGrads()`. LOOSE: it has to be bound again at the next step, since its
   * elements may move meanwhile.
   */
  readonly grads: (TypedArray | null)[];
  /** What binds gradients that are new; null: each is bound by itself. */
  readonly #binders: readonly (Binder | null)[];
  /** The gradients that are LOOSE; null where none moves. */
  readonly #held: (TypedArray | null)[] | null;
  /** Whether some are. */
  #loose = false;
  /** New gradients before this one are bound. */
  #bound = 0;
  readonly #states: readonly (ParameterState | null)[];
  readonly #sizes: readonly number[];
  /** The state's tensors, by their place among the keys. */
  readonly #tensors: readonly (readonly (TypedArray | undefined)[])[];
  /** The memory of all of them, where a look at it says that they have their elements; null: each is looked at. */
  readonly #blocks: readonly ArrayBufferLike[] | null;
  readonly #blockBytes: readonly number[];
  readonly #first: ParameterState | null;
  /** The numbers that the step starts from. */
  #start: Record<string, number>;
  /** The numbers after the step; null outside of one, and where they have been written into the states. */
  #next: Record<string, number> | null = null;
  /** Whether the states' numbers are behind `#start`. */
  #behind = false;
  /** How many states have been raised. */
  #raised = 0;

  /**
   * @param bound the group's parameters
   * @param keys the names of the state's tensors
   * @param scalars the names of its numbers
   * @param state the optimizer's state
   * @param written the memory that the step writes
   * @param bindGrad binds another gradient to a parameter with every check, or throws
   * @param refuse throws, for a gradient that shares memory with what is written
   */
  constructor(
    bound: readonly Bound[],
    readonly keys: readonly string[],
    readonly scalars: readonly string[],
    readonly state: StateMap,
    readonly written: WrittenMemory,
    readonly bindGrad: (index: number, grad: Grad) => void,
    readonly refuse: (index: number, grad: TypedArray) => never,
  ) {
    this.#params = bound.map((b) => b.param);
    this.#data = bound.map((b) => b.data);
    this.#jobs = bound.map((b) => b.job);
    this.#rows = bound.map((b) => b.row);
    this.grads = bound.map((b) => b.grad);
    this.#states = bound.map((b) => b.grad === null ? null : b.state);
    this.#sizes = bound.map((b) => b.param.size);
    const binders = new Map([...new Set(this.#jobs)].map((job) => [job, job.binder?.(1, written) ?? null]));
    this.#binders = bound.map(({ job, param }) => {
      const binder = binders.get(job) ?? null;
      return binder?.takes(param.size) ? binder : null;
    });
    this.#held = this.#binders.some((binder) => binder?.moves) ? bound.map(() => null) : null;
    this.#tensors = keys.map((_, k) => bound.map((b) => b.tensors[k]));
    this.#blocks = blocksOf(this.#tensors);
    this.#blockBytes = this.#blocks?.map((block) => block.byteLength) ?? [];
    this.#first = this.#states.find((state) => state !== null) ?? null;
    this.#start = Object.fromEntries(scalars.map((key) => [key, this.#first?.[key] as number]));
  }

  /** The numbers that the step starts from; null where there are none. */
  get first(): Scalars | null {
    return this.#first === null ? null : this.state.seen ? this.#first as Scalars : this.#start;
  }

  /**
   * Whether everything is as it was, but for gradients that are other arrays. Raises the states' numbers as it goes; if
   * something has changed, they are as before.
   *
   * @param next the numbers after the step
   */
  raise(params: readonly Parameter[], next: Record<string, number>): boolean {
    const { scalars } = this, first = this.#first, start = this.#start;
    this.#bound = 0;
    this.#loose = false;
    if (!this.state.seen) {
      this.#next = next;
      const same = this.#sameArrays(params);
      if (!same) this.#drop();
      return same;
    }
    if (first !== null) { for (const key of scalars) start[key] = first[key] as number; }
    this.#raised = 0;
    let fine = false;
    try {
      fine = params.length === this.#params.length && this.#blocksAreThere() && this.#raiseAll(params, start, next);
    } finally {
      if (!fine) this.lower();
    }
    if (!fine) this.#drop();
    return fine;
  }

  /** Whether parameters and gradients are the arrays that they were. New gradients that follow upon each other are bound together. */
  #sameArrays(params: readonly Parameter[]): boolean {
    const members = this.#params, datas = this.#data, grads = this.grads, sizes = this.#sizes, count = members.length;
    const binders = this.#binders, later = this.#held !== null;
    let last: Binder | null = null, run = 0;
    if (params.length !== count) return false;
    for (let i = 0; i < count; i++) {
      const p = members[i]!;
      if (params[i] !== p) return false;
      const data = p.data, grad = p.grad, n = sizes[i]!;
      if (data !== datas[i] || data.length !== n) return false;
      if (grad !== grads[i]) {
        const binder = binders[i]!;
        if (
          binder !== null && !later && grads[i] !== null && holds(grad, binder.dtype) && grad.length === n
        ) { // in place: a call costs as much as all of it
          if (binder !== last) {
            if (run > 0) this.#bindRun(last!, i - run, i, grads);
            last = binder;
            run = 0;
          }
          grads[i] = grad;
          if (++run === TOGETHER) {
            this.#bindRun(binder, i + 1 - TOGETHER, i + 1, grads);
            run = 0;
          }
          continue;
        }
        if (!this.#another(i, grad as Grad | null)) return false; // a DeviceArray is refused there
      } else if (grad !== null && (grad as TypedArray).length !== n) return false;
      if (run > 0) {
        this.#bindRun(last!, i - run, i, grads);
        run = 0;
      }
    }
    if (run > 0) this.#bindRun(last!, count - run, count, grads);
    return true;
  }

  /** At most MOST numbers and tensors, without inner loops and without numbers that need memory. */
  #raiseAll(params: readonly Parameter[], start: Scalars, next: Scalars): boolean {
    const members = this.#params, datas = this.#data, grads = this.grads, states = this.#states, sizes = this.#sizes;
    const each = this.#blocks === null;
    const [key0, key1, key2] = this.keys, [list0, list1, list2] = this.#tensors, count = members.length;
    const [scalar0, scalar1, scalar2] = this.scalars;
    const before0 = start[scalar0!], before1 = start[scalar1!], before2 = start[scalar2!];
    const after0 = next[scalar0!], after1 = next[scalar1!], after2 = next[scalar2!];
    for (let i = 0; i < count; i++) {
      const p = members[i]!;
      if (params[i] !== p) return false;
      const data = p.data, grad = p.grad, n = sizes[i]!;
      if (data !== datas[i] || data.length !== n) return false;
      if (grad !== grads[i]) {
        if (!this.#another(i, grad as Grad | null)) return false; // a DeviceArray is refused there
      } else if (grad === null) {
        continue;
      } else if ((grad as TypedArray).length !== n) return false;
      const state = states[i];
      if (state === null || state === undefined) continue;
      if (list0 !== undefined) {
        const tensor = list0[i]!;
        if (state[key0!] !== tensor || (each && tensor.length !== n)) return false;
      }
      if (list1 !== undefined) {
        const tensor = list1[i]!;
        if (state[key1!] !== tensor || (each && tensor.length !== n)) return false;
      }
      if (list2 !== undefined) {
        const tensor = list2[i]!;
        if (state[key2!] !== tensor || (each && tensor.length !== n)) return false;
      }
      if (scalar0 === undefined) continue;
      if (state[scalar0] !== before0) return false;
      if (scalar1 !== undefined && state[scalar1] !== before1) return false;
      if (scalar2 !== undefined && state[scalar2] !== before2) return false;
      state[scalar0] = after0!;
      if (scalar1 !== undefined) state[scalar1] = after1!;
      if (scalar2 !== undefined) state[scalar2] = after2!;
      this.#raised = i + 1;
    }
    return true;
  }

  /** Whether the memory of the state's tensors has not been taken away. */
  #blocksAreThere(): boolean {
    const blocks = this.#blocks, bytes = this.#blockBytes;
    if (blocks !== null) {
      for (let i = 0; i < blocks.length; i++) {
        if (blocks[i]!.byteLength !== bytes[i]) return false;
      }
    }
    return true;
  }

  /** Another gradient array takes the place of the last; false where there was none, or is none now. */
  #another(index: number, grad: Grad | null | undefined): boolean {
    const binder = this.#binders[index]!;
    if (
      this.#held !== null && binder !== null && this.grads[index] !== null && holds(grad, binder.dtype) &&
      grad.length === this.#sizes[index]
    ) return this.#hold(index, grad, this.#held);
    return this.#bind(index, grad);
  }

  /** Binds the gradients of some parameters that follow upon each other, all of them in one job. */
  #bindRun(binder: Binder, from: number, to: number, arrays: readonly (TypedArray | null)[]): void {
    if (binder.ready()) {
      const refused = binder.bind(this.#rows[from]!, to - from, arrays, from);
      if (refused >= 0) this.refuse(refused, arrays[refused]!);
    } else {
      for (let i = from; i < to; i++) this.#bind(i, arrays[i]);
    }
    this.#bound = to;
  }

  /** Keeps a gradient that is bound later; one that was there at the last step has come to stay. */
  #hold(index: number, grad: TypedArray, held: (TypedArray | null)[]): boolean {
    if (held[index] === grad) return this.#bind(index, grad);
    held[index] = grad;
    this.grads[index] = LOOSE;
    this.#loose = true;
    return true;
  }

  /** Binds a gradient by itself; false where there was none, is none now, or it is sparse. */
  #bind(index: number, grad: Grad | null | undefined): boolean {
    if (grad === null || grad === undefined || this.grads[index] === null) return false;
    const job = this.#jobs[index]!, n = this.#sizes[index]!;
    if (n > 0 && job.bindHeld && holds(grad, job.dtype) && grad.length === n && !this.written.has(grad.buffer)) {
      job.bindHeld(this.#rows[index]!, 1, grad);
    } else {
      if (grad instanceof SparseTensor) return false;
      this.bindGrad(index, grad);
    }
    if (this.#held !== null) this.#held[index] = null;
    this.grads[index] = grad as TypedArray;
    return true;
  }

  /**
   * Binds the gradients that are LOOSE. Comes last, since nobody may read the `buffer` of one until the step has run; where
   * that has happened all the same, it may be called again.
   */
  bindGrads(): void {
    if (!this.#loose) return;
    const { grads } = this, binders = this.#binders, held = this.#held!, count = grads.length;
    for (let from = 0, to = 0; to < count; from = to) {
      const binder = binders[from]!;
      for (; to < count && to - from < TOGETHER && grads[to] === LOOSE && binders[to] === binder; to++);
      if (to > from) this.#bindRun(binder, from, to, held);
      else to++;
    }
  }

  /** After a pass that has ended early: gradients may not be bound from the last run on. */
  #drop(): void {
    const { grads } = this;
    for (let i = this.#bound; i < grads.length; i++) if (grads[i] !== null) grads[i] = LOOSE;
  }

  /** The step has succeeded: the numbers stay as they are. */
  keep(): void {
    this.#raised = 0;
    const next = this.#next;
    if (next === null) return;
    this.#next = null;
    if (this.#first === null) return;
    this.#start = next;
    if (this.#behind) return;
    this.#behind = true;
    this.state.fallBehind(this);
    if (this.state.seen) this.state.catchUp(); // somebody has looked while the arrays were looked at: a getter of theirs
  }

  /** Writes numbers into the states that are behind. */
  catchUp(): void {
    if (!this.#behind) return;
    this.#behind = false;
    for (const state of this.#states) {
      if (state !== null) { for (const key of this.scalars) state[key] = this.#start[key]!; }
    }
    this.#start = { ...this.#start }; // no other's object: steps write into it now
  }

  /** Puts the numbers back that were raised. */
  lower(): void {
    this.#next = null;
    for (let i = 0; i < this.#raised; i++) {
      const state = this.#states[i];
      if (state === null || state === undefined) continue;
      for (const key of this.scalars) state[key] = this.#start[key]!;
    }
    this.#raised = 0;
  }
}
