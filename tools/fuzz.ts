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
import {
  FUZZ_CASES,
  type FuzzCase,
  type FuzzMode,
  fuzzModes,
  fuzzProgram,
  runFuzzCase,
} from "../tests/support/fuzz.ts";
import { backend } from "../mod.ts";
import { readNumber, seedsFrom } from "./seeds.ts";
import { findBun } from "./test.ts";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));

/** The cases of a seed: the same in every runtime. */
export function casesOf(seed: number, count: number): FuzzCase[] {
  return fc.sample(FUZZ_CASES, { seed, numRuns: count });
}

/** What each case leaves, which is the same in every mode of this process; throws with a shrunk program where it is not. */
export async function hashesOf(seed: number, count: number): Promise<string[]> {
  const hashes: string[] = [];
  for (const [i, fuzz] of casesOf(seed, count).entries()) {
    const modes = fuzzModes(i), found = await allOf(fuzz, modes);
    if (new Set(found).size > 1) throw new Error(await shrunk(seed, count, modes));
    hashes.push(found[0]!);
  }
  return hashes;
}

/** What a case leaves in each mode, one after the other. */
async function allOf(fuzz: FuzzCase, modes: readonly FuzzMode[]): Promise<string[]> {
  const found: string[] = [];
  for (const mode of modes) found.push(await runFuzzCase(fuzz, mode));
  return found;
}

/** A smaller case that still leaves different things in these modes, as a program. */
async function shrunk(seed: number, count: number, modes: readonly FuzzMode[]): Promise<string> {
  const agree = async (fuzz: FuzzCase) => new Set(await allOf(fuzz, modes)).size === 1;
  const found = await fc.check(fc.asyncProperty(FUZZ_CASES, agree), { seed, numRuns: count });
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
  const mine = await hashesOf(seed, count);
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
  const count = readNumber(values.cases, "cases", 1), first = readNumber(values.seed, "seed", 0);
  const minutes = readNumber(values.minutes, "minutes", 0, false);
  if (values.child) return console.log((await hashesOf(first, count)).join("\n"));
  console.log(
    `${JSON.stringify(backend())}, ${fuzzModes().length} ways in this process, WASM and the other runtime beside it`,
  );
  let done = 0;
  for (const seed of seedsFrom(first, minutes)) {
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
