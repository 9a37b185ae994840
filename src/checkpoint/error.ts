/**
 * The error of checkpoints.
 *
 * @module
 */

/**
 * A checkpoint that could not be saved or loaded. The message begins with the file's path; a failed save has left the old
 * file as it was.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { CheckpointError, load } from "@flatstep/optim";
 *
 * let caught: unknown;
 * await load("no-such-folder/run.pt").catch((error) => caught = error);
 * assert(caught instanceof CheckpointError && caught.path === "no-such-folder/run.pt");
 * ```
 */
export class CheckpointError extends Error {
  /** Always `"CheckpointError"`. */
  override readonly name = "CheckpointError";
  /** The file, as the caller named it. */
  readonly path: string;

  /**
   * Makes the error.
   *
   * @param path the file
   * @param reason what is wrong; the message is `path: reason`
   * @param options `cause`: the error behind it
   */
  constructor(path: string, reason: string, options?: { cause?: unknown }) {
    super(`${path}: ${reason}`, options);
    this.path = path;
  }
}

/** Something wrong with a file, found where its path is not known: becomes a {@linkcode CheckpointError}. */
export class Broken extends Error {}

/** Throws for a file that is not as it must be. */
export function broken(reason: string): never {
  throw new Broken(reason);
}

/** Any error as a CheckpointError of a path; `what` says what has failed where the error is not of ours. */
export function checkpointError(path: string, error: unknown, what: string): CheckpointError {
  if (error instanceof CheckpointError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new CheckpointError(path, error instanceof Broken ? reason : `${what}: ${reason}`, { cause: error });
}
