/** Wrong programs do not compile, under Deno's checker here, and under tsc, which reads the same file in `deno task check`. */

import { readFileSync } from "node:fs";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { ROOT, run } from "./support/runtime.ts";
import process from "node:process";

/** A checker may take its time on a busy machine. */
const LIMIT = { timeout: 180_000 };
const FILE = join("tests", "types", "wrong_programs.ts");
const programs = [...readFileSync(join(ROOT, FILE), "utf8").matchAll(/@ts-expect-error/g)].length;

/** `deno` is what runs this test, or is on the PATH. */
const deno = "Bun" in globalThis ? "deno" : process.execPath;

test("wrong programs do not compile under Deno's checker", LIMIT, async (t) => {
  assert(programs > 40);
  const ended = await run(deno, ["check", FILE]).catch(() => null);
  if (ended === null) return t.skip("there is no deno on the PATH");
  assertEquals([ended.code, ended.stderr.includes("error")], [0, false], ended.stderr);
});

test("a checker complains about each program that compiles after all", LIMIT, async (t) => {
  const ended = await run(deno, ["eval", "--check", "// @ts-expect-error\nconsole.log(1 + 1);"]).catch(() => null);
  if (ended === null) return t.skip("there is no deno on the PATH");
  assert(ended.code !== 0 && ended.stderr.includes("TS2578"), ended.stderr);
});
