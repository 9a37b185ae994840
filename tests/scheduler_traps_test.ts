/** Where torch 2.13 divides by zero, never gets there, or forgets: what it does, and what happens here. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  type AnyOptimizer,
  ChainedScheduler,
  ConstantLR,
  CosineAnnealingLR,
  CosineAnnealingWarmRestarts,
  CyclicLR,
  ExponentialLR,
  LinearLR,
  OneCycleLR,
  type OneCycleLROptions,
  Parameter,
  PolynomialLR,
  ReduceLROnPlateau,
  SequentialLR,
  SGD,
  StepLR,
} from "../mod.ts";
import { cos } from "../src/optim/math.ts";
import { rates, run, sgd, warningsOf } from "./support/schedulers.ts";

test("a phase of no length is refused", () => {
  const cases: [string, (o: AnyOptimizer) => unknown, string][] = [
    ["torch stays at 0.5 for ever", (o) => new LinearLR(o, { startFactor: 0.5, totalIters: 0 }), "totalIters"],
    ["torch never undoes the factor", (o) => new ConstantLR(o, { factor: 0.5, totalIters: 0 }), "totalIters"],
    ["torch leaves the rate as it is", (o) => new PolynomialLR(o, { totalIters: 0 }), "totalIters"],
    ["torch: ZeroDivisionError at the first step", (o) => new StepLR(o, { stepSize: 0 }), "stepSize"],
    ["torch: ZeroDivisionError at the first step", (o) => new CosineAnnealingLR(o, { tMax: 0 }), "tMax"],
  ];
  for (const [, make, option] of cases) {
    const optimizer = sgd(1);
    assertThrows(() => make(optimizer), RangeError, `${option} must be an integer >= 1, got 0`);
    assertEquals([rates(optimizer), optimizer.paramGroups[0]!.initialLr], [[1], undefined]);
  }
});

test("ConstantLR's factor 0 is refused (torch: 0, 0, then ZeroDivisionError at totalIters)", () => {
  assertThrows(
    () => new ConstantLR(sgd(1), { factor: 0, totalIters: 2 }),
    RangeError,
    "factor must be > 0 and <= 1, got 0",
  );
});

test("LinearLR ends at 0 with endFactor 0, not below, where the next step would refuse it (torch's ends at -1.5e-18)", () => {
  for (const startFactor of [1 / 3, 0.1, 0.7, 1]) {
    for (let totalIters = 1; totalIters <= 60; totalIters++) {
      const optimizer = sgd(0.1), scheduler = new LinearLR(optimizer, { startFactor, endFactor: 0, totalIters });
      const values = run(optimizer, scheduler, totalIters + 2);
      assert(values.slice(0, totalIters).every(([lr]) => lr! > 1e-4), `${startFactor} ${totalIters}`);
      for (const [lr] of values.slice(totalIters)) {
        assert(lr! >= 0 && lr! < 1e-15, `${startFactor} ${totalIters} ${lr}`);
      }
    }
  }
});

const oneCycle = (options: Omit<OneCycleLROptions, "maxLr">, steps: number): number[] => {
  const optimizer = sgd(1);
  const all = { maxLr: 1, annealStrategy: "linear", cycleMomentum: false, ...options } as const;
  return run(optimizer, new OneCycleLR(optimizer, all), steps).map(([lr]) => Math.round(lr! * 1e6) / 1e6);
};

test("OneCycleLR's first phase may have no length: it starts at maxLr", () => {
  // torch: ZeroDivisionError, for pctStart * totalSteps is 1
  assertEquals(oneCycle({ totalSteps: 10, pctStart: 0.1 }, 9).slice(0, 3), [1, 0.888889, 0.777779]);
  // torch begins at 0.75, a step late
  assertEquals(oneCycle({ totalSteps: 5, pctStart: 0 }, 4), [1, 0.750001, 0.500002, 0.250003, 0.000004]);
});

test("OneCycleLR with pctStart 1 only rises, and one step is its last rate, as in torch", () => {
  assertEquals(oneCycle({ totalSteps: 4, pctStart: 1 }, 4), [0.04, 0.36, 0.68, 1, 1]); // torch: ZeroDivisionError
  assertEquals(oneCycle({ totalSteps: 1 }, 1), [0.000004, 0.000004]); // torch goes to -1.43
});

test("OneCycleLR keeps its last rate at totalSteps (torch's goes to -0.36), and throws after that, as torch's", () => {
  assertEquals(oneCycle({ totalSteps: 4 }, 4).slice(3), [0.000004, 0.000004]);
  const optimizer = sgd(1), scheduler = new OneCycleLR(optimizer, { maxLr: 1, totalSteps: 4 });
  run(optimizer, scheduler, 4);
  const momentum = optimizer.paramGroups[0]!.momentum, before = scheduler.stateDict();
  assertEquals(momentum, 0.95);
  assertThrows(() => scheduler.step(), RangeError, "at most totalSteps = 4 times, got 5");
  assertEquals([scheduler.stateDict(), optimizer.paramGroups[0]!.momentum], [before, momentum]);
  assertThrows(() => scheduler.values(2), RangeError, "totalSteps = 4");
});

test("OneCycleLR of three phases with pctStart above 0.5 is refused (torch's ends at 0.73 of maxLr)", () => {
  assertThrows(
    () => new OneCycleLR(sgd(1), { maxLr: 1, totalSteps: 10, pctStart: 0.8, threePhase: true }),
    RangeError,
    "pctStart must be <= 0.5 with threePhase, got 0.8",
  );
  assert(oneCycle({ totalSteps: 10, pctStart: 0.5, threePhase: true }, 9).at(-1)! < 1e-5);
});

test("OneCycleLR takes pctStart 1 (torch wants a float: 1 is refused, 1.0 is not)", () => {
  new OneCycleLR(sgd(1), { maxLr: 1, totalSteps: 10, pctStart: 1 });
});

test("CosineAnnealingWarmRestarts is in the right cycle at every restart (torch's logarithm is one off at 121)", () => {
  for (const [t0, tMult] of [[1, 3], [1, 2], [7, 5], [3, 10]] as const) {
    const optimizer = sgd(1), scheduler = new CosineAnnealingWarmRestarts(optimizer, { t0, tMult });
    let start = 0;
    for (let length = t0; start < 1e15; start += length, length *= tMult) {
      optimizer.step();
      scheduler.step(start);
      const { tCur, tI } = scheduler.stateDict();
      assertEquals([tCur, tI, rates(optimizer)], [0, length, [1]]); // torch at 121 with 1, 3: 81, 81 and a rate of 0
      scheduler.step(start + length - 0.5);
      assertEquals(scheduler.stateDict()["tI"], length);
    }
  }
});

test("CosineAnnealingWarmRestarts resumed by lastEpoch is in its cycle (torch takes it to be in the first)", () => {
  const optimizer = new SGD([{ params: [new Parameter([0])], lr: 1, initialLr: 1 }]);
  const scheduler = new CosineAnnealingWarmRestarts(optimizer, { t0: 2, tMult: 2, lastEpoch: 8 });
  // epoch 9 is the fourth of the cycle from 6 to 14
  assertEquals([scheduler.stateDict()["tCur"], scheduler.stateDict()["tI"]], [3, 8]);
});

test("a fraction of an epoch is in the state dict", () => {
  const make = () => {
    const optimizer = sgd(1);
    return { optimizer, scheduler: new CosineAnnealingWarmRestarts(optimizer, { t0: 2, tMult: 2 }) };
  };
  for (const epoch of [0.3, 1.9, 2.7, 13.2, 14.1, 1000.6]) {
    const one = make(), other = make();
    one.scheduler.step(epoch);
    other.scheduler.loadStateDict(JSON.parse(JSON.stringify(one.scheduler.stateDict())));
    other.optimizer.loadStateDict(one.optimizer.stateDict());
    assertEquals(other.scheduler.stateDict(), one.scheduler.stateDict());
    assertEquals(other.scheduler.values(20), one.scheduler.values(20));
  }
});

test("a metric that stays at -10 is a plateau (torch: -10 < -9.999, better each time, and never a reduction)", () => {
  for (
    const [mode, metric] of [["min", -10], ["max", -10], ["min", 0], ["max", 0], ["min", 10], ["max", 10]] as const
  ) {
    const optimizer = sgd(1), scheduler = new ReduceLROnPlateau(optimizer, { mode, patience: 1, factor: 0.5 });
    for (let i = 0; i < 3; i++) scheduler.step(metric);
    assertEquals(rates(optimizer), [0.5], `${mode} ${metric}`);
  }
  const optimizer = sgd(1), scheduler = new ReduceLROnPlateau(optimizer, { patience: 1 });
  for (let i = 0; i < 9; i++) scheduler.step(-10 - i / 100);
  assertEquals(rates(optimizer), [1]); // it does get better
});

test("NaN counts as bad, and any number is better than none yet", () => {
  const optimizer = sgd(1), scheduler = new ReduceLROnPlateau(optimizer, { patience: 1, factor: 0.5 });
  [NaN, 1, NaN, NaN].forEach((metric) => scheduler.step(metric));
  assertEquals([rates(optimizer), scheduler.stateDict()["best"]], [[0.5], 1]);
  assertThrows(() => scheduler.step("1" as unknown as number), TypeError, 'metric must be a number, got "1"');
});

test("OneCycleLR in a sequence leaves the others' bases alone (torch: the first runs at maxLr / 25)", () => {
  for (const first of [true, false]) {
    for (
      const make of [
        (o: AnyOptimizer) => new OneCycleLR(o, { maxLr: 1, totalSteps: 5 }),
        (o: AnyOptimizer) => new CyclicLR(o, { baseLr: 0.04, maxLr: 1 }),
      ]
    ) {
      const optimizer = sgd(0.4);
      const exponential = first ? new ExponentialLR(optimizer, { gamma: 0.5 }) : null;
      const other = make(optimizer);
      const schedulers = [exponential ?? new ExponentialLR(optimizer, { gamma: 0.5 }), other];
      const scheduler = new SequentialLR(optimizer, { schedulers, milestones: [2] });
      // torch: 0.04, 0.02, 0.04
      assertEquals(scheduler.values(3).map(([lr]) => lr!.toFixed(3)), ["0.400", "0.200", "0.040"]);
      assertEquals(optimizer.paramGroups[0]!.momentum, 0.9, "momentum is as it was until the turn comes");
      run(optimizer, scheduler, 2);
      assert(optimizer.paramGroups[0]!.momentum > 0.85);
    }
  }
  const optimizer = sgd(0.4);
  const schedulers = [
    new OneCycleLR(optimizer, { maxLr: 1, totalSteps: 5 }),
    new ExponentialLR(optimizer, { gamma: 0.5 }),
  ];
  const scheduler = new SequentialLR(optimizer, { schedulers, milestones: [3] });
  assertEquals(scheduler.values(5).slice(3), [[0.4], [0.2]]); // torch: 0.04, 0.02
  assertEquals(optimizer.paramGroups[0]!.initialLr, 0.4);
});

test("a chain may stand anywhere in a sequence (torch: NotImplementedError at its milestone; first, a step too many)", () => {
  const optimizer = sgd(1);
  const chain = new ChainedScheduler([new ExponentialLR(optimizer, { gamma: 0.5 })]);
  const schedulers = [chain, new ExponentialLR(optimizer, { gamma: 0.9 })];
  const scheduler = new SequentialLR(optimizer, { schedulers, milestones: [3] });
  assertEquals(scheduler.values(5), [[1], [0.5], [0.25], [1], [0.9]]); // torch: 0.5, 0.25, 0.125, 1, 0.9
});

test("momentum that the optimizer did not have is warned of (torch switches it on in silence)", () => {
  const optimizer = new SGD([new Float32Array(1)]);
  const said = warningsOf(() => new CyclicLR(optimizer, { baseLr: 0.1, maxLr: 0.2 }));
  assertEquals(said.length, 1);
  assert(said[0]!.includes("cycleMomentum: false"));
  assertEquals(optimizer.paramGroups[0]!.momentum, 0.9);
  assertEquals(warningsOf(() => new CyclicLR(sgd(1), { baseLr: 0.1, maxLr: 0.2 })), []);
});

test("a group that comes later takes part also where torch's zip() throws", () => {
  const optimizer = sgd(1), scheduler = new CosineAnnealingWarmRestarts(optimizer, { t0: 2 });
  optimizer.addParamGroup({ params: [new Parameter([0])], lr: 3 });
  optimizer.step();
  scheduler.step(); // torch: ValueError "zip() argument 2 is shorter than argument 1"
  assertEquals(rates(optimizer).map((lr) => Math.round(lr * 1e9) / 1e9), [0.5, 1.5]);
});

test("cos() is Math.cos to the last place, on all angles that schedules have", () => {
  const word = new Float64Array(1), bits = new BigInt64Array(word.buffer);
  const ordinal = (x: number) => {
    word[0] = Math.abs(x);
    return Number(bits[0]);
  };
  for (let period = 1; period <= 150; period++) {
    for (let t = 0; t <= 3 * period; t++) {
      const x = Math.PI * t / period, a = cos(x), b = Math.cos(x);
      if (Math.abs(b) < 1e-10) assert(Math.abs(a - b) < 1e-25, `cos(${x}) is ${a}, expected ${b}`);
      else assert(Math.abs(ordinal(a) - ordinal(b)) <= 1 && a * b > 0, `cos(${x}) is ${a}, expected ${b}`);
    }
  }
  for (const x of [0, Math.PI, -Math.PI, 1e-300, -3, 12345.678, 1e6]) {
    assert(Math.abs(cos(x) - Math.cos(x)) <= 2e-16, String(x));
  }
  assertEquals([cos(0), cos(Math.PI), cos(NaN), cos(Infinity)], [1, -1, NaN, NaN]);
});
