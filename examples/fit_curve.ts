/**
 * Fits curves by BFGS and LBFGS: NIST's Misra1a, whose answer is certified to eleven digits, and sixty years of carbon
 * dioxide. Prints the digits reached, and draws data, fits and residuals:
 *
 *     deno run -A examples/fit_curve.ts [--out=docs/fit_curve.svg]
 *     bun examples/fit_curve.ts [--out=docs/fit_curve.svg]
 *
 * The same numbers in both, to the last bit.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { assert } from "@std/assert";
import { BFGS, LBFGS, Parameter } from "@flatstep/optim";
import { co2, type Curve, loadCo2, misra1a, type Points } from "./support/curves.ts";
import { drawFits } from "./support/fit_plot.ts";

/** A closure for `step()`: the sum of the squared residuals over all points; its gradient goes into `b.grad`. */
function sumOfSquares(curve: Curve, { x, y }: Points, b: Parameter): () => number {
  return () => {
    const slopes = new Float64Array(b.size), grad = new Float64Array(b.size);
    let sum = 0;
    x.forEach((at, i) => {
      const residual = curve.at(at, b.data, slopes) - y[i]!;
      sum += residual * residual;
      slopes.forEach((slope, k) => grad[k]! += 2 * residual * slope);
    });
    b.grad = grad;
    return sum;
  };
}

/**
 * The gradient decides when to stop: the sum of squares itself has only half as many digits to tell minima apart, and the
 * Hager-Zhang search goes on where they are used up.
 */
const OPTIONS = {
  lineSearchFn: "hager_zhang",
  maxIter: 1000,
  maxEval: 2000,
  toleranceGrad: 1e-6,
  toleranceChange: 0,
} as const;
const METHODS = { BFGS, LBFGS };

/** One step finds the minimum: a step runs as many iterations as its options allow. */
function fit(method: keyof typeof METHODS, curve: Curve, points: Points, start: readonly number[]) {
  const b = new Parameter(Float64Array.from(start));
  const optimizer = new METHODS[method]([b], OPTIONS);
  optimizer.step(sumOfSquares(curve, points, b));
  return { b: b.data as Float64Array, ...optimizer.lastResult! };
}
type Fit = ReturnType<typeof fit>;

/** How many digits of a number are those of another one. */
const digits = (got: number, want: number) => Math.min(11, -Math.log10(Math.abs(got - want) / Math.abs(want)));

/** Every method from every start. */
function fitAll(curve: Curve, points: Points, starts: readonly (readonly number[])[]): (Fit & { name: string })[] {
  return starts.flatMap((start) =>
    (["BFGS", "LBFGS"] as const).map((method) => {
      const from = start.length === 2 ? ` from (${start.join(", ")})` : "";
      return { name: `${method}${from}`, ...fit(method, curve, points, start) };
    })
  );
}

/** Rows in columns: names to the left, numbers to the right. */
function columns(...rows: readonly (readonly string[])[]): string {
  const width = rows[0]!.map((_, c) => Math.max(...rows.map((row) => row[c]!.length)));
  const cell = (text: string, c: number) => c === 0 ? text.padEnd(width[c]!) : text.padStart(width[c]!);
  return rows.map((row) => row.map(cell).join("  ").trimEnd()).join("\n");
}

const { out } = parseArgs({ options: { out: { type: "string", default: "docs/fit_curve.svg" } } }).values;

const { points, starts, certified } = misra1a;
const misra = fitAll(misra1a.curve, points, starts);
const reached = misra.map(({ b, loss }) => [
  digits(b[0]!, certified.b[0]!),
  digits(b[1]!, certified.b[1]!),
  digits(loss, certified.sumOfSquares),
]);
console.log("Misra1a: y = b1 (1 - exp(-b2 x)), 14 points\n");
const shown = (values: Iterable<number>) => Array.from(values, (v) => v.toExponential(10));
console.log(columns(
  ["", "b1", "b2", "sum of squares", "digits of each", "evaluations"],
  ["NIST's certified values", ...shown([...certified.b, certified.sumOfSquares]), "", ""],
  ...misra.map(({ name, b, loss, evaluations }, i) => [
    name,
    ...shown([...b, loss]),
    reached[i]!.map((d) => d.toFixed(1)).join(", "),
    String(evaluations),
  ]),
));
assert(reached.flat().every((d) => d >= 8), "eight certified digits at least");

const series = loadCo2(), n = series.x.length;
const fits = fitAll(co2.curve, series, [co2.start]), best = fits[0]!.b;
const slopes = new Float64Array(best.length);
/** What the series would be without the season that was fitted: Scripps publishes such a series of its own. */
const without = series.x.map((year, i) => series.y[i]! - (co2.curve.at(year, best, slopes) - co2.trend(year, best)));
const off = Math.max(...without.map((ppm, i) => Math.abs(ppm - series.adjusted[i]!)));
const deviation = (loss: number) => Math.sqrt(loss / (n - best.length));
console.log(`\nCO2 at Mauna Loa, ${n} months: b0 + b1 exp(b2 t) + (1 + b3 t) season, 12 parameters\n`);
console.log(columns(
  ["", "b0, ppm", "b1, ppm", "doubles in, years", "season grows by, in 30 years", "residuals, ppm", "evaluations"],
  ...fits.map(({ name, b, loss, evaluations }) => [
    name,
    b[0]!.toFixed(6),
    b[1]!.toFixed(6),
    (30 * Math.LN2 / b[2]!).toFixed(6),
    `${(100 * b[3]!).toFixed(4)} %`,
    deviation(loss).toFixed(8),
    String(evaluations),
  ]),
));
console.log(
  `\nWithout its season the series is Scripps's own adjusted one to within ${off.toFixed(3)} ppm.`,
);
assert(off < 0.05, "the season is Scripps's");

mkdirSync(dirname(out), { recursive: true });
writeFileSync(out, await drawFits({ misra: misra[0]!.b, co2: best, series }));
console.log(`The picture is ${out}`);
