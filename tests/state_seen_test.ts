/** The optimizer's state, looked at early, late, and never: its numbers are what they must be whenever somebody reads them. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { AdamW, ASGD, load, NAdam, type Optimizer, Parameter, save } from "../mod.ts";
import { stateOf } from "../src/optim/optimizer.ts";
import { ROWS } from "./support/classes.ts";
import { hashNumbers } from "./support/golden.ts";

const SIZES = [3, 1, 17, 0, 64];

function parameters(): Parameter[] {
  return SIZES.map((n, i) => new Parameter(Float32Array.from(hashNumbers(i, n, 2))));
}

function setGradients(params: readonly Parameter[], step: number): void {
  params.forEach((p, i) => p.grad = Float32Array.from(hashNumbers(100 * step + i + 1, p.size, 1)));
}

/** Everything that an optimizer has, as text. */
function everything(optimizer: Pick<Optimizer, "state">, params: readonly Parameter[]): string {
  const entries = params.map((p) => Object.entries(optimizer.state.get(p) ?? {}).map(([key, x]) => [key, String(x)]));
  return JSON.stringify([params.map((p) => String(p.data)), entries]);
}

for (const { name, make, variants } of ROWS) {
  variants.forEach((options, v) => {
    test(`${name} (variant ${v}): who looks at the state never, once, or at every step sees the same numbers`, () => {
      const ends = ["never", "once", "always", "held"].map((when) => {
        const params = parameters(), optimizer = new make(params, { ...options });
        let held: Map<Parameter, unknown> | null = null;
        const seen: unknown[] = [];
        for (let step = 1; step <= 9; step++) {
          if (step !== 6) setGradients(params, step); // 6: the same arrays as before
          params[1]!.grad = step === 4 ? null : params[1]!.grad; // its count falls behind for good
          if (when === "held" && step === 1) held = optimizer.state;
          optimizer.step();
          if (when === "once" && step === 5) everything(optimizer, params);
          if (when === "always" || (when === "once" && step > 7)) seen.push(everything(optimizer, params));
          if (held) assertEquals(held.get(params[0]!), optimizer.state.get(params[0]!));
        }
        return everything(optimizer, params);
      });
      for (const end of ends.slice(1)) assertEquals(end, ends[0]);
    });
  });
}

test("an entry that was read once is up to date after every later step", () => {
  const params = parameters(), optimizer = new AdamW(params);
  setGradients(params, 1);
  for (let i = 0; i < 3; i++) optimizer.step();
  const entry = optimizer.state.get(params[0]!)!;
  assertEquals(entry["step"], 3);
  for (let i = 4; i < 9; i++) {
    optimizer.step();
    assertEquals(entry["step"], i);
  }
});

test("what is changed in an entry counts at the next step, and an entry that loses a tensor is an error", () => {
  const make = () => {
    const params = parameters(), optimizer = new AdamW(params, { lr: 0.1 });
    setGradients(params, 1);
    return { params, optimizer };
  };
  const a = make(), b = make();
  for (let i = 0; i < 4; i++) a.optimizer.step();
  b.optimizer.step();
  for (const p of b.params) Object.assign(b.optimizer.state.get(p)!, { step: 100 });
  b.optimizer.step();
  for (const p of a.params) Object.assign(a.optimizer.state.get(p)!, { step: 7 });
  a.optimizer.step();
  assertEquals(a.params.map((p) => a.optimizer.state.get(p)!["step"]), SIZES.map(() => 8));
  assertEquals(b.params.map((p) => b.optimizer.state.get(p)!["step"]), SIZES.map(() => 101));
  const entry = a.optimizer.state.get(a.params[2]!)!;
  entry["expAvg"] = new Float32Array(2);
  const before = everything(a.optimizer, a.params);
  assertThrows(() => a.optimizer.step(), Error, "expAvg");
  assertEquals(everything(a.optimizer, a.params), before);
});

test("a step that fails or is skipped leaves the numbers of a state that nobody has seen", () => {
  const params = parameters(), optimizer = new NAdam(params);
  setGradients(params, 1);
  for (let i = 0; i < 4; i++) optimizer.step();
  const grad = params[2]!.grad;
  params[2]!.grad = new Float32Array(5);
  assertThrows(() => optimizer.step(), Error, "grad");
  params[2]!.grad = Float32Array.from(grad as Float32Array).fill(NaN);
  optimizer.step(null, { maxGradNorm: 1 });
  assertEquals(optimizer.lastStep?.skipped, true);
  params[2]!.grad = grad;
  optimizer.step();
  const twins = parameters(), twin = new NAdam(twins);
  setGradients(twins, 1);
  for (let i = 0; i < 5; i++) twin.step();
  assertEquals(everything(optimizer, params), everything(twin, twins));
});

test("a number of a state that becomes NaN is an error at the next step, whether somebody has looked at the state or not", () => {
  for (const look of [false, true]) {
    const params = parameters(), optimizer = new ASGD(params, { lr: 0.1 });
    setGradients(params, 1);
    for (let i = 0; i < 4; i++) optimizer.step();
    if (look) assert(optimizer.state.size > 0);
    optimizer.paramGroups[0]!.lr = Infinity; // eta = lr / (1 + lambd lr t)^alpha
    optimizer.step();
    assertThrows(() => optimizer.step(), TypeError, "must be a number, got NaN");
    assertThrows(() => optimizer.step(), TypeError, "must be a number, got NaN");
  }
});

test("stateDict(), save() and loadStateDict() know the numbers of a state that nobody has seen", async () => {
  const { mkdtempSync, rmSync } = await import("node:fs"), { tmpdir } = await import("node:os");
  const folder = mkdtempSync(`${tmpdir()}/flatstep-`);
  try {
    const params = parameters(), optimizer = new AdamW(params);
    setGradients(params, 1);
    for (let i = 0; i < 5; i++) optimizer.step();
    assertEquals(optimizer.stateDict().state[2]!["step"], 5);
    optimizer.step();
    await save(`${folder}/a.safetensors`, { optimizer });
    optimizer.step();
    const checkpoint = await load(`${folder}/a.safetensors`);
    assert(!stateOf(optimizer).seen);
    optimizer.loadStateDict(checkpoint["optimizer"] as ReturnType<typeof optimizer.stateDict>);
    optimizer.step();
    assertEquals(optimizer.stateDict().state[4]!["step"], 7);
    assertEquals(optimizer.state.get(params[4]!)!["step"], 7);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("two groups with counts of their own are caught up with, whichever falls behind", () => {
  const params = parameters();
  const adam = new AdamW([{ params: params.slice(0, 2) }, { params: params.slice(2) }]);
  for (let step = 1; step < 12; step++) {
    setGradients(params, 1);
    if (step % 3 === 0) { for (const p of params.slice(0, 2)) p.grad = null; }
    adam.step();
  }
  assertEquals(params.map((p) => adam.state.get(p)!["step"]), [8, 8, 11, 11, 11]);
});

test("who looks at the state while the step looks at gradients and data sees what comes later, too", () => {
  const ends = [0, 1, 2, 3, 5].flatMap((when) =>
    (["grad", "data"] as const).map((field) => {
      const params = parameters(), optimizer = new AdamW([{ params: params.slice(0, 2) }, { params: params.slice(2) }]);
      setGradients(params, 1);
      const own = params[2]![field];
      let step = 1, held: typeof optimizer.state | null = null;
      const get = () => {
        if (step === when) held = optimizer.state;
        return own;
      };
      Object.defineProperty(params[2], field, { get });
      for (; step <= 7; step++) {
        optimizer.step();
        if (held !== null) assertEquals(params.map((p) => held!.get(p)!["step"]), SIZES.map(() => step));
      }
      return everything(optimizer, params);
    })
  );
  for (const end of ends) assertEquals(end, ends[0]);
});

test("a number of a state that is none is an error where its parameter has a gradient, which is named, and only there", () => {
  const params = parameters(), optimizer = new AdamW(params);
  setGradients(params, 1);
  params[0]!.grad = null;
  for (let i = 0; i < 3; i++) optimizer.step();
  const entry = optimizer.state.get(params[1]!)!, grad = params[1]!.grad;
  delete entry["step"];
  for (let i = 0; i < 2; i++) {
    assertThrows(() => optimizer.step(), TypeError, "step of paramGroups[0].params[1] must be a number, got undefined");
  }
  entry["step"] = 3;
  for (let i = 0; i < 3; i++) optimizer.step();
  delete entry["step"];
  params[1]!.grad = null;
  optimizer.step();
  assertEquals(params.map((p) => optimizer.state.get(p)?.["step"]), [undefined, undefined, 7, 7, 7]);
  params[1]!.grad = grad;
  assertThrows(() => optimizer.step(), TypeError, "step of paramGroups[0].params[1] must be a number, got undefined");
});

for (const { name, make } of ROWS) {
  test(`${name}: a first step that is skipped leaves nothing behind, the next one begins with the options of then`, () => {
    const train = (mode: Record<string, unknown>, skips: number) => {
      const params = parameters(),
        optimizer = new make([{ params: params.slice(0, 2) }, { params: params.slice(2) }], mode);
      for (let step = 1; step <= 3; step++) {
        setGradients(params, step);
        if (step === 1) params[4]!.grad = null; // its first step comes later
        const bad = params[step === 1 ? 0 : 4]!, grad = bad.grad;
        bad.grad = new Float32Array(bad.size).fill(NaN);
        for (let i = 0; i < skips; i++) {
          optimizer.step(null, { maxGradNorm: 1 });
          assert(optimizer.lastStep!.skipped);
        }
        bad.grad = grad;
        for (const group of optimizer.paramGroups) group["lr"] = 0.1 * step;
        optimizer.step(null, step === 2 ? { maxGradNorm: 1 } : {});
      }
      return everything(optimizer, params);
    };
    for (const mode of [{ foreach: false, fused: false }, {}]) {
      for (const skips of [1, 2]) assertEquals(train(mode, skips), train(mode, 0));
    }
  });
}

test("what is put into a state after a step that was skipped is used, also where that step had made something", () => {
  const train = (skips: number) => {
    const params = parameters(), optimizer = new AdamW(params, { lr: 0.1 });
    setGradients(params, 1);
    optimizer.step();
    const group = optimizer.paramGroups[0]!;
    group.amsgrad = true;
    const grad = params[0]!.grad;
    params[0]!.grad = new Float32Array(3).fill(NaN);
    for (let i = 0; i < skips; i++) optimizer.step(null, { maxGradNorm: 1 });
    params[0]!.grad = grad;
    const own = new Float32Array(3).fill(5);
    optimizer.state.get(params[0]!)!["maxExpAvgSq"] = own;
    optimizer.step();
    assert(optimizer.state.get(params[0]!)!["maxExpAvgSq"] === own);
    return everything(optimizer, params);
  };
  assertEquals(train(1), train(0));
});
