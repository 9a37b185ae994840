/**
 * Reads the pickles that torch.save writes. Nothing is imported, called or executed: a short list of opcodes builds plain values,
 * a short list of globals stands for what torch's own functions would make, and anything else is an error that names it.
 *
 * @module
 */

import { show } from "../errors.ts";
import { broken } from "./error.ts";
import {
  Counter,
  MAX_CONTAINERS,
  MAX_PICKLE,
  type PythonDict,
  type PythonKey,
  type PythonValue,
  SparseView,
  type Storage,
  TensorView,
} from "./python.ts";
import { isTensorDType, TENSOR_DTYPES, type TensorDType } from "./value.ts";

/** A name in a pickle that stands for something of Python's. */
class Global {
  constructor(
    readonly name: string,
    readonly call: ((args: readonly Item[], reader: PickleReader) => Item) | null,
    /** The element type of a storage class or a dtype. */
    readonly dtype: TensorDType | null = null,
  ) {}
}

/** What an untyped storage is until a tensor says its dtype. */
class StorageRef {
  constructor(readonly storage: Storage, readonly dtype: TensorDType | null) {}
}

type Item = PythonValue | Global | StorageRef;

const isDict = (item: Item | undefined): item is PythonDict => item instanceof Map;
const isLength = (item: unknown): item is number => Number.isSafeInteger(item) && (item as number) >= 0;
const MAX_DIMENSIONS = 64;
const isLengths = (item: Item | undefined): item is number[] =>
  Array.isArray(item) && item.length <= MAX_DIMENSIONS && item.every(isLength);

function tensor(args: readonly Item[], dtype: TensorDType | null, reader: PickleReader): TensorView {
  const [ref, offset, shape, strides] = args;
  if (!(ref instanceof StorageRef)) broken("its pickle makes a tensor of something that is no storage");
  if (!isLength(offset) || !isLengths(shape) || !isLengths(strides)) {
    broken("its pickle makes a tensor whose offset, shape or strides are no integers >= 0");
  }
  if (shape.length !== strides.length) {
    broken(`its pickle makes a tensor with ${shape.length} dimensions and ${strides.length} strides`);
  }
  const type = dtype ?? ref.dtype;
  if (type === null) broken("its pickle makes a tensor without a dtype");
  const view = new TensorView(ref.storage, type, offset, [...shape], [...strides]);
  const { bytes } = TENSOR_DTYPES[type];
  let last = offset, empty = false;
  shape.forEach((n, d) => {
    if (n === 0) empty = true;
    else last += (n - 1) * strides[d]!;
  });
  if (!empty && (last + 1) * bytes > ref.storage.bytes) {
    broken(
      `its pickle makes a tensor of elements up to ${last} of the storage ${show(ref.storage.key)}, ` +
        `which has ${Math.floor(ref.storage.bytes / bytes)}`,
    );
  }
  reader.count(3); // it is an object with arrays of its own
  reader.tensors.push(view);
  return view;
}

function pairs(items: Item | undefined, reader: PickleReader): PythonDict {
  const dict: PythonDict = new Map();
  if (items === undefined) return dict;
  if (!isDict(items) && !Array.isArray(items)) broken("its pickle makes a dict of something else than pairs");
  reader.count(isDict(items) ? items.size : items.length); // a copy: it must cost as much as it makes
  if (isDict(items)) return new Map(items);
  for (const pair of items) {
    if (!Array.isArray(pair) || pair.length !== 2) broken("its pickle makes a dict of something else than pairs");
    dict.set(keyOf(pair[0]), pair[1]!);
  }
  return dict;
}

function keyOf(item: Item | undefined): PythonKey {
  if (typeof item === "string" || typeof item === "number" || typeof item === "bigint") return item;
  if (typeof item === "boolean") return Number(item); // as Python has it
  broken("its pickle has a key that is neither a string nor a number");
}

const GLOBALS = new Map<string, Global>();
function allow(name: string, call: Global["call"], dtype: TensorDType | null = null): void {
  GLOBALS.set(name, new Global(name, call, dtype));
}

allow("collections OrderedDict", ([items], reader) => pairs(items, reader));
allow("collections Counter", ([items], reader) => new Counter(pairs(items, reader)));
allow("torch Size", ([items]) => isLengths(items) ? items : broken("its pickle has a torch.Size that is none"));
allow("torch device", ([type, index]) => index === undefined ? String(type) : `${type}:${index}`);
allow("torch._utils _rebuild_tensor", (args, reader) => tensor(args, null, reader));
allow("torch._utils _rebuild_tensor_v2", (args, reader) => tensor(args, null, reader));
allow("torch._utils _rebuild_tensor_v3", (args, reader) => {
  const dtype = args[6];
  if (!(dtype instanceof Global) || dtype.dtype === null) broken("its pickle makes a tensor of an unknown dtype");
  return tensor(args, dtype.dtype, reader);
});
const first = ([data]: readonly Item[]): Item =>
  data instanceof TensorView ? data : broken("its pickle makes a parameter of something that is no tensor");
allow("torch._utils _rebuild_parameter", first);
allow("torch._utils _rebuild_parameter_with_state", first);
allow("torch._tensor _rebuild_from_type_v2", ([make, type, args], reader) => {
  if (!(make instanceof Global) || !make.name.startsWith("torch._utils _rebuild") || make.call === null) {
    broken("its pickle makes a tensor by something else than torch's functions for it");
  }
  if (!(type instanceof Global) || !TENSOR_CLASSES.includes(type.name) || !Array.isArray(args)) {
    broken("its pickle makes a tensor of an unknown class");
  }
  return make.call(args, reader);
});
allow("torch.serialization _get_layout", ([name]) => {
  return name === "torch.sparse_coo" ? name : broken(`its pickle has a tensor of the layout ${String(name)}`);
});
allow("torch._utils _rebuild_sparse_tensor", ([, parts]) => {
  const [indices, values, shape] = Array.isArray(parts) ? parts : [];
  if (!(indices instanceof TensorView) || !(values instanceof TensorView) || !isLengths(shape)) {
    broken("its pickle makes a sparse tensor of something else than indices, values and a size");
  }
  const [dims = -1, entries] = indices.shape;
  if (indices.dtype !== "int64" || indices.shape.length !== 2 || dims > shape.length || values.shape[0] !== entries) {
    broken("its pickle makes a sparse tensor whose indices and values do not go together");
  }
  return new SparseView(indices, values, [...shape]);
});
const TENSOR_CLASSES = ["torch Tensor", "torch.nn.parameter Parameter", "torch.nn.parameter Buffer"];
for (const name of TENSOR_CLASSES) allow(name, null);
for (const dtype of Object.keys(TENSOR_DTYPES)) {
  if (!isTensorDType(dtype)) continue;
  allow(`torch ${dtype}`, null, dtype);
  const { storage } = TENSOR_DTYPES[dtype];
  if (storage !== null) allow(`torch ${storage}`, null, dtype);
}
allow("torch.storage UntypedStorage", null);

/** Marks that are open at a time: as many lists and dicts as may be in one another, and to spare. */
const MAX_MARKS = 10_000;

/** Opcodes that are refused, by name; the others have none. */
const REFUSED: Readonly<Record<number, string>> = {
  0x30: "POP",
  0x31: "POP_MARK",
  0x32: "DUP",
  0x42: "BINBYTES",
  0x43: "SHORT_BINBYTES",
  0x46: "FLOAT",
  0x49: "INT",
  0x4c: "LONG",
  0x50: "PERSID",
  0x53: "STRING",
  0x54: "BINSTRING",
  0x56: "UNICODE",
  0x64: "DICT",
  0x67: "GET",
  0x69: "INST",
  0x6c: "LIST",
  0x6f: "OBJ",
  0x70: "PUT",
  0x81: "NEWOBJ",
  0x82: "EXT1",
  0x83: "EXT2",
  0x84: "EXT4",
  0x8b: "LONG4",
  0x8c: "SHORT_BINUNICODE",
  0x8d: "BINUNICODE8",
  0x8e: "BINBYTES8",
  0x8f: "EMPTY_SET",
  0x90: "ADDITEMS",
  0x91: "FROZENSET",
  0x92: "NEWOBJ_EX",
  0x93: "STACK_GLOBAL",
  0x94: "MEMOIZE",
  0x95: "FRAME",
  0x96: "BYTEARRAY8",
  0x97: "NEXT_BUFFER",
  0x98: "READONLY_BUFFER",
};

/** Text as Python writes it: UTF-8, in which a lone half of a surrogate pair is three bytes. */
function decodeText(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    let latin = "";
    for (const byte of bytes) latin += `%${byte.toString(16).padStart(2, "0")}`;
    const halves = /%ed%([ab].)%(..)/g;
    const parts: string[] = [];
    let at = 0;
    for (const match of latin.matchAll(halves)) {
      if (match.index % 3 !== 0) continue;
      parts.push(whole(latin.slice(at, match.index)));
      parts.push(String.fromCharCode(0xd000 | (parseInt(match[1]!, 16) & 63) << 6 | parseInt(match[2]!, 16) & 63));
      at = match.index + match[0].length;
    }
    return parts.join("") + whole(latin.slice(at));
  }
}

function whole(escaped: string): string {
  try {
    return decodeURIComponent(escaped);
  } catch {
    broken("its pickle has a string that is not UTF-8");
  }
}

/** Reads one pickle. */
export class PickleReader {
  /** All tensors that it makes. */
  readonly tensors: TensorView[] = [];
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;
  #stack: Item[] = [];
  readonly #below: Item[][] = [];
  readonly #memo = new Map<number, Item>();
  readonly #storages = new Map<string, StorageRef>();
  #containers = 0;

  /**
   * Takes a pickle.
   *
   * @param bytes the pickle
   * @param sizeOf the bytes of a storage, by its key; throws for one that is not there
   */
  constructor(bytes: Uint8Array, readonly sizeOf: (key: string) => number) {
    if (bytes.length > MAX_PICKLE) broken(`its pickle has ${bytes.length} bytes, at most ${MAX_PICKLE} are allowed`);
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  #take(count: number): number {
    const at = this.#at;
    if (count > this.#bytes.length - at) broken("its pickle is cut off");
    this.#at = at + count;
    return at;
  }

  #byte(): number {
    return this.#bytes[this.#take(1)]!;
  }

  #uint32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  #text(length: number): string {
    const at = this.#take(length);
    return decodeText(this.#bytes.subarray(at, at + length));
  }

  #line(): string {
    const end = this.#bytes.indexOf(10, this.#at);
    if (end < 0 || end - this.#at > 1000) broken("its pickle is cut off");
    const text = this.#text(end - this.#at);
    this.#at++;
    return text;
  }

  #pop(): Item {
    const item = this.#stack.pop();
    if (item === undefined) broken("its pickle takes more from the stack than is on it");
    return item;
  }

  #top(): Item {
    const item = this.#stack.at(-1);
    return item === undefined ? broken("its pickle takes more from the stack than is on it") : item;
  }

  /** What has been put on the stack since the last mark. */
  #marked(): Item[] {
    const items = this.#stack;
    this.#stack = this.#below.pop() ?? broken("its pickle goes back to a mark that is not there");
    return items;
  }

  #push(item: Item): void {
    this.#stack.push(item);
  }

  /** Counts lists, tuples and dicts that are made. */
  count(made: number): void {
    this.#containers += made;
    if (this.#containers > MAX_CONTAINERS) broken(`its pickle has more than ${MAX_CONTAINERS} lists, tuples and dicts`);
  }

  #pushContainer(item: PythonValue): void {
    this.count(1);
    this.#stack.push(item);
  }

  #tuple(count: number): void {
    if (this.#stack.length < count) broken("its pickle takes more from the stack than is on it");
    this.#pushContainer(this.#stack.splice(this.#stack.length - count, count) as PythonValue[]);
  }

  #append(items: readonly Item[]): void {
    const list = this.#top();
    if (!Array.isArray(list)) broken("its pickle appends to something that is no list");
    for (const item of items) list.push(item as PythonValue);
  }

  #setItems(items: readonly Item[]): void {
    const dict = this.#top();
    if (!isDict(dict)) broken("its pickle sets items of something that is no dict");
    if (items.length % 2 !== 0) broken("its pickle sets a key without a value");
    for (let i = 0; i < items.length; i += 2) dict.set(keyOf(items[i]), items[i + 1] as PythonValue);
  }

  #integer(length: number): number | bigint {
    const at = this.#take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = value << 8n | BigInt(this.#bytes[at + i]!);
    if (length > 0 && this.#bytes[at + length - 1]! & 0x80) value -= 1n << BigInt(8 * length);
    const number = Number(value);
    return Math.abs(number) <= 2 ** 53 && BigInt(number) === value ? number : value;
  }

  #global(): Global {
    const module = this.#line(), name = this.#line();
    return GLOBALS.get(`${module} ${name}`) ??
      broken(
        `its pickle names ${module}.${name}, which is not on the list of what is allowed; nothing has been executed`,
      );
  }

  #reduce(): void {
    const args = this.#pop(), made = this.#pop();
    if (!(made instanceof Global) || made.call === null || !Array.isArray(args)) {
      broken(
        `its pickle calls ${made instanceof Global ? made.name.replace(" ", ".") : "something"}, which is not allowed`,
      );
    }
    this.#pushContainer(made.call(args, this) as PythonValue);
  }

  #persistent(): StorageRef {
    const id = this.#pop();
    const [word, type, key, , count] = (Array.isArray(id) ? id : []) as Item[];
    if (word !== "storage" || !(type instanceof Global) || typeof key !== "string" || !isLength(count)) {
      broken("its pickle refers to something that is no storage");
    }
    const untyped = type.name === "torch.storage UntypedStorage";
    if (!untyped && (type.dtype === null || !type.name.endsWith("Storage"))) {
      broken(`its pickle has a storage of the class ${type.name.replace(" ", ".")}`);
    }
    const bytes = count * (untyped ? 1 : TENSOR_DTYPES[type.dtype!].bytes);
    const known = this.#storages.get(key);
    const size = known?.storage.bytes ?? this.sizeOf(key);
    if (bytes !== size) {
      broken(`its storage ${show(key)} is said to have ${bytes} bytes, and has ${size}`);
    }
    const ref = new StorageRef(known?.storage ?? { key, bytes: size }, untyped ? null : type.dtype);
    this.#storages.set(key, known ?? ref);
    return ref;
  }

  /** The value that the pickle is of. */
  read(): PythonValue {
    for (;;) {
      const code = this.#byte();
      if (code === 0x2e) break;
      this.#execute(code);
    }
    const result = this.#pop();
    if (this.#stack.length > 0 || this.#below.length > 0) broken("its pickle leaves something on the stack");
    if (result instanceof Global || result instanceof StorageRef) broken("its pickle is of no plain value");
    return result;
  }

  #execute(code: number): void {
    switch (code) {
      case 0x80: { // PROTO
        const protocol = this.#byte();
        if (protocol < 2 || protocol > 5) broken(`its pickle has protocol ${protocol}; 2 is what torch writes`);
        return;
      }
      case 0x28: // MARK
        if (this.#below.length > MAX_MARKS) broken("its pickle has too many lists and dicts in one another");
        this.#below.push(this.#stack);
        this.#stack = [];
        return;
      case 0x4e: // NONE
        return this.#push(null);
      case 0x88: // NEWTRUE
        return this.#push(true);
      case 0x89: // NEWFALSE
        return this.#push(false);
      case 0x4a: // BININT
        return this.#push(this.#view.getInt32(this.#take(4), true));
      case 0x4b: // BININT1
        return this.#push(this.#byte());
      case 0x4d: // BININT2
        return this.#push(this.#view.getUint16(this.#take(2), true));
      case 0x8a: // LONG1
        return this.#push(this.#integer(this.#byte()));
      case 0x47: // BINFLOAT
        return this.#push(this.#view.getFloat64(this.#take(8)));
      case 0x58: // BINUNICODE
        return this.#push(this.#text(this.#uint32()));
      case 0x55: // SHORT_BINSTRING
        return this.#push(this.#text(this.#byte()));
      case 0x5d: // EMPTY_LIST
        return this.#pushContainer([]);
      case 0x7d: // EMPTY_DICT
        return this.#pushContainer(new Map());
      case 0x29: // EMPTY_TUPLE
        return this.#pushContainer([]);
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        return this.#tuple(code - 0x84);
      case 0x74: // TUPLE
        return this.#pushContainer(this.#marked() as PythonValue[]);
      case 0x61: // APPEND
        return this.#append([this.#pop()]);
      case 0x65: // APPENDS
        return this.#append(this.#marked());
      case 0x73: { // SETITEM
        const value = this.#pop(), key = this.#pop();
        return this.#setItems([key, value]);
      }
      case 0x75: // SETITEMS
        return this.#setItems(this.#marked());
      case 0x71: // BINPUT
        this.#memo.set(this.#byte(), this.#top());
        return;
      case 0x72: // LONG_BINPUT
        this.#memo.set(this.#uint32(), this.#top());
        return;
      case 0x68: // BINGET
        return this.#get(this.#byte());
      case 0x6a: // LONG_BINGET
        return this.#get(this.#uint32());
      case 0x63: // GLOBAL
        return this.#push(this.#global());
      case 0x51: // BINPERSID
        return this.#push(this.#persistent());
      case 0x52: // REDUCE
        return this.#reduce();
      case 0x62: { // BUILD: attributes of an OrderedDict, such as a module's _metadata, which say nothing here
        const state = this.#pop();
        if (!isDict(this.#top()) || !isDict(state)) broken("its pickle fills an object of a class that is not allowed");
        return;
      }
      default: {
        const name = REFUSED[code];
        broken(
          `its pickle has the opcode 0x${code.toString(16).padStart(2, "0")}${name ? ` (${name})` : ""} at byte ${
            this.#at - 1
          }, which is not on the list of what is allowed`,
        );
      }
    }
  }

  #get(index: number): void {
    const item = this.#memo.get(index);
    if (item === undefined) broken(`its pickle reads entry ${index} of its memo, which is not there`);
    this.#push(item);
  }
}
