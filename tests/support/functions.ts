/**
 * The functions that lbfgs.json, bfgs.json and the Moré–Garbow–Hillstrom problems minimise: values and exact gradients in
 * float64. They use nothing whose last bit depends on the JavaScript engine, so that evaluation counts agree in both.
 *
 * J. J. Moré, B. S. Garbow, K. E. Hillstrom, "Testing Unconstrained Optimization Software", ACM TOMS 7 (1981): the numbers in
 * the comments are theirs.
 *
 * @module
 */

import { cos, exp, log, powInt } from "../../src/optim/math.ts";

/** A function's value and its gradient. */
export interface Evaluated {
  f: number;
  g: number[];
}
/** A function of x, with data of its own. */
export type TestFunction = (x: readonly number[], data: FunctionData) => Evaluated;
/** The data of the functions that have some. */
export interface FunctionData {
  A?: readonly (readonly number[])[];
  b?: readonly number[];
  y?: readonly number[];
  lambda?: number;
}

/** Residuals and their Jacobian, row by row. */
interface Residuals {
  r: number[];
  j: number[][];
}

const PI = Math.PI;
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((s, v, i) => s + v * b[i]!, 0);
const zeros = (n: number): number[] => new Array<number>(n).fill(0);
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** sin x, from the cosine: π/2 in two parts, for the digits near 0. */
const sin = (x: number): number => cos((x - 1.5707963267948966) - 6.123233995736766e-17);

/** The arc tangent: of at most 1, halved three times, by tan(a/2) = tan a / (1 + √(1 + tan² a)), then Taylor's series. */
function atan(x: number): number {
  if (Math.abs(x) > 1) return Math.sign(x) * PI / 2 - atan(1 / x);
  let t = x;
  for (let k = 0; k < 3; k++) t /= 1 + Math.sqrt(1 + t * t);
  let tail = 0;
  for (let n = 25; n >= 1; n -= 2) tail = 1 / n - t * t * tail; // t <= tan(π/32): the next term is below 2^-64
  return 8 * t * tail;
}

/** log(1 + x) for 0 <= x <= 1, where 1 + x loses digits of x: Kahan's correction. */
function log1p(x: number): number {
  const u = 1 + x;
  return u === 1 ? x : log(u) * (x / (u - 1));
}

/** f = Σ r[i]², and its gradient 2 Jᵀr. */
function squares(residuals: (x: readonly number[]) => Residuals): TestFunction {
  return (x) => {
    const { r, j } = residuals(x), g = zeros(x.length);
    r.forEach((ri, i) => j[i]!.forEach((v, k) => g[k]! += 2 * ri * v));
    return { f: dot(r, r), g };
  };
}

/** Residuals one by one: each gives its value and its row of the Jacobian. */
function each(n: number, one: (i: number) => [number, number[]]): Residuals {
  const rows = range(n).map(one);
  return { r: rows.map(([r]) => r), j: rows.map(([, j]) => j) };
}

/** A function of up to six variables, by name. */
const small = (residuals: (...x: [number, number, number, number, number, number]) => Residuals): TestFunction =>
  squares((x) => residuals(x[0]!, x[1]!, x[2]!, x[3]!, x[4]!, x[5]!));

const BARD = [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39];
const GAUSSIAN = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989];
const KOWALIK_Y = [0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246];
const KOWALIK_U = [4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625];

/** The functions, by the names of the golden files. */
export const FUNCTIONS: Readonly<Record<string, TestFunction>> = {
  /** 1, and its sum over more variables. */
  rosenbrock(x) {
    const g = zeros(x.length);
    let f = 0;
    for (let i = 0; i + 1 < x.length; i++) {
      const t = x[i + 1]! - x[i]! * x[i]!, u = 1 - x[i]!;
      f += 100 * t * t + u * u;
      g[i]! += -400 * x[i]! * t - 2 * u;
      g[i + 1]! += 200 * t;
    }
    return { f, g };
  },

  quadratic(x, { A, b }) {
    const ax = A!.map((row) => dot(row, x));
    return { f: dot(x, ax) / 2 - dot(b!, x), g: ax.map((v, i) => v - b![i]!) };
  },

  logistic(x, { A, y, lambda }) {
    const g = x.map((v) => lambda! * v);
    let f = lambda! / 2 * dot(x, x);
    A!.forEach((row, k) => {
      const m = y![k]! * dot(row, x), e = exp(-Math.abs(m));
      f += Math.max(-m, 0) + log1p(e);
      const s = (m > 0 ? e : 1) / (1 + e);
      row.forEach((v, i) => g[i]! -= y![k]! * s * v);
    });
    return { f, g };
  },

  leastSquares(x, { A, b }) {
    const r = A!.map((row, k) => dot(row, x) - b![k]!), g = zeros(x.length);
    A!.forEach((row, k) => row.forEach((v, i) => g[i]! += v * r[k]!));
    return { f: dot(r, r) / 2, g };
  },

  /** 2 */
  freudensteinRoth: small((a, b) => ({
    r: [-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b],
    j: [[1, 10 * b - 3 * b * b - 2], [1, 3 * b * b + 2 * b - 14]],
  })),

  /** 3 */
  powellBadlyScaled: small((a, b) => ({
    r: [1e4 * a * b - 1, exp(-a) + exp(-b) - 1.0001],
    j: [[1e4 * b, 1e4 * a], [-exp(-a), -exp(-b)]],
  })),

  /** 4 */
  brownBadlyScaled: small((a, b) => ({ r: [a - 1e6, b - 2e-6, a * b - 2], j: [[1, 0], [0, 1], [b, a]] })),

  /** 5 */
  beale: small((a, b) =>
    each(3, (i) => {
      const power = powInt(b, i + 1);
      return [[1.5, 2.25, 2.625][i]! - a * (1 - power), [power - 1, a * (i + 1) * powInt(b, i)]];
    })
  ),

  /** 7 */
  helicalValley: small((a, b, c) => {
    const q = a * a + b * b, h = Math.sqrt(q);
    const theta = a !== 0 ? atan(b / a) / (2 * PI) + (a < 0 ? 0.5 : 0) : b >= 0 ? 0.25 : -0.25;
    return {
      r: [10 * (c - 10 * theta), 10 * (h - 1), c],
      j: [[50 * b / (PI * q), -50 * a / (PI * q), 10], [10 * a / h, 10 * b / h, 0], [0, 0, 1]],
    };
  }),

  /** 8 */
  bard: small((a, b, c) =>
    each(15, (i) => {
      const u = i + 1, v = 15 - i, w = Math.min(u, v), d = v * b + w * c;
      return [BARD[i]! - (a + u / d), [-1, u * v / (d * d), u * w / (d * d)]];
    })
  ),

  /** 9 */
  gaussian: small((a, b, c) =>
    each(15, (i) => {
      const d = (7 - i) / 2 - c, e = exp(-b * d * d / 2);
      return [a * e - GAUSSIAN[Math.min(i, 14 - i)]!, [e, -a * e * d * d / 2, a * e * b * d]];
    })
  ),

  /** 12 */
  box3d: small((a, b, c) =>
    each(10, (i) => {
      const t = 0.1 * (i + 1), e0 = exp(-t * a), e1 = exp(-t * b), k = exp(-t) - exp(-10 * t);
      return [e0 - e1 - c * k, [-t * e0, t * e1, -k]];
    })
  ),

  /** 13 */
  powellSingular: small((a, b, c, d) => {
    const s5 = Math.sqrt(5), s10 = Math.sqrt(10), u = b - 2 * c, v = a - d;
    return {
      r: [a + 10 * b, s5 * (c - d), u * u, s10 * v * v],
      j: [[1, 10, 0, 0], [0, 0, s5, -s5], [0, 2 * u, -4 * u, 0], [2 * s10 * v, 0, 0, -2 * s10 * v]],
    };
  }),

  /** 14 */
  wood: small((a, b, c, d) => {
    const s90 = Math.sqrt(90), s10 = Math.sqrt(10);
    return {
      r: [10 * (b - a * a), 1 - a, s90 * (d - c * c), 1 - c, s10 * (b + d - 2), (b - d) / s10],
      j: [
        [-20 * a, 10, 0, 0],
        [-1, 0, 0, 0],
        [0, 0, -2 * s90 * c, s90],
        [0, 0, -1, 0],
        [0, s10, 0, s10],
        [0, 1 / s10, 0, -1 / s10],
      ],
    };
  }),

  /** 15 */
  kowalikOsborne: small((a, b, c, d) =>
    each(11, (i) => {
      const u = KOWALIK_U[i]!, top = u * u + u * b, bottom = u * u + u * c + d, square = bottom * bottom;
      return [KOWALIK_Y[i]! - a * top / bottom, [
        -top / bottom,
        -a * u / bottom,
        a * top * u / square,
        a * top / square,
      ]];
    })
  ),

  /** 16 */
  brownDennis: small((a, b, c, d) =>
    each(20, (i) => {
      const t = (i + 1) / 5, s = sin(t), p = a + t * b - exp(t), q = c + d * s - cos(t);
      return [p * p + q * q, [2 * p, 2 * p * t, 2 * q, 2 * q * s]];
    })
  ),

  /** 18 */
  biggsExp6: small((x0, x1, x2, x3, x4, x5) =>
    each(13, (i) => {
      const t = 0.1 * (i + 1), y = exp(-t) - 5 * exp(-10 * t) + 3 * exp(-4 * t);
      const e0 = exp(-t * x0), e1 = exp(-t * x1), e4 = exp(-t * x4);
      return [x2 * e0 - x3 * e1 + x5 * e4 - y, [-t * x2 * e0, t * x3 * e1, e0, -e1, -t * x5 * e4, e4]];
    })
  ),

  /** 20 */
  watson: squares((x) => {
    const n = x.length;
    const { r, j } = each(29, (i) => {
      const powers = range(n).map((k) => powInt((i + 1) / 29, k)), p = dot(x, powers);
      const slopes = range(n).map((k) => k > 0 ? k * powers[k - 1]! : 0);
      return [dot(x, slopes) - p * p - 1, slopes.map((s, k) => s - 2 * p * powers[k]!)];
    });
    const first = zeros(n), second = zeros(n);
    first[0] = 1, second[0] = -2 * x[0]!, second[1] = 1;
    return { r: [...r, x[0]!, x[1]! - x[0]! * x[0]! - 1], j: [...j, first, second] };
  }),

  /** 21 */
  extendedRosenbrock: squares((x) =>
    each(x.length, (i) => {
      const row = zeros(x.length);
      if (i % 2 === 1) {
        row[i - 1] = -1;
        return [1 - x[i - 1]!, row];
      }
      row[i] = -20 * x[i]!, row[i + 1] = 10;
      return [10 * (x[i + 1]! - x[i]! * x[i]!), row];
    })
  ),

  /** 23 */
  penaltyOne: squares((x) => {
    const a = Math.sqrt(1e-5);
    const { r, j } = each(x.length, (i) => [a * (x[i]! - 1), range(x.length).map((k) => k === i ? a : 0)]);
    return { r: [...r, dot(x, x) - 0.25], j: [...j, x.map((v) => 2 * v)] };
  }),

  /** 25 */
  variablyDimensioned: squares((x) => {
    const s = sum(x.map((v, i) => (i + 1) * (v - 1)));
    const { r, j } = each(x.length, (i) => [x[i]! - 1, range(x.length).map((k) => k === i ? 1 : 0)]);
    return { r: [...r, s, s * s], j: [...j, x.map((_, i) => i + 1), x.map((_, i) => 2 * s * (i + 1))] };
  }),

  /** 26 */
  trigonometric: squares((x) => {
    const n = x.length, c = x.map(cos), s = x.map(sin), total = sum(c);
    return each(n, (i) => [
      n - total + (i + 1) * (1 - c[i]!) - s[i]!,
      s.map((v, k) => v + (i === k ? (i + 1) * v - c[i]! : 0)),
    ]);
  }),

  /** 30 */
  broydenTridiagonal: squares((x) =>
    each(x.length, (i) => {
      const n = x.length, row = zeros(n), v = x[i]!;
      row[i] = 3 - 4 * v;
      if (i > 0) row[i - 1] = -1;
      if (i < n - 1) row[i + 1] = -2;
      return [(3 - 2 * v) * v - (x[i - 1] ?? 0) - 2 * (x[i + 1] ?? 0) + 1, row];
    })
  ),

  /** 35 */
  chebyquad: squares((x) => {
    const n = x.length;
    // Chebyshev's polynomials on [0, 1], and their derivatives, by their recurrence
    const values = [x.map(() => 1), x.map((v) => 2 * v - 1)], slopes = [x.map(() => 0), x.map(() => 2)];
    for (let k = 2; k <= n; k++) {
      values.push(x.map((v, i) => 2 * (2 * v - 1) * values[k - 1]![i]! - values[k - 2]![i]!));
      slopes.push(x.map((v, i) => {
        return 4 * values[k - 1]![i]! + 2 * (2 * v - 1) * slopes[k - 1]![i]! - slopes[k - 2]![i]!;
      }));
    }
    return each(n, (i) => {
      const k = i + 1, integral = k % 2 === 0 ? -1 / (k * k - 1) : 0;
      return [sum(values[k]!) / n - integral, slopes[k]!.map((s) => s / n)];
    });
  }),
};
