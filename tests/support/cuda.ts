/**
 * The stand-in for libcuda (tests/native/libcuda.c): building it, opening it in place of the driver, and telling it what to do.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from "node:fs";
import process from "node:process";
import { join } from "@std/path";
import { findZig } from "../../ffi/build.ts";
import { deno, openBun, openDeno } from "../../ffi/runtime.ts";
import { ROOT } from "./runtime.ts";

const SOURCE = join(ROOT, "tests", "native", "libcuda.c");

/** The stand-in's file, built where it is not there yet; or why it cannot be. */
export function buildStandin(): string {
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
  return path;
}
