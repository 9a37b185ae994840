/**
 * The tree as JSON, with tensors by name: what a `.safetensors` file has in its metadata beside the tensors.
 *
 * What JSON cannot say is an object with one key that begins with `$`: `{ "$number": "NaN" }`, `{ "$bigint": "5" }`,
 * `{ "$tensor": "name" }`, `{ "$array": "name", "as": "Float32Array" }`. An object of the user's own that has such a key is
 * `{ "$object": [[key, value], …] }`.
 *
 * @module
 */

import { show } from "../errors.ts";
import { broken } from "./error.ts";
import {
  type CheckpointTensor,
  isArrayName,
  MAX_DEPTH,
  readBigInt,
  setOwn,
  Tensor,
  TENSOR_DTYPES,
  type Value,
  viewAs,
} from "./value.ts";

/** A tensor and the name that it has in the file. */
export interface NamedTensor {
  /** Its name. */
  readonly name: string;
  /** Its memory. */
  readonly tensor: Tensor;
}

const SPECIAL = new Map<string, number>([["NaN", NaN], ["Infinity", Infinity], ["-Infinity", -Infinity], ["-0", -0]]);

/** The key of safetensors' own that no tensor may have. */
const RESERVED = "__metadata__";

/** The tensors of a tree that is nothing but tensors by name, as other tools write and read them; else null. */
export function flatTensors(root: Value): NamedTensor[] | null {
  if (!(root instanceof Map) || root.size === 0) return null;
  const found: NamedTensor[] = [];
  for (const [name, tensor] of root) {
    if (!(tensor instanceof Tensor) || tensor.as !== null || name === RESERVED) return null;
    found.push({ name, tensor });
  }
  return found;
}

/** A tree as JSON, and its tensors under names that say where they are. */
export function encodeTree(root: Value): { json: string; tensors: NamedTensor[] } {
  const tensors: NamedTensor[] = [], taken = new Set([RESERVED]);

  function nameOf(path: string): string {
    let name = path || "tensor";
    for (let i = 2; taken.has(name); i++) name = `${path || "tensor"}~${i}`;
    taken.add(name);
    return name;
  }

  function encode(value: Value, path: string): unknown {
    if (typeof value === "number") {
      return Number.isFinite(value) && !Object.is(value, -0)
        ? value
        : { $number: Object.is(value, -0) ? "-0" : String(value) };
    }
    if (typeof value === "bigint") return { $bigint: String(value) };
    if (value instanceof Tensor) {
      const name = nameOf(path);
      tensors.push({ name, tensor: value });
      return value.as === null ? { $tensor: name } : { $array: name, as: value.as };
    }
    const at = (key: string | number) => path === "" ? String(key) : `${path}.${key}`;
    if (Array.isArray(value)) return value.map((entry, i) => encode(entry, at(i)));
    if (value instanceof Map) {
      const entries = Array.from(value, ([key, entry]) => [key, encode(entry, at(key))] as const);
      if (entries.some(([key]) => key.startsWith("$"))) return { $object: entries };
      const object: Record<string, unknown> = {};
      for (const [key, entry] of entries) setOwn(object, key, entry);
      return object;
    }
    return value;
  }

  return { json: JSON.stringify(encode(root, "")), tensors };
}

/** What a load gives for a tree: plain values, and tensors that have been read. */
export function decodeTree(json: unknown, tensors: ReadonlyMap<string, CheckpointTensor>): unknown {
  const used = new Set<string>();

  function tensor(name: unknown): CheckpointTensor {
    const found = typeof name === "string" ? tensors.get(name) : undefined;
    if (found === undefined) broken(`its metadata names a tensor ${show(name)}, which is not there`);
    used.add(name as string);
    return found;
  }

  function special(value: Record<string, unknown>, keys: readonly string[], depth: number): unknown {
    const [key] = keys, content = value[key!];
    const only = keys.length === 1;
    if (key === "$number" && only && SPECIAL.has(content as string)) return SPECIAL.get(content as string);
    if (key === "$bigint" && only && typeof content === "string") {
      const value = readBigInt(content);
      if (value !== null) return value;
    }
    if (key === "$tensor" && only) return tensor(content);
    if (key === "$array" && keys.length === 2 && isArrayName(value["as"])) {
      const { dtype, data } = tensor(content), info = TENSOR_DTYPES[dtype], as = value["as"];
      if (data[Symbol.toStringTag] === as) return data;
      if (viewAs(as, new ArrayBuffer(0), 0, 0).BYTES_PER_ELEMENT === info.bytes) {
        return viewAs(as, data.buffer as ArrayBuffer, data.byteOffset, data.length);
      }
    }
    if (key === "$object" && only && Array.isArray(content)) {
      const object: Record<string, unknown> = {};
      for (const pair of content) {
        if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== "string") broken("its metadata is no tree");
        setOwn(object, pair[0], decode(pair[1], depth + 1));
      }
      return object;
    }
    broken(`its metadata has ${show(key)} where it means nothing`);
  }

  function decode(value: unknown, depth: number): unknown {
    if (typeof value !== "object" || value === null) return value;
    if (depth > 2 * MAX_DEPTH) broken(`its metadata is more than ${MAX_DEPTH} levels deep`);
    if (Array.isArray(value)) return value.map((entry) => decode(entry, depth + 1));
    const keys = Object.keys(value), plain = value as Record<string, unknown>;
    if (keys.some((key) => key.startsWith("$"))) return special(plain, keys, depth);
    const object: Record<string, unknown> = {};
    for (const key of keys) setOwn(object, key, decode(plain[key], depth + 1));
    return object;
  }

  const decoded = decode(json, 0);
  for (const name of tensors.keys()) {
    if (!used.has(name)) broken(`it has a tensor ${show(name)}, which its metadata does not name`);
  }
  return decoded;
}
