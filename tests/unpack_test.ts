/** Unpacking a prebuilt library into the user's cache folder, where the package lies without lib/: programs of their own. */

import { spawnSync } from "node:child_process";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { after, test } from "node:test";
import { gzipSync } from "node:zlib";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { findZig, hostTarget } from "../ffi/build.ts";
import type { BackendInfo } from "../ffi/load.ts";
import { ABI_VERSION } from "../ffi/symbols.ts";
import { IS_BUN, ROOT, run } from "./support/runtime.ts";

const LIMIT = { timeout: 180_000 };
const WINDOWS = process.platform === "win32", ROOT_USER = process.getuid?.() === 0;
const NATIVE = IS_BUN ? "bun-ffi" : "deno-ffi";
const TARGET = hostTarget();

/** The package as it is published: with the modules that carry libraries, without lib/. */
const whole = mkdtempSync(join(tmpdir(), "flatstep-unpack-")), PACKAGE = join(whole, "package");
for (const name of ["mod.ts", "src", "ffi"]) cpSync(join(ROOT, name), join(PACKAGE, name), { recursive: true });
after(() => rmSync(whole, { recursive: true, force: true }));

const STEP = `import { backend, SGD } from "PACKAGE/mod.ts";
const p = Float32Array.of(1, 2), optimizer = new SGD([p], { lr: 0.5 });
optimizer.paramGroups[0].params[0].grad = Float32Array.of(1, 4);
optimizer.step();
console.log(JSON.stringify({ ...backend(), data: [...p] }));
`;

interface Options {
  /** The cache folder's parent. */
  cache: string;
  /** Further environment. */
  env?: Record<string, string>;
  /** Deno's permissions, in the place of all; at least one, or node:child_process starts it with all. */
  permissions?: readonly string[];
  /** Another package. */
  from?: string;
  /** Another program. */
  program?: string;
}

/** Where programs find their cache folder, by the environment, on each system. */
function places(cache: string): Record<string, string> {
  return WINDOWS ? { LOCALAPPDATA: cache } : { XDG_CACHE_HOME: cache, HOME: cache };
}

const cacheOf = (cache: string) =>
  process.platform === "darwin" ? join(cache, "Library", "Caches", "flatstep") : join(cache, "flatstep");

/** Runs a program that makes one step, and returns what it says of its backend; the step is right in any case. */
async function step(options: Options): Promise<BackendInfo> {
  const from = options.from ?? PACKAGE, file = join(whole, `program-${crypto.randomUUID()}.ts`);
  writeFileSync(file, (options.program ?? STEP).replaceAll("PACKAGE", from.replaceAll("\\", "/")));
  const permissions = options.permissions ?? ["-A"];
  const args = IS_BUN ? [file] : ["run", "--no-prompt", "--no-config", "--quiet", ...permissions, file];
  const env = { ...places(options.cache), DENO_DIR: join(whole, "deno"), ...options.env };
  const { code, stdout, stderr } = await run(process.execPath, args, { env });
  assertEquals(code, 0, stderr);
  const { data, ...info } = JSON.parse(stdout) as BackendInfo & { data: number[] };
  assertEquals(data, [0.5, 0]);
  return info;
}

/** A cache folder of a test's own. */
async function inCache(body: (cache: string, folder: string) => Promise<void>): Promise<void> {
  const cache = mkdtempSync(join(whole, "cache-"));
  await body(cache, cacheOf(cache));
}

const library = (folder: string) => join(folder, readdirSync(folder).find((name) => name.startsWith(TARGET))!);

/** Throws unless WASM is in use, for this reason. */
function assertRefused({ name, library, why }: BackendInfo, reason: string): void {
  assertEquals({ name, library }, { name: "wasm", library: null });
  assertStringIncludes(why!, `prebuilt ${TARGET}: `);
  assertStringIncludes(why!, reason);
}

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

test(
  "the first step() unpacks the library for the user alone and runs in it, the second program opens the same file",
  LIMIT,
  async () => {
    await inCache(async (cache, folder) => {
      const info = await step({ cache });
      assertEquals({ name: info.name, library: info.library, why: info.why }, {
        name: NATIVE,
        library: library(folder),
        why: undefined,
      });
      assertEquals(readdirSync(folder).length, 1);
      assertEquals(library(folder).match(/-([0-9a-f]{64})\./)?.[1], sha256(readFileSync(library(folder))));
      if (!WINDOWS) {
        assertEquals((statSync(folder).mode & 0o777).toString(8), "700");
        assertEquals((statSync(library(folder)).mode & 0o777).toString(8), "500");
      }
      const { ino, mtimeMs } = statSync(library(folder));
      assertEquals((await step({ cache })).library, library(folder));
      const now = statSync(library(folder));
      assertEquals({ ino: now.ino, mtimeMs: now.mtimeMs }, { ino, mtimeMs });
    });
  },
);

test("importing, constructing, and FLATSTEP_BACKEND=wasm unpack nothing", LIMIT, async () => {
  await inCache(async (cache, folder) => {
    const program = `import { SGD } from "PACKAGE/mod.ts";
      new SGD([new Float32Array(1)], { lr: 1 });
      console.log(JSON.stringify({ data: [0.5, 0] }));`;
    await step({ cache, program });
    assertEquals((await step({ cache, env: { FLATSTEP_BACKEND: "wasm" } })).name, "wasm");
    assert(!existsSync(folder));
  });
});

test("a file that was altered, cut off or emptied is replaced and never opened", LIMIT, async () => {
  await inCache(async (cache, folder) => {
    await step({ cache });
    const path = library(folder), good = readFileSync(path);
    const altered = Uint8Array.from(good);
    altered[altered.length >> 1]! ^= 1;
    for (const bytes of [altered, good.subarray(0, 1000), new Uint8Array(0)]) {
      rmSync(path);
      writeFileSync(path, bytes, { mode: 0o500 });
      assertEquals((await step({ cache })).name, NATIVE);
      assertEquals(sha256(readFileSync(path)), sha256(good));
      assertEquals(readdirSync(folder).length, 1);
    }
  });
});

test("a symbolic link, as the folder or as the file, is refused and not followed", LIMIT, async () => {
  if (WINDOWS) return console.log("skipped: on Windows links need a right of their own");
  await inCache(async (cache, folder) => {
    const other = join(cache, "other");
    mkdirSync(other, { mode: 0o700 });
    mkdirSync(join(folder, ".."), { recursive: true });
    symlinkSync(other, folder);
    assertRefused(await step({ cache }), `${folder} is a symbolic link`);
    assertEquals(readdirSync(other), []);
    rmSync(folder);

    await step({ cache });
    const path = library(folder), moved = join(other, "library");
    cpSync(path, moved);
    rmSync(path);
    symlinkSync(moved, path);
    assertRefused(await step({ cache }), `${path} is a symbolic link`);
    assert(lstatSync(path).isSymbolicLink());
  });
});

test("a folder or a file that others may write to, or that is something else, is refused", LIMIT, async () => {
  if (WINDOWS) return console.log("skipped: Windows has no modes");
  await inCache(async (cache, folder) => {
    await step({ cache });
    const path = library(folder);
    for (const place of [folder, path]) {
      const { mode } = statSync(place);
      chmodSync(place, mode | 0o022);
      assertRefused(await step({ cache }), `${place} may be written to by others`);
      chmodSync(place, mode & 0o777);
    }
    rmSync(path);
    mkdirSync(path);
    assertRefused(await step({ cache }), `${path} is not a file`);
    rmSync(folder, { recursive: true });
    writeFileSync(folder, "");
    assertRefused(await step({ cache }), `${folder} is not a folder`);
  });
});

test("a folder or a file of somebody else's is refused", LIMIT, async () => {
  if (!ROOT_USER) return console.log("skipped: only root can give files away");
  await inCache(async (cache, folder) => {
    await step({ cache });
    for (const place of [folder, library(folder)]) {
      chownSync(place, 65534, 65534);
      assertRefused(await step({ cache }), `${place} belongs to somebody else`);
      chownSync(place, 0, 0);
    }
    assertEquals((await step({ cache })).name, NATIVE);
  });
});

test("eight programs at once unpack the same library, and nothing else is left", LIMIT, async () => {
  await inCache(async (cache, folder) => {
    const all = await Promise.all(Array.from({ length: 8 }, () => step({ cache })));
    assertEquals(
      all.map(({ name, library, why }) => ({ name, library, why })),
      Array(8).fill({
        name: NATIVE,
        library: library(folder),
        why: undefined,
      }),
    );
    assertEquals(readdirSync(folder).length, 1);
  });
});

/** Bun's own cache would go to a relative folder: into the project's. */
const NO_BUN_CACHE = { BUN_RUNTIME_TRANSPILER_CACHE_PATH: "0" };

test("without a cache folder the steps run in WASM, and a relative XDG_CACHE_HOME counts as none", LIMIT, async () => {
  if (WINDOWS) return console.log("skipped: Windows always has LOCALAPPDATA");
  await inCache(async (cache, folder) => {
    const reason = "not set to an absolute path";
    assertRefused(await step({ cache, env: { HOME: "", XDG_CACHE_HOME: "", ...NO_BUN_CACHE } }), reason);
    assertRefused(
      await step({ cache, env: { HOME: "somewhere", XDG_CACHE_HOME: "elsewhere", ...NO_BUN_CACHE } }),
      reason,
    );
    assert(!existsSync(folder));
    const home = join(cache, "home");
    const { library } = await step({ cache, env: { HOME: home, XDG_CACHE_HOME: "elsewhere", ...NO_BUN_CACHE } });
    assertStringIncludes(library!, join(home, process.platform === "darwin" ? "Library/Caches" : ".cache", "flatstep"));
  });
});

/** Mounts a small file system; false, with a word about it, where that is not allowed. */
function mounted(path: string, options: string): boolean {
  mkdirSync(path, { recursive: true });
  const { status, stderr, error } = spawnSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", path], {
    encoding: "utf8",
  });
  if (status !== 0) console.log(`skipped: nothing can be mounted here: ${error?.message ?? stderr.trim()}`);
  return status === 0;
}

test("a cache folder that is full leaves nothing behind, and the steps run in WASM", LIMIT, async () => {
  await inCache(async (cache, folder) => {
    if (!mounted(folder, "size=64k,mode=700")) return;
    try {
      assertRefused(await step({ cache }), "ENOSPC");
      assertEquals(readdirSync(folder), []);
    } finally {
      spawnSync("umount", [folder]);
    }
  });
});

test("in a cache folder that is read-only a good library is opened, and an altered one refused", LIMIT, async () => {
  await inCache(async (cache, folder) => {
    if (!mounted(folder, "size=16m,mode=700")) return;
    const remount = (how: string) => assertEquals(spawnSync("mount", ["-o", `remount,${how}`, folder]).status, 0);
    try {
      remount("ro");
      assertRefused(await step({ cache }), "EROFS");
      remount("rw");
      await step({ cache });
      const path = library(folder);
      remount("ro");
      assertEquals((await step({ cache })).library, path);
      remount("rw");
      const bytes = Uint8Array.from(readFileSync(path));
      bytes[0]! ^= 1;
      chmodSync(path, 0o700);
      writeFileSync(path, bytes);
      remount("ro");
      assertRefused(await step({ cache }), "EROFS");
    } finally {
      spawnSync("umount", [folder]);
    }
  });
});

test("a cache folder that cannot be made is a reason", LIMIT, async () => {
  if (process.platform !== "linux") return console.log("skipped: XDG_CACHE_HOME is Linux's");
  await inCache(async (cache) => {
    const file = join(cache, "file");
    writeFileSync(file, "");
    assertRefused(await step({ cache, env: { XDG_CACHE_HOME: file } }), "ENOTDIR");
  });
});

test("Deno is never asked for more than it was given: each permission that is missing is a reason", LIMIT, async () => {
  if (IS_BUN) return console.log("skipped: Bun has no permissions");
  await inCache(async (cache, folder) => {
    const ffi = `--allow-ffi=${folder}`, env = "--allow-env=XDG_CACHE_HOME,HOME,LOCALAPPDATA", uid = "--allow-sys=uid";
    const modules = join(PACKAGE, "ffi", "prebuilt"),
      read = `--allow-read=${modules},${folder}`,
      write = `--allow-write=${folder}`;
    const refused: readonly [readonly string[], string][] = [
      [["--allow-env=NOTHING"], "may not be read (--allow-env="],
      [[env], "there is no permission to open it: run with --allow-ffi"],
      [[env, ffi], `there is no permission to read ${folder}`],
      [[env, ffi, `--allow-read=${folder}`], `there is no permission to read ${modules}`],
      [[env, ffi, read], `there is no permission to write to ${folder}`],
    ];
    for (const [permissions, reason] of refused) assertRefused(await step({ cache, permissions }), reason);
    assert(!existsSync(folder));
    assertEquals((await step({ cache, permissions: [env, ffi, read, write] })).name, NATIVE);
    assertRefused(await step({ cache, permissions: [env, ffi, read] }), "run with --allow-sys=uid or --allow-write");
    assertEquals((await step({ cache, permissions: [env, ffi, read, uid] })).name, NATIVE);
    const path = library(folder);
    chmodSync(path, 0o700);
    writeFileSync(path, "altered");
    assertRefused(await step({ cache, permissions: [env, ffi, read, uid] }), `no permission to write to ${folder}`);
    assertEquals(readFileSync(path, "utf8"), "altered");
  });
});

/** The package with another text in the place of the target's module. */
function withModule(change: (text: string) => string): string {
  const from = join(whole, `package-${crypto.randomUUID()}`);
  cpSync(PACKAGE, from, { recursive: true });
  const path = join(from, "ffi", "prebuilt", `${TARGET}.ts`);
  writeFileSync(path, change(readFileSync(path, "utf8")));
  return from;
}

test("a damaged module is a reason, and nothing of it is written", LIMIT, async () => {
  await inCache(async (cache, folder) => {
    const changes: readonly [(text: string) => string, string | RegExp][] = [
      [
        (text) => text.replace(/SHA256: string = "./, (head) => `${head.slice(0, -1)}${head.endsWith("0") ? 1 : 0}`),
        "damaged",
      ],
      [(text) => text.replace(/SIZE: number = \d+/, (head) => `${head}0`), "the package's library is damaged"],
      [(text) => text.replace(/SIZE: number = \d+/, (head) => head.slice(0, -1)), ""],
      [(text) => text.replace(/(GZIP: string =\s+".{4000})..../, "$1AAAA"), ""],
      [() => "export {};", "is not what `deno task build --all` makes"],
    ];
    for (const [change, reason] of changes) {
      const from = withModule(change);
      assertRefused(await step({ cache, from }), String(reason));
      assertEquals(existsSync(folder) ? readdirSync(folder) : [], []);
      rmSync(from, { recursive: true });
    }
  });
});

test("a prebuilt library of another ABI version is not used, and the reason names both versions", LIMIT, async () => {
  let zig;
  try {
    zig = findZig().command;
  } catch (error) {
    return console.log(`skipped: ${(error as Error).message.split("\n")[0]}`);
  }
  await inCache(async (cache) => {
    const source = join(cache, "other.c"), output = join(cache, "other.so"), other = ABI_VERSION + 7;
    const place = WINDOWS ? "__declspec(dllexport) " : "";
    writeFileSync(source, `${place}unsigned fs_abi_version(void) { return ${other}; }\n`);
    const { status, stderr } = spawnSync(zig[0], [...zig.slice(1), "cc", "-shared", "-fPIC", "-o", output, source], {
      encoding: "utf8",
    });
    assertEquals(status, 0, stderr);
    const bytes = readFileSync(output), gzip = Buffer.from(gzipSync(bytes)).toString("base64");
    const from = withModule((text) =>
      text.replace(/SHA256: string = "\w+"/, `SHA256: string = "${sha256(bytes)}"`)
        .replace(/SIZE: number = \d+/, `SIZE: number = ${bytes.length}`)
        .replace(/GZIP: string =\s+"[^"]+"/, `GZIP: string = "${gzip}"`)
    );
    const info = await step({ cache, from });
    assertEquals(info.name, "wasm");
    assertMatch(info.why!, new RegExp(`it has ABI version ${other}, and ${ABI_VERSION} is needed`));
  });
});
