/**
 * Saving and loading GPT-2 small with AdamW's state (1.5 GB), as a share of the speed at which one plain file of that size is
 * written and read, in turn, and the memory that it takes beside the tensors:
 *
 *     deno run -A bench/checkpoint.ts [--set=gpt2] [--rounds=5] [--folder=PATH]
 *     bun bench/checkpoint.ts
 *
 * Memory is measured in a process for each, in Linux only.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import {
  closeSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { loadavg, tmpdir } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import { fromFileUrl, join } from "@std/path";
import { AdamW, load, type Parameter, save } from "../mod.ts";
import { type Contender, digits, inTurn, table, timeText } from "./ratios.ts";
import { makeParameters, SET_NAMES, SHAPE_SETS, type ShapeSet } from "./shapes.ts";

const FORMATS = ["safetensors", "pt"] as const;
/** Bytes that the plain file is written and read by at a time. */
const BLOCK = 64 << 20;

/** A model with its optimizer's state. */
class Work {
  readonly params: Parameter[];
  readonly optimizer: AdamW;
  /** All the bytes of all tensors. */
  readonly views: readonly Uint8Array[];
  readonly bytes: number;

  constructor(set: ShapeSet) {
    this.params = makeParameters(SHAPE_SETS[set]);
    this.optimizer = new AdamW(this.params);
    this.optimizer.initState();
    const arrays = [...this.optimizer.state].flatMap(([p, state]) => {
      const { expAvg, expAvgSq } = state as Record<"expAvg" | "expAvgSq", Float32Array>;
      expAvg.forEach((_, i) => expAvg[i] = p.data[i]! / 3);
      expAvgSq.forEach((_, i) => expAvgSq[i] = p.data[i]! * p.data[i]!);
      return [p.data as Float32Array, expAvg, expAvgSq];
    });
    this.views = arrays.map(({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength));
    this.bytes = this.views.reduce((sum, { length }) => sum + length, 0);
  }

  /** Saves a checkpoint. */
  save(path: string): Promise<void> {
    const model = {
      namedParameters: () => this.params.map((p, i) => [`p${i}`, p] as [string, Parameter]),
      forward() {},
    };
    return save(path, { model, optimizer: this.optimizer });
  }

  /** Writes the same bytes into a plain file. */
  write(path: string): void {
    const file = openSync(path, "w");
    for (const view of this.views) {
      for (let at = 0; at < view.length;) at += writeSync(file, view, at, Math.min(BLOCK, view.length - at));
    }
    fsyncSync(file);
    closeSync(file);
  }
}

/** Reads a plain file. */
function read(path: string, bytes: number): Uint8Array {
  const file = openSync(path, "r"), all = new Uint8Array(bytes);
  for (let at = 0; at < bytes;) {
    const n = readSync(file, all, at, Math.min(BLOCK, bytes - at), at);
    if (n === 0) throw new Error(`${path} has ended`);
    at += n;
  }
  closeSync(file);
  return all;
}

/** Takes a file out of the page cache: dd asks for it where there is nothing to copy. */
function forget(path: string): boolean {
  return spawnSync("dd", [`if=${path}`, "iflag=nocache", "count=0"], { stdio: "ignore" }).status === 0;
}

/** A contender whose calls are long: one timing a turn, with something done before, outside of the time. */
function timed(name: string, before: () => void, call: () => unknown): Contender {
  return {
    name,
    turn: async () => {
      before();
      const start = performance.now();
      await call();
      return performance.now() - start;
    },
  };
}

/** Kilobytes of this process, from the system. */
function memory(field: "VmHWM" | "VmRSS"): number {
  return Number(new RegExp(`${field}:\\s*(\\d+) kB`).exec(readFileSync("/proc/self/status", "utf8"))![1]);
}

/** The largest memory during a call, above what the process had before, in megabytes. */
async function peakOf(call: () => Promise<unknown>): Promise<number> {
  const before = memory("VmRSS");
  writeFileSync("/proc/self/clear_refs", "5"); // the peak starts anew
  await call();
  return (memory("VmHWM") - before) / 1024;
}

/** In a process of its own: the memory that a save or a load takes beside the tensors, in megabytes. */
async function measureMemory(what: string, path: string, set: ShapeSet): Promise<number> {
  await warmUp(`${path}.small`);
  if (what === "save") {
    const work = new Work(set);
    return await peakOf(() => work.save(path));
  }
  let kept: unknown; // what has been loaded must not be collected
  const peak = await peakOf(async () => kept = await load(path));
  const bytes = Number(process.argv[5]);
  if (kept === undefined) throw new Error("nothing was loaded");
  return peak - bytes / 2 ** 20;
}

/** What a first save and load cost once, a process. */
async function warmUp(path: string): Promise<void> {
  for (const format of FORMATS) {
    await new Work("1x1000").save(`${path}.${format}`);
    await load(`${path}.${format}`);
    rmSync(`${path}.${format}`);
  }
}

function memoryInChild(what: string, path: string, set: ShapeSet, bytes: number): string {
  if (process.platform !== "linux") return "-";
  const script = fromFileUrl(import.meta.url), args = "Bun" in globalThis ? [script] : ["run", "-A", script];
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [...args, `--memory-of-${what}`, path, set, String(bytes)],
    { encoding: "utf8" },
  );
  if (status !== 0) throw new Error(`measuring the memory of a ${what} failed: ${stderr}`);
  return `${Number(stdout).toFixed(0)} MB`;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { set: { type: "string" }, rounds: { type: "string" }, folder: { type: "string" } },
  });
  const rounds = Number(values.rounds ?? 5), set = (values.set ?? "gpt2") as ShapeSet;
  if (!SET_NAMES.includes(set) || !Number.isSafeInteger(rounds) || rounds < 1) {
    console.error(`error: --set must be of ${SET_NAMES.join(", ")}, --rounds an integer >= 1`);
    process.exit(2);
  }
  const folder = mkdtempSync(join(values.folder ?? tmpdir(), "flatstep-bench-"));
  try {
    const work = new Work(set), { bytes } = work, plain = join(folder, "plain");
    const fileOf = (format: string) => join(folder, `run.${format}`);
    await warmUp(join(folder, "small"));
    // each writes a new file: the old one is removed before, so that freeing it is in nobody's time
    const writing = await inTurn([
      timed("plain", () => rmSync(plain, { force: true }), () => work.write(plain)),
      ...FORMATS.map((format) =>
        timed(format, () => rmSync(fileOf(format), { force: true }), () => work.save(fileOf(format)))
      ),
    ], rounds);
    const reading = (before: (path: string) => void) =>
      inTurn([
        timed("plain", () => before(plain), () => read(plain, bytes)),
        ...FORMATS.map((format) => timed(format, () => before(fileOf(format)), () => load(fileOf(format)))),
      ], rounds);
    const canForget = forget(plain);
    const cached = await reading(() => {}), disk = canForget ? await reading(forget) : null;
    const rows = [["write", writing], ["read, cached", cached], ["read, from disk", disk]] as const;
    console.log(
      table(
        ["what", "bytes", "plain", "plain GB/s", ...FORMATS.flatMap((format) => [`.${format}`, "of plain"])],
        rows.flatMap(([what, found]) => {
          if (found === null) return [];
          const ms = found.time("plain");
          return [[
            what,
            `${(bytes / 1e9).toFixed(2)} GB`,
            timeText(ms),
            digits(bytes / ms / 1e6),
            ...FORMATS.flatMap((format) => [
              timeText(found.time(format)),
              `${(100 * found.ratio("plain", format)).toFixed(0)} %`,
            ]),
          ]];
        }),
      ),
    );
    console.log(table(
      ["memory beside the tensors", "", ...FORMATS.map((format) => `.${format}`)],
      ["save", "load"].map((what) => [
        what,
        "",
        ...FORMATS.map((format) => memoryInChild(what, fileOf(format), set, bytes)),
      ]),
    ));
    const where = "Bun" in globalThis ? `Bun ${process.versions["bun"]}` : `Deno ${process.versions["deno"]}`;
    console.log(`${where}, medians over ${rounds} rounds, load average ${loadavg()[0]!.toFixed(1)} at the end`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const [, , task, path, set] = process.argv;
const what = /^--memory-of-(save|load)$/.exec(task ?? "")?.[1];
if (what) console.log(await measureMemory(what, path!, set as ShapeSet));
else await main();
