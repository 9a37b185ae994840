/**
 * Every test, under Deno and under Bun: `deno task test`. Builds the native library first. Arguments (files, `--filter x`)
 * go to `deno test` and `bun test`. The tables of kernels run a second time with the WASM module in the place of the native
 * library. Two suites run at a time, since most tests use one processor; what the second prints is shown when it has ended.
 * Ends with one line that adds up what ran.
 *
 * @module
 */

import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import process from "node:process";
import { dirname, fromFileUrl, join } from "@std/path";
import { build, hostTarget } from "../ffi/build.ts";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));

/** What compares compiled code with TypeScript and with torch: run with FLATSTEP_BACKEND=wasm too. */
const TABLES: readonly string[] = [
  ..."kernels tensors vectors foreach sparse sparse_tensor golden memory_arrays memory_faults memory_gc memory_hostile memory_kinds memory_lists memory_state step_options clip_grad swa"
    .split(" "),
].map((name) => `tests/${name}_test.ts`);

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** Bun's binary: the one that runs this, else the npm package's own (Deno runs no install scripts), else the PATH's. */
export function findBun(): string {
  if ("Bun" in globalThis) return process.execPath;
  const file = process.platform === "win32" ? "bun.exe" : "bun";
  const store = join(ROOT, "node_modules", ".deno");
  const musl = hostTarget().endsWith("-musl");
  const name = `@oven/bun-${process.platform === "win32" ? "windows" : process.platform}-${
    process.arch === "arm64" ? "aarch64" : "x64"
  }${musl ? "-musl" : ""}`;
  const prefix = `${name.replace("/", "+")}@`;
  for (const entry of existsSync(store) ? readdirSync(store) : []) {
    const path = join(store, entry, "node_modules", name, "bin", file);
    if (entry.startsWith(prefix) && existsSync(path)) return path;
  }
  try {
    return createRequire(createRequire(import.meta.url).resolve("bun/package.json")).resolve(`${name}/bin/${file}`);
  } catch {
    return "bun";
  }
}

/** Runs a command, shows what it prints (at once, or at the end), and returns it with the exit status. */
function run(
  command: string,
  args: readonly string[],
  env: Record<string, string>,
  atOnce: boolean,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve) => {
    const child = spawn(command, [...args], {
      cwd: ROOT,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...env },
    });
    let text = "";
    for (const stream of ["stdout", "stderr"] as const) {
      child[stream].on("data", (data) => {
        text += data;
        if (atOnce) process[stream].write(data);
      });
    }
    child.on("error", (error) => resolve({ status: 127, text: String(error) }));
    child.on("close", (code) => resolve({ status: code ?? 1, text }));
  });
}

// deno-lint-ignore no-control-regex -- colours
const plain = (text: string) => text.replace(/\x1b\[[0-9;]*m/g, "");

const last = (text: string, pattern: RegExp) => [...plain(text).matchAll(pattern)].at(-1);

/** `ok | 12 passed (3 steps) | 0 failed | 1 ignored` */
function readDeno(text: string): Counts | null {
  const match = last(text, /\| (\d+) passed(?: \([^)]*\))? \| (\d+) failed(?: \([^)]*\))?(?: \| (\d+) ignored)?/g);
  return match ? { passed: Number(match[1]), failed: Number(match[2]), skipped: Number(match[3] ?? 0) } : null;
}

/** ` 12 pass`, ` 1 skip`, ` 0 fail`, each on a line */
function readBun(text: string): Counts | null {
  const count = (word: string) => Number(last(text, new RegExp(`^ *(\\d+) ${word}$`, "gm"))?.[1] ?? 0);
  return last(text, /^Ran \d+ tests/gm)
    ? { passed: count("pass"), failed: count("fail"), skipped: count("skip") }
    : null;
}

/** `12 passed, 0 failed` */
function readPlain(text: string): Counts | null {
  const match = last(text, /^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$/gm);
  return match ? { passed: Number(match[1]), failed: Number(match[2]), skipped: Number(match[3] ?? 0) } : null;
}

/** A suite: its name, the command, how its last line is read, and its environment. */
type Suite = [string, string, string[], (text: string) => Counts | null, Record<string, string>?];

async function main(args: readonly string[]): Promise<void> {
  build(hostTarget(), { log: (text) => console.error(text) });
  const deno = "Deno" in globalThis && !("Bun" in globalThis) ? process.execPath : "deno";
  const files = args.length > 0 ? args : ["tests/"];
  const suites: Suite[] = [
    ["deno test", deno, ["test", "-A", "--quiet", ...files], readDeno],
  ];
  // before Bun's: what Deno's tests build meanwhile need not be built twice
  if (args.length === 0) {
    suites.push(["the C core under sanitizers", "bash", [join("tests", "native", "run.sh")], readPlain]);
  }
  suites.push(["bun test", findBun(), ["test", "--timeout", "180000", ...args], readBun]);
  if (args.length === 0) {
    const env = { FLATSTEP_BACKEND: "wasm" };
    const documented = ["test", "-A", "--quiet", "--doc", "mod.ts", "src/", "ffi/load.ts"];
    suites.push(["deno test, WASM", deno, ["test", "-A", "--quiet", ...TABLES], readDeno, env]);
    suites.push(["bun test, WASM", findBun(), ["test", "--timeout", "180000", ...TABLES], readBun, env]);
    suites.push(["the documentation's examples", deno, documented, readDeno]);
  }
  const total: Counts = { passed: 0, failed: 0, skipped: 0 }, lines: string[] = [];
  const lane = async (atOnce: boolean) => {
    for (let suite = suites.shift(); suite !== undefined; suite = suites.shift()) {
      const [name, command, commandArgs, read, env = {}] = suite, start = Date.now();
      if (atOnce) console.log(`\n--- ${name}`);
      const { status, text } = await run(command, commandArgs, env, atOnce);
      if (!atOnce) console.log(`\n--- ${name} (all of it)\n${text}\n--- ${name} ends here`);
      const counts = read(text) ?? { passed: 0, failed: 1, skipped: 0 };
      if (status !== 0 && counts.failed === 0) counts.failed = 1; // it ended badly without saying why
      for (const key of ["passed", "failed", "skipped"] as const) total[key] += counts[key];
      const { passed, failed, skipped } = counts, seconds = Math.round((Date.now() - start) / 1000);
      lines.push(
        `${name}: ${passed} passed, ${failed} failed, ${skipped} skipped (exit status ${status}, ${seconds} s)`,
      );
    }
  };
  await Promise.all(availableParallelism() > 1 ? [lane(true), lane(false)] : [lane(true)]);
  console.log(`\n${lines.join("\n")}`);
  console.log(`${total.passed} passed, ${total.failed} failed${total.skipped > 0 ? `, ${total.skipped} skipped` : ""}`);
  process.exit(total.failed > 0 || total.passed === 0 ? 1 : 0);
}

if (import.meta.main) await main(process.argv.slice(2));
