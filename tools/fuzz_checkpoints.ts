/**
 * The checkpoint fuzz: mutated checkpoint files, which must load, or be refused by a CheckpointError that names the file, within a
 * second and in bounded memory, and change nothing else.
 *
 *     deno task fuzz:checkpoints [--cases=1000] [--minutes=0] [--seed=1]
 *
 * A file that fails is kept, and its path printed.
 *
 * @module
 */

import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import { dirname, fromFileUrl, join } from "@std/path";
import { CheckpointError, load } from "../mod.ts";
import { readNumber, seedsFrom } from "./seeds.ts";

const FOLDER = join(dirname(dirname(fromFileUrl(import.meta.url))), "tests", "golden", "checkpoints");
/** Milliseconds that a file may take, and bytes that it may leave in memory at its peak, beyond what there was. */
const LONGEST = 1000, MOST = 512 << 20;

/** A generator of numbers below n, by xorshift. */
function random(seed: number): (n: number) => number {
  let state = (seed * 2654435761 + 1) >>> 0 || 1;
  return (n) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % n;
  };
}

/** Numbers that lengths and offsets are likely to be wrong in. */
const STRANGE = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff];

/** An archive without checksums, as torch may write it: else they give every change of a pickle away. */
function withoutSums(file: Uint8Array): void {
  const view = new DataView(file.buffer);
  for (let at = 0; at + 30 <= file.length; at++) {
    const signature = view.getUint32(at, true);
    if (signature === 0x04034b50) view.setUint32(at + 14, 0, true);
    else if (signature === 0x02014b50) view.setUint32(at + 16, 0, true);
  }
}

/** A copy of a file with some things wrong in it. */
function mutate(bytes: Uint8Array, others: readonly Uint8Array[], below: (n: number) => number): Uint8Array {
  let file = new Uint8Array(bytes); // a Buffer's slice() is no copy
  if (below(3) > 0) withoutSums(file);
  const place = () => below(2) === 0 ? below(file.length || 1) : below(Math.min(file.length || 1, 200)); // headers are in front
  for (let k = 1 + below(4); k > 0; k--) {
    switch (below(7)) {
      case 0: // a bit
        if (file.length > 0) file[place()]! ^= 1 << below(8);
        break;
      case 1: // a byte
        if (file.length > 0) file[place()] = below(256);
        break;
      case 2: // cut off
        file = file.slice(0, below(file.length + 1));
        break;
      case 3: { // a piece of another file
        const other = others[below(others.length)]!, from = below(other.length + 1), at = place();
        const piece = other.subarray(from, from + below(300)), joined = new Uint8Array(file.length + piece.length);
        joined.set(file.subarray(0, at));
        joined.set(piece, at);
        joined.set(file.subarray(at), at + piece.length);
        file = joined;
        break;
      }
      case 4: { // a piece is missing
        const at = place(),
          end = Math.min(file.length, at + 1 + below(100)),
          joined = new Uint8Array(file.length - (end - at));
        joined.set(file.subarray(0, at));
        joined.set(file.subarray(end), at);
        file = joined;
        break;
      }
      case 5: { // a strange number
        const at = place(), size = [1, 2, 4, 8][below(4)]!;
        if (at + size > file.length) break;
        const view = new DataView(file.buffer), x = STRANGE[below(STRANGE.length)]!;
        if (size === 1) view.setUint8(at, x);
        else if (size === 2) view.setUint16(at, x, true);
        else if (size === 4) view.setUint32(at, x, true);
        else view.setBigUint64(at, BigInt(x) << BigInt(below(33)), true);
        break;
      }
      default: { // a digit of a number in text, as headers of safetensors have them
        const digits = [...file.keys()].slice(0, 4000).filter((i) => file[i]! >= 0x30 && file[i]! <= 0x39);
        if (digits.length > 0) file[digits[below(digits.length)]!] = 0x30 + below(10);
      }
    }
  }
  return file;
}

const prototypes = [Object.prototype, Array.prototype, Map.prototype, Function.prototype];
const namesOf = () => prototypes.map((p) => Object.getOwnPropertyNames(p).sort().join()).join(";");

/** What is wrong with how a file is taken, or null. */
async function judge(path: string, names: string): Promise<string | null> {
  const before = process.memoryUsage.rss(), start = performance.now();
  let wrong: string | null = null;
  try {
    await load(path);
  } catch (error) {
    if (!(error instanceof CheckpointError)) wrong = `threw ${(error as Error).stack}`;
    else if (!error.message.includes(path)) wrong = `does not name the file: ${error.message}`;
    else if (error.message.length > 2000) wrong = `has a message of ${error.message.length} characters`;
  }
  const ms = performance.now() - start, grown = process.memoryUsage.rss() - before;
  if (ms > LONGEST) return `took ${ms.toFixed(0)} ms`;
  if (grown > MOST) return `took ${grown >> 20} MiB`;
  if (namesOf() !== names) return "changed a prototype";
  return wrong;
}

/** Loads `count` mutated files; returns how many loaded well enough to be told apart, and throws at the first that is taken wrongly. */
export async function fuzzCheckpoints(seed: number, count: number): Promise<number> {
  const files = readdirSync(FOLDER).filter((name) => /\.(pt|safetensors)$/.test(name)).sort();
  const contents = files.map((name) => readFileSync(join(FOLDER, name))), below = random(seed), names = namesOf();
  const folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "flatstep-fuzz-"));
  try {
    for (let i = 0; i < count; i++) {
      const k = below(files.length), ending = files[k]!.slice(files[k]!.lastIndexOf("."));
      const path = join(folder, `case${ending}`);
      writeFileSync(path, mutate(contents[k]!, contents, below));
      const wrong = await judge(path, names);
      if (wrong === null) continue;
      const kept = join(tmpdir(), `flatstep-fuzz-${seed}-${i}${ending}`);
      copyFileSync(path, kept);
      throw new Error(`${files[k]}, seed ${seed}, case ${i}: ${wrong}\nThe file is ${kept}`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return count;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      cases: { type: "string", default: "1000" },
      minutes: { type: "string", default: "0" },
      seed: { type: "string", default: "1" },
    },
  });
  const count = readNumber(values.cases, "cases", 1), first = readNumber(values.seed, "seed", 0);
  const minutes = readNumber(values.minutes, "minutes", 0, false);
  let done = 0;
  for (const seed of seedsFrom(first, minutes)) {
    done += await fuzzCheckpoints(seed, count);
    console.log(`seed ${seed}: ${done} files, all loaded or refused as they should be`);
  }
  console.log(`${done} passed, 0 failed`);
}

if (import.meta.main) {
  await main().catch((error) => {
    console.error((error as Error).message);
    process.exit(1);
  });
}
