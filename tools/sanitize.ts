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

/** A whole number of an option. */
function whole(text: string, name: string): number {
  const n = Number(text);
  if (!Number.isSafeInteger(n) || n < 0 || n >= 2 ** 32) {
    throw new RangeError(`--${name} must be an integer >= 0, got ${text}`);
  }
  return n;
}

function main(): void {
  const { values } = parseArgs({
    options: {
      calls: { type: "string", default: "1000000" },
      minutes: { type: "string", default: "0" },
      seed: { type: "string", default: "1" },
    },
  });
  const calls = whole(values.calls, "calls"), first = whole(values.seed, "seed");
  const end = Date.now() + 60_000 * Number(values.minutes);
  for (let seed = first; seed === first || Date.now() < end; seed++) {
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
