/** docs/adding-an-optimizer.md, carried out on a copy of the repository. */

import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { dirname, join } from "@std/path";
import { findZig, hostTarget } from "../ffi/build.ts";
import { blocksOf } from "./support/markdown.ts";
import { IS_BUN, ROOT, run } from "./support/runtime.ts";

const RECIPE = "docs/adding-an-optimizer.md";
/** What the copy has to have. */
const PARTS = ["mod.ts", "src", "ffi", "csrc", "tests", "tools", "deno.json", "tsconfig.json", "CHANGELOG.md"];
/** What of that it can do without. */
const LEFT_OUT = /\.local\.|[/\\]ffi[/\\]prebuilt[/\\]|[/\\]checkpoints[/\\]|[/\\]native[/\\]/;

/** Puts the recipe's files, and parts of files, into a copy. */
function carryOut(copy: string): string[] {
  return blocksOf(RECIPE).filter((block) => block.file !== null).map(({ file, text }) => {
    const { path, before } = file!, full = join(copy, path);
    if (before === null) {
      assert(!existsSync(full), `${path} is there already`);
      mkdirSync(dirname(full), { recursive: true });
      writeFileSync(full, text);
    } else {
      const lines = readFileSync(full, "utf8").split("\n");
      const at = lines.findIndex((line) => line.trimStart().startsWith(before));
      assert(at >= 0, `${path} has no line that begins with ${before}`);
      lines.splice(at, 0, text.replace(/\n$/, ""));
      writeFileSync(full, lines.join("\n"));
    }
    return path;
  });
}

test("the recipe for adding an optimizer makes one that has torch's manners and the same bits everywhere", {
  timeout: 600_000,
}, async () => {
  const copy = mkdtempSync(join(tmpdir(), "flatstep-recipe-"));
  try {
    for (const part of PARTS) {
      cpSync(join(ROOT, part), join(copy, part), { recursive: true, filter: (path) => !LEFT_OUT.test(path) });
    }
    const touched = carryOut(copy);
    assertEquals(new Set(touched).size, 7, `the recipe touches ${touched}`);

    const python = process.platform === "win32" ? "python" : "python3";
    const golden = spawnSync(python, [join(copy, "tests", "golden", "gen", "lion.py")], { encoding: "utf8" });
    const found = golden.error === undefined;
    if (found) assertEquals(golden.status, 0, golden.stderr);
    else console.log(`skipped: there is no ${python} on this machine to make the trajectories`);
    const none = `{ "format": 1, "oracle": "none", "cases": [] }`;
    writeFileSync(join(copy, "tests", "golden", "lion.json"), found ? golden.stdout : none);

    // what was built from the same sources is taken as it is
    const kept = join(ROOT, "lib", "recipe"), built = join(copy, "lib"), stamp = join(hostTarget(), "build.json");
    if (existsSync(kept)) cpSync(kept, built, { recursive: true });
    const stampOf = (folder: string) => existsSync(join(folder, stamp)) && readFileSync(join(folder, stamp), "utf8");
    const env = { FLATSTEP_ZIG: findZig().command[0] };
    const deno = ["run", "-A", "--quiet", "--no-lock", "--no-check"];
    const inCopy = async (args: readonly string[], more: Record<string, string> = {}) => {
      const { code, stdout, stderr } = await run(process.execPath, args, { env: { ...env, ...more }, cwd: copy });
      assertEquals(code, 0, `${args}: ${stdout}\n${stderr}`);
      return stdout + stderr;
    };
    const build = [...IS_BUN ? [] : deno, "ffi/build.ts"], wasm = join("ffi", "wasm_bytes.ts");
    await inCopy(build);
    if (stampOf(kept) === stampOf(built) && existsSync(join(kept, "wasm_bytes.ts"))) {
      cpSync(join(kept, "wasm_bytes.ts"), join(copy, wasm));
    } else {
      await inCopy([...build, "--wasm"]);
      cpSync(join(copy, wasm), join(built, "wasm_bytes.ts"));
      cpSync(built, kept, { recursive: true });
    }
    if (!IS_BUN) await inCopy(["check", "--quiet", "--no-lock", "src/optim/lion.ts"]);

    const test = (names: readonly string[], only: string, env: Record<string, string> = {}) => {
      const files = names.map((name) => `tests/${name}_test.ts`);
      const own = IS_BUN
        ? ["test", "--timeout", "180000", "-t", only]
        : ["test", "-A", "--no-lock", "--no-check", "--filter", `/${only}/`];
      return inCopy([...own, ...files], env);
    };
    // four dtypes of kernels, six trajectories, and the two that hold C and TypeScript together
    const native = await test(["kernels", "golden", "abi"], "Lion|C and TypeScript|every rule");
    assertMatch(native, new RegExp(`\\b${4 + (found ? 6 : 0) + 2} pass`));
    assertMatch(await test(["kernels"], "Lion", { FLATSTEP_BACKEND: "wasm" }), /\b4 pass/);
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
});
