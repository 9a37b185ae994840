/**
 * Timing in turn: what is compared runs alternately, so that a busy machine slows all of it, and ratios are medians over many rounds.
 *
 * @module
 */

/** Something that is timed. */
export interface Contender {
  /** What it is called. */
  readonly name: string;
  /** Runs a few times; the time of one step in milliseconds, the best of those few. */
  turn(): number | Promise<number>;
}

/** Milliseconds that one timing should take at least: clocks and loops then cost nothing. */
export const TIMED_MS = 4;
/**
 * Timings of which a turn takes the best, and how many milliseconds they take at least: a thread that has slept may be woken on its
 * waker's processor, and is moved to its own after some steps. One timing is enough for steps that take longer than LONG_MS.
 */
export const TIMINGS = 4, TURN_MS = 60;
/** See {@linkcode TIMINGS}. */
export const LONG_MS = 250;
/** Milliseconds of steps before the first that counts. */
export const WARM_UP_MS = 60;

/** A function in this process, warmed up and calibrated. */
export function contender(name: string, step: () => void): Contender {
  let best = Infinity;
  for (let spent = 0, n = 1; spent < WARM_UP_MS || n < 4; n++) {
    const took = timeOf(step, Math.min(n, 100));
    spent += took * Math.min(n, 100);
    best = Math.min(best, took);
  }
  const count = Math.max(1, Math.floor(TIMED_MS / best)), long = best > LONG_MS;
  return {
    name,
    turn: () => {
      let best = Infinity;
      for (let k = 0, spent = 0; k === 0 || (!long && (k < TIMINGS || spent < TURN_MS)); k++) {
        const took = timeOf(step, count);
        spent += took * count;
        best = Math.min(best, took);
      }
      return best;
    },
  };
}

/** A function that needs something made before each call, outside the time. */
export function preparedContender(name: string, prepare: () => void, step: () => void): Contender {
  const turn = () => {
    let best = Infinity;
    for (let k = 0; k < TIMINGS; k++) {
      prepare();
      best = Math.min(best, timeOf(step, 1));
    }
    return best;
  };
  for (let k = 0; k < 5; k++) turn();
  return { name, turn };
}

function timeOf(step: () => void, count: number): number {
  const start = performance.now();
  for (let i = 0; i < count; i++) step();
  return (performance.now() - start) / count;
}

/** What {@linkcode inTurn} found: milliseconds a step of each contender, in each round. */
export class Timings {
  /** @param rounds of each contender, by its name */
  constructor(readonly rounds: ReadonlyMap<string, readonly number[]>) {}

  /** Whether a contender took part. */
  has(name: string): boolean {
    return this.rounds.has(name);
  }

  /** The median time of a step, in milliseconds. */
  time(name: string): number {
    return median(this.rounds.get(name)!);
  }

  /** The median over the rounds of one contender's time divided by another's. */
  ratio(name: string, to: string): number {
    const divisors = this.rounds.get(to)!;
    return median(this.rounds.get(name)!.map((time, round) => time / divisors[round]!));
  }
}

/**
 * Lets each contender have its turn, in each round in another order: every other time backwards, since a contender may leave something
 * behind for the next one (after a loop on one thread, two threads take a tenth of a second to be as fast as they can be).
 *
 * @param pause milliseconds before each turn, for threads of the one before to fall asleep: OpenMP's spin for some 15 ms
 */
export async function inTurn(contenders: readonly Contender[], rounds: number, pause = 0): Promise<Timings> {
  const times = new Map(contenders.map(({ name }) => [name, [] as number[]]));
  for (let round = 0; round < rounds; round++) {
    for (let k = 0; k < contenders.length; k++) {
      const at = (k + (round >> 1)) % contenders.length;
      const { name, turn } = contenders[round % 2 === 0 ? at : contenders.length - 1 - at]!;
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
      times.get(name)!.push(await turn());
    }
  }
  return new Timings(times);
}

/** The middle one. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** A time in milliseconds as text, in the unit that suits it. */
export function timeText(ms: number): string {
  const [value, unit] = ms >= 1000
    ? [ms / 1000, "s"]
    : ms >= 1
    ? [ms, "ms"]
    : ms >= 1e-3
    ? [ms * 1e3, "us"]
    : [ms * 1e6, "ns"];
  return `${digits(value)} ${unit}`;
}

/** A number as text, with three digits that count. */
export function digits(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** A Markdown table; the first two columns to the left, the others to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const width = head.map((title, c) => Math.max(3, title.length, ...rows.map((row) => row[c]!.length)));
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, c) => c < 2 ? cell.padEnd(width[c]!) : cell.padStart(width[c]!)).join(" | ")} |`;
  const rule = `|${width.map((w, c) => c < 2 ? "-".repeat(w + 2) : `${"-".repeat(w + 1)}:`).join("|")}|`;
  return [line(head), rule, ...rows.map(line)].join("\n");
}
