/** The examples are complete programs that assert what they promise. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { assertEquals, assertStringIncludes } from "@std/assert";
import { IS_BUN, run } from "./support/runtime.ts";

const EXAMPLES: Record<string, string> = {
  "state_dict_experts.ts": "two experts go on from one layer's state",
  "state_dict_bypass.ts": "the bypass is at step 1, the others at step 6",
  "state_dict_by_name.ts": "every parameter has the state that was saved under its name",
  "swa.ts": "averaged weights: ",
  "ema.ts": "averaged weights: ",
  "checkpoint.ts": "resumed after epoch 4: the same bits",
  "resume_from_pytorch.ts": "went on from PyTorch's checkpoint as PyTorch does",
};

for (const [name, says] of Object.entries(EXAMPLES)) {
  test(`examples/${name} does what it promises`, { timeout: 180_000 }, async () => {
    const path = `examples/${name}`;
    const { code, stdout, stderr } = await run(process.execPath, IS_BUN ? [path] : ["run", "-A", "--quiet", path]);
    assertEquals(code, 0, stderr);
    assertStringIncludes(stdout, says);
  });
}

test(
  "examples/train_mnist.ts learns in one epoch, to the same bits in every runtime",
  { timeout: 300_000 },
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "flatstep-mnist-"));
    try {
      const path = "examples/train_mnist.ts";
      const files = [`--out=${join(folder, "mnist.svg")}`, `--checkpoint=${join(folder, "mnist.pt")}`];
      const options = ["--epochs=1", "--min-accuracy=0.97", ...files];
      const command = IS_BUN ? [path] : ["run", "-A", "--quiet", path];
      const { code, stdout, stderr } = await run(process.execPath, [...command, ...options]);
      assertEquals(code, 0, stderr);
      assertStringIncludes(stdout, "19edc3881544f2be", "the weights");
      assertStringIncludes(stdout, "8892e35754640c54", "their average");
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);
