/**
 * The same steps in flatstep and in torch, in turn, as ratios:
 *
 *     deno task bench:peers [--rules=AdamW,Adam,SGD+momentum] [--sets=gpt2,1x1000] [--rounds=15]
 *
 * torch runs in a child process (peers/torch_step.py) on as many threads. bench/README.md says what the columns mean.
 *
 * @module
 */

import { backend } from "../mod.ts";
import { readArguments } from "./arguments.ts";
import { canImport, type Child, peerContender, startChild } from "./child.ts";
import { type Contender, contender, digits, inTurn, preparedContender, table, timeText } from "./ratios.ts";
import { SHAPE_SETS, type ShapeSet } from "./shapes.ts";
import { type RuleName, Work } from "./work.ts";

const VARIANTS = ["fused", "default", "foreach"] as const;
/** Milliseconds between turns, until the other's idle threads no longer spin. */
const PAUSE_MS = 40;
const NEW_GRADIENTS: readonly ShapeSet[] = ["1000x1000", "10000x64"];

/** torch in a child process. */
class Torch {
  readonly #child: Child = startChild("torch_step.py");

  /** Makes parameters and optimizers; returns torch's version. */
  async setup(rule: RuleName, set: ShapeSet, threads: number): Promise<string> {
    const answer = await this.#child.ask({ op: "setup", rule, shapes: SHAPE_SETS[set], threads });
    this.variants = answer["variants"] as string[];
    return answer["torch"] as string;
  }

  /** The implementations that torch has of the rule. */
  variants: readonly string[] = [];

  /** One of torch's implementations. */
  contender(variant: typeof VARIANTS[number]): Contender {
    return peerContender(this.#child, variant, `torch ${variant}`);
  }

  end(): void {
    this.#child.end();
  }
}

/** A row of the table, and one with new gradients where there is one. */
async function measure(
  torch: Torch,
  rule: RuleName,
  set: ShapeSet,
  rounds: number,
  logs: Record<string, number[]>,
): Promise<string[][]> {
  const rows: string[][] = [];
  const row = async (name: string, ours: Contender) => {
    const there = VARIANTS.filter((variant) => torch.variants.includes(variant));
    const found = await inTurn([ours, ...there.map((variant) => torch.contender(variant))], rounds, PAUSE_MS);
    const theirs = VARIANTS.flatMap((variant) => {
      const peer = `torch ${variant}`;
      if (!found.has(peer)) return ["none", ""];
      const ratio = found.ratio(peer, ours.name);
      (logs[`torch ${variant} on ${name}`] ??= []).push(Math.log(ratio));
      return [timeText(found.time(peer)), `${digits(ratio)}x`];
    });
    rows.push([rule, name, timeText(found.time(ours.name)), ...theirs]);
  };
  const work = new Work(rule, set);
  await row(set, contender("flatstep", work.fused));
  if (NEW_GRADIENTS.includes(set)) {
    await row(`${set}, new gradients`, preparedContender("flatstep", () => work.newGradients(), work.fused));
  }
  return rows;
}

async function main(): Promise<void> {
  const { rules, sets, rounds } = readArguments();
  if (!canImport("torch")) {
    console.log(`torch is absent (Python cannot import it), so there is nothing to compare with. To install it:`);
    console.log("    pip install torch==2.13.0");
    return;
  }
  const { name, isa, threads } = backend(), torch = new Torch();
  try {
    let version = "";
    const rows: string[][] = [], logs: Record<string, number[]> = {};
    for (const set of sets) {
      for (const rule of rules) {
        console.error(`${rule} ${set} …`);
        version = await torch.setup(rule, set, threads);
        rows.push(...await measure(torch, rule, set, rounds, logs));
      }
    }
    console.log(
      `flatstep (fused, ${name}, ${isa}) and torch ${version}, ${threads} threads each, medians over ${rounds} rounds;`,
    );
    console.log("ratios are torch's time divided by flatstep's.\n");
    const head = ["rule", "shapes", "flatstep", ...VARIANTS.flatMap((variant) => [`torch ${variant}`, "ratio"])];
    console.log(table(head, rows));
    console.log("\nGeometric means over the rules:");
    for (const [name, list] of Object.entries(logs)) {
      const mean = Math.exp(list.reduce((sum, x) => sum + x, 0) / list.length);
      console.log(
        `${name}: ${digits(mean)}x over ${list.length} rules, at least ${digits(Math.exp(Math.min(...list)))}x`,
      );
    }
  } finally {
    torch.end();
  }
}

if (import.meta.main) await main();
