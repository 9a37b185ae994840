/**
 * What a program pays before its second step: import, opening the library, the first step.
 *
 *     deno run -A bench/cold_start.ts [--rounds=15]
 *
 * Each figure is the median over fresh processes, which run in turn; their runtimes' own caches (compiled TypeScript, files) are warm. "the
 * whole" is the time from starting the process to its end, "empty" that of a program without a line; the difference is what the
 * library costs. It is split by the program itself, which imports the package, asks `backend()`, and takes a step of AdamW on
 * 1000 elements; what is left is the program's own file, and printing.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import { dirname, fromFileUrl, join } from "@std/path";
import { build, hostTarget } from "../ffi/build.ts";
import { DENO, run, serveRegistry } from "../tools/install_check.ts";
import { makePackage } from "../tools/package.ts";
import { findBun } from "../tools/test.ts";
import { median, table, timeText } from "./ratios.ts";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));

/** A library that was unpacked less than two seconds ago is looked at more closely (ffi/unpack.ts): not what users have every day. */
const UNPACKED_MS = 2500;

const PROGRAM = `const start = performance.now();
const { AdamW, backend, Parameter } = await import("PACKAGE");
const imported = performance.now(), { name } = backend(), opened = performance.now();
const weight = new Parameter(new Float32Array(1000));
weight.grad = new Float32Array(1000).fill(1);
new AdamW([weight]).step();
const stepped = performance.now();
console.log(JSON.stringify([imported - start, opened - imported, stepped - opened, name]));
`;

/** A program in a runtime. */
interface Case {
  readonly runtime: string;
  readonly what: string;
  /** The command line, of the program and of an empty one. */
  readonly whole: readonly string[];
  readonly empty: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** Runs a command to its end; milliseconds, and what it printed. */
function timed([command, ...args]: readonly string[], env: Readonly<Record<string, string>>): [number, string] {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("FLATSTEP_"));
  const start = performance.now();
  const { status, stdout, stderr, error } = spawnSync(command!, args, {
    encoding: "utf8",
    env: { ...Object.fromEntries(inherited), ...env, NO_COLOR: "1" },
  });
  const ms = performance.now() - start;
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? stderr}`);
  return [ms, stdout];
}

/** The programs, written into a folder. */
function casesIn(folder: string, registry: string): Case[] {
  const npm = join(folder, "npm"), empty = join(folder, "empty.js");
  makePackage(npm);
  writeFileSync(empty, "");
  const program = (name: string, specifier: string) => {
    const path = join(folder, name);
    writeFileSync(path, PROGRAM.replace("PACKAGE", specifier));
    return path;
  };
  const checkout = program("checkout.js", join(ROOT, "mod.ts")), packed = program("npm.js", join(npm, "mod.js"));
  const remote = program("remote.js", `${registry}/mod.ts`);
  const caches = { DENO_DIR: join(folder, "deno"), XDG_CACHE_HOME: join(folder, "cache") };
  const deno = [DENO, "run", "-A", "--quiet", "--no-config", "--no-lock"], bun = [findBun(), "run"];
  const make = (runtime: string, what: string, command: readonly string[], path: string, env = {}): Case => {
    return { runtime, what, whole: [...command, path], empty: [...command, empty], env };
  };
  return [
    make("Deno", "a checkout", deno, checkout),
    make("Deno", "the npm package", deno, packed),
    make("Deno", "from the network", deno, remote, caches),
    make("Bun", "a checkout", bun, checkout),
    make("Bun", "the npm package", bun, packed),
  ];
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { rounds: { type: "string" } } }), rounds = Number(values.rounds ?? 15);
  if (!Number.isSafeInteger(rounds) || rounds < 1) {
    console.error(`error: --rounds must be an integer >= 1, got ${values.rounds}`);
    process.exit(2);
  }
  build(hostTarget(), { log: console.error });
  const folder = mkdtempSync(join(tmpdir(), "flatstep-cold-")), load = loadavg()[0]!.toFixed(1);
  mkdirSync(join(folder, "cache"), { mode: 0o700 });
  try {
    await using registry = await serveRegistry();
    const cases = casesIn(folder, registry.url);
    // a server and a child that is waited for synchronously do not go together: the first run fills Deno's cache
    for (const { whole: [command, ...args], env } of cases) await run(command!, args, ROOT, { ...env });
    await new Promise((resolve) => setTimeout(resolve, UNPACKED_MS));
    const found = cases.map(() => ({
      whole: [] as number[],
      empty: [] as number[],
      parts: [] as number[][],
      name: "",
    }));
    for (let round = 0; round < rounds; round++) {
      cases.forEach(({ whole, empty, env }, i) => {
        const [ms, text] = timed(whole, env), [imported, opened, stepped, name] = JSON.parse(text);
        found[i]!.whole.push(ms);
        found[i]!.parts.push([imported, opened, stepped]);
        found[i]!.empty.push(timed(empty, env)[0]);
        found[i]!.name = name;
      });
    }
    const rows = cases.map(({ runtime, what }, i) => {
      const { whole, empty, parts, name } = found[i]!, all = median(whole), none = median(empty);
      const part = (k: number) => timeText(median(parts.map((list) => list[k]!)));
      return [runtime, what, timeText(all), timeText(none), timeText(all - none), part(0), part(1), part(2), name];
    });
    console.log(`medians of ${rounds} processes each, in turn; load at the start ${load}\n`);
    const head = ["runtime", "from", "the whole", "empty", "the library", "import", "open", "first step", "by"];
    console.log(table(head, rows));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (import.meta.main) await main();
