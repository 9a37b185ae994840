/** A few cases of both fuzzes; `deno task fuzz` and `deno task fuzz:checkpoints` make as many as one likes. */

import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { casesOf, fuzz } from "../tools/fuzz.ts";
import { fuzzCheckpoints } from "../tools/fuzz_checkpoints.ts";
import { fuzzModes, runFuzzCase } from "./support/fuzz.ts";

/** Bun's own limit is five seconds. */
const LIMIT = { timeout: 180_000 };
const CASES = 300;

test(
  "random training runs leave the same bits in every implementation, in WASM, and in both runtimes",
  LIMIT,
  async () => {
    assertEquals(await fuzz(1, CASES), CASES);
  },
);

test("the fuzz's cases have every optimizer and every kind of step, and leave different things", LIMIT, async () => {
  const cases = casesOf(1, CASES), steps = cases.flatMap((c) => c.steps), modes = fuzzModes();
  assertEquals(new Set(cases.map((c) => c.optimizer)).size, 14);
  assertEquals(
    new Set(steps.map((s) => s.action.kind)),
    new Set(["none", "reload", "pt", "safetensors", "variant", "zeroGrad", "newData", "set", "add"]),
  );
  assertEquals(new Set(steps.flatMap((s) => s.grads).map((g) => g.kind)), new Set(["null", "new", "same", "sparse"]));
  assert(modes.length >= 3);
  const hashes: string[] = [];
  for (const c of cases) hashes.push(await runFuzzCase(c, modes[0]!));
  assert(new Set(hashes).size > 0.95 * CASES, "the hash does not tell cases apart");
});

test(
  "mutated checkpoint files are loaded, or refused by name, within a second and in bounded memory",
  LIMIT,
  async () => {
    assertEquals(await fuzzCheckpoints(1, 2000), 2000);
  },
);
