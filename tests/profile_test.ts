/** Where the time of steps goes: profile() and FLATSTEP_PROFILE. */

import { test } from "node:test";
import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { bestBackend } from "../ffi/load.ts";
import {
  Adafactor,
  AdamW,
  backend,
  LBFGS,
  Muon,
  Parameter,
  profile,
  SGD,
  SparseTensor,
  type StepProfile,
} from "../mod.ts";
import { profiling } from "../src/profile.ts";
import { IS_BUN, runProgram } from "./support/runtime.ts";

const N = 1000;

/** A parameter with a gradient. */
function parameter(n = N, dtype: "float32" | "bfloat16" = "float32"): Parameter {
  const make = () => dtype === "float32" ? new Float32Array(n).fill(1) : new Uint16Array(n).fill(0x3f80);
  const p = new Parameter(make(), { dtype });
  p.grad = make();
  return p;
}

/** What is told of the steps that a function makes. */
function told(steps: () => void): StepProfile[] {
  const found: StepProfile[] = [], profiled = profile((step) => found.push(step));
  try {
    steps();
  } finally {
    profiled.stop();
  }
  return found;
}

const spin = (ms: number) => {
  const end = performance.now() + ms;
  while (performance.now() < end);
};

test("profile() tells of each step its class, its number, and times that add up", () => {
  const adamw = new AdamW([parameter()]), sgd = new SGD([parameter()]);
  adamw.step();
  const found = told(() => {
    adamw.step();
    sgd.step();
    adamw.step();
  });
  assertEquals(found.map(({ optimizer, step }) => [optimizer, step]), [["AdamW", 2], ["SGD", 1], ["AdamW", 3]]);
  for (const { ms, typescriptMs, callMs, kernelMs, skipped } of found) {
    assertEquals(skipped, false);
    assert(typescriptMs >= 0 && callMs >= 0 && kernelMs > 0, `${typescriptMs} ${callMs} ${kernelMs}`);
    assert(Math.abs(ms - typescriptMs - callMs - kernelMs) <= 1e-9 * ms, `${ms} ms`);
  }
});

test("profile() takes the kernels' time from the native library: it grows with the work, the rest does not", () => {
  assert(bestBackend().library !== null, `the native library is not in use: ${backend().why}`);
  const optimizer = new AdamW([parameter(4_000_000)]),
    times: StepProfile[] = told(() => {
      for (let i = 0; i < 5; i++) optimizer.step();
    });
  const best = times.reduce((a, b) => a.ms < b.ms ? a : b);
  assert(best.kernelMs > 0.5 * best.ms, `of ${best.ms} ms ${best.kernelMs} ms are in kernels`);
  assert(best.callMs > 0, "a call takes longer than its kernels");
});

test("profile() counts the bytes that each buffer is read and written, the same in every implementation", () => {
  const bytes = (make: (p: Parameter[]) => { step(): unknown }, params = [parameter()]) => {
    const optimizer = make(params);
    optimizer.step(); // SGD's first step copies the gradient
    return told(() => void optimizer.step())[0]!.bytes;
  };
  for (const mode of [{}, { foreach: true }, { fused: true }, { foreach: false, fused: false }]) {
    assertEquals(bytes((p) => new AdamW(p, mode)), 28 * N);
    assertEquals(bytes((p) => new AdamW(p, { ...mode, amsgrad: true })), 36 * N);
    assertEquals(bytes((p) => new SGD(p, mode)), 12 * N);
    assertEquals(bytes((p) => new SGD(p, { ...mode, momentum: 0.9 })), 20 * N);
    assertEquals(bytes((p) => new AdamW(p, mode), [parameter(N, "bfloat16")]), 14 * N);
    assertEquals(
      bytes((p) => new AdamW(p, mode), [parameter(), new Parameter(new Float32Array(5)), parameter(7)]),
      28 * (N + 7),
    );
  }
});

test("profile() counts a sparse gradient's rows alone", () => {
  const p = new Parameter(new Float32Array(400), { shape: [100, 4] }), optimizer = new SGD([p], { lr: 1 });
  p.grad = new SparseTensor([[7, 9]], new Float32Array(8).fill(1), [100, 4]);
  const [{ bytes }] = told(() => void optimizer.step()) as [StepProfile];
  assertEquals(bytes, 12 * 8);
});

test("profile() counts the norm's pass over the gradients, and tells when a step is skipped", () => {
  const p = parameter(), optimizer = new AdamW([p]);
  optimizer.step();
  const found = told(() => {
    optimizer.step(null, { maxGradNorm: 1 });
    (p.grad as Float32Array)[3] = NaN;
    optimizer.step(null, { maxGradNorm: 1 });
  });
  assertEquals(found.map(({ step, skipped, bytes }) => ({ step, skipped, bytes })), [
    { step: 2, skipped: false, bytes: 32 * N },
    { step: 2, skipped: true, bytes: 4 * N },
  ]);
});

test("profile() knows the optimizers that look at whole tensors, and those that search", () => {
  const matrix = () => {
    const p = new Parameter(new Float32Array(600).fill(1), { shape: [20, 30] });
    p.grad = new Float32Array(600).fill(1);
    return [p];
  };
  const x = new Parameter(new Float64Array(10).fill(1)), lbfgs = new LBFGS([x]);
  const found = told(() => {
    new Adafactor(matrix()).step();
    new Muon(matrix()).step();
    lbfgs.step(() => {
      spin(1);
      const data = x.data as Float64Array;
      x.grad = data.map((v) => 2 * v);
      return data.reduce((sum, v) => sum + v * v, 0);
    });
  });
  assertEquals(found.map(({ optimizer }) => optimizer), ["Adafactor", "Muon", "LBFGS"]);
  for (const { optimizer, bytes, kernelMs } of found) assert(bytes > 0 && kernelMs > 0, optimizer);
  assertEquals(found[0]!.bytes, 4 * (600 * 3 + 2 * (20 + 30)));
});

test("profile() leaves out what a closure takes, also one that is waited for", async () => {
  const p = parameter(), optimizer = new AdamW([p]), found: StepProfile[] = [];
  const profiled = profile((step) => found.push(step));
  try {
    optimizer.step(() => {
      spin(300);
      return 1;
    });
    await optimizer.stepAsync(async () => {
      await new Promise((resolve) => setTimeout(resolve, 300));
      return 1;
    });
  } finally {
    profiled.stop();
  }
  assertEquals(found.map(({ step }) => step), [1, 2]);
  for (const { ms } of found) assert(ms < 250, `${ms} ms`);
});

test("profile() tells steps inside of a closure apart from the one around it", () => {
  const inner = new SGD([parameter()]), outer = new AdamW([parameter()]);
  outer.step();
  const found = told(() => {
    outer.step(() => {
      inner.step();
      return 1;
    });
  });
  assertEquals(found.map(({ optimizer, bytes }) => [optimizer, bytes]), [["SGD", 12 * N], ["AdamW", 28 * N]]);
});

test("profile() does not tell of a step that throws, and goes on after it", () => {
  const p = parameter(), optimizer = new AdamW([p]), good = p.grad;
  const found = told(() => {
    p.grad = new Float32Array(3);
    assertThrows(() => optimizer.step(), RangeError, "grad");
    assertThrows(
      () =>
        optimizer.step(() => {
          throw new Error("no loss");
        }),
      Error,
      "no loss",
    );
    p.grad = good;
    optimizer.step();
  });
  assertEquals(found.map(({ step, bytes }) => [step, bytes]), [[1, 28 * N]]);
});

test("profile() adds up by class; any number of profiles may run, and each ends on its own", () => {
  const adamw = new AdamW([parameter()]), sgd = new SGD([parameter()]), first = profile();
  adamw.step();
  const second = profile();
  adamw.step();
  sgd.step();
  first.stop();
  adamw.step();
  second.stop();
  adamw.step();
  const sums = (p: typeof first) => [...p.totals].map(([name, { steps, bytes }]) => [name, steps, bytes]);
  assertEquals(sums(first), [["AdamW", 2, 56 * N], ["SGD", 1, 12 * N]]);
  assertEquals(sums(second), [["AdamW", 2, 56 * N], ["SGD", 1, 12 * N]]);
  assertMatch(
    String(first),
    /^flatstep: AdamW, 2 steps, each [\d.]+ [mu]?s = .* kernels, 28\.0 kB at [\d.]+ GB\/s\nflatstep: SGD, 1 steps, /,
  );
  assertEquals(String(profile().stop()), "flatstep: no steps");
});

test("a profile that has ended leaves the backend as it was", () => {
  const native = bestBackend(), own = Object.keys(native), { run } = native;
  const profiled = profile();
  assert(native.run !== run);
  assertEquals(profiling.on, true);
  profiled.stop();
  profiled.stop();
  assert(native.run === run);
  assertEquals(profiling.on, false);
  assertEquals(Object.keys(native), own);
});

test("profiled steps have the bits of others", () => {
  const make = () => {
    const p = parameter();
    p.data.forEach((_, i) => p.data[i] = Math.sin(i));
    return p;
  };
  const a = make(), b = make(), plain = new AdamW([a]), profiled = new AdamW([b]);
  for (let i = 0; i < 5; i++) plain.step();
  told(() => {
    for (let i = 0; i < 5; i++) profiled.step();
  });
  assertEquals(a.data, b.data);
});

test("profile() refuses what is no function", () => {
  assertThrows(() => profile("1" as unknown as undefined), TypeError, 'onStep must be a function, got "1"');
});

const PROGRAM = `
import { AdamW, backend, Parameter } from "MOD";
const weight = new Parameter(new Float32Array(1000));
weight.grad = new Float32Array(1000).fill(1);
const optimizer = new AdamW([weight]);
for (let i = 0; i < 3; i++) optimizer.step();
console.log(backend().name);
`;

const LINE =
  /^flatstep: AdamW step [123]: [\d.]+ [mu]?s = [\d.]+ [mu]?s TypeScript \+ [\d.]+ [mu]?s call \+ [\d.]+ [mu]?s kernels, 28\.0 kB at [\d.]+ GB\/s$/;

for (const [asked, name] of [["native", /ffi/], ["wasm", /wasm/], ["js", /js/]] as const) {
  test(`FLATSTEP_PROFILE=1 writes a line for each step to stderr (${asked})`, { timeout: 120_000 }, async () => {
    const { code, stdout, stderr } = await runProgram(PROGRAM, {
      env: { FLATSTEP_PROFILE: "1", FLATSTEP_BACKEND: asked },
    });
    assertEquals(code, 0, stderr);
    assertMatch(stdout, name);
    const lines = stderr.trim().split("\n");
    assertEquals(lines.length, 3, stderr);
    for (const line of lines) assertMatch(line, LINE);
  });
}

test("FLATSTEP_PROFILE=summary writes a line for each class when the program ends", { timeout: 120_000 }, async () => {
  const { code, stderr } = await runProgram(PROGRAM, { env: { FLATSTEP_PROFILE: "summary" } });
  assertEquals(code, 0, stderr);
  assertMatch(stderr.trim(), /^flatstep: AdamW, 3 steps, each .* 28\.0 kB at [\d.]+ GB\/s$/);
});

test("FLATSTEP_PROFILE is 0, 1 or summary", { timeout: 120_000 }, async () => {
  const off = await runProgram(PROGRAM, { env: { FLATSTEP_PROFILE: "0" } });
  assertEquals([off.code, off.stderr], [0, ""]);
  const wrong = await runProgram(PROGRAM, { env: { FLATSTEP_PROFILE: "yes" } });
  assert(wrong.code !== 0);
  assertMatch(wrong.stderr, /RangeError: FLATSTEP_PROFILE must be 0, 1 or summary, got "yes"/);
});

test("FLATSTEP_PROFILE is not looked at where the environment may not be read", { timeout: 120_000 }, async () => {
  if (IS_BUN) return console.log("skipped: Bun has no permissions");
  const { code, stderr } = await runProgram(PROGRAM, {
    env: { FLATSTEP_PROFILE: "1" },
    permissions: ["--allow-ffi", "--allow-read"],
  });
  assertEquals([code, stderr], [0, ""]);
});
