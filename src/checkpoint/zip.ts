/**
 * Zip archives, as torch writes them: stored records, aligned to 64 bytes, with zip64 where it is needed.
 *
 * This is our own because a checkpoint wants what no library has at once: records that are written from live arrays and read
 * straight into their final ones in large pieces, aligned, beyond 4 GB, with every length checked against the file before
 * anything is allocated. Checksums and inflation are node:zlib's.
 *
 * @module
 */

import { show } from "../errors.ts";
import { broken } from "./error.ts";
import { CHUNK, type FileReader, type FileWriter } from "./file.ts";
import { builtin } from "../../ffi/runtime.ts";
import type { Platform } from "./platform.ts";
import type { Tensor } from "./value.ts";

const LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50;
const ALIGNMENT = 64;
const MOST16 = 0xffff, MOST32 = 0xffffffff;
/** torch's id for the extra field that pads a record. */
const PADDING_ID = 0x4246;
const UTF8 = 0x0800;

interface Written {
  readonly name: Uint8Array;
  readonly size: number;
  readonly offset: number;
  readonly crc: number;
}

function bytes(length: number, fill: (view: DataView, array: Uint8Array) => void): Uint8Array {
  const array = new Uint8Array(length);
  fill(new DataView(array.buffer), array);
  return array;
}

/** Writes an archive, one record after the other. */
export class ZipWriter {
  readonly #records: Written[] = [];

  constructor(readonly writer: FileWriter, readonly zlib: Platform["zlib"]) {}

  /** Writes a record of bytes, or of a tensor's elements. */
  async record(name: string, content: Uint8Array | Tensor): Promise<void> {
    const { writer, zlib } = this, encoded = new TextEncoder().encode(name);
    const isBytes = content instanceof Uint8Array, size = isBytes ? content.length : content.bytes;
    const offset = writer.position;
    let crc = isBytes ? zlib.crc32(content) : 0;
    const header = localHeader(encoded, size, offset, crc);
    await writer.append(header);
    if (isBytes) {
      await writer.append(content);
    } else {
      await writer.tensor(content, (chunk) => crc = zlib.crc32(chunk, crc));
      await writer.patch(localHeader(encoded, size, offset, crc), offset);
    }
    this.#records.push({ name: encoded, size, offset, crc });
  }

  /** Writes the directory. */
  async end(): Promise<void> {
    const { writer } = this, records = this.#records, start = writer.position;
    for (const record of records) await writer.append(centralHeader(record));
    const size = writer.position - start, count = records.length, end64 = writer.position;
    if (count >= MOST16 || size >= MOST32 || start >= MOST32) {
      await writer.append(bytes(56 + 20, (view) => {
        view.setUint32(0, END64, true);
        view.setBigUint64(4, 44n, true);
        view.setUint16(12, 45, true);
        view.setUint16(14, 45, true);
        view.setBigUint64(24, BigInt(count), true);
        view.setBigUint64(32, BigInt(count), true);
        view.setBigUint64(40, BigInt(size), true);
        view.setBigUint64(48, BigInt(start), true);
        view.setUint32(56, LOCATOR64, true);
        view.setBigUint64(64, BigInt(end64), true);
        view.setUint32(72, 1, true);
      }));
    }
    await writer.append(bytes(22, (view) => {
      view.setUint32(0, END, true);
      view.setUint16(8, Math.min(count, MOST16), true);
      view.setUint16(10, Math.min(count, MOST16), true);
      view.setUint32(12, Math.min(size, MOST32), true);
      view.setUint32(16, Math.min(start, MOST32), true);
    }));
  }
}

/** A record's header, padded so that its content is aligned. */
function localHeader(name: Uint8Array, size: number, offset: number, crc: number): Uint8Array {
  const large = size >= MOST32, fixed = 30 + name.length + (large ? 20 : 0);
  const padding = ALIGNMENT - ((offset + fixed + 4) % ALIGNMENT);
  return bytes(fixed + 4 + padding, (view, array) => {
    view.setUint32(0, LOCAL, true);
    view.setUint16(4, large ? 45 : 20, true);
    view.setUint16(6, UTF8, true);
    view.setUint16(12, 0x21, true); // the first day that there is: files do not depend on when they are written
    view.setUint32(14, crc, true);
    view.setUint32(18, large ? MOST32 : size, true);
    view.setUint32(22, large ? MOST32 : size, true);
    view.setUint16(26, name.length, true);
    view.setUint16(28, (large ? 20 : 0) + 4 + padding, true);
    array.set(name, 30);
    let at = 30 + name.length;
    if (large) {
      view.setUint16(at, 1, true);
      view.setUint16(at + 2, 16, true);
      view.setBigUint64(at + 4, BigInt(size), true);
      view.setBigUint64(at + 12, BigInt(size), true);
      at += 20;
    }
    view.setUint16(at, PADDING_ID, true);
    view.setUint16(at + 2, padding, true);
    array.fill(0x5a, at + 4);
  });
}

function centralHeader({ name, size, offset, crc }: Written): Uint8Array {
  const wide = [...(size >= MOST32 ? [size, size] : []), ...(offset >= MOST32 ? [offset] : [])];
  const extra = wide.length > 0 ? 4 + 8 * wide.length : 0;
  return bytes(46 + name.length + extra, (view, array) => {
    view.setUint32(0, CENTRAL, true);
    view.setUint16(4, extra ? 45 : 20, true);
    view.setUint16(6, extra ? 45 : 20, true);
    view.setUint16(8, UTF8, true);
    view.setUint16(14, 0x21, true);
    view.setUint32(16, crc, true);
    view.setUint32(20, Math.min(size, MOST32), true);
    view.setUint32(24, Math.min(size, MOST32), true);
    view.setUint16(28, name.length, true);
    view.setUint16(30, extra, true);
    view.setUint32(42, Math.min(offset, MOST32), true);
    array.set(name, 46);
    if (extra) {
      view.setUint16(46 + name.length, 1, true);
      view.setUint16(48 + name.length, extra - 4, true);
      wide.forEach((n, i) => view.setBigUint64(50 + name.length + 8 * i, BigInt(n), true));
    }
  });
}

/** A record of an archive that is read. */
export interface ZipEntry {
  /** Its name. */
  readonly name: string;
  /** Bytes of its content. */
  readonly size: number;
  /** Bytes that it takes in the file. */
  readonly stored: number;
  /** Whether they are compressed. */
  readonly deflated: boolean;
  readonly offset: number;
  readonly crc: number;
}

/** How much more than the file has its compressed records may become: what torch saves is not compressed at all. */
const INFLATION = 16;
const INFLATION_FREE = 64 << 20;

/** Reads an archive, record by record. */
export class ZipReader {
  /** Whether there are checksums: torch can be told to write none, and then has zeros in their place. */
  readonly #hasSums: boolean;
  #inflated = 0;

  constructor(
    readonly reader: FileReader,
    readonly zlib: Platform["zlib"],
    /** The records by name. */
    readonly entries: ReadonlyMap<string, ZipEntry>,
  ) {
    this.#hasSums = [...entries.values()].some(({ crc }) => crc !== 0);
  }

  #checkSum({ name, crc }: ZipEntry, found: number): void {
    if (this.#hasSums && found !== crc) {
      broken(`its record ${show(name)} is damaged: the checksum is not right`);
    }
  }

  /** Reads the directory, and checks it against the file. */
  static async open(reader: FileReader, zlib: Platform["zlib"]): Promise<ZipReader> {
    const { count, size, start } = await findDirectory(reader);
    const directory = await reader.bytes(start, size), view = new DataView(directory.buffer);
    const entries = new Map<string, ZipEntry>();
    let at = 0;
    for (let i = 0; i < count; i++) {
      if (at + 46 > size || view.getUint32(at, true) !== CENTRAL) broken("its directory is broken");
      const names = view.getUint16(at + 28, true), extra = view.getUint16(at + 30, true);
      const next = at + 46 + names + extra + view.getUint16(at + 32, true);
      if (next > size) broken("its directory is cut off");
      const entry = readEntry(view, directory, at, names, extra);
      if (entries.has(entry.name)) broken(`it has the record ${show(entry.name)} twice`);
      if (entry.offset + 30 + names + entry.stored > start) {
        broken(`its record ${show(entry.name)} is said to lie beyond the end of the file`);
      }
      entries.set(entry.name, entry);
      at = next;
    }
    if (at !== size) broken("its directory has more records than it says");
    const inOrder = [...entries.values()].sort((a, b) => a.offset - b.offset);
    for (let i = 1; i < inOrder.length; i++) {
      const before = inOrder[i - 1]!;
      if (before.offset + 30 + before.stored > inOrder[i]!.offset) {
        broken(`its records ${show(before.name)} and ${show(inOrder[i]!.name)} overlap`);
      }
    }
    return new ZipReader(reader, zlib, entries);
  }

  /** Where a record's content begins. */
  async #content({ name, offset, stored }: ZipEntry): Promise<number> {
    const header = await this.reader.bytes(offset, 30), view = new DataView(header.buffer);
    if (view.getUint32(0, true) !== LOCAL) broken(`its record ${show(name)} is not where its directory says`);
    const start = offset + 30 + view.getUint16(26, true) + view.getUint16(28, true);
    if (start + stored > this.reader.size) broken(`its record ${show(name)} is cut off`);
    return start;
  }

  /** A record's whole content, checked; `most` is how long it may be. */
  async content(entry: ZipEntry, most: number = Infinity): Promise<Uint8Array<ArrayBuffer>> {
    const { name, size, stored, deflated } = entry;
    if (size > most) broken(`its record ${show(name)} has ${size} bytes, at most ${most} are allowed`);
    if (deflated && (this.#inflated += size) > INFLATION_FREE + INFLATION * this.reader.size) {
      broken(`its record ${show(name)} is said to become ${size} bytes out of ${stored}`);
    }
    const start = await this.#content(entry);
    if (deflated) return await this.#inflate(entry, start);
    const into = new Uint8Array(size);
    let crc = 0;
    await this.reader.read(into, start, (chunk) => crc = this.zlib.crc32(chunk, crc));
    this.#checkSum(entry, crc);
    return into;
  }

  async #inflate(entry: ZipEntry, start: number): Promise<Uint8Array<ArrayBuffer>> {
    const { name, size, stored } = entry, { reader, zlib } = this, label = `its record ${show(name)}`;
    async function* pieces(): AsyncGenerator<Uint8Array> {
      const length = Math.min(CHUNK, 1 << 20);
      for (let at = 0; at < stored; at += length) yield await reader.bytes(start + at, Math.min(length, stored - at));
    }
    const { Readable } = builtin<typeof import("node:stream")>("node:stream"),
      stream = Readable.from(pieces()).pipe(zlib.createInflateRaw());
    // what comes out is gathered first: the size that the directory claims is believed once it has been borne out
    const parts: Uint8Array[] = [];
    let length = 0, crc = 0;
    try {
      for await (const piece of stream as AsyncIterable<Uint8Array>) {
        length += piece.length;
        if (length > size) break;
        crc = zlib.crc32(piece, crc);
        parts.push(piece);
      }
    } catch (error) {
      broken(`${label} cannot be decompressed: ${(error as Error).message}`);
    } finally {
      stream.destroy();
    }
    if (length !== size) broken(`${label} is not ${size} bytes long when it is decompressed`);
    this.#checkSum(entry, crc);
    const into = new Uint8Array(size);
    let at = 0;
    for (const part of parts) {
      into.set(part, at);
      at += part.length;
    }
    return into;
  }
}

function big(view: DataView, at: number): number {
  const value = view.getBigUint64(at, true);
  return value > BigInt(Number.MAX_SAFE_INTEGER) ? Infinity : Number(value);
}

async function findDirectory(reader: FileReader): Promise<{ count: number; size: number; start: number }> {
  const magic = reader.size >= 4 ? new DataView((await reader.bytes(0, 4)).buffer).getUint32(0, true) : 0;
  if (magic !== LOCAL && magic !== END) {
    broken(
      reader.size === 0
        ? "it is empty"
        : "it is no zip archive, which is what torch.save has written since version 1.6: save it again with a newer torch",
    );
  }
  const length = Math.min(reader.size, 22 + MOST16), from = reader.size - length;
  const tail = await reader.bytes(from, length), view = new DataView(tail.buffer);
  let at = length - 22;
  while (at >= 0 && (view.getUint32(at, true) !== END || at + 22 + view.getUint16(at + 20, true) !== length)) at--;
  if (at < 0) broken("it is cut off: the directory of its zip archive is missing");
  let count = view.getUint16(at + 10, true),
    size = view.getUint32(at + 12, true),
    start = view.getUint32(at + 16, true);
  let before = from + at; // the directory ends here
  if (count === MOST16 || size === MOST32 || start === MOST32) {
    if (before < 20) broken("its directory is broken");
    const locator = new DataView((await reader.bytes(before - 20, 20)).buffer);
    if (locator.getUint32(0, true) === LOCATOR64) {
      const where = big(locator, 8);
      if (where + 56 > before - 20) broken("its directory is broken");
      const end64 = new DataView((await reader.bytes(where, 56)).buffer);
      if (end64.getUint32(0, true) !== END64) broken("its directory is broken");
      count = big(end64, 32);
      size = big(end64, 40);
      start = big(end64, 48);
      before = where;
    }
  }
  if (start + size > before || count * 46 > size) {
    broken(`its directory is said to have ${count} records in ${size} bytes from ${start} on, which cannot be`);
  }
  return { count, size, start };
}

function readEntry(view: DataView, directory: Uint8Array, at: number, names: number, extra: number): ZipEntry {
  let name: string;
  try {
    name = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(
      directory.subarray(at + 46, at + 46 + names),
    );
  } catch {
    broken("its directory has a name that is not UTF-8");
  }
  const label = `its record ${show(name)}`, flags = view.getUint16(at + 8, true);
  const method = view.getUint16(at + 10, true);
  if (flags & 1) broken(`${label} is encrypted`);
  if (method !== 0 && method !== 8) broken(`${label} is compressed by method ${method}; only deflate (8) is read`);
  let size = view.getUint32(at + 24, true),
    stored = view.getUint32(at + 20, true),
    offset = view.getUint32(at + 42, true);
  const crc = view.getUint32(at + 16, true), end = at + 46 + names + extra;
  for (let e = at + 46 + names; e + 4 <= end;) {
    const id = view.getUint16(e, true), length = view.getUint16(e + 2, true);
    if (e + 4 + length > end) broken("its directory is broken");
    if (id === 1) {
      let field = e + 4;
      const next = (value: number): number => {
        if (value !== MOST32) return value;
        if (field + 8 > e + 4 + length) broken("its directory is broken");
        field += 8;
        return big(view, field - 8);
      };
      size = next(size);
      stored = next(stored);
      offset = next(offset);
    }
    e += 4 + length;
  }
  if (method === 0 && size !== stored) broken(`${label} has ${stored} bytes, which are said to be ${size}`);
  return { name, size, stored, deflated: method === 8, offset, crc };
}
