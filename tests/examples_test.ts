/** The examples are complete programs that assert what they promise. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { IS_BUN, ROOT, run } from "./support/runtime.ts";

const EXAMPLES: Record<string, string> = {
  "state_dict_experts.ts": "two experts go on from one layer's state",
  "state_dict_bypass.ts": "the bypass is at step 1, the others at step 6",
  "state_dict_by_name.ts": "every parameter has the state that was saved under its name",
  "swa.ts": "averaged weights: ",
  "ema.ts": "averaged weights: ",
  "checkpoint.ts": "resumed after epoch 4: the same bits",
  "adapter_jax.ts": "averaged weights: 9",
  "adapter_tfjs.ts": "the checkpoint gives the same outputs",
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
  "examples/fit_curve.ts reaches NIST's certified digits, in the same evaluations and picture everywhere",
  { timeout: 180_000 },
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "flatstep-fit-"));
    try {
      const path = "examples/fit_curve.ts", out = join(folder, "fit_curve.svg");
      const command = IS_BUN ? [path] : ["run", "-A", "--quiet", path];
      const { code, stdout, stderr } = await run(process.execPath, [...command, `--out=${out}`]);
      assertEquals(code, 0, stderr);
      const digits = [...stdout.matchAll(/^(L?BFGS) from .* ([\d.]+, [\d.]+, [\d.]+) +(\d+)$/gm)].map((m) =>
        m.slice(1)
      );
      assertEquals(digits, [
        ["BFGS", "11.0, 11.0, 10.5", "112"],
        ["LBFGS", "11.0, 11.0, 10.5", "107"],
        ["BFGS", "11.0, 11.0, 10.5", "58"],
        ["LBFGS", "11.0, 11.0, 10.5", "58"],
      ]);
      assertMatch(stdout, /^BFGS .* 0\.73225558 +116$/m);
      assertEquals(readFileSync(out, "utf8"), readFileSync(join(ROOT, "docs", "fit_curve.svg"), "utf8"));
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);

test(
  "examples/embedding.ts finds words that belong together, to the same bits in every runtime",
  { timeout: 180_000 },
  async () => {
    const path = "examples/embedding.ts", command = IS_BUN ? [path] : ["run", "-A", "--quiet", path];
    const { code, stdout, stderr } = await run(process.execPath, [...command, "--epochs=1", "--dim=16"]);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^captain .*\bpeleg\b.*\bbildad\b/m);
    assertMatch(stdout, /^god .*\bthee\b.*\bjonah\b/m);
    assertStringIncludes(stdout, "c48546bcb79b232b", "the vectors");
    const wrong = await run(process.execPath, [...command, "--dim=0"]);
    assertEquals([wrong.code, wrong.stderr], [2, "embedding: --dim must be an integer from 1 to 4096, got 0\n"]);
  },
);

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
