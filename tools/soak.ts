/**
 * The soak: a great many steps of optimizers that come and go, over shapes, dtypes, groups and gradients that change, in one process.
 * Afterwards memory, file handles and threads are what they were after the first part, and the processor is idle.
 *
 *     deno task soak [--steps=1000000] [--minutes=0] [--seed=1] [--workers=8]
 *
 * `--minutes` goes on with further seeds for so long.
 *
 * With workers, as many Workers make their share of the steps at the same time, each with optimizers of its own, and end. Runs in
 * Deno, and with the same command's file in Bun: `bun tools/soak.ts`. What it reads is Linux's, /proc.
 *
 * @module
 */

import { readdirSync, readFileSync } from "node:fs";
import process from "node:process";
import { parseArgs } from "node:util";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import * as optim from "../mod.ts";
import { collector } from "../tests/support/garbage.ts";
import { readNumber, seedsFrom } from "./seeds.ts";

const { Parameter } = optim;
// deno-lint-ignore no-explicit-any -- of any options
type Optimizer = optim.Optimizer<any>;
type Tensor = optim.Parameter;

const DTYPES = ["float32", "float64", "bfloat16", "float16"] as const;
/** Steps after which memory is looked at for the first time: compilers and caches are warm by then. */
const WARM = 0.2;
/** How many looks there are. */
const LOOKS = 20;

/** What a process has. */
export interface Usage {
  /** Resident memory, in bytes. */
  readonly rss: number;
  /** What the engine knows to be in use, arrays included, in bytes. */
  readonly live: number;
  readonly handles: number;
  readonly threads: number;
}

const collect = collector();

/** What this process has now that garbage is collected. */
export function usage(): Usage {
  collect();
  const count = (what: string) => readdirSync(`/proc/self/${what}`).length;
  const { rss, heapUsed, external } = process.memoryUsage();
  return { rss, live: heapUsed + external, handles: count("fd"), threads: count("task") };
}

/** The processor time of this process until now, in ticks of 10 ms. */
export function ticks(): number {
  const fields = readFileSync("/proc/self/stat", "utf8").replace(/^.*\) /, "").split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

/** What a soak has found. */
export interface Soaked {
  readonly steps: number;
  readonly optimizers: number;
  readonly seconds: number;
  /** What the process had at each look; the first is after the warm-up. */
  readonly looks: readonly Usage[];
}

/** A generator of whole numbers below n, the same for a seed. */
function random(seed: number): (n: number) => number {
  let state = seed >>> 0;
  return (n) => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0;
    return Math.floor(state / 2 ** 32 * n);
  };
}

const ELEMENTWISE = [
  "SGD",
  "Adam",
  "AdamW",
  "Adamax",
  "NAdam",
  "RAdam",
  "Adagrad",
  "Adadelta",
  "RMSprop",
  "Rprop",
  "ASGD",
] as const;

/** An array for a dtype, of numbers that follow from the seed. */
function array(below: (n: number) => number, dtype: typeof DTYPES[number], n: number): optim.TypedArray {
  const made = dtype === "float32"
    ? new Float32Array(n)
    : dtype === "float64"
    ? new Float64Array(n)
    : new Uint16Array(n);
  const from = below(1000), one = dtype === "bfloat16" ? 0x3f80 : 0x3c00;
  if (made instanceof Uint16Array) return made.fill(one + from % 8);
  for (let i = 0; i < n; i++) made[i] = (i * 7 + from) % 101 / 50 - 1;
  return made;
}

function tensor(below: (n: number) => number, matrix = false): Tensor {
  const dtype = DTYPES[below(4)]!;
  const n = below(40) === 0 ? 20_000 + below(20_000) : below(4) === 0 ? below(3) : 1 + below(600);
  if (!matrix) return new Parameter(array(below, dtype, n), { dtype });
  const rows = 1 + below(20), columns = 1 + below(20);
  return new Parameter(array(below, dtype, rows * columns), { dtype, shape: [rows, columns] });
}

/** An optimizer of some class, over some groups. */
function optimizer(below: (n: number) => number): Optimizer {
  const kind = below(14);
  if (kind === 11) return new optim.Muon([tensor(below, true), tensor(below, true)]);
  if (kind === 12) return new optim.Adafactor([tensor(below, true), tensor(below)]);
  if (kind === 13) {
    return new optim.LBFGS([new Parameter(array(below, "float64", 1 + below(50)))], { maxIter: 2, historySize: 3 });
  }
  const make = optim[ELEMENTWISE[kind]!] as unknown as new (groups: unknown[], options: object) => Optimizer;
  const groups = Array.from({ length: 1 + below(3) }, () => ({
    params: Array.from({ length: 1 + below(4) }, () => tensor(below)),
  }));
  return new make(groups, [{}, { foreach: true }, { fused: true }, { foreach: false, fused: false }][below(4)]!);
}

/** One step: gradients that are new, the same, null or sparse; groups that are added; states that are saved and loaded. */
function step(one: Optimizer, below: (n: number) => number): void {
  if (one instanceof optim.LBFGS) {
    const p = one.paramGroups[0]!.params[0]!;
    one.step(() => {
      p.grad = (p.data as Float64Array).map((x) => x - 0.5);
      return (p.data as Float64Array).reduce((sum, x) => sum + (x - 0.5) ** 2 / 2, 0);
    });
    return;
  }
  for (const { params } of one.paramGroups) {
    for (const p of params) {
      const what = below(8);
      if (what === 0) p.grad = null;
      else if (what === 1 && p.shape.length === 1 && p.size > 2 && one instanceof optim.SGD) {
        const values = array(below, p.dtype, 2);
        p.grad = new optim.SparseTensor([[1, 0]], values, [...p.shape], { dtype: p.dtype });
      } else if (what < 5 || p.grad === null || p.grad instanceof optim.SparseTensor) {
        p.grad = array(below, p.dtype, p.size);
      }
      if (below(50) === 0) p.data = p.data.slice();
    }
  }
  const also = below(100), elementwise = !(one instanceof optim.Muon);
  if (also === 0 && elementwise) one.addParamGroup({ params: [tensor(below)] });
  else if (also === 1) one.loadStateDict(one.stateDict());
  else if (also === 2) one.zeroGrad({ setToNull: false });
  else if (also === 3) optim.clipGradNorm(one.paramGroups.flatMap(({ params }) => params), 1);
  one.step();
}

/** Makes so many steps, and looks at the process now and then. */
export function soak(steps: number, seed: number): Soaked {
  const below = random(seed), looks: Usage[] = [], start = performance.now();
  const first = Math.floor(steps * WARM), every = Math.max(1, Math.floor((steps - first) / LOOKS));
  let one: Optimizer | null = null, left = 0, optimizers = 0;
  for (let k = 0; k < steps; k++) {
    if (left-- === 0) {
      one = optimizer(below);
      optimizers++;
      left = below(60);
    }
    step(one!, below);
    if (isMainThread && k >= first && (k - first) % every === 0) looks.push(usage());
  }
  return { steps, optimizers, seconds: (performance.now() - start) / 1000, looks };
}

/** The same in so many Workers at once; resolves with each one's steps. */
export async function soakInWorkers(workers: number, steps: number, seed: number): Promise<number[]> {
  const done = await Promise.all(Array.from({ length: workers }, (_, i) =>
    new Promise<number>((resolve, reject) => {
      const worker = new Worker(new URL("./soak.ts", import.meta.url), { workerData: { steps, seed: seed + i } });
      let done = -1;
      worker.on("message", (message: number) => done = message);
      worker.on("error", reject);
      worker.on("exit", (code) =>
        code === 0 && done >= 0 ? resolve(done) : reject(new Error(`a Worker ended with ${code}`)));
    })));
  await new Promise((resolve) => setTimeout(resolve, 500)); // their threads end a little later
  return done;
}

/** Processor time that the process takes in a second in which nothing is to be done, in ticks of 10 ms. */
export async function idle(): Promise<number> {
  await new Promise((resolve) => setTimeout(resolve, 1000)); // collectors and compilers may finish what they have begun
  const before = ticks();
  await new Promise((resolve) => setTimeout(resolve, 1000));
  return ticks() - before;
}

const show = ({ rss, live, handles, threads }: Usage) =>
  `${(rss / 2 ** 20).toFixed(1)} MiB, of which ${
    (live / 2 ** 20).toFixed(1)
  } live, ${handles} handles, ${threads} threads`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      steps: { type: "string", default: "1000000" },
      minutes: { type: "string", default: "0" },
      seed: { type: "string", default: "1" },
      workers: { type: "string", default: "8" },
    },
  });
  const steps = readNumber(values.steps, "steps", 1), seed = readNumber(values.seed, "seed", 0);
  const workers = readNumber(values.workers, "workers", 0), minutes = readNumber(values.minutes, "minutes", 0, false);
  console.log(JSON.stringify(optim.backend()));
  for (const now of seedsFrom(seed, minutes)) {
    const { optimizers, seconds, looks } = soak(steps, now);
    console.log(`${steps} steps of ${optimizers} optimizers in ${seconds.toFixed(0)} s, seed ${now}`);
    looks.forEach((look, i) => console.log(`look ${i + 1}: ${show(look)}`));
  }
  if (workers > 0) {
    const share = Math.ceil(steps / 10 / workers);
    console.log(`${workers} Workers of ${share} steps each, three times`);
    for (let round = 0; round < 3; round++) {
      await soakInWorkers(workers, share, seed + round * workers);
      console.log(`afterwards: ${show(usage())}`);
    }
  }
  console.log(`${(await idle()) * 10} ms of processor time in an idle second`);
}

if (!isMainThread && (workerData as { steps?: number } | null)?.steps !== undefined) {
  const { steps, seed } = workerData as { steps: number; seed: number };
  parentPort!.postMessage(soak(steps, seed).steps);
} else if (import.meta.main) {
  await main();
}
