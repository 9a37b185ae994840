/**
 * What the library asks of the runtime it finds itself in, and nothing of it at import: Deno, Bun, Node or a browser.
 * Nothing here ever prompts for a permission.
 *
 * @module
 */

import type { Functions } from "./symbols.ts";

/** The part of Deno that is used; declared here so that the types hold under Bun and tsc as well. */
interface DenoLike {
  build: { os: string; arch: string };
  version: { deno: string };
  permissions: { querySync(descriptor: { name: string; path?: string; variable?: string }): { state: string } };
  env: { get(name: string): string | undefined };
  dlopen(path: string, symbols: Record<string, unknown>): { symbols: unknown };
}

interface ProcessLike {
  platform?: string;
  arch?: string;
  env?: Record<string, string | undefined>;
  getBuiltinModule?(name: string): unknown;
}

const globals = globalThis as unknown as { Deno?: DenoLike; Bun?: { version: string }; process?: ProcessLike };

/** Deno, if this is Deno. */
export const deno: DenoLike | undefined = globals.Bun === undefined && globals.Deno?.version?.deno
  ? globals.Deno
  : undefined;

/** Whether this is Bun. */
export const isBun: boolean = globals.Bun !== undefined;

/** An environment variable; undefined where it is not set, or may not be read. */
export function env(name: string): string | undefined {
  let value: string | undefined;
  if (deno) {
    if (deno.permissions.querySync({ name: "env", variable: name }).state === "granted") value = deno.env.get(name);
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

/** Opens a shared library by Deno's FFI; throws with a reason where that is not allowed or fails. */
export function openDeno(path: string, symbols: Record<string, unknown>): Functions {
  if (!deno) throw new Error("this is not Deno");
  if (deno.permissions.querySync({ name: "ffi", path }).state !== "granted") {
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
}

/** bun:ffi, without an import that other runtimes would stumble over. */
function bunFfi(): BunFfi {
  const { createRequire } = globals.process?.getBuiltinModule?.("node:module") as {
    createRequire(url: string): (name: string) => unknown;
  };
  return createRequire(import.meta.url)("bun:ffi") as BunFfi;
}
