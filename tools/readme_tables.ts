/**
 * torch's two tables of implementations, for flatstep, made from the classes themselves. The README has them between
 * markers; `tests/readme_test.ts` compares. `deno run -A tools/readme_tables.ts` writes them into the README.
 *
 * @module
 */

import { readFileSync, writeFileSync } from "node:fs";
import { dirname, fromFileUrl, join } from "@std/path";
import * as optim from "../mod.ts";

type Class = new (params: optim.Parameter[], options?: Record<string, unknown>) => optim.Optimizer;

/** The optimizers that mod.ts exports, in the order of torch's documentation, that is, of the alphabet. */
function classes(): [string, Class][] {
  const bases: unknown[] = [optim.ElementwiseOptimizer, optim.TensorwiseOptimizer, optim.QuasiNewton];
  const found = Object.entries(optim).filter(([, value]) =>
    typeof value === "function" && value.prototype instanceof optim.Optimizer && !bases.includes(value)
  );
  return found.sort(([a], [b]) => a.toLowerCase() < b.toLowerCase() ? -1 : 1) as unknown as [string, Class][];
}

/** Whether a class takes an option. */
function takes(make: Class, options: Record<string, unknown>): boolean {
  try {
    new make([new optim.Parameter(new Float32Array(4), { shape: [2, 2] })], options);
    return true;
  } catch (error) {
    if (error instanceof TypeError) return false;
    throw error;
  }
}

/** The classes that refuse parameters on CUDA devices. */
const NO_CUDA: ReadonlySet<string> = new Set(["BFGS", "LBFGS", "SparseAdam"]);

/** The two tables, as Markdown. */
export function tables(): string {
  const rows = classes().map(([name, make]) => {
    const foreach = takes(make, { foreach: true }), fused = takes(make, { fused: true });
    return { name, foreach, fused };
  });
  const yes = (b: boolean) => b ? "yes" : "no";
  const first = rows.map((r) =>
    `| \`${r.name}\` | ${r.fused ? "fused" : "native"} | ${yes(r.foreach)} | ${yes(r.fused)} |`
  );
  const second = rows.map(({ name }) => `| \`${name}\` | stable | ${NO_CUDA.has(name) ? "no" : "experimental"} | no |`);
  return [
    "| algorithm | default | has foreach? | has fused? |",
    "|---|---|---|---|",
    ...first,
    "",
    "| algorithm | CPU | CUDA | MPS |",
    "|---|---|---|---|",
    ...second,
  ].join("\n");
}

/** What stands before and behind the tables in the README. */
export const MARKERS: readonly [string, string] = [
  "<!-- tables: deno run -A tools/readme_tables.ts -->\n",
  "\n<!-- /tables -->",
];

/** The README's text with the tables in their place. */
export function withTables(readme: string): string {
  const [from, to] = MARKERS.map((marker) => readme.indexOf(marker));
  if (from! < 0 || to! < from!) throw new Error("the README has no markers for the tables");
  return readme.slice(0, from! + MARKERS[0].length) + tables() + readme.slice(to);
}

if (import.meta.main) {
  const path = join(dirname(dirname(fromFileUrl(import.meta.url))), "README.md");
  writeFileSync(path, withTables(readFileSync(path, "utf8")));
}
