/**
 * The README's table of peers, from bench/peers.json, which `bench/peers.ts --json=bench/peers.json` writes. The README has it between
 * markers; `tests/bench_test.ts` compares. `deno run -A tools/bench_table.ts` writes it there; `deno task bench:readme` measures first.
 *
 * @module
 */

import { readFileSync, writeFileSync } from "node:fs";
import { dirname, fromFileUrl, join } from "@std/path";
import { type Found, markdown } from "../bench/peers_table.ts";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));

/** What was found last. */
export const FOUND: string = join(ROOT, "bench", "peers.json");

/** What stands before and behind the table in the README. */
const MARKERS: readonly [string, string] = [
  "<!-- peers: deno task bench:readme -->\n",
  "\n<!-- /peers -->",
];

/** The README's text with the table in its place. */
export function withPeers(readme: string, found: Found): string {
  const [from, to] = MARKERS.map((marker) => readme.indexOf(marker));
  if (from! < 0 || to! < from!) throw new Error("the README has no markers for the table of peers");
  return readme.slice(0, from! + MARKERS[0].length) + markdown(found) + readme.slice(to);
}

if (import.meta.main) {
  const path = join(ROOT, "README.md"), found = JSON.parse(readFileSync(FOUND, "utf8")) as Found;
  writeFileSync(path, withPeers(readFileSync(path, "utf8"), found));
}
