/**
 * Goes on with all runs from their checkpoints in a folder, in whatever runtime it is started, and prints the bits that each
 * ends with, a line of JSON for each: `resume_program.ts FOLDER`.
 *
 * @module
 */

import process from "node:process";
import { join } from "@std/path";
import { fileOf, FORMATS, RUNS, STEPS } from "./resume_runs.ts";

for (const run of RUNS) {
  for (const format of FORMATS) {
    const trainer = run.make();
    await trainer.load(join(process.argv[2]!, fileOf(run, format)));
    trainer.trainTo(STEPS);
    console.log(JSON.stringify({ run: run.name, format, bits: trainer.bits() }));
  }
}
