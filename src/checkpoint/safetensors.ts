/**
 * The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes without a gap.
 *
 * A save of nothing but tensors by name is what other tools write; anything else has its tree in the metadata, and its tensors
 * under names that say where they are in it, so that other tools find them too.
 *
 * @module
 */

import { show } from "../errors.ts";
import { broken } from "./error.ts";
import { type FileReader, type FileWriter, forAll } from "./file.ts";
import { decodeTree, encodeTree, flatTensors, type NamedTensor } from "./json_tree.ts";
import { type CheckpointTensor, setOwn, sizeOf, TENSOR_DTYPES, type TensorDType, type Value, viewAs } from "./value.ts";

/** The longest header that the format's own library reads. */
const MAX_HEADER = 100_000_000;
const METADATA = "__metadata__";
const TREE = "flatstep";

const BY_CODE = new Map<unknown, TensorDType>(
  (Object.keys(TENSOR_DTYPES) as TensorDType[]).map((dtype) => [TENSOR_DTYPES[dtype].code, dtype]),
);

/** Writes a file. */
export async function writeSafetensors(writer: FileWriter, root: Value): Promise<void> {
  const flat = flatTensors(root);
  const { json, tensors } = flat ? { json: null, tensors: flat } : encodeTree(root);
  // widest first: every tensor is aligned, for readers that map the file into memory
  const ordered = tensors.toSorted((a, b) => TENSOR_DTYPES[b.tensor.dtype].bytes - TENSOR_DTYPES[a.tensor.dtype].bytes);
  const metadata = json === null ? { format: "pt" } : { format: "pt", [TREE]: json };
  const places = new Map<NamedTensor, number>();
  let end = 0;
  for (const named of ordered) {
    places.set(named, end);
    end += named.tensor.bytes;
  }
  // the header has them in their own order, in which they are loaded again
  const parts = tensors.map((named) => {
    const { dtype, shape, bytes } = named.tensor, begin = places.get(named)!;
    const entry = { dtype: TENSOR_DTYPES[dtype].code, shape, data_offsets: [begin, begin + bytes] };
    return `${JSON.stringify(named.name)}:${JSON.stringify(entry)}`;
  });
  parts.unshift(`${JSON.stringify(METADATA)}:${JSON.stringify(metadata)}`);
  const text = new TextEncoder().encode(`{${parts.join(",")}}`);
  const length = text.length + (-text.length & 7);
  if (length > MAX_HEADER) {
    throw new RangeError(
      `the header must be at most ${MAX_HEADER} bytes, got ${length}: the plain values are too many`,
    );
  }
  const head = new Uint8Array(8 + length).fill(32);
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true);
  head.set(text, 8);
  await writer.append(head);
  for (const { tensor } of ordered) await writer.tensor(tensor);
}

interface Entry {
  readonly name: string;
  readonly dtype: TensorDType;
  readonly shape: number[];
  readonly begin: number;
  readonly end: number;
}

type Plain = Record<string, unknown>;
const isObject = (value: unknown): value is Plain =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** How many keys JSON text has: colons outside of strings. JSON.parse does not tell of a key that is there twice. */
function countKeys(text: string): number {
  let count = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 58) count++;
    else if (c === 34) {
      for (i++; i < text.length && text.charCodeAt(i) !== 34; i++) if (text.charCodeAt(i) === 92) i++;
    }
  }
  return count;
}

function parse(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    broken(`${what} is no JSON: ${(error as Error).message}`);
  }
}

function readEntry(name: string, value: unknown, size: number): Entry {
  const label = `its tensor ${show(name)}`;
  if (!isObject(value)) broken(`${label} must be { dtype, shape, data_offsets }`);
  const { dtype: code, shape, data_offsets: offsets } = value;
  if (Object.keys(value).length !== 3) broken(`${label} must be { dtype, shape, data_offsets }`);
  const dtype = BY_CODE.get(code);
  if (dtype === undefined) {
    broken(
      `${label} has the dtype ${show(code)}; there is ${[...BY_CODE.keys()].join(", ")}`,
    );
  }
  if (!Array.isArray(shape) || !shape.every(isCount)) broken(`${label} must have a shape of integers >= 0`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    broken(`${label} must have two data_offsets, integers >= 0`);
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > size) broken(`${label} is from byte ${begin} to ${end}, of ${size} that there are`);
  const elements = sizeOf(shape);
  if (elements < 0 || elements * TENSOR_DTYPES[dtype].bytes !== end - begin) {
    broken(`${label} has ${end - begin} bytes, which is not what ${dtype} [${shape.slice(0, 20).join(", ")}] takes`);
  }
  return { name, dtype, shape, begin, end };
}

/** Entries as they lie in the file. */
const inFile = (entries: readonly Entry[]) => entries.toSorted((a, b) => a.begin - b.begin || a.end - b.end);

/** The entries and the metadata, all checked against the size of the file. */
async function readHeader(reader: FileReader): Promise<{ entries: Entry[]; tree: string | undefined; start: number }> {
  if (reader.size < 8) broken(`it has ${reader.size} bytes, and a safetensors file has at least 8`);
  const length = new DataView((await reader.bytes(0, 8)).buffer).getBigUint64(0, true);
  if (length > BigInt(Math.min(MAX_HEADER, reader.size - 8))) {
    broken(
      `its header is said to have ${length} bytes, the file has ${reader.size} and at most ${MAX_HEADER} are allowed`,
    );
  }
  const start = 8 + Number(length), bytes = await reader.bytes(8, Number(length));
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    broken("its header is not UTF-8");
  }
  const header = parse(text, "its header");
  if (!isObject(header)) broken("its header is no object");
  const metadata = Object.hasOwn(header, METADATA) ? header[METADATA] : {};
  if (!isObject(metadata) || Object.values(metadata).some((value) => typeof value !== "string")) {
    broken("its metadata must be strings");
  }
  const names = Object.keys(header).filter((name) => name !== METADATA), size = reader.size - start;
  const entries = names.map((name) => readEntry(name, header[name], size));
  if (countKeys(text) !== Object.keys(header).length + Object.keys(metadata).length + 3 * entries.length) {
    broken("its header has a name twice");
  }
  let at = 0;
  for (const { name, begin, end } of inFile(entries)) {
    if (begin !== at) {
      broken(
        begin < at
          ? `its tensor ${show(name)} overlaps with another one`
          : `bytes ${at} to ${begin} belong to no tensor`,
      );
    }
    at = end;
  }
  if (at !== size) broken(`bytes ${at} to ${size} belong to no tensor`);
  return { entries, tree: Object.hasOwn(metadata, TREE) ? metadata[TREE] as string : undefined, start };
}

/** Reads a file. */
export async function readSafetensors(reader: FileReader): Promise<unknown> {
  const { entries, tree, start } = await readHeader(reader);
  const json = tree === undefined ? undefined : parse(tree, "its metadata");
  const tensors = new Map<string, CheckpointTensor>();
  await forAll(inFile(entries), async ({ name, dtype, shape, begin, end }) => {
    const bytes = new Uint8Array(end - begin), info = TENSOR_DTYPES[dtype];
    tensors.set(name, { dtype, shape, data: viewAs(info.arrays[0]!, bytes.buffer, 0, bytes.length / info.bytes) });
    await reader.read(bytes, start + begin);
  });
  if (json !== undefined) return decodeTree(json, tensors);
  const content: Record<string, unknown> = {};
  for (const { name } of entries) setOwn(content, name, tensors.get(name));
  return content;
}
