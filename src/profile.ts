/**
 * Where the time of steps goes: in TypeScript, in the call into compiled code, in the kernels.
 *
 * @module
 */

import type { Backend } from "../ffi/backend.ts";
import { jsBackend } from "../ffi/js.ts";
import { watchBackends } from "../ffi/load.ts";
import { builtin, env } from "../ffi/runtime.ts";
import { timeCalls } from "../ffi/timed_calls.ts";
import { show } from "./errors.ts";

/** Times in milliseconds, and what has been moved. The three parts add up to `ms`. */
export interface ProfileTimes {
  /** All of `step()` but the closure: hooks included. */
  readonly ms: number;
  /** Looking at every array and option, making and writing state; hooks. */
  readonly typescriptMs: number;
  /** What calls take beside the kernels: crossing over, checking the tables; in WebAssembly also copying. */
  readonly callMs: number;
  /** In the kernels, on all threads, from waking them until the last one is done. */
  readonly kernelMs: number;
  /** Bytes that the kernels read and write: each buffer once, and once more if it is both read and written. */
  readonly bytes: number;
}

/** Where the time of one step went. */
export interface StepProfile extends ProfileTimes {
  /** The optimizer's class. */
  readonly optimizer: string;
  /** Its `stepCount` after the step. */
  readonly step: number;
  /** Whether the step was skipped, for its gradients were not finite. */
  readonly skipped: boolean;
}

/** Sums over the steps of a class. */
export interface ProfileTotals extends ProfileTimes {
  /** How many steps there were. */
  readonly steps: number;
}

type Listener = (step: StepProfile) => void;
type Times = { -readonly [Key in keyof ProfileTimes]: ProfileTimes[Key] };

const NONE: ProfileTimes = { ms: 0, typescriptMs: 0, callMs: 0, kernelMs: 0, bytes: 0 };
const listeners = new Set<Listener>();

/** Whether steps are measured; null: the environment has not been asked yet. Read at each step, and nothing else is. */
export const profiling: { on: boolean | null } = { on: null };

/** The step that is being made, on this thread, outside of its closure. */
let current: Measurement | null = null;
/** Ends the timing of backends. */
let stopTiming: (() => void) | null = null;

/** A step that is being measured. */
export class Measurement {
  #times: Times = { ...NONE };
  #start = 0;
  #taken = 0; // by measuring
  #before: Measurement | null = null;

  /** The clock runs from now on. */
  enter(): void {
    this.#before = current;
    current = this;
    this.#start = performance.now();
  }

  /** The clock stops. */
  leave(): void {
    this.#times.ms += performance.now() - this.#start;
    current = this.#before;
  }

  /** A call of this step has ended. */
  add(callMs: number, kernelMs: number, bytes: number, ownMs: number): void {
    const times = this.#times;
    times.callMs += callMs - kernelMs;
    times.kernelMs += kernelMs;
    times.bytes += bytes;
    this.#taken += ownMs;
  }

  /** What was found. */
  get times(): ProfileTimes {
    const { callMs, kernelMs, bytes } = this.#times, ms = Math.max(this.#times.ms - this.#taken, callMs + kernelMs);
    return { ms, typescriptMs: ms - callMs - kernelMs, callMs, kernelMs, bytes };
  }

  /** A closure whose time does not count. */
  aside<Loss>(closure: () => Loss): () => Loss {
    return () => {
      this.leave();
      try {
        return closure();
      } finally {
        this.enter();
      }
    };
  }

  /** An asynchronous closure whose time does not count. */
  asideAsync<Loss>(closure: () => Promise<Loss> | Loss): () => Promise<Loss> {
    return async () => {
      this.leave();
      try {
        return await closure();
      } finally {
        this.enter();
      }
    };
  }
}

/** What an optimizer tells of a step that it has made. */
interface Stepped {
  readonly stepCount: number;
  readonly lastStep: { readonly skipped: boolean } | null;
}

/**
 * A measurement whose clock runs, or null if nobody listens. The first call asks the environment.
 *
 * @throws {RangeError} if FLATSTEP_PROFILE has no sense
 */
export function startStep(): Measurement | null {
  if (profiling.on === null) readEnvironment();
  if (!profiling.on) return null;
  const measured = new Measurement();
  measured.enter();
  return measured;
}

/** Tells the listeners of a step that has been made. */
export function tellStep(measured: Measurement, optimizer: Stepped): void {
  const { stepCount, lastStep } = optimizer, { name } = optimizer.constructor;
  const found: StepProfile = {
    optimizer: name,
    step: stepCount,
    skipped: lastStep?.skipped ?? false,
    ...measured.times,
  };
  for (const listener of [...listeners]) listener(found);
}

/** Backends are timed while somebody listens, those that are opened later too. */
function setListening(): void {
  profiling.on = listeners.size > 0;
  if (profiling.on === (stopTiming !== null)) return;
  if (stopTiming !== null) {
    stopTiming();
    stopTiming = null;
    return;
  }
  const timed = new Map<Backend, () => void>();
  const time = (backend: Backend) => {
    if (!timed.has(backend)) timed.set(backend, timeCalls(backend, (...call) => current?.add(...call)));
  };
  time(jsBackend);
  const unwatch = watchBackends(time);
  stopTiming = () => {
    unwatch();
    for (const end of timed.values()) end();
  };
}

function listen(listener: Listener): () => void {
  listeners.add(listener);
  setListening();
  return () => {
    listeners.delete(listener);
    setListening();
  };
}

function readEnvironment(): void {
  const asked = env("FLATSTEP_PROFILE") ?? "0";
  if (!["0", "1", "summary"].includes(asked)) {
    throw new RangeError(`FLATSTEP_PROFILE must be 0, 1 or summary, got ${show(asked)}`);
  }
  profiling.on = false;
  if (asked === "1") listen((step) => console.error(stepText(step)));
  if (asked === "summary") {
    const found = new Profile();
    builtin<typeof import("node:process")>("node:process").on("exit", () => console.error(found.toString()));
  }
}

const digits = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);

/** Milliseconds as text. */
function timeText(ms: number): string {
  return ms >= 1000 ? `${digits(ms / 1000)} s` : ms >= 1 ? `${digits(ms)} ms` : `${digits(ms * 1000)} us`;
}

/** Bytes as text. */
function bytesText(bytes: number): string {
  const unit = bytes >= 1e9 ? 3 : bytes >= 1e6 ? 2 : bytes >= 1e3 ? 1 : 0;
  return unit === 0 ? `${bytes} B` : `${digits(bytes / 1e3 ** unit)} ${"kMG"[unit - 1]}B`;
}

/** How fast the kernels moved it. */
function speedText({ bytes, kernelMs }: ProfileTimes): string {
  return kernelMs > 0 ? `${digits(bytes / kernelMs / 1e6)} GB/s` : "- GB/s";
}

/** A step in one line. */
function stepText(step: StepProfile): string {
  const { optimizer, step: number, skipped, ms, typescriptMs, callMs, kernelMs, bytes } = step;
  return `flatstep: ${optimizer} ${skipped ? "skipped a step after" : "step"} ${number}: ${timeText(ms)} = ` +
    `${timeText(typescriptMs)} TypeScript + ${timeText(callMs)} call + ${timeText(kernelMs)} kernels, ` +
    `${bytesText(bytes)} at ${speedText(step)}`;
}

/**
 * The steps that have been made since it was started by {@linkcode profile}, added up by class.
 */
export class Profile {
  readonly #totals = new Map<string, { -readonly [Key in keyof ProfileTotals]: ProfileTotals[Key] }>();
  readonly #end: () => void;

  /** For {@linkcode profile}. */
  constructor(onStep?: Listener) {
    this.#end = listen((step) => {
      this.#add(step);
      onStep?.(step);
    });
  }

  #add(step: StepProfile): void {
    let totals = this.#totals.get(step.optimizer);
    if (totals === undefined) this.#totals.set(step.optimizer, totals = { steps: 0, ...NONE });
    totals.steps++;
    for (const key of Object.keys(NONE) as (keyof ProfileTimes)[]) totals[key] += step[key];
  }

  /** Sums by class, in the order of their first steps. Steps that threw are not counted. */
  get totals(): ReadonlyMap<string, ProfileTotals> {
    return this.#totals;
  }

  /** Ends it. What has been added up stays. */
  stop(): this {
    this.#end();
    return this;
  }

  /** A line for each class: its steps, and the means of a step. */
  toString(): string {
    const lines = [...this.#totals].map(([optimizer, totals]) => {
      const { steps, ms, typescriptMs, callMs, kernelMs, bytes } = totals,
        mean = (sum: number) => timeText(sum / steps);
      return `flatstep: ${optimizer}, ${steps} steps, each ${mean(ms)} = ${mean(typescriptMs)} TypeScript + ` +
        `${mean(callMs)} call + ${mean(kernelMs)} kernels, ${bytesText(Math.round(bytes / steps))} at ${
          speedText(totals)
        }`;
    });
    return lines.length > 0 ? lines.join("\n") : "flatstep: no steps";
  }
}

/**
 * Measures where the time of steps goes, from now on, for all optimizers of this thread: in TypeScript, in the call into
 * compiled code, and in the kernels. Closures do not count. While nobody measures, a step is as fast as ever.
 *
 * The environment does the same without a change to the program: `FLATSTEP_PROFILE=1` writes a line for each step to stderr,
 * `FLATSTEP_PROFILE=summary` one for each class when the program ends. In Deno that is looked at only if the environment may be
 * read already.
 *
 * @param onStep is told of each step when it has been made; default: nobody
 * @returns the sums, which grow until `stop()`
 * @throws {TypeError} if onStep is neither a function nor undefined
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { AdamW, Parameter, profile } from "@flatstep/optim";
 *
 * const weight = new Parameter(new Float32Array(1000));
 * weight.grad = new Float32Array(1000).fill(1);
 * const optimizer = new AdamW([weight]);
 *
 * const found = profile();
 * for (let i = 0; i < 10; i++) optimizer.step();
 * const { steps, ms, kernelMs, bytes } = found.stop().totals.get("AdamW")!;
 * assert(steps === 10 && bytes === 10 * 28_000 && kernelMs <= ms);
 * console.log(String(found));
 * ```
 */
export function profile(onStep?: (step: StepProfile) => void): Profile {
  if (onStep !== undefined && typeof onStep !== "function") {
    throw new TypeError(`onStep must be a function, got ${show(onStep)}`);
  }
  return new Profile(onStep);
}
