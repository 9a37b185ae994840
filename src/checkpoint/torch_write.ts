/**
 * A tree as torch has it: names in snake_case inside of optimizer and scheduler state, single numbers of state as 0-d tensors,
 * state in the shapes of its parameters. What torch's layout cannot tell apart goes into marks.
 *
 * @module
 */

import { FLAT, GROUP_NAMES, LIKE_PARAMETER, PLAIN_NUMBERS, schedulerNames, STATE_NAMES, TUPLES } from "./names.ts";
import { integerBytes } from "./pickle_writer.ts";
import { Counts, Float, SparseSpec, TensorSpec, Tuple, type WritableValue } from "./python.ts";
import { type Dict, setOwn, sizeOf, Tensor, type Value } from "./value.ts";

/**
 * What a value was before it became torch's: `"optimizer"`, `"scheduler"`, `"averaged"`, `"bigint"`, `"null"`, `"tensor"` or
 * `"dict"` inside of state, `"added"` for what was not there, or the class of a typed array; null for what comes back by itself.
 * And the marks of what is in it, by key.
 */
export type Mark = readonly [what: string | null, inside?: Readonly<Record<string, Mark>>];

/** A value on its way into a pickle. */
export interface Result {
  /** What is pickled. */
  readonly value: WritableValue;
  /** What it was. */
  readonly mark: Mark | null;
}

const plain = (value: WritableValue): Result => ({ value, mark: null });
const marked = (value: WritableValue, what: string): Result => ({ value, mark: [what] });

/** Gathers marks of entries. */
class Marks {
  #inside: Record<string, Mark> | undefined;
  constructor(readonly what: string | null) {}
  add(key: string | number, { value, mark }: Result): WritableValue {
    if (mark) setOwn(this.#inside ??= {}, String(key), mark);
    return value;
  }
  of(value: WritableValue): Result {
    const inside = this.#inside;
    return { value, mark: inside ? [this.what, inside] : this.what === null ? null : [this.what] };
  }
}

const STEP_MOST = 2 ** 24;
const isRising = (epochs: readonly number[]) =>
  epochs.every((epoch, i) => Number.isSafeInteger(epoch) && !(epoch < epochs[i - 1]!) && !Object.is(epoch, -0));
const isIndex = (key: string) => /^(0|[1-9]\d{0,14})$/.test(key);
const isDict = (value: Value | undefined): value is Dict => value instanceof Map;
const isNumbers = (value: Value | undefined): value is number[] =>
  Array.isArray(value) && value.every((n) => typeof n === "number");

/** Single numbers of state as views of one array: a run with a thousand parameters has a thousand steps. */
class Scalars {
  readonly #numbers: number[] = [];
  #tensor: Tensor | undefined;

  constructor(readonly dtype: "float32" | "float64") {}

  add(value: number): TensorSpec {
    return new TensorSpec(this, [], this.#numbers.push(value) - 1);
  }

  /** The array: asked for when all numbers are in it. */
  get tensor(): Tensor {
    const array = this.dtype === "float32" ? Float32Array : Float64Array;
    return this.#tensor ??= new Tensor(
      this.dtype,
      [this.#numbers.length],
      array.from(this.#numbers) as Float32Array,
      null,
    );
  }
}

/** Whether a dict is the state dict of an optimizer, all of whose names come back. */
function isOptimizer(dict: Dict): boolean {
  const state = dict.get("state"), groups = dict.get("paramGroups");
  return isDict(state) && Array.isArray(groups) && !dict.has("param_groups") &&
    groups.every((group) => isDict(group) && isNumbers(group.get("params")) && GROUP_NAMES.keeps(group.keys())) &&
    [...state].every(([id, entry]) => isIndex(id) && isDict(entry) && STATE_NAMES.keeps(entry.keys()));
}

/** Whether a dict is the state dict of a scheduler, all of whose names come back. */
function isScheduler(dict: Dict): boolean {
  return Number.isInteger(dict.get("lastEpoch")) && isNumbers(dict.get("lastLr")) &&
    (Number.isInteger(dict.get("stepCount")) || dict.has("numBadEpochs")) &&
    schedulerNames((key) => dict.has(key)).keeps(dict.keys());
}

/** Whether a dict is the state dict of an averaged model. */
function isAveraged(dict: Dict): boolean {
  const count = dict.get("nAveraged");
  if (!Number.isSafeInteger(count) || dict.size < 2) return false;
  for (const [key, value] of dict) {
    if (key !== "nAveraged" && !(key.startsWith("module.") && value instanceof Tensor)) return false;
  }
  return true;
}

/** Turns a tree into what is pickled, and marks. */
export function toTorch(root: Value): Result {
  const steps = new Scalars("float32"), numbers = new Scalars("float64");

  function convert(value: Value): Result {
    if (typeof value === "bigint") {
      return marked(integerBytes(value) === null ? String(value) : value, "bigint");
    }
    if (value instanceof Tensor) return tensor(value, value.shape);
    if (Array.isArray(value)) return list(value, convert);
    if (!isDict(value)) return plain(value);
    if (isOptimizer(value)) return optimizer(value);
    if (isScheduler(value)) return scheduler(value);
    if (isAveraged(value)) return averaged(value);
    return dict(value, null, convert);
  }

  function tensor(value: Tensor, shape: readonly number[]): Result {
    return { value: new TensorSpec({ tensor: value }, shape), mark: value.as === null ? null : [value.as] };
  }

  function list(items: readonly Value[], each: (item: Value) => Result): Result {
    const marks = new Marks(null);
    return marks.of(items.map((item, i) => marks.add(i, each(item))));
  }

  function dict(entries: Dict, what: string | null, each: (value: Value, key: string) => Result): Result {
    const marks = new Marks(what), written = new Map<string, WritableValue>();
    for (const [key, value] of entries) written.set(key, marks.add(key, each(value, key)));
    return marks.of(written);
  }

  function optimizer(entries: Dict): Result {
    const shapes = new Map<string, readonly number[]>(), counted = new Set<string>();
    for (const group of entries.get("paramGroups") as Dict[]) {
      const ids = group.get("params") as number[], all = group.get("paramShapes");
      // SparseAdam's step is a Python int, and torch computes with it in double precision
      if (group.has("betas") && !group.has("weightDecay")) { for (const id of ids) counted.add(String(id)); }
      if (!Array.isArray(all)) continue;
      ids.forEach((id, i) => isNumbers(all[i]) && shapes.set(String(id), all[i]));
    }
    const marks = new Marks("optimizer"), written = new Map<string, WritableValue>();
    for (const [key, value] of entries) {
      if (key === "state") {
        const inside = new Marks(null), states = new Map<number, WritableValue>();
        for (const [id, entry] of value as Dict) {
          states.set(Number(id), inside.add(id, parameterState(entry as Dict, shapes.get(id), counted.has(id))));
        }
        written.set(key, marks.add(key, inside.of(states)));
      } else if (key === "paramGroups") {
        written.set("param_groups", marks.add(key, list(value as Dict[], (group) => paramGroup(group as Dict))));
      } else {
        written.set(key, marks.add(key, convert(value)));
      }
    }
    return marks.of(written);
  }

  function parameterState(entry: Dict, shape: readonly number[] | undefined, isCounted: boolean): Result {
    const marks = new Marks(null), written = new Map<string, WritableValue>();
    for (const [key, value] of entry) {
      if (key === "step" && isCounted && Number.isSafeInteger(value)) written.set(key, value as number);
      else written.set(STATE_NAMES.toTorch(key), marks.add(key, stateValue(value, key, shape)));
    }
    return marks.of(written);
  }

  function stateValue(value: Value, key: string, shape: readonly number[] | undefined): Result {
    if (typeof value === "number") {
      if (PLAIN_NUMBERS.has(key)) return plain(value);
      const asStep = key === "step" && Number.isInteger(value) && value >= 0 && value <= STEP_MOST;
      return plain((asStep && !Object.is(value, -0) ? steps : numbers).add(value));
    }
    if (value instanceof Tensor) {
      return value.as === null
        ? marked(new TensorSpec({ tensor: value }, value.shape), "tensor")
        : tensor(value, stateShape(key, value.length, shape));
    }
    if (Array.isArray(value)) return list(value, (item) => stateValue(item, key, undefined));
    if (!isDict(value)) return convert(value);
    const sparse = sparseSpec(value);
    return sparse ? plain(sparse) : dict(value, "dict", (inner, innerKey) => stateValue(inner, innerKey, undefined));
  }

  function paramGroup(group: Dict): Result {
    const marks = new Marks(null), written = new Map<string, WritableValue>();
    for (const [key, value] of group) {
      const result = convert(value), tuple = TUPLES.has(key) && Array.isArray(result.value);
      written.set(GROUP_NAMES.toTorch(key), marks.add(key, result));
      if (tuple) written.set(GROUP_NAMES.toTorch(key), new Tuple(result.value as WritableValue[]));
    }
    return marks.of(written);
  }

  function scheduler(entries: Dict): Result {
    const names = schedulerNames((key) => entries.has(key)), marks = new Marks("scheduler");
    const written = new Map<string, WritableValue>();
    const composite = entries.has("schedulers"), count = (entries.get("lastLr") as number[]).length;
    for (const [key, value] of entries) {
      written.set(names.toTorch(key), marks.add(key, schedulerValue(entries, key, value, composite)));
    }
    // torch asks for these; what is absent here means the same, and is absent again when it is loaded
    const add = (key: string, value: WritableValue) => {
      if (!entries.has(key)) written.set(names.toTorch(key), marks.add(key, marked(value, "added")));
    };
    if (entries.has("scaleMode")) add("scaleFnCustom", null);
    if (!composite && entries.size === 4 + Number(entries.has("field"))) {
      add("lrLambdas", new Array<null>(count).fill(null));
    }
    return marks.of(written);
  }

  function schedulerValue(entries: Dict, key: string, value: Value, composite: boolean): Result {
    if (key === "milestones" && !composite && isNumbers(value) && isRising(value)) {
      const counts = new Map<number, number>();
      for (const epoch of value) counts.set(epoch, (counts.get(epoch) ?? 0) + 1);
      return plain(new Counts(counts));
    }
    if (key === "ends" && isNumbers(value)) return plain(phases(value));
    if (key === "best" && value === null) {
      return marked(new Float(entries.get("mode") === "max" ? -Infinity : Infinity), "null");
    }
    return convert(value);
  }

  function averaged(entries: Dict): Result {
    const marks = new Marks("averaged"), written = new Map<string, WritableValue>();
    for (const [key, value] of entries) {
      if (key === "nAveraged") {
        const count = new Tensor("int64", [], BigInt64Array.of(BigInt(value as number)), null);
        written.set("n_averaged", new TensorSpec({ tensor: count }, []));
      } else {
        written.set(key, marks.add(key, convert(value)));
      }
    }
    return marks.of(written);
  }

  return convert(root);
}

/** torch's shape of a parameter's state tensor. */
function stateShape(key: string, length: number, shape: readonly number[] | undefined): readonly number[] {
  if (shape === undefined || FLAT.has(key)) return [length];
  if (key === "rowVar") {
    const rows = [...shape.slice(0, -1), 1];
    if (sizeOf(rows) === length) return rows;
  } else if (key === "colVar" && shape.length >= 2) {
    const columns = [...shape.slice(0, -2), 1, shape.at(-1)!];
    if (sizeOf(columns) === length) return columns;
  }
  return sizeOf(shape) === length && (LIKE_PARAMETER.has(key) || !STATE_NAMES.has(key)) ? shape : [length];
}

/** `{ indices, values, shape, dtype }` as torch has it; undefined where it is not that. */
function sparseSpec(dict: Dict): SparseSpec | undefined {
  const indices = dict.get("indices"), values = dict.get("values"), shape = dict.get("shape");
  if (dict.size !== 4 || !(indices instanceof Tensor) || !(values instanceof Tensor) || !isNumbers(shape)) return;
  if (indices.as !== "Int32Array" || values.as === null || values.dtype !== dict.get("dtype")) return;
  if (values.dtype === "float16" && typeof Float16Array !== "undefined" && values.as !== "Float16Array") return;
  for (let sparse = 1; sparse <= shape.length; sparse++) {
    const entries = indices.length / sparse, rest = shape.slice(sparse);
    if (!Number.isInteger(entries) || entries * sizeOf(rest) !== values.length) continue;
    const long = new Tensor("int64", [], BigInt64Array.from(indices.array as Int32Array, BigInt), null);
    return new SparseSpec(
      new TensorSpec({ tensor: long }, [sparse, entries]),
      new TensorSpec({ tensor: values }, [entries, ...rest]),
      shape,
    );
  }
  return undefined;
}

/** OneCycleLR's phases, which are here the epochs that they end at. */
function phases(ends: readonly number[]): WritableValue {
  const last = ends.length - 1;
  return ends.map((end, i) =>
    new Map<string, WritableValue>([
      ["end_step", end],
      ["start_lr", i === 0 || (i === 2 && last === 2) ? "initial_lr" : "max_lr"],
      ["end_lr", i === last ? "min_lr" : i === 0 ? "max_lr" : "initial_lr"],
      ["start_momentum", i === 1 ? "base_momentum" : "max_momentum"],
      ["end_momentum", i === 0 ? "base_momentum" : "max_momentum"],
    ])
  );
}
