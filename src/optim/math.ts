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
  for (let k = n; k > 0; k = Math.floor(k / 2)) {
    if (k % 2 === 1) result *= base;
    base *= base;
  }
  return result;
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

/** e to the power of x, to about a unit in the last place. */
export function exp(x: number): number {
  if (x !== x || x === Infinity) return x;
  if (x > 709.782712893384) return Infinity;
  if (x < -745.2) return 0;
  const k = Math.floor(x * INVERSE_LN2 + 0.5);
  const r = (x - k * LN2_HIGH) - k * LN2_LOW; // |r| <= ln 2 / 2
  let sum = 0;
  for (let n = 14; n >= 1; n--) sum = (sum + 1) * (r / n); // Taylor: the next term is below 2^-60
  const y = 1 + sum;
  if (k > 1023) return y * 2 * powerOfTwo(k - 1);
  if (k < -1022) return y * powerOfTwo(k + 60) * powerOfTwo(-60);
  return y * powerOfTwo(k);
}

/** The natural logarithm of x, to about a unit in the last place. */
export function log(x: number): number {
  if (x !== x || x === Infinity) return x;
  if (x <= 0) return x === 0 ? -Infinity : NaN;
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
  return exponent * LN2_HIGH + (f - (s * (f - tail) - exponent * LN2_LOW));
}

/** x to the power of y, for x >= 0, to about |y log x| units in the last place. */
export function pow(x: number, y: number): number {
  if (y === 0 || x === 1) return 1;
  if (Number.isInteger(y) && Math.abs(y) <= 64) return y > 0 ? powInt(x, y) : 1 / powInt(x, -y);
  if (x === 0) return y > 0 ? 0 : Infinity;
  return exp(y * log(x));
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
