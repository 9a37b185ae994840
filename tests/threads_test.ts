/** The pool of threads in real programs: any number of them, several optimizers, Workers at once, nothing to do. */

import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { backend } from "../mod.ts";
import { runProgram } from "./support/runtime.ts";

const LIMIT = { timeout: 180_000 };

/** Why there are no threads to test; null if there are. */
const missing = (): string | null => backend().library === null ? `there is no native library: ${backend().why}` : null;

const PRELUDE = `
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import process from "node:process";
import { Adam, AdamW, backend, Parameter, SGD } from "MOD";
const inWorker = "Bun" in globalThis ? !Bun.isMainThread : "WorkerGlobalScope" in globalThis;
const startWorker = () => new Worker(new URL("./program.ts", import.meta.url), { type: "module" });
const make = (array, seed, dtype) => {
  for (let i = 0; i < array.length; i++) array[i] = dtype ? (i * 7 + seed) % 0x7000 : (i * 7 + seed) % 1001 / 500 - 1;
  return array;
};
/** Three optimizers in turn, each worth many threads, one of them small; what has become of the parameters. */
function train(seed) {
  const tensors = [
    [AdamW, new Parameter(make(new Float32Array(3 << 20), seed)), make(new Float32Array(3 << 20), seed + 1)],
    [Adam, new Parameter(make(new Uint16Array(5 << 20), seed, true), { dtype: "bfloat16" }), make(new Uint16Array(5 << 20), seed, true)],
    [SGD, new Parameter(make(new Float64Array(1 << 20), seed)), make(new Float64Array(1 << 20), seed + 2)],
    [AdamW, new Parameter(make(new Float32Array(1000), seed)), make(new Float32Array(1000), seed + 3)],
  ];
  const optimizers = tensors.map(([Optimizer, p, grad]) => (p.grad = grad, new Optimizer([p], { lr: 1e-2 })));
  for (let step = 0; step < 4; step++) for (const optimizer of optimizers) optimizer.step();
  const hash = createHash("sha256");
  for (const [, p] of tensors) hash.update(new Uint8Array(p.data.buffer));
  return hash.digest("hex");
}
const nameOf = (task) => readFileSync("/proc/self/task/" + task + "/comm", "utf8");
/** Threads with the main one's name, which the library's inherit; the runtimes name their own. */
const threads = () => readdirSync("/proc/self/task").filter((task) => nameOf(task) === nameOf(process.pid)).length;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
`;

/** Runs a program with so many threads, and gives what it has printed as JSON. */
async function evaluate<T>(source: string, threads: number, more: Record<string, string> = {}): Promise<T> {
  const env = { FLATSTEP_NUM_THREADS: `${threads}`, FLATSTEP_BACKEND: "native", ...more };
  const { stdout, stderr, code } = await runProgram(`${PRELUDE}\n${source}`, { env });
  assertEquals(code, 0, stderr);
  return JSON.parse(stdout) as T;
}

/** Trains alone, and then in the main thread and two Workers at once. */
const EVERYWHERE = `
if (inWorker) {
  self.onmessage = ({ data }) => postMessage(train(data));
  postMessage("ready");
} else {
  const alone = [1, 2, 3].map(train), workers = [2, 3].map(startWorker);
  const ready = workers.map((worker) => new Promise((resolve) => worker.onmessage = resolve));
  await Promise.all(ready);
  const results = workers.map((worker, k) => new Promise((resolve) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.postMessage(k + 2);
  }));
  const together = [train(1), ...await Promise.all(results)];
  console.log(JSON.stringify({ threads: backend().threads, alone, together }));
  process.exit(0);
}`;

interface Hashes {
  threads: number;
  alone: string[];
  together: string[];
}

let one: Promise<Hashes> | undefined;

for (let n = 2; n <= 16; n++) {
  test(
    `FLATSTEP_NUM_THREADS=${n}: several optimizers, alone and beside two Workers, have the bits of one thread`,
    LIMIT,
    async () => {
      const why = missing();
      if (why !== null) return console.log(`skipped: ${why}`);
      const { alone } = await (one ??= evaluate<Hashes>(EVERYWHERE, 1));
      assertEquals(new Set(alone).size, 3, "each has its own numbers");
      assertEquals(await evaluate<Hashes>(EVERYWHERE, n), { threads: n, alone, together: alone });
    },
  );
}

/** A large step, after which threads are awake, and steps that these may help with, some milliseconds apart; the bits of all. */
const BETWEEN = `
const sizes = [600_000, 1, 64, 12_000, 20_000, 131_073, 40_000], hash = createHash("sha256");
const parameters = sizes.map((n, k) => {
  const p = new Parameter(make(new Float32Array(n), k));
  p.grad = make(new Float32Array(n), k + 1);
  return p;
});
const optimizers = parameters.map((p) => new AdamW([p], { lr: 1e-2 }));
for (const gap of [0, 1, 1, 3, 3, 70, 3, 3]) {
  for (const optimizer of optimizers) optimizer.step();
  await sleep(gap);
  for (const optimizer of optimizers.slice().reverse()) optimizer.step();
}
for (const p of parameters) hash.update(new Uint8Array(p.data.buffer));
console.log(JSON.stringify(hash.digest("hex")));
process.exit(0);`;

test("steps that threads help with because they are awake have the bits of one thread", LIMIT, async () => {
  const why = missing();
  if (why !== null) return console.log(`skipped: ${why}`);
  const alone = await evaluate<string>(BETWEEN, 1);
  for (const n of [2, 3, 8]) assertEquals(await evaluate<string>(BETWEEN, n), alone, `${n} threads`);
});

test("small steps start no thread, and large ones as many as they were given, which stay", LIMIT, async () => {
  const why = process.platform === "linux" ? missing() : "threads are counted by Linux's /proc";
  if (why !== null) return console.log(`skipped: ${why}`);
  const source = `
const sizes = [1000, 100_000, 8 << 20, 8 << 20], counts = [];
const optimizers = sizes.map((n) => {
  const p = new Parameter(new Float32Array(n));
  p.grad = new Float32Array(n);
  return new AdamW([p]);
});
backend();
await sleep(300); // the runtime's own threads are there
const before = threads();
for (const optimizer of optimizers) {
  for (let step = 0; step < 3; step++) optimizer.step();
  counts.push(threads() - before);
}
console.log(JSON.stringify(counts));
process.exit(0);`;
  for (const n of [1, 2, 5]) {
    const counts = await evaluate<number[]>(source, n);
    assertEquals(counts, [0, 0, n - 1, n - 1], `${n} threads`);
  }
});

const TICKS = `
const ticks = () => {
  const fields = readFileSync("/proc/self/stat", "utf8").replace(/^.*\\) /, "").split(" ");
  return Number(fields[11]) + Number(fields[12]);
};
/** Ticks in the second that begins so many milliseconds from now. */
const spent = async (ms) => {
  await sleep(ms);
  const before = ticks();
  await sleep(1000);
  return ticks() - before;
};
`;

test("a second after its last step a program takes no processor time", LIMIT, async () => {
  const why = process.platform === "linux" ? missing() : "ticks are counted by Linux's /proc";
  if (why !== null) return console.log(`skipped: ${why}`);
  // the runtime's own timers and collector may take a tick of 10 ms; one thread that spins takes 100
  const ticks = await evaluate<number>(`${TICKS}\ntrain(1);\nconsole.log(await spent(1000));\nprocess.exit(0);`, 4);
  assert(ticks <= 5, `${ticks * 10} ms of processor time in a second in which nothing was to be done`);
});

test("FLATSTEP_AWAKE=0 lets threads sleep between steps, and anything but 0 and 1 is a RangeError", LIMIT, async () => {
  const why = process.platform === "linux" ? missing() : "ticks are counted by Linux's /proc";
  if (why !== null) return console.log(`skipped: ${why}`);
  const source = `${TICKS}
const p = new Parameter(make(new Float32Array(1 << 20), 1));
p.grad = make(new Float32Array(1 << 20), 2);
const optimizer = new AdamW([p]), found = [];
let error = null;
try {
  for (let step = 0; step < 20; step++) optimizer.step();
  await sleep(200);
  const before = ticks();
  for (let step = 0; step < 50; step++) {
    optimizer.step();
    await sleep(20);
  }
  found.push(ticks() - before);
} catch (e) {
  error = e.name + ": " + e.message;
}
console.log(JSON.stringify({ found, error }));
process.exit(0);`;
  const run = (value: string) =>
    evaluate<{ found: number[]; error: string | null }>(source, 2, { FLATSTEP_AWAKE: value });
  const asleep = await run("0");
  assertEquals(asleep.error, null);
  // 50 steps of a millisecond on two threads, and what they spin; a thread that stayed awake would take 100 ticks more
  assert(asleep.found[0]! <= 60, `${asleep.found} ticks of processor time in a second of 50 steps`);
  assertEquals((await run("1")).error, null);
  assertEquals((await run("2")).error, 'RangeError: FLATSTEP_AWAKE must be 0 or 1, got "2"');
});

test("threads that wait for the next of many steps stop 120 ms after the last one", LIMIT, async () => {
  const why = process.platform === "linux" ? missing() : "ticks are counted by Linux's /proc";
  if (why !== null) return console.log(`skipped: ${why}`);
  const source = `${TICKS}
const p = new Parameter(make(new Float32Array(1 << 20), 1)), spents = [];
p.grad = make(new Float32Array(1 << 20), 2);
const optimizer = new AdamW([p]);
for (const gap of [2, 30]) {
  for (let step = 0; step < 20; step++) {
    optimizer.step();
    await sleep(gap);
  }
  spents.push(await spent(120 - gap));
}
console.log(JSON.stringify(spents));
process.exit(0);`;
  const spents = await evaluate<number[]>(source, 2);
  assert(Math.max(...spents) <= 5, `${spents} ticks of processor time in a second in which nothing was to be done`);
});
