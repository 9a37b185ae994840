/**
 * The tables of options in docs/coming-from-pytorch.md, made from torch's signatures (tests/golden/torch_names.json) and the
 * classes themselves. `tests/guide_test.ts` compares; `deno run -A tools/guide_tables.ts` writes them into the guide.
 *
 * @module
 */

import { readFileSync, writeFileSync } from "node:fs";
import { dirname, fromFileUrl, join } from "@std/path";
import * as optim from "../mod.ts";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));

/** The guide. */
export const GUIDE: string = join(ROOT, "docs", "coming-from-pytorch.md");

/** What tools/torch_names.py writes. */
export interface TorchNames {
  readonly torch: string;
  readonly "torch.optim": readonly string[];
  readonly "torch.optim.lr_scheduler": readonly string[];
  readonly "torch.optim.swa_utils": readonly string[];
  readonly "torch.nn.utils": readonly string[];
  readonly Optimizer: readonly string[];
  readonly options: Record<string, Record<string, unknown>>;
  readonly "scheduler options": Record<string, Record<string, unknown>>;
}

/** torch's names and signatures. */
export const TORCH: TorchNames = JSON.parse(
  readFileSync(join(ROOT, "tests", "golden", "torch_names.json"), "utf8"),
) as TorchNames;

/** Options that the guide speaks of once, for all optimizers. */
export const COMMON: readonly string[] = ["maximize", "foreach", "fused", "differentiable", "capturable"];

/** A name of torch's as it is spelled here: `T_max` is `tMax`, `weight_decay` is `weightDecay`. */
export function camelCase(name: string): string {
  return name.replace(/_+([a-z0-9])/gi, (_, letter: string) => letter.toUpperCase()).replace(/^[A-Z]/, (letter) => {
    return letter.toLowerCase();
  });
}

/** The defaults of an optimizer here. */
export function defaultsOf(name: string): Record<string, unknown> {
  type Class = new (params: optim.Parameter[]) => optim.Optimizer;
  const make = optim[name as "SGD"] as unknown as Class;
  return new make([new optim.Parameter(new Float32Array(4), { shape: [2, 2] })]).defaults;
}

const written = (value: unknown): string => value === "required" ? "required" : `\`${JSON.stringify(value)}\``;

function table(head: string, rows: readonly (readonly [name: string, torchs: Record<string, unknown>])[]): string {
  const lines = [`| ${head} | torch | here | default |`, "|---|---|---|---|"];
  for (const [name, torchs] of rows) {
    const entries = Object.entries(torchs).map((
      [key, value],
    ) => [`\`${key}\``, `\`${camelCase(key)}\``, written(value)]);
    entries.forEach((cells, i) => lines.push(`| ${i === 0 ? `\`${name}\`` : ""} | ${cells.join(" | ")} |`));
  }
  return lines.join("\n");
}

/** The table of the optimizers' options. */
export function optimizerTable(): string {
  return table(
    "optimizer",
    Object.entries(TORCH.options).map(([name, torchs]) => {
      const left = Object.fromEntries(Object.entries(torchs).filter(([key]) => !COMMON.includes(key)));
      return [name, left];
    }),
  );
}

/** The table of the schedulers' options. */
export function schedulerTable(): string {
  return table("scheduler", Object.entries(TORCH["scheduler options"]));
}

const TABLES: Record<string, () => string> = { optimizers: optimizerTable, schedulers: schedulerTable };

/** The guide's text with the tables in their places. */
export function withTables(guide: string): string {
  for (const [name, make] of Object.entries(TABLES)) {
    const first = `<!-- ${name}: deno run -A tools/guide_tables.ts -->\n`, last = `\n<!-- /${name} -->`;
    const from = guide.indexOf(first), to = guide.indexOf(last);
    if (from < 0 || to < from) throw new Error(`the guide has no markers for its table of ${name}`);
    guide = guide.slice(0, from + first.length) + make() + guide.slice(to);
  }
  return guide;
}

if (import.meta.main) writeFileSync(GUIDE, withTables(readFileSync(GUIDE, "utf8")));
