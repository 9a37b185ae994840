/**
 * The WASM backend by itself: where state lies, memory that grows, large memories, and the runtimes that have nothing else. That
 * its bits are TypeScript's is held by the tables of kernels, which tools/test.ts runs with FLATSTEP_BACKEND=wasm.
 */

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { join } from "@std/path";
import type { TypedArray } from "../mod.ts";
import type { Backend, Job, Numbers, Product, StateMemory } from "../ffi/backend.ts";
import { STEP_COEFFICIENT, STEP_MAX_NORM, STEP_SUMS, STEP_UNSCALE, STEP_WORDS, UPDATE } from "../ffi/backend.ts";
import { findZig, WASM_FILE, wasmText } from "../ffi/build.ts";
import { jsBackend } from "../ffi/js.ts";
import { WasmBackend } from "../ffi/wasm.ts";
import { WASM_BASE64, WASM_SHA256, WASM_ZIG } from "../ffi/wasm_bytes.ts";
import { DTYPES } from "../src/dtype.ts";
import { MUON_RULE } from "../src/optim/muon.ts";
import { findBun } from "../tools/test.ts";
import { assertSameBits } from "./support/bits.ts";
import { ROWS } from "./support/classes.ts";
import { hashNumbers, typed } from "./support/golden.ts";
import { LIST_RULES } from "./support/list_rules.ts";
import { IS_BUN, ROOT, type RunOptions, runProgram } from "./support/runtime.ts";

const LIMIT = { timeout: 180_000 };
const wasm = new WasmBackend();
const SGD = ROWS.find((row) => row.name === "SGD")!.rule, ADAM = ROWS.find((row) => row.name === "AdamW")!.rule;
const GIGABYTE = 2 ** 30;

/** Runs a program with the WASM backend, which must end well, and returns what it prints as JSON. */
async function evaluate<T>(source: string, options: RunOptions = {}): Promise<T> {
  const env = { FLATSTEP_BACKEND: "wasm" };
  const ended = await runProgram(`import * as optim from "MOD";\n${source}`, { env, ...options });
  assertEquals([ended.code, ended.signal, ended.stderr], [0, null, ""], ended.stderr);
  return JSON.parse(ended.stdout) as T;
}

/** Memory for the state of one tensor. */
function memoryFor(dtype: typeof DTYPES[number], size: number, keys: number): StateMemory {
  const memory = wasm.stateMemory([{ dtype, size }], keys);
  assert(memory !== null);
  return memory;
}

test("the module is what csrc gives, byte for byte", LIMIT, () => {
  const digest = createHash("sha256").update(atob(WASM_BASE64), "latin1").digest("hex");
  assertEquals(digest, WASM_SHA256);
  assert(WASM_BASE64.length < 8 << 20, "Chromium's main thread compiles no more than 8 MB synchronously");
  let zig;
  try {
    zig = findZig().version;
  } catch (error) {
    return console.log(`skipped: ${(error as Error).message.split("\n")[0]}`);
  }
  if (zig !== WASM_ZIG) return console.log(`skipped: this is zig ${zig}, and the module was made by ${WASM_ZIG}`);
  assert(wasmText() === readFileSync(WASM_FILE, "utf8"), "csrc has changed: run deno task build --wasm");
});

test("the module has the buffers, hyperparameters and flags of each rule, in TypeScript's order", () => {
  for (const { rule } of [...ROWS, ...LIST_RULES]) {
    const [name, ...lists] = wasm.describe(rule.name)!.split("|");
    assertEquals(name, rule.name);
    assertEquals(
      lists.map((list) => list.split(",").slice(1)),
      [rule.buffers, rule.hypers, rule.flags].map((l) => [...l]),
    );
  }
  assertEquals(wasm.describe("nonsense"), null);
});

test("a module that is not there in one piece is a reason, and its ABI version is checked", LIMIT, async () => {
  const found = await evaluate<[string, string]>(
    `
    const { Instance } = WebAssembly;
    WebAssembly.Instance = function (module) {
      const { exports } = new Instance(module);
      return { exports: { ...exports, fs_abi_version: () => 12345 } };
    };
    const { name, why } = optim.backend();
    console.log(JSON.stringify([name, why.split("\\n").at(-1)]));
  `,
    { env: { FLATSTEP_LIBRARY: "missing" } },
  );
  assertEquals(found[0], "js");
  assert(/^WASM: the module has ABI version 12345, and \d+ is needed$/.test(found[1]), found[1]);
});

/** Runs one step of a job over rows of arrays: SGD with momentum, or Adam. */
function runJob(backend: Backend, rows: readonly (readonly TypedArray[])[], dtype: typeof DTYPES[number]): Job {
  const adam = rows[0]!.length > 3, job = backend.createJob(adam ? ADAM : SGD, dtype, rows.length);
  rows.forEach((arrays, row) => {
    job.setLength(row, arrays[0]!.length);
    job.setHyper(row, row % 2);
    job.setFlags(row, adam ? 0 : 2);
    arrays.forEach((array, b) => job.bind(row, b, array));
  });
  const hypers = adam ? [1, 0, 0.99, 0.1, 0.9, 0.99, 0.01, 0.03, 1e-6] : [1, 0, 0.9, 1, 0.1];
  job.bindHypers(Float64Array.from([...hypers, ...hypers.map((h) => h * 0.5)]), 2);
  backend.run([job], 1);
  return job;
}

const some = (seed: number, n: number, dtype: typeof DTYPES[number]) =>
  typed(hashNumbers(seed, n, 2).map(Math.abs), dtype);

for (const dtype of DTYPES) {
  test(`a step has the same bits wherever its ${dtype} arrays lie`, LIMIT, () => {
    const sizes = [1, 15, 16, 17, 64, 64, 64, 8191, 8192, 8193, 3, 40_000];
    const make = () => sizes.map((n, row) => [0, 1, 2, 3].map((b) => some(row * 7 + b, n, dtype)));
    const expected = make();
    runJob(jsBackend, expected, dtype);
    for (let where = 0; where < 16; where++) { // bit b: buffer b lies in the memory of state
      const memory = memoryFor(dtype, sizes.reduce((a, b) => a + b) + 64, 4), rows = make();
      rows.forEach((arrays) => {
        arrays.forEach((array, b) => {
          if ((where & 1 << b) === 0) return;
          const inside = memory.allocate(b, dtype, array.length, array);
          assert(inside !== null && inside.every((x) => x === 0));
          inside.set(array);
          arrays[b] = inside;
        });
      });
      runJob(wasm, rows, dtype);
      rows.forEach((arrays, row) => {
        arrays.forEach((array, b) => {
          assertSameBits(array, expected[row]![b]!, dtype, `buffers ${where.toString(2)}, row ${row}, ${b}`);
        });
      });
    }
  });
}

test("a row's arrays may lie in several memories of state, and be bound anew", () => {
  const n = 20_000, [one, other] = [memoryFor("float32", n, 4), memoryFor("float32", n, 4)];
  const plain = [0, 1, 2, 3].map((b) => some(b, n, "float32")), expected = plain.map((array) => array.slice());
  const rows = plain.map((array, b) => {
    const inside = (b % 2 === 0 ? one : other).allocate(b, "float32", n, array)!;
    inside.set(array);
    return inside;
  });
  const job = runJob(wasm, [rows], "float32"), twin = runJob(jsBackend, [expected], "float32");
  for (const [b, array] of [[1, some(9, n, "float32")], [1, rows[1]!], [0, some(8, n, "float32")]] as const) {
    const copy = array === rows[1] ? expected[1]! : array.slice();
    job.bind(0, b, array);
    twin.bind(0, b, copy);
    wasm.run([job]);
    jsBackend.run([twin], 1);
    assertSameBits(array, copy, "float32", `buffer ${b}`);
    for (const state of [2, 3]) assertSameBits(rows[state]!, expected[state]!, "float32", "the state");
  }
});

test("gradients are multiplied alike, in place and elsewhere, and a norm that is not finite changes nothing", () => {
  for (const dtype of DTYPES) {
    const sizes = [5, 4096, 4097, 30_000],
      rowsOf = () => sizes.map((n, row) => [0, 1, 2].map((b) => some(row + b, n, dtype)));
    const results = [wasm, jsBackend].map((backend: Backend) => {
      const rows = rowsOf(), job = runJob(backend, rows, dtype), step = new Float64Array(STEP_WORDS);
      step[STEP_UNSCALE] = 0.7;
      step[STEP_MAX_NORM] = 0.3;
      backend.step([job], 3, step, 1);
      assert(step[STEP_COEFFICIENT]! > 0 && step[STEP_COEFFICIENT]! < 1);
      step.fill(0, STEP_SUMS);
      step[STEP_UNSCALE] = Infinity;
      backend.step([job], 3, step, 1);
      assertEquals(step[STEP_COEFFICIENT], 0);
      step[STEP_UNSCALE] = 1;
      step[STEP_COEFFICIENT] = 0.5;
      backend.step([job], UPDATE, step, 1);
      return { rows: rows.flat(), step };
    });
    results[0]!.rows.forEach((array, i) => assertSameBits(array, results[1]!.rows[i]!, dtype, `array ${i}`));
    assertEquals([...results[0]!.step], [...results[1]!.step]);
  }
});

test("many rows of hyperparameters, and rows that follow upon nothing, take several calls", () => {
  const count = 5000, sizes = Array.from({ length: count }, (_, row) => row % 3), grads = [1, 2, 3, 4, 5];
  const results = [wasm, jsBackend].map((backend: Backend) => {
    const job = backend.createJob(SGD, "float32", count), data = new Float32Array(3 * count).map((_, i) => i);
    sizes.forEach((n, row) => {
      job.setLength(row, n);
      job.setHyper(row, row);
      job.bind(row, 0, data.subarray(3 * row, 3 * row + n));
      job.bind(row, 1, Float32Array.from(grads.slice(0, n)));
    });
    job.bindHypers(Float64Array.from({ length: 5 * count }, (_, i) => i % 5 === 4 ? i : i % 5 === 0 ? 1 : 0), count);
    backend.run([job], 1);
    return data;
  });
  assertSameBits(results[0]!, results[1]!, "float32", "the parameters");
});

test("state beyond two gigabytes of a memory is written where it belongs", LIMIT, () => {
  // The system gives a memory its pages when they are touched: these four arrays of a gigabyte cost next to nothing.
  const memory = memoryFor("float32", 1.2 * GIGABYTE / 4, 3), n = 10_000;
  const state = [0, 1, 2].map((key) => memory.allocate(key, "float32", n, new Float32Array())!);
  if (state[0] === null) return console.log("skipped: the system has no memory of four gigabytes to give");
  assert(state[2]!.byteOffset > 2 * GIGABYTE, "this is beyond what a signed number of 32 bits can address");
  const expected = [0, 1, 2].map((b) => some(b, n, "float32"));
  const rows = expected.map((array, b) => {
    state[b]!.set(array);
    return state[b]!;
  });
  for (const mixed of [[...rows], [rows[2]!, rows[1]!, rows[0]!], [some(7, n, "float32"), rows[1]!, rows[2]!]]) {
    const twin = mixed.map((array) => array.slice());
    runJob(wasm, [mixed], "float32");
    runJob(jsBackend, [twin], "float32");
    mixed.forEach((array, b) => assertSameBits(array, twin[b]!, "float32", `buffer ${b}`));
  }
});

test("state of more than four gigabytes lies in several memories; what none can hold is left to others", LIMIT, () => {
  const memory = memoryFor("float32", 1.5 * GIGABYTE, 2), like = new Float32Array(), n = 0.3 * GIGABYTE;
  const arrays = [0, 1, 2].flatMap(() => [0, 1].map((key) => memory.allocate(key, "float32", n, like)));
  if (arrays.includes(null)) return console.log("skipped: the system has no memory of four gigabytes to give");
  const buffers = arrays.map((array) => array!.buffer);
  assertEquals(new Set(buffers).size, 3, "a memory has room for one array of each key");
  for (const k of [0, 2, 4]) assert(buffers[k] === buffers[k + 1], "a tensor's state is in one memory");
  assertEquals(memory.allocate(0, "float32", GIGABYTE, like), null);
  assertEquals(wasm.stateMemory([{ dtype: "float32", size: 100 }], 2), null, "little state is copied");
});

test("arrays of state are zeros, aligned, apart, and of the kind of their parameters", () => {
  const tensors = DTYPES.flatMap((dtype) => [1, 3, 9000].map((size) => ({ dtype, size })));
  const memory = wasm.stateMemory(tensors, 2);
  assert(memory !== null);
  const arrays = tensors.flatMap(({ dtype, size }) => {
    const likes = dtype === "float16" && typeof Float16Array !== "undefined"
      ? [size % 2 ? new Float16Array() : new Uint16Array()]
      : [typed([], dtype)];
    return likes.flatMap((like) =>
      [0, 1].map((key) => ({ array: memory.allocate(key, dtype, size, like)!, like, size }))
    );
  });
  const spans = arrays.map(({ array, like, size }) => {
    assertEquals([array.length, array.constructor], [size, like.constructor]);
    assert(array.every((x) => x === 0));
    return [array.byteOffset, array.byteOffset + array.byteLength] as const;
  }).sort(([a], [b]) => a - b);
  spans.forEach(([from], i) => assert(i === 0 || from >= spans[i - 1]![1], "they overlap"));
});

test(
  "a product, a packed matrix and rows that make the workspace grow have the same bits, and it shrinks again",
  LIMIT,
  () => {
    const n = 1700, k = 3, a = some(1, n * k, "float64") as Numbers, b = some(2, n * k, "float64") as Numbers;
    const product: Omit<Product, "out"> = {
      ...{ m: n, n, k, a, b, add: null, aTransposed: false, bTransposed: false, symmetric: false, alpha: 2, beta: 0 },
    };
    const outs = [wasm, jsBackend].map((backend: Backend) => {
      const out = new Float64Array(n * n),
        matrix = some(3, n * (n + 1) / 2, "float64") as Numbers,
        v = new Float64Array(n);
      backend.matmul({ ...product, out }, 1);
      backend.packedUpdate(n, matrix, a, b, 1);
      backend.packedProduct(n, matrix, a, v, 1);
      const sums = new Float64Array(2 * 2_000_000), values = out.subarray(0, 2_000_000);
      backend.sumRows("float64", sums, 2, 2_000_000, values, Uint32Array.of(0, 0, 0), Uint32Array.of(0, 1, 3));
      return [out, matrix, v, sums];
    });
    outs[0]!.forEach((array, i) => assertSameBits(array, outs[1]![i]!, "float64", `result ${i}`));
    const large = new Float64Array(9_000_000).fill(1), sum = new Float64Array(9_000_000);
    wasm.sumRows("float64", sum, 1, 9_000_000, large, Uint32Array.of(0), Uint32Array.of(0, 1)); // 144 MB
    assert(sum.every((x) => x === 1));
    const small = new Float32Array(2);
    wasm.matmul({ ...product, m: 1, n: 2, k: 1, a: Float32Array.of(3), b: Float32Array.of(1, 2), out: small });
    assertEquals([...small], [6, 12]);
  },
);

test("where the system has no more memory, state lies elsewhere and large calls run in TypeScript, with the same bits", () => {
  const { prototype } = WebAssembly.Memory, { grow } = prototype, n = 900, other = new WasmBackend();
  const results = [other, jsBackend].map((backend: Backend) => {
    const out = new Float64Array(n * n),
      matrix = some(3, n * (n + 1) / 2, "float64") as Numbers,
      v = new Float64Array(n);
    const sums = new Float64Array(100_000), a = some(1, n, "float64") as Numbers;
    const moved = [[1000, 90, 1], [40, 30, 2]].map(([rows, columns, seed]) => {
      const numbers = (k: number) => some(seed! + k, rows! * columns!, "float64");
      return { batches: 1, rows: rows!, columns: columns!, buffers: [numbers(0), numbers(1), numbers(2)] };
    });
    if (backend === other) {
      prototype.grow = () => {
        throw new RangeError("no memory");
      };
    }
    try {
      if (backend === other) assertEquals(memoryFor("float64", 100_000, 1).allocate(0, "float64", 100_000, v), null);
      backend.matmul({
        ...{ m: n, n, k: 1, a, b: a, add: null, out, alpha: 1, beta: 0 },
        ...{ aTransposed: false, bTransposed: false, symmetric: false },
      }, 1);
      backend.packedUpdate(n, matrix, a, out, 1);
      backend.packedProduct(n, matrix, a, v, 1);
      backend.sumRows("float64", sums, 1, 100_000, out, Uint32Array.of(0, 1), Uint32Array.of(0, 2));
      const hypers = [1, 0.9, 0.1, 1, 3, -4, 2, 2, 1e-7, 0.99, 0.1];
      backend.runTensors(MUON_RULE, "float64", moved, Float64Array.from([...hypers, ...hypers]), 1);
    } finally {
      prototype.grow = grow;
    }
    return [out, matrix, v, sums, ...moved.flatMap(({ buffers }) => buffers)];
  });
  results[0]!.forEach((array, i) => assertSameBits(array, results[1]![i]!, "float64", `result ${i}`));
});

test("what the WASM module refuses changes nothing", () => {
  const out = new Float32Array(4).fill(7), values = new Float32Array(6);
  const attempt = (sources: number[], starts: number[], to = out) => () =>
    wasm.sumRows("float32", to, 2, 2, values, Uint32Array.from(sources), Uint32Array.from(starts));
  assertThrows(attempt([0, 3], [0, 1, 2]), Error, "a row that is not there");
  assertThrows(attempt([0, 1], [1, 0, 1]), Error, "a row that is not there");
  assertThrows(attempt([0, 1], [0, 1, 3]), RangeError, "do not fit");
  assertThrows(attempt([0, 1], [0, 1, 2], new Float32Array(3)), RangeError, "do not fit");
  assertEquals([...out], [7, 7, 7, 7]);
  assertThrows(() => wasm.createJob({ ...SGD, name: "nonsense" }, "float32", 1), Error, 'no rule "nonsense"');
});

/** AdamW over 30,000 elements; prints whether state was moved, and what came of it. */
const STEADY = `
const make = () => {
  const p = new optim.Parameter(Float32Array.from({ length: 30_000 }, (_, i) => Math.fround(i / 7)));
  p.grad = Float32Array.from({ length: 30_000 }, (_, i) => i % 5 - 2);
  return { p, optimizer: new optim.AdamW([p]) };
};`;

test("state keeps its arrays while other optimizers come and go, in a memory of its own", LIMIT, async () => {
  const { same, length, apart, shared } = await evaluate<
    { same: boolean; length: number; apart: boolean; shared: boolean }
  >(`${STEADY}
    const { p, optimizer } = make();
    optimizer.step();
    const { expAvg, expAvgSq } = optimizer.state.get(p), before = expAvg.slice();
    const others = [];
    for (let i = 0; i < 50; i++) {
      const other = make();
      other.optimizer.step();
      others.push(other.optimizer.state.get(other.p).expAvg.buffer);
    }
    optim.foreach.norm(Array.from({ length: 40 }, () => new Float32Array(1_000_000)));
    const state = optimizer.state.get(p);
    console.log(JSON.stringify({
      same: state.expAvg === expAvg && state.expAvgSq === expAvgSq && before.every((x, i) => x === expAvg[i]),
      length: expAvg.length,
      apart: new Set([expAvg.buffer, ...others]).size === 51,
      shared: expAvg.buffer === expAvgSq.buffer,
    }));`);
  assertEquals({ same, length, apart, shared }, { same: true, length: 30_000, apart: true, shared: true });
});

test(
  "a state dict of a large state is a snapshot of its own memory, and goes on with the same bits",
  LIMIT,
  async () => {
    const [alike, bytes, kept] = await evaluate<[boolean, number, boolean]>(`${STEADY}
    const one = make(), other = make();
    one.optimizer.step();
    const dict = one.optimizer.stateDict(), bytes = dict.state[0].expAvg.buffer.byteLength;
    const kept = dict.state[0].expAvg.slice();
    other.p.data.set(one.p.data);
    other.optimizer.loadStateDict(structuredClone(dict));
    for (let t = 0; t < 3; t++) for (const { optimizer } of [one, other]) optimizer.step();
    console.log(JSON.stringify([
      one.p.data.every((x, i) => x === other.p.data[i]),
      bytes,
      kept.every((x, i) => x === dict.state[0].expAvg[i]),
    ]));`);
    assertEquals([alike, bytes, kept], [true, 120_000, true]);
  },
);

test("state may itself be a parameter of another optimizer", LIMIT, async () => {
  const [inside, outside] = await evaluate<[number[], number[]]>(`${STEADY}
    const results = [false, true].map((copied) => {
      const { p, optimizer } = make();
      optimizer.step();
      const { expAvg } = optimizer.state.get(p), q = new optim.Parameter(copied ? expAvg.slice() : expAvg);
      q.grad = Float32Array.from(q.data, (x) => x + 1);
      for (const next of [new optim.SGD([q], { lr: 0.5 }), new optim.Adam([q])]) next.step();
      return [...q.data.subarray(0, 50), ...q.data.subarray(29_950)];
    });
    console.log(JSON.stringify(results));`);
  assertEquals(inside, outside);
});

test("optimizers that are dropped give their memory back", LIMIT, async () => {
  const [before, most] = await evaluate<[number, number]>(`
    const rss = () => process.memoryUsage().rss / 2 ** 20;
    const data = new Float32Array(131_072).fill(1);
    let before = 0, most = 0;
    for (let i = 0; i < 2000; i++) {
      const p = new optim.Parameter(data.slice());
      p.grad = data;
      new optim.AdamW([p]).step(); // a megabyte of state in a memory of its own
      if (i === 20) before = rss();
      if (i % 20 === 0) most = Math.max(most, rss());
    }
    console.log(JSON.stringify([before, most]));`.replace(
    "const rss",
    'const process = (await import("node:process")).default;\nconst rss',
  ));
  assert(most - before < 1000, `of 2000 megabytes of state ${most - before} were kept`);
});

test("a Worker steps in WASM, with the same bits", LIMIT, async () => {
  const [main, worker, name] = await evaluate<[number[], number[], string]>(`${STEADY}
    const work = () => {
      const { p, optimizer } = make();
      for (let t = 0; t < 3; t++) optimizer.step();
      return [...p.data.subarray(0, 100)];
    };
    const { isMainThread, parentPort, Worker } = await import("node:worker_threads");
    if (isMainThread) {
      const worker = new Worker(new URL(import.meta.url));
      const [data, name] = await new Promise((resolve, reject) => {
        worker.on("message", resolve);
        worker.on("error", reject);
      });
      await worker.terminate();
      console.log(JSON.stringify([work(), data, name]));
    } else {
      parentPort.postMessage([work(), optim.backend().name]);
    }`);
  assertEquals(name, "wasm");
  assertEquals(worker, main);
});

test("Deno without any permission, and no word about prompts, steps in WASM", LIMIT, async () => {
  if (IS_BUN) return console.log("skipped: Bun has no permissions");
  const source = `${STEADY}
    const { p, optimizer } = make();
    optimizer.step();
    console.log(JSON.stringify([optim.backend().name, p.data[3]]));`;
  const found = await evaluate<[string, number]>(source, { permissions: ["--deny-net"] });
  assertEquals(found, ["wasm", (await evaluate<[string, number]>(source))[1]]);
});

test("Node steps in WASM, with the same bits", LIMIT, async () => {
  const version = spawnSync("node", ["--version"], { encoding: "utf8" }).stdout ?? "";
  if (Number(version.slice(1).split(".")[0]) < 20) {
    return console.log(`skipped: there is no Node 20 or newer here ${version}`);
  }
  const source = `${STEADY}
    const { p, optimizer } = make();
    for (let t = 0; t < 3; t++) optimizer.step();
    console.log(JSON.stringify([optim.backend().name, [...p.data.subarray(0, 100)]]));`;
  const folder = mkdtempSync(join(tmpdir(), "flatstep-"));
  try {
    const [from, to] = [join(folder, "program.ts"), join(folder, "program.mjs")];
    writeFileSync(from, `import * as optim from ${JSON.stringify(join(ROOT, "mod.ts"))};\n${source}`);
    const options = ["--target=node", "--external=vega", "--external=vega-lite", `--outfile=${to}`];
    const built = spawnSync(findBun(), ["build", from, ...options], { encoding: "utf8", cwd: ROOT });
    if (built.error) return console.log("skipped: there is no Bun here to bundle the program");
    assertEquals(built.status, 0, built.stderr);
    const env = { PATH: process.env["PATH"] ?? "" };
    const { status, stdout, stderr } = spawnSync("node", [to], { encoding: "utf8", env });
    assertEquals([status, stderr], [0, ""], stderr);
    assertEquals(JSON.parse(stdout), await evaluate(source));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
