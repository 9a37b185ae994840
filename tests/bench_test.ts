/** The benchmark programs: what they take, and what they write. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { join } from "@std/path";
import { cell, COLUMNS, type Found, markdown, notes, type Row } from "../bench/peers_table.ts";
import { backend } from "../mod.ts";
import { findZig } from "../ffi/build.ts";
import { FOUND, withPeers } from "../tools/bench_table.ts";
import { IS_BUN, OWN, ROOT, run } from "./support/runtime.ts";

const LIMIT = { timeout: 300_000 };

const ROW: Row = {
  rule: "AdamW",
  shapes: "1x1000",
  ms: 0.00123,
  limit: 0.948,
  ratios: { "foreach": 1.004, "torch fused": 23.46, "optax": "left out", "tfjs": "none" },
};
const RUN: Found = {
  date: "2026-11-22",
  machine: "2 cores of an Intel Xeon",
  runtime: "Deno 2.9.6",
  backend: "deno-ffi, avx512",
  threads: 2,
  rounds: 5,
  load: 0.1,
  versions: { torch: "torch 2.13.0" },
  absent: { "jax-js": "there is no @jax-js/jax in node_modules: deno install" },
  leftOut: ["optax on 10000x64: XLA compiles 10000 tensors for minutes"],
  rows: [ROW, { ...ROW, shapes: "1x1000, new gradients", ms: 123.4, limit: null, ratios: { "torch fused": 123.4 } }],
};

test("a cell of the table has three digits and a unit, or the reason why there is no number", () => {
  assertEquals(["step", "of the limit", "torch fused", "optax", "tfjs", "jax-js"].map((column) => cell(ROW, column)), [
    "1.23 us",
    "95 %",
    "23.5x",
    "left out",
    "none",
    "",
  ]);
});

test("the Markdown table has the columns that something was measured of, the machine, the date, and every note", () => {
  assertEquals(markdown(RUN).split("\n"), [
    "2026-11-22, 2 cores of an Intel Xeon (avx512), Deno 2.9.6, 2 threads, float32, medians over 5 rounds. Ratios are the others' time divided by that of flatstep's step:",
    "",
    "| rule | shapes | step | of the limit | foreach | torch fused |",
    "|---|---|---:|---:|---:|---:|",
    "| AdamW | 1x1000 | 1.23 µs | 95 % | 1.00× | 23.5× |",
    "| AdamW | 1x1000, new gradients | 123 ms |  |  | 123× |",
    "",
    notes(RUN).join(" "),
  ]);
  assertEquals(notes(RUN), [
    "Peers: torch 2.13.0.",
    "Absent: jax-js (there is no @jax-js/jax in node_modules: deno install).",
    "Left out: optax on 10000x64: XLA compiles 10000 tensors for minutes.",
  ]);
});

test("the README's table of peers is what bench/peers.json says", () => {
  const readme = readFileSync(join(ROOT, "README.md"), "utf8"),
    found = JSON.parse(readFileSync(FOUND, "utf8")) as Found;
  assertEquals(readme, withPeers(readme, found), "run: deno run -A tools/bench_table.ts");
  assert(found.rows.length > 0 && found.rows.every((row) => row.ms > 0));
  assertThrows(() => withPeers("# no markers", found), Error, "no markers");
});

for (
  const [program, option, message] of [
    ["peers.ts", "--rules=Adm", "--rules must be of AdamW, Adam, .*, got Adm"],
    ["peers.ts", "--sets=2x2", "--sets must be of 1x16M, .*, got 2x2"],
    ["peers.ts", "--rounds=0", "--rounds must be an integer >= 1, got 0"],
    ["peers.ts", "--peers=torch,keras", "--peers must be of torch, optax, tfjs, jax-js, got keras"],
    ["limit.ts", "--peers=torch", "Unknown option '--peers'"],
    ["cold_start.ts", "--rounds=half", "--rounds must be an integer >= 1, got half"],
  ] as const
) {
  test(`bench/${program} refuses ${option}`, LIMIT, async () => {
    const { library } = backend();
    assert(library !== null, `the native library is not in use: ${backend().why}`);
    const env = { FLATSTEP_LIBRARY: library }; // or the one with the traffic loops would be built first
    const { code, stdout, stderr } = await run(OWN.command, [...OWN.args, join("bench", program), option], { env });
    assertEquals([code, stdout], [2, ""], stderr);
    assertMatch(stderr, new RegExp(message));
  });
}

/** Whether the library with the traffic loops cannot be built; says so. */
function withoutZig(): boolean {
  try {
    findZig();
    return false;
  } catch (error) {
    console.log(
      `skipped: the library with the traffic loops cannot be built: ${(error as Error).message.split("\n")[0]}`,
    );
    return true;
  }
}

test(
  "bench/heap.ts has a row for each rule: what a step makes, in each way to call it, and what stays",
  LIMIT,
  async () => {
    if (withoutZig()) return;
    const options = ["--rules=SGD,Adagrad", "--sets=1x1000"];
    const { code, stdout, stderr } = await run(OWN.command, [...OWN.args, join("bench", "heap.ts"), ...options]);
    assertEquals(code, 0, stderr);
    const rows = stdout.trim().split("\n").map((line) => line.split("|").map((cell) => cell.trim()).slice(1, -1));
    const [head, , ...found] = rows as [string[], string[], ...string[][]];
    const unit = IS_BUN ? "objects a step" : "bytes a step";
    assertEquals(head, ["rule", "shapes", "steps", unit, "closure", "clipped", "lr set", "kept"]);
    assertEquals(found.map((row) => row.slice(0, 3)), [["SGD", "1x1000", "100000"], ["Adagrad", "1x1000", "100000"]]);
    for (const row of found) assert(row.slice(3).every((cell) => Math.abs(Number(cell)) < 64), row.join());
  },
);

test("bench/peers.ts times a step in every implementation and in the peers that are asked for", LIMIT, async () => {
  if (withoutZig()) return;
  const folder = mkdtempSync(join(tmpdir(), "flatstep-peers-")), path = join(folder, "found.json");
  try {
    const options = ["--rules=SGD+momentum", "--sets=1x1000", "--rounds=1", "--peers=tfjs,jax-js", `--json=${path}`];
    const { code, stdout, stderr } = await run(OWN.command, [...OWN.args, join("bench", "peers.ts"), ...options]);
    assertEquals(code, 0, stderr);
    const found = JSON.parse(readFileSync(path, "utf8")) as Found, [row] = found.rows;
    assertEquals(found.rows.length, 1);
    const timed = ["foreach", "for-loop", "plain loop", "tfjs", "jax-js"] as const;
    for (const column of timed) assert((row!.ratios[column] as number) > 0, `${column} was not timed`);
    for (const column of COLUMNS) {
      assertEquals(typeof row!.ratios[column] === "number", timed.includes(column as never), column);
    }
    assertEquals(found.absent, { torch: "not asked for", optax: "not asked for" });
    assertMatch(stdout, /\| SGD\+momentum \| 1x1000 \|/);
    assertMatch(stdout, /Peers: tfjs [\d.]+ \(wasm, \d threads?\); jax-js [\d.]+ \(wasm\)\./);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
