/**
 * Saves that must fail. As a program, `failing_save.ts FILE…` prints what came of them, a line of JSON for each file.
 *
 * @module
 */

import { readdirSync } from "node:fs";
import process from "node:process";
import { dirname } from "@std/path";
import { CheckpointError, load, save } from "../../mod.ts";

/** What came of a save that had to fail. */
export interface Failure {
  /** What the file holds afterwards. */
  readonly step: unknown;
  /** Whether the folder has the files that it had. */
  readonly sameFiles: boolean;
  readonly isCheckpointError: boolean;
  readonly path: string | undefined;
  readonly message: string;
}

/** Saves step 1, small, unless it is there already, then step 2, of 16 MB, which must fail. */
export async function failToSave(path: string, { first = true } = {}): Promise<Failure> {
  if (first) await save(path, { step: 1 });
  const files = readdirSync(dirname(path)).join();
  let error: Error = new Error("the save succeeded");
  try {
    await save(path, { step: 2, data: new Float32Array(4 << 20).fill(2) });
  } catch (caught) {
    error = caught as Error;
  }
  return {
    step: (await load(path)).step,
    sameFiles: readdirSync(dirname(path)).join() === files,
    isCheckpointError: error instanceof CheckpointError,
    path: (error as CheckpointError).path,
    message: error.message,
  };
}

if (import.meta.main) {
  for (const path of process.argv.slice(2)) console.log(JSON.stringify(await failToSave(path)));
}
