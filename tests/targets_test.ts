/** One source, four targets: the rules compile for WebAssembly and as CUDA kernels too. */

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { compileOther } from "../ffi/build.ts";
import { ABI_VERSION, SYMBOLS } from "../ffi/symbols.ts";
import { ROOT } from "./support/runtime.ts";

function inFolder(body: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-"));
  try {
    body(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const rules = [
  ...readFileSync(join(ROOT, "csrc", "rules.def"), "utf8").replace(/#ifdef FS_BENCH[\s\S]*?#endif/g, "").matchAll(
    /^RULE\((\w+)\)/gm,
  ),
]
  .map((m) => m[1]!);

test("every rule compiles for WebAssembly, with the whole ABI and nothing to import", { timeout: 180_000 }, () => {
  inFolder((folder) => {
    const output = join(folder, "flatstep.wasm");
    compileOther("wasm", output);
    const module = new WebAssembly.Module(readFileSync(output));
    const exported = WebAssembly.Module.exports(module).map((e) => e.name);
    for (const name of Object.keys(SYMBOLS)) assert(exported.includes(name), `${name} is not exported`);
    assertEquals(WebAssembly.Module.imports(module), []);
    const { exports } = new WebAssembly.Instance(module);
    assertEquals((exports["fs_abi_version"] as () => number)(), ABI_VERSION);
    for (const name of rules) {
      const memory = new Uint8Array((exports["memory"] as WebAssembly.Memory).buffer);
      const at = memory.length - 64; // beyond everything the module has
      memory.set(new TextEncoder().encode(`${name}\0`), at);
      assert((exports["fs_rule_find"] as (at: number) => number)(at) >= 0, `${name} is missing`);
    }
  });
});

test(
  "every rule compiles as CUDA kernels of .rn arithmetic, without contraction or flushing to zero, for every dtype",
  { timeout: 180_000 },
  () => {
    inFolder((folder) => {
      const output = join(folder, "flatstep.ptx");
      compileOther("ptx", output);
      const text = readFileSync(output, "utf8");
      const entries = [...text.matchAll(/\.entry (\w+)/g)].map((m) => m[1]!).sort();
      assertEquals(
        entries,
        rules.flatMap((rule) => ["f32", "f64", "bf16", "f16"].map((dtype) => `${rule}_${dtype}`)).sort(),
      );
      for (const [line] of text.matchAll(/^\s+\w+[\w.]*\.f(32|64)\s.*$/gm)) {
        const [instruction] = line.trim().split(/\s/);
        assert(
          !/^fma|^mad|\.ftz|\.approx|\.rz|\.rm|\.rp/.test(instruction!),
          `not rounded as on the CPU: ${line.trim()}`,
        );
        assert(
          !/^(add|sub|mul|div|sqrt)\./.test(instruction!) || instruction!.includes(".rn"),
          `contraction is possible: ${line.trim()}`,
        );
      }
      for (const arch of ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]) {
        const { status, stderr, error } = spawnSync("ptxas", [
          `-arch=${arch}`,
          "-v",
          output,
          "-o",
          join(folder, "out.cubin"),
        ], { encoding: "utf8" });
        if (error) return console.log("skipped: there is no ptxas on this machine to assemble the PTX");
        assertEquals(status, 0, `${arch}: ${stderr.slice(0, 400)}`);
        for (const [, bytes] of stderr.matchAll(/(\d+) bytes spill/g)) assertEquals(bytes, "0", arch);
      }
    });
  },
);
