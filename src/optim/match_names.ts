/**
 * Loading by name: turns a state dict into one that fits by position.
 *
 * @module
 */

import { checkKeys, show, StateDictError } from "../errors.ts";
import { isObject, type StateDict, type StateDictGroup } from "./state_dict.ts";

/** Options of `loadStateDict()`. */
export interface LoadOptions {
  /** How parameters are found in the state dict; default `"position"`, as in torch. */
  match?: "position" | "name";
  /** By name: whether both sides must have the same names; default true. */
  strict?: boolean;
}

/** Checks the options of `loadStateDict()`, and fills in the defaults. */
export function readLoadOptions(options: LoadOptions): Required<LoadOptions> {
  checkKeys(options, ["match", "strict"], "loadStateDict()");
  const { match = "position", strict = true } = options;
  if (match !== "position" && match !== "name") {
    throw new TypeError(`match must be "position" or "name", got ${show(match)}`);
  }
  if (typeof strict !== "boolean") throw new TypeError(`strict must be a boolean, got ${show(strict)}`);
  if (!strict && match === "position") throw new TypeError('strict must be true unless match is "name", got false');
  return { match, strict };
}

/** Where a name is in a state dict. */
interface Place {
  readonly group: StateDictGroup;
  readonly index: number;
}

function placesOf(dict: StateDict, whose: string): Map<string, Place> {
  const places = new Map<string, Place>();
  if (typeof dict !== "object" || dict === null || !Array.isArray(dict.paramGroups)) {
    throw new StateDictError(`a state dict must be { state, paramGroups }, got ${show(dict)}`);
  }
  if (!isObject(dict.state)) {
    throw new StateDictError(`state of the ${whose} must be an object, got ${show(dict.state)}`);
  }
  dict.paramGroups.forEach((group, g) => {
    if (!isObject(group)) {
      throw new StateDictError(`paramGroups[${g}] must be an object with params, got ${show(group)}`);
    }
    const names = group.paramNames, count = group.params?.length ?? 0;
    if (count === 0) return;
    if (!Array.isArray(names) || names.length !== count) {
      throw new StateDictError(
        `paramGroups[${g}] of the ${whose} has no paramNames for its ${count} params: match by position`,
      );
    }
    names.forEach((name, index) => {
      if (places.has(name)) throw new StateDictError(`the ${whose} has the name ${show(name)} twice`);
      places.set(name, { group, index });
    });
  });
  return places;
}

const list = (names: readonly string[]) => names.map(show).join(", ");

/** The options in a group of a state dict. */
function optionsOf(
  { params: _p, paramNames: _n, paramShapes: _s, paramDtypes: _d, ...options }: StateDictGroup,
): Record<string, unknown> {
  return options;
}

/**
 * A state dict with the groups and parameters of another, and the first one's state and options by name.
 *
 * @param dict the state dict that is loaded
 * @param target the optimizer's own, as it is
 * @param strict whether both must have the same names
 * @returns what to load by position
 */
export function matchByName(dict: StateDict, target: StateDict, strict: boolean): StateDict {
  const from = placesOf(dict, "state dict"), to = placesOf(target, "optimizer");
  if (strict) {
    const missing = [...to.keys()].filter((name) => !from.has(name));
    const unexpected = [...from.keys()].filter((name) => !to.has(name));
    if (missing.length > 0) throw new StateDictError(`the state dict lacks ${list(missing)}`);
    if (unexpected.length > 0) {
      throw new StateDictError(`the state dict has ${list(unexpected)}, which the optimizer has not`);
    }
  }
  const made: StateDict = { state: {}, paramGroups: [] };
  target.paramGroups.forEach((group, g) => {
    const sources = new Set<StateDictGroup>();
    const shapes = [...group.paramShapes!], dtypes = [...group.paramDtypes!];
    group.params.forEach((id, i) => {
      const place = from.get(group.paramNames![i]!);
      const entry = place ? dict.state[place.group.params[place.index]!] : target.state[id];
      if (entry !== undefined) made.state[id] = entry;
      if (!place) return;
      sources.add(place.group);
      shapes[i] = place.group.paramShapes?.[place.index] ?? shapes[i]!;
      dtypes[i] = place.group.paramDtypes?.[place.index] ?? dtypes[i]!;
    });
    const options = [...sources].map(optionsOf);
    const differ = options.find((o) => JSON.stringify(o) !== JSON.stringify(options[0]));
    if (differ) {
      throw new StateDictError(
        `the parameters of paramGroups[${g}] are in several groups of the state dict, whose options differ`,
      );
    }
    const { params, paramNames } = group;
    made.paramGroups.push({
      ...(options[0] ?? optionsOf(group)),
      params,
      paramShapes: shapes,
      paramDtypes: dtypes,
      ...(paramNames ? { paramNames } : {}),
    });
  });
  return made;
}
