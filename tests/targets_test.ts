/** One source, several targets: the rules compile for WebAssembly too. (As CUDA kernels: ptx_test.ts.) */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { compileOther } from "../ffi/build.ts";
import { ABI_VERSION, SYMBOLS } from "../ffi/symbols.ts";
import { RULE_NAMES } from "./support/ptx_rules.ts";

function inFolder(body: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-"));
  try {
    body(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** What is about threads and about the system's pages: there are none. */
const NATIVE_ALONE = ["fs_huge_pages", "fs_profile", "fs_make_spans", "fs_bind_arrays", "fs_set_awake"];

test(
  "every rule compiles for WebAssembly, with the whole ABI but for threads, pages and addresses, and nothing to import",
  {
    timeout: 180_000,
  },
  () => {
    inFolder((folder) => {
      const output = join(folder, "flatstep.wasm");
      compileOther("wasm", output);
      const module = new WebAssembly.Module(readFileSync(output));
      const exported = WebAssembly.Module.exports(module).map((e) => e.name);
      for (const name of Object.keys(SYMBOLS)) {
        assertEquals(exported.includes(name), !NATIVE_ALONE.includes(name), name);
      }
      assertEquals(WebAssembly.Module.imports(module), []);
      const { exports } = new WebAssembly.Instance(module);
      assertEquals((exports["fs_abi_version"] as () => number)(), ABI_VERSION);
      for (const name of RULE_NAMES) {
        const memory = new Uint8Array((exports["memory"] as WebAssembly.Memory).buffer);
        const at = memory.length - 64; // beyond everything the module has
        memory.set(new TextEncoder().encode(`${name}\0`), at);
        assert((exports["fs_rule_find"] as (at: number) => number)(at) >= 0, `${name} is missing`);
      }
    });
  },
);
