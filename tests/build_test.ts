/** The build script. */

import { test } from "node:test";
import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import process from "node:process";
import { build, findZig, hostTarget, TARGETS } from "../ffi/build.ts";
import { IS_BUN, run } from "./support/runtime.ts";

const script = (
  ...args: string[]
) => (IS_BUN ? ["ffi/build.ts", ...args] : ["run", "-A", "--quiet", "ffi/build.ts", ...args]);

test("a build without zig ends in an error that lists the four ways to get it", { timeout: 180_000 }, async () => {
  const { code, stderr } = await run(process.execPath, script("--force"), { env: { FLATSTEP_ZIG: "/no/such/zig" } });
  assertEquals(code, 1);
  for (
    const way of ["FLATSTEP_ZIG", "PATH", "npm ci --prefix toolchain", "pip install ziglang", "prebuilt libraries"]
  ) {
    assertStringIncludes(stderr, way);
  }
});

test("a build that is up to date needs no zig", { timeout: 180_000 }, async () => {
  build(hostTarget());
  const { code, stdout } = await run(process.execPath, script(), { env: { FLATSTEP_ZIG: "/no/such/zig" } });
  assertEquals(code, 0);
  assertStringIncludes(stdout, `lib/${hostTarget()}/${TARGETS[hostTarget()]!.file}`);
});

test("findZig() finds a zig that is new enough", { timeout: 180_000 }, () => {
  const { version } = findZig();
  assert(Number(version.split(".")[1]) >= 14 || !version.startsWith("0."), version);
});

test("build() names the targets there are, and the script its options", { timeout: 180_000 }, async () => {
  assertThrows(() => build("plan9-mips"), Error, "there is no target plan9-mips; there are linux-x64, linux-x64-musl");
  const { code, stderr } = await run(process.execPath, script("--al"));
  assertEquals(code, 1);
  assertStringIncludes(stderr, "there is no option --al; there are --all");
});
