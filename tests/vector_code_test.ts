/** That the compiler has made vector code of every rule in every dtype: reads the assembly of the kernels. */

import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { findZig, FLAGS, TARGETS } from "../ffi/build.ts";
import { DTYPES } from "../src/dtype.ts";
import { ROOT } from "./support/runtime.ts";

/** The functions of cpu.c, which are compiled as in the library but keep their names; null where nothing can read them. */
function disassembly(): Map<string, string[]> | null {
  if (spawnSync("objdump", ["--version"]).status !== 0) return null;
  const folder = mkdtempSync(join(tmpdir(), "flatstep-")), object = join(folder, "cpu.o");
  try {
    const { command: [zig, ...first] } = findZig(), target = TARGETS["linux-x64"]!;
    const args = [...first, "cc", "-target", target.zig, ...FLAGS, "-fPIC", "-c", "-o", object];
    execFileSync(zig, [...args, join(ROOT, "csrc", "cpu.c")], { stdio: ["ignore", "inherit", "inherit"] });
    const options = { encoding: "utf8", maxBuffer: 1 << 28 } as const;
    const { status, stdout } = spawnSync("objdump", ["-d", "--no-show-raw-insn", object], options);
    if (status !== 0) return null; // one that knows no ELF, or no x86
    const functions = new Map<string, string[]>();
    let lines: string[] = [];
    for (const line of stdout.split("\n")) {
      const head = line.match(/^[0-9a-f]+ <(\w+)>:$/);
      if (head) functions.set(head[1]!, lines = []);
      else if (line.includes("\t")) lines.push(line);
    }
    return functions;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The loops of a function: sets of instructions each of which can be reached from each other (Tarjan 1972). */
function loopsOf(lines: readonly string[]): string[][] {
  const at = new Map(lines.map((line, k) => [line.trim().split(":")[0]!, k]));
  const next = lines.map((line, k) => {
    const [, jump, goal] = line.match(/\t(j\w+)\s+([0-9a-f]+) </) ?? [], to = at.get(goal ?? "");
    const ends = jump === "jmp" || /\t(ret|jmp|ud2)/.test(line);
    return [...(ends || k + 1 === lines.length ? [] : [k + 1]), ...(to === undefined ? [] : [to])];
  });
  const order = new Int32Array(lines.length), low = new Int32Array(lines.length), open: number[] = [];
  const done = new Uint8Array(lines.length), loops: string[][] = [];
  let count = 0;
  for (let root = 0; root < lines.length; root++) {
    if (order[root] !== 0) continue;
    const path: [number, number][] = [[root, 0]];
    while (path.length > 0) {
      const top = path.at(-1)!, [k] = top;
      if (top[1] === 0) {
        order[k] = low[k] = ++count;
        open.push(k);
      }
      const to = next[k]![top[1]++];
      if (to !== undefined) {
        if (order[to] === 0) path.push([to, 0]);
        else if (done[to] === 0) low[k] = Math.min(low[k]!, order[to]!);
        continue;
      }
      path.pop();
      const parent = path.at(-1)?.[0];
      if (parent !== undefined) low[parent] = Math.min(low[parent]!, low[k]!);
      if (low[k] !== order[k]) continue;
      const loop: number[] = [];
      do {
        loop.push(open.pop()!);
        done[loop.at(-1)!] = 1;
      } while (loop.at(-1) !== k);
      if (loop.length > 1) loops.push(loop.sort((a, b) => a - b).map((index) => lines[index]!));
    }
  }
  return loops;
}

const REGISTERS: Readonly<Record<string, string>> = { base: "%xmm", avx2: "%ymm", avx512: "%zmm" };
const PACKED = /\tv?(add|sub|mul|div|sqrt|max|min|cmp\w*|cvtph2|cvtps2)p[sdh]\w*\s/;
const SINGLE = /\tv?((add|sub|mul|div|sqrt|max|min)s[sd]|p?(extr|insr)[bwdq])\s/;

test(
  "every kernel of every dtype and x86 instruction set computes in full vectors, and single elements only where a row ends",
  {
    timeout: 180_000,
  },
  () => {
    const functions = disassembly();
    if (functions === null) return console.log("skipped: there is no objdump that reads x86-64");
    const text = readFileSync(join(ROOT, "csrc", "rules.def"), "utf8").replace(/#ifdef FS_BENCH[\s\S]*?#endif/g, "");
    const rules = [...text.matchAll(/^RULE\((\w+)\)/gm)].map((match) => match[1]!);
    const short: Record<string, string> = { float32: "f32", float64: "f64", bfloat16: "bf16", float16: "f16" };
    const names = [...rules, "fs_scaler"], failures: string[] = [];
    let kernels = 0;
    for (const name of names) {
      for (const dtype of DTYPES) {
        for (const [isa, register] of Object.entries(REGISTERS)) {
          const kernel = `${name}_${short[dtype]}_${isa}`, lines = functions.get(kernel);
          assert(lines !== undefined, `there is no ${kernel}`);
          kernels++;
          const loops = loopsOf(lines);
          const isPacked = (line: string) => PACKED.test(line) && line.includes(register);
          const vector = loops.filter((loop) => loop.some(isPacked));
          const mixed = vector.filter((loop) => loop.some((line) => SINGLE.test(line)));
          if (vector.length === mixed.length) failures.push(`${kernel} has no vector loop`);
          // in xmm registers the compiler also takes two or four elements together where a row ends
          if (mixed.length > 0 && isa !== "base") {
            failures.push(`${kernel} takes vectors apart:\n${mixed[0]!.join("\n")}`);
          }
        }
      }
    }
    assertEquals(kernels, (rules.length + 1) * DTYPES.length * 3);
    assertEquals(failures, []);
  },
);
