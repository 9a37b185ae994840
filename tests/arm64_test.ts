/**
 * The libraries for Linux, run: tests/native/replay.c puts the same inputs through all that they compute, on x86-64 and,
 * under qemu-user, on arm64, and prints the same.
 */

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { build, findZig, TARGETS } from "../ffi/build.ts";
import { SYMBOLS } from "../ffi/symbols.ts";
import { ROOT } from "./support/runtime.ts";

const SYSROOT = "/usr/aarch64-linux-gnu";

/** Why nothing of this can run here, or null. */
function missing(): string | null {
  if (process.platform !== "linux" || process.arch !== "x64") return "this is not Linux on x86-64";
  if (!existsSync("/lib64/ld-linux-x86-64.so.2")) return "this system has no glibc";
  try {
    findZig();
  } catch (error) {
    return (error as Error).message.split("\n")[0]!;
  }
  return null;
}

/** Why arm64 cannot be run here, or null. */
function missingArm(): string | null {
  if (spawnSync("qemu-aarch64", ["--version"]).status !== 0) {
    return "there is no qemu-aarch64 (apt-get install qemu-user)";
  }
  if (!existsSync(join(SYSROOT, "lib", "ld-linux-aarch64.so.1"))) {
    return "there is no libc for arm64 (apt-get install libc6-arm64-cross)";
  }
  return null;
}

/** Links replay.c with a target's library as it is shipped, runs it, and returns what it prints; null: no such processor. */
function replay(folder: string, target: string, isa = 0): string | null {
  const library = build(target), arm = target.includes("arm64"), program = join(folder, `replay-${target}`);
  if (!existsSync(program)) {
    const { command: [zig, ...first] } = findZig();
    // always against glibc: a library for musl finds glibc's functions under the name that musl's has
    const gnu = target.replace(/-musl$/, "");
    const args = ["cc", "-target", TARGETS[gnu]!.zig, "-std=c11", "-O1", "-I", join(ROOT, "csrc"), "-o", program];
    args.push(join(ROOT, "tests", "native", "replay.c"), library, "-Wno-unused-command-line-argument");
    const { status, stderr } = spawnSync(zig, [...first, ...args, "-Wl,--allow-shlib-undefined"], { encoding: "utf8" });
    assertEquals(status, 0, stderr);
  }
  const folders = arm ? [join(SYSROOT, "lib")] : ["/lib/x86_64-linux-gnu", "/lib64", "/usr/lib"];
  const libc = folders.map((name) => join(name, "libc.so.6")).find((name) => existsSync(name));
  const links = join(folder, arm ? "arm64" : "x64");
  mkdirSync(links, { recursive: true });
  if (libc && !existsSync(join(links, "libc.so"))) symlinkSync(libc, join(links, "libc.so"));
  // the program names the library by its path, so only libc.so has to be found
  const [command, args, env] = arm
    ? ["qemu-aarch64", ["-L", SYSROOT, "-E", `LD_LIBRARY_PATH=${links}`, program], {}]
    : [program, [], { LD_LIBRARY_PATH: links }] as const;
  const { status, stdout, stderr } = spawnSync(command, [...args, String(isa)], {
    encoding: "utf8",
    env: { ...process.env, ...env },
    maxBuffer: 1 << 24,
  });
  if (status === 3) return null;
  assertEquals(status, 0, `${stdout.slice(-500)}${stderr}`);
  return stdout;
}

function inFolder(body: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-replay-"));
  try {
    body(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Functions that compute nothing. */
const OTHERS: readonly string[] = [
  "fs_abi_version",
  "fs_cpu_count",
  "fs_isa",
  "fs_bind",
  "fs_bind_rows",
  "fs_bind_arrays",
  "fs_make_spans",
  "fs_set_awake",
  "fs_huge_pages",
  "fs_wake",
  "fs_profile",
];

/** Throws unless a replay has every rule in every dtype, and each case has changed something. */
function assertWhole(text: string): void {
  const source = readFileSync(join(ROOT, "tests", "native", "replay.c"), "utf8");
  const uncalled = Object.keys(SYMBOLS).filter((name) => !source.includes(`${name}(`) && !OTHERS.includes(name));
  assertEquals(uncalled, [], "replay.c does not call these");
  const lines = text.trimEnd().split("\n").map((line) => line.match(/^(\w+) (\w+) (\d+): 0, (\w+) -> (\w+)$/));
  assert(lines.every((line) => line !== null), "a line of another form");
  const cases = new Set(lines.map((line) => `${line![1]} ${line![2]}`));
  const rules = readFileSync(join(ROOT, "csrc", "rules.def"), "utf8").replace(/#ifdef FS_BENCH[\s\S]*?#endif/g, "")
    .matchAll(/^RULE\((\w+)\)/gm);
  const everything = [
    "fs_step",
    "fs_reduce",
    "fs_sum_rows",
    "adafactor",
    "muon",
    ...[...rules].map((match) => match[1]!),
  ];
  for (const name of everything) {
    for (const dtype of ["f32", "f64", "bf16", "f16"]) assert(cases.has(`${name} ${dtype}`), `no ${name} in ${dtype}`);
  }
  for (const name of ["fs_matmul", "fs_combine", "fs_packed"]) {
    assert(cases.has(`${name} f32`) && cases.has(`${name} f64`));
  }
  const same = lines.filter((line) => line![4] === line![5]).map((line) => line![0]);
  assertEquals(same, [], "nothing has become of these inputs");
}

test(
  "everything the library computes has the same bits on SSE2, AVX2 and AVX-512, for glibc and for musl",
  { timeout: 600_000 },
  () => {
    const why = missing();
    if (why !== null) return console.log(`skipped: ${why}`);
    inFolder((folder) => {
      const base = replay(folder, "linux-x64")!;
      assertWhole(base);
      for (const [target, isa] of [["linux-x64-musl", 0], ["linux-x64", 1], ["linux-x64", 2]] as const) {
        const other = replay(folder, target, isa);
        if (other === null) console.log(`skipped: this processor does not have instruction set ${isa}`);
        else assertEquals(other, base, `${target}, instruction set ${isa}`);
      }
    });
  },
);

test(
  "everything the library computes has the same bits on arm64 as on x86-64, for glibc and for musl",
  { timeout: 600_000 },
  () => {
    const why = missing() ?? missingArm();
    if (why !== null) return console.log(`skipped: ${why}`);
    inFolder((folder) => {
      const base = replay(folder, "linux-x64");
      for (const target of ["linux-arm64", "linux-arm64-musl"]) assertEquals(replay(folder, target), base, target);
    });
  },
);
