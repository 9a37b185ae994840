/**
 * Holds that imports point one way, floor by floor (ARCHITECTURE.md): part of `deno task lint`.
 *
 * A file may import from its own floor or from lower ones, in no circle. Types are imports like others.
 *
 * @module
 */

import { readdirSync, readFileSync } from "node:fs";
import process from "node:process";
import { dirname, fromFileUrl, join, relative } from "@std/path";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));

/** The floors, from the top. A file belongs to the first pattern that it matches. */
const FLOORS: readonly (readonly RegExp[])[] = [
  [/^mod\.ts$/],
  [/^src\/adapters\//], // entry points of their own: mod.ts does not import them
  [/^src\/plot/],
  [/^src\/lr_scheduler\//, /^src\/swa_utils\//],
  [/^src\/optim\//, /^src\/foreach(_\w+)?\.ts$/, /^src\/clip_grad\.ts$/],
  [/^src\/parameter\.ts$/],
  [
    /^ffi\//,
    /^src\/cuda\//,
    /^src\/sparse_tensor\.ts$/,
    /^src\/memory\.ts$/,
    /^src\/profile\.ts$/,
    /^src\/checkpoint\//,
  ],
  [/^src\/line_search\//, /^src\/dtype\.ts$/, /^src\/errors\.ts$/],
];

function files(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = folder ? `${folder}/${entry.name}` : entry.name;
    return entry.isDirectory() ? files(path) : path.endsWith(".ts") ? [path] : [];
  });
}

const floorOf = (file: string) => FLOORS.findIndex((floor) => floor.some((pattern) => pattern.test(file)));
const problems: string[] = [];
const imports = new Map<string, string[]>();

for (const file of ["mod.ts", ...files("src"), ...files("ffi")]) {
  const from = floorOf(file);
  if (from < 0) {
    problems.push(`${file} is on no floor: tools/layers.ts has the list`);
    continue;
  }
  const text = readFileSync(join(ROOT, file), "utf8").replace(/\/\*[\s\S]*?\*\//g, "");
  const found = [...text.matchAll(/(?:from|import\()\s*"(\.[^"]+)"/g)].map((m) => {
    return relative(ROOT, join(ROOT, dirname(file), m[1]!)).replaceAll("\\", "/");
  });
  imports.set(file, found);
  for (const other of found) {
    const to = floorOf(other);
    if (to >= 0 && to < from) problems.push(`${file} imports ${other}, which is on a higher floor`);
  }
}

const done = new Set<string>();
function visit(file: string, path: readonly string[]): void {
  if (path.includes(file)) {
    problems.push(`a circle of imports: ${[...path.slice(path.indexOf(file)), file].join(" -> ")}`);
  }
  if (done.has(file) || path.includes(file)) return;
  for (const other of imports.get(file) ?? []) visit(other, [...path, file]);
  done.add(file);
}
for (const file of imports.keys()) visit(file, []);

for (const problem of problems) console.error(problem);
if (problems.length === 0) console.log(`Checked the imports of ${imports.size} files`);
process.exit(problems.length > 0 ? 1 : 0);
