/**
 * What the library asks of the runtime it finds itself in, and nothing of it at import: Deno, Bun, Node or a browser.
 * Nothing here ever prompts for a permission.
 *
 * @module
 */

import type { Functions } from "./symbols.ts";

/** A permission as Deno names it. */
interface Permission {
  name: string;
  path?: string;
  variable?: string;
  kind?: string;
}

/** The part of Deno that is used; declared here so that the types hold under Bun and tsc as well. */
interface DenoLike {
  build: { os: string; arch: string; target: string };
  version: { deno: string };
  permissions: { querySync(descriptor: Permission): { state: string } };
  env: { get(name: string): string | undefined };
  uid(): number | null;
  statSync(path: string): unknown;
  lstatSync(path: string): {
    isFile: boolean;
    isDirectory: boolean;
    isSymlink: boolean;
    size: number;
    mtime: Date | null;
    ctime?: Date | null;
    dev: number;
    ino: number | null;
    mode: number | null;
    uid: number | null;
  };
  readFileSync(path: string): Uint8Array;
  mkdirSync(path: string, options: { recursive: boolean; mode: number }): void;
  writeFileSync(path: string, bytes: Uint8Array, options: { createNew: boolean; mode: number }): void;
  chmodSync(path: string, mode: number): void;
  renameSync(from: string, to: string): void;
  removeSync(path: string): void;
  dlopen(path: string, symbols: Record<string, unknown>): { symbols: unknown };
  UnsafePointer: {
    of(memory: ArrayBufferView): unknown;
    value(pointer: unknown): bigint | number;
    create(address: bigint): unknown;
  };
  UnsafePointerView: { getCString(pointer: unknown): string };
}

interface ProcessLike {
  platform?: string;
  arch?: string;
  env?: Record<string, string | undefined>;
  getBuiltinModule?(name: string): unknown;
  getuid?(): number;
}

const globals = globalThis as unknown as { Deno?: DenoLike; Bun?: { version: string }; process?: ProcessLike };

/** Deno, if this is Deno. */
export const deno: DenoLike | undefined = globals.Bun === undefined && globals.Deno?.version?.deno
  ? globals.Deno
  : undefined;

/** Whether this is Bun. */
export const isBun: boolean = globals.Bun !== undefined;

/** Whether something is permitted already. Only Deno has permissions. */
export function granted(permission: Permission): boolean {
  return !deno || deno.permissions.querySync(permission).state === "granted";
}

/** A module of the runtime's own, without an import that a browser would stumble over. */
export function builtin<T>(name: string): T {
  const module = globals.process?.getBuiltinModule?.(name);
  if (!module) throw new Error(`this runtime has no ${name}`);
  return module as T;
}

/**
 * A module that `deno task build` has made, read as text: a file beside `importer`, of the same ending.
 *
 * @param importer import.meta.url of a module that is a file
 * @param name its path from there, without the ending
 * @param made the task that makes it, for the message
 * @returns the hash, size and compressed bytes in base64 that it carries; null where there is no such file
 * @throws {Error} with the reason, if it may not be read or is something else
 */
export function readGenerated(
  importer: string,
  name: string,
  made: string,
): { sha256: string; size: number; compressed: string } | null {
  const { fileURLToPath } = builtin<typeof import("node:url")>("node:url");
  const { existsSync, readFileSync } = builtin<typeof import("node:fs")>("node:fs");
  const path = fileURLToPath(new URL(`${name}${importer.endsWith(".js") ? ".js" : ".ts"}`, importer));
  if (!granted({ name: "read", path })) {
    throw new Error(`there is no permission to read ${path}: run with --allow-read`);
  }
  if (!existsSync(path)) return null;
  const found = readFileSync(path, "utf8").match(/"([0-9a-f]{64})"[^"]*?= (\d+);[^"]*"([\w+/=]+)"/);
  if (!found) throw new Error(`${path} is not what \`${made}\` makes`);
  return { sha256: found[1]!, size: Number(found[2]), compressed: found[3]! };
}

/** The user's number; null where there are none, or where it may not be asked for. */
export function userId(): number | null {
  if (!granted({ name: "sys", kind: "uid" })) return null;
  return deno ? deno.uid() : globals.process?.getuid?.() ?? null;
}

/** An environment variable; undefined where it is not set, or may not be read. */
export function env(name: string): string | undefined {
  let value: string | undefined;
  if (deno) {
    if (granted({ name: "env", variable: name })) value = deno.env.get(name);
  } else {
    value = globals.process?.env?.[name];
  }
  return value === "" ? undefined : value;
}

/** `linux-x64`, `darwin-arm64`, …, or null where there is no system to have a library for. */
export function platform(): string | null {
  const os = deno ? deno.build.os : globals.process?.platform;
  const arch = deno ? deno.build.arch : globals.process?.arch;
  if (!os || !arch) return null;
  const names: Record<string, string> = { windows: "win32", x86_64: "x64", aarch64: "arm64" };
  return `${names[os] ?? os}-${names[arch] ?? arch}`;
}

/** The names in lib/ of the libraries that may suit this system, best first. */
export function targets(): string[] {
  const name = platform();
  if (name === null) return [];
  if (!name.startsWith("linux-")) return [name];
  if (deno) return [deno.build.target.endsWith("-musl") ? `${name}-musl` : name];
  const { readdirSync } = builtin<typeof import("node:fs")>("node:fs"); // Bun does not tell which libc it was built for
  try {
    return readdirSync("/lib").some((file) => file.startsWith("ld-musl-")) ? [name, `${name}-musl`] : [name];
  } catch {
    return [name]; // some systems have no /lib (NixOS, Guix); musl's have, for their loader is there
  }
}

/** Opens a shared library by Deno's FFI; throws with a reason where that is not allowed or fails. */
export function openDeno(path: string, symbols: Record<string, unknown>): Functions {
  if (!deno) throw new Error("this is not Deno");
  if (!granted({ name: "ffi", path })) {
    throw new Error("there is no permission to open it: run with --allow-ffi");
  }
  return deno.dlopen(path, symbols).symbols as Functions;
}

/** Opens a shared library by bun:ffi. */
export function openBun(path: string, symbols: Record<string, unknown>): Functions {
  const ffi = bunFfi();
  return ffi.dlopen(path, symbols).symbols as Functions;
}

interface BunFfi {
  dlopen(path: string, symbols: Record<string, unknown>): { symbols: unknown };
  ptr(memory: ArrayBufferView): number;
  CString: new (address: number) => { toString(): string };
}

/** bun:ffi, without an import that other runtimes would stumble over. */
function bunFfi(): BunFfi {
  return builtin<typeof import("node:module")>("node:module").createRequire(import.meta.url)("bun:ffi") as BunFfi;
}

/**
 * Where memory lies. For structures that a driver reads during a call; their buffer must have been made by `new ArrayBuffer`, for
 * Bun moves small arrays that were not.
 */
export function addressOf(memory: ArrayBufferView): bigint {
  return BigInt(deno ? deno.UnsafePointer.value(deno.UnsafePointer.of(memory)) : bunFfi().ptr(memory));
}

/** The zero-terminated text at an address that a library has given. */
export function textAt(address: bigint): string {
  if (deno) return deno.UnsafePointerView.getCString(deno.UnsafePointer.create(address));
  return new (bunFfi().CString)(Number(address)).toString();
}
