/** What is published: to JSR as it is, to npm as JavaScript; installed into empty projects and run. */

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { dirname, join } from "@std/path";
import { PREBUILT, TARGETS } from "../ffi/build.ts";
import {
  checkNpm,
  DENO,
  publishedFiles,
  run,
  runRemote,
  serveRegistry,
  unpackingPermissions,
} from "../tools/install_check.ts";
import { ROOT } from "./support/runtime.ts";

const LIMIT = { timeout: 300_000 };
const MB = 1 << 20;

interface Manifest {
  name: string;
  version: string;
  description: string;
  license: string;
  exports: Record<string, string>;
  imports: Record<string, string>;
}

const read = (path: string) => readFileSync(join(ROOT, path), "utf8");
const deno = JSON.parse(read("deno.json")) as Manifest, npm = JSON.parse(read("package.json")) as Manifest;

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-package-"));
  try {
    await body(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Why there is no Deno here, or null. */
function noDeno(): string | null {
  const { status, error } = spawnSync(DENO, ["--version"]);
  return status === 0 ? null : `deno does not run here: ${error?.message ?? `exit status ${status}`}`;
}

/** The specifiers that a file imports, without those in comments. */
const importsOf = (text: string): string[] =>
  [...text.replace(/\/\*[\s\S]*?\*\//g, "").matchAll(/(?:\bfrom\s+|\bimport\s+|\bimport\()"([^"\n]+)"/g)].map((m) =>
    m[1]!
  );

test("deno.json and package.json agree on name, version, description, licence and entry points", LIMIT, () => {
  for (const field of ["name", "version", "description", "license", "exports"] as const) {
    assertEquals(deno[field], npm[field], field);
  }
});

test(
  "what is published is complete, small, and imports nothing that an import map would have to explain",
  LIMIT,
  () => {
    const why = noDeno();
    if (why !== null) return console.log(`skipped: ${why}`);
    const files = new Set(publishedFiles());
    for (
      const path of [
        "README.md",
        "LICENSE",
        "ffi/wasm_bytes.ts",
        ...Object.values(deno.exports).map((p) => p.slice(2)),
      ]
    ) {
      assert(files.has(path), `${path} is not published`);
    }
    for (const name of Object.keys(TARGETS)) assert(files.has(`ffi/prebuilt/${name}.ts`), name);
    const strange = [...files].filter((path) => !/^(src|ffi)\/|^(mod\.ts|deno\.json|[A-Z]+(\.md)?)$/.test(path));
    assertEquals(strange, []);
    assert(!files.has("ffi/build.ts"));
    const sizes = [...files].map((path) => statSync(join(ROOT, path)).size);
    assert(sizes.reduce((a, b) => a + b) < 20 * MB && Math.max(...sizes) < 4 * MB, "too large for JSR");
    for (const path of [...files].filter((path) => path.endsWith(".ts"))) {
      for (const specifier of importsOf(read(path))) {
        if (specifier.startsWith("./") || specifier.startsWith("../")) {
          const other = join(dirname(path), specifier).replaceAll("\\", "/");
          assert(files.has(other), `${path} imports ${other}, which is not published`);
        } else {
          const mapped = deno.imports[specifier] ?? specifier;
          assertMatch(mapped, /^(node|npm|jsr):/, `${path} imports ${specifier}`);
          assert(
            !/^node:/.test(specifier) || !/^import\b[^(;]*"node:/m.test(read(path)),
            `${path}: browsers have no ${specifier}`,
          );
        }
      }
    }
  },
);

test("every entry point has a module doc, and everything in it is documented and explicitly typed", LIMIT, async () => {
  const why = noDeno();
  if (why !== null) return console.log(`skipped: ${why}`);
  const entries = Object.values(deno.exports);
  for (const path of entries) assertMatch(read(path), /^\/\*\*[\s\S]*?@module[\s\S]*?\*\//, path);
  await run(DENO, ["doc", "--lint", ...entries], ROOT);
  assertMatch(read("README.md"), /```ts\n/);
});

const PROGRAM = `import { backend, SGD } from "@flatstep/optim";
const p = Float32Array.of(1, 2), optimizer = new SGD([p], { lr: 0.5 });
optimizer.paramGroups[0].params[0].grad = Float32Array.of(1, 4);
optimizer.step();
const { name, library, why } = backend();
console.log(JSON.stringify({ name, library, why, data: [...p] }));
`;

interface Outcome {
  name: string;
  library: string | null;
  why?: string;
  data: number[];
}

test(
  "imported over http, the first step() is native where it may be, and goes on so without a network",
  LIMIT,
  async () => {
    const why = noDeno();
    if (why !== null) return console.log(`skipped: ${why}`);
    await inFolder(async (folder) => {
      const permissions = unpackingPermissions(folder);
      let port = "";
      {
        await using registry = await serveRegistry();
        port = registry.url;
        const weak = JSON.parse(
          await runRemote(registry, folder, PROGRAM, ["--allow-env=FLATSTEP_BACKEND"]),
        ) as Outcome;
        assertEquals({ name: weak.name, data: weak.data }, { name: "wasm", data: [0.5, 0] });
        assertMatch(weak.why!, /^prebuilt \S+: when the package was imported: there is no cache folder/);
        const noFfi = JSON.parse(await runRemote(registry, folder, PROGRAM, ["--allow-env"])) as Outcome;
        assertMatch(
          noFfi.why!,
          /when the package was imported: there is no permission to open it: run with --allow-ffi$/,
        );
        assert(!existsSync(join(folder, "cache")), "something was unpacked");

        const { name, library, data } = JSON.parse(await runRemote(registry, folder, PROGRAM, permissions)) as Outcome;
        assertEquals({ name, data }, { name: "deno-ffi", data: [0.5, 0] });
        const place = join(folder, "cache", "flatstep");
        assertEquals(readdirSync(place).map((file) => join(place, file)), [library]);
        // literal imports are fetched with the package, used or not
        const modules = new Set(registry.asked.filter((path) => path.startsWith("ffi/prebuilt/")));
        assertEquals([...modules].sort(), Object.keys(TARGETS).map((name) => `ffi/prebuilt/${name}.ts`).sort());
      }
      // so what was fetched is enough: nobody is listening any more
      const gone = { url: port, asked: [], [Symbol.asyncDispose]: () => Promise.resolve() };
      assertEquals((JSON.parse(await runRemote(gone, folder, PROGRAM, permissions)) as Outcome).name, "deno-ffi");
    });
  },
);

/** Changes a byte of the library that was unpacked, and leaves its length and the time of its last change as they were. */
const ALTER =
  `const folder = \`\${Deno.env.get("XDG_CACHE_HOME")}/flatstep\`, [{ name: file }] = [...Deno.readDirSync(folder)];
const path = \`\${folder}/\${file}\`, { mtime, mode } = Deno.lstatSync(path), bytes = Deno.readFileSync(path);
bytes[bytes.length >> 1] ^= 1;
Deno.chmodSync(path, 0o700);
Deno.writeFileSync(path, bytes);
Deno.utimeSync(path, mtime, mtime);
Deno.chmodSync(path, mode & 0o777);
`;

test(
  "imported over http, an unpacked library is opened without node's modules, and one that is altered after the import is replaced",
  LIMIT,
  async () => {
    const why = noDeno();
    if (why !== null) return console.log(`skipped: ${why}`);
    if (process.platform === "win32") return console.log("skipped: Windows does not tell when a file's status changed");
    await inFolder(async (folder) => {
      await using registry = await serveRegistry();
      const permissions = unpackingPermissions(folder), place = join(folder, "cache", "flatstep");
      const imports = PROGRAM.slice(0, PROGRAM.indexOf("\n") + 1), rest = PROGRAM.slice(imports.length);
      const start = async (before: string) =>
        JSON.parse(await runRemote(registry, folder, imports + before + rest, permissions)) as Outcome;
      const { library } = await start("");
      const hash = () => createHash("sha256").update(readFileSync(library!)).digest("hex"), good = hash();
      const forbid =
        `Object.defineProperty(globalThis, "process", { get() { throw new Error("process is used"); } });\n`;
      utimesSync(library!, new Date(), new Date(Date.now() + 3_600_000));
      assertEquals((await start(forbid)).name, "wasm", "the file is new: its time might not tell of another change");
      utimesSync(library!, new Date(), new Date(Date.now() - 3_600_000));
      await new Promise((resolve) => setTimeout(resolve, 2100));
      assertEquals((await start(forbid)).name, "deno-ffi");

      const outcome = await start(ALTER);
      assertEquals({ ...outcome }, { name: "deno-ffi", library, data: [0.5, 0] });
      assertEquals(hash(), good);
      assertEquals(readdirSync(place).length, 1);
    });
  },
);

test("the npm package works in Deno, in Bun and in Node, types and all", LIMIT, async () => {
  const why = noDeno();
  if (why !== null) return console.log(`skipped: ${why}`);
  await inFolder(async (folder) => {
    const says = (by: string) => `y = 3.00 sin(x) -1.00, by ${by}`;
    assertEquals(await checkNpm(folder), { deno: says("deno-ffi"), bun: says("bun-ffi"), node: says("wasm") });

    const tarball = readdirSync(folder).find((name) => name.endsWith(".tgz"))!;
    assert(statSync(join(folder, tarball)).size < 20 * MB, "too large");
    const installed = join(folder, "for-node", "node_modules", "@flatstep", "optim");
    const sums = Object.entries(TARGETS).map(([name, { file }]) => {
      const hash = createHash("sha256").update(readFileSync(join(installed, "lib", name, file))).digest("hex");
      return `${hash}  lib/${name}/${file}\n`;
    });
    assertEquals(sums.join(""), readFileSync(join(PREBUILT, "SHA256SUMS"), "utf8"));
    const json = JSON.parse(readFileSync(join(installed, "package.json"), "utf8"));
    assertEquals([json.version, json.private, json.devDependencies, json.engines.node], [
      deno.version,
      undefined,
      undefined,
      ">=20.16",
    ]);
    assertEquals(Object.keys(json.exports), [...Object.keys(npm.exports), "./package.json"]);
    for (const { types, default: file } of Object.values(json.exports) as { types?: string; default?: string }[]) {
      for (const path of [types, file]) if (path) assert(existsSync(join(installed, path)), path);
    }
    const files = (readdirSync(installed, { recursive: true }) as string[]).filter((path) => /\.(js|ts)$/.test(path));
    for (const path of files) {
      assertMatch(path, /\.(js|d\.ts)$/);
      for (const specifier of importsOf(readFileSync(join(installed, path), "utf8"))) {
        assert(!specifier.startsWith(".") || specifier.endsWith(".js"), `${path} imports ${specifier}`);
        assert(!specifier.startsWith("@std/") && !specifier.startsWith("npm:"), `${path} imports ${specifier}`);
      }
    }
  });
});

test("CommonJS can require the npm package: nothing in it awaits at the top level", LIMIT, async () => {
  const program = `const { backend } = require("@flatstep/optim"); console.log(backend().name);`;
  const able = spawnSync("node", ["-p", "process.features.require_module === true"], { encoding: "utf8" });
  if (able.stdout?.trim() !== "true") return console.log("skipped: there is no Node here that can require ES modules");
  await inFolder(async (folder) => {
    const { makePackage } = await import("../tools/package.ts");
    const place = join(folder, "node_modules", "@flatstep");
    mkdirSync(place, { recursive: true });
    makePackage(join(place, "optim"));
    assertEquals((await run("node", ["--no-warnings", "-e", program], folder)).trim(), "wasm");
  });
});
