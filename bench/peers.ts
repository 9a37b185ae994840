/**
 * The same steps in flatstep and in its peers, in turn, as ratios, in one table:
 *
 *     deno task bench:peers [--rules=AdamW,Adam,SGD+momentum] [--sets=gpt2,1x1000] [--rounds=15] [--peers=torch,optax] [--json=PATH]
 *
 * The peers are torch (default, foreach, fused), optax under jax.jit, TensorFlow.js and jax-js, each in a child process; and
 * flatstep's own foreach, for-loop, and a loop by hand. What is not installed is named. `--json` writes what was found, from which
 * tools/bench_table.ts makes the README's table. bench/README.md says what the columns mean.
 *
 * @module
 */

import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus, loadavg } from "node:os";
import process from "node:process";
import { backend } from "../mod.ts";
import { readArguments } from "./arguments.ts";
import { canImport, type Child, peerContender, startChild } from "./child.ts";
import { cell, COLUMNS, type Found, notes, type Row } from "./peers_table.ts";
import { type Contender, contender, digits, inTurn, preparedContender, table, type Timings } from "./ratios.ts";
import { SHAPE_SETS, type ShapeSet } from "./shapes.ts";
import { type RuleName, Work } from "./work.ts";

/** Milliseconds between turns, until the other's idle threads no longer spin. */
const PAUSE_MS = 40;
/** Milliseconds; the for-loop implementation is left out where a step takes longer. */
const LONGEST_MS = 1000;
const NEW_GRADIENTS: readonly ShapeSet[] = ["1000x1000", "10000x64"];

/** A library in a child process. */
interface Peer {
  readonly name: string;
  /** The program in bench/peers/. */
  readonly script: string;
  /** Why it cannot be started, or null. */
  readonly missing: () => string | null;
  /** What its steps are called in the table, by the names that the program gives them. */
  readonly columns: Readonly<Record<string, string>>;
  /** Sets that it is not timed on, and why. */
  readonly leftOut: Partial<Record<ShapeSet, string>>;
}

const python = (modules: readonly string[], install: string) => () =>
  modules.every(canImport) ? null : `python3 cannot import ${modules.join(" and ")}: pip install ${install}`;

/** Whether packages are installed here. */
const packages = (...names: readonly string[]) => () => {
  const { resolve } = createRequire(import.meta.url);
  try {
    for (const name of names) resolve(name);
    return null;
  } catch {
    return `there is no ${names.join(" or ")} in node_modules: deno install`;
  }
};

/** The peers, in the order of the table. */
export const PEERS: readonly Peer[] = [
  {
    name: "torch",
    script: "torch_step.py",
    missing: python(["torch"], "torch==2.13.0"),
    columns: { fused: "torch fused", default: "torch default", foreach: "torch foreach" },
    leftOut: {},
  },
  {
    name: "optax",
    script: "optax_step.py",
    missing: python(["jax", "optax"], "jax optax"),
    columns: { optax: "optax" },
    leftOut: { "10000x64": "XLA compiles 10000 tensors for minutes" },
  },
  {
    name: "tfjs",
    script: "tfjs_step.ts",
    missing: packages("@tensorflow/tfjs", "@tensorflow/tfjs-backend-wasm"),
    columns: { tfjs: "tfjs" },
    leftOut: { "gpt2": "parameters and Adam's state are more than its memory holds" },
  },
  {
    name: "jax-js",
    script: "jaxjs_step.ts",
    missing: packages("@jax-js/jax"),
    columns: { "jax-js": "jax-js" },
    leftOut: {
      "gpt2": "its first steps take minutes",
      "10000x64": "a step takes seconds",
    },
  },
];

/** A peer that is there: its child process is started when it is needed, and again after it has failed. */
class Running {
  version = "";
  #child: Child | null = null;
  #timed: readonly string[] = [];

  constructor(readonly peer: Peer) {}

  /** Lets it make its parameters. */
  async setup(rule: RuleName, set: ShapeSet, threads: number): Promise<void> {
    this.#timed = [];
    if (this.peer.leftOut[set] !== undefined) return;
    this.#child ??= startChild(this.peer.script);
    const answer = await this.#child.ask({ op: "setup", rule, shapes: SHAPE_SETS[set], threads });
    this.version = answer["version"] as string;
    const timed = answer["names"] as string[];
    for (const name of timed) await this.#child.ask({ op: "turn", name }); // warms it up, and shows whether it can
    this.#timed = timed;
  }

  /** What it has of the rule. */
  contenders(): Contender[] {
    return this.#timed.map((name) => peerContender(this.#child!, name, this.peer.columns[name]!));
  }

  /** What stands in its columns, but for those that were timed. */
  reasons(set: ShapeSet): Record<string, string> {
    const reason = this.peer.leftOut[set] === undefined ? "none" : "left out";
    return Object.fromEntries(Object.values(this.peer.columns).map((column) => [column, reason]));
  }

  /** Ends the child process. */
  end(): void {
    this.#child?.end();
    this.#child = null;
    this.#timed = [];
  }
}

/** The ratios that were found, to the step named `to`; over reasons for those that were not. */
function ratiosOf(found: Timings, to: string, reasons: Record<string, string>): Row["ratios"] {
  const ratios: Record<string, number | string> = { ...reasons };
  for (const column of COLUMNS) if (found.has(column)) ratios[column] = found.ratio(column, to);
  return ratios;
}

/** The rows of a rule on a set: one, and one with new gradients where there is one. */
async function measure(
  running: readonly Running[],
  rule: RuleName,
  set: ShapeSet,
  threads: number,
  rounds: number,
): Promise<Row[]> {
  const reasons: Record<string, string> = {};
  for (const one of running) {
    Object.assign(reasons, one.reasons(set));
    try {
      await one.setup(rule, set, threads);
    } catch (error) {
      console.error(`${one.peer.name} on ${set}: ${(error as Error).message}`);
      one.end();
      for (const column of Object.values(one.peer.columns)) reasons[column] = "failed";
    }
  }
  const work = new Work(rule, set);
  const own = [contender("fused", work.fused), contender("limit", work.limit), contender("foreach", work.foreach)];
  if (work.plain === null) reasons["plain loop"] = "none";
  else own.push(contender("plain loop", work.plain));
  work.forLoop();
  const start = performance.now();
  work.forLoop();
  if (performance.now() - start < LONGEST_MS) own.push(contender("for-loop", work.forLoop));
  else reasons["for-loop"] = "left out";
  const theirs = running.flatMap((one) => one.contenders());
  const found = await inTurn([...own, ...theirs], rounds, PAUSE_MS);
  const rows: Row[] = [{
    rule,
    shapes: set,
    ms: found.time("fused"),
    limit: found.ratio("limit", "fused"),
    ratios: ratiosOf(found, "fused", reasons),
  }];
  const torch = running.find((one) => one.peer.name === "torch")?.contenders() ?? [];
  if (NEW_GRADIENTS.includes(set) && torch.length > 0) {
    const fresh = preparedContender("new gradients", () => work.newGradients(), work.fused);
    const again = await inTurn([fresh, ...torch], rounds, PAUSE_MS);
    const ms = again.time("new gradients"), ratios = ratiosOf(again, "new gradients", {});
    rows.push({ rule, shapes: `${set}, new gradients`, ms, limit: null, ratios });
  }
  return rows;
}

async function main(): Promise<void> {
  const { rules, sets, rounds, peers, json } = readArguments(PEERS.map((peer) => peer.name));
  const { name, isa, threads } = backend(), runtimes = process.versions as Record<string, string | undefined>;
  const running: Running[] = [], absent: Record<string, string> = {}, rows: Row[] = [];
  const load = loadavg()[0]!;
  for (const peer of PEERS) {
    const reason = peers.includes(peer.name) ? peer.missing() : "not asked for";
    if (reason === null) running.push(new Running(peer));
    else absent[peer.name] = reason;
  }
  try {
    for (const set of sets) {
      for (const rule of rules) {
        console.error(`${rule} ${set} …`);
        rows.push(...await measure(running, rule, set, threads, rounds));
      }
    }
  } finally {
    for (const one of running) one.end();
  }
  const runtime = ["bun", "deno", "node"].find((key) => runtimes[key] !== undefined)!;
  const found: Found = {
    date: new Date().toISOString().slice(0, 10),
    machine: `${cpus().length} cores of an ${
      cpus()[0]!.model.replace(/\((R|TM)\)|Processor/g, "").replace(/\s+/g, " ").trim()
    }`,
    runtime: `${{ bun: "Bun", deno: "Deno", node: "Node" }[runtime]} ${runtimes[runtime]}`,
    backend: `${name}, ${isa}`,
    threads,
    rounds,
    load: Number(load.toFixed(1)),
    versions: Object.fromEntries(
      running.filter((one) => one.version !== "").map((one) => [one.peer.name, one.version]),
    ),
    absent,
    leftOut: running.flatMap(({ peer }) =>
      sets.flatMap((set) => peer.leftOut[set] === undefined ? [] : [`${peer.name} on ${set}: ${peer.leftOut[set]}`])
    ),
    rows,
  };
  console.log(
    `flatstep (fused, ${found.backend}), ${threads} threads, medians over ${rounds} rounds; load at the start ${found.load}.`,
  );
  console.log(`Ratios are the others' time divided by that of flatstep's step.\n`);
  console.log(table(
    ["rule", "shapes", "step", "of the limit", ...COLUMNS],
    rows.map((
      row,
    ) => [row.rule, row.shapes, ...["step", "of the limit", ...COLUMNS].map((column) => cell(row, column))]),
  ));
  console.log(`\n${notes(found).join("\n")}`);
  console.log("\nGeometric means of the ratios, and the least:");
  for (const column of COLUMNS) {
    for (const shapes of new Set(rows.map((row) => row.shapes))) {
      const list = rows.filter((row) => row.shapes === shapes).map((row) => row.ratios[column]).filter((ratio) =>
        typeof ratio === "number"
      );
      if (list.length < 2) continue;
      const mean = Math.exp(list.reduce((sum, ratio) => sum + Math.log(ratio), 0) / list.length);
      console.log(
        `${column} on ${shapes}: ${digits(mean)}x over ${list.length} rules, at least ${digits(Math.min(...list))}x`,
      );
    }
  }
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(found, null, 2)}\n`);
}

if (import.meta.main) await main();
