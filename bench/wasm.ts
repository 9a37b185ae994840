/**
 * A step in WASM against the same step in TypeScript and a loop by hand:
 *
 *     deno run -A bench/wasm.ts [--rules=AdamW,Adam,SGD+momentum] [--sets=1000x1000,1x1000] [--rounds=15]
 *
 * The loop by hand, the for-loop implementation and the step in WASM use the same parameters and gradients. "Loaded" is a step
 * whose state came out of a state dict: it lies in JavaScript's memory, and is copied block by block like the parameters.
 *
 * @module
 */

import process from "node:process";
import { backend, type ElementwiseOptions, type Parameter, type StateDict } from "../mod.ts";
import { readArguments } from "./arguments.ts";
import { contender, digits, inTurn, table, timeText } from "./ratios.ts";
import { makeParameters, setNewGradients, SHAPE_SETS, type ShapeSet } from "./shapes.ts";
import { RECIPES, type RuleName } from "./work.ts";

process.env["FLATSTEP_BACKEND"] = "wasm"; // read when compiled code is first used, which is later

/** What is used of an optimizer. */
interface Stepping {
  readonly state: Map<Parameter, Record<string, unknown>>;
  step(): unknown;
  stateDict(): StateDict;
  loadStateDict(dict: StateDict): void;
}

/** A row of the table. */
async function measure(rule: RuleName, set: ShapeSet, rounds: number): Promise<string[]> {
  const recipe = RECIPES[rule], params = makeParameters(SHAPE_SETS[set]);
  const make = (options: ElementwiseOptions) => recipe.make(params, options) as unknown as Stepping;
  setNewGradients(params);
  const first = make({ fused: true });
  first.step();
  const dict = first.stateDict();
  const loaded = (options: ElementwiseOptions) => {
    const optimizer = make(options);
    optimizer.loadStateDict(dict);
    return optimizer;
  };
  const copied = loaded({ fused: true }), forLoop = loaded({ foreach: false, fused: false }), hand = loaded({});
  const arrays = params.map((p) => {
    return [p.data, p.grad as Float32Array, ...recipe.state.map((key) => hand.state.get(p)![key])] as Float32Array[];
  });
  const contenders = [
    contender("WASM", () => void first.step()),
    contender("loaded", () => void copied.step()),
    contender("for-loop", () => void forLoop.step()),
  ];
  const plain = "plain" in recipe ? recipe.plain(arrays) : null;
  if (plain !== null) contenders.push(contender("plain", plain));
  const found = await inTurn(contenders, rounds), ms = found.time("WASM");
  const against = (name: string) => found.has(name) ? `${digits(found.ratio(name, "WASM"))}x` : "left out";
  return [rule, set, timeText(ms), timeText(ms / params.length), ...["plain", "for-loop", "loaded"].map(against)];
}

const { rules, sets, rounds } = readArguments();
const { name, isa } = backend();
console.log(`${name}, ${isa}, medians over ${rounds} rounds\n`);
const rows: string[][] = [];
for (const rule of rules) {
  for (const set of sets) {
    console.error(`${rule} ${set} …`);
    rows.push(await measure(rule, set, rounds));
  }
}
console.log(table(["rule", "shapes", "step", "a tensor", "plain loop", "for-loop", "loaded"], rows));
