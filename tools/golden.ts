/**
 * Copies the golden trajectories of some optimizers into tests/golden/, a file each, and what must be refused of them into
 * errors.json; swa.json, schedulers.json, lbfgs.json and bfgs.json are copied as they are:
 *
 *     deno run -A tools/golden.ts PATH/TO/golden SGD Adam AdamW
 *
 * Nothing in them is changed; `source` says which file of the set a case came from.
 *
 * @module
 */

import { copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { dirname, fromFileUrl, join } from "@std/path";

interface Case {
  name: string;
  optimizer?: string;
}

const [folder, ...wanted] = process.argv.slice(2);
if (!folder || wanted.length === 0) {
  console.error("usage: tools/golden.ts FOLDER OPTIMIZER...");
  process.exit(2);
}
const out = join(dirname(dirname(fromFileUrl(import.meta.url))), "tests", "golden");
const files = readdirSync(folder).filter((f) => /^(optimizers-.*|statedict)\.json$/.test(f) && !f.includes("fuzz"))
  .sort();
const whole = ["swa.json", "schedulers.json", "lbfgs.json", "bfgs.json"];
for (const optimizer of wanted) {
  if (whole.includes(`${optimizer.toLowerCase()}.json`)) continue;
  let oracle = "";
  const cases: string[] = [];
  for (const file of files) {
    const fixture = JSON.parse(readFileSync(join(folder, file), "utf8")) as { oracle: string; cases: Case[] };
    oracle = fixture.oracle;
    for (const c of fixture.cases) {
      if (c.optimizer === optimizer) cases.push(JSON.stringify({ source: file, ...c }));
    }
  }
  const text = `{ "format": 1, "oracle": ${JSON.stringify(oracle)}, "cases": [\n${cases.join(",\n")}\n] }\n`;
  writeFileSync(join(out, `${optimizer.toLowerCase()}.json`), text);
  console.log(`${optimizer}: ${cases.length} cases, ${(text.length / 1024).toFixed(0)} KiB`);
}

for (const file of whole) copyFileSync(join(folder, file), join(out, file));

interface ErrorCase extends Case {
  kind: string;
}

const errors = JSON.parse(readFileSync(join(folder, "errors.json"), "utf8")) as { oracle: string; cases: ErrorCase[] };
const kinds = ["optimizer", "addParamGroup", "step", "loadStateDict"], averaging = ["averagedModel", "call"];
const scheduling = ["scheduler", "otherOptimizer"];
const kept = errors.cases.filter((c) => {
  return averaging.includes(c.kind) || scheduling.includes(c.kind) ||
    (kinds.includes(c.kind) && wanted.includes(c.optimizer!));
}).map((c) => JSON.stringify(c));
writeFileSync(
  join(out, "errors.json"),
  `{ "format": 1, "oracle": "${errors.oracle}", "cases": [\n${kept.join(",\n")}\n] }\n`,
);
console.log(`errors: ${kept.length} cases`);
