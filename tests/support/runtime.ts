/**
 * Runs programs in the runtime that the tests run in, as a user would.
 *
 * @module
 */

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { dirname, fromFileUrl, join } from "@std/path";
import { findBun } from "../../tools/test.ts";

/** The project's folder. */
export const ROOT: string = dirname(dirname(dirname(fromFileUrl(import.meta.url))));

/** Whether the tests run in Bun, else in Deno. */
export const IS_BUN: boolean = "Bun" in globalThis;

/** A runtime's binary, and what comes before a TypeScript file's name. */
export interface Runtime {
  command: string;
  args: readonly string[];
}

/** The runtime that the tests run in. */
export const OWN: Runtime = { command: process.execPath, args: IS_BUN ? [] : ["run", "-A", "--quiet", "--no-prompt"] };

/** The runtime that the tests do not run in, Bun for Deno and the other way; or why there is none. */
export function otherRuntime(): Runtime | string {
  const name = IS_BUN ? "deno" : findBun();
  // what npm puts on the PATH may be a script that starts the binary: killing that would leave the binary alone
  const { status, stdout, error } = spawnSync(name, [IS_BUN ? "eval" : "-e", "console.log(process.execPath)"], {
    encoding: "utf8",
  });
  if (status !== 0) return `${name} does not run here: ${error?.message ?? `exit status ${status}`}`;
  return { command: stdout.trim(), args: IS_BUN ? ["run", "-A", "--quiet", "--no-prompt"] : [] };
}

/**
 * Throws unless compiled code is what the tests run: the native library, or the WASM module where FLATSTEP_BACKEND asks for it
 * (tools/test.ts runs the tables of kernels a second time with that).
 */
export function assertCompiled({ name, why }: { readonly name: string; readonly why?: string | undefined }): void {
  const expected = process.env["FLATSTEP_BACKEND"] === "wasm" ? "wasm" : IS_BUN ? "bun-ffi" : "deno-ffi";
  if (name !== expected) throw new Error(`${expected} is not in use, but ${name}: ${why}`);
}

/** How a program ended, and what it printed. */
export interface Ended {
  code: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
}

/** Options of {@linkcode runProgram}. */
export interface RunOptions {
  /** Further environment; FLATSTEP_… of the tests' own environment is not passed on. */
  env?: Record<string, string>;
  /** Deno's permissions; default `["-A"]`. Bun has none. */
  permissions?: readonly string[];
  /** Where it runs; default: the project's folder. */
  cwd?: string;
  /** Called with the child's process id once it has printed a line. */
  onLine?: (line: string, pid: number) => void;
  /** Called with all that the child has printed, whenever there is more. */
  onText?: (text: string, pid: number) => void;
}

/**
 * Runs a TypeScript program given as text, which imports the library as `MOD`, and waits for its end. It lies in the
 * project's folder (so that its imports resolve) under a name that git ignores, and is removed afterwards.
 */
export async function runProgram(source: string, options: RunOptions = {}): Promise<Ended> {
  const folder = mkdtempSync(join(ROOT, "tests", "program.local."));
  try {
    const path = join(folder, "program.ts");
    writeFileSync(path, source.replaceAll("MOD", "../../mod.ts"));
    const args = IS_BUN ? [path] : ["run", "--no-prompt", "--quiet", ...(options.permissions ?? ["-A"]), path];
    return await run(process.execPath, args, options);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs a command and waits for its end. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  const env: Record<string, string | undefined> = { ...process.env, NO_COLOR: "1" };
  for (const key of Object.keys(env)) if (key.startsWith("FLATSTEP_")) delete env[key];
  Object.assign(env, options.env);
  return new Promise((resolve, reject) => {
    const child = spawn(command, [...args], {
      cwd: options.cwd ?? ROOT,
      env: env as Record<string, string>,
      stdio: ["ignore", "pipe", "pipe"],
    });
    let stdout = "", stderr = "";
    child.stdout.on("data", (data) => {
      stdout += data;
      options.onText?.(stdout, child.pid!);
      if (stdout.includes("\n")) options.onLine?.(stdout.split("\n")[0]!, child.pid!);
    });
    child.stderr.on("data", (data) => stderr += data);
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}
