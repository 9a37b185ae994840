/**
 * Functions whose bits do not depend on the JavaScript engine, as Math.pow's do.
 *
 * @module
 */

/** x to the power of an integer n >= 0, by repeated multiplication. */
export function powInt(x: number, n: number): number {
  let result = 1, base = x;
  for (let k = n; k > 0; k = Math.floor(k / 2)) {
    if (k % 2 === 1) result *= base;
    base *= base;
  }
  return result;
}
