/** What C and TypeScript have to agree on. */

import { readFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path";
import { backend } from "../mod.ts";
import { GRAIN, REDUCE_CHUNK, REDUCTIONS } from "../ffi/backend.ts";
import { bestBackend } from "../ffi/load.ts";
import { NativeBackend } from "../ffi/native.ts";
import { ABI_VERSION, STATUS, SYMBOLS } from "../ffi/symbols.ts";
import { DTYPES } from "../src/dtype.ts";
import { ROWS } from "./support/classes.ts";
import { LIST_RULES } from "./support/list_rules.ts";
import { ROOT } from "./support/runtime.ts";

const header = readFileSync(join(ROOT, "csrc", "flatstep.h"), "utf8");

test("the header and symbols.ts have the same ABI version, functions and parameter counts", () => {
  assertEquals(Number(header.match(/#define FS_ABI_VERSION (\d+)u/)?.[1]), ABI_VERSION);
  const declared = [...header.matchAll(/FS_API \w+ (fs_\w+)\(([^)]*)\)/g)].map(([, name, parameters]) => {
    return [name!, parameters === "void" ? 0 : parameters!.split(",").length];
  });
  const known = Object.entries(SYMBOLS).map(([name, [parameters]]) => [name, parameters.length]);
  assertEquals(Object.fromEntries(declared), Object.fromEntries(known));
});

test("the header and TypeScript number dtypes, reductions and errors alike", () => {
  const values = (
    name: string,
  ) => [...header.match(new RegExp(`enum ${name} \\{([^}]*)\\}`))![1]!.matchAll(/(\w+) = (-?\d+)/g)];
  const dtypes = values("fs_dtype").slice(0, -1).map(([, name]) => name!);
  const short: Record<string, string> = {
    FS_F32: "float32",
    FS_F64: "float64",
    FS_BF16: "bfloat16",
    FS_F16: "float16",
  };
  assertEquals(dtypes.map((name) => short[name]!), [...DTYPES]);
  assertEquals(values("fs_reduce_op").length - 1, REDUCTIONS.length);
  assertEquals(Number(header.match(/#define FS_REDUCE_CHUNK (\d+)u/)?.[1]), REDUCE_CHUNK);
  const [, mantissa, shift] = readFileSync(join(ROOT, "csrc", "run.c"), "utf8").match(/grain = (\d+)u << (\d+)/)!;
  assertEquals(Number(mantissa) * 2 ** Number(shift), GRAIN);
  for (const [, name, value] of values("fs_status")) {
    if (name !== "FS_OK") assert(STATUS[Number(value)], `${name} has no text in symbols.ts`);
  }
});

test("C and TypeScript have the same buffers, hyperparameters and flags for each rule, in the same order", () => {
  const native = bestBackend();
  assert(native instanceof NativeBackend, `the native library is not in use: ${backend().why}`);
  for (const { rule } of [...ROWS, ...LIST_RULES]) {
    const [name, ...lists] = native.describe(rule.name)!.split("|");
    assertEquals(name, rule.name);
    const [buffers, hypers, flags] = lists.map((list) => list.split(",").filter((item) => item !== ""));
    assertEquals(buffers!, [...rule.buffers]);
    assertEquals(hypers!, [...rule.hypers]);
    assertEquals(flags!, [...rule.flags]);
  }
});

test("every rule of rules.def is in the table of classes or in that of list rules, and has its own header", () => {
  const text = readFileSync(join(ROOT, "csrc", "rules.def"), "utf8").replace(/#ifdef FS_BENCH[\s\S]*?#endif/g, "");
  const rules = [...text.matchAll(/^RULE\((\w+)\)/gm)].map((m) => m[1]!).sort();
  const headers = [...text.matchAll(/^#include "rules\/(\w+)\.h"/gm)].map((m) => m[1]!).sort();
  assertEquals(headers, rules);
  assertEquals([...new Set([...ROWS, ...LIST_RULES].map((r) => r.rule.name))].sort(), rules);
});

test("the library's AVX-512 kernels use 512-bit registers, and nothing is contracted", () => {
  const { library, isa } = backend();
  assert(library !== null);
  const { status, stdout } = spawnSync("objdump", ["-d", "--no-show-raw-insn", library], {
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  if (status !== 0) return console.log("skipped: there is no objdump on this machine");
  assert(!/\bv?f(n?m(add|sub))/.test(stdout), "the library has fused multiply-adds");
  if (!["sse2", "avx2", "avx512"].includes(isa)) return console.log("skipped: this is no x86-64");
  assertMatch(stdout, /vsqrtps .*%zmm/);
  assertMatch(stdout, /vdivpd .*%zmm/);
  assertMatch(stdout, /vsqrtps .*%ymm/);
});
