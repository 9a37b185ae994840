/**
 * Reads what a shared library exports and needs: ELF, Mach-O and PE, 64 bits, little-endian. Enough for the libraries that
 * are built here; what it does not know is an error.
 *
 * @module
 */

/** What a library says about itself. */
export interface Binary {
  /** The processor: `x64` or `arm64`. */
  cpu: string;
  /** The functions that it exports, sorted. */
  exports: string[];
  /** The libraries that it needs, sorted. */
  libraries: string[];
  /** The newest version of each library's symbols (ELF: `GLIBC_2.17`), or of the system (Mach-O: `11.0`). */
  versions: string[];
  /** Its own name, where it has one, and whether it is signed (Mach-O). */
  name: string | null;
  /** Whether it carries a signature. */
  signed: boolean;
}

class Reader {
  readonly #view: DataView;
  constructor(readonly bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  u8(at: number): number {
    return this.#view.getUint8(at);
  }
  u16(at: number): number {
    return this.#view.getUint16(at, true);
  }
  u32(at: number): number {
    return this.#view.getUint32(at, true);
  }
  u64(at: number): number {
    return Number(this.#view.getBigUint64(at, true));
  }
  text(at: number): string {
    return new TextDecoder().decode(this.bytes.subarray(at, this.bytes.indexOf(0, at)));
  }
}

const cpuOf = (names: Record<number, string>, number: number): string => {
  const name = names[number];
  if (!name) throw new Error(`an unknown processor: ${number}`);
  return name;
};

function readElf(r: Reader): Binary {
  const cpu = cpuOf({ 62: "x64", 183: "arm64" }, r.u16(18));
  const names = { dynsym: 11, dynamic: 6, needed: 0x6ffffffe };
  const headers = r.u64(40), size = r.u16(58), count = r.u16(60);
  const section = (type: number) => {
    for (let k = 0; k < count; k++) {
      const at = headers + k * size;
      if (r.u32(at + 4) === type) {
        const strings = r.u64(headers + r.u32(at + 40) * size + 24);
        return { offset: r.u64(at + 24), length: r.u64(at + 32), text: (offset: number) => r.text(strings + offset) };
      }
    }
    return null;
  };
  const symbols = section(names.dynsym)!, dynamic = section(names.dynamic)!, needed = section(names.needed);
  const exports: string[] = [], libraries: string[] = [], versions: string[] = [];
  for (let at = symbols.offset + 24; at < symbols.offset + symbols.length; at += 24) {
    if (r.u16(at + 6) !== 0 && r.u8(at + 4) >> 4 !== 0) exports.push(symbols.text(r.u32(at)));
  }
  let name: string | null = null;
  for (let at = dynamic.offset; at < dynamic.offset + dynamic.length; at += 16) {
    if (r.u64(at) === 1) libraries.push(dynamic.text(r.u64(at + 8)));
    if (r.u64(at) === 14) name = dynamic.text(r.u64(at + 8));
  }
  for (let at = needed?.offset; needed && at !== undefined;) {
    for (let k = 0, aux = at + r.u32(at + 8); k < r.u16(at + 2); k++, aux += r.u32(aux + 12)) {
      versions.push(needed.text(r.u32(aux + 8)));
    }
    at = r.u32(at + 12) === 0 ? undefined : at + r.u32(at + 12);
  }
  return { cpu, exports: exports.sort(), libraries: libraries.sort(), versions: versions.sort(), name, signed: false };
}

function readMachO(r: Reader): Binary {
  const cpu = cpuOf({ 0x01000007: "x64", 0x0100000c: "arm64" }, r.u32(4));
  const exports: string[] = [], libraries: string[] = [], versions: string[] = [];
  let name: string | null = null, signed = false;
  for (let k = 0, at = 32; k < r.u32(16); k++, at += r.u32(at + 4)) {
    const command = r.u32(at);
    if (command === 0x02) { // symbols: those that are external and defined in a section
      const offset = r.u32(at + 8), strings = r.u32(at + 16);
      for (let s = offset; s < offset + 16 * r.u32(at + 12); s += 16) {
        if ((r.u8(s + 4) & 0xef) === 0x0f) exports.push(r.text(strings + r.u32(s)).replace(/^_/, ""));
      }
    } else if (command === 0x0c) {
      libraries.push(r.text(at + r.u32(at + 8)));
    } else if (command === 0x0d) {
      name = r.text(at + r.u32(at + 8));
    } else if (command === 0x1d) {
      signed = true;
    } else if (command === 0x32) {
      versions.push(`${r.u32(at + 12) >> 16}.${r.u32(at + 12) >> 8 & 255}`);
    }
  }
  return { cpu, exports: exports.sort(), libraries: libraries.sort(), versions, name, signed };
}

function readPe(r: Reader): Binary {
  const head = r.u32(60) + 4, cpu = cpuOf({ 0x8664: "x64", 0xaa64: "arm64" }, r.u16(head)), optional = head + 20;
  const sections = optional + r.u16(head + 16), count = r.u16(head + 2);
  const at = (address: number) => { // of an address in memory, in the file
    for (let s = sections; s < sections + 40 * count; s += 40) {
      const from = r.u32(s + 12);
      if (address >= from && address < from + r.u32(s + 16)) return r.u32(s + 20) + address - from;
    }
    throw new Error(`no section has the address ${address}`);
  };
  const exported = at(r.u32(optional + 112)), imported = at(r.u32(optional + 120));
  const exports: string[] = [], libraries: string[] = [];
  for (let k = 0; k < r.u32(exported + 24); k++) exports.push(r.text(at(r.u32(at(r.u32(exported + 32)) + 4 * k))));
  for (let entry = imported; r.u32(entry + 12) !== 0; entry += 20) libraries.push(r.text(at(r.u32(entry + 12))));
  const name = r.text(at(r.u32(exported + 12)));
  return { cpu, exports: exports.sort(), libraries: libraries.sort(), versions: [], name, signed: false };
}

/** Reads a shared library. */
export function readBinary(bytes: Uint8Array): Binary {
  const r = new Reader(bytes);
  if (r.u32(0) === 0x464c457f && r.u8(4) === 2) return readElf(r);
  if (r.u32(0) === 0xfeedfacf) return readMachO(r);
  if (r.u16(0) === 0x5a4d) return readPe(r);
  throw new Error("neither ELF nor Mach-O nor PE of 64 bits");
}
