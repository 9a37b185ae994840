/**
 * Functions whose bits do not depend on the JavaScript engine, as those of Math.pow, Math.exp and Math.log do: they use
 * only + − × ÷, floor, and the bits of a double.
 *
 * @module
 */

/** x to the power of an integer n >= 0, by repeated multiplication. */
export function powInt(x: number, n: number): number {
  let result = 1, base = x;
  if ((n | 0) === n) { // the same, in the processor's integers
    for (let k = n | 0; k > 0; k >>= 1) {
      if ((k & 1) === 1) result *= base;
      base *= base;
    }
    return result;
  }
  if (n === Infinity) return x ** n; // 0 below 1: nothing that engines could differ in, and halving would not end
  for (let k = n; k > 0; k = Math.floor(k / 2)) {
    if (k % 2 === 1) result *= base;
    base *= base;
  }
  return result;
}

/** 1, x, 1, x², 1, x⁴, 1, x⁸, … of the two numbers whose powers were asked for last: so no branch is needed. */
const factors = [0, 1].map(() => new Float64Array(62).fill(1)) as [Float64Array, Float64Array];
const powers = new Float64Array(2);

/**
 * The powers x^n and y^n of two decay rates for an integer n >= 0, in an array that the next call overwrites. They have the bits of
 * {@linkcode powInt}, which squares again what steps before have squared.
 */
export function powersOf(rates: readonly [number, number], n: number): Float64Array {
  const x = rates[0], y = rates[1], xs = factors[0], ys = factors[1];
  if ((n | 0) !== n) {
    powers[0] = powInt(x, n);
    powers[1] = powInt(y, n);
    return powers;
  }
  if (xs[1] !== x) square(x, xs);
  if (ys[1] !== y) square(y, ys);
  let first = 1, second = 1;
  for (let i = 0, k = n; k > 0; k >>= 1, i += 2) {
    first *= xs[i + (k & 1)]!;
    second *= ys[i + (k & 1)]!;
  }
  powers[0] = first;
  powers[1] = second;
  return powers;
}

function square(x: number, out: Float64Array): void {
  for (let i = 1; i < out.length; i += 2, x *= x) out[i] = x;
}

const double = new Float64Array(1);
const words = new Uint32Array(double.buffer); // low, high: every platform there is is little-endian

const LN2_HIGH = 6.93147180369123816490e-1, LN2_LOW = 1.90821492927058770002e-10; // ln 2 in two parts, the first of 33 bits
const INVERSE_LN2 = 1.44269504088896338700;

/** 2 to the power of an integer from -1022 to 1023. */
function powerOfTwo(k: number): number {
  words[0] = 0;
  words[1] = (k + 1023) << 20;
  return double[0]!;
}

/**
 * A number on its way into a function and out again: V8 makes an object of each that is passed and returned, unless it puts the functions
 * into one.
 */
const passed = new Float64Array(1);

/** e to the power of x, to about a unit in the last place. */
export function exp(x: number): number {
  passed[0] = x;
  expPassed();
  return passed[0]!;
}

function expPassed(): void {
  const x = passed[0]!;
  if (x !== x || x === Infinity) return;
  if (x > 709.782712893384 || x < -745.2) {
    passed[0] = x > 0 ? Infinity : 0;
    return;
  }
  const k = Math.floor(x * INVERSE_LN2 + 0.5);
  const r = (x - k * LN2_HIGH) - k * LN2_LOW; // |r| <= ln 2 / 2
  let sum = 0;
  for (let n = 14; n >= 1; n--) sum = (sum + 1) * (r / n); // Taylor: the next term is below 2^-60
  const y = 1 + sum;
  if (k > 1023) passed[0] = y * 2 * powerOfTwo(k - 1);
  else if (k < -1022) passed[0] = y * powerOfTwo(k + 60) * powerOfTwo(-60);
  else passed[0] = y * powerOfTwo(k);
}

/** The natural logarithm of x, to about a unit in the last place. */
export function log(x: number): number {
  passed[0] = x;
  logPassed();
  return passed[0]!;
}

function logPassed(): void {
  const x = passed[0]!;
  if (x !== x || x === Infinity) return;
  if (x <= 0) {
    passed[0] = x === 0 ? -Infinity : NaN;
    return;
  }
  let exponent = 0;
  double[0] = x;
  if (x < 2.2250738585072014e-308) {
    double[0] = x * 18014398509481984; // 2^54
    exponent = -54;
  }
  const high = words[1]!;
  exponent += (high >>> 20) - 1023;
  words[1] = (high & 0xfffff) | (1023 << 20);
  let m = double[0]!; // x = m 2^exponent, 1 <= m < 2
  if (m > 1.4142135623730951) {
    m /= 2;
    exponent++;
  }
  const f = m - 1, s = f / (2 + f), z = s * s;
  let tail = 0; // log m = 2 atanh s = 2 s (1 + z / 3 + z² / 5 + …), z <= 0.0295
  for (let n = 25; n >= 3; n -= 2) tail = z * (2 / n + tail);
  // 2 s = f - s f, so that the leading part is exact
  passed[0] = exponent * LN2_HIGH + (f - (s * (f - tail) - exponent * LN2_LOW));
}

/** x to the power of y, for x >= 0, to about |y log x| units in the last place. */
export function pow(x: number, y: number): number {
  operands[0] = x;
  operands[1] = y;
  powOf(operands);
  return operands[0]!;
}

const operands = new Float64Array(2);

/** Raises the first of two numbers to the power of the second, in its place: {@linkcode pow} without garbage. */
export function powOf(numbers: Float64Array): void {
  const x = numbers[0]!, y = numbers[1]!;
  if (y === 0 || x === 1) {
    numbers[0] = 1;
  } else if (Number.isInteger(y) && Math.abs(y) <= 64) {
    numbers[0] = y > 0 ? powInt(x, y) : 1 / powInt(x, -y);
  } else if (x === 0) {
    numbers[0] = y > 0 ? 0 : Infinity;
  } else {
    passed[0] = x;
    logPassed();
    passed[0]! *= y;
    expPassed();
    numbers[0] = passed[0]!;
  }
}

const HALF_PI = [1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21] as const; // π/2 in parts of 33, 33 and 53 bits
const TWO_OVER_PI = 0.6366197723675814;

/**
 * The cosine of x, to about a unit in the last place for |x| up to a million, in which the argument is reduced without
 * error.
 */
export function cos(x: number): number {
  if (!(x - x === 0)) return NaN;
  const k = Math.floor(x * TWO_OVER_PI + 0.5);
  // x - k π/2 = r + tail: the product with a part of 33 bits is exact
  const a = x - k * HALF_PI[0], b = k * HALF_PI[1], s = a - b;
  const c = k * HALF_PI[2] - ((a - s) - b), r = s - c, tail = (s - r) - c;
  const z = r * r, quadrant = k - 4 * Math.floor(k / 4);
  if (quadrant === 0 || quadrant === 2) {
    let sum = 0; // cos r = 1 - z/2 + z²/4! - …
    for (let n = 16; n >= 4; n -= 2) sum = z / (n * (n - 1)) * (1 - sum);
    const half = z / 2, top = 1 - half;
    const y = top + (((1 - top) - half) + (half * sum - r * tail));
    return quadrant === 0 ? y : -y;
  }
  let sum = 0; // sin r = r - r z/3! + …
  for (let n = 17; n >= 5; n -= 2) sum = z / (n * (n - 1)) * (1 - sum);
  const y = r + (tail * (1 - z / 2) - r * (z / 6) * (1 - sum));
  return quadrant === 1 ? -y : y;
}
