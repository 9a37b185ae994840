/**
 * The differential fuzz: random training runs, which must leave the same bits in every implementation, on every instruction set,
 * for every number of threads, in WASM, and in both runtimes.
 *
 *     deno task fuzz [--cases=300] [--minutes=0] [--seed=1]
 *
 * A case that fails is shrunk and printed as a program. `--minutes` goes on with further seeds for so long.
 *
 * @module
 */

import { spawn } from "node:child_process";
import process from "node:process";
import { parseArgs } from "node:util";
import fc from "fast-check";
import { dirname, fromFileUrl } from "@std/path";
import { FUZZ_CASES, type FuzzCase, fuzzModes, fuzzProgram, runFuzzCase } from "../tests/support/fuzz.ts";
import { backend } from "../mod.ts";
import { findBun } from "./test.ts";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));

/** The cases of a seed: the same in every runtime. */
export function casesOf(seed: number, count: number): FuzzCase[] {
  return fc.sample(FUZZ_CASES, { seed, numRuns: count });
}

/** What each case leaves, which is the same in every mode of this process; throws with a shrunk program where it is not. */
export function hashesOf(seed: number, count: number): string[] {
  return casesOf(seed, count).map((fuzz, i) => {
    const [first, ...others] = fuzzModes(i), wanted = runFuzzCase(fuzz, first!);
    if (others.some((mode) => runFuzzCase(fuzz, mode) !== wanted)) throw new Error(shrunk(seed, count, i));
    return wanted;
  });
}

/** A smaller case that still leaves different things in the modes of case `i`, as a program. */
function shrunk(seed: number, count: number, i: number): string {
  const modes = fuzzModes(i);
  const agree = (fuzz: FuzzCase) => new Set(modes.map((mode) => runFuzzCase(fuzz, mode))).size === 1;
  const found = fc.check(fc.property(FUZZ_CASES, agree), { seed, numRuns: count });
  const fuzz = found.counterexample?.[0];
  return fuzz
    ? `implementations differ:\n\n${fuzzProgram(fuzz, modes)}`
    : `seed ${seed}: a difference that does not come back`;
}

/** The same cases in another process, which prints their hashes. */
function elsewhere(
  command: string,
  args: string[],
  env: Record<string, string>,
  seed: number,
  count: number,
): Promise<string[]> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, [...args, "tools/fuzz.ts", "--child", `--seed=${seed}`, `--cases=${count}`], {
      cwd: ROOT,
      env: { ...process.env, ...env } as Record<string, string>,
      stdio: ["ignore", "pipe", "inherit"],
    });
    let text = "";
    child.stdout.on("data", (data) => text += data);
    child.on("error", reject);
    child.on(
      "close",
      (code) => code === 0 ? resolve(text.trim().split("\n")) : reject(new Error(`${command} ended with ${code}`)),
    );
  });
}

/** Runs the cases of a seed everywhere; throws where anything differs. Returns how many there were. */
export async function fuzz(seed: number, count: number): Promise<number> {
  const isBun = "Bun" in globalThis;
  const deno: [string, string[]] = [isBun ? "deno" : process.execPath, ["run", "-A", "--quiet"]],
    bun: [string, string[]] = [findBun(), []];
  const others: [string, Promise<string[]>][] = [
    ["the other runtime", elsewhere(...(isBun ? deno : bun), {}, seed, count)],
    ["WASM", elsewhere(...(isBun ? bun : deno), { FLATSTEP_BACKEND: "wasm" }, seed, count)],
  ];
  const mine = hashesOf(seed, count);
  for (const [what, promise] of others) {
    const theirs = await promise, at = mine.findIndex((hash, i) => hash !== theirs[i]);
    if (at < 0 && theirs.length === mine.length) continue;
    throw new Error(
      `${what} differs at case ${at} of seed ${seed}:\n\n${fuzzProgram(casesOf(seed, count)[at]!, fuzzModes(at))}`,
    );
  }
  return mine.length;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      cases: { type: "string", default: "300" },
      minutes: { type: "string", default: "0" },
      seed: { type: "string", default: "1" },
      child: { type: "boolean", default: false },
    },
  });
  const count = Number(values.cases), first = Number(values.seed), end = Date.now() + 60_000 * Number(values.minutes);
  if (values.child) return console.log(hashesOf(first, count).join("\n"));
  console.log(
    `${JSON.stringify(backend())}, ${fuzzModes().length} ways in this process, WASM and the other runtime beside it`,
  );
  let done = 0;
  for (let seed = first; seed === first || Date.now() < end; seed++) {
    done += await fuzz(seed, count);
    console.log(`seed ${seed}: ${done} cases, all of the same bits`);
  }
  console.log(`${done} passed, 0 failed`);
}

if (import.meta.main) {
  await main().catch((error) => {
    console.error((error as Error).message);
    process.exit(1);
  });
}
