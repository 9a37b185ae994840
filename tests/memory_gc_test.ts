/** What the garbage collector may not take, and may not move. */

import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { jsBackend } from "../ffi/js.ts";
import { bestBackend } from "../ffi/load.ts";
import { SGD_RULE } from "../src/optim/sgd.ts";
import { IS_BUN, runProgram } from "./support/runtime.ts";
import { collector } from "./support/garbage.ts";
import { copied, FOR_LOOP, inEachMode, Twin } from "./support/twin.ts";

inEachMode("garbage collection between steps moves and frees nothing that a step needs", (mode) => {
  const twin = new Twin(mode), collect = collector();
  const litter: Float32Array[] = [];
  const fill = () => { // takes the places that have become free
    for (const n of [7, 12, 300, 1000, 1001]) for (let i = 0; i < 20; i++) litter.push(new Float32Array(n).fill(NaN));
  };
  for (let step = 0; step < 6; step++) {
    twin.grads();
    fill();
    collect();
    twin.step();
    twin.check();
    for (const p of [...twin.params, ...twin.copies]) p.grad = null;
    collect();
    fill();
    if (step % 2 === 1) { for (const p of twin.params) p.data = copied(p.data); }
  }
  assert(litter.every((array) => array.every((x) => x !== x)), "a step has written to memory that is not its own");
});

inEachMode("a job keeps the arrays that are bound to it", async (mode) => {
  const backend = mode === FOR_LOOP ? jsBackend : bestBackend(), job = backend.createJob(SGD_RULE, "float32", 1);
  const kept = [0, 1].map((buffer) => { // only the job knows these arrays from here on
    const array = new Float32Array(100_000).fill(buffer);
    job.bind(0, buffer, array);
    return new WeakRef(array);
  });
  await new Promise((resolve) => setTimeout(resolve, 1)); // an array that was just made counts as used until then
  collector()();
  for (const array of kept) assert(array.deref() !== undefined, "a step would write to memory that has been freed");
});

inEachMode("garbage collection in hooks and in the closure takes nothing that the step needs", (mode) => {
  const twin = new Twin(mode), collect = collector();
  const fill = () =>
    void Array.from({ length: 200 }, (_, i) => new Float32Array([7, 12, 300, 1000, 1001][i % 5]!).fill(NaN));
  const hooks = [
    twin.optimizer.registerStepPreHook(() => void collect()),
    twin.optimizer.registerStepPostHook(collect),
  ];
  for (let step = 0; step < 3; step++) {
    twin.optimizer.step(() => {
      collect();
      twin.grads(); // the old gradients are garbage now
      fill();
      collect();
      return 0;
    });
    twin.reference.step();
    fill();
    twin.check();
  }
  for (const hook of hooks) hook.remove();
});

/** Trains with several optimizers, with arrays that nobody keeps, and prints a sum over all bits. */
const PROGRAM = `
import { Adafactor, AdamW, AveragedModel, backend, clipGradNorm, LBFGS, Muon, Parameter, SGD } from "MOD";
let seed = 1;
const random = () => (seed = Math.imul(seed, 1664525) + 1013904223 | 0) / 2 ** 31;
const array = (n) => Float32Array.from({ length: n }, random);
const make = (n, shape = [n]) => new Parameter(array(n), { shape });
const params = [make(7), make(1000), make(300), make(64, [8, 8]), make(12)];
const line = new Parameter(Float64Array.from({ length: 20 }, random));
const model = { a: params[1], *namedParameters() { yield ["a", this.a]; }, forward() {} };
const averaged = new AveragedModel(model);
const all = [new AdamW([params[0], params[1]], { amsgrad: true }), new SGD([params[2]], { momentum: 0.9 }), new Muon([params[3]]), new Adafactor([params[4]])];
const lbfgs = new LBFGS([line], { lineSearchFn: "strong_wolfe", maxIter: 3 });
for (let step = 0; step < STEPS; step++) {
  for (const p of params) p.grad = array(p.size);
  clipGradNorm(params, 0.5);
  for (const optimizer of all) optimizer.step();
  averaged.updateParameters(model);
  lbfgs.step(() => {
    line.grad = line.data.map((x, i) => (x - Math.fround(0.1 * i)) * (1 + i % 3));
    return line.data.reduce((sum, x, i) => sum + (x - Math.fround(0.1 * i)) ** 2 * (1 + i % 3) / 2, 0);
  });
  if (step % 7 === 0) params[1].data = params[1].data.slice();
  if (step % 50 === 20) all[0] = (({ state }) => {
    const next = new AdamW([params[0], params[1]], { amsgrad: true });
    for (const [p, entry] of state) next.state.set(p, { ...entry });
    return next;
  })(all[0]);
}
let hash = 0x811c9dc5;
const take = (a) => new Uint8Array(a.buffer, a.byteOffset, a.byteLength).forEach((b) => hash = Math.imul(hash ^ b, 0x01000193));
for (const p of [...params, averaged.module.a, line]) take(p.data);
console.log(backend().name, hash >>> 0);
`;

/** What makes the engine collect all the time, and move what it can. */
const STRESS: Record<string, string> = IS_BUN
  ? { BUN_JSC_collectContinuously: "1", BUN_JSC_slowPathAllocsBetweenGCs: "20" }
  : { DENO_V8_FLAGS: "--expose-gc,--gc-interval=200,--stress-compaction" };

test("a program whose engine collects garbage all the time leaves the bits that it leaves otherwise", {
  timeout: 120_000,
}, async () => {
  const source = PROGRAM.replace("STEPS", "300");
  const [plain, ...stressed] = await Promise.all([
    runProgram(source, { env: { FLATSTEP_BACKEND: "js" } }),
    runProgram(source, { env: STRESS }),
    runProgram(source, { env: { ...STRESS, FLATSTEP_BACKEND: "wasm" } }),
  ]);
  const hashOf = ({ stdout }: { stdout: string }) => stdout.trim().split(" ")[1];
  assert(hashOf(plain) !== undefined, plain.stderr);
  for (const run of stressed) assertEquals(hashOf(run), hashOf(plain), run.stderr);
});
