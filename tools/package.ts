/**
 * Makes the npm package of the same sources, in dist/npm/, and its tarball: `deno task pack`.
 *
 * JavaScript and declarations are tsc's. The libraries come out of ffi/prebuilt/ and lie in lib/ as files, where they are
 * opened in place; so the modules that carry them, and the top-level await that fetches those, are left out: CommonJS can
 * `require` the package, and bundlers find nothing large.
 *
 * @module
 */

import { spawnSync } from "node:child_process";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import process from "node:process";
import { gunzipSync } from "node:zlib";
import { dirname, fromFileUrl, join } from "@std/path";
import { PREBUILT, TARGETS } from "../ffi/build.ts";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));

/** The folder that is packed, if no other is given. */
export const NPM: string = join(ROOT, "dist", "npm");

/** What stands in the place of ffi/prebuilt.ts. */
const NO_PREBUILT = `/** The npm package has its libraries as files, in lib/. */
export function prebuiltOf() {
  throw new Error("the npm package has its libraries in lib/");
}
`;

/** What stands in the place of ffi/cuda_fetch.ts. */
const NO_FETCH = `/** The npm package has the CUDA kernels as a file. */
export const fetched = null;
`;

interface PackageJson {
  exports: Record<string, string>;
  [key: string]: unknown;
}

const readPackage = () => JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as PackageJson;

const within = (folder: string): string[] =>
  readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? within(path) : [path];
  });

/** JavaScript and declarations of the entry points, and of all that they import. */
function compile(entries: readonly string[], folder: string): void {
  const project = `${folder}.tsconfig.json`, types = (name: string) => join(ROOT, "node_modules", name);
  writeFileSync(
    project,
    JSON.stringify({
      extends: join(ROOT, "tsconfig.json"),
      compilerOptions: {
        noEmit: false,
        declaration: true,
        rewriteRelativeImportExtensions: true,
        target: "es2022",
        rootDir: ROOT,
        outDir: folder,
        types: [types("bun-types"), types("@types/deno")],
      },
      files: entries.map((path) => join(ROOT, path)),
      include: [],
    }),
  );
  const tsc = join(ROOT, "node_modules", ".bin", process.platform === "win32" ? "tsc.cmd" : "tsc");
  if (!existsSync(tsc)) throw new Error("node_modules has no tsc: run `deno install` first");
  const { status, stdout, stderr } = spawnSync(tsc, ["--project", project], { encoding: "utf8" });
  rmSync(project);
  if (status !== 0) throw new Error(`tsc: ${stdout}${stderr}`);
  for (const path of within(folder).filter((path) => path.endsWith(".d.ts"))) { // tsc leaves these specifiers as they are
    const text = readFileSync(path, "utf8").replace(/((?:from|import\(|import) ?")(\.[^"]+)\.ts"/g, '$1$2.js"');
    // Symbol.dispose is in no lib of a year yet
    writeFileSync(
      path,
      text.includes("[Symbol.dispose]") ? `/// <reference lib="esnext.disposable" />\n${text}` : text,
    );
  }
}

/** The libraries, out of the modules that carry them. */
function unpackLibraries(parent: string): void {
  for (const [name, { file }] of Object.entries(TARGETS)) {
    const text = readFileSync(join(PREBUILT, `${name}.ts`), "utf8");
    const hash = text.match(/SHA256: string = "(\w+)"/)?.[1], gzip = text.match(/GZIP: string =\s+"([^"]+)"/)?.[1];
    const bytes = gunzipSync(Buffer.from(gzip ?? "", "base64"));
    if (createHash("sha256").update(bytes).digest("hex") !== hash) throw new Error(`${name}: the module is damaged`);
    const folder = join(parent, name);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, file), bytes);
    chmodSync(join(folder, file), 0o755);
  }
}

/** Fills a folder. */
export function makePackage(folder: string = NPM): void {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const { exports, devDependencies: _, private: __, scripts: ___, ...rest } = readPackage();
  compile(Object.values(exports), folder);
  const prebuilt = join(folder, "ffi", "prebuilt");
  rmSync(prebuilt, { recursive: true, force: true });
  rmSync(`${prebuilt}.d.ts`, { force: true });
  writeFileSync(`${prebuilt}.js`, NO_PREBUILT);
  writeFileSync(join(folder, "ffi", "cuda_fetch.js"), NO_FETCH);
  unpackLibraries(join(folder, "lib"));
  for (const file of ["README.md", "CHANGELOG.md", "LICENSE"]) copyFileSync(join(ROOT, file), join(folder, file));
  const entry = (path: string, ending: string) => path.replace(/\.ts$/, ending);
  const json = {
    ...rest,
    main: entry(exports["."]!, ".js"),
    types: entry(exports["."]!, ".d.ts"),
    exports: {
      ...Object.fromEntries(
        Object.entries(exports).map(([name, path]) => {
          return [name, { types: entry(path, ".d.ts"), default: entry(path, ".js") }];
        }),
      ),
      "./package.json": "./package.json",
    },
    engines: { node: ">=20.16" },
    sideEffects: false,
  };
  writeFileSync(join(folder, "package.json"), `${JSON.stringify(json, null, 2)}\n`);
}

/** Packs the folder, and returns the path of the tarball beside it. */
export function makeTarball(folder: string = NPM): string {
  const { status, stdout, stderr, error } = spawnSync(
    "npm",
    ["pack", "--json", "--pack-destination", dirname(folder)],
    {
      cwd: folder,
      encoding: "utf8",
    },
  );
  if (status !== 0) throw new Error(`npm pack: ${error?.message ?? stderr}`);
  return join(dirname(folder), (JSON.parse(stdout) as [{ filename: string }])[0].filename);
}

if (import.meta.main) {
  makePackage();
  console.log(makeTarball().slice(ROOT.length + 1));
}
