/**
 * Writes pickles, protocol 2, in the way of torch.save: only what `torch.load(path, weights_only=True)` reads.
 *
 * @module
 */

import {
  Counts,
  Float,
  MAX_CONTAINERS,
  MAX_PICKLE,
  SparseSpec,
  TensorSpec,
  Tuple,
  type WritableValue,
} from "./python.ts";
import { type Tensor, TENSOR_DTYPES } from "./value.ts";

const OP = {
  mark: 0x28,
  stop: 0x2e,
  binFloat: 0x47,
  binInt: 0x4a,
  binInt1: 0x4b,
  binInt2: 0x4d,
  none: 0x4e,
  binPersid: 0x51,
  reduce: 0x52,
  binUnicode: 0x58,
  emptyList: 0x5d,
  appends: 0x65,
  global: 0x63,
  binGet: 0x68,
  longBinGet: 0x6a,
  binPut: 0x71,
  longBinPut: 0x72,
  tuple: 0x74,
  setItems: 0x75,
  emptyDict: 0x7d,
  emptyTuple: 0x29,
  proto: 0x80,
  tuple1: 0x85,
  newTrue: 0x88,
  newFalse: 0x89,
  long1: 0x8a,
};

/** A string as Python has it: UTF-8, in which a lone half of a surrogate pair is three bytes. */
function encodeText(text: string): Uint8Array {
  if (!/[\ud800-\udfff]/.test(text) || text.isWellFormed()) return new TextEncoder().encode(text);
  const parts: number[] = [];
  for (const character of text) {
    const code = character.codePointAt(0)!;
    if (code >= 0xd800 && code <= 0xdfff) parts.push(0xe0 | code >> 12, 0x80 | code >> 6 & 63, 0x80 | code & 63);
    else parts.push(...new TextEncoder().encode(character));
  }
  return Uint8Array.from(parts);
}

/** The bytes of an integer, two's complement, the least first; null where they are more than 255. */
export function integerBytes(value: bigint): Uint8Array | null {
  let length = 1;
  const magnitude = value < 0n ? -value - 1n : value;
  if (magnitude > 0n) length = (magnitude.toString(16).length * 4 >> 3) + 1;
  if (length > 255) return null;
  const bytes = new Uint8Array(length);
  for (let i = 0, rest = value; i < length; i++, rest >>= 8n) bytes[i] = Number(rest & 255n);
  return bytes;
}

/** Writes one pickle. */
export class PickleWriter {
  #bytes = new Uint8Array(4096);
  #view = new DataView(this.#bytes.buffer);
  #at = 0;
  #containers = 0;
  readonly #memo = new Map<string, number>();

  /** The storages that its tensors are views of, by name. */
  readonly storages: Map<Tensor, string> = new Map();
  readonly #byMemory = new Map<ArrayBufferLike, Map<string, string>>();

  /** The pickle of a value. */
  write(value: WritableValue): Uint8Array {
    this.#op(OP.proto, 2);
    this.#write(value);
    this.#op(OP.stop);
    return this.#bytes.subarray(0, this.#at);
  }

  #room(count: number): void {
    const needed = this.#at + count;
    if (needed > MAX_PICKLE) throw new RangeError(`plain values must be at most ${MAX_PICKLE} bytes in a .pt file`);
    if (needed <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(needed, 2 * this.#bytes.length));
    larger.set(this.#bytes);
    this.#bytes = larger;
    this.#view = new DataView(larger.buffer);
  }

  #op(...codes: number[]): void {
    this.#room(codes.length);
    for (const code of codes) this.#bytes[this.#at++] = code;
  }

  #op32(code: number, value: number): void {
    this.#room(5);
    this.#bytes[this.#at] = code;
    this.#view.setUint32(this.#at + 1, value, true);
    this.#at += 5;
  }

  #append(bytes: Uint8Array): void {
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  /** Writes something that is the same each time, and later only where it was. */
  #once(id: string, write: () => void): void {
    const known = this.#memo.get(id);
    if (known !== undefined) {
      if (known < 256) this.#op(OP.binGet, known);
      else this.#op32(OP.longBinGet, known);
      return;
    }
    write();
    const index = this.#memo.size;
    this.#memo.set(id, index);
    if (index < 256) this.#op(OP.binPut, index);
    else this.#op32(OP.longBinPut, index);
  }

  #global(module: string, name: string): void {
    this.#once(`g ${module} ${name}`, () => {
      this.#op(OP.global);
      this.#append(new TextEncoder().encode(`${module}\n${name}\n`));
    });
  }

  #text(text: string): void {
    const bytes = encodeText(text);
    this.#op32(OP.binUnicode, bytes.length);
    this.#append(bytes);
  }

  /** A string that is likely to be there again: a key. */
  #key(text: string): void {
    this.#once(`s ${text}`, () => this.#text(text));
  }

  #integer(value: number): void {
    if (value >= 0 && value < 256) this.#op(OP.binInt1, value);
    else if (value >= 0 && value < 65536) this.#op(OP.binInt2, value & 255, value >> 8);
    else if (value === (value | 0)) this.#op32(OP.binInt, value);
    else this.#long(BigInt(value));
  }

  #long(value: bigint): void {
    const bytes = integerBytes(value)!;
    this.#op(OP.long1, bytes.length);
    this.#append(bytes);
  }

  #float(value: number): void {
    this.#room(9);
    this.#bytes[this.#at] = OP.binFloat;
    this.#view.setFloat64(this.#at + 1, value); // pickles have floats with the high byte first
    this.#at += 9;
  }

  #tuple(items: readonly (() => void)[]): void {
    this.#container();
    if (items.length === 0) return this.#op(OP.emptyTuple);
    if (items.length > 3) this.#op(OP.mark);
    for (const item of items) item();
    this.#op(items.length > 3 ? OP.tuple : OP.tuple1 + items.length - 1);
  }

  #numbers(numbers: readonly number[]): void {
    this.#tuple(numbers.map((n) => () => this.#integer(n)));
  }

  /** Counts as the reader does. */
  #container(count = 1): void {
    this.#containers += count;
    if (this.#containers > MAX_CONTAINERS) {
      throw new RangeError(`a .pt file must have at most ${MAX_CONTAINERS} objects and arrays`);
    }
  }

  #emptyOrderedDict(): void {
    this.#global("collections", "OrderedDict");
    this.#op(OP.emptyTuple, OP.reduce);
    this.#container(2);
  }

  /** The name of the storage that is an array's memory: one, however often the array is saved. */
  #storageKey(tensor: Tensor): string {
    const { array, bytes, dtype } = tensor, place = `${array.byteOffset} ${bytes} ${dtype}`;
    let known = this.#byMemory.get(array.buffer);
    if (known === undefined) this.#byMemory.set(array.buffer, known = new Map());
    const found = known.get(place);
    if (found !== undefined) return found;
    const key = String(this.storages.size);
    this.storages.set(tensor, key);
    known.set(place, key);
    return key;
  }

  #storage(tensor: Tensor): void {
    const { storage } = TENSOR_DTYPES[tensor.dtype], key = this.#storageKey(tensor);
    this.#tuple([
      () => this.#key("storage"),
      () => storage === null ? this.#global("torch.storage", "UntypedStorage") : this.#global("torch", storage),
      () => this.#text(key),
      () => this.#key("cpu"),
      () => this.#integer(storage === null ? tensor.bytes : tensor.length),
    ]);
    this.#op(OP.binPersid);
  }

  #tensor({ tensor, shape, offset }: TensorSpec): void {
    const { dtype } = tensor, typed = TENSOR_DTYPES[dtype].storage !== null;
    const strides: number[] = [];
    for (let d = shape.length - 1, stride = 1; d >= 0; stride *= Math.max(1, shape[d--]!)) strides.unshift(stride);
    this.#global("torch._utils", typed ? "_rebuild_tensor_v2" : "_rebuild_tensor_v3");
    this.#tuple([
      () => this.#storage(tensor),
      () => this.#integer(offset),
      () => this.#numbers(shape),
      () => this.#numbers(strides),
      () => this.#op(OP.newFalse),
      () => this.#emptyOrderedDict(),
      ...(typed ? [] : [() => this.#global("torch", dtype)]),
    ]);
    this.#op(OP.reduce);
    this.#container(4);
  }

  #sparse({ indices, values, shape }: SparseSpec): void {
    this.#global("torch._utils", "_rebuild_sparse_tensor");
    this.#tuple([
      () => {
        this.#global("torch.serialization", "_get_layout");
        this.#tuple([() => this.#key("torch.sparse_coo")]);
        this.#op(OP.reduce);
      },
      () =>
        this.#tuple([
          () => this.#tensor(indices),
          () => this.#tensor(values),
          () => {
            this.#global("torch", "Size");
            this.#tuple([() => this.#numbers(shape)]);
            this.#op(OP.reduce);
          },
          () => this.#op(OP.newFalse),
        ]),
    ]);
    this.#op(OP.reduce);
    this.#container(3);
  }

  #dict(entries: Iterable<readonly [string | number, WritableValue]>): void {
    this.#container();
    this.#op(OP.emptyDict, OP.mark);
    for (const [key, value] of entries) {
      if (typeof key === "number") this.#integer(key);
      else this.#key(key);
      this.#write(value);
    }
    this.#op(OP.setItems);
  }

  #write(value: WritableValue): void {
    if (value === null) this.#op(OP.none);
    else if (typeof value === "boolean") this.#op(value ? OP.newTrue : OP.newFalse);
    else if (typeof value === "string") this.#text(value);
    else if (typeof value === "bigint") this.#long(value);
    else if (typeof value === "number") {
      if (Number.isSafeInteger(value) && !Object.is(value, -0)) this.#integer(value);
      else this.#float(value);
    } else if (Array.isArray(value)) {
      this.#container();
      this.#op(OP.emptyList, OP.mark);
      for (const item of value) this.#write(item);
      this.#op(OP.appends);
    } else if (value instanceof Float) this.#float(value.value);
    else if (value instanceof Tuple) this.#tuple(value.items.map((item) => () => this.#write(item)));
    else if (value instanceof Counts) {
      this.#global("collections", "Counter");
      this.#tuple([() => this.#dict(value.counts)]);
      this.#op(OP.reduce);
      this.#container(1 + value.counts.size);
    } else if (value instanceof TensorSpec) this.#tensor(value);
    else if (value instanceof SparseSpec) this.#sparse(value);
    else this.#dict(value);
  }
}
