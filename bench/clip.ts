/**
 * `step(null, { maxGradNorm, gradScale })` against the separate calls, and against torch's, in turn, as ratios:
 *
 *     deno run -A bench/clip.ts [--sets=gpt2,1000x1000,10000x64] [--rounds=15]
 *
 * Separately: `foreach.mul_` to unscale, `clipGradNorm`, `step()`. Gradients are clipped at every step: a gradScale below 1 makes
 * them larger first, and without one the norm that is allowed shrinks a little at each step. torch runs in a child process (peers/torch_clip.py) on as many threads; without it its
 * columns are left out.
 *
 * @module
 */

import { loadavg } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import { AdamW, backend, clipGradNorm, foreach, SGD } from "../mod.ts";
import { canImport, peerContender, startChild } from "./child.ts";
import { type Contender, contender, digits, inTurn, table, timeText } from "./ratios.ts";
import { makeParameters, SET_NAMES, setNewGradients, SHAPE_SETS, type ShapeSet } from "./shapes.ts";

/** Milliseconds between turns, until the other's idle threads no longer spin. */
const PAUSE_MS = 40;
const SCALE = 0.5, MOST = 1, SHRINK = 0.9999;

/** The steps that are timed, over the same arrays. */
function stepsOf(rule: "AdamW" | "SGD+momentum", set: ShapeSet): Record<string, () => void> {
  const params = makeParameters(SHAPE_SETS[set]);
  setNewGradients(params);
  const grads = params.map((p) => p.grad as Float32Array);
  const optimizer = rule === "AdamW" ? new AdamW(params, { lr: 1e-5 }) : new SGD(params, { lr: 1e-5, momentum: 0.9 });
  let most = MOST;
  return {
    "all in one": () => optimizer.step(null, { gradScale: SCALE, maxGradNorm: most }),
    "all apart": () => {
      foreach.mul_(grads, 1 / SCALE);
      clipGradNorm(params, most);
      optimizer.step();
    },
    "clip in one": () => optimizer.step(null, { maxGradNorm: most * SHRINK }),
    "clip apart": () => {
      clipGradNorm(params, most *= SHRINK);
      optimizer.step();
    },
    "step": () => optimizer.step(),
  };
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { sets: { type: "string" }, rounds: { type: "string" } } });
  const rounds = Number(values.rounds ?? 15);
  const sets = (values.sets?.split(",") ?? ["gpt2", "1000x1000", "10000x64"]) as ShapeSet[];
  const wrong = sets.find((set) => !SET_NAMES.includes(set));
  if (wrong !== undefined || !Number.isSafeInteger(rounds) || rounds < 1) {
    console.error(`error: --sets must be of ${SET_NAMES.join(", ")}, --rounds an integer >= 1`);
    process.exit(2);
  }
  const { name, isa, threads } = backend(), load = loadavg()[0]!.toFixed(1);
  const torch = canImport("torch") ? startChild("torch_clip.py") : null;
  const rows: string[][] = [];
  let version = "absent";
  try {
    for (const rule of ["AdamW", "SGD+momentum"] as const) {
      for (const set of sets) {
        console.error(`${rule} ${set} …`);
        const ours = Object.entries(stepsOf(rule, set)).map(([what, step]) => contender(what, step));
        if (torch !== null) {
          const setup = {
            op: "setup",
            rule,
            shapes: SHAPE_SETS[set],
            threads,
            scale: SCALE,
            most: MOST,
            shrink: SHRINK,
          };
          version = (await torch.ask(setup))["torch"] as string;
        }
        const peers: Contender[] = torch === null
          ? []
          : ["all", "clip"].map((what) => peerContender(torch, what, `torch ${what}`));
        const found = await inTurn([...ours, ...peers], rounds, PAUSE_MS);
        const against = (peer: string, own: string) =>
          found.has(peer) ? `${digits(found.ratio(peer, own))}x` : "absent";
        rows.push([
          rule,
          set,
          timeText(found.time("all in one")),
          against("all apart", "all in one"),
          against("torch all", "all in one"),
          timeText(found.time("clip in one")),
          against("clip apart", "clip in one"),
          against("torch clip", "clip in one"),
          timeText(found.time("step")),
        ]);
      }
    }
  } finally {
    torch?.end();
  }
  console.log(
    `flatstep (${name}, ${isa}) and torch ${version}, ${threads} threads each, medians over ${rounds} rounds;`,
  );
  console.log(
    `a step in one call, and the times of the separate calls divided by its time; load at the start ${load}.\n`,
  );
  const kinds = ["apart", "torch"];
  console.log(
    table(["rule", "shapes", "unscale, clip, step", ...kinds, "clip, step", ...kinds, "step alone"], rows),
  );
}

if (import.meta.main) await main();
