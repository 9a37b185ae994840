/**
 * What the tests use of `@std/assert`, over `node:assert`: JSR cannot be reached from the machines that run them. The real
 * one is one line away, in deno.json.
 *
 * @module
 */

import nodeAssert from "node:assert/strict";

// deno-lint-ignore no-explicit-any -- as in @std/assert: any class will do
type AnyClass<T> = abstract new (...args: any[]) => T;

/** Throws unless a condition holds. */
export function assert(condition: unknown, message?: string): asserts condition {
  if (message === undefined) nodeAssert.ok(condition);
  else nodeAssert.ok(condition, message);
}

/** Throws unless two values are deeply equal. */
export function assertEquals<T>(actual: T, expected: T, message?: string): void {
  if (message === undefined) nodeAssert.deepEqual(actual, expected);
  else nodeAssert.deepEqual(actual, expected, message);
}

/** Throws if two values are deeply equal. */
export function assertNotEquals<T>(actual: T, expected: T, message?: string): void {
  if (message === undefined) nodeAssert.notDeepEqual(actual, expected);
  else nodeAssert.notDeepEqual(actual, expected, message);
}

/** Throws unless two values are the same. */
export function assertStrictEquals<T>(actual: T, expected: T, message?: string): void {
  if (message === undefined) nodeAssert.equal(actual, expected);
  else nodeAssert.equal(actual, expected, message);
}

/** Throws unless a string contains another. */
export function assertStringIncludes(actual: string, expected: string, message?: string): void {
  nodeAssert.ok(
    actual.includes(expected),
    message ?? `${JSON.stringify(actual)} does not include ${JSON.stringify(expected)}`,
  );
}

/** Throws unless a string matches. */
export function assertMatch(actual: string, expected: RegExp, message?: string): void {
  if (message === undefined) nodeAssert.match(actual, expected);
  else nodeAssert.match(actual, expected, message);
}

/** Throws unless a value is an instance of a class. */
export function assertInstanceOf<T>(actual: unknown, expected: AnyClass<T>, message?: string): asserts actual is T {
  nodeAssert.ok(actual instanceof expected, message ?? `${String(actual)} is not an instance of ${expected.name}`);
}

function checkError<E extends Error>(error: unknown, type: AnyClass<E>, includes: string | undefined): E {
  assertInstanceOf(
    error,
    type,
    `threw ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}, not a ${type.name}`,
  );
  if (includes !== undefined) assertStringIncludes(error.message, includes);
  return error;
}

/** Throws unless a function throws an error of a class, whose message includes a text; returns the error. */
export function assertThrows<E extends Error>(call: () => unknown, type: AnyClass<E>, includes?: string): E {
  try {
    call();
  } catch (error) {
    return checkError(error, type, includes);
  }
  throw new nodeAssert.AssertionError({ message: `did not throw a ${type.name}` });
}

/** Throws unless a Promise is rejected with an error of a class, whose message includes a text; returns the error. */
export async function assertRejects<E extends Error>(
  call: () => Promise<unknown>,
  type: AnyClass<E>,
  includes?: string,
): Promise<E> {
  try {
    await call();
  } catch (error) {
    return checkError(error, type, includes);
  }
  throw new nodeAssert.AssertionError({ message: `was not rejected with a ${type.name}` });
}
