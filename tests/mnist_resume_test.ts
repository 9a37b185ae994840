/** train_mnist, interrupted and killed on the way, ends with the weights of the run that went straight through. */

import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { type Ended, otherRuntime, OWN, run, type RunOptions, type Runtime } from "./support/runtime.ts";

const LIMIT = { timeout: 180_000 };
/** Two epochs of 60 steps. */
const SMALL = ["--images=1920", "--batch-size=32", "--epochs=2", "--seed=3"];

/** Runs the program in a runtime. */
function train({ command, args }: Runtime, options: readonly string[], runOptions?: RunOptions): Promise<Ended> {
  return run(command, [...args, "examples/train_mnist.ts", ...options], runOptions);
}

/** Sends a signal when the program has printed something. */
function signalAt(printed: string, signal: NodeJS.Signals): RunOptions {
  let sent = false;
  return {
    onText: (text, pid) => {
      if (sent || !text.includes(printed)) return;
      sent = true;
      process.kill(pid, signal);
    },
  };
}

/** The fingerprints of the weights and of their average, as the program prints them. */
function fingerprints({ code, stdout, stderr }: Ended): string[] {
  assertEquals(code, 0, stderr);
  const found = [...stdout.matchAll(/^(?:weights|averaged) +([0-9a-f]{16}) /gm)].map((match) => match[1]!);
  assertEquals(found.length, 2, stdout);
  return found;
}

test(
  "train_mnist --resume ends with the bits of the straight run, after Ctrl-C and after a kill",
  LIMIT,
  async () => {
    if (process.platform === "win32") return console.log("skipped: Windows has no SIGINT to send");
    const other = otherRuntime();
    if (typeof other === "string") console.log(`the resumed runs are in the same runtime: ${other}`);
    const folder = mkdtempSync(join(tmpdir(), "flatstep-mnist-"));
    try {
      const files = (name: string) => [
        `--checkpoint=${join(folder, `${name}.pt`)}`,
        `--out=${join(folder, `${name}.svg`)}`,
      ];
      const straight = fingerprints(await train(OWN, [...SMALL, ...files("straight")]));

      // Ctrl-C as soon as it trains: in the middle of the first epoch
      const interrupted = await train(OWN, [...SMALL, ...files("run")], signalAt("batches of 32", "SIGINT"));
      assertEquals(interrupted.code, 130, interrupted.stderr);
      const [, step] = /interrupted after step (\d+) of 120; /.exec(interrupted.stderr)!;
      assert(Number(step) < 60, `it was interrupted after step ${step}, and an epoch has 60`);

      // goes on in the other runtime until the first epoch has been saved, and dies
      const there = typeof other === "string" ? OWN : other;
      const dead = await train(there, ["--resume", ...files("run")], signalAt("epoch 1/2: ", "SIGKILL"));
      assertStringIncludes(dead.stdout, `resumed at step ${step} of 120`);
      assertEquals(dead.signal, "SIGKILL", dead.stderr);

      const resumed = await train(OWN, ["--resume", ...files("run")]);
      assertMatch(resumed.stdout, /resumed at step 60 of 120/);
      assertEquals(fingerprints(resumed), straight);
      assert(existsSync(join(folder, "run.svg")), "the curves must be drawn");
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);

test("train_mnist --resume without a checkpoint, or with other options, says so", LIMIT, async () => {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-mnist-"));
  try {
    const path = join(folder, "run.pt"), files = [`--checkpoint=${path}`, `--out=${join(folder, "run.svg")}`];
    const missing = await train(OWN, ["--resume", ...files]);
    assertEquals(missing.code, 1, missing.stderr);
    assertStringIncludes(missing.stderr, `train_mnist: ${path}: `);

    const made = await train(OWN, ["--images=64", "--batch-size=32", "--epochs=1", ...files]);
    assertEquals(made.code, 0, made.stderr);
    const other = await train(OWN, ["--resume", "--images=96", ...files]);
    assertEquals(other.code, 2, other.stderr);
    assertStringIncludes(other.stderr, `--images must be 64 to resume ${path}, got 96`);
    const again = await train(OWN, ["--resume", "--images=64", ...files]);
    assertEquals(fingerprints(again), fingerprints(made), "a run that has ended is at its end");
  } finally {
    rmSync(folder, { recursive: true });
  }
});
