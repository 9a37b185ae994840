/** What is installed: exact versions, locked by hash, that run nothing when they are installed, under licences that are known. */

import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { direct, installed, withPackages } from "../tools/licences.ts";
import { ROOT } from "./support/runtime.ts";

const read = (...path: string[]): string => readFileSync(join(ROOT, ...path), "utf8");

/** Licences that ask for nothing but their text beside a copy. */
const LICENCES = [
  "MIT",
  "ISC",
  "0BSD",
  "BSD-2-Clause",
  "BSD-3-Clause",
  "Apache-2.0",
  "Apache-2.0 AND MIT",
  "Unlicense",
];

interface Locked {
  readonly integrity?: string;
}

test("every dependency has one exact version", () => {
  const versions = Object.entries(direct());
  assert(versions.length > 10);
  for (const [name, version] of versions) assert(/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version), `${name} ${version}`);
});

test("the shipped library depends on no package, but for two that are drawn with when they are there", () => {
  const { dependencies, peerDependencies, peerDependenciesMeta } = JSON.parse(read("package.json"));
  assertEquals(dependencies, undefined);
  assertEquals(Object.keys(peerDependencies), ["vega", "vega-lite"]);
  for (const name of Object.keys(peerDependencies)) assertEquals(peerDependenciesMeta[name], { optional: true });
});

test("the lock files have a hash for every package, and all that is asked for", () => {
  const deno = JSON.parse(read("deno.lock")), npm = JSON.parse(read("toolchain", "package-lock.json"));
  const locked = { ...deno.npm, ...npm.packages } as Record<string, Locked>;
  delete locked[""];
  for (const [name, { integrity }] of Object.entries(locked)) {
    assert(/^sha512-[\w+/]{86}==$/.test(integrity ?? ""), `${name}: ${integrity}`);
  }
  for (const [name, version] of Object.entries(direct())) {
    const found = `npm:${name}@${version}` in deno.specifiers ||
      npm.packages[`node_modules/${name}`]?.version === version;
    assert(found, `${name}@${version} is in no lock file`);
  }
});

test("one version of Deno is named everywhere", () => {
  const files = [".ci/run", "README.md", "CONTRIBUTING.md"];
  const versions = files.flatMap((file) =>
    [...read(...file.split("/")).matchAll(/deno@([\w.]+)/g)].map((match) => match[1])
  );
  assert(versions.length >= 3);
  assertEquals(new Set(versions).size, 1, `${versions}`);
});

test("installing runs no script of a package", () => {
  assert(
    read("toolchain", ".npmrc").split("\n").includes("ignore-scripts=true"),
    "npm runs scripts unless it is told not to",
  );
  const config = JSON.parse(read("deno.json"));
  assertEquals([config.allowScripts, config.workspace], [undefined, undefined], "Deno runs none unless it is told to");
  for (const file of [".ci/run", "deno.json", "ffi/build.ts", "tools/test.ts"]) {
    assert(!/allow-scripts/.test(read(...file.split("/"))), file);
  }
  assertEquals(JSON.parse(read("package.json")).scripts, undefined);
});

test("the README lists every dependency with what it is for and its licence", () => {
  const readme = read("README.md");
  assertEquals(withPackages(readme), readme, "run: deno run -A tools/licences.ts");
  assert(!/\| unknown \|/.test(withPackages(readme)));
});

test("every package that is installed has a licence that asks for nothing but its text", () => {
  if (!existsSync(join(ROOT, "node_modules", ".deno"))) {
    return console.log("skipped: the packages have not been installed by Deno");
  }
  const all = installed();
  assert(all.size > 50);
  assertEquals([...all].filter(([, licence]) => !LICENCES.includes(licence)), []);
});
