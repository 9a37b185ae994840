/**
 * BFGS beside scipy's, and LBFGS beside torch's and the traffic limit of its two loops, in turn, as ratios:
 *
 *     deno run -A bench/quasi_newton.ts [--rounds=9] [--elements=10000000] [--history=10]
 *
 * The peers run in a child process (peers/quasi_newton.py) on as many threads; without them their columns are left out.
 *
 * @module
 */

import { loadavg } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import type { Combination } from "../ffi/backend.ts";
import { bestBackend } from "../ffi/load.ts";
import { addcmul_, copy_, mul_ } from "../src/foreach.ts";
import { backend, BFGS, getNumThreads, LBFGS, Parameter } from "../mod.ts";
import { canImport, peerContender, startChild } from "./child.ts";
import { type Contender, contender, digits, inTurn, table, timeText, TIMINGS, type Timings } from "./ratios.ts";

/** Milliseconds between turns, until the other's idle threads no longer spin. */
const PAUSE_MS = 40;
/** BFGS's variables, and the iterations that are timed together. */
const VARIABLES = 1000, ITERATIONS = 40;
const NO_TOLERANCE = { toleranceGrad: 0, toleranceChange: 0 } as const;

/** Both minimise Σ a x² / 2, with a rising from 1 to 1000. */
const slopes = (n: number) => (_: unknown, i: number) => 1 + 999 * i / (n - 1);

/** Milliseconds an iteration: the best of a few runs from the start, each with the matrix made anew. */
function bfgsTurn(): number {
  const a = Float64Array.from({ length: VARIABLES }, slopes(VARIABLES));
  let best = Infinity;
  for (let k = 0; k < TIMINGS; k++) {
    const x = new Parameter(new Float64Array(VARIABLES).fill(1)), g = new Float64Array(VARIABLES);
    x.grad = g;
    const optimizer = new BFGS([x], { ...NO_TOLERANCE, maxIter: ITERATIONS, maxEval: 10 * ITERATIONS });
    const closure = () => {
      let sum = 0;
      for (let i = 0; i < VARIABLES; i++) {
        g[i] = a[i]! * x.data[i]!;
        sum += g[i]! * x.data[i]!;
      }
      return sum / 2;
    };
    const start = performance.now();
    optimizer.step(closure);
    best = Math.min(best, performance.now() - start);
    const { reason, iterations } = optimizer.lastResult!;
    if (iterations !== ITERATIONS) throw new Error(`BFGS ended after ${iterations} iterations: ${reason}`);
  }
  return best / ITERATIONS;
}

/** All passes, timed one by one: they are short enough to fall between others' work. */
class Passes implements Contender {
  /** Milliseconds of each pass, the best of all turns. */
  readonly #best: number[];

  constructor(
    readonly name: string,
    readonly passes: readonly Combination[],
    readonly run: (pass: Combination) => void,
  ) {
    this.#best = passes.map(() => Infinity);
  }

  /** Milliseconds of all passes together, of each the best of some timings. */
  readonly turn = (): number => {
    const best = this.passes.map(() => Infinity);
    for (let k = 0; k < TIMINGS; k++) {
      this.passes.forEach((pass, i) => {
        const start = performance.now();
        this.run(pass);
        best[i] = Math.min(best[i]!, performance.now() - start);
      });
    }
    best.forEach((ms, i) => this.#best[i] = Math.min(this.#best[i]!, ms));
    return best.reduce((a, b) => a + b);
  };

  /** The same, of each pass the best of all turns. */
  atBest(): number {
    return this.#best.reduce((a, b) => a + b);
  }
}

async function measureBfgs(rounds: number): Promise<void> {
  const threads = String(getNumThreads());
  const child = canImport("scipy")
    ? startChild("quasi_newton.py", { OPENBLAS_NUM_THREADS: threads, OMP_NUM_THREADS: threads })
    : null;
  try {
    const setup = { op: "setup", name: "BFGS", n: VARIABLES, iterations: ITERATIONS };
    const version = child === null ? "scipy: absent" : (await child.ask(setup))["version"] as string;
    bfgsTurn();
    const contenders: Contender[] = [{ name: "BFGS", turn: bfgsTurn }];
    if (child !== null) contenders.push(peerContender(child, "BFGS", "peer BFGS"));
    const found = await inTurn(contenders, rounds, PAUSE_MS);
    const theirs = child === null ? ["absent", "", ""] : [
      timeText(found.time("peer BFGS")),
      times(found.ratio("peer BFGS", "BFGS")),
      times(bestRatio(found, "peer BFGS", "BFGS")),
    ];
    console.log(
      `BFGS, ${VARIABLES} variables, float64: an iteration of ${ITERATIONS}, with the search and the closure\n`,
    );
    console.log(
      table(["", "flatstep", version, "ratio", "at best"], [["BFGS", timeText(found.time("BFGS")), ...theirs]]),
    );
  } finally {
    child?.end();
  }
}

/** The ratio of two contenders' best turns. */
function bestRatio({ rounds }: Timings, name: string, to: string): number {
  return Math.min(...rounds.get(name)!) / Math.min(...rounds.get(to)!);
}

const times = (ratio: number) => `${digits(ratio)}x`;
const share = (part: number) => `${(100 * part).toFixed(0)} %`;

/** The passes over vectors that a step makes: listens in while it runs. */
function passesOf(step: () => void): Combination[] {
  const backend = bestBackend(), combine = backend.combine.bind(backend), seen: Combination[] = [];
  backend.combine = (pass, threads) => {
    seen.push({ ...pass });
    return combine(pass, threads);
  };
  try {
    step();
  } finally {
    delete (backend as { combine?: unknown }).combine; // the method of the class again
  }
  return seen;
}

async function measureLbfgs(n: number, historySize: number, rounds: number): Promise<void> {
  const threads = getNumThreads(), x = new Parameter(new Float32Array(n).fill(1));
  const a = Float32Array.from({ length: n }, slopes(n)), g = new Float32Array(n);
  x.grad = g;
  const closure = () => {
    copy_([g], [x]);
    mul_([g], [a]);
    return 0; // without a line search the loss is not used
  };
  // a small step, so that the iterations that are timed do not come to an end
  const optimizer = new LBFGS([x], { ...NO_TOLERANCE, lr: 1e-3, maxIter: 1, historySize });
  const step = () => void optimizer.step(closure);
  for (let k = 0; k < historySize + 2; k++) step();

  // The two loops: passes that add one vector to another and multiply the sum by a third. The new pair's pass is before them.
  const seen = passesOf(step).filter(({ y, z }) => y !== null && z !== null).slice(-2 * historySize);
  const d = optimizer.state.get(x)!["d"];
  if (seen.length !== 2 * historySize || seen.some(({ out }) => out !== d) || seen[0]!.x === d) {
    throw new Error(`the step's passes are not those of two loops over ${historySize} pairs`);
  }
  // They are made again on a direction and a gradient of their own: the optimizer goes on with its.
  const direction = new Float32Array(n), gradient = (seen[0]!.x as Float32Array).slice();
  const passes = seen.map((pass, i) => ({ ...pass, x: i === 0 ? gradient : direction, out: direction }));
  const backend = bestBackend();
  const loops = new Passes("loops", passes, (pass) => void backend.combine(pass, threads));
  // self += value a b reads three vectors and writes one, too
  const limit = new Passes("limit", passes, ({ out, y, z }) => addcmul_([out], [y!], [z!], 1e-9));

  const child = canImport("torch") ? startChild("quasi_newton.py") : null;
  try {
    const setup = { op: "setup", name: "LBFGS", n, history: historySize, threads };
    const version = child === null ? "torch: absent" : (await child.ask(setup))["version"] as string;
    const ours = [contender("step", step), contender("closure", closure), loops, limit];
    const theirs = child === null
      ? []
      : [peerContender(child, "LBFGS", "peer LBFGS"), peerContender(child, "closure", "peer closure")];
    const found = await inTurn([...ours, ...theirs], rounds, PAUSE_MS);
    const bytes = passes.length * 4 * 4 * n;
    console.log(
      `\nLBFGS, ${n} variables, history ${historySize}, float32: a step of one iteration, with its closure\n`,
    );
    console.log(table(
      [
        "",
        "flatstep",
        "its closure",
        "its two loops",
        "GB/s",
        "of the limit",
        "at best",
        version,
        "its closure",
        "ratio",
        "at best",
      ],
      [[
        "LBFGS",
        timeText(found.time("step")),
        timeText(found.time("closure")),
        timeText(found.time("loops")),
        digits(bytes / found.time("loops") / 1e6),
        share(found.ratio("limit", "loops")),
        share(limit.atBest() / loops.atBest()),
        ...(child === null ? ["absent", "", "", ""] : [
          timeText(found.time("peer LBFGS")),
          timeText(found.time("peer closure")),
          times(found.ratio("peer LBFGS", "step")),
          times(bestRatio(found, "peer LBFGS", "step")),
        ]),
      ]],
    ));
  } finally {
    child?.end();
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { rounds: { type: "string" }, elements: { type: "string" }, history: { type: "string" } },
  });
  const [rounds, elements, history] = [values.rounds ?? 9, values.elements ?? 1e7, values.history ?? 10].map(Number);
  for (const [name, value] of Object.entries({ rounds, elements, history })) {
    if (!Number.isSafeInteger(value) || value! < (name === "elements" ? 2 : 1)) {
      console.error(`error: --${name} must be an integer >= ${name === "elements" ? 2 : 1}, got ${value}`);
      process.exit(2);
    }
  }
  const { name, isa, threads } = backend(), load = loadavg()[0]!;
  if (load > 0.5) {
    console.error(`the machine is busy (load ${load.toFixed(1)}): figures will be worse than they should be`);
  }
  console.log(
    `${name}, ${isa}, ${threads} threads each, medians over ${rounds} rounds; ratios are their time by flatstep's\n`,
  );
  await measureBfgs(rounds!);
  await measureLbfgs(elements!, history!, rounds!);
}

if (import.meta.main) await main();
