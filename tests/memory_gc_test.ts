/** What the garbage collector may not take, and may not move. */

import { assert } from "@std/assert";
import { jsBackend } from "../ffi/js.ts";
import { bestBackend } from "../ffi/load.ts";
import { SGD_RULE } from "../src/optim/sgd.ts";
import { collector, copied, FOR_LOOP, inEachMode, Twin } from "./support/twin.ts";

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
