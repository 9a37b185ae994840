/**
 * Faults of the system: threads that cannot be had, memory that cannot be had, a library file that goes away while it is in use.
 * (What becomes of broken cache folders is in unpack_test.ts, of libraries that cannot be opened in backend_test.ts.)
 */

import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { backend } from "../mod.ts";
import { runProgram } from "./support/runtime.ts";

const LIMIT = { timeout: 120_000 };

/** Why the faults of this file cannot be made here; null if they can. */
function missing(): string | null {
  if (process.platform !== "linux") return "faults are made by what Linux has";
  if (spawnSync("gcc", ["--version"]).status !== 0) return "there is no gcc";
  const { library, why } = backend();
  return library === null ? `there is no native library: ${why}` : null;
}

/** Six steps over tensors that are worth several threads, with something done in between; prints threads, and a sum over all bits. */
const PROGRAM = `
import { copyFileSync, existsSync, readdirSync, renameSync, unlinkSync, writeFileSync } from "node:fs";
import process from "node:process";
import { AdamW, backend, clipGradNorm, Muon, Parameter } from "MOD";
const { name, library } = backend();
const params = [1_500_000, 17, 700_001].map((n) => new Parameter(new Float32Array(n)));
const matrix = new Parameter(new Float32Array(200 * 150), { shape: [200, 150] });
const optimizer = new AdamW(params), muon = new Muon([matrix]);
let most = 0;
for (let step = 0; step < 6; step++) {
  for (const p of [...params, matrix]) p.grad = Float32Array.from({ length: p.size }, (_, i) => (i * 7 + step * 3) % 101 / 50 - 1);
  if (step === 3) BETWEEN
  const before = readdirSync("/proc/self/task").length;
  clipGradNorm(params, 10);
  optimizer.step();
  muon.step();
  most = Math.max(most, readdirSync("/proc/self/task").length - before);
}
let hash = 0x811c9dc5;
for (const p of [...params, matrix]) {
  const bits = new Uint32Array(p.data.buffer, p.data.byteOffset, p.size);
  for (let i = 0; i < bits.length; i++) hash = Math.imul(hash ^ bits[i], 0x01000193);
}
console.log(JSON.stringify({ name, hash: hash >>> 0, most }));
process.exit(0);
`;

interface Printed {
  readonly name: string;
  readonly hash: number;
  /** How many threads one step has added. */
  readonly most: number;
}

async function training(env: Record<string, string>, between = ""): Promise<Printed> {
  const { stdout, stderr, code, signal } = await runProgram(PROGRAM.replace("BETWEEN", `{ ${between} }`), { env });
  assertEquals({ code, signal }, { code: 0, signal: null }, stderr);
  return JSON.parse(stdout) as Printed;
}

let known: Promise<Printed> | undefined;
/** The same steps in TypeScript: what must come out. */
const expected = () => known ??= training({ FLATSTEP_BACKEND: "js" });

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-faults-"));
  try {
    await body(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A pthread_create that has only so many threads to give to our library; the runtime's own are not concerned. */
const FEW_THREADS = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
  static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  static int given;
  Dl_info caller;
  if (real == NULL) real = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
  if (dladdr((void *)start, &caller) != 0 && caller.dli_fname != NULL && strstr(caller.dli_fname, "libflatstep") != NULL) {
    if (given >= atoi(getenv("THREADS_TO_GIVE"))) return EAGAIN;
    given++;
  }
  return real(thread, attributes, start, argument);
}
`;

test("where the system gives fewer threads than asked for, or none, steps have the same bits", LIMIT, async () => {
  const why = missing();
  if (why !== null) return console.log(`skipped: ${why}`);
  await inFolder(async (folder) => {
    const source = join(folder, "few.c"), preload = join(folder, "few.so");
    writeFileSync(source, FEW_THREADS);
    const { status, stderr } = spawnSync("gcc", ["-shared", "-fPIC", "-O1", "-o", preload, source, "-ldl"], {
      encoding: "utf8",
    });
    assertEquals(status, 0, stderr);
    const run = (threads: number) =>
      training({
        FLATSTEP_BACKEND: "native",
        FLATSTEP_NUM_THREADS: "6",
        LD_PRELOAD: preload,
        THREADS_TO_GIVE: String(threads),
      });
    const { hash } = await expected(), all = await run(100);
    assertEquals(all.hash, hash);
    assert(all.most >= 4, `a step takes five threads more, and ${all.most} came`); // the runtime may end one of its own meanwhile
    for (const threads of [0, 1, 3]) {
      const few = await run(threads);
      assertEquals(few.hash, hash, `${threads} threads`);
      assert(few.most <= threads + 1, `${few.most} threads came where ${threads} were to be had`);
    }
  });
});

test("the library takes no memory from the system, so that none can be refused", () => {
  const why = missing();
  if (why !== null) return console.log(`skipped: ${why}`);
  const { status, stdout, stderr } = spawnSync("nm", ["-D", "--undefined-only", backend().library!], {
    encoding: "utf8",
  });
  assertEquals(status, 0, stderr);
  const needs = stdout.trim().split("\n").map((line) => line.trim().split(/\s+/).at(-1)!.split("@")[0]!);
  assert(needs.includes("pthread_create") && needs.length > 5, stdout);
  assertEquals(needs.filter((name) => /alloc|mmap|sbrk|strdup|memalign|^free$/.test(name)), []);
});

/** What may happen to the file while the library is in use. `library` is its path. */
const FATES: Readonly<Record<string, string>> = {
  "is deleted": "unlinkSync(library);",
  "is replaced by another one": `copyFileSync(library, library + ".new"); renameSync(library + ".new", library);`,
  "is replaced by a text": `writeFileSync(library + ".new", "no library"); renameSync(library + ".new", library);`,
  "is renamed": `renameSync(library, library + ".old");`,
};

for (const [what, between] of Object.entries(FATES)) {
  test(`steps go on with the same bits when the library's file ${what}`, LIMIT, async () => {
    const why = missing();
    if (why !== null) return console.log(`skipped: ${why}`);
    await inFolder(async (folder) => {
      const library = join(folder, "libflatstep.so");
      copyFileSync(backend().library!, library);
      const env = { FLATSTEP_BACKEND: "native", FLATSTEP_LIBRARY: library, FLATSTEP_NUM_THREADS: "4" };
      const { hash, name } = await training(env, between), { hash: wanted } = await expected();
      assert(name.endsWith("-ffi"), name);
      assertEquals(hash, wanted);
    });
  });
}
