/**
 * What the tests of checkpoints share: folders, golden content, zip archives and pickles made by hand.
 *
 * @module
 */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { crc32, deflateRawSync } from "node:zlib";
import { join } from "@std/path";
import { ROOT } from "./runtime.ts";

/** The golden files. */
export const GOLDEN: string = join(ROOT, "tests", "golden", "checkpoints");

/** Reads a golden file's description. */
// deno-lint-ignore no-explicit-any -- it is JSON of many forms
export const readJson = (name: string): any => JSON.parse(readFileSync(join(GOLDEN, name), "utf8"));

/** Runs something with a folder of its own, which is removed afterwards. */
export async function withFolder<T>(run: (folder: string) => T): Promise<Awaited<T>> {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-"));
  try {
    return await run(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A record of an archive made by hand. */
export interface ZipRecord {
  name: string;
  data: Uint8Array;
  /** Compressed by deflate. */
  deflate?: boolean;
  /** The size that is claimed; else the true one. */
  size?: number;
  /** The place that is claimed; else the true one. */
  offset?: number;
}

/** A zip archive. */
export function zip(records: readonly ZipRecord[]): Uint8Array {
  const parts: Uint8Array[] = [], directory: Uint8Array[] = [];
  let at = 0;
  const add = (list: Uint8Array[], fields: [bytes: number, value: number][], ...more: Uint8Array[]) => {
    const array = new Uint8Array(fields.reduce((sum, [bytes]) => sum + bytes, 0)), view = new DataView(array.buffer);
    let i = 0;
    for (const [bytes, value] of fields) {
      if (bytes === 2) view.setUint16(i, value, true);
      else view.setUint32(i, value, true);
      i += bytes;
    }
    list.push(array, ...more);
    return array.length + more.reduce((sum, { length }) => sum + length, 0);
  };
  for (const { name, data, deflate = false, size = data.length, offset = at } of records) {
    const label = new TextEncoder().encode(name),
      stored = deflate ? deflateRawSync(data) : data,
      method = deflate ? 8 : 0;
    const common: [number, number][] = [[2, 20], [2, 0], [2, method], [2, 0], [2, 0x21], [4, crc32(data)]];
    common.push([4, stored.length], [4, size], [2, label.length], [2, 0]);
    at += add(parts, [[4, 0x04034b50], ...common], label, stored);
    add(directory, [[4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]], label);
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0), n = records.length;
  add(directory, [[4, 0x06054b50], [2, 0], [2, 0], [2, n], [2, n], [4, length], [4, at], [2, 0]]);
  return concat(...parts, ...directory);
}

/** Bytes one after the other. */
export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Bytes of text and numbers: `pickle("]q\0", 5)`. */
export const pickle = (...parts: readonly (string | number | Uint8Array)[]): Uint8Array =>
  concat(
    ...parts.map((part) =>
      typeof part === "number"
        ? Uint8Array.of(part)
        : typeof part === "string"
        ? Uint8Array.from(part, (c) => c.charCodeAt(0))
        : part
    ),
  );

/** A string in a pickle. */
export const text = (s: string): Uint8Array => {
  const bytes = new TextEncoder().encode(s);
  return concat(Uint8Array.of(0x58), new Uint8Array(Uint32Array.of(bytes.length).buffer), bytes);
};

/** A file of torch's around a pickle, with storages by name. */
export function torchFile(body: Uint8Array, storages: Record<string, Uint8Array> = {}): Uint8Array {
  const encode = (s: string) => new TextEncoder().encode(s);
  return zip([
    { name: "archive/data.pkl", data: concat(Uint8Array.of(0x80, 2), body, encode(".")) },
    { name: "archive/byteorder", data: encode("little") },
    ...Object.entries(storages).map(([key, data]) => ({ name: `archive/data/${key}`, data })),
    { name: "archive/version", data: encode("3\n") },
  ]);
}

/** A tensor in a pickle: `shape` and `strides` as opcodes that leave a tuple. */
export const tensor = (key: string, count: number, shape: Uint8Array, strides: Uint8Array): Uint8Array =>
  pickle(
    "ctorch._utils\n_rebuild_tensor_v2\n((",
    text("storage"),
    "ctorch\nFloatStorage\n",
    text(key),
    text("cpu"),
    "J",
    new Uint8Array(Int32Array.of(count).buffer),
    "tQK\0",
    shape,
    strides,
    "\x89ccollections\nOrderedDict\n)RtR",
  );

/** A safetensors file. */
export function safetensors(header: unknown, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  return concat(new Uint8Array(BigUint64Array.of(BigInt(bytes.length)).buffer), bytes, data);
}
