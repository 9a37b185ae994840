/**
 * The C core under sanitizers: checks, and random calls through every function of the ABI, hostile ones among them.
 *
 *     deno task sanitize [--calls=1000000] [--minutes=0] [--seed=1]
 *
 * Three builds by gcc: with the address and undefined-behaviour sanitizers, with the thread sanitizer, and plainly at -O3 with the
 * vector code (tests/native/run.sh). `--minutes` goes on with further seeds for so long.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import process from "node:process";
import { parseArgs } from "node:util";
import { dirname, fromFileUrl, join } from "@std/path";
import { readNumber, seedsFrom } from "./seeds.ts";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));

/** Runs the drivers; whether they have found nothing. */
function sanitize(rounds: number, seed: number, calls: number): boolean {
  const script = join(ROOT, "tests", "native", "run.sh");
  const { status, error } = spawnSync("bash", [script, String(rounds), String(seed), String(calls)], {
    stdio: "inherit",
  });
  if (error) throw error;
  return status === 0;
}

function main(): void {
  const { values } = parseArgs({
    options: {
      calls: { type: "string", default: "1000000" },
      minutes: { type: "string", default: "0" },
      seed: { type: "string", default: "1" },
    },
  });
  const calls = readNumber(values.calls, "calls", 0), first = readNumber(values.seed, "seed", 0);
  for (const seed of seedsFrom(first, readNumber(values.minutes, "minutes", 0, false))) {
    console.log(`seed ${seed}`);
    if (!sanitize(seed === first ? 4 : 1, seed, calls)) process.exit(1);
  }
}

if (import.meta.main) {
  try {
    main();
  } catch (error) {
    console.error((error as Error).message);
    process.exit(1);
  }
}
