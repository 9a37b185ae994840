/**
 * What a pickle's values become: torch's names in camelCase inside of optimizer and scheduler state, and whatever the marks say
 * that a save has left. Where there are none, which is what torch writes, state dicts are told by their keys.
 *
 * @module
 */

import { show } from "../errors.ts";
import { broken } from "./error.ts";
import { GROUP_NAMES, LIKE_PARAMETER, schedulerNames, STATE_NAMES } from "./names.ts";
import { Counter, type PythonDict, type PythonKey, type PythonValue, SparseView, TensorView } from "./python.ts";
import type { Mark } from "./torch_write.ts";
import {
  type ArrayName,
  isArrayName,
  MAX_DEPTH,
  readBigInt,
  setOwn,
  TENSOR_DTYPES,
  type TensorArray,
  viewAs,
} from "./value.ts";

type Plain = Record<string, unknown>;

const isDict = (value: PythonValue | undefined): value is PythonDict => value instanceof Map;
const isArray = (value: PythonValue | undefined): value is PythonValue[] => Array.isArray(value);

/** torch's `{ state, param_groups }`. */
function isOptimizer(dict: PythonDict): boolean {
  const state = dict.get("state"), groups = dict.get("param_groups");
  if (!isDict(state) || !isArray(groups)) return false;
  for (const [id, entry] of state) if (typeof id !== "number" || !isDict(entry)) return false;
  return groups.every((group) => isDict(group) && isArray(group.get("params")));
}

/** What every scheduler's state dict in torch has. */
function isScheduler(dict: PythonDict): boolean {
  if (!isArray(dict.get("_last_lr"))) return false;
  return dict.has("_schedulers") || (typeof dict.get("last_epoch") === "number");
}

/** torch's averaged model: a count, and tensors by names with a prefix. */
function isAveraged(dict: PythonDict): boolean {
  const count = dict.get("n_averaged");
  if (!(count instanceof TensorView) || count.dtype !== "int64" || count.shape.length > 0) return false;
  for (const [key, value] of dict) {
    if (key !== "n_averaged" && !(String(key).startsWith("module.") && value instanceof TensorView)) return false;
  }
  return true;
}

const loadedOf = (view: TensorView) => view.loaded ?? broken("its pickle has a tensor that has not been read");

/** A tensor's array, as a class of arrays. */
function arrayOf(view: TensorView, as?: ArrayName): TensorArray {
  const { data, dtype } = loadedOf(view);
  if (as === undefined || data[Symbol.toStringTag] === as) return data;
  if (viewAs(as, new ArrayBuffer(0), 0, 0).BYTES_PER_ELEMENT !== TENSOR_DTYPES[dtype].bytes) {
    broken(`it has a tensor of ${dtype} marked as a ${as}`);
  }
  return viewAs(as, data.buffer as ArrayBuffer, data.byteOffset, data.length);
}

/** The number in a 0-d tensor; BigInt where it is beyond 2⁵³. */
function scalarOf(view: TensorView): number | bigint | boolean {
  const { data, dtype } = loadedOf(view), value = data[0]!;
  if (dtype === "bool") return value !== 0;
  if (typeof value === "bigint") {
    return value >= -(2n ** 53n) && value <= 2n ** 53n ? Number(value) : value;
  }
  if (data instanceof Uint16Array) broken(`it has a single number of ${dtype} in optimizer state`);
  return value;
}

function sparseOf({ indices, values, shape }: SparseView): Plain {
  const long = arrayOf(indices) as BigInt64Array;
  if (long.some((index) => index < 0n || index > 0x7fffffffn)) {
    broken("it has a sparse tensor with indices beyond 2^31");
  }
  return {
    indices: Int32Array.from(long, Number),
    values: arrayOf(values),
    shape: [...shape],
    dtype: values.dtype,
  };
}

/** Turns a pickle's value, whose tensors have been read, into what a load gives. */
export function fromTorch(root: PythonValue, marks: Mark | null | undefined): unknown {
  const isMarked = marks !== undefined;
  /** What containers have become: one that is there twice is one object, as in Python. */
  const done = new Map<object, unknown>();
  const busy = new Set<object>();

  const inside = (mark: Mark | null | undefined, key: PythonKey | number): Mark | null =>
    mark?.[1] !== undefined && Object.hasOwn(mark[1], String(key)) ? mark[1][String(key)]! : null;

  /** Makes a container's value once, and refuses one that is in itself. */
  function once(value: object, depth: number, make: () => unknown): unknown {
    if (done.has(value)) return done.get(value);
    if (busy.has(value)) broken("its pickle has a list or dict that contains itself");
    if (depth > MAX_DEPTH) broken(`its pickle is more than ${MAX_DEPTH} levels deep`);
    busy.add(value);
    const made = make();
    busy.delete(value);
    done.set(value, made);
    return made;
  }

  function convert(value: PythonValue, mark: Mark | null, depth: number): unknown {
    const what = mark?.[0] ?? null;
    if (what === "bigint") {
      if (typeof value === "bigint" || Number.isInteger(value)) return BigInt(value as number);
      return (typeof value === "string" ? readBigInt(value) : null) ?? broken("it has something marked as a BigInt");
    }
    if (what === "null") return null;
    if (value instanceof TensorView) return isArrayName(what) ? arrayOf(value, what) : loadedOf(value);
    if (value instanceof SparseView) return sparseOf(value);
    if (isArray(value)) {
      return once(value, depth, () => value.map((item, i) => convert(item, inside(mark, i), depth + 1)));
    }
    if (!isDict(value)) return value;
    return once(value, depth, () => {
      if (isMarked ? what === "optimizer" : isOptimizer(value)) return optimizer(value, mark, depth);
      if (isMarked ? what === "scheduler" : isScheduler(value)) return scheduler(value, mark, depth);
      if (isMarked ? what === "averaged" : isAveraged(value)) return averaged(value, mark, depth);
      return dict(value, (item, key) => convert(item, inside(mark, key), depth + 1));
    });
  }

  /** A dict as an object; `name` gives the keys. */
  function dict(
    entries: Iterable<readonly [PythonKey, PythonValue]>,
    each: (item: PythonValue, key: string) => unknown,
    name: (key: string) => string = (key) => key,
  ): Plain {
    const object: Plain = {};
    for (const [key, item] of entries) {
      const own = name(String(key));
      if (Object.hasOwn(object, own)) broken(`its pickle has a dict with the key ${show(own)} twice`);
      setOwn(object, own, each(item, own));
    }
    return object;
  }

  /** A group's option, or what a scheduler has: torch's learning rates and betas may be 0-d tensors, which are numbers here. */
  function option(value: PythonValue, mark: Mark | null, depth: number): unknown {
    if (isMarked) return convert(value, mark, depth);
    if (isArray(value)) return once(value, depth, () => value.map((item) => option(item, null, depth + 1)));
    const single = value instanceof TensorView && value.shape.length === 0 && /^float(32|64)$/.test(value.dtype);
    return single ? scalarOf(value) : convert(value, mark, depth);
  }

  function optimizer(entries: PythonDict, mark: Mark | null, depth: number): Plain {
    return dict(entries, (item, key) => {
      const within = inside(mark, key);
      if (key === "state" && isDict(item)) {
        return dict(item, (entry, id) => {
          const entryMark = inside(within, id);
          if (!isDict(entry)) return convert(entry, entryMark, depth + 2);
          return dict(
            entry,
            (value, name) => state(value, name, inside(entryMark, name), depth + 3),
            (name) => STATE_NAMES.fromTorch(name),
          );
        });
      }
      if (key === "paramGroups" && isArray(item)) {
        return item.map((group, i) => {
          const groupMark = inside(within, i);
          if (!isDict(group)) return convert(group, groupMark, depth + 2);
          return dict(
            group,
            (value, name) => option(value, inside(groupMark, name), depth + 3),
            (name) => GROUP_NAMES.fromTorch(name),
          );
        });
      }
      return convert(item, within, depth + 1);
    }, (key) => key === "param_groups" ? "paramGroups" : key);
  }

  function state(value: PythonValue, key: string, mark: Mark | null, depth: number): unknown {
    const what = mark?.[0] ?? null;
    if (value instanceof TensorView) {
      if (isArrayName(what)) return arrayOf(value, what);
      if (what === "tensor") return loadedOf(value);
      // 0-d tensors are numbers, but for the state of a parameter that is 0-d itself
      return value.shape.length === 0 && (isMarked || !LIKE_PARAMETER.has(key)) ? scalarOf(value) : arrayOf(value);
    }
    if (isArray(value)) {
      return once(value, depth, () => value.map((item, i) => state(item, key, inside(mark, i), depth + 1)));
    }
    if (isDict(value) && what === "dict") {
      return once(value, depth, () => dict(value, (item, name) => state(item, name, inside(mark, name), depth + 1)));
    }
    return convert(value, mark, depth);
  }

  function scheduler(entries: PythonDict, mark: Mark | null, depth: number): Plain {
    const names = schedulerNames((key) => entries.has(key)), composite = entries.has("_schedulers");
    const kept = [...entries].filter(([key]) => inside(mark, names.fromTorch(String(key)))?.[0] !== "added");
    return dict(kept, (item, key) => {
      if (item instanceof Counter && !composite) return epochs(item);
      if (key === "ends" && isArray(item)) {
        return item.map((phase) => isDict(phase) ? convert(phase.get("end_step") ?? null, null, depth + 2) : null);
      }
      if (key === "best" && (item === Infinity || item === -Infinity) && entries.has("num_bad_epochs") && !isMarked) {
        return null;
      }
      return option(item, inside(mark, key), depth + 1);
    }, (key) => names.fromTorch(key));
  }

  function averaged(entries: PythonDict, mark: Mark | null, depth: number): Plain {
    return dict(
      entries,
      (item, key) =>
        key === "nAveraged" && item instanceof TensorView
          ? scalarOf(item)
          : convert(item, inside(mark, key), depth + 1),
      (key) => key === "n_averaged" ? "nAveraged" : key,
    );
  }

  return convert(root, marks ?? null, 0);
}

const MOST_EPOCHS = 1_000_000;

/** MultiStepLR's milestones, which torch counts. */
function epochs(counter: Counter): number[] {
  const all: number[] = [];
  for (const [epoch, count] of counter) {
    if (typeof epoch !== "number" || typeof count !== "number" || !(count >= 0) || all.length + count > MOST_EPOCHS) {
      broken("its pickle has milestones that are no epochs");
    }
    for (let i = 0; i < count; i++) all.push(epoch);
  }
  return all.sort((a, b) => a - b);
}
