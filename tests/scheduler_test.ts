/** What holds of every scheduler: resuming, looking ahead, nesting, any field, groups that come later. */

import { test } from "node:test";
import { assert, assertEquals, assertInstanceOf, assertThrows } from "@std/assert";
import {
  type AnyOptimizer,
  ChainedScheduler,
  ConstantLR,
  CosineAnnealingLR,
  CosineAnnealingWarmRestarts,
  CyclicLR,
  ExponentialLR,
  LambdaLR,
  LinearLR,
  LRScheduler,
  lrScheduler,
  MultiplicativeLR,
  OneCycleLR,
  Parameter,
  ReduceLROnPlateau,
  SequentialLR,
  SGD,
  StateDictError,
  StepLR,
  SWALR,
} from "../mod.ts";
import { makeOptimizer, makeScheduler, rates, run, sgd, type Spec, warningsOf } from "./support/schedulers.ts";

const seq = (milestones: number[], ...schedulers: Spec[]): Spec => {
  return { type: "SequentialLR", options: { milestones }, schedulers };
};
const chain = (...schedulers: Spec[]): Spec => ({ type: "ChainedScheduler", schedulers });
const spec = (type: string, options: Record<string, unknown> = {}): Spec => ({ type, options });

const LINEAR = spec("LinearLR", { startFactor: 0.2, totalIters: 4 });
const EXPONENTIAL = spec("ExponentialLR", { gamma: 0.9 });
const COSINE = spec("CosineAnnealingLR", { tMax: 6, etaMin: 1e-4 });
const ONE_CYCLE = spec("OneCycleLR", { maxLr: 0.7, totalSteps: 40 });

/** Those that can drive any field. */
const FREE: Spec[] = [
  spec("LambdaLR", { lrLambda: "inverse" }),
  spec("LambdaLR", { lrLambda: ["inverse", "pow0.95"] }),
  spec("MultiplicativeLR", { lrLambda: "alternate" }),
  spec("StepLR", { stepSize: 3, gamma: 0.5 }),
  spec("MultiStepLR", { milestones: [9, 2, 2], gamma: 0.5 }),
  spec("ConstantLR", { factor: 0.3, totalIters: 4 }),
  LINEAR,
  EXPONENTIAL,
  spec("PolynomialLR", { totalIters: 9, power: 1.7 }),
  COSINE,
  spec("CosineAnnealingWarmRestarts", { t0: 2, tMult: 2, etaMin: 1e-4 }),
];
const NESTED: Spec[] = [
  seq([4], LINEAR, COSINE),
  seq([0, 3, 3], LINEAR, EXPONENTIAL, COSINE, spec("StepLR", { stepSize: 2 })),
  chain(LINEAR, EXPONENTIAL, COSINE),
  seq([5], chain(LINEAR, EXPONENTIAL), COSINE),
  seq([5], LINEAR, chain(spec("ConstantLR", { totalIters: 3 }), EXPONENTIAL)),
  seq([6], seq([2], LINEAR, EXPONENTIAL), seq([3], COSINE, LINEAR)),
  chain(seq([3, 7], LINEAR, COSINE, chain(EXPONENTIAL, LINEAR)), spec("StepLR", { stepSize: 4, gamma: 0.5 })),
  seq([4], EXPONENTIAL, spec("MultiplicativeLR", { lrLambda: "constant0.9" })),
];
const OTHERS: Spec[] = [
  spec("CyclicLR", { baseLr: 0.01, maxLr: 0.1, stepSizeUp: 3, stepSizeDown: 2, mode: "exp_range", gamma: 0.9 }),
  spec("CyclicLR", { baseLr: [0.01, 0.02], maxLr: 0.1, stepSizeUp: 3, scaleFn: "inverse" }),
  ONE_CYCLE,
  spec("OneCycleLR", { maxLr: [0.7, 0.3], totalSteps: 30, threePhase: true, annealStrategy: "linear" }),
  spec("SWALR", { swaLr: 0.05, annealEpochs: 7 }),
  spec("SWALR", { swaLr: [0.05, 0.1], annealEpochs: 7, annealStrategy: "linear" }),
  seq([5, 12], LINEAR, ONE_CYCLE, COSINE),
  seq([5], COSINE, spec("SWALR", { swaLr: 0.05, annealEpochs: 5 })),
  chain(EXPONENTIAL, spec("SWALR", { swaLr: 0.05, annealEpochs: 5 })),
];
const EVERY = [...FREE, ...NESTED, ...OTHERS];
const STEPS = 20;

const nameOf = ({ type, options = {}, schedulers }: Spec): string => {
  return schedulers ? `${type}[${schedulers.map(nameOf).join(", ")}]` : `${type}(${Object.keys(options).join(", ")})`;
};
const withField = (s: Spec, field: string): Spec => ({
  ...s,
  options: { ...s.options, ...(s.schedulers ? {} : { field }) },
  ...(s.schedulers ? { schedulers: s.schedulers.map((c) => withField(c, field)) } : {}),
});

for (const s of EVERY) {
  test(`resumed at every epoch it goes on as if it had never stopped, to the bit: ${nameOf(s)}`, () => {
    const optimizer = sgd(0.5, 0.2), scheduler = makeScheduler(s, optimizer), rows = [rates(optimizer)];
    const momenta = () => optimizer.paramGroups.map((g) => g.momentum), moments = [momenta()];
    const saved: string[] = [];
    const save = () => saved.push(JSON.stringify([scheduler.stateDict(), optimizer.stateDict()]));
    save();
    for (let t = 0; t < STEPS; t++) {
      optimizer.step();
      scheduler.step();
      rows.push(rates(optimizer));
      moments.push(momenta());
      save();
    }
    saved.forEach((text, t) => {
      const other = sgd(0.5, 0.2), again = makeScheduler(s, other), [a, b] = JSON.parse(text);
      again.loadStateDict(a);
      other.loadStateDict(b);
      assertEquals(again.stateDict(), a);
      const seen = run(other, again, STEPS - t);
      assertEquals(seen, rows.slice(t), `resumed at ${t}`);
      assertEquals(other.paramGroups.map((g) => g.momentum), moments.at(-1));
    });
  });

  test(`values(n) is what stepping gives, and changes nothing: ${nameOf(s)}`, () => {
    const optimizer = sgd(0.5, 0.2), scheduler = makeScheduler(s, optimizer);
    for (let t = 0; t < 8; t++) {
      const before = structuredClone([scheduler.stateDict(), optimizer.stateDict(), scheduler.getLastLr()]);
      const ahead = scheduler.values(12);
      assertEquals([scheduler.stateDict(), optimizer.stateDict(), scheduler.getLastLr()], before);
      assertEquals(ahead[0], rates(optimizer));
      const copy = sgd(0.5, 0.2), other = makeScheduler(s, copy);
      other.loadStateDict(scheduler.stateDict());
      copy.loadStateDict(optimizer.stateDict());
      assertEquals(run(copy, other, 11), ahead);
      assertEquals(other.getLastLr(), ahead.at(-1));
      optimizer.step();
      scheduler.step();
    }
  });
}

for (const s of [...FREE, ...NESTED]) {
  test(`weightDecay goes as lr does, and lr is left alone: ${nameOf(s)}`, () => {
    const plain = sgd(0.5, 0.2), expected = run(plain, makeScheduler(s, plain), STEPS);
    const optimizer = makeOptimizer({
      type: "AdamW",
      groups: [{ options: { lr: 0.3, weightDecay: 0.5 } }, { options: { lr: 0.4, weightDecay: 0.2 } }],
    });
    const scheduler = makeScheduler(withField(s, "weightDecay"), optimizer);
    assertEquals(run(optimizer, scheduler, STEPS, "weightDecay"), expected);
    assertEquals(scheduler.getLastLr(), expected.at(-1));
    assertEquals(scheduler.field, "weightDecay");
    assertEquals(rates(optimizer), [0.3, 0.4]);
    assertEquals(rates(optimizer, "initialWeightDecay"), [0.5, 0.2]);
    assertEquals(optimizer.paramGroups[0]!.initialLr, undefined);
  });
}

for (const s of FREE) {
  test(`the pure form is the straight run: ${nameOf(s)}`, () => {
    const optimizer = sgd(0.5, 0.2), rows = run(optimizer, makeScheduler(s, optimizer), STEPS);
    if (s.type === "MultiplicativeLR") return; // it goes on from the value before it
    // in a SequentialLR a scheduler starts by its pure form, and a chain of one is the scheduler itself
    for (const other of [seq([], s), chain(s), seq([0], COSINE, s), chain(seq([], chain(s)))]) {
      const o = sgd(0.5, 0.2);
      assertEquals(run(o, makeScheduler(other, o), STEPS), rows, nameOf(other));
    }
    const late = sgd(0.5, 0.2), after = run(late, makeScheduler(seq([3], EXPONENTIAL, s), late), STEPS + 3).slice(3);
    after.forEach((row, t) =>
      row.forEach((x, i) =>
        assert(Math.abs(x - rows[t]![i]!) <= 1e-12 * rows[0]![i]! * 5, `${t}: ${x}, ${rows[t]![i]}`)
      )
    );
  });
}

test("nested sequences are the flat one", () => {
  const flat = sgd(0.5), nested = sgd(0.5), parts = [LINEAR, EXPONENTIAL, COSINE, spec("StepLR", { stepSize: 2 })];
  const rows = run(flat, makeScheduler(seq([4, 7, 12], ...parts), flat), STEPS);
  const inner = seq([4], seq([], LINEAR), seq([3, 8], ...parts.slice(1)));
  assertEquals(run(nested, makeScheduler(inner, nested), STEPS), rows);
});

test("a chain that comes first in a sequence starts once (torch steps it twice)", () => {
  const one = sgd(0.5), rows = run(one, makeScheduler(seq([5], EXPONENTIAL, COSINE), one), STEPS);
  const two = sgd(0.5);
  assertEquals(run(two, makeScheduler(seq([5], chain(EXPONENTIAL), chain(COSINE)), two), STEPS), rows);
  assertEquals(rows.slice(0, 3), [[0.5], [0.45], [0.45 * 0.9]]);
});

test("SequentialLR with lastEpoch finds its scheduler and its value (torch starts again)", () => {
  const straight = sgd(0.5), rows = run(straight, makeScheduler(seq([4], LINEAR, EXPONENTIAL), straight), STEPS);
  for (let t = 1; t <= STEPS; t++) {
    const optimizer = new SGD([{ params: [new Parameter([0])], lr: rows[t]![0]!, initialLr: 0.5 }]);
    const schedulers = [
      new LinearLR(optimizer, { startFactor: 0.2, totalIters: 4, lastEpoch: t - 1 }),
      new ExponentialLR(optimizer, { gamma: 0.9, lastEpoch: t - 1 }),
    ];
    const scheduler = new SequentialLR(optimizer, { schedulers, milestones: [4], lastEpoch: t - 1 });
    assertEquals(scheduler.lastEpoch, t);
    assertEquals(scheduler.values(STEPS - t + 1), rows.slice(t));
  }
});

test("schedules of a pure function of the epoch resume by lastEpoch", () => {
  for (
    const s of [spec("LambdaLR", { lrLambda: "inverse" }), spec("CosineAnnealingWarmRestarts", { t0: 1, tMult: 3 })]
  ) {
    const straight = sgd(0.5), rows = run(straight, makeScheduler(s, straight), STEPS);
    for (let t = 1; t <= STEPS; t++) {
      const optimizer = new SGD([{ params: [new Parameter([0])], lr: 9, initialLr: 0.5 }]);
      const scheduler = makeScheduler({ ...s, options: { ...s.options, lastEpoch: t - 1 } }, optimizer);
      assertEquals(scheduler.values(STEPS - t + 1), rows.slice(t));
    }
  }
});

test("two schedulers of two fields do not see each other", () => {
  const optimizer = sgd(0.5), lr = new StepLR(optimizer, { stepSize: 1, gamma: 0.5 });
  const decay = new CosineAnnealingLR(optimizer, { tMax: 2, field: "weightDecay" });
  assertEquals(lr.values(3), [[0.5], [0.25], [0.125]]);
  optimizer.step();
  lr.step();
  decay.step();
  assertEquals(rates(optimizer), [0.25]);
  assertEquals(rates(optimizer, "weightDecay"), [0.005]);
  assertThrows(() => new StepLR(optimizer, { stepSize: 1, field: "betas" }), TypeError, 'got "betas"; there is lr, ');
  assertThrows(() => new StepLR(optimizer, { stepSize: 1, field: "" }), TypeError, 'got ""');
  assertThrows(() => new ChainedScheduler([lr, decay]), RangeError, 'one field, got "lr" and "weightDecay"');
});

test("other schedulers on the optimizer count as constant in values(n)", () => {
  const optimizer = sgd(0.5), a = new ExponentialLR(optimizer, { gamma: 0.5 });
  const b = new StepLR(optimizer, { stepSize: 1, gamma: 0.1 });
  optimizer.step();
  a.step();
  b.step();
  assertEquals(a.values(3), [[0.025], [0.0125], [0.00625]]);
});

test("a group that is added later takes part, from what it has then", () => {
  for (const s of EVERY) {
    if (Object.values(s.options ?? {}).some((v) => Array.isArray(v) && v.length === 2)) continue; // lists
    const optimizer = sgd(0.5, 0.2), scheduler = makeScheduler(s, optimizer);
    for (let t = 0; t < 3; t++) {
      optimizer.step();
      scheduler.step();
    }
    optimizer.addParamGroup({ params: [new Parameter([0])], lr: 0.3 });
    const ahead = scheduler.values(4);
    assertEquals(ahead[0]!.length, 3);
    const rows = run(optimizer, scheduler, 3);
    assertEquals(rows, ahead, nameOf(s));
    assertEquals(optimizer.paramGroups[2]!.initialLr, 0.3);
    assertEquals(scheduler.getLastLr(), rows.at(-1));
    const dict = scheduler.stateDict();
    scheduler.loadStateDict(dict);
    assertEquals(scheduler.stateDict(), dict);
  }
  const optimizer = sgd(0.5), scheduler = new LambdaLR(optimizer, { lrLambda: (t) => 1 / (1 + t) });
  optimizer.addParamGroup({ params: [new Parameter([0])], lr: 3 });
  optimizer.step();
  scheduler.step();
  assertEquals(rates(optimizer), [0.25, 1.5]);
  const listed = sgd(0.5), list = new LambdaLR(listed, { lrLambda: [() => 1] });
  listed.addParamGroup({ params: [new Parameter([0])] });
  listed.step();
  assertThrows(() => list.step(), RangeError, "lrLambda must have a value for each param group");
});

test("a state dict that is saved between a new group and the next step can be loaded", () => {
  for (const s of [EXPONENTIAL, COSINE, ONE_CYCLE, seq([3], LINEAR, COSINE), spec("ReduceLROnPlateau")]) {
    const make = () => {
      const optimizer = sgd(0.5), scheduler = makeScheduler(s, optimizer);
      return { optimizer, scheduler };
    };
    const one = make(), other = make();
    const group = () => ({ params: [new Parameter([0])], lr: 0.3 });
    one.optimizer.addParamGroup(group());
    other.optimizer.addParamGroup(group());
    other.scheduler.loadStateDict(one.scheduler.stateDict());
    other.optimizer.loadStateDict(one.optimizer.stateDict());
    if (s.type !== "ReduceLROnPlateau") assertEquals(run(other.optimizer, other.scheduler, 5), one.scheduler.values(6));
  }
});

test("a milestone at which a step fails changes nothing", () => {
  let wrong = true;
  const optimizer = sgd(1);
  const chain = new ChainedScheduler([
    new ExponentialLR(optimizer, { gamma: 0.5 }),
    new LambdaLR(optimizer, { lrLambda: () => wrong && optimizer.stepCount > 0 ? NaN : 2 }),
  ]);
  const first = new StepLR(optimizer, { stepSize: 9 });
  const scheduler = new SequentialLR(optimizer, { schedulers: [first, chain], milestones: [1] });
  optimizer.step();
  const before = scheduler.stateDict();
  assertThrows(() => scheduler.step(), RangeError, "got NaN at epoch 0");
  assertEquals([scheduler.stateDict(), rates(optimizer)], [before, [1]]);
  wrong = false;
  scheduler.step();
  assertEquals(rates(optimizer), [2]);
});

test("a plateau takes groups in that come later", () => {
  const optimizer = sgd(0.5), scheduler = new ReduceLROnPlateau(optimizer, { patience: 0, factor: 0.5 });
  optimizer.addParamGroup({ params: [new Parameter([0])], lr: 1 });
  [1, 1, 1].forEach((metric) => scheduler.step(metric));
  assertEquals(rates(optimizer), [0.125, 0.25]);
});

test("a scheduler that is stepped before the optimizer says so, once", () => {
  for (const s of [EXPONENTIAL, seq([2], LINEAR, EXPONENTIAL), chain(LINEAR, EXPONENTIAL)]) {
    const optimizer = sgd(0.5), scheduler = makeScheduler(s, optimizer);
    const said = warningsOf(() => {
      scheduler.step();
      scheduler.step();
    });
    assertEquals(said.length, 1, nameOf(s));
    assert(said[0]!.includes("before optimizer.step()"));
    const good = sgd(0.5), later = makeScheduler(s, good);
    assertEquals(warningsOf(() => void run(good, later, 3)), []);
  }
  const optimizer = sgd(0.5);
  const counted = optimizer.stepCount;
  optimizer.step();
  assertEquals([counted, optimizer.stepCount], [0, 1]);
});

test("initialLr that is out of date is warned of", () => {
  const optimizer = sgd(0.5);
  assertEquals(
    warningsOf(() => {
      new LinearLR(optimizer, {});
      new LambdaLR(optimizer, { lrLambda: () => 1 }); // lr is 0.5 / 3 now, and that is a scheduler's doing
    }),
    [],
  );
  optimizer.paramGroups[0]!.lr = 10;
  const said = warningsOf(() => new LambdaLR(optimizer, { lrLambda: () => 1 }));
  assertEquals(said.length, 1);
  assert(said[0]!.includes("initialLr of paramGroups[0], which is 0.5, while its lr is 10"), said[0]!);
  assertEquals(rates(optimizer), [0.5]); // as in torch
});

test("a schedule of one's own nests, resumes and looks ahead", () => {
  class Own extends LRScheduler {
    constructor(optimizer: AnyOptimizer, { half = 2, lastEpoch = -1 } = {}) {
      const state = { half };
      super(optimizer, { lastEpoch }, { state, at: (base, t) => base / (1 + t / state.half) });
    }
  }
  const optimizer = sgd(1), own = new Own(optimizer);
  assertEquals(own.values(3), [[1], [1 / 1.5], [0.5]]);
  const other = new Own(sgd(1), { half: 5 });
  other.loadStateDict(own.stateDict());
  assertEquals(other.stateDict(), own.stateDict());
  assertEquals(own.stateDict()["half"], 2);
  assertThrows(() => other.loadStateDict({ ...own.stateDict(), half: "2" }), StateDictError, "half must be a number");
  const nest = sgd(1);
  const scheduler = new SequentialLR(nest, { schedulers: [new ConstantLR(nest), new Own(nest)], milestones: [1] });
  assertEquals(scheduler.values(4), [[1 / 3], [1], [1 / 1.5], [0.5]]);
});

test("getLr() may be overridden, as in torch", () => {
  class Capped extends ExponentialLR {
    override getLr(): number[] {
      return super.getLr().map((lr) => Math.max(lr, 0.3));
    }
  }
  class Torchs extends LRScheduler {
    override getLr(): number[] {
      return this.optimizer.paramGroups.map((g) => this.lastEpoch === 0 ? g.lr : g.lr * 0.5);
    }
  }
  const optimizer = sgd(1), capped = new Capped(optimizer, { gamma: 0.5 });
  assertEquals(warningsOf(() => assertEquals(capped.values(4), [[1], [0.5], [0.3], [0.3]])), []);
  const rows = run(optimizer, capped, 3);
  assertEquals(rows, [[1], [0.5], [0.3], [0.3]]);
  const nest = sgd(1);
  const nested = new SequentialLR(nest, { schedulers: [new ConstantLR(nest), new Torchs(nest)], milestones: [1] });
  assertEquals(nested.values(4).map(([x]) => x), [1 / 3, 1 / 3, 1 / 6, 1 / 12]);
  assertEquals(run(nest, nested, 3).map(([x]) => x), [1 / 3, 1 / 3, 1 / 6, 1 / 12]);
  class Bad extends LRScheduler {
    override getLr(): number[] {
      return [1, 2];
    }
  }
  const good = sgd(1);
  assertThrows(() => new Bad(good), TypeError, "getLr() must return a number for each of 1 param groups");
  class None extends LRScheduler {}
  assertThrows(() => new None(good), TypeError, "None must give a schedule or override getLr()");
  assertEquals(warningsOf(() => void new StepLR(good, { stepSize: 1 }).getLr()).length, 1);
});

test("a step that fails changes nothing", () => {
  const optimizer = sgd(0.5);
  let wrong = false;
  const scheduler = new ChainedScheduler([
    new ExponentialLR(optimizer, { gamma: 0.5 }),
    new MultiplicativeLR(optimizer, { lrLambda: () => wrong ? NaN : 1 }),
  ]);
  optimizer.step();
  scheduler.step();
  const before = [scheduler.stateDict(), optimizer.stateDict()];
  wrong = true;
  assertThrows(() => scheduler.step(), RangeError, "lrLambda must return a number, got NaN at epoch 2");
  assertEquals([scheduler.stateDict(), optimizer.stateDict()], before);
  wrong = false;
  assertEquals(scheduler.values(2), [[0.25], [0.125]]);
});

test("a constructor that fails changes nothing", () => {
  const untouched = (make: (optimizer: AnyOptimizer) => unknown, includes: string) => {
    const optimizer = sgd(0.5, 0.2), before = optimizer.stateDict();
    const error = assertThrows(() => make(optimizer), Error, includes);
    assert(error instanceof TypeError || error instanceof RangeError, String(error));
    assertEquals(optimizer.stateDict(), before);
  };
  untouched((o) => new LambdaLR(o, { lrLambda: () => NaN }), "got NaN");
  untouched((o) => new LambdaLR(o, { lrLambda: [() => 2, () => "2" as unknown as number] }), 'got "2"');
  untouched((o) => new LambdaLR(o, { lrLambda: 2 as unknown as () => number }), "lrLambda must be a function, got 2");
  untouched((o) => new ExponentialLR(o, {} as { gamma: number }), "gamma must be a number, got undefined");
  untouched((o) => new ExponentialLR(o, undefined as unknown as { gamma: number }), "gamma must be a number");
  untouched((o) => new ExponentialLR(o, { gamma: NaN }), "gamma must be finite, got NaN");
  untouched((o) => new StepLR(o, { stepSize: 1.5 }), "stepSize must be an integer >= 1, got 1.5");
  untouched((o) => new StepLR(o, { stepSize: 1, step: 2 } as { stepSize: number }), 'StepLR has no option "step"');
  untouched((o) => new StepLR(o, { stepSize: 1, lastEpoch: -2 }), "lastEpoch must be an integer >= -1, got -2");
  untouched((o) => new StepLR(o, { stepSize: 1, lastEpoch: 3 }), "initialLr must be in paramGroups[0]");
  untouched((o) => new CyclicLR(o, { baseLr: 1, maxLr: 2, stepSizeUp: 0 }), "stepSizeUp must be > 0 and finite, got 0");
  untouched((o) => new CyclicLR(o, { baseLr: 1, maxLr: 2, lastEpoch: 1 }), "initialLr");
  untouched((o) => new CyclicLR(o, { baseLr: 1, maxLr: 2, maxMomentum: 1 }), "maxMomentum must be >= 0 and < 1, got 1");
  untouched((o) => new OneCycleLR(o, { maxLr: 1, totalSteps: 5, divFactor: 0 }), "divFactor must be > 0");
  untouched((o) => new OneCycleLR(o, { maxLr: -1, totalSteps: 5 }), "maxLr must be >= 0 and finite, got -1");
  untouched((o) => new SWALR(o, { swaLr: [1, NaN] }), "swaLr[1] must be >= 0 and finite, got NaN");
  untouched((o) => new ReduceLROnPlateau(o, { patience: -1 }), "patience must be an integer >= 0, got -1");
  untouched(
    (o) => new ReduceLROnPlateau(o, { mode: "least" as "min" }),
    'mode must be "min" or "max", got "least"',
  );
  untouched((o) => new SequentialLR(o, { schedulers: [], milestones: [] }), "at least one scheduler");
  untouched(
    (o) => new SequentialLR(o, { schedulers: [o as unknown as LRScheduler], milestones: [] }),
    "schedulers[0] must be a scheduler, got",
  );
  untouched(() => new ChainedScheduler(3 as unknown as LRScheduler[]), "schedulers must be an array, got 3");
  assertThrows(() => new StepLR({} as AnyOptimizer, { stepSize: 1 }), TypeError, "optimizer must be an Optimizer");
  const optimizer = sgd(1), a = new StepLR(optimizer, { stepSize: 1 }), b = new StepLR(optimizer, { stepSize: 1 });
  const three = [a, b, new StepLR(optimizer, { stepSize: 1 })];
  assertThrows(
    () => new SequentialLR(optimizer, { schedulers: three, milestones: [5, 2] }),
    RangeError,
    "milestones must not decrease, got [5, 2]",
  );
  assertThrows(() => new ChainedScheduler([a, a]), RangeError, "must be different ones");
  assertThrows(() => a.step(3 as never), TypeError, "StepLR.step() takes no epoch, got 3");
  assertThrows(() => a.values(-1), RangeError, "n must be an integer >= 0, got -1");
  assertThrows(() => a.values("1" as unknown as number), TypeError, 'n must be a number, got "1"');
});

test("a state dict that does not fit is refused, and changes nothing", () => {
  const refused = (scheduler: LRScheduler, dict: unknown, includes: string) => {
    const before = scheduler.stateDict();
    assertThrows(() => scheduler.loadStateDict(dict as Record<string, unknown>), StateDictError, includes);
    assertEquals(scheduler.stateDict(), before);
  };
  const optimizer = sgd(1, 2), step = new StepLR(optimizer, { stepSize: 2 }), dict = step.stateDict();
  refused(step, null, "must be an object, got null");
  refused(step, [], "must be an object");
  refused(step, {}, "lastEpoch must be an integer >= -1, got undefined");
  refused(step, { ...dict, lastEpoch: 1.5 }, "lastEpoch must be an integer");
  refused(step, { ...dict, baseLrs: [1] }, "baseLrs has 1 numbers in the state dict, the optimizer has 2 groups");
  refused(step, { ...dict, baseLrs: [1, "2"] }, "baseLrs must be an array of numbers");
  refused(step, { ...dict, stepSize: 0 }, "stepSize must be an integer >= 1, got 0");
  refused(step, { ...dict, milestones: [1] }, "milestones is no state of this scheduler");
  refused(step, { ...dict, field: "weightDecay" }, 'field is "weightDecay" in the state dict, "lr" in the scheduler');
  refused(
    step,
    new ExponentialLR(sgd(1, 2), { gamma: 1 }).stateDict(),
    "stepSize must be in the state dict of a StepLR",
  );
  const plateau = new ReduceLROnPlateau(sgd(1), {});
  refused(plateau, { ...plateau.stateDict(), best: "good" }, "best must be a number");
  refused(plateau, { ...plateau.stateDict(), patience: -1 }, "patience must be an integer >= 0, got -1");
  const restarts = new CosineAnnealingWarmRestarts(sgd(1), { t0: 3 });
  refused(restarts, { ...restarts.stateDict(), lastEpoch: 1 }, "tCur must be >= 1 and < 2 at lastEpoch 1, got 0");
  const make = () => {
    const o = sgd(1);
    return new SequentialLR(o, {
      schedulers: [new StepLR(o, { stepSize: 2 }), new ExponentialLR(o, { gamma: 0.5 })],
      milestones: [3],
    });
  };
  const nested = make(), good = make().stateDict() as { schedulers: Record<string, unknown>[] };
  refused(nested, { ...good, schedulers: [good.schedulers[0]] }, "schedulers must be 2 state dicts, got 1");
  refused(nested, { ...good, milestones: [1, 2] }, "milestones must be one fewer than schedulers");
  refused(
    nested,
    { ...good, schedulers: [{ ...good.schedulers[0], stepSize: 9 }, { ...good.schedulers[1], gamma: "2" }] },
    "gamma must be a number",
  );
});

test("a state dict carries options, as torch's does, and no more", () => {
  const a = new StepLR(sgd(1), { stepSize: 2, gamma: 0.5 }), b = new StepLR(sgd(1), { stepSize: 9 });
  b.loadStateDict({ ...a.stateDict(), isInitial: false, getLrCalledWithinStep: false });
  assertEquals(b.values(3), [[1], [1], [0.5]]);
  assertEquals(a.stateDict(), { lastEpoch: 0, baseLrs: [1], stepCount: 1, lastLr: [1], stepSize: 2, gamma: 0.5 });
});

test("the best metric that JSON made null of is none yet", () => {
  const optimizer = sgd(1), scheduler = new ReduceLROnPlateau(optimizer, { mode: "max" });
  assertEquals(scheduler.stateDict()["best"], -Infinity);
  const other = new ReduceLROnPlateau(sgd(1), { mode: "max" });
  other.loadStateDict(JSON.parse(JSON.stringify(scheduler.stateDict())));
  assertEquals(other.stateDict(), scheduler.stateDict());
  assertThrows(() => scheduler.values(2), TypeError, "ReduceLROnPlateau has no values(n)");
});

test("the namespace has every scheduler", () => {
  assertInstanceOf(new lrScheduler.StepLR(sgd(1), { stepSize: 1 }), LRScheduler);
  for (const s of EVERY) {
    if (s.type !== "SWALR") assert(s.type in lrScheduler, s.type);
  }
});
