/** The README's programs are files that run. */

import { readFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path";
import { withTables } from "../tools/readme_tables.ts";
import { IS_BUN, ROOT, run } from "./support/runtime.ts";

const readme = readFileSync(join(ROOT, "README.md"), "utf8");

for (const name of ["first_deno.ts", "first_bun.ts", "checkpoint.ts"]) {
  test(`the README has examples/${name} as it is`, { timeout: 180_000 }, () => {
    const source = readFileSync(join(ROOT, "examples", name), "utf8");
    assert(readme.includes("```ts\n" + source + "```"), `README.md does not have examples/${name} as it is`);
  });
}

test("the README's tables of implementations are what the classes say", { timeout: 180_000 }, () => {
  assertEquals(readme, withTables(readme), "run: deno run -A tools/readme_tables.ts");
});

test("the first program runs and finds what it looks for", { timeout: 180_000 }, async () => {
  if (IS_BUN) {
    const { code, stdout } = await run(process.execPath, ["examples/first_bun.ts"]);
    assertEquals(code, 0);
    assertMatch(stdout, /resumed at step 400 with lr \[ 0\.05, 0\.2 \]/);
    assertMatch(stdout, /by bun-ffi/);
  } else {
    const { code, stdout } = await run(process.execPath, [
      "run",
      "--quiet",
      "--allow-ffi",
      "--no-prompt",
      "examples/first_deno.ts",
    ]);
    assertEquals(code, 0);
    assertMatch(stdout, /y = 3\.00 sin\(x\) -1\.00, by deno-ffi/);
  }
});
