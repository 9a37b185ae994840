/**
 * Where a step stands to what the memory allows, to the other implementations, and to a loop by hand:
 *
 *     deno run -A bench/limit.ts [--rules=AdamW,Adam,SGD+momentum] [--sets=gpt2,1x1000] [--rounds=15]
 *
 * bench/README.md says what the columns mean.
 *
 * @module
 */

import { backend } from "../mod.ts";
import { readArguments } from "./arguments.ts";
import { heapTable } from "./heap.ts";
import { contender, digits, inTurn, preparedContender, table, timeText, WARM_UP_MS } from "./ratios.ts";
import type { ShapeSet } from "./shapes.ts";
import { type RuleName, Work } from "./work.ts";

/** Milliseconds; the for-loop implementation is left out where a step takes longer. */
const LONGEST_MS = 1000;

/** Sets whose steps are timed singly, too; gpt2's would take minutes. */
const SINGLE: readonly ShapeSet[] = ["1x16M", "1000x1000", "10000x64", "1x1000"];
/** Those that also get new gradient arrays. */
const NEW_GRADIENTS: readonly ShapeSet[] = ["1000x1000", "10000x64", "1x1000"];
/** Milliseconds of other work between steps: the threads are asleep by then. */
const OTHER_WORK_MS = 5;

const share = (part: number) => `${(100 * part).toFixed(0)} %`;
const times = (ratio: number) => `${digits(ratio)}x`;

/** A row of the main table, and one of the table of single steps where there is one. */
async function measure(
  rule: RuleName,
  set: ShapeSet,
  rounds: number,
): Promise<{ main: string[]; single: string[] | null }> {
  const work = new Work(rule, set);
  const contenders = [
    contender("fused", work.fused),
    contender("limit", work.limit),
    contender("native", work.native),
    contender("foreach", work.foreach),
    ...(work.plain ? [contender("plain", work.plain)] : []),
  ];
  work.forLoop();
  const start = performance.now();
  work.forLoop();
  if (performance.now() - start < LONGEST_MS) contenders.push(contender("for-loop", work.forLoop));

  const found = await inTurn(contenders, rounds), ms = found.time("fused");
  const against = (name: string) => found.has(name) ? times(found.ratio(name, "fused")) : "left out";
  const main = [
    rule,
    set,
    timeText(ms),
    timeText(ms / work.tensors),
    digits(work.bytes / ms / 1e6),
    share(found.ratio("limit", "fused")),
    share(Math.max(0, 1 - found.ratio("native", "fused"))),
    against("foreach"),
    against("for-loop"),
    against("plain"),
  ];
  return { main, single: SINGLE.includes(set) ? await measureSingle(work, rule, set, rounds) : null };
}

/** A row of the table of single steps. Comes last: the work's other functions know the gradients it had. */
async function measureSingle(work: Work, rule: RuleName, set: ShapeSet, rounds: number): Promise<string[]> {
  // what is compiled so far knows no step that finds another gradient
  for (const start = performance.now(); performance.now() - start < 5 * WARM_UP_MS;) {
    if (NEW_GRADIENTS.includes(set)) work.newGradients();
    for (let k = 0; k < 3; k++) work.fused();
  }
  const contenders = [
    preparedContender("at once", () => {}, work.fused),
    preparedContender("later", () => workFor(OTHER_WORK_MS), work.fused),
  ];
  if (NEW_GRADIENTS.includes(set)) {
    contenders.push(preparedContender("new gradients", () => work.newGradients(), work.fused));
  }
  const found = await inTurn(contenders, rounds), row: string[] = [rule, set];
  for (const name of ["at once", "later", "new gradients"]) {
    if (!found.has(name)) row.push("-", "-");
    else row.push(timeText(found.time(name)), timeText(found.time(name) / work.tensors));
  }
  return row;
}

/** Keeps this thread busy. */
function workFor(ms: number): void {
  const end = performance.now() + ms;
  while (performance.now() < end);
}

async function main(): Promise<void> {
  const { rules, sets, rounds } = readArguments();
  const { name, isa, threads } = backend();
  console.log(`${name}, ${isa}, ${threads} threads, medians over ${rounds} rounds\n`);

  const main: string[][] = [], single: string[][] = [];
  for (const set of sets) {
    for (const rule of rules) {
      console.error(`${rule} ${set} …`);
      const found = await measure(rule, set, rounds);
      main.push(found.main);
      if (found.single) single.push(found.single);
    }
  }
  console.log("Fused steps, one after the other:\n");
  const rest = ["of the limit", "in TypeScript", "foreach", "for-loop", "plain loop"];
  console.log(table(["rule", "shapes", "step", "a tensor", "GB/s", ...rest], main));
  if (single.length > 0) {
    console.log(
      `\nFused steps timed singly: at once, after ${OTHER_WORK_MS} ms of other work, with a new gradient array for every tensor:\n`,
    );
    const cases = ["at once", "later", "new gradients"].flatMap((name) => [name, "a tensor"]);
    console.log(table(["rule", "shapes", ...cases], single));
  }

  const heap = await heapTable(rules, sets);
  if (heap !== "") console.log(`\nWhat a step leaves for the garbage collector:\n\n${heap}`);
}

if (import.meta.main) await main();
