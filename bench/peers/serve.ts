/**
 * How the benchmarks' peers in JavaScript time: as bench/ratios.ts does, and one line of JSON in, one line of JSON out
 * (timing.py is the same in Python).
 *
 * @module
 */

import process from "node:process";
import { createInterface } from "node:readline";
import { LONG_MS, TIMED_MS, TIMINGS, TURN_MS, WARM_UP_MS } from "../ratios.ts";

/** A step; one that returns a promise has ended when that is fulfilled. */
export type PeerStep = () => void | Promise<void>;

/** What bench/peers.ts asks for. */
export interface Request {
  readonly op: "setup" | "turn";
  /** Of a turn: which step. */
  readonly name: string;
  /** Of a setup. */
  readonly rule: string;
  readonly shapes: readonly (readonly number[])[];
  readonly threads: number;
}

/** What a setup gives: the steps by name, and the answer. */
export type Setup = (request: Request) => Promise<[Record<string, PeerStep>, { version: string; names: string[] }]>;

/** Milliseconds that one of `count` steps takes. */
async function timeOf(step: PeerStep, count: number): Promise<number> {
  const start = performance.now();
  for (let i = 0; i < count; i++) {
    const pending = step();
    if (pending !== undefined) await pending;
  }
  return (performance.now() - start) / count;
}

/** A step, warmed up and calibrated once; the function gives the best of a few timings, of one where it takes long. */
async function turnsOf(step: PeerStep): Promise<() => Promise<number>> {
  let best = Infinity;
  for (let spent = 0, n = 1; spent < WARM_UP_MS || n < 4; n++) {
    const took = await timeOf(step, Math.min(n, 100));
    spent += took * Math.min(n, 100);
    best = Math.min(best, took);
  }
  const count = Math.max(1, Math.floor(TIMED_MS / best)), long = best > LONG_MS;
  return async () => {
    let best = Infinity;
    for (let k = 0, spent = 0; k === 0 || (!long && (k < TIMINGS || spent < TURN_MS)); k++) {
      const took = await timeOf(step, count);
      spent += took * count;
      best = Math.min(best, took);
    }
    return best;
  };
}

/** Answers until there is nobody to answer. */
export async function serve(setup: Setup): Promise<void> {
  let steps: Record<string, PeerStep> = {}, turns = new Map<string, () => Promise<number>>();
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line) as Request;
    let answer: unknown;
    if (request.op === "setup") {
      [steps, turns] = [{}, new Map()]; // before the next ones: there may not be memory for both
      [steps, answer] = await setup(request);
    } else {
      const { name } = request;
      if (!turns.has(name)) turns.set(name, await turnsOf(steps[name]!));
      answer = { ms: await turns.get(name)!() };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit(0); // what a library leaves running does not keep this process
}
