/** How programs end while the library's threads are there: as they would without it, never by a crash. */

import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { type Ended, IS_BUN, runProgram } from "./support/runtime.ts";

const LIMIT = { timeout: 120_000 };
const REPEATS = 3;

/** What programs start with: a step that takes every thread, over 2M elements; small ones with the TypeScript backend. */
const PRELUDE = `
import { writeSync } from "node:fs";
import process from "node:process";
import { AdamW, backend, Parameter } from "MOD";
const SIZE = backend().name === "js" ? 1000 : 2 << 20;
const say = (line) => void writeSync(1, line + "\\n");
function make(size = SIZE) {
  const p = new Parameter(new Float32Array(size).fill(1));
  p.grad = new Float32Array(size).fill(0.5);
  return { p, optimizer: new AdamW([p]) };
}
/** Steps without an end (but for 30 seconds, should nobody end it). */
function stepForever(optimizer, stepped = () => {}) {
  for (const end = Date.now() + 30_000; Date.now() < end;) {
    optimizer.step();
    stepped();
  }
  process.exit(99);
}
const inWorker = "Bun" in globalThis ? !Bun.isMainThread : "WorkerGlobalScope" in globalThis;
const startWorker = () => new Worker(new URL("./program.ts", import.meta.url), { type: "module" });
`;
/** The first step, in the main thread. */
const STEP = "const { p, optimizer } = make();\noptimizer.step();\n";

interface Ending {
  /** `a program that …` */
  readonly what: string;
  readonly source: string;
  /** Sent when the program has printed a line. */
  readonly signal?: NodeJS.Signals;
  /** What it must end with. */
  readonly code?: number;
  /** What it must have printed last. */
  readonly last?: string;
}

const inTheMain = (source: string) => `${STEP}${source}`;
const withWorker = (inside: string, main: string) => `if (inWorker) {\n${inside}\n} else {\n${STEP}${main}\n}`;
const idle = inTheMain(`say("ready");\nsetTimeout(() => process.exit(99), 30_000);`);
const busy = inTheMain(`let told = false;\nstepForever(optimizer, () => told ||= (say("ready"), true));`);

const ENDINGS: readonly Ending[] = [
  { what: "comes to its end", source: inTheMain(`say(p.data[0] !== 1);`), code: 0, last: "true" },
  { what: "throws at its top level", source: inTheMain(`throw new Error("the end");`), code: 1 },
  { what: "throws in a timer", source: inTheMain(`setTimeout(() => { throw new Error("the end"); }, 5);`), code: 1 },
  {
    what: "rejects a Promise that nobody handles",
    source: inTheMain(`Promise.reject(new Error("the end"));`),
    code: 1,
  },
  { what: "throws in a closure", source: inTheMain(`optimizer.step(() => { throw new Error("the end"); });`), code: 1 },
  { what: "calls process.exit(3)", source: inTheMain(`process.exit(3);`), code: 3 },
  { what: "calls process.exit(4) in a closure", source: inTheMain(`optimizer.step(() => process.exit(4));`), code: 4 },
  { what: "sets process.exitCode", source: inTheMain(`process.exitCode = 5;`), code: 5 },
  {
    what: "steps in a listener to its exit",
    source: inTheMain(`process.on("exit", () => optimizer.step());`),
    code: 0,
  },
  { what: "kills itself", source: inTheMain(`process.kill(process.pid, "SIGKILL");\nstepForever(optimizer);`) },
  { what: "gets SIGTERM while idle", source: idle, signal: "SIGTERM" },
  { what: "gets SIGINT while idle", source: idle, signal: "SIGINT" },
  { what: "gets SIGKILL while idle", source: idle, signal: "SIGKILL" },
  { what: "gets SIGTERM in an endless loop of steps", source: busy, signal: "SIGTERM" },
  { what: "gets SIGINT in an endless loop of steps", source: busy, signal: "SIGINT" },
  { what: "gets SIGKILL in an endless loop of steps", source: busy, signal: "SIGKILL" },
  {
    what: "handles SIGTERM between steps",
    source: inTheMain(`process.on("SIGTERM", () => { optimizer.step(); process.exit(7); });
setInterval(() => optimizer.step(), 1);
setTimeout(() => process.exit(99), 30_000);
say("ready");`),
    signal: "SIGTERM",
    code: 7,
  },
  {
    what: "has a Worker that steps and comes to its end",
    source: withWorker(
      `make().optimizer.step(); postMessage("stepped"); self.close?.();`,
      `startWorker().onmessage = ({ data }) => setTimeout(() => { optimizer.step(); say(data); process.exit(0); }, 20);`,
    ),
    code: 0,
    last: "stepped",
  },
  {
    what: "terminates a Worker that has stepped, and goes on",
    source: withWorker(
      `make().optimizer.step(); postMessage("stepped"); setInterval(() => {}, 1000);`,
      `const worker = startWorker();
worker.onmessage = ({ data }) => {
  worker.terminate();
  for (let i = 0; i < 3; i++) optimizer.step();
  setTimeout(() => { optimizer.step(); say(data); process.exit(0); }, 20);
};`,
    ),
    code: 0,
    last: "stepped",
  },
  {
    what: "terminates a Worker in the middle of its steps, and goes on",
    source: withWorker(
      `let told = false; stepForever(make().optimizer, () => told ||= (postMessage("stepping"), true));`,
      `let left = 3;
function next() {
  const worker = startWorker();
  worker.onmessage = () => {
    optimizer.step();
    worker.terminate();
    for (let i = 0; i < 3; i++) optimizer.step();
    if (--left > 0) next();
    else setTimeout(() => { optimizer.step(); say("terminated"); process.exit(0); }, 20);
  };
}
next();`,
    ),
    code: 0,
    last: "terminated",
  },
  {
    what: "has a Worker that throws after a step, and goes on",
    source: withWorker(
      `make().optimizer.step(); throw new Error("in the worker");`,
      `const worker = startWorker();
worker.onerror = (event) => {
  event.preventDefault();
  optimizer.step();
  setTimeout(() => { optimizer.step(); say("thrown"); process.exit(0); }, 20);
};`,
    ),
    code: 0,
    last: "thrown",
  },
  {
    what: "calls process.exit(3) while a Worker steps",
    source: withWorker(
      `let told = false; stepForever(make().optimizer, () => told ||= (postMessage("stepping"), true));`,
      `startWorker().onmessage = () => { optimizer.step(); process.exit(3); };`,
    ),
    code: 3,
  },
  {
    what: "throws while a Worker steps",
    source: withWorker(
      `let told = false; stepForever(make().optimizer, () => told ||= (postMessage("stepping"), true));`,
      `startWorker().onmessage = () => { optimizer.step(); throw new Error("the end"); };`,
    ),
    code: 1,
  },
  {
    what: "gets SIGTERM while a Worker and the main thread step",
    source: withWorker(
      `let told = false; stepForever(make().optimizer, () => told ||= (postMessage("stepping"), true));`,
      `startWorker().onmessage = () => { optimizer.step(); say("ready"); stepForever(optimizer); };`,
    ),
    signal: "SIGTERM",
  },
];

/** Runs a program, and sends it the signal once it has printed a line. */
function end(source: string, backend: "native" | "js", signal?: NodeJS.Signals): Promise<Ended> {
  let sent = false;
  return runProgram(`${PRELUDE}${source}`, {
    env: { FLATSTEP_BACKEND: backend, FLATSTEP_NUM_THREADS: "4" },
    onLine: (_, pid) => {
      if (signal === undefined || sent) return;
      sent = true;
      process.kill(pid, signal);
    },
  });
}

let reason: Promise<string | null> | undefined;

/** Why there is no native library here; null if there is one. Says so. */
async function missing(): Promise<boolean> {
  const why = await (reason ??= runProgram(`import { backend } from "MOD";\nconsole.log(backend().why ?? "");`)
    .then(({ stdout }) => stdout.trim() || null));
  if (why !== null) console.log(`skipped: there is no native library: ${why}`);
  return why !== null;
}

const outline = ({ code, signal, stdout }: Ended) => ({ code, signal, stdout });

for (const { what, source, signal, code, last } of ENDINGS) {
  test(`a program that ${what} ends as it does without the library`, LIMIT, async () => {
    if (signal && process.platform === "win32") return console.log("skipped: Windows has no signals");
    if (await missing()) return;
    const [plain, ...ends] = await Promise.all([
      end(source, "js", signal),
      ...Array.from({ length: REPEATS }, () => end(source, "native", signal)),
    ]);
    if (code !== undefined) assertEquals(plain.code, code, plain.stderr);
    if (signal !== undefined && code === undefined) assertEquals(plain.signal, signal, plain.stderr);
    if (last !== undefined) assertEquals(plain.stdout.trim().split("\n").at(-1), last);
    for (const native of ends) assertEquals(outline(native), outline(plain), native.stderr);
    if (code === 1) { for (const { stderr } of [plain, ...ends]) assertStringIncludes(stderr, "the end"); }
  });
}

test("the threads are there in these programs", LIMIT, async () => {
  if (await missing()) return;
  if (process.platform !== "linux") return console.log("skipped: only Linux tells how many threads there are");
  const { stdout, stderr } = await end(
    `import { readdirSync } from "node:fs";
const { optimizer } = make(), count = () => readdirSync("/proc/self/task").length;
const before = count();
optimizer.step();
say(count() - before);`,
    "native",
  );
  // three are the library's; the runtime may start or end some of its own meanwhile
  assert(Number(stdout) >= 2, `${stdout} ${stderr}`);
});

test("Workers that step at once get the bits that each gets alone", LIMIT, async () => {
  if (await missing()) return;
  const { stdout, stderr, code } = await end(
    `
/** Steps over numbers that depend on the seed, and gives a sum over all bits. */
function work(seed) {
  const { p, optimizer } = make(1_500_000 + 1000 * seed);
  for (let i = 0; i < p.size; i++) p.data[i] = Math.sin(i + seed);
  for (let step = 0; step < 6; step++) {
    for (let i = 0; i < p.size; i++) p.grad[i] = Math.fround(((i * 7 + step * 3 + seed) % 101) / 50 - 1);
    optimizer.step();
  }
  const bits = new Uint32Array(p.data.buffer);
  let hash = 0x811c9dc5;
  for (let i = 0; i < bits.length; i++) hash = Math.imul(hash ^ bits[i], 0x01000193);
  return hash >>> 0;
}
if (inWorker) {
  self.onmessage = ({ data }) => postMessage([data, work(data)]);
  postMessage("ready");
} else {
  const seeds = [1, 2, 3], alone = seeds.map(work), workers = seeds.map(startWorker);
  const together = await Promise.all(workers.map((worker, i) => new Promise((resolve) => {
    worker.onmessage = ({ data }) => data === "ready" ? worker.postMessage(seeds[i]) : resolve(data);
  })));
  say(JSON.stringify({ alone, together }));
  process.exit(0);
}`,
    "native",
  );
  assertEquals(code, 0, stderr);
  const { alone, together } = JSON.parse(stdout) as { alone: number[]; together: [number, number][] };
  assertEquals(new Set(alone).size, 3, "each has its own numbers");
  assertEquals(together, alone.map((hash, i) => [i + 1, hash]));
});

test("a Worker's steps reach parameters in memory that it shares with the main thread", LIMIT, async () => {
  if (await missing()) return;
  const { stdout, stderr, code } = await end(
    `
if (inWorker) {
  self.onmessage = ({ data: [data, grad] }) => {
    const p = new Parameter(data);
    p.grad = grad;
    const optimizer = new AdamW([p], { lr: 0.5, weightDecay: 0 });
    for (let step = 0; step < 2; step++) optimizer.step();
    postMessage("stepped");
  };
  postMessage("ready");
} else {
  const shared = () => new Float32Array(new SharedArrayBuffer(4 * SIZE)), data = shared(), grad = shared();
  grad.fill(1);
  const worker = startWorker();
  worker.onmessage = (event) => {
    if (event.data === "ready") return worker.postMessage([data, grad]);
    say(JSON.stringify([data.every((x) => x === data[0]), data[0]]));
    process.exit(0);
  };
}`,
    "native",
  );
  assertEquals(code, 0, stderr);
  assertEquals(JSON.parse(stdout), [true, -1]);
});

if (!IS_BUN) {
  test("Deno.exit(6) ends a program as it does without the library", LIMIT, async () => {
    if (await missing()) return;
    const source = `${STEP}Deno.exit(6);`, plain = await end(source, "js");
    assertEquals(plain.code, 6, plain.stderr);
    for (let i = 0; i < REPEATS; i++) assertEquals(outline(await end(source, "native")), outline(plain));
  });
}
