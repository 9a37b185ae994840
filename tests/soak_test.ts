/** A short soak, in a process of its own: `deno task soak` makes as many steps as one likes. */

import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { runProgram } from "./support/runtime.ts";
import type { Soaked, Usage } from "../tools/soak.ts";

const LIMIT = { timeout: 180_000 };
const MIB = 2 ** 20;

/** Why nothing can be counted here; null if it can. */
const missing = (): string | null =>
  process.platform === "linux" ? null : "handles and threads are counted by Linux's /proc";

/** What some expression of tools/soak.ts gives, in a process of its own. */
async function evaluate<T>(expression: string, backend: string): Promise<T> {
  const source = `
import process from "node:process";
import { idle, soak, soakInWorkers, usage } from "../../tools/soak.ts";
console.log(JSON.stringify(await (async () => ${expression})()));
process.exit(0);
`;
  const { stdout, stderr, code } = await runProgram(source, {
    env: { FLATSTEP_BACKEND: backend, FLATSTEP_NUM_THREADS: "4" },
  });
  assertEquals(code, 0, stderr);
  return JSON.parse(stdout) as T;
}

for (const [backend, steps] of [["native", 8000], ["wasm", 2000]] as const) {
  test(
    `${steps} steps over changing shapes leave no memory, no handle and no thread behind: ${backend}`,
    LIMIT,
    async () => {
      const why = missing();
      if (why !== null) return console.log(`skipped: ${why}`);
      const { soaked: { looks, optimizers }, ticks } = await evaluate<{ soaked: Soaked; ticks: number }>(
        `({ soaked: soak(${steps}, 7), ticks: await idle() })`,
        backend,
      );
      const half = looks.length >> 1, early = looks.slice(0, half), late = looks.slice(half);
      assert(optimizers > 50 && half >= 10);
      const most = (list: readonly Usage[], key: keyof Usage) => Math.max(...list.map((look) => look[key]));
      const least = (list: readonly Usage[], key: keyof Usage) => Math.min(...list.map((look) => look[key]));
      // what one optimizer has is at most 2 MiB; all that were made in a half are some dozens
      assert(least(late, "live") < most(early, "live") + 2 * MIB, JSON.stringify(looks));
      assert(least(late, "rss") < most(early, "rss") + 8 * MIB, JSON.stringify(looks));
      assertEquals(least(late, "handles"), least(early, "handles"), JSON.stringify(looks));
      assert(least(late, "threads") <= most(early, "threads"), JSON.stringify(looks));
      assert(ticks <= 10, `${ticks * 10} ms of processor time in a second in which nothing was to be done`);
    },
  );
}

test("eight Workers with optimizers of their own step at once, and leave nothing behind", LIMIT, async () => {
  const why = missing();
  if (why !== null) return console.log(`skipped: ${why}`);
  const { done, looks } = await evaluate<{ done: number[][]; looks: Usage[] }>(
    `{
      const done = [], looks = [];
      for (let round = 0; round < 3; round++) {
        done.push(await soakInWorkers(8, 150, 8 * round));
        looks.push(usage());
      }
      return { done, looks };
    }`,
    "native",
  );
  assertEquals(done, Array(3).fill(Array(8).fill(150)));
  assert(looks[2]!.handles <= looks[1]!.handles, JSON.stringify(looks));
  assert(looks[2]!.threads <= looks[1]!.threads + 1, JSON.stringify(looks)); // the runtime may start one of its own
});
