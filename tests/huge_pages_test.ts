/** Huge pages under large parameters, gradients and state: that they are there, and that no bit changes. */

import { existsSync, readFileSync } from "node:fs";
import { release } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { runProgram } from "./support/runtime.ts";

const LIMIT = { timeout: 120_000 };
const SETTING = "/sys/kernel/mm/transparent_hugepage/enabled";

/** Why there can be none here; null if there can. */
function missing(): string | null {
  if (process.platform !== "linux") return "only Linux is asked for huge pages";
  if (!existsSync(SETTING)) return "this system has no huge pages";
  return readFileSync(SETTING, "utf8").includes("[never]") ? "huge pages are switched off here" : null;
}

/** Whether memory that has been touched can be moved: since Linux 6.1. */
function canMove(): boolean {
  const [major, minor] = release().split(".").map(Number) as [number, number];
  return major > 6 || (major === 6 && minor >= 1);
}

/**
 * Trains, and tells of MiB in huge pages after each step, and of the bits that came out. Moving may take a small part of the time,
 * so there is something else to do between the steps.
 */
const PROGRAM = `
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import process from "node:process";
import { AdamW, Parameter } from "MOD";
const huge = () => Number(readFileSync("/proc/self/smaps_rollup", "utf8").match(/AnonHugePages:\\s+(\\d+)/)[1]) / 1024;
const before = huge(), n = 4 << 20; // 16 MiB an array
const p = new Parameter(Float32Array.from({ length: n }, (_, i) => (i % 1001) / 500 - 1));
p.grad = Float32Array.from({ length: n }, (_, i) => (i % 997) / 500 - 1);
const optimizer = new AdamW([p], { lr: 0.1 }), stepped = [];
for (let step = 0; step < STEPS && !(stepped.at(-1) >= ENOUGH); step++) {
  await new Promise((resolve) => setTimeout(resolve, 50));
  if (MOVE_ON && step === 12) p.grad = p.grad.slice(); // another array, in the middle of it all
  optimizer.step();
  stepped.push(huge() - before);
}
const state = optimizer.state.get(p), hash = createHash("sha256");
for (const array of [p.data, p.grad, state.expAvg, state.expAvgSq]) hash.update(new Uint8Array(array.buffer));
console.log(JSON.stringify({ stepped, hash: hash.digest("hex") }));
process.exit(0);
`;

interface Trained {
  stepped: number[];
  hash: string;
}

/** @param enough MiB in huge pages after which there are no more steps */
async function train(steps: number, backend: string, another = false, enough = Infinity): Promise<Trained> {
  const source = PROGRAM.replace("STEPS", `${steps}`).replace("MOVE_ON", `${another}`).replace("ENOUGH", `${enough}`);
  const { stdout, stderr, code } = await runProgram(source, { env: { FLATSTEP_BACKEND: backend } });
  assertEquals(code, 0, stderr);
  return JSON.parse(stdout) as Trained;
}

test("new state gets huge pages at once; parameters and gradients after a while", LIMIT, async () => {
  const why = missing();
  if (why !== null) return console.log(`skipped: ${why}`);
  // arrays of 16 MiB; where they begin and end there may be small pages
  const { stepped } = await train(600, "native", false, 4 * (16 - 4));
  assert(stepped[0]! >= 2 * (16 - 4), `${stepped[0]} MiB after the first step`);
  if (!canMove()) return console.log("skipped: memory that has been touched is moved by Linux 6.1 and later");
  assert(stepped.at(-1)! >= 4 * (16 - 4), `${stepped.at(-1)} MiB after the last step`);
  assert(stepped.every((mib, k) => k === 0 || mib >= stepped[k - 1]!), `never fewer: ${stepped.join(", ")}`);
});

test("moving to huge pages changes no bit, also where a gradient is replaced in between", LIMIT, async () => {
  const why = missing();
  if (why !== null) return console.log(`skipped: ${why}`);
  for (const another of [false, true]) {
    const native = await train(30, "native", another), typescript = await train(30, "js", another);
    assertEquals(native.hash, typescript.hash);
    if (canMove()) assert(native.stepped.at(-1)! > native.stepped[7]!, "nothing was moved");
  }
});

/** Binds 4 GiB, which nothing touches, and tells of the MiB that the system has been asked to give huge pages. */
const LONG = `
import { readFileSync } from "node:fs";
import process from "node:process";
import { bestBackend } from "../../ffi/load.ts";
import { SGD_RULE } from "../../src/optim/sgd.ts";
function advised() {
  let kib = 0;
  for (const area of readFileSync("/proc/self/smaps", "utf8").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    if (/^VmFlags:.* hg\\b/m.test(area)) kib += Number(area.match(/^Size:\\s+(\\d+)/m)[1]);
  }
  return kib / 1024;
}
const job = bestBackend().createJob(SGD_RULE, "float64", 1), before = advised(), array = new Float64Array(2 ** 29);
job.setLength(0, array.length);
job.bind(0, 0, array);
console.log(JSON.stringify(advised() - before));
process.exit(0);
`;

test("an array of 4 GiB gets huge pages too", LIMIT, async () => {
  const why = missing();
  if (why !== null) return console.log(`skipped: ${why}`);
  const { stdout, stderr, code } = await runProgram(LONG, { env: { FLATSTEP_BACKEND: "native" } });
  if (/out of memory|allocation failed/i.test(stderr)) {
    return console.log("skipped: there are no 4 GiB of addresses here");
  }
  assertEquals(code, 0, stderr);
  assert(Number(stdout) >= 4096 - 4, `${stdout} MiB`);
});
