/**
 * The stand-in for libcuda (tests/native/libcuda.c): building it, opening it in place of the driver, and telling it what to do.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { join } from "@std/path";
import { cuda, type DeviceName } from "../../mod.ts";
import { findZig } from "../../ffi/build.ts";
import { deno, openBun, openDeno } from "../../ffi/runtime.ts";
import { ROOT } from "./runtime.ts";

const SOURCE = join(ROOT, "tests", "native", "libcuda.c");

/** The stand-in's file: the one that FLATSTEP_TEST_LIBCUDA names (one with sanitizers, say), or one that is built where it is not there yet. */
export function buildStandin(): string {
  const given = process.env["FLATSTEP_TEST_LIBCUDA"];
  if (given) return given;
  const csrc = join(ROOT, "csrc"), hash = createHash("sha256").update(readFileSync(SOURCE));
  for (const folder of [csrc, join(csrc, "rules")]) {
    for (const file of readdirSync(folder).sort()) {
      if (/\.(c|h|def)$/.test(file)) hash.update(file).update(readFileSync(join(folder, file)));
    }
  }
  const folder = join(ROOT, "lib", "standin"), path = join(folder, `libcuda-${hash.digest("hex").slice(0, 16)}.so`);
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  const own = `${path}.${process.pid}`; // another process may build it at the same time
  const flags = ["-std=gnu11", "-O1", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off"];
  const args = [...flags, "-fno-math-errno", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-DFS_CUDA_HOST"];
  const [zig, ...before] = findZig().command;
  const more = [...before, "cc", ...args, `-I${csrc}`, SOURCE, "-o", own, "-lpthread"];
  const { status, stderr } = spawnSync(zig!, more, { encoding: "utf8" });
  if (status !== 0) throw new Error(`the stand-in for libcuda cannot be built: ${stderr}`);
  renameSync(own, path);
  for (const other of readdirSync(folder)) { // those of other sources; where one is open it stays until it is closed
    if (/^libcuda-\w+\.so$/.test(other) && join(folder, other) !== path) rmSync(join(folder, other), { force: true });
  }
  return path;
}

/** What the stand-in can be told and asked; the C lines are at the end of libcuda.c. */
export interface Standin {
  readonly path: string;
  /** The nth call of a driver function from now on fails with a CUresult; 0: none does. */
  fail(call: string, nth: number, code: number): void;
  /** How many calls of a driver function there have been. */
  calls(call: string): number;
  /** Pieces of device memory that have not been freed. */
  live(): number;
  /** Operations that wait for something that makes them run. */
  queued(): number;
  /** Each device has so many bytes from now on. */
  limit(bytes: number): void;
  /** What has been done wrong since the last reset; empty: nothing. */
  problem(): string;
  /** Nothing fails any more, no device is lost. */
  reset(): void;
}

let standin: Standin | undefined;

/** Opens the stand-in in place of the driver. To be called before anything asks for CUDA. */
export function openStandin(): Standin {
  if (standin !== undefined) return standin;
  const path = process.env["FLATSTEP_LIBCUDA"] = buildStandin();
  const table: Record<string, [string[], string]> = {
    standin_fail: [["buffer", "u32", "i32"], "void"],
    standin_calls: [["buffer"], "u32"],
    standin_live: [[], "u32"],
    standin_queued: [[], "u32"],
    standin_limit: [["u64"], "void"],
    standin_problem: [["buffer", "u32"], "void"],
    standin_reset: [[], "void"],
  };
  const symbols = Object.fromEntries(
    Object.entries(table).map(([name, [parameters, result]]) => [
      name,
      deno
        ? { parameters, result }
        : { args: parameters.map((type) => type === "buffer" ? "ptr" : type), returns: result },
    ]),
  );
  const functions = (deno ? openDeno : openBun)(path, symbols) as unknown as Record<
    string,
    (...args: unknown[]) => number
  >;
  const text = (name: string) => new TextEncoder().encode(`${name}\0`);
  return standin = {
    path,
    fail: (call, nth, code) => void functions["standin_fail"]!(text(call), nth, code),
    calls: (call) => functions["standin_calls"]!(text(call)),
    live: () => functions["standin_live"]!(),
    queued: () => functions["standin_queued"]!(),
    limit: (bytes) => void functions["standin_limit"]!(BigInt(bytes)),
    problem() {
      const bytes = new Uint8Array(new ArrayBuffer(512));
      functions["standin_problem"]!(bytes, bytes.length);
      return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
    },
    reset: () => void functions["standin_reset"]!(),
  };
}

/** Whether the tests are meant for a real device: `deno task test:cuda`. */
export const REAL: boolean = process.env["FLATSTEP_TEST_CUDA"] === "device";

/**
 * Something to run on: the stand-in, or, in `deno task test:cuda`, a real device.
 *
 * @returns the stand-in; null where there is a real device; or why there is neither
 */
export function openSomething(): Standin | null | string {
  if (!REAL) return openStandin();
  if (cuda.isAvailable()) return null;
  try {
    cuda.devices();
    return "there is no CUDA device on this machine";
  } catch (error) {
    return (error as Error).message.split("\nTo mend it")[0]!.replaceAll("\n ", "");
  }
}

/** The devices to use: two where there are two. */
export function deviceNames(): DeviceName[] {
  const names = cuda.devices().map(({ device }) => device);
  return [names[0]!, names[1] ?? names[0]!];
}

/**
 * A test that needs a device, or what stands for one; afterwards nothing has been done wrong there.
 *
 * @param body gets the stand-in; null on a real device
 */
export function cudaTest(name: string, body: (standin: Standin | null) => void | Promise<void>): void {
  test(name, { timeout: 180_000 }, async () => {
    const found = openSomething();
    if (typeof found === "string") return console.log(`skipped: ${found}`);
    found?.reset();
    try {
      await body(found);
    } catch (error) {
      if (found !== null && found.problem() !== "") (error as Error).message += ` [${found.problem()}]`;
      throw error;
    }
    if (found !== null && found.problem() !== "") throw new Error(`the stand-in says: ${found.problem()}`);
  });
}
