/**
 * Saves a checkpoint over and over, until it is killed: `saver.ts FILE`. Starts from what the file holds, and prints the
 * number of each save that has ended.
 *
 * @module
 */

import { existsSync, writeSync } from "node:fs";
import process from "node:process";
import { load, save } from "../../mod.ts";
import { checkWhole, TrainingState } from "./whole.ts";

const path = process.argv[2]!;
const state = new TrainingState();
if (existsSync(path)) state.setAll(checkWhole(await load(path)));
const end = Date.now() + 60_000; // should nobody kill it
while (Date.now() < end) {
  state.setAll(state.step + 1);
  await save(path, state.contents());
  writeSync(1, `${state.step}\n`);
}
