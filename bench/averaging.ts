/**
 * Where an update of an average stands to what the memory allows, to a loop by hand, and to torch, in turn, as ratios:
 *
 *     deno run -A bench/averaging.ts [--sets=gpt2,1000x1000] [--rounds=15]
 *
 * torch runs in a child process (peers/torch_averaging.py) on as many threads; without it its columns are left out.
 *
 * @module
 */

import process from "node:process";
import { parseArgs } from "node:util";
import { backend } from "../mod.ts";
import { AveragingWork } from "./averaging_work.ts";
import { canImport, peerContender, startChild } from "./child.ts";
import { type Contender, contender, digits, inTurn, table, timeText } from "./ratios.ts";
import { SET_NAMES, SHAPE_SETS, type ShapeSet } from "./shapes.ts";

const PEERS = ["torch", "torch lerp"] as const;
/** Milliseconds between turns, until the other's idle threads no longer spin. */
const PAUSE_MS = 40;

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { sets: { type: "string" }, rounds: { type: "string" } } });
  const rounds = Number(values.rounds ?? 15), sets = (values.sets?.split(",") ?? SET_NAMES) as ShapeSet[];
  const wrong = sets.find((set) => !SET_NAMES.includes(set));
  if (wrong !== undefined || !Number.isSafeInteger(rounds) || rounds < 1) {
    console.error(`error: --sets must be of ${SET_NAMES.join(", ")}, --rounds an integer >= 1`);
    process.exit(2);
  }
  const { name, isa, threads } = backend();
  const torch = canImport("torch") ? startChild("torch_averaging.py") : null;
  const rows: string[][] = [];
  let version = "absent";
  try {
    for (const set of sets) {
      console.error(`${set} …`);
      const work = new AveragingWork(set);
      const ours = [contender("ema", work.ema), contender("limit", work.limit)];
      ours.push(contender("equal", work.equal), contender("lerp", work.lerp), contender("plain", work.plain));
      if (torch !== null) {
        version = (await torch.ask({ op: "setup", shapes: SHAPE_SETS[set], threads }))["torch"] as string;
      }
      const peers: Contender[] = torch === null ? [] : PEERS.map((name) => peerContender(torch, name));
      const found = await inTurn([...ours, ...peers], rounds, PAUSE_MS), ms = found.time("ema");
      const against = (peer: string) => found.has(peer) ? `${digits(found.ratio(peer, "ema"))}x` : "absent";
      rows.push([
        set,
        timeText(ms),
        digits(work.bytes / ms / 1e6),
        `${(100 * found.ratio("limit", "ema")).toFixed(0)} %`,
        ...["equal", "lerp", "plain", ...PEERS].map(against),
      ]);
    }
  } finally {
    torch?.end();
  }
  console.log(
    `flatstep (${name}, ${isa}) and torch ${version}, ${threads} threads each, medians over ${rounds} rounds;`,
  );
  console.log("an update by getEmaMultiAvgFn(), and the times of the others divided by its time.\n");
  console.log(
    table(["shapes", "update", "GB/s", "of the limit", "equal average", "lerp_", "plain loop", ...PEERS], rows),
  );
}

if (import.meta.main) await main();
