/** The examples are complete programs that assert what they promise. */

import process from "node:process";
import { test } from "node:test";
import { assertEquals, assertStringIncludes } from "@std/assert";
import { IS_BUN, run } from "./support/runtime.ts";

const EXAMPLES: Record<string, string> = {
  "state_dict_experts.ts": "two experts go on from one layer's state",
  "state_dict_bypass.ts": "the bypass is at step 1, the others at step 6",
  "state_dict_by_name.ts": "every parameter has the state that was saved under its name",
};

for (const [name, says] of Object.entries(EXAMPLES)) {
  test(`examples/${name} does what it promises`, { timeout: 180_000 }, async () => {
    const path = `examples/${name}`;
    const { code, stdout, stderr } = await run(process.execPath, IS_BUN ? [path] : ["run", "-A", "--quiet", path]);
    assertEquals(code, 0, stderr);
    assertStringIncludes(stdout, says);
  });
}
