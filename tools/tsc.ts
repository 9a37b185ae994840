/**
 * Checks the types once more by tsc, with Bun's types, as a Bun user's editor does: part of `deno task check`.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";
import { dirname, fromFileUrl, join } from "@std/path";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));
const tsc = join(ROOT, "node_modules", ".bin", process.platform === "win32" ? "tsc.cmd" : "tsc");
if (!existsSync(tsc)) {
  console.error("node_modules has no tsc: run `deno install` first");
  process.exit(1);
}
const { status } = spawnSync(tsc, ["--project", join(ROOT, "tsconfig.json")], { stdio: "inherit" });
if (status === 0) console.log("Checked by tsc");
process.exit(status ?? 1);
