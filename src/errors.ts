/**
 * The error classes, and how values are shown in messages.
 *
 * Wrong calls throw `TypeError` (the wrong kind of thing) or `RangeError` (a value out of range), with a message that
 * names the option, the value it got and what is allowed: `lr must be >= 0, got -1`. The classes here are for what no
 * built-in class says.
 *
 * @module
 */

/**
 * The native library is needed and cannot be opened. The message lists what was tried, why each attempt failed, and how
 * to mend it.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { NativeLibraryError } from "@flatstep/optim";
 *
 * const error = new NativeLibraryError("no library");
 * assert(error.name === "NativeLibraryError" && error instanceof Error);
 * ```
 */
export class NativeLibraryError extends Error {
  /** Always `"NativeLibraryError"`. */
  override readonly name = "NativeLibraryError";
}

/**
 * A state dict that does not fit the object it is loaded into. Nothing has been changed by the failed call.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { SGD, StateDictError } from "@flatstep/optim";
 *
 * const optimizer = new SGD([new Float32Array(2)]);
 * let name = "";
 * try {
 *   optimizer.loadStateDict({ state: {}, paramGroups: [] });
 * } catch (error) {
 *   name = (error as Error).name;
 *   assert(error instanceof StateDictError);
 * }
 * assert(name === "StateDictError");
 * ```
 */
export class StateDictError extends Error {
  /** Always `"StateDictError"`. */
  override readonly name = "StateDictError";
}

/**
 * NVIDIA's driver refused a call, or reports that something has failed on a device. The message says which call, and what the driver
 * says of it.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { CudaError } from "@flatstep/optim";
 *
 * const error = new CudaError("cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY (out of memory)", "CUDA_ERROR_OUT_OF_MEMORY");
 * assert(error.name === "CudaError" && error.code === "CUDA_ERROR_OUT_OF_MEMORY");
 * ```
 */
export class CudaError extends Error {
  /** Always `"CudaError"`. */
  override readonly name = "CudaError";
  /** The driver's name for what has failed: `"CUDA_ERROR_OUT_OF_MEMORY"`. */
  readonly code: string;

  /**
   * Made where a call of the driver fails.
   *
   * @param message what has failed
   * @param code the driver's name for it
   */
  constructor(message: string, code: string) {
    super(message);
    this.code = code;
  }
}

/** A value as it stands in an error message: short, and in the caller's spelling. */
export function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  if (typeof value === "bigint") return `${value}n`;
  if (Object.is(value, -0)) return "-0";
  if (typeof value === "function") return "a function";
  if (typeof value !== "object" || value === null) return String(value);
  if (Array.isArray(value)) {
    const shown = value.slice(0, 6).map(describe).join(", ");
    return `[${shown}${value.length > 6 ? ", …" : ""}]`;
  }
  return kind(value);
}

/**
 * Throws a TypeError unless something is an object of options, with no others than those that are known: an array, a Map or a Promise has
 * none to read, and would be taken for defaults.
 *
 * @param options what the caller gave
 * @param known the options there are
 * @param owner who has them, for the message
 */
export function checkKeys(options: unknown, known: readonly string[], owner: string): void {
  checkOptionsObject(options, "options");
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) throw new TypeError(`${owner} has no option ${show(key)}; it has ${known.join(", ")}`);
  }
}

/** Throws a TypeError unless something is an object, of which options can be read. */
export function checkOptionsObject(options: unknown, what: string): asserts options is object {
  if (typeof options === "object" && options !== null && !(Symbol.iterator in options) && !("then" in options)) return;
  throw new TypeError(`${what} must be an object, got ${describe(options)}`);
}

/** What something is that is of the wrong kind: an object's class, else the value itself. */
export function describe(value: unknown): string {
  return typeof value === "object" && value !== null ? kind(value) : show(value);
}

/** What kind of object something is: its class, with an article. */
export function kind(value: object): string {
  const name = Array.isArray(value) ? "Array" : (value.constructor as { name?: string } | undefined)?.name || "object";
  if (name === "Object") return "an object";
  const article = /^[AEIOU]/i.test(name) && !/^Uint/.test(name) ? "an" : "a";
  if (!ArrayBuffer.isView(value) || !("length" in value)) return `${article} ${name}`;
  const { byteLength, BYTES_PER_ELEMENT, length } = value as Uint8Array, real = byteLength / BYTES_PER_ELEMENT;
  return `${article} ${name} of ${real}${real === length ? "" : ` (whose length says ${length})`}`;
}
