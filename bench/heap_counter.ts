/**
 * Counting what some work leaves for the garbage collector.
 *
 * V8 counts the bytes that it allocates, to within a buffer of 256 KB: some bytes a step where there are 100,000 steps. JavaScriptCore counts
 * no bytes, but tells how many objects of each kind there are (numbers are no objects there).
 *
 * @module
 */

import v8 from "node:v8";
import vm from "node:vm";

/** What there is to count, and how much of it there is. */
export interface Counter {
  /** What is counted. */
  readonly unit: "bytes" | "objects";
  /** So much of it is none: the counter does not tell less. */
  readonly none: number;
  /** Collects garbage. */
  collect(): void;
  /** What some work has made. */
  made(work: () => void): number;
}

/** What this runtime counts; null if nothing. */
export async function heapCounter(): Promise<Counter | null> {
  if ("Bun" in globalThis) return await objectCounter();
  v8.setFlagsFromString("--expose-gc");
  const collect = vm.runInNewContext("gc") as () => void;
  const read = () => (v8.getHeapStatistics() as unknown as Record<string, number>)["total_allocated_bytes"];
  if (read() === undefined) return null;
  return {
    unit: "bytes",
    none: 262_144,
    collect,
    made(work) {
      collect();
      read();
      const before = read()!, idle = read()! - before, start = read()!;
      work();
      return read()! - start - idle; // what asking allocates is not the work's
    },
  };
}

async function objectCounter(): Promise<Counter> {
  const { heapStats } = await import("bun:jsc" as string) as {
    heapStats(): { objectTypeCounts: Record<string, number> };
  };
  const collect = () => (globalThis as unknown as { Bun: { gc(now: boolean): void } }).Bun.gc(true);
  const count = () => {
    let sum = 0;
    for (const n of Object.values(heapStats().objectTypeCounts)) sum += n;
    return sum;
  };
  const between = (work: () => void) => {
    collect();
    const before = count();
    work();
    return count() - before; // those that are garbage already are still there, unless there were so many that they have been collected
  };
  return { unit: "objects", none: 0, collect, made: (work) => between(work) - between(() => {}) };
}

/** What a step makes, of some windows the least: the compiler makes things, too, until everything is compiled. One that has none ends it. */
export function madeByStep(counter: Counter, step: () => void, steps: number, windows = 4): number {
  let least = Infinity;
  for (let w = 0; w < windows && !(least * steps <= counter.none); w++) {
    const made = counter.made(() => {
      for (let i = 0; i < steps; i++) step();
    });
    least = Math.min(least, Math.max(0, made) / steps);
  }
  return least;
}
