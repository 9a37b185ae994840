/** docs/coming-from-pytorch.md: it names all that torch has, and nothing that is not here. */

import { readFileSync } from "node:fs";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import * as optim from "../mod.ts";
import { camelCase, COMMON, defaultsOf, GUIDE, TORCH, withTables } from "../tools/guide_tables.ts";

const guide = readFileSync(GUIDE, "utf8");

/** The rows of the tables under a heading, as cells. */
function rows(heading: string): string[][] {
  const from = guide.indexOf(`\n${heading}\n`);
  assert(from >= 0, `the guide has no ${heading}`);
  const section = guide.slice(from + 1).split(/\n#+ /)[0]!;
  const lines = section.split("\n").filter((line) => line.startsWith("| ")).slice(1);
  return lines.map((line) => line.slice(2, -2).split(" | "));
}

/** The names in a cell: what stands in backticks, up to the first sign that belongs to no name. */
const names = (cell: string): string[] => [...cell.matchAll(/`([\w.]+)[^`]*`/g)].map((m) => m[1]!);

const SECTIONS = {
  "### torch.optim": "torch.optim",
  "### torch.optim.lr_scheduler": "torch.optim.lr_scheduler",
  "### torch.optim.swa_utils": "torch.optim.swa_utils",
  "### Optimizer": "Optimizer",
} as const;

for (const [heading, key] of Object.entries(SECTIONS)) {
  test(`the guide has a counterpart, or says that there is none, for every name of torch's: ${key}`, () => {
    const listed = rows(heading).flatMap(([torchs]) => names(torchs!));
    for (const name of TORCH[key]) assert(listed.includes(name), `${name} is missing under ${heading}`);
  });
}

test("the guide has a counterpart, or says that there is none, for every function of torch.nn.utils that clips", () => {
  const listed = rows("### Clipping, scaling, files").flatMap(([torchs]) => names(torchs!));
  for (const name of TORCH["torch.nn.utils"]) assert(listed.includes(`torch.nn.utils.${name}`), `${name} is missing`);
});

test("every counterpart that the guide names is there", () => {
  const members = new optim.SGD([new Float32Array(1)]);
  let found = 0;
  const has = (name: string, kinds: readonly object[]) => {
    const first = name.split(".")[0]!;
    assert(kinds.some((kind) => first in kind), `${name} is not here`);
    found++;
  };
  const types = { StepPreHook: 0, StepPostHook: 0 }, also = { GradScaler: 0, step: 0, lastStep: 0 };
  for (const heading of ["### torch.optim", "### torch.optim.lr_scheduler", "### torch.optim.swa_utils"]) {
    for (const [, own] of rows(heading)) for (const name of names(own!)) has(name, [optim]);
  }
  for (const [, own] of rows("### Optimizer")) for (const name of names(own!)) has(name, [members, optim, types]);
  for (const [, own] of rows("### Clipping, scaling, files")) for (const name of names(own!)) has(name, [optim, also]);
  assert(found > 70, `only ${found} names were found`);
});

test("every class and function of mod.ts that torch has a word for is in the guide", () => {
  const own = ["cuda", "backend", "plotSchedule", "Parameter", "QuasiNewton", "checkpoint", "StateDictError"];
  own.push("CheckpointError", "NativeLibraryError", "CudaError", "DeviceArray");
  const missing = Object.keys(optim).filter((name) => !own.includes(name) && !guide.includes(`\`${name}`));
  assertEquals(missing, []);
});

test("the guide's tables of options are those of torch and of the classes", () => {
  assertEquals(guide, withTables(guide), "run: deno run -A tools/guide_tables.ts");
});

for (const [name, torchs] of Object.entries(TORCH.options)) {
  test(`${name} has torch's options with torch's defaults`, () => {
    const own = defaultsOf(name);
    const expected = Object.entries(torchs).filter(([key]) => !["capturable", "differentiable"].includes(key));
    for (const [key, value] of expected) {
      if (key === "max_eval") assertEquals(own["maxEval"], Math.floor(own["maxIter"] as number * 5 / 4));
      else assertEquals(own[camelCase(key)], value, `${name}: ${key}`);
    }
    const extra = Object.keys(own).filter((key) => {
      return !expected.some(([torchs]) => camelCase(torchs) === key) && !COMMON.includes(key);
    });
    assertEquals(extra, name === "AdamW" ? ["decoupledWeightDecay"] : []);
  });
}

/** What a scheduler's required options are in the next test. */
const REQUIRED: Record<string, unknown> = {
  lr_lambda: (epoch: number) => 1 / (1 + epoch),
  step_size: 3,
  milestones: [2, 5],
  gamma: 0.9,
  T_max: 7,
  T_0: 4,
  base_lr: 0.01,
  max_lr: 0.2,
  swa_lr: 0.05,
};

for (const [name, torchs] of Object.entries(TORCH["scheduler options"])) {
  if (["LRScheduler", "SequentialLR", "ChainedScheduler", "ReduceLROnPlateau"].includes(name)) continue;
  test(`${name} takes torch's options, and leaves out torch's defaults without a difference`, () => {
    type Class = new (optimizer: optim.AnyOptimizer, options: Record<string, unknown>) => optim.LRScheduler;
    const make = (name === "SWALR" ? optim.swaUtils.SWALR : optim[name as "StepLR"]) as unknown as Class;
    const required: Record<string, unknown> = {}, all: Record<string, unknown> = {};
    for (const [key, value] of Object.entries(torchs)) {
      if (value === "required") required[camelCase(key)] = all[camelCase(key)] = REQUIRED[key];
      else all[camelCase(key)] = value;
    }
    if (name === "OneCycleLR") required["totalSteps"] = all["totalSteps"] = 30;
    const values = (options: Record<string, unknown>) => {
      const optimizer = new optim.SGD([new Float32Array(1)], { lr: 0.1, momentum: 0.9 });
      return new make(optimizer, options).values(25);
    };
    assertEquals(values(required), values(all));
  });
}

test("ReduceLROnPlateau has torch's options with torch's defaults", () => {
  const torchs = TORCH["scheduler options"]["ReduceLROnPlateau"]!;
  const all = Object.fromEntries(Object.entries(torchs).map(([key, value]) => [camelCase(key), value]));
  const make = (options?: optim.ReduceLROnPlateauOptions) => {
    return new optim.ReduceLROnPlateau(new optim.SGD([new Float32Array(1)]), options).stateDict();
  };
  assertEquals(make(), make(all as optim.ReduceLROnPlateauOptions));
});
