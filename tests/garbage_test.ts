/** Steady steps leave nothing for the garbage collector. Each measurement is a process of its own: other code makes V8's more general. */

import { test } from "node:test";
import { assert } from "@std/assert";
import { backend } from "../mod.ts";
import { IS_BUN, runProgram } from "./support/runtime.ts";

const LIMIT = { timeout: 180_000 };
const STEPS = 100_000;
/** Half of the smallest object of V8's in each step; in Bun objects are counted, of which some appear at the end of compiling. */
const MOST = IS_BUN ? 0.01 : 8;

/** The source of a function that makes a step, as a program's text; `lib` is the library. */
type Source = string;

const parameters = (tensors: number, size: number) =>
  `Array.from({ length: ${tensors} }, () => {
    const p = new lib.Parameter(new Float32Array(${size}));
    p.grad = new Float32Array(${size}).fill(1e-3);
    return p;
  })`;
const stepping = (make: string, args = ""): Source =>
  `const optimizer = ${make}; return () => { optimizer.step(${args}); };`;
const one = parameters(1, 1000);

const CLASSES = [
  "Adadelta",
  "Adagrad",
  "Adam",
  "AdamW",
  "Adamax",
  "ASGD",
  "NAdam",
  "RAdam",
  "RMSprop",
  "Rprop",
  "SGD",
];
const CASES: Readonly<Record<string, Readonly<Record<string, Source>>>> = {
  "AdamW": { "AdamW": stepping(`new lib.AdamW(${one})`) },
  "any rule": Object.fromEntries(CLASSES.map((name) => [name, stepping(`new lib.${name}(${one})`)])),
  "SGD with momentum and RMSprop with all that it has": {
    "SGD": stepping(`new lib.SGD(${one}, { momentum: 0.9, dampening: 0.1, weightDecay: 0.01 })`),
    "RMSprop": stepping(`new lib.RMSprop(${one}, { momentum: 0.9, centered: true, weightDecay: 0.01 })`),
  },
  "a closure": { "AdamW": stepping(`new lib.AdamW(${one})`, "closure") },
  "maxGradNorm and gradScale": {
    "AdamW": `const options = { maxGradNorm: 0.5, gradScale: 3.5 }; ${
      stepping(`new lib.AdamW(${one})`, "null, options")
    }`,
    "SGD": `const options = { maxGradNorm: 0.5 }; ${stepping(`new lib.SGD(${one})`, "null, options")}`,
  },
  "fifty tensors": {
    "AdamW": stepping(`new lib.AdamW(${parameters(50, 20)})`),
    "SGD": stepping(`new lib.SGD(${parameters(50, 20)}, { momentum: 0.9 })`),
  },
  "two groups with options of their own, and names": {
    "AdamW": stepping(
      `new lib.AdamW([0.1, 0.2].map((lr, g) => ({ params: ${
        parameters(2, 20)
      }.map((p, i) => ["p" + g + i, p]), lr })))`,
    ),
  },
  "state that somebody has looked at": {
    "AdamW":
      `const optimizer = new lib.AdamW(${one}); optimizer.step(); optimizer.state; return () => { optimizer.step(); };`,
  },
};

/** What steps make, each in windows until one has made next to nothing; the last number is that of a step that does make something. */
async function made(cases: Readonly<Record<string, Source>>): Promise<Record<string, number> | null> {
  const program = `
    import * as lib from "MOD";
    import { heapCounter, madeByStep } from "../../bench/heap_counter.ts";
    const counter = await heapCounter(), found = {}, closure = () => 0.5;
    const measure = (step) => {
      let least = Infinity;
      for (let w = 0; w < 10 && least >= ${MOST}; w++) least = Math.min(least, madeByStep(counter, step, ${STEPS}, 1));
      return least;
    };
    const cases = { ${
    Object.entries(cases).map(([name, source]) => `${JSON.stringify(name)}: () => { ${source} }`).join(",\n")
  } };
    if (counter !== null) {
      for (const name in cases) found[name] = measure(cases[name]());
      const kept = { point: null };
      found["control"] = measure(() => { kept.point = { x: 1 }; });
    }
    console.log(JSON.stringify(counter === null ? null : found));
  `;
  const ended = await runProgram(program);
  assert(ended.code === 0, ended.stderr);
  return JSON.parse(ended.stdout) as Record<string, number> | null;
}

for (const [what, cases] of Object.entries(CASES)) {
  test(`${STEPS} steps make no garbage: ${what}`, LIMIT, async () => {
    const { name } = backend();
    if (!name.endsWith("-ffi")) {
      return console.log(`skipped: ${name} is in use, and only the native backend makes none`);
    }
    const found = await made(cases);
    if (found === null) return console.log("skipped: this runtime does not tell what it allocates");
    const { control, ...steps } = found;
    assert(control! >= MOST, `an object in each step counts as ${control}`);
    for (const name in steps) {
      assert(steps[name]! < MOST, `${name}: ${steps[name]} ${IS_BUN ? "objects" : "bytes"} a step`);
    }
  });
}
