import process from "node:process";
import { SingleBar } from "cli-progress";

/** What a run has measured. */
export interface History {
  /** Loss and learning rate of every step. */
  readonly losses: number[];
  readonly rates: number[];
  /** Test accuracy after every epoch, from 0 to 1: of the weights, and of their average. */
  readonly raw: number[];
  readonly averaged: number[];
}

/** Adds up the seconds spent in each kind of work. */
export class Stopwatch<Kind extends string> {
  readonly #seconds = new Map<Kind, number>();
  readonly #start = performance.now();

  /** Runs `work` and counts its time under `kind`. */
  time<Result>(kind: Kind, work: () => Result): Result {
    const start = performance.now();
    const result = work();
    this.#add(kind, start);
    return result;
  }

  /** Runs asynchronous `work` and counts its time under `kind`. */
  async timeAsync<Result>(kind: Kind, work: () => Promise<Result>): Promise<Result> {
    const start = performance.now();
    const result = await work();
    this.#add(kind, start);
    return result;
  }

  #add(kind: Kind, start: number): void {
    this.#seconds.set(kind, this.seconds(kind) + (performance.now() - start) / 1000);
  }

  /** Seconds spent on `kind` so far. */
  seconds(kind: Kind): number {
    return this.#seconds.get(kind) ?? 0;
  }

  /** Seconds since the stopwatch was made. */
  get total(): number {
    return (performance.now() - this.#start) / 1000;
  }
}

/** A bar with loss, learning rate and speed, one per epoch; nothing at all where stdout is no terminal. */
export class Progress {
  readonly #bar: SingleBar | null = null;
  readonly #batchSize: number;
  #start = 0;

  constructor(options: { batchSize: number }) {
    this.#batchSize = options.batchSize;
    if (!process.stdout.isTTY) return;
    this.#bar = new SingleBar({
      format: "{epoch} [{bar}] {percentage} % | loss {loss} | lr {lr} | {speed} images/s",
      stream: process.stdout,
      barsize: 18,
      clearOnComplete: true,
      // A line that is too long is cut off. Without this, a run that is interrupted leaves the terminal unable to wrap.
      linewrap: true,
    });
  }

  /** Shows an empty bar. */
  start(epoch: string, steps: number): void {
    this.#start = performance.now();
    this.#bar?.start(steps, 0, { epoch, loss: "-", lr: "-", speed: "-" });
  }

  /** Moves the bar to `step`, if it is time to draw again. */
  update(step: number, loss: number, lr: number): void {
    const seconds = (performance.now() - this.#start) / 1000;
    const speed = grouped(Math.round(step * this.#batchSize / seconds));
    this.#bar?.update(step, { loss: loss.toFixed(3), lr: lr.toExponential(1), speed });
  }

  /** Takes the bar away. */
  stop(): void {
    this.#bar?.stop();
  }
}

/** Lines up rows of a name and a value. */
export function table(rows: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join("\n");
}

/** 60000 as "60,000". */
export function grouped(value: number): string {
  return value.toLocaleString("en-US");
}

/** 0.9841 as "98.41 %". */
export function percent(share: number): string {
  return `${(100 * share).toFixed(2)} %`;
}

/** Seconds, and the share they are of all seconds. */
export function secondsOf(total: number, seconds: number): string {
  return `${seconds.toFixed(2).padStart(6)} s ${percent(seconds / total).padStart(8)}`;
}

/** The runtime's name and version. */
export function runtime(): string {
  const { bun, deno, node } = process.versions;
  return bun ? `Bun ${bun}` : deno ? `Deno ${deno}` : `Node ${node}`;
}
