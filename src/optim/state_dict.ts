/**
 * State dicts: made as snapshots, read with every check that torch leaves out.
 *
 * @module
 */

import { DeviceArray, downloadArray, releaseArray } from "../cuda/device_array.ts";
import {
  allocate,
  type DType,
  fromBfloat16,
  fromFloat16,
  holds,
  isTypedArray,
  type TypedArray,
  writeFrom,
} from "../dtype.ts";
import { describe, show, StateDictError } from "../errors.ts";
import type { Parameter } from "../parameter.ts";
import { plainSparse, type SparseData, SparseTensor } from "../sparse_tensor.ts";
import { isGroupKey } from "./options.ts";

/**
 * One entry of a parameter's state: a count or other number, a tensor, or a list of them (LBFGS's history). A sparse one is a {@linkcode SparseTensor} in
 * `optimizer.state` and plain data in a state dict; a parameter's on a device is a {@linkcode DeviceArray} in `optimizer.state` and a typed array in a
 * state dict.
 */
export type StateValue = number | TypedArray | SparseData | TypedArray[] | number[] | DeviceArray;

/** A parameter's state, by torch's names in camelCase. */
export type ParameterState = Record<string, StateValue>;

/** A group in a state dict: options, and the numbers of its parameters. */
export interface StateDictGroup {
  /** The group's parameters, numbered over all groups in order. */
  params: number[];
  /** Their names, where they have any. */
  paramNames?: string[];
  /** Their shapes; checked when the state dict is loaded. */
  paramShapes?: number[][];
  /** Their dtypes; checked when the state dict is loaded. */
  paramDtypes?: DType[];
  /** The group's options. */
  [option: string]: unknown;
}

/** What `stateDict()` gives and `loadStateDict()` takes. */
export interface StateDict {
  /** State by parameter number; a parameter without state has no entry. */
  state: Record<number, ParameterState>;
  /** The groups. */
  paramGroups: StateDictGroup[];
}

/** Who has numbers of entries that are not written yet. */
interface Behind {
  /** Writes them. */
  catchUp(): void;
}

/**
 * A Map that counts its changes, so that a step notices when a parameter's state is replaced, and that knows whether anybody
 * but the optimizer has seen it: as long as nobody has, its entries cannot have been changed, and their numbers need not be
 * written at each step.
 */
export class StateMap extends Map<Parameter, ParameterState> {
  /** Raised by every change. */
  version = 0;
  /** Whether somebody may hold entries. */
  seen = false;
  readonly #behind = new Set<Behind>();
  /** The map for somebody who looks at it, and may change everything from then on. */
  show(): this {
    this.seen = true;
    this.catchUp();
    return this;
  }
  /** Every number is as it must be. */
  catchUp(): void {
    if (this.#behind.size === 0) return;
    for (const part of this.#behind) part.catchUp();
    this.#behind.clear();
  }
  /** Notes somebody who has numbers that are not written yet. */
  fallBehind(part: Behind): void {
    this.#behind.add(part);
  }
  override set(p: Parameter, state: ParameterState): this {
    this.version++;
    return super.set(p, state);
  }
  override delete(p: Parameter): boolean {
    this.version++;
    return super.delete(p);
  }
  override clear(): void {
    this.version++;
    super.clear();
  }
  /** Sets an entry that the caller knows of. */
  adopt(p: Parameter, state: ParameterState): void {
    super.set(p, state);
  }
}

/** Options that say how steps are run, not what they do: no state. */
const NO_STATE = new Set(["foreach", "fused", "capturable", "differentiable"]);

interface Group {
  readonly params: readonly Parameter[];
}

/** A snapshot of groups and state; `live`: with the state's own arrays, for a save that copies nothing. */
export function makeStateDict(
  groups: readonly Group[],
  state: ReadonlyMap<Parameter, ParameterState>,
  live = false,
): StateDict {
  const dict: StateDict = { state: {}, paramGroups: [] };
  let id = 0;
  for (const [g, group] of groups.entries()) {
    const saved: Record<string, unknown> = {};
    for (const [key, value] of Object.entries(group)) {
      if (key !== "params" && !NO_STATE.has(key)) {
        saved[key] = typeof value === "object" ? copyOf(value, `paramGroups[${g}].${key}`, TypeError) : value;
      }
    }
    const params: number[] = [];
    for (const p of group.params) {
      const entry = state.get(p);
      if (entry) dict.state[id] = live && !isOnDevice(entry) ? entry : copyState(entry);
      params.push(id++);
    }
    dict.paramGroups.push({
      ...saved,
      params,
      paramShapes: group.params.map((p) => [...p.shape]),
      paramDtypes: group.params.map((p) => p.dtype),
    });
  }
  return dict;
}

/** Gives back what state holds in the memory of devices. */
export function releaseState(entries: Iterable<ParameterState>): void {
  for (const entry of entries) {
    for (const value of Object.values(entry)) if (value instanceof DeviceArray) releaseArray(value);
  }
}

function isOnDevice(entry: ParameterState): boolean {
  return Object.values(entry).some((value) => value instanceof DeviceArray);
}

function copyState(entry: ParameterState): ParameterState {
  const copy: ParameterState = {};
  for (const [key, value] of Object.entries(entry)) {
    if (isTypedArray(value)) copy[key] = value.slice();
    else if (value instanceof SparseTensor) copy[key] = plainSparse(value);
    else if (value instanceof DeviceArray) copy[key] = downloadArray(value);
    else copy[key] = typeof value === "object" ? structuredClone(value) : value;
  }
  return copy;
}

/** Whether something is an object with keys: neither an array nor a Map, whose entries nobody would read. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && (ArrayBuffer.isView(value) || !(Symbol.iterator in value));
}

/** A copy of what may be anything, of a state dict or of the user's own. */
function copyOf(
  value: unknown,
  where: string,
  Problem: new (message: string, options: ErrorOptions) => Error,
): unknown {
  try {
    return structuredClone(value);
  } catch (error) {
    const problem = `${where} must be plain data, which structuredClone() copies: ${(error as Error).message}`;
    throw new Problem(problem, { cause: error });
  }
}

/**
 * Reads a state dict for given groups; throws a StateDictError unless everything fits, and changes nothing.
 *
 * @param dict the state dict
 * @param groups the optimizer's groups
 * @param schema the optimizer's options
 * @param readState makes a parameter's state of an entry
 * @param checkOptions throws unless a group's options are as they must be
 * @returns the groups as they are to be, and each parameter's state
 */
export function readStateDict(
  dict: unknown,
  groups: readonly Group[],
  schema: object,
  readState: (entry: Record<string, unknown>, p: Parameter, where: string) => ParameterState,
  checkOptions: (group: Record<string, unknown>) => void,
): { groups: Record<string, unknown>[]; state: Map<Parameter, ParameterState> } {
  if (!isObject(dict) || !isObject(dict["state"]) || !Array.isArray(dict["paramGroups"])) {
    const shown = isObject(dict) && dict["state"] instanceof Map ? "{ state: a Map }" : show(dict);
    throw new StateDictError(`a state dict must be { state, paramGroups }, got ${shown}`);
  }
  const saved = dict["paramGroups"] as unknown[];
  if (saved.length !== groups.length) {
    throw new StateDictError(`the state dict has ${saved.length} paramGroups, the optimizer has ${groups.length}`);
  }
  const byId = new Map<string, Parameter>();
  const read = groups.map((group, g) => {
    const entry = saved[g], where = `paramGroups[${g}]`;
    if (!isObject(entry) || !Array.isArray(entry["params"])) {
      throw new StateDictError(`${where} must be an object with params, got ${show(entry)}`);
    }
    const ids = entry["params"] as unknown[];
    if (ids.length !== group.params.length) {
      throw new StateDictError(
        `${where} has ${ids.length} params in the state dict, ${group.params.length} in the optimizer`,
      );
    }
    checkParameters(entry, group.params, where);
    ids.forEach((id, i) => {
      if (byId.has(String(id))) throw new StateDictError(`${where}.params has ${show(id)} twice`);
      byId.set(String(id), group.params[i]!);
    });
    return readGroup(entry, group as unknown as Record<string, unknown>, schema, where, checkOptions);
  });
  const state = new Map<Parameter, ParameterState>();
  for (const [id, entry] of Object.entries(dict["state"])) {
    const p = byId.get(id);
    if (p === undefined) throw new StateDictError(`state[${id}] belongs to no parameter of paramGroups`);
    if (!isObject(entry)) throw new StateDictError(`state[${id}] must be an object, got ${show(entry)}`);
    state.set(p, readState(entry, p, `state[${id}]`));
  }
  return { groups: read, state };
}

/** Shapes and dtypes, where the state dict has them. */
function checkParameters(entry: Record<string, unknown>, params: readonly Parameter[], where: string): void {
  const { paramShapes, paramDtypes } = entry;
  for (const [key, list] of Object.entries({ paramShapes, paramDtypes })) {
    if (list !== undefined && !Array.isArray(list)) {
      throw new StateDictError(`${where}.${key} must be an array, got ${show(list)}`);
    }
  }
  params.forEach((p, i) => {
    if (Array.isArray(paramShapes)) {
      const shape = paramShapes[i] as unknown;
      if (!Array.isArray(shape) || shape.length !== p.shape.length || shape.some((n, k) => n !== p.shape[k])) {
        throw new StateDictError(
          `${where}.params[${i}] has shape ${show(shape)} in the state dict, ${show(p.shape)} in the optimizer`,
        );
      }
    }
    if (Array.isArray(paramDtypes) && paramDtypes[i] !== p.dtype) {
      throw new StateDictError(
        `${where}.params[${i}] is ${show(paramDtypes[i])} in the state dict, ${p.dtype} in the optimizer`,
      );
    }
  });
}

function readGroup(
  entry: Record<string, unknown>,
  group: Record<string, unknown>,
  schema: object,
  where: string,
  checkOptions: (group: Record<string, unknown>) => void,
): Record<string, unknown> {
  const read: Record<string, unknown> = { params: group["params"] };
  for (const key of Object.keys(schema)) read[key] = group[key];
  if (group["paramNames"] !== undefined) read["paramNames"] = group["paramNames"];
  for (const [key, value] of Object.entries(entry)) {
    if (key === "params" || key === "paramShapes" || key === "paramDtypes" || key === "foreach" || key === "fused") {
      continue;
    }
    if (key === "capturable" || key === "differentiable") {
      if (value) {
        throw new StateDictError(`${where}.${key} must be false, got ${show(value)}: there is no such thing here`);
      }
      continue;
    }
    if (!Object.hasOwn(schema, key) && !isGroupKey(key, schema)) {
      throw new StateDictError(
        `${where}.${key} is no option of this optimizer; it has ${Object.keys(schema).join(", ")}`,
      );
    }
    read[key] = copyOf(value, `${where}.${key}`, StateDictError);
  }
  const names = read["paramNames"], count = (read["params"] as unknown[]).length;
  if (names !== undefined && (!Array.isArray(names) || names.length !== count)) {
    throw new StateDictError(`${where}.paramNames must have a name for each of ${count} params, got ${show(names)}`);
  }
  try {
    checkOptions(read);
  } catch (error) {
    throw new StateDictError(`${where}: ${(error as Error).message}`, { cause: error });
  }
  return read;
}

/**
 * A state tensor of a parameter from whatever a state dict has for it: a typed array, numbers, an array-like object (as
 * JSON makes of a typed array), or `{ dtype, data }`. Cast to the parameter's dtype, as torch does; always a copy. `measure`
 * is what has `p.size` elements, for the message.
 */
export function readTensor(
  value: unknown,
  p: Pick<Parameter, "data" | "dtype" | "size">,
  where: string,
  measure = "its parameter",
): TypedArray {
  let source = value, dtype: unknown = undefined;
  if (isObject(source) && !ArrayBuffer.isView(source) && "data" in source) ({ data: source, dtype } = source);
  if (isObject(source) && !ArrayBuffer.isView(source) && Object.keys(source).every((key, i) => key === String(i))) {
    source = Object.values(source); // what JSON makes of a typed array
    if (p.data instanceof Uint16Array) source = Uint16Array.from(source as number[]);
  }
  if (!isTypedArray(source) && !(Array.isArray(source) && source.every((x) => typeof x === "number"))) {
    throw new StateDictError(
      `${where} must be a typed array of ${p.size}, got ${describe(value)}`,
    );
  }
  if (source.length !== p.size) {
    throw new StateDictError(`${where} has ${source.length} elements, ${measure} has ${p.size}`);
  }
  const tensor = allocate(p.dtype, p.size, p.data);
  if (isTypedArray(source) && holds(source, p.dtype) && (dtype === undefined || dtype === p.dtype)) {
    if (source instanceof Uint16Array === tensor instanceof Uint16Array) tensor.set(source);
    else if (source instanceof Uint16Array) source.forEach((h, i) => tensor[i] = fromFloat16(h));
    else writeFrom(tensor, p.dtype, 0, source, p.size);
    return tensor;
  }
  if (source instanceof Uint16Array) {
    if (dtype !== "bfloat16" && dtype !== "float16") {
      throw new StateDictError(`${where} is a Uint16Array of an unknown dtype, its parameter is ${p.dtype}`);
    }
    source = Array.from(source, dtype === "bfloat16" ? fromBfloat16 : fromFloat16);
  }
  writeFrom(tensor, p.dtype, 0, source as ArrayLike<number>, p.size);
  return tensor;
}
