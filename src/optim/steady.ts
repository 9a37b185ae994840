/**
 * The steady state of a group: what a step looks like when nothing but numbers has changed since the last one.
 *
 * Most steps are of this kind, and with thousands of small tensors what costs time is not arithmetic but fetching the
 * objects to look at. So everything is looked at in one pass, against arrays of what was there before, and the counts are
 * raised in the same pass; they are put back if the step fails.
 *
 * @module
 */

import type { TypedArray } from "../dtype.ts";
import type { Parameter } from "../parameter.ts";
import { SparseTensor } from "../sparse_tensor.ts";
import type { ParameterState } from "./state_dict.ts";

type Scalars = Readonly<Record<string, number>>;
type Grad = TypedArray | SparseTensor;

/** A parameter as it was bound. */
export interface Bound {
  readonly param: Parameter;
  readonly data: TypedArray;
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

/** A group whose parameters all start their step from the same numbers. */
export class SteadyState {
  readonly #params: readonly Parameter[];
  readonly #data: readonly TypedArray[];
  readonly #grads: (TypedArray | null)[];
  readonly #states: readonly (ParameterState | null)[];
  readonly #sizes: readonly number[];
  /** The state's tensors, by their place among the keys. */
  readonly #tensors: readonly (readonly (TypedArray | undefined)[])[];
  /** The memory of all of them, where a look at it says that they have their elements; null: each is looked at. */
  readonly #blocks: readonly ArrayBufferLike[] | null;
  readonly #blockBytes: readonly number[];
  readonly #first: ParameterState | null;
  #start: Scalars = {};
  /** How many states have been raised. */
  #raised = 0;

  /**
   * @param bound the group's parameters
   * @param keys the names of the state's tensors
   * @param scalars the names of its numbers
   * @param rebind binds another gradient to a parameter, or throws
   */
  constructor(
    bound: readonly Bound[],
    readonly keys: readonly string[],
    readonly scalars: readonly string[],
    readonly rebind: (index: number, grad: Grad) => void,
  ) {
    this.#params = bound.map((b) => b.param);
    this.#data = bound.map((b) => b.data);
    this.#grads = bound.map((b) => b.grad);
    this.#states = bound.map((b) => b.grad === null ? null : b.state);
    this.#sizes = bound.map((b) => b.param.size);
    this.#tensors = keys.map((_, k) => bound.map((b) => b.tensors[k]));
    this.#blocks = blocksOf(this.#tensors);
    this.#blockBytes = this.#blocks?.map((block) => block.byteLength) ?? [];
    this.#first = this.#states.find((state) => state !== null) ?? null;
  }

  /** The numbers that the step starts from; null where there are none. */
  get first(): Scalars | null {
    return this.#first as Scalars | null;
  }

  /**
   * Whether everything is as it was, but for gradients that are other arrays. Raises the states' numbers as it goes; if
   * something has changed, they are as before.
   *
   * @param next the numbers after the step
   */
  raise(params: readonly Parameter[], next: Scalars): boolean {
    const { scalars } = this, first = this.#first;
    const start: Record<string, number> = {};
    if (first !== null) { for (const key of scalars) start[key] = first[key] as number; }
    this.#start = start;
    this.#raised = 0;
    let fine = false;
    try {
      fine = params.length === this.#params.length && this.#blocksAreThere() &&
        (scalars.length <= 1 && this.keys.length <= 3
          ? this.#raiseOne(params, scalars[0], start[scalars[0]!], next[scalars[0]!])
          : this.#raiseAny(params, start, next));
    } finally {
      if (!fine) this.lower();
    }
    return fine;
  }

  /** The common case, at most a single number and three tensors, without inner loops. */
  #raiseOne(
    params: readonly Parameter[],
    scalar: string | undefined,
    before: number | undefined,
    after: number | undefined,
  ): boolean {
    const members = this.#params, datas = this.#data, grads = this.#grads, states = this.#states, sizes = this.#sizes;
    const each = this.#blocks === null;
    const [key0, key1, key2] = this.keys, [list0, list1, list2] = this.#tensors, count = members.length;
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
      if (scalar === undefined) continue;
      if (state[scalar] !== before) return false;
      state[scalar] = after!;
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

  #raiseAny(params: readonly Parameter[], start: Scalars, next: Scalars): boolean {
    const { keys, scalars } = this;
    for (let i = 0; i < this.#params.length; i++) {
      const p = this.#params[i]!, n = this.#sizes[i]!, { data, grad } = p;
      if (params[i] !== p || data !== this.#data[i] || data.length !== n) return false;
      if (grad !== this.#grads[i]) {
        if (!this.#another(i, grad as Grad | null)) return false; // a DeviceArray is refused there
      } else if (grad === null) {
        continue;
      } else if ((grad as TypedArray).length !== n) return false;
      const state = this.#states[i];
      if (state === null || state === undefined) continue;
      for (let k = 0; k < keys.length; k++) {
        const tensor = this.#tensors[k]![i]!;
        if (state[keys[k]!] !== tensor || tensor.length !== n) return false;
      }
      for (let k = 0; k < scalars.length; k++) if (state[scalars[k]!] !== start[scalars[k]!]) return false;
      for (let k = 0; k < scalars.length; k++) state[scalars[k]!] = next[scalars[k]!]!;
      this.#raised = i + 1;
    }
    return true;
  }

  /** Another gradient array is bound in place of the last; false where there was none, or is none now. */
  #another(index: number, grad: Grad | null | undefined): boolean {
    if (grad === null || grad === undefined || this.#grads[index] === null || grad instanceof SparseTensor) {
      return false;
    }
    this.rebind(index, grad);
    this.#grads[index] = grad;
    return true;
  }

  /** The step has succeeded: the numbers stay as they are. */
  keep(): void {
    this.#raised = 0;
  }

  /** Puts the numbers back that were raised. */
  lower(): void {
    for (let i = 0; i < this.#raised; i++) {
      const state = this.#states[i];
      if (state === null || state === undefined) continue;
      for (const key of this.scalars) state[key] = this.#start[key]!;
    }
    this.#raised = 0;
  }
}
