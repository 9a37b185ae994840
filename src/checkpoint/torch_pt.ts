/**
 * torch's format: a zip archive of a pickle, and a record for each storage.
 *
 * A file that is written here has one record more, `flatstep.json`, which torch does not look at: marks that say what torch's
 * layout cannot tell apart, such as a typed array and a tensor.
 *
 * @module
 */

import { show } from "../errors.ts";
import { broken } from "./error.ts";
import { type FileReader, type FileWriter, forAll } from "./file.ts";
import { PickleReader } from "./pickle_reader.ts";
import { PickleWriter } from "./pickle_writer.ts";
import { platform } from "./platform.ts";
import { MAX_PICKLE, type TensorView } from "./python.ts";
import { fromTorch } from "./torch_read.ts";
import { type Mark, toTorch } from "./torch_write.ts";
import { sizeOf, TENSOR_DTYPES, type TensorArray, type Value, viewAs } from "./value.ts";
import { ZipReader, ZipWriter } from "./zip.ts";

const FOLDER = "archive";
const MARKS = "flatstep.json";

/** Writes a file. */
export async function writeTorch(writer: FileWriter, root: Value): Promise<void> {
  const { zlib } = await platform(), { value, mark } = toTorch(root);
  const pickle = new PickleWriter(), bytes = pickle.write(value), zip = new ZipWriter(writer, zlib);
  const text = (content: string) => new TextEncoder().encode(content);
  const marks = text(JSON.stringify(mark));
  if (marks.length > MAX_PICKLE) throw new RangeError(`plain values must be at most ${MAX_PICKLE} bytes in a .pt file`);
  await zip.record(`${FOLDER}/data.pkl`, bytes);
  await zip.record(`${FOLDER}/.format_version`, text("1"));
  await zip.record(`${FOLDER}/.storage_alignment`, text("64"));
  await zip.record(`${FOLDER}/byteorder`, text("little"));
  await zip.record(`${FOLDER}/${MARKS}`, marks);
  for (const [tensor, key] of pickle.storages) await zip.record(`${FOLDER}/data/${key}`, tensor);
  await zip.record(`${FOLDER}/version`, text("3\n"));
  await zip.end();
}

/** The folder inside of the archive that everything is in. */
function folderOf(zip: ZipReader): string {
  const pickles = [...zip.entries.keys()].filter((name) => /^[^/]*\/data\.pkl$/.test(name));
  if (pickles.length !== 1) broken("it has no data.pkl: it is no file of torch.save's");
  return pickles[0]!.slice(0, -"data.pkl".length);
}

async function textOf(zip: ZipReader, name: string, most: number): Promise<string | undefined> {
  const entry = zip.entries.get(name);
  if (entry === undefined) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await zip.content(entry, most));
  } catch (error) {
    if (error instanceof TypeError) broken(`its record ${show(name)} is not UTF-8`);
    throw error;
  }
}

/** Whether numbers are stored with the high byte first. */
async function isBigEndian(zip: ZipReader, folder: string): Promise<boolean> {
  const order = await textOf(zip, `${folder}byteorder`, 100) ?? "little"; // as before torch 2.1
  if (order !== "little" && order !== "big") broken(`its byte order is ${show(order)}`);
  return order === "big";
}

async function readMarks(zip: ZipReader, folder: string): Promise<Mark | null | undefined> {
  const text = await textOf(zip, folder + MARKS, MAX_PICKLE);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as Mark | null;
  } catch {
    broken(`its record ${MARKS} is no JSON`);
  }
}

/** Reads a file. */
export async function readTorch(reader: FileReader): Promise<unknown> {
  const { zlib } = await platform(), zip = await ZipReader.open(reader, zlib), folder = folderOf(zip);
  const swap = await isBigEndian(zip, folder), marks = await readMarks(zip, folder);
  const storage = (key: string) => {
    return zip.entries.get(`${folder}data/${key}`) ??
      broken(`its pickle refers to a storage ${show(key)}, which is not in the archive`);
  };
  const bytes = await zip.content(zip.entries.get(`${folder}data.pkl`)!, MAX_PICKLE);
  const pickle = new PickleReader(bytes, (key) => storage(key).size), value = pickle.read();

  const byStorage = new Map<string, TensorView[]>();
  for (const view of pickle.tensors) {
    const views = byStorage.get(view.storage.key);
    if (views) views.push(view);
    else byStorage.set(view.storage.key, [view]);
  }
  const budget = { left: GATHER_FREE + GATHER * reader.size };
  const inOrder = [...byStorage].map(([key, views]) => ({ entry: storage(key), views }));
  inOrder.sort((a, b) => a.entry.offset - b.entry.offset);
  await forAll(inOrder, async ({ entry, views }) => {
    const content = await zip.content(entry);
    if (swap) swapBytes(content, views);
    for (const view of views) {
      view.loaded = { dtype: view.dtype, shape: view.shape, data: elements(content, view, budget) };
    }
  });
  return fromTorch(value, marks);
}

/** How much may be copied out of storages for views that are not contiguous: a small file can ask for any number of them. */
const GATHER = 4, GATHER_FREE = 64 << 20;

/** The elements of a view in row-major order: in place where they lie so, else copied. */
function elements(content: Uint8Array<ArrayBuffer>, view: TensorView, budget: { left: number }): TensorArray {
  const { dtype, offset, shape, strides } = view, info = TENSOR_DTYPES[dtype], name = info.arrays[0]!;
  const size = sizeOf(shape);
  if (size === 0) return viewAs(name, new ArrayBuffer(0), 0, 0);
  if (isContiguous(shape, strides)) return viewAs(name, content.buffer, offset * info.bytes, size);
  budget.left -= size * info.bytes;
  if (size < 0 || budget.left < 0) {
    broken(`its pickle makes a tensor [${shape.slice(0, 20).join(", ")}] that repeats what is in the file too often`);
  }
  const whole = viewAs(name, content.buffer, 0, Math.floor(content.length / info.bytes));
  const out = viewAs(name, new ArrayBuffer(size * info.bytes), 0, size);
  gather(out as Float64Array, whole as Float64Array, shape, strides, offset);
  return out;
}

function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  for (let d = shape.length - 1, stride = 1; d >= 0; d--) {
    if (shape[d] !== 1 && strides[d] !== stride) return false;
    stride *= shape[d]!;
  }
  return true;
}

function gather(
  out: Float64Array,
  from: Float64Array,
  shape: readonly number[],
  strides: readonly number[],
  offset: number,
): void {
  // dimensions of length 1 cost nothing, and there is at least one left: it would be contiguous else
  const dims = shape.flatMap((n, d) => n === 1 ? [] : [{ n, stride: strides[d]! }]);
  const { n, stride } = dims.pop()!, counts = dims.map(() => 0);
  for (let at = 0, start = offset; at < out.length;) {
    for (let i = 0, f = start; i < n; i++, f += stride) out[at++] = from[f]!;
    for (let d = dims.length - 1; d >= 0; d--) {
      start += dims[d]!.stride;
      if (++counts[d]! < dims[d]!.n) break;
      start -= dims[d]!.stride * dims[d]!.n;
      counts[d] = 0;
    }
  }
}

/** Turns the bytes of each element around. */
function swapBytes(content: Uint8Array<ArrayBuffer>, views: readonly TensorView[]): void {
  const widths = new Set(views.map(({ dtype }) => TENSOR_DTYPES[dtype].bytes));
  if (widths.size > 1) broken("it has a storage of two element types, with the high byte first");
  const [width] = widths;
  for (let at = 0; width! > 1 && at + width! <= content.length; at += width!) {
    content.subarray(at, at + width!).reverse();
  }
}
