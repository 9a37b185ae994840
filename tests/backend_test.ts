/** Which backend is chosen, what the environment and permissions have to say in it, and what is said when there is none. */

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertMatch, assertStrictEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { join } from "@std/path";
import { backend, type BackendInfo, getNumThreads, setNumThreads } from "../mod.ts";
import { findZig } from "../ffi/build.ts";
import { ABI_VERSION, SYMBOLS } from "../ffi/symbols.ts";
import { type Ended, IS_BUN, ROOT, run, type RunOptions, runProgram } from "./support/runtime.ts";

const NATIVE = IS_BUN ? "bun-ffi" : "deno-ffi";
const LIMIT = { timeout: 60_000 };

/** What programs start with. */
const PRELUDE = `
import * as optim from "MOD";
const { AdamW, backend, getNumThreads, Parameter, setNumThreads, SGD } = optim;
/** What a call returns, or the error it throws. */
function attempt(call) {
  try {
    return call();
  } catch (error) {
    return { error: error.name, message: error.message };
  }
}
/** One parameter with a gradient, and its optimizer. */
function make(options, Optimizer = AdamW) {
  const p = new Parameter([1, 2, 3], { name: "w" });
  p.grad = Float32Array.of(0.5, -0.25, 2);
  return { p, optimizer: new Optimizer([p], options) };
}
`;

/** An error, as programs tell of it. */
interface Failure {
  error: string;
  message: string;
}

/** Deno's flags for no permission at all. (Deno's node:child_process adds `-A` where it finds no flag for a permission.) */
const NOTHING = ["--deny-net"];

/** A line that throws unless a program has the permissions that it was meant to have. */
function permissionCheck(flags: readonly string[]): string {
  const granted = (name: string) =>
    flags.includes(`--allow-${name}`) || (flags.includes("-A") && !flags.includes(`--deny-${name}`));
  const expected = ["ffi", "env", "read"].map((name) => [name, granted(name)]);
  return `for (const [name, granted] of ${JSON.stringify(expected)}) {
    if ((Deno.permissions.querySync({ name }).state === "granted") !== granted) throw new Error("other permissions: " + name);
  }`;
}

/** Runs a program, which must end well and print nothing else, and gives what an expression in it comes to. */
async function evaluate<T>(expression: string, options: RunOptions = {}): Promise<T> {
  const check = IS_BUN ? "" : permissionCheck(options.permissions ?? ["-A"]);
  const ended = await runProgram(`${PRELUDE}\n${check}\nconsole.log(JSON.stringify(${expression}));\n`, options);
  assertEquals([ended.code, ended.signal, ended.stderr], [0, null, ""], ended.stderr);
  return JSON.parse(ended.stdout) as T;
}

let native: Promise<BackendInfo> | undefined;

/** What the native library is without any environment; null, with a word about it, where there is none. */
async function nativeInfo(): Promise<(BackendInfo & { library: string }) | null> {
  const info = await (native ??= evaluate<BackendInfo>("backend()"));
  if (info.library === null) console.log(`skipped: there is no native library: ${info.why}`);
  return info.library === null ? null : { ...info, library: info.library };
}

/** What backend() tells where WASM is used, but for the reason. */
const WASM: BackendInfo = { name: "wasm", isa: "simd128", threads: 1, library: null, why: "" };

/** An expression that makes a runtime without WebAssembly of one that has it. */
const NO_WASM = "delete globalThis.WebAssembly";

/** A folder for a test's own files. */
async function inFolder(call: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-"));
  try {
    await call(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test("backend() tells what is in use", () => {
  const info = backend();
  assert([NATIVE, "wasm", "js"].includes(info.name), info.name);
  assertEquals(backend(), info, "the same at every call");
  if (info.name !== NATIVE) {
    assertEquals([info.isa, info.threads, info.library], [info.name === "wasm" ? "simd128" : "none", 1, null]);
    assert(info.why, "a reason");
  } else {
    assert(["avx512", "avx2", "sse2", "neon"].includes(info.isa), info.isa);
    assert(info.library !== null && existsSync(info.library), `${info.library}`);
    assertStrictEquals(info.threads, getNumThreads());
    assert(!("why" in info), "nothing better is missing");
  }
});

test("setNumThreads() sets what getNumThreads() and backend() tell", () => {
  const before = getNumThreads();
  try {
    for (const n of [1, 2, 64, 3]) {
      setNumThreads(n);
      assertStrictEquals(getNumThreads(), n);
      assertStrictEquals(backend().threads, backend().name === NATIVE ? n : 1);
    }
  } finally {
    setNumThreads(before);
  }
});

for (const n of [0, -1, -0, 1.5, NaN, Infinity, 2 ** 53, "2", 2n, null, undefined, true, [2], {}] as unknown[]) {
  const shown = typeof n === "bigint"
    ? "2n"
    : Object.is(n, -0)
    ? "-0"
    : typeof n === "number"
    ? `${n}`
    : JSON.stringify(n);
  test(`setNumThreads() refuses ${shown}`, () => {
    const before = getNumThreads();
    const [type, message] = typeof n === "number" ? [RangeError, "an integer >= 1"] : [TypeError, "a number"];
    assertThrows(() => setNumThreads(n as number), type, `n must be ${message}, got `);
    assertStrictEquals(getNumThreads(), before);
  });
}

test("a step works with any number of threads that setNumThreads() takes", LIMIT, async () => {
  const counts = [1, 64, 65, 1000, 2 ** 31, 2 ** 32, 2 ** 32 + 1, 2 ** 40, Number.MAX_SAFE_INTEGER];
  const steps = await evaluate<unknown[]>(`${JSON.stringify(counts)}.map((n) => attempt(() => {
    setNumThreads(n);
    const { p, optimizer } = make({ lr: 1 }, SGD);
    optimizer.step();
    return [...p.data];
  }))`);
  steps.forEach((data, i) => assertEquals(data, [0.5, 2.25, 1], `${counts[i]} threads`));
});

test("the native library is the default where it can be opened", LIMIT, async () => {
  const info = await nativeInfo();
  if (!info) return;
  assertEquals(info.name, NATIVE);
  assert(existsSync(info.library));
  assertEquals(await evaluate("backend()", { env: { FLATSTEP_BACKEND: "native" } }), info as BackendInfo);
});

test("the native library is found on a system without /lib", LIMIT, async () => {
  const without =
    `(() => { // Bun looks there for musl; whoever looks there from now on gets what the system says of no folder
    const fs = process.getBuiltinModule("node:fs"), { readdirSync } = fs;
    fs.readdirSync = (path, ...rest) => readdirSync(path === "/lib" ? "/no/such/lib" : path, ...rest);
    return backend();
  })()`;
  const info = await nativeInfo();
  if (info) assertEquals(await evaluate(without), info as BackendInfo);
});

test("FLATSTEP_BACKEND=wasm means WASM, and says so; without WebAssembly it is an error", LIMIT, async () => {
  const env = { FLATSTEP_BACKEND: "wasm", FLATSTEP_NUM_THREADS: "3", FLATSTEP_LIBRARY: "missing" };
  assertEquals(await evaluate("backend()", { env }), { ...WASM, why: "FLATSTEP_BACKEND is wasm" });
  const [failure, again] = await evaluate<Failure[]>(
    `(${NO_WASM}, [attempt(backend), attempt(() => make().optimizer.step())])`,
    { env },
  );
  assertEquals(failure, {
    error: "NativeLibraryError",
    message: "FLATSTEP_BACKEND is wasm, but it cannot be had: WASM: this runtime has no WebAssembly",
  });
  assertEquals(again, failure);
});

test(
  "WebAssembly without vectors, or that may not be compiled, is not used, and backend() says why",
  LIMIT,
  async () => {
    const env = { FLATSTEP_LIBRARY: "missing" };
    const changed = async (change: string) => {
      const { name, why } = await evaluate<BackendInfo>(`(${change}, backend())`, { env });
      assertEquals(name, "js");
      return why!.split("\n")[1];
    };
    assertEquals(
      await changed("WebAssembly.validate = () => false"),
      "WASM: this runtime's WebAssembly has no vectors (SIMD)",
    );
    // what a browser does whose page forbids it by its Content-Security-Policy
    assertEquals(
      await changed('WebAssembly.Module = class { constructor() { throw new WebAssembly.CompileError("refused"); } }'),
      "WASM: refused",
    );
  },
);

test("FLATSTEP_BACKEND=js means TypeScript, and says so", LIMIT, async () => {
  const env = { FLATSTEP_BACKEND: "js" };
  assertEquals(await evaluate("backend()", { env }), {
    name: "js",
    isa: "none",
    threads: 1,
    library: null,
    why: "FLATSTEP_BACKEND is js",
  });
  const failures = await evaluate<Failure[]>(
    `["fused", "foreach"].map((key) => attempt(() => make({ [key]: true }).optimizer.step()))`,
    { env },
  );
  failures.forEach(({ error, message }, i) => {
    assertEquals(error, "NativeLibraryError");
    assertStringIncludes(message, `${["fused", "foreach"][i]} is true`);
    assertStringIncludes(message, "FLATSTEP_BACKEND is js");
  });
});

test("an empty FLATSTEP_ variable is none", LIMIT, async () => {
  const env = { FLATSTEP_BACKEND: "", FLATSTEP_ISA: "", FLATSTEP_LIBRARY: "", FLATSTEP_NUM_THREADS: "" };
  assertEquals(await evaluate("backend()", { env }), await evaluate("backend()"));
});

test("FLATSTEP_BACKEND=nonsense is a RangeError at the first use, and the next one", LIMIT, async () => {
  const results = await evaluate<Failure[]>(
    "[attempt(backend), attempt(backend), attempt(() => make().optimizer.step()), attempt(() => make({ fused: true }).optimizer.step())]",
    { env: { FLATSTEP_BACKEND: "nonsense" } },
  );
  for (const failure of results) {
    assertEquals(failure, {
      error: "RangeError",
      message: 'FLATSTEP_BACKEND must be js, wasm or native, got "nonsense"',
    });
  }
});

test("FLATSTEP_BACKEND=nonsense does not concern the for-loop implementation", LIMIT, async () => {
  const data = await evaluate(
    "(() => { const { p, optimizer } = make({ lr: 1, foreach: false, fused: false }, SGD); optimizer.step(); return [...p.data]; })()",
    { env: { FLATSTEP_BACKEND: "nonsense", FLATSTEP_NUM_THREADS: "x", FLATSTEP_LIBRARY: "missing" } },
  );
  assertEquals(data, [0.5, 2.25, 1]);
});

test("FLATSTEP_ISA is an upper bound", LIMIT, async () => {
  const info = await nativeInfo();
  if (!info) return;
  const names = ["sse2", "avx2", "avx512"], best = names.indexOf(info.isa);
  for (const [i, name] of names.entries()) {
    const { isa } = await evaluate<BackendInfo>("backend()", { env: { FLATSTEP_ISA: name } });
    assertEquals(isa, best < 0 ? info.isa : names[Math.min(i, best)], `FLATSTEP_ISA=${name}`);
  }
  if (best < 2) console.log(`instruction sets above ${info.isa} were not tested: this machine does not have them`);
});

test("FLATSTEP_ISA=nonsense is a RangeError at the first use, and the next one", LIMIT, async () => {
  if (!await nativeInfo()) return;
  const results = await evaluate<Failure[]>(
    "[attempt(backend), attempt(backend), attempt(() => make().optimizer.step())]",
    {
      env: { FLATSTEP_ISA: "nonsense" },
    },
  );
  for (const failure of results) {
    assertEquals(failure, {
      error: "RangeError",
      message: 'FLATSTEP_ISA must be one of sse2, avx2, avx512, neon, got "nonsense"',
    });
  }
});

test("FLATSTEP_NUM_THREADS sets the number of threads", LIMIT, async () => {
  for (const n of [1, 3]) {
    const env = { FLATSTEP_NUM_THREADS: `${n}` };
    const { threads, info } = await evaluate<{ threads: number; info: BackendInfo }>(
      "{ threads: getNumThreads(), info: backend() }",
      { env },
    );
    assertEquals(threads, n);
    assertEquals(info.threads, info.name === NATIVE ? n : 1);
  }
  assertEquals(await evaluate("(setNumThreads(2), getNumThreads())", { env: { FLATSTEP_NUM_THREADS: "3" } }), 2);
});

for (const text of ["0", "x", "-1", "1.5", "Infinity"]) {
  test(`FLATSTEP_NUM_THREADS=${text} is a RangeError, and a step that meets it changes nothing`, LIMIT, async () => {
    const { failures, data, states } = await evaluate<{ failures: Failure[]; data: number[][]; states: number[] }>(
      `(() => {
        const first = make({ lr: 1 }), second = make({ lr: 1, fused: false, foreach: false });
        const params = [first.p, second.p];
        const both = new AdamW([{ params: [second.p], fused: false, foreach: false }, { params: [first.p] }], { lr: 1 });
        const failures = [getNumThreads, () => first.optimizer.step(), () => both.step(), getNumThreads].map(attempt);
        return { failures, data: params.map((p) => [...p.data]), states: [first.optimizer.state.size, both.state.size] };
      })()`,
      { env: { FLATSTEP_NUM_THREADS: text, ...(await nativeInfo() ? { FLATSTEP_BACKEND: "native" } : {}) } },
    );
    const native = await nativeInfo() !== null; // TypeScript has one thread, and steps all the same
    failures.forEach((failure, i) => {
      if (!native && (i === 1 || i === 2)) return;
      assertEquals(failure, {
        error: "RangeError",
        message: `FLATSTEP_NUM_THREADS must be an integer >= 1, got "${text}"`,
      });
    });
    if (native) assertEquals({ data, states }, { data: [[1, 2, 3], [1, 2, 3]], states: [0, 0] });
  });
}

test("setNumThreads() helps where FLATSTEP_NUM_THREADS is wrong", LIMIT, async () => {
  const env = { FLATSTEP_NUM_THREADS: "many" };
  assertEquals(
    await evaluate("(setNumThreads(2), [getNumThreads(), attempt(() => make().optimizer.step()) ?? null])", { env }),
    [
      2,
      null,
    ],
  );
});

/** Throws unless a message names a path and says how to mend it. */
function assertHelps({ error, message }: Failure, asked: string, path: string): void {
  assertEquals(error, "NativeLibraryError", message);
  for (const text of [asked, path, "deno task build", "FLATSTEP_LIBRARY", "--allow-ffi"]) {
    assertStringIncludes(message, text);
  }
}

/** What becomes of a FLATSTEP_LIBRARY that cannot be used: `says` is what it is told of it. */
async function assertUnusable(path: string, says: readonly string[]): Promise<void> {
  const env = { FLATSTEP_LIBRARY: path };
  for (const wasm of [true, false]) {
    const { info, numbers, failures } = await evaluate<{ info: BackendInfo; numbers: number[]; failures: Failure[] }>(
      `(() => {
        ${wasm ? "" : NO_WASM};
        const { p, optimizer } = make({ lr: 1 }, SGD);
        optimizer.step();
        const asking = [{ fused: true }, { foreach: true }];
        const failures = asking.map((o) => attempt(() => make(o).optimizer.step()) ?? null);
        return { info: backend(), numbers: [...p.data], failures };
      })()`,
      { env },
    );
    assertEquals({ ...info, why: "" }, wasm ? WASM : { name: "js", isa: "none", threads: 1, library: null, why: "" });
    for (const text of [path, ...says]) assertStringIncludes(info.why!, text);
    assertEquals(info.why!.split("\n").length, wasm ? 1 : 2, `one line a path, and one about WASM: ${info.why}`);
    assertEquals(numbers, [0.5, 2.25, 1], "the step is done");
    if (wasm) {
      assertEquals(failures as unknown[], [null, null], "compiled code is there");
    } else {
      assertStringIncludes(info.why!, "\nWASM: this runtime has no WebAssembly");
      assertHelps(failures[0]!, "fused is true", path);
      assertHelps(failures[1]!, "foreach is true", path);
    }
  }
  const asked = await evaluate<Failure[]>("[backend, () => make().optimizer.step(), backend].map(attempt)", {
    env: { ...env, FLATSTEP_BACKEND: "native" },
  });
  for (const failure of asked) {
    assertHelps(failure, "FLATSTEP_BACKEND is native", path);
    for (const text of says) assertStringIncludes(failure.message, text);
  }
}

test(
  "a library that is not there: WASM, else TypeScript and an error where compiled code is asked for",
  LIMIT,
  async () => {
    await assertUnusable(join(tmpdir(), "flatstep-missing", "libflatstep.so"), []);
  },
);

test(
  "a file that is no library: WASM, else TypeScript and an error where compiled code is asked for",
  LIMIT,
  async () => {
    await inFolder(async (folder) => {
      const path = join(folder, "libflatstep.so");
      writeFileSync(path, "This is a text, and no library.\n");
      await assertUnusable(path, []);
    });
  },
);

/** Compiles a library of one C file; null, with a word about it, where there is no compiler. */
function compile(folder: string, source: string): string | null {
  let zig;
  try {
    zig = findZig().command;
  } catch (error) {
    console.log(`skipped: ${(error as Error).message.split("\n")[0]}`);
    return null;
  }
  const file = join(folder, "other.c"),
    library = join(folder, process.platform === "win32" ? "other.dll" : "libother.so");
  writeFileSync(file, source);
  const [command, ...first] = zig;
  const { status, stderr } = spawnSync(command, [...first, "cc", "-shared", "-fPIC", "-o", library, file], {
    cwd: folder,
    encoding: "utf8",
  });
  assertEquals(status, 0, stderr);
  return library;
}

test("a library of another ABI version: WASM or TypeScript, and an error that names both versions", LIMIT, async () => {
  await inFolder(async (folder) => {
    const other = ABI_VERSION + 41;
    const functions = Object.keys(SYMBOLS).map((name) =>
      `EXPORT unsigned ${name}(void) { return ${name === "fs_abi_version" ? other : 0}; }\n`
    );
    const define = "#ifdef _WIN32\n#define EXPORT __declspec(dllexport)\n#else\n#define EXPORT\n#endif\n";
    const path = compile(folder, define + functions.join(""));
    if (path !== null) await assertUnusable(path, [`ABI version ${other}`, `${ABI_VERSION} is needed`]);
  });
});

test("a library of something else: WASM or TypeScript, and an error that names what is missing", LIMIT, async () => {
  await inFolder(async (folder) => {
    const path = compile(folder, "int something_else(void) { return 0; }\n");
    if (path !== null) await assertUnusable(path, ["fs_"]);
  });
});

test("importing and constructing open nothing: what is wrong is said at the first use", LIMIT, async () => {
  const env = { FLATSTEP_BACKEND: "native", FLATSTEP_LIBRARY: "missing" };
  const { constructed, failure } = await evaluate<{ constructed: boolean; failure: Failure }>(
    `(() => {
      const { optimizer } = make({ fused: true });
      optimizer.zeroGrad();
      optimizer.loadStateDict(optimizer.stateDict());
      return { constructed: true, failure: attempt(() => optimizer.step()) };
    })()`,
    { env },
  );
  assert(constructed);
  assertHelps(failure, "FLATSTEP_BACKEND is native", "missing");
});

test("importing and constructing do not load the library", LIMIT, async () => {
  const info = await nativeInfo();
  if (!info) return;
  if (process.platform !== "linux") return console.log("skipped: only Linux tells what is loaded");
  const loaded = await evaluate(
    `await (async () => {
      const { readFileSync } = await import("node:fs");
      const loaded = () => readFileSync("/proc/self/maps", "utf8").includes("libflatstep");
      const { optimizer } = make();
      const before = loaded();
      optimizer.step();
      return [before, loaded()];
    })()`,
  );
  assertEquals(loaded, [false, true]);
});

test("a step that finds no compiled code leaves parameters, state and groups as they were", LIMIT, async () => {
  for (const key of ["fused", "foreach"]) {
    const { failure, before, after, later } = await evaluate<
      { failure: Failure; before: string; after: string; later: number[] }
    >(
      `(() => {
        ${NO_WASM};
        const { p, optimizer } = make({ lr: 1, momentum: 0.5 }, SGD);
        const q = new Parameter([4, 5]);
        q.grad = Float32Array.of(1, 1);
        optimizer.addParamGroup({ params: [q] });
        optimizer.step();
        const look = () => JSON.stringify([[...p.data], [...q.data], [...p.grad], [...optimizer.state.values()], optimizer.paramGroups]);
        optimizer.paramGroups[1].${key} = true;
        const before = look(), failure = attempt(() => optimizer.step()), after = look();
        optimizer.paramGroups[1].${key} = null;
        optimizer.step();
        return { failure, before, after, later: [...p.data, ...q.data] };
      })()`,
      { env: { FLATSTEP_LIBRARY: "missing" } },
    );
    assertHelps(failure, `${key} is true`, "missing");
    assertEquals(after, before);
    assertEquals(later, [-0.25, 2.625, -2, 1.5, 2.5]);
  }
});

/** What the library does, in every implementation that may be chosen without asking, as text. */
const WORK = `(() => {
  const dtypes = { float32: Float32Array, float64: Float64Array, bfloat16: Uint16Array, float16: Uint16Array };
  const lines = [];
  for (const [dtype, Arrays] of Object.entries(dtypes)) {
    for (const Optimizer of [optim.SGD, optim.Adam, optim.AdamW]) {
      for (const options of [OPTIONS]) {
        const p = new Parameter(new Parameter(Array.from({ length: 99 }, (_, i) => (i % 13) / 8 - 0.7), { dtype }).data, { dtype });
        const make = () => new Optimizer([["w", p]], { lr: 0.05, weightDecay: 0.1, ...options });
        let optimizer = make();
        optimizer.registerStepPostHook(() => lines.push("stepped"));
        for (let step = 0; step < 4; step++) {
          optimizer.step(() => {
            p.grad = new Parameter(Array.from({ length: 99 }, (_, i) => ((i * 7 + step) % 11) / 4 - 1), { dtype }).data;
            return step;
          });
          if (step === 1) {
            const dict = structuredClone(optimizer.stateDict());
            optimizer = make();
            optimizer.loadStateDict(dict);
          }
        }
        optimizer.zeroGrad();
        lines.push(dtype, Optimizer.name, p.data.constructor.name, [...p.data].join(), JSON.stringify(optimizer.stateDict().state[0]));
      }
    }
  }
  return lines;
})()`;
const workWith = (options: string) => WORK.replace("OPTIONS", options);

test("without any library everything works, with the same bits", LIMIT, async () => {
  if (!await nativeInfo()) return;
  const expected = await evaluate(workWith("{ fused: true }"));
  for (const options of ["{ foreach: false, fused: false }", "{}"]) {
    assertEquals(await evaluate(workWith(options), { env: { FLATSTEP_LIBRARY: "missing" } }), expected);
  }
});

/** A test of Deno's permissions. */
function testInDeno(name: string, body: () => Promise<void>): void {
  test(name, LIMIT, async () => {
    if (IS_BUN) return console.log("skipped: Bun has no permissions");
    await body();
  });
}

/** Deno without permissions, told nothing about prompting, with nobody to answer. */
async function runAsking(source: string, wrap: (command: string[]) => string[], options?: RunOptions): Promise<Ended> {
  const folder = mkdtempSync(join(ROOT, "tests", "program.local."));
  try {
    const path = join(folder, "program.ts");
    writeFileSync(path, source.replaceAll("MOD", "../../mod.ts"));
    const [command, ...args] = wrap([process.execPath, "run", "--quiet", ...NOTHING, path]);
    return await run(command!, args, options);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

testInDeno("without --allow-ffi the steps run in WASM, else in TypeScript, and backend() says why", async () => {
  const info = await nativeInfo();
  if (!info) return;
  const permissions = ["--allow-env", "--allow-read"];
  const told = await evaluate<BackendInfo>("backend()", { permissions });
  assertEquals({ ...told, why: "" }, WASM);
  assertStringIncludes(told.why!, info.library);
  assertStringIncludes(told.why!, "--allow-ffi");
  assertEquals(
    await evaluate("(make({ fused: true }).optimizer.step(), make({ foreach: true }).optimizer.step(), 1)", {
      permissions,
    }),
    1,
  );
  const expression = `(${NO_WASM}, attempt(() => make({ fused: true }).optimizer.step()))`;
  const failure = await evaluate<Failure>(expression, { permissions });
  assertHelps(failure, "fused is true", info.library);
});

testInDeno("--deny-ffi is taken as an answer", async () => {
  const told = await evaluate<BackendInfo>("backend()", { permissions: ["-A", "--deny-ffi"] });
  assertEquals(told.name, "wasm");
});

testInDeno("without --allow-env the environment is ignored", async () => {
  const env = {
    FLATSTEP_BACKEND: "nonsense",
    FLATSTEP_NUM_THREADS: "x",
    FLATSTEP_LIBRARY: "missing",
    FLATSTEP_ISA: "x",
  };
  const expected = await evaluate("backend()");
  for (const permissions of [["--allow-ffi"], ["-A", "--deny-env"]]) {
    assertEquals(await evaluate("backend()", { env, permissions }), expected);
  }
});

testInDeno("a variable that may be read is read, and the others are ignored", async () => {
  if (!await nativeInfo()) return;
  const env = { FLATSTEP_BACKEND: "nonsense", FLATSTEP_NUM_THREADS: "3" };
  const permissions = ["--allow-ffi", "--allow-env=FLATSTEP_NUM_THREADS"];
  const told = await evaluate<BackendInfo>("backend()", { env, permissions });
  assertEquals([told.name, told.threads], [NATIVE, 3]);
});

testInDeno("without any permission everything works, with the same bits", async () => {
  const expected = await evaluate(workWith("{ foreach: false, fused: false }"));
  for (const options of ["{ foreach: false, fused: false }", "{}"]) {
    assertEquals(await evaluate(workWith(options), { permissions: NOTHING }), expected);
  }
  assertEquals(await evaluate("(setNumThreads(2), getNumThreads())", { permissions: NOTHING }), 2);
});

testInDeno("permission for the library's path alone is enough, with the same bits", async () => {
  const info = await nativeInfo();
  if (!info) return;
  const permissions = [`--allow-ffi=${info.library}`];
  assertEquals(await evaluate("backend()", { permissions }), info as BackendInfo);
  assertEquals(
    await evaluate(workWith("{ fused: true }"), { permissions }),
    await evaluate(workWith("{ fused: true }")),
  );
});

testInDeno("permission for another path is none", async () => {
  const info = await nativeInfo();
  if (!info) return;
  const told = await evaluate<BackendInfo>("backend()", { permissions: [`--allow-ffi=${info.library}.other`] });
  assertEquals([told.name, told.library], ["wasm", null]);
  assertStringIncludes(told.why!, "--allow-ffi");
});

const UNASKED = `${PRELUDE}
${permissionCheck(NOTHING)}
make().optimizer.step();
console.log(backend().name, getNumThreads());
`;

testInDeno("without permissions, and without --no-prompt, nobody is asked where there is no terminal", async () => {
  const { code, stdout, stderr } = await runAsking(UNASKED, (command) => command);
  assertEquals([code, stdout, stderr], [0, "wasm 1\n", ""]);
});

testInDeno("without permissions, and without --no-prompt, nobody is asked at a terminal", async () => {
  if (process.platform !== "linux" || spawnSync("script", ["--version"]).status !== 0) {
    return console.log("skipped: there is no `script` command that makes a terminal");
  }
  const quote = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;
  const atTerminal = (
    command: string[],
  ) => ["timeout", "20", "script", "-qec", command.map(quote).join(" "), "/dev/null"];
  const asking = await runAsking('Deno.env.get("FLATSTEP_BACKEND");', atTerminal, {
    onLine: (_, pid) => process.kill(pid, "SIGTERM"), // nobody answers
  });
  assertMatch(asking.stdout, /requests env access/, "this terminal would show a question");
  const { code, stdout } = await runAsking(UNASKED, atTerminal);
  assertEquals([code, stdout.trim()], [0, "wasm 1"]);
});
