/**
 * Param groups: what the constructors take, and the checks of torch's `add_param_group` and some that torch lacks.
 *
 * @module
 */

import { spanOf } from "../cuda/device_array.ts";
import { isTypedArray, type TypedArray } from "../dtype.ts";
import { describe, show } from "../errors.ts";
import { WrittenMemory } from "../memory.ts";
import { Parameter } from "../parameter.ts";
import { checkGroupKey } from "./options.ts";

/** A parameter, or a typed array that is to be wrapped as one. */
export type ParameterLike = Parameter | TypedArray;

/** A parameter with its name. */
export type NamedParameter = readonly [string, ParameterLike];

/** What schedulers and users may write into a group beside the optimizer's options. */
export interface GroupExtras {
  /** The learning rate that schedules start from; schedulers write it. */
  initialLr?: number;
  /** The learning rate that SWALR anneals to. */
  swaLr?: number;
  /** The upper rate of OneCycleLR. */
  maxLr?: number;
  /** The lower rate of OneCycleLR. */
  minLr?: number;
  /** The lower momentum of CyclicLR and OneCycleLR. */
  baseMomentum?: number;
  /** The upper momentum of CyclicLR and OneCycleLR. */
  maxMomentum?: number;
  /** A name for the group, of the user's own. */
  name?: string;
  /** Anything of the user's own. */
  meta?: unknown;
}

/** The values that schedules of other fields start from, as schedulers write them: `initialWeightDecay`, … */
export interface InitialValues {
  /** A field's. */
  [initial: `initial${string}`]: number | undefined;
}

/** The same by the names of the options there are: interfaces and classes, which have no index signature, are groups too. */
export type InitialOptions<Options> = {
  [Key in keyof Options & string as `initial${Capitalize<Key>}`]?: number | undefined;
};

/** A group as constructors take it: parameters, and options that differ from the constructor's. */
export type ParamGroupInput<Options> = Partial<Options> & GroupExtras & (InitialValues | InitialOptions<Options>) & {
  /** The group's parameters: all named, or none. */
  params: Iterable<ParameterLike | NamedParameter> | ParameterLike;
  /** Names, as groups of an optimizer have them. */
  paramNames?: readonly string[];
};

/** A pair that may be written to, of one that may not. */
export type Writable<T> = T extends readonly [infer A, infer B] ? [A, B] : T;

/** A group of an optimizer: live, and checked again at each step. */
export type ParamGroup<Options> =
  & { -readonly [Key in keyof Options]-?: Writable<Options[Key]> }
  & GroupExtras
  & InitialValues
  & {
    /** The group's parameters. */
    params: Parameter[];
    /** Their names, where they were given. */
    paramNames?: string[];
  };

/** What the first argument of an optimizer's constructor may be. */
export type ParamsInput<Options> =
  | Iterable<ParameterLike>
  | Iterable<NamedParameter>
  | Iterable<ParamGroupInput<Options>>;

const isPair = (entry: unknown): entry is [unknown, unknown] => Array.isArray(entry);
const isParameterLike = (entry: unknown): entry is ParameterLike => entry instanceof Parameter || isTypedArray(entry);

/** The groups that a constructor's first argument stands for. */
export function readParams(params: unknown): unknown[] {
  if (isParameterLike(params) || typeof params === "string" || !isIterable(params)) {
    throw new TypeError(
      `params must be an iterable of Parameters, typed arrays, [name, parameter] pairs or groups, got ${
        describe(params)
      }`,
    );
  }
  const entries = [...params];
  if (entries.length === 0) throw new RangeError("params must have at least one parameter, got none");
  const first = entries[0];
  const grouped = typeof first === "object" && first !== null && !isParameterLike(first) && !isPair(first) &&
    !ArrayBuffer.isView(first);
  return grouped ? entries : [{ params: entries }];
}

function isIterable(value: unknown): value is Iterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.iterator in value;
}

/** The parameters and names of a group's `params`; names is null where there are none. */
export function readGroupParams(params: unknown, paramNames: unknown): { params: Parameter[]; names: string[] | null } {
  if (params === undefined) throw new TypeError("a param group must have params, got none");
  if (params instanceof Set) {
    throw new TypeError("params of a group must be ordered, got a Set: its order is not part of a state dict");
  }
  const entries = isParameterLike(params) ? [params] : isIterable(params) ? [...params] : null;
  if (entries === null) {
    throw new TypeError(`params of a group must be an iterable of parameters, got ${show(params)}`);
  }
  const names: string[] = [];
  const found = entries.map((entry, i) => {
    let parameter: unknown = entry;
    if (isPair(entry)) {
      const [name, second, ...more] = entry;
      if (typeof name !== "string" || more.length > 0) {
        throw new TypeError(`params[${i}] must be a parameter or a [name, parameter] pair, got ${show(entry)}`);
      }
      names.push(name);
      parameter = second;
    }
    if (!isParameterLike(parameter)) {
      throw new TypeError(
        `params[${i}] must be a Parameter or a typed array, got ${describe(parameter)}`,
      );
    }
    return Parameter.of(parameter);
  });
  if (names.length > 0 && names.length < found.length) {
    throw new TypeError(`params must all have a name or none: ${names.length} of ${found.length} have one`);
  }
  if (paramNames !== undefined) {
    checkGroupKey("paramNames", paramNames);
    const given = paramNames as readonly string[];
    if (given.length !== found.length) {
      throw new RangeError(`paramNames must have a name for each of ${found.length} params, got ${given.length} names`);
    }
    if (names.length === 0) names.push(...given);
    const other = names.findIndex((name, i) => name !== given[i]);
    if (other >= 0) {
      throw new RangeError(
        `paramNames[${other}] must be ${show(names[other])}, as params have it, got ${show(given[other])}`,
      );
    }
  }
  return { params: found, names: names.length > 0 ? names : null };
}

interface Grouped {
  params: readonly Parameter[];
  paramNames?: string[];
  /** Of a part of a group: the places of its parameters. */
  places?: readonly number[];
}

/** A parameter's place for messages, with its name if it has one: `paramGroups[0].params[1] ("fc.bias")`. */
export function placeOf(group: Grouped, g: number, i: number): string {
  const at = group.places?.[i] ?? i, name = group.paramNames?.[at] ?? group.params[i]?.name;
  return `paramGroups[${g}].params[${at}]${name === undefined ? "" : ` (${show(name)})`}`;
}

/**
 * Throws unless groups go together: no parameter twice, all named or none, no name twice, no memory shared.
 *
 * @param groups the groups, the last of which may be new
 */
export function checkGroups(groups: readonly Grouped[]): void {
  const places = new Map<Parameter, string>(), names = new Map<string, string>();
  const memory = new WrittenMemory();
  let named: number | null = null, unnamed: number | null = null;
  groups.forEach((group, g) => {
    if (!Array.isArray(group.params)) {
      throw new TypeError(`params of paramGroups[${g}] must be an array of Parameters, got ${show(group.params)}`);
    }
    if (group.params.length > 0) {
      if (group.paramNames) named ??= g;
      else unnamed ??= g;
    }
    if (named !== null && unnamed !== null) {
      throw new TypeError(
        `param groups must all have names or none: paramGroups[${named}] has names, paramGroups[${unnamed}] has none`,
      );
    }
    group.params.forEach((p, i) => {
      const place = `paramGroups[${g}].params[${i}]`;
      if (!(p instanceof Parameter)) {
        throw new TypeError(
          `${place} must be a Parameter, got ${describe(p)}`,
        );
      }
      const array = p.deviceArray, label = `data of ${placeOf(group, g, i)}`;
      if (array === null) {
        if (isTypedArray(p.data)) memory.add(p.data, label);
      } else {
        if (array.disposed) throw new TypeError(`${label} must be there, and ${array} has been disposed`);
        memory.add(spanOf(array), label);
      }
      const name = group.paramNames?.[i];
      const other = places.get(p);
      if (other !== undefined) throw new RangeError(`a parameter must appear once, got it in ${other} and in ${place}`);
      places.set(p, place);
      if (name === undefined) return;
      const same = names.get(name);
      if (same !== undefined) {
        throw new RangeError(`a name must be one parameter's, got ${show(name)} for ${same} and ${place}`);
      }
      names.set(name, place);
    });
  });
  memory.check();
}
