import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
// Math.exp and Math.cos differ between Deno's and Bun's engines in the last bit; these do not.
import { cos, exp } from "../../src/optim/math.ts";

/** A curve with parameters b. */
export interface Curve {
  /** Its value at x; writes the derivatives by b into `slopes`. */
  at(x: number, b: ArrayLike<number>, slopes: Float64Array): number;
}

/** What a curve is fitted to. */
export interface Points {
  readonly x: readonly number[];
  readonly y: readonly number[];
}

/** Misra1a, of NIST's Statistical Reference Datasets: y = b₁ (1 − exp(−b₂ x)). In the public domain. */
export const misra1a = {
  points: {
    x: [77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0],
    y: [10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78],
  },
  starts: [[500, 0.0001], [250, 0.0005]],
  /** What NIST certifies, to eleven digits. */
  certified: { b: [2.3894212918e+2, 5.5015643181e-4], sumOfSquares: 1.2455138894e-1 },
  curve: {
    at(x, b, slopes) {
      const decay = exp(-b[1]! * x);
      slopes[0] = 1 - decay;
      slopes[1] = b[0]! * x * decay;
      return b[0]! * (1 - decay);
    },
  } satisfies Curve,
};

/** Harmonics of the year. */
const HARMONICS = 4;
/** Years that the time is counted from, and in. */
const EPOCH = 1990, SPAN = 30;

/**
 * Carbon dioxide in the air of Mauna Loa, monthly from 1958 to 2020, in ppm (Scripps CO2 Program, CC BY 4.0; in npm's
 * vega-datasets): a level from before, an exponential growth, and a season of four harmonics whose size grows with time.
 *
 *     b₀ + b₁ exp(b₂ t) + (1 + b₃ t) Σ (b₂ₖ₊₂ cos 2πk year + b₂ₖ₊₃ sin 2πk year),  t = (year − 1990) / 30
 */
export const co2 = {
  start: [300, 50, 0.5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
  curve: {
    at(year, b, slopes) {
      const t = (year - EPOCH) / SPAN, growth = exp(b[2]! * t), size = 1 + b[3]! * t;
      const waves = season(year, b);
      slopes[0] = 1;
      slopes[1] = growth;
      slopes[2] = b[1]! * t * growth;
      slopes[3] = t * waves;
      for (let k = 0; k < 2 * HARMONICS; k++) slopes[4 + k] = size * wave(year, k);
      return b[0]! + b[1]! * growth + size * waves;
    },
  } satisfies Curve,
  /** The curve without its season. */
  trend: (year: number, b: ArrayLike<number>): number => b[0]! + b[1]! * exp(b[2]! * (year - EPOCH) / SPAN),
};

/** cos 2πk year for even numbers, sin 2πk year for odd ones, k = 1, 2, …; a quarter turn back makes a sine of a cosine. */
function wave(year: number, number: number): number {
  const turns = (1 + (number >> 1)) * (year % 1);
  return cos(2 * Math.PI * (number % 2 === 0 ? turns : turns - 0.25));
}

function season(year: number, b: ArrayLike<number>): number {
  let sum = 0;
  for (let k = 0; k < 2 * HARMONICS; k++) sum += b[4 + k]! * wave(year, k);
  return sum;
}

/** The CO2 series, with what Scripps itself has left of it without the season. */
export function loadCo2(): Points & { adjusted: readonly number[] } {
  // the package exports its program only; the data lie beside it
  const root = dirname(dirname(createRequire(import.meta.url).resolve("vega-datasets")));
  const [head, ...lines] = readFileSync(join(root, "data", "co2-concentration.csv"), "utf8").trim().split(/\r?\n/);
  if (head !== "Date,CO2,adjusted CO2") throw new Error(`co2-concentration.csv has other columns: ${head}`);
  const rows = lines.map((line) => {
    const [date, value, adjusted] = line.split(","), [year, month] = date!.split("-");
    return { x: Number(year) + (Number(month) - 0.5) / 12, y: Number(value), adjusted: Number(adjusted) };
  });
  if (rows.length !== 741 || rows.some((row) => Object.values(row).some(Number.isNaN))) {
    throw new Error(`co2-concentration.csv has ${rows.length} rows, expected 741 of numbers`);
  }
  return { x: rows.map((row) => row.x), y: rows.map((row) => row.y), adjusted: rows.map((row) => row.adjusted) };
}
