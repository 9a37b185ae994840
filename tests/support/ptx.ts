/**
 * Runs PTX on the host, thread by thread: each kernel becomes a JavaScript function, instruction by instruction. What is not
 * known here is an error, and so is every access outside of the memory that has been mapped, or that is not aligned.
 *
 * Enough for csrc/ptx.c: global memory and parameters, no shared memory, no calls, no barriers.
 *
 * @module
 */

import { fromFloat16, toFloat16 } from "../../src/dtype.ts";

/** Device memory: regions far from each other, at addresses that are no addresses of the host. */
export class DeviceMemory {
  static readonly #first = 0x7f4000000000;
  static readonly #apart = 2 ** 32;
  readonly #regions: { view: DataView; writable: boolean }[] = [];
  /** The region of the last {@linkcode at}. */
  view: DataView = new DataView(new ArrayBuffer(0));

  /** Maps an array; returns its address. What kernels write is seen in it at once. */
  map(array: ArrayBufferView, writable = true): bigint {
    this.#regions.push({ view: new DataView(array.buffer, array.byteOffset, array.byteLength), writable });
    return BigInt(DeviceMemory.#first + (this.#regions.length - 1) * DeviceMemory.#apart);
  }

  /** Finds `size` bytes; returns where they are in `view`. */
  at(address: bigint, size: number, write: boolean): number {
    const offset = Number(address) - DeviceMemory.#first, index = Math.floor(offset / DeviceMemory.#apart);
    const region = this.#regions[index], at = offset - index * DeviceMemory.#apart;
    const what = write ? "written" : "read";
    if (region === undefined || at + size > region.view.byteLength) {
      throw new RangeError(`${size} bytes at 0x${address.toString(16)} are ${what}, which are nobody's`);
    }
    if (at % size !== 0) throw new RangeError(`${size} bytes at 0x${address.toString(16)} are ${what}: not aligned`);
    if (write && !region.writable) {
      throw new RangeError(`0x${address.toString(16)} is written, which is only to be read`);
    }
    this.view = region.view;
    return at;
  }
}

/** An instruction: `@!%p1 bra $L1;` has the guard `!p1`, the name `bra` and the operand `$L1`. */
export interface Instruction {
  readonly guard: string | null;
  readonly name: string;
  readonly operands: readonly string[];
  readonly text: string;
}

/** A kernel as it is written. */
export interface Entry {
  readonly name: string;
  /** What it takes: sizes in bytes. */
  readonly parameters: readonly { readonly name: string; readonly size: number }[];
  /** Its registers' declarations. */
  readonly registers: readonly { readonly type: string; readonly prefix: string; readonly count: number }[];
  /** Instructions, and labels as text. */
  readonly body: readonly (Instruction | string)[];
}

const SIZES: Record<string, number> = { b8: 1, u8: 1, b16: 2, u16: 2, b32: 4, u32: 4, f32: 4, b64: 8, u64: 8, f64: 8 };

function parseLine(text: string): Instruction {
  // one half of a register: the other one goes to a register of that line's own
  const half = text.match(/^\{ \.reg \.b16 tmp; (mov\.b32 \{(?:tmp, ?%rs\d+|%rs\d+, ?tmp)\}, %r\d+;) \}$/);
  const line = half ? half[1]! : text;
  const match = line.match(/^(?:@(!?)%(\w+) )?([a-z][\w.]*)(?: (.*))?;$/);
  if (!match) throw new SyntaxError(`this is no instruction: ${line}`);
  const [, not, guard, name, rest = ""] = match;
  const operands = rest.match(/\{[^}]*\}|\[[^\]]*\]|[^,\s]+/g) ?? [];
  return { guard: guard ? `${not}${guard}` : null, name: name!, operands, text: line };
}

/** Reads a module: lines without comments, as ffi/cuda_ptx.ts has them. */
export function parsePtx(text: string): { head: string[]; entries: Entry[] } {
  const lines = text.split("\n").filter((line) => line !== ""), head: string[] = [], entries: Entry[] = [];
  for (let i = 0; i < lines.length;) {
    const start = lines[i++]!.match(/^\.visible \.entry (\w+)\($/);
    if (!start) {
      if (entries.length > 0) throw new SyntaxError(`this is in no kernel: ${lines[i - 1]}`);
      head.push(lines[i - 1]!);
      continue;
    }
    const parameters: Entry["parameters"][number][] = [], registers: Entry["registers"][number][] = [];
    const body: (Instruction | string)[] = [];
    for (; lines[i] !== ")"; i++) {
      const array = lines[i]!.match(/^\.param \.align 8 \.b8 (\w+)\[(\d+)\],?$/);
      const scalar = lines[i]!.match(/^\.param \.([buf]\d+) (\w+),?$/);
      if (array) parameters.push({ name: array[1]!, size: Number(array[2]) });
      else if (scalar) parameters.push({ name: scalar[2]!, size: SIZES[scalar[1]!]! });
      else throw new SyntaxError(`this is no parameter: ${lines[i]}`);
    }
    if (lines[++i] !== "{") throw new SyntaxError(`${start[1]} has no body: ${lines[i]}`);
    for (i++; lines[i] !== "}"; i++) {
      const line = lines[i]!, register = line.match(/^\.reg \.(\w+) %(\w+)<(\d+)>;$/), label = line.match(/^(\$\w+):$/);
      if (register) registers.push({ type: register[1]!, prefix: register[2]!, count: Number(register[3]) });
      else if (label) body.push(label[1]!);
      else if (line !== '.pragma "nounroll";') body.push(parseLine(line));
    }
    i++;
    entries.push({ name: start[1]!, parameters, registers, body });
  }
  return { head, entries };
}

const floats = new Float32Array(1), words = new Int32Array(floats.buffer);
const doubles = new Float64Array(1), longs = new BigUint64Array(doubles.buffer);
/** What the functions that are made below may call. */
const HELP = {
  float: (bits: number) => (words[0] = bits, floats[0]!),
  bits: (x: number) => (floats[0] = x, words[0]!),
  double: (bits: bigint) => (longs[0] = bits, doubles[0]!),
  longBits: (x: number) => (doubles[0] = x, longs[0]!),
  half: fromFloat16,
  halfBits: toFloat16,
  tooLong: () => {
    throw new Error("a thread does not come to its end");
  },
};

/** A register's kind by its name: integers of 16 bits are 0 … 65535, of 32 bits signed, of 64 bits unsigned BigInts. */
const kindOf = (register: string): string => register.match(/^%(fd|rd|rs|[pfr])\d+$/)?.[1] ?? "";

/** An operand as JavaScript of the type that an instruction asks for: s32, u32, s64, u64, b16, f32, f64, f16, pred. */
function read(operand: string, type: string, entry: Entry): string {
  const kind = kindOf(operand), name = operand.slice(1);
  const special: Record<string, string> = {
    "%tid.x": "tid",
    "%ntid.x": "ntid",
    "%ctaid.x": "ctaid",
    "%nctaid.x": "nctaid",
  };
  const expected: Record<string, string> = { "8": "rs", "16": "rs", "32": "r", "64": "rd" };
  const width = type.slice(1), float = type.startsWith("f");
  if (operand in special && width === "32" && !float) return special[operand]!;
  if (type === "f16" && kind === "rs") return `H.half(${name})`;
  if ((type === "f32" && kind === "f") || (type === "f64" && kind === "fd") || (type === "pred" && kind === "p")) {
    return name;
  }
  if (!float && kind !== "" && kind === expected[width]) {
    if (type === "u32") return `(${name} >>> 0)`;
    if (type === "s64") return `BigInt.asIntN(64, ${name})`;
    if (type === "s16") return `(${name} << 16 >> 16)`;
    return name;
  }
  if (kind !== "") throw new SyntaxError(`${operand} is no ${type}`);
  if (type === "f32" && /^0f[0-9A-F]{8}$/.test(operand)) return `(${HELP.float(parseInt(operand.slice(2), 16))})`;
  if (type === "f64" && /^0d[0-9A-F]{16}$/.test(operand)) return `(${HELP.double(BigInt(`0x${operand.slice(2)}`))})`;
  if (type === "b64" && operand === entry.parameters[0]?.name) return "0n"; // its address, among parameters
  if (float || !/^-?(\d+|0x[0-9A-Fa-f]+)$/.test(operand)) throw new SyntaxError(`${operand} is no ${type}`);
  if (width === "64") {
    const value = BigInt(operand);
    return type === "s64" ? `(${BigInt.asIntN(64, value)}n)` : `${BigInt.asUintN(64, value)}n`;
  }
  const value = Number(operand);
  return width === "16" ? String(value & 0xffff) : type === "u32" ? String(value >>> 0) : `(${value | 0})`;
}

/** Makes what an instruction writes fit its register. */
const FIT: Record<string, (value: string) => string> = {
  p: (value) => value,
  rs: (value) => `(${value}) & 0xffff`,
  r: (value) => `(${value}) | 0`,
  rd: (value) => `BigInt.asUintN(64, ${value})`,
  f: (value) => `Math.fround(${value})`,
  fd: (value) => value,
};

const write = (register: string, value: string): string => `${register.slice(1)} = ${FIT[kindOf(register)]!(value)};`;

const COMPARE: Record<string, string> = { eq: "===", ne: "!==", lt: "<", le: "<=", gt: ">", ge: ">=" };
const ARITHMETIC: Record<string, string> = { add: "+", sub: "-", mul: "*", div: "/" };
const BITS: Record<string, string> = { and: "&", or: "|", xor: "^" };

/** Loads and stores: how a DataView names a type, and what a register of the other kind of it needs. */
const GET: Record<string, string> = {
  u8: "Uint8",
  u16: "Uint16",
  b16: "Uint16",
  u32: "Int32",
  b32: "Int32",
  u64: "BigUint64",
  b64: "BigUint64",
  f32: "Float32",
  f64: "Float64",
};

function address(operand: string, entry: Entry, space: string): { base: string; offset: number } {
  const match = operand.match(/^\[(%rd\d+|\w+)(?:\+(-?\d+))?\]$/);
  if (!match) throw new SyntaxError(`${operand} is no address`);
  const [, base = "", offset = "0"] = match;
  if (base.startsWith("%")) return { base: base.slice(1), offset: Number(offset) };
  if (space !== "param" || base !== entry.parameters[0]?.name) throw new SyntaxError(`${operand} is no address`);
  return { base: "0n", offset: Number(offset) };
}

/** The registers that a type may be loaded into and stored from: integers' may be wider, the rest is zeros or is not stored. */
const MAY_HOLD: Record<string, readonly string[]> = {
  ...{ f32: ["f"], f64: ["fd"], b64: ["rd"], u64: ["rd"], b32: ["r", "rd"], u32: ["r", "rd"] },
  ...{ b16: ["rs", "r", "rd"], u16: ["rs", "r", "rd"], u8: ["rs", "r", "rd"] },
};

/** A load or a store, of one register or of two; null if it is not known. */
function transfer({ name, operands: [to = "", a = ""] }: Instruction, entry: Entry): string | null {
  const [op, space = "", ...rest] = name.split("."), type = rest.at(-1)!, load = op === "ld", many = rest.length;
  if (!["ld.global", "ld.param", "st.global"].includes(`${op}.${space}`) || !GET[type]) return null;
  if (many !== 1 && (many !== 2 || rest[0] !== "v2")) return null;
  const [place, text] = load ? [a, to] : [to, a], registers = many === 2 ? text.slice(1, -1).split(/, ?/) : [text];
  if (registers.length !== many || !registers.every((r) => MAY_HOLD[type]!.includes(kindOf(r)))) return null;
  const { base, offset } = address(place, entry, space), size = SIZES[type]!, param = space === "param";
  const all = offset === 0 ? base : `BigInt.asUintN(64, ${base} + ${offset}n)`, view = param ? "P" : "M.view";
  const found = `at = ${param ? `Number(${all})` : `M.at(${all}, ${size * many}, ${!load})`};`;
  return [
    found,
    ...registers.map((register, k) => {
      const wide = kindOf(register) === "rd" && size < 8, where = `at + ${size * k}, `, name = register.slice(1);
      if (!load) return `${view}.set${GET[type]}(${where}${wide ? `Number(BigInt.asIntN(32, ${name}))` : name}, true);`;
      const value = `${view}.get${GET[type]}(${where}true)`;
      return write(register, wide ? `BigInt(${value} >>> 0)` : value);
    }),
  ].join(" ");
}

/** What an instruction does, as JavaScript. Throws for one that is not known. */
function translate(instruction: Instruction, entry: Entry): string {
  const { name, operands } = instruction, [to = "", a = "", b = "", c = ""] = operands;
  const [op = "", ...rest] = name.split("."),
    type = rest.at(-1)!,
    get = (operand: string, as = type) => read(operand, as, entry);
  const fail = (): never => {
    throw new SyntaxError(`this instruction is not known: ${instruction.text}`);
  };

  if (op === "ld" || op === "st") return transfer(instruction, entry) ?? fail();
  if (name === "mov.b32" && to.startsWith("{") && kindOf(a) === "r") {
    return to.slice(1, -1).split(/, ?/).map((register, k) => {
      return register === "tmp" ? "" : write(register, `${a.slice(1)} >>> ${16 * k}`);
    }).join(" ");
  }
  if (op === "mov" && rest.length === 1) {
    const pair = `${kindOf(to)} ${kindOf(a)}`;
    if (type === "b32" && pair === "r f") return write(to, `H.bits(${a.slice(1)})`);
    if (type === "b32" && pair === "f r") return write(to, `H.float(${a.slice(1)})`);
    if (type === "b64" && pair === "rd fd") return write(to, `H.longBits(${a.slice(1)})`);
    if (type === "b64" && pair === "fd rd") return write(to, `H.double(${a.slice(1)})`);
    return write(to, get(a, type === "u64" ? "b64" : type));
  }
  if (op === "cvt") {
    const [into, from] = rest.slice(-2), mode = rest.slice(0, -2).join("."), value = get(a, from);
    const widening = ["f64.f32", "f64.f16", "f32.f16"].includes(`${into}.${from}`),
      integers = /^[us]\d+\.[us]\d+$/.test(`${into}.${from}`);
    if (mode === "" && widening) return write(to, value);
    if (mode === "" && integers) {
      if (into!.endsWith("64")) return write(to, from!.endsWith("64") ? value : `BigInt(${value})`);
      return write(to, from!.endsWith("64") ? `Number(BigInt.asIntN(32, ${value}))` : value);
    }
    if (mode === "rn" && into === "f32" && from === "f64") return write(to, value);
    if (mode === "rn" && into === "f16" && from === "f32") return write(to, `H.halfBits(${value})`);
    if (mode === "rn" && into === "f64" && /^[us](32|64)$/.test(from!)) return write(to, `Number(${value})`);
    return fail();
  }
  if (op === "setp" && rest.length === 2) {
    const x = get(a), y = get(b), how = rest[0]!, float = type.startsWith("f");
    if (float && how === "nan") return write(to, `${x} !== ${x} || ${y} !== ${y}`);
    if (float && how === "num") return write(to, `${x} === ${x} && ${y} === ${y}`);
    if (float && how === "ne") return write(to, `${x} < ${y} || ${x} > ${y}`); // ordered: not of NaN
    if (float && how in { equ: 1, neu: 1, ltu: 1, leu: 1, gtu: 1, geu: 1 }) {
      return write(to, `${x} !== ${x} || ${y} !== ${y} || ${x} ${COMPARE[how.slice(0, 2)]} ${y}`);
    }
    if (COMPARE[how]) return write(to, `${x} ${COMPARE[how]} ${y}`);
  }
  if (op === "selp" && rest.length === 1) return write(to, `${get(c, "pred")} ? ${get(a)} : ${get(b)}`);
  if (op in ARITHMETIC && rest.length === 2 && rest[0] === "rn" && /^f(64|32)$/.test(type)) {
    return write(to, `${get(a)} ${ARITHMETIC[op]} ${get(b)}`);
  }
  // the exact product of two float16, rounded once
  if (name === "mul.rn.f16") return write(to, `H.halfBits(${get(a)} * ${get(b)})`);
  if (op === "rcp" && rest.length === 2 && rest[0] === "rn" && /^f(64|32)$/.test(type)) {
    return write(to, `1 / ${get(a)}`);
  }
  if (op === "sqrt" && rest.length === 2 && rest[0] === "rn" && /^f(64|32)$/.test(type)) {
    return write(to, `Math.sqrt(${get(a)})`);
  }
  if (rest.length === 1 && /^f(64|32)$/.test(type)) {
    if (op === "neg") return write(to, `-${get(a)}`);
    if (op === "abs") return write(to, `Math.abs(${get(a)})`);
    if (op === "max" || op === "min") { // of a NaN and a number, the number
      const [x, y] = [get(a), get(b)];
      return write(to, `${x} !== ${x} ? ${y} : ${y} !== ${y} ? ${x} : Math.${op}(${x}, ${y})`);
    }
  }
  if (op === "neg" && rest.length === 1 && /^s(32|64)$/.test(type)) return write(to, `-${get(a)}`);
  if (rest.length === 1 && /^[us](16|32|64)$/.test(type)) {
    if (op === "add" || op === "sub") return write(to, `${get(a)} ${ARITHMETIC[op]} ${get(b)}`);
    if (op === "max" || op === "min") {
      return write(to, `${get(a)} ${op === "max" ? ">" : "<"} ${get(b)} ? ${get(a)} : ${get(b)}`);
    }
    if (op === "div" || op === "rem") { // an integer's division by 0 has no defined result: an error of BigInt
      return write(
        to,
        type.endsWith("64")
          ? `${get(a)} ${op === "div" ? "/" : "%"} ${get(b)}`
          : `Number(BigInt(${get(a)}) ${op === "div" ? "/" : "%"} BigInt(${get(b)}))`,
      );
    }
  }
  if (op === "mul" && rest[0] === "wide" && /^[us]32$/.test(type)) {
    return write(to, `BigInt(${get(a)}) * BigInt(${get(b)})`);
  }
  if ((op === "mul" || op === "mad") && rest[0] === "lo" && rest.length === 2 && /^[us](16|32|64)$/.test(type)) {
    const product = type.endsWith("32") ? `Math.imul(${get(a)}, ${get(b)})` : `${get(a)} * ${get(b)}`;
    return write(to, op === "mad" ? `${product} + ${get(c)}` : product);
  }
  if (op in BITS && rest.length === 1) {
    if (/^b(16|32|64)$/.test(type)) return write(to, `${get(a)} ${BITS[op]} ${get(b)}`);
    if (type === "pred") {
      return write(to, op === "xor" ? `${get(a)} !== ${get(b)}` : `${get(a)} ${BITS[op]!.repeat(2)} ${get(b)}`);
    }
  }
  if (name === "not.pred") return write(to, `!${get(a)}`);
  if (name === "not.b32" || name === "not.b64") return write(to, `~${get(a)}`);
  if ((op === "shl" || op === "shr") && rest.length === 1) { // amounts of the width or more shift everything out
    const by = get(b, "u32"), sign = op === "shl" ? "<<" : type.startsWith("s") ? ">>" : ">>>";
    if (type === "u16" || type === "b16") return write(to, `${by} > 15 ? 0 : ${get(a)} ${sign} ${by}`);
    if (/^[bus]64$/.test(type)) return write(to, `${get(a)} ${sign === ">>>" ? ">>" : sign} BigInt(${by})`);
    const all = type === "s32" ? `${get(a)} >> 31` : "0";
    if (/^[bus]32$/.test(type)) return write(to, `${by} > 31 ? ${all} : ${get(a)} ${sign} ${by}`);
  }
  if (name === "bfe.u32" && /^\d+$/.test(b) && /^\d+$/.test(c) && Number(c) < 32) {
    return write(to, `(${get(a)} >>> ${b}) & ${2 ** Number(c) - 1}`);
  }
  return fail();
}

/** A kernel that can be run. */
export interface Kernel extends Entry {
  /** Runs a grid of blocks, thread by thread. `parameters` is the one that it takes. */
  launch(memory: DeviceMemory, parameters: Uint8Array, grid: number, block: number): void;
}

/** Jumps that a thread may take. */
const JUMPS = 1e6;

function compile(entry: Entry): Kernel {
  const [parameter, ...others] = entry.parameters;
  if (!parameter || others.length > 0) {
    throw new SyntaxError(`${entry.name} takes ${entry.parameters.length} parameters`);
  }
  const zero: Record<string, string> = { rd: "0n", p: "false" };
  const lines: string[] = ["let at = 0, to = 0, jumps = 0;"], labels = new Map<string, number>();
  for (const { prefix, count } of entry.registers) {
    for (let k = 1; k < count; k++) lines.push(`let ${prefix}${k} = ${zero[prefix] ?? "0"};`);
  }
  for (const item of entry.body) if (typeof item === "string") labels.set(item, labels.size + 1);
  lines.push("run: for (;;) switch (to) { case 0:");
  for (const item of entry.body) {
    if (typeof item === "string") {
      lines.push(`case ${labels.get(item)}:`);
      continue;
    }
    const guard = item.guard === null ? "" : `if (${item.guard}) `;
    if (item.name === "ret") lines.push(`${guard}return;`);
    else if (item.name === "bra" || item.name === "bra.uni") {
      const label = labels.get(item.operands[0]!);
      if (label === undefined) throw new SyntaxError(`there is no label: ${item.text}`);
      lines.push(`${guard}{ if (++jumps > ${JUMPS}) H.tooLong(); to = ${label}; continue run; }`);
    } else lines.push(`${guard}{ ${translate(item, entry)} }`);
  }
  lines.push("}");
  const run = new Function("H", "M", "P", "tid", "ntid", "ctaid", "nctaid", lines.join("\n")) as (
    ...args: [typeof HELP, DeviceMemory, DataView, number, number, number, number]
  ) => void;
  return {
    ...entry,
    launch(memory, parameters, grid, block) {
      if (parameters.length !== parameter.size) {
        throw new RangeError(`${entry.name} takes ${parameter.size} bytes, not ${parameters.length}`);
      }
      const view = new DataView(parameters.buffer, parameters.byteOffset, parameters.byteLength);
      for (let b = 0; b < grid; b++) for (let t = 0; t < block; t++) run(HELP, memory, view, t, block, b, grid);
    },
  };
}

/** The kernels of a module, each compiled when it is asked for. */
export class Module {
  readonly #entries: Map<string, Entry>;
  readonly #compiled: Map<string, Kernel> = new Map();

  constructor(text: string) {
    this.#entries = new Map(parsePtx(text).entries.map((entry) => [entry.name, entry]));
  }

  kernel(name: string): Kernel {
    const entry = this.#entries.get(name);
    if (!entry) throw new Error(`there is no kernel ${name}`);
    const kernel = this.#compiled.get(name) ?? compile(entry);
    this.#compiled.set(name, kernel);
    return kernel;
  }
}
