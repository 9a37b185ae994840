/**
 * What the tools that go on for a while have in common: numbers on the command line, and one seed after the other.
 *
 * @module
 */

/** A number of the command line; throws a RangeError unless it is one that is allowed. */
export function readNumber(text: string, name: string, least: number, whole = true): number {
  const n = Number(text);
  if (text.trim() !== "" && n >= least && n < 2 ** 32 && (!whole || Number.isInteger(n))) return n;
  throw new RangeError(`--${name} must be ${whole ? "an integer" : "a number"} >= ${least}, got ${text}`);
}

/** A first seed, and for so many minutes the ones after it. */
export function* seedsFrom(first: number, minutes: number): Generator<number> {
  const end = Date.now() + 60_000 * minutes;
  for (let seed = first; seed === first || Date.now() < end; seed++) yield seed;
}
