/** The prebuilt libraries: what ffi/prebuilt/ carries is what csrc/ makes, wherever it is built, and is fit to be opened. */

import { spawnSync } from "node:child_process";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { buildAll, compilerArguments, findZig, hostTarget, PREBUILT, sums, TARGETS } from "../ffi/build.ts";
import { SYMBOLS } from "../ffi/symbols.ts";
import type { Prebuilt } from "../ffi/unpack.ts";
import { readBinary } from "./support/binaries.ts";
import { IS_BUN, ROOT } from "./support/runtime.ts";

const LIMIT = { timeout: 600_000 };
const NAMES = Object.keys(TARGETS);
const SUMS = readFileSync(join(PREBUILT, "SHA256SUMS"), "utf8");
const STALE = "csrc/ or the flags have changed: run deno task build --all";

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const load = async (name: string) => await import(`../ffi/prebuilt/${name}.ts`) as Prebuilt & { ZIG: string };
const library = async (name: string) => new Uint8Array(gunzipSync(Buffer.from((await load(name)).GZIP, "base64")));

/** Why what zig makes here cannot be compared with what is committed, or null. */
async function otherZig(): Promise<string | null> {
  const { ZIG } = await load(NAMES[0]!);
  try {
    const { version } = findZig();
    return version === ZIG ? null : `the libraries are zig ${ZIG}'s, and this is zig ${version}`;
  } catch (error) {
    return (error as Error).message.split("\n")[0]!;
  }
}

test(
  "there is a module for each target and no other, and SHA256SUMS has the hash of what it carries",
  LIMIT,
  async () => {
    assertEquals(readdirSync(PREBUILT).sort(), ["SHA256SUMS", ...NAMES.map((name) => `${name}.ts`)].sort());
    const lines: string[] = [];
    for (const name of NAMES) {
      const { SHA256, SIZE } = await load(name), bytes = await library(name);
      assertEquals({ SHA256: sha256(bytes), SIZE: bytes.length }, { SHA256, SIZE }, name);
      lines.push(`${SHA256}  lib/${name}/${TARGETS[name]!.file}\n`);
    }
    assertEquals(SUMS, lines.join(""));
  },
);

test("the switch of literal imports in ffi/prebuilt.ts has every target", LIMIT, () => {
  const text = readFileSync(join(ROOT, "ffi", "prebuilt.ts"), "utf8");
  const cases = [...text.matchAll(/case "([^"]+)":\s+return await import\("\.\/prebuilt\/([^"]+)\.ts"\);/g)];
  assertEquals(cases.map((match) => match[1]), NAMES);
  for (const [, name, file] of cases) assertEquals(file, name);
});

test("csrc/ builds to the libraries that are committed, for every target", LIMIT, async () => {
  const why = await otherZig();
  if (why !== null) return console.log(`skipped: ${why}`);
  assertEquals(sums(await buildAll()), SUMS, STALE);
});

test("a build in another folder, with empty caches, has the same bytes", LIMIT, async () => {
  if (IS_BUN) return console.log("skipped: it takes long, and `deno test` does it: zig is the same for both");
  const why = await otherZig(), name = hostTarget();
  if (why !== null) return console.log(`skipped: ${why}`);
  const folder = mkdtempSync(join(tmpdir(), "flatstep another folder-"));
  try {
    const { command: [zig, ...first] } = findZig(),
      csrc = join(folder, "sources"),
      output = join(folder, TARGETS[name]!.file);
    cpSync(join(ROOT, "csrc"), csrc, { recursive: true });
    const cache = { ZIG_GLOBAL_CACHE_DIR: join(folder, "global"), ZIG_LOCAL_CACHE_DIR: join(folder, "local") };
    const { status, stderr } = spawnSync(zig, [...first, ...compilerArguments(name, output, csrc)], {
      cwd: folder,
      encoding: "utf8",
      env: { ...process.env, ...cache },
    });
    assertEquals(status, 0, stderr);
    const path = `lib/${name}/${TARGETS[name]!.file}`;
    assert(SUMS.includes(`${sha256(readFileSync(output))}  ${path}\n`), `${path} has other bytes; if ${STALE}`);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

/** What a library may need, and what linkers add to its exports. */
const EXPECTED: Record<string, { libraries: readonly (string | RegExp)[]; added: readonly string[] }> = {
  "linux": { libraries: ["libc.so.6", "libpthread.so.0", "libdl.so.2"], added: [] },
  "linux-musl": { libraries: ["libc.so"], added: ["_fini", "_init"] },
  "darwin": { libraries: ["/usr/lib/libSystem.B.dylib"], added: ["__dso_handle", "_mh_dylib_header"] },
  "win32": { libraries: ["KERNEL32.dll", /^api-ms-win-crt-\w+-l1-1-0\.dll$/], added: [] },
};

for (const name of NAMES) {
  test(
    `the library for ${name} exports the ABI and nothing else, and needs the system's own libraries alone`,
    LIMIT,
    async () => {
      const binary = readBinary(await library(name)), system = name.split("-")[0]!;
      const expected = EXPECTED[name.endsWith("-musl") ? "linux-musl" : system]!;
      assertEquals(binary.cpu, name.split("-")[1]);
      assertEquals(binary.exports.filter((symbol) => !expected.added.includes(symbol)), Object.keys(SYMBOLS).sort());
      for (const needed of binary.libraries) {
        const known = expected.libraries.some((l) => typeof l === "string" ? l === needed : l.test(needed));
        assert(known, `${name} needs ${needed}`);
      }
      assert(binary.libraries.length > 0);
      for (const version of system === "linux" ? binary.versions : []) {
        const [, major, minor] = version.match(/^GLIBC_(\d+)\.(\d+)/)!;
        assert(Number(major) === 2 && Number(minor) <= 17, `${name} needs ${version}`);
      }
      if (system === "darwin") {
        assertEquals({ name: binary.name, versions: binary.versions }, {
          name: "@rpath/libflatstep.dylib",
          versions: ["11.0"],
        });
        assertEquals(binary.signed, name === "darwin-arm64", "Apple's arm64 opens signed libraries only");
      }
      if (system === "win32") assertEquals(binary.name, "flatstep.dll");
    },
  );
}
