/** The Optimizer base: groups, names, closures, hooks, state dicts. */

import { test } from "node:test";
import { assert, assertEquals, assertInstanceOf, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import {
  Adam,
  AdamW,
  Optimizer,
  Parameter,
  registerOptimizerStepPostHook,
  registerOptimizerStepPreHook,
  SGD,
  type StateDict,
  StateDictError,
  type StepOptions,
} from "../mod.ts";
import { ROWS } from "./support/classes.ts";

const parameter = (n = 2, name?: string) => {
  const p = new Parameter(new Float32Array(n).fill(1), name === undefined ? {} : { name });
  p.grad = new Float32Array(n).fill(1);
  return p;
};

test("an optimizer takes parameters, typed arrays, pairs, groups, and any iterable of them", () => {
  const array = Float32Array.of(1, 2);
  for (
    const params of [
      [parameter()],
      [array],
      [["w", parameter()]],
      [{ params: [parameter()], lr: 0.5 }],
      new Set([parameter()]),
    ]
  ) {
    assertEquals(new SGD(params as Iterable<Parameter>).paramGroups.length, 1);
  }
  assertStrictEquals(new SGD([array]).paramGroups[0]!.params[0], Parameter.of(array));
  assertEquals(new SGD([{ params: parameter() }]).paramGroups[0]!.params.length, 1);
  assertEquals(new SGD([{ params: [] }, { params: [parameter()] }]).paramGroups.length, 2);
});

test("a group has the constructor's options unless it says otherwise", () => {
  const optimizer = new AdamW([{ params: [parameter()], lr: 0.5 }, { params: [parameter()], betas: [0.5, 0.6] }], {
    lr: 0.1,
  });
  const [a, b] = optimizer.paramGroups;
  assertEquals([a!.lr, a!.betas, a!.weightDecay], [0.5, [0.9, 0.999], 0.01]);
  assertEquals([b!.lr, b!.betas], [0.1, [0.5, 0.6]]);
  assertEquals(optimizer.defaults.lr, 0.1);
});

test("a group's arrays are its own", () => {
  const betas: [number, number] = [0.5, 0.6];
  const optimizer = new Adam([{ params: [parameter()] }, { params: [parameter()] }], { betas });
  betas[0] = 0.1;
  optimizer.paramGroups[0]!.betas[0] = 0.2;
  assertEquals(optimizer.paramGroups[1]!.betas, [0.5, 0.6]);
  assertEquals(optimizer.defaults.betas, [0.5, 0.6]);
});

test("undefined options are absent", () => {
  const optimizer = new SGD([parameter()], { lr: undefined, momentum: undefined } as unknown as { lr: number });
  assertEquals([optimizer.paramGroups[0]!.lr, optimizer.paramGroups[0]!.momentum], [1e-3, 0]);
});

test("a group may have a name, meta, and what schedulers write", () => {
  const optimizer = new SGD([{
    params: [parameter()],
    name: "head",
    meta: { any: "thing" },
    initialLr: 0.1,
    initialMomentum: 0.5,
  }]);
  assertEquals(optimizer.stateDict().paramGroups[0]!["meta"], { any: "thing" });
  optimizer.step();
  assertThrows(() => new SGD([{ params: [parameter()], initialFoo: 1 }]), TypeError, '"initialFoo"');
  assertThrows(
    () => new SGD([{ params: [parameter()], name: 3 as unknown as string }]),
    TypeError,
    "name must be a string, got 3",
  );
});

test("names go into groups and state dicts", () => {
  const optimizer = new SGD([["a", parameter()], ["b", parameter()]] as [string, Parameter][]);
  assertEquals(optimizer.paramGroups[0]!.paramNames, ["a", "b"]);
  assertEquals(optimizer.stateDict().paramGroups[0]!.paramNames, ["a", "b"]);
});

test("an optimizer may be made of another one's groups", () => {
  const first = new SGD([["a", parameter()]] as [string, Parameter][], { lr: 0.5 });
  const second = new SGD(first.paramGroups);
  assertEquals(second.paramGroups[0]!.paramNames, ["a"]);
  assertEquals(second.paramGroups[0]!.lr, 0.5);
});

test("step() skips parameters without a gradient, and decays those with a zero gradient", () => {
  const a = parameter(), b = parameter();
  a.grad = null;
  b.grad = new Float32Array(2);
  const optimizer = new AdamW([a, b], { lr: 0.5, weightDecay: 0.5 });
  optimizer.step();
  assertEquals([...a.data], [1, 1]);
  assertEquals([...b.data], [0.75, 0.75]);
  assertEquals([optimizer.state.has(a), optimizer.state.get(b)!["step"]], [false, 1]);
});

test("step counts are each parameter's own", () => {
  const a = parameter(), b = parameter();
  const optimizer = new Adam([a, b]), grad = b.grad;
  b.grad = null;
  optimizer.step();
  b.grad = grad;
  optimizer.step();
  assertEquals([optimizer.state.get(a)!["step"], optimizer.state.get(b)!["step"]], [2, 1]);
  const alone = parameter();
  new Adam([alone]).step();
  assertEquals([...b.data], [...alone.data]);
});

test("step counts stay exact beyond 2^24", () => {
  const p = parameter(), optimizer = new Adam([p]);
  optimizer.step();
  optimizer.state.get(p)!["step"] = 2 ** 24;
  optimizer.step();
  assertEquals(optimizer.state.get(p)!["step"], 2 ** 24 + 1);
});

test("zeroGrad() sets gradients to null, or to zeros in place", () => {
  const p = parameter(), grad = p.grad as Float32Array, optimizer = new SGD([p]);
  optimizer.zeroGrad({ setToNull: false });
  assertStrictEquals(p.grad, grad);
  assertEquals([...grad], [0, 0]);
  optimizer.zeroGrad();
  assertEquals(p.grad, null);
  assertThrows(() => optimizer.zeroGrad({ setToNone: true } as Record<string, boolean>), TypeError, '"setToNone"');
});

test("step() returns the closure's loss, and undefined without one", () => {
  const p = parameter(), optimizer = new SGD([p], { lr: 1 });
  assertEquals(optimizer.step(), undefined);
  assertEquals(optimizer.step(null), undefined);
  p.grad = null;
  let calls = 0;
  const loss = optimizer.step(() => {
    calls++;
    p.grad = Float32Array.of(2, 2);
    return 42;
  });
  assertEquals([loss, calls, ...p.data], [42, 1, -3, -3]); // three steps: 1 + 1 + 2
});

test("step() refuses a Promise and anything that is no function", () => {
  const p = parameter(), optimizer = new SGD([p], { lr: 1 });
  assertThrows(() => optimizer.step((() => Promise.resolve(1)) as unknown as () => number), TypeError, "stepAsync()");
  assertThrows(() => optimizer.step(3 as unknown as () => number), TypeError, "closure must be a function, got 3");
  assertThrows(
    () => optimizer.step(null, { maxNorm: 1 } as unknown as StepOptions),
    TypeError,
    'step() has no option "maxNorm"; it has maxGradNorm, gradScale',
  );
  assertEquals([...p.data], [1, 1]);
});

test("a closure that throws changes nothing, and the next step works", () => {
  const p = parameter(), optimizer = new SGD([p], { lr: 1 });
  assertThrows(
    () =>
      optimizer.step(() => {
        throw new Error("mine");
      }),
    Error,
    "mine",
  );
  assertEquals([...p.data], [1, 1]);
  optimizer.step();
  assertEquals([...p.data], [0, 0]);
});

test("stepAsync() awaits the closure, and refuses a second step meanwhile", async () => {
  const p = parameter(), optimizer = new SGD([p], { lr: 1 });
  const first = optimizer.stepAsync(async () => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    return 7;
  });
  assertThrows(() => optimizer.step(), TypeError, "another step");
  await assertRejects(() => optimizer.stepAsync(() => 1), TypeError, "another step");
  assertEquals(await first, 7);
  assertEquals([...p.data], [0, 0]);
  assertEquals(await optimizer.stepAsync(() => 8), 8);
  await assertRejects(
    () => optimizer.stepAsync(undefined as unknown as () => number),
    TypeError,
    "closure must be a function",
  );
});

test("a closure that steps its own optimizer is an error", () => {
  const optimizer = new SGD([parameter()]);
  assertThrows(() => optimizer.step(() => (optimizer.step(), 1)), TypeError, "another step");
});

test("step hooks run in torch's order: global pre, own pre, own post, global post", () => {
  const p = parameter(), optimizer = new SGD([p]), order: string[] = [];
  const handles = [
    registerOptimizerStepPreHook(() => void order.push("global pre")),
    registerOptimizerStepPostHook(() => void order.push("global post")),
    optimizer.registerStepPreHook(() => void order.push("pre")),
    optimizer.registerStepPostHook(() => void order.push("post")),
    optimizer.registerStepPostHook(() => void order.push("post 2")),
  ];
  optimizer.step(() => (order.push("closure"), 1));
  assertEquals(order, ["global pre", "pre", "closure", "post", "post 2", "global post"]);
  for (const handle of handles) handle.remove();
  handles[0]!.remove();
  order.length = 0;
  optimizer.step();
  assertEquals(order, []);
});

test("a step pre hook may replace the arguments", () => {
  const optimizer = new SGD([parameter()]), seen: unknown[] = [];
  optimizer.registerStepPreHook((o, args) => {
    seen.push(o, args.length);
    return [() => 11];
  });
  optimizer.registerStepPostHook((_o, args) => void seen.push(args.length));
  assertEquals(optimizer.step(() => 3), 11);
  assertEquals(seen, [optimizer, 1, 1]);
  optimizer.registerStepPreHook((() => 3) as unknown as () => void);
  assertThrows(() => optimizer.step(), TypeError, "a step pre hook must return nothing or");
});

test("state dict hooks run in order, with prepend in front, and may replace the dict", () => {
  const optimizer = new SGD([parameter()]), order: string[] = [];
  optimizer.registerStateDictPreHook(() => void order.push("pre 1"));
  const handle = optimizer.registerStateDictPreHook(() => void order.push("pre 0"), { prepend: true });
  optimizer.registerStateDictPostHook((_o, dict) => {
    order.push("post");
    return { ...dict, extra: 1 } as StateDict;
  });
  assertEquals((optimizer.stateDict() as unknown as { extra: number }).extra, 1);
  assertEquals(order, ["pre 0", "pre 1", "post"]);
  handle.remove();
  order.length = 0;
  const dict = optimizer.stateDict();
  assertEquals(order, ["pre 1", "post"]);
  order.length = 0;
  optimizer.registerLoadStateDictPreHook((_o, d) => {
    order.push("load pre");
    return { ...d, paramGroups: [{ ...d.paramGroups[0]!, lr: 0.25 }] };
  });
  optimizer.registerLoadStateDictPostHook(() => void order.push("load post"));
  optimizer.loadStateDict(dict);
  assertEquals([order, optimizer.paramGroups[0]!.lr], [["load pre", "load post"], 0.25]);
  assertThrows(
    () => optimizer.registerStateDictPreHook(() => {}, { first: true } as Record<string, boolean>),
    TypeError,
    "prepend",
  );
  assertThrows(
    () => optimizer.registerStepPreHook(3 as unknown as () => void),
    TypeError,
    "a hook must be a function, got 3",
  );
});

test("addParamGroup() adds parameters that are updated from then on", () => {
  const a = parameter(), b = parameter(), optimizer = new SGD([a], { lr: 1 });
  optimizer.step();
  optimizer.addParamGroup({ params: [b], lr: 0.5 });
  optimizer.step();
  assertEquals([...a.data, ...b.data], [-1, -1, 0.5, 0.5]);
});

test("a state dict is a snapshot, survives structuredClone, and shares nothing when loaded", () => {
  const p = parameter(), optimizer = new Adam([p]);
  optimizer.step();
  const dict = optimizer.stateDict(), copy = structuredClone(dict);
  optimizer.step();
  assertEquals(dict, copy);
  assertEquals(dict.paramGroups[0]!.paramShapes, [[2]]);
  assertEquals(dict.paramGroups[0]!.paramDtypes, ["float32"]);
  assert(!("foreach" in dict.paramGroups[0]!) && !("fused" in dict.paramGroups[0]!));
  optimizer.loadStateDict(dict);
  optimizer.step();
  assertEquals(dict, copy);
  assertEquals(optimizer.state.get(p)!["step"], 2);
});

test("loadStateDict() keeps the target's foreach and fused, and its defaults", () => {
  const from = new SGD([parameter()], { lr: 0.5, foreach: true }),
    to = new SGD([parameter()], { lr: 0.1, fused: true });
  to.loadStateDict(from.stateDict());
  const [group] = to.paramGroups;
  assertEquals([group!.lr, group!.foreach, group!.fused, to.defaults.lr], [0.5, null, true, 0.1]);
});

test("loadStateDict() refuses what does not fit, and changes nothing", () => {
  const p = parameter(), optimizer = new Adam([p], { lr: 0.5 });
  optimizer.step();
  const good = optimizer.stateDict(), before = structuredClone(good);
  const [group] = good.paramGroups, state = good.state[0]!;
  const bad: [unknown, string][] = [
    [null, "a state dict must be { state, paramGroups }"],
    [{ ...good, paramGroups: [] }, "has 0 paramGroups, the optimizer has 1"],
    [{ ...good, paramGroups: [{ ...group!, params: [0, 1] }] }, "2 params in the state dict, 1 in the optimizer"],
    [
      { ...good, paramGroups: [{ ...group!, paramShapes: [[3]] }] },
      "has shape [3] in the state dict, [2] in the optimizer",
    ],
    [{ ...good, paramGroups: [{ ...group!, paramDtypes: ["float64"] }] }, '"float64" in the state dict, float32'],
    [{ ...good, paramGroups: [{ ...group!, lr: -1 }] }, "lr must be >= 0, got -1"],
    [{ ...good, paramGroups: [{ ...group!, momentum: 1 }] }, "momentum is no option"],
    [{ ...good, paramGroups: [{ ...group!, capturable: true }] }, "capturable must be false, got true"],
    [{ ...good, state: { 5: state } }, "state[5] belongs to no parameter"],
    [
      { ...good, state: { 0: { ...state, expAvg: new Float32Array(3) } } },
      "state[0].expAvg has 3 elements, its parameter has 2",
    ],
    [{ ...good, state: { 0: { ...state, expAvg: "x" } } }, "state[0].expAvg must be a typed array of 2"],
    [{ ...good, state: { 0: { ...state, step: "x" } } }, 'state[0].step must be a number, got "x"'],
    [{ ...good, state: { 0: { expAvg: state["expAvg"] } } }, "state[0] must have step"],
    [{ ...good, state: { 0: { ...state, momentumBuffer: state["expAvg"] } } }, "momentumBuffer is no state of Adam"],
  ];
  for (const [dict, message] of bad) {
    const error = assertThrows(() => optimizer.loadStateDict(dict as StateDict), StateDictError, message);
    assertEquals(error.name, "StateDictError");
    assertEquals(optimizer.stateDict(), before);
  }
  optimizer.loadStateDict({ ...good, paramGroups: [{ ...group!, capturable: false, differentiable: false }] });
});

test("state is cast to the parameter's dtype, as in torch, and numbers are not", () => {
  const from = parameter(), optimizer = new Adam([from]);
  optimizer.step();
  const { state, paramGroups: [group] } = optimizer.stateDict();
  const { paramDtypes: _, ...untyped } = group!;
  const p = new Parameter(new Float64Array(2)), target = new Adam([p]);
  target.loadStateDict({ state, paramGroups: [untyped] });
  assertInstanceOf(target.state.get(p)!["expAvg"], Float64Array);
  const json = JSON.parse(JSON.stringify({ state, paramGroups: [untyped] }));
  target.loadStateDict(json);
  assertEquals([...target.state.get(p)!["expAvg"] as Float64Array], [...state[0]!["expAvg"] as Float32Array]);
});

test("SGD takes a momentumBuffer of null for none yet, as older versions of torch save it for momentum 0", () => {
  const end = (load: boolean, momentum: number) => {
    const p = parameter(),
      optimizer = new SGD([p], { momentum, dampening: 0.5 }),
      { paramGroups } = optimizer.stateDict();
    if (load) optimizer.loadStateDict({ state: { 0: { momentumBuffer: null } }, paramGroups } as unknown as StateDict);
    for (let t = 0; t < 3; t++) optimizer.step();
    return [...p.data, ...(optimizer.state.get(p)?.["momentumBuffer"] as Float32Array | undefined) ?? []];
  };
  for (const momentum of [0, 0.9]) assertEquals(end(true, momentum), end(false, momentum));
  const adam = new Adam([parameter()]), { paramGroups } = adam.stateDict();
  const none = { state: { 0: { step: 1, expAvg: null, expAvgSq: null } }, paramGroups } as unknown as StateDict;
  assertThrows(() => adam.loadStateDict(none), StateDictError, "state[0].expAvg must be a typed array of 2, got null");
});

test("an Adam state dict may be loaded into AdamW, which stays decoupled", () => {
  const adam = new Adam([parameter()]), adamw = new AdamW([parameter()]);
  adam.step();
  adamw.loadStateDict(adam.stateDict());
  assertEquals([adamw.paramGroups[0]!.decoupledWeightDecay, adamw.paramGroups[0]!.weightDecay], [true, 0]);
  assertThrows(
    () => new AdamW([parameter()], { decoupledWeightDecay: false }),
    TypeError,
    "decoupledWeightDecay must be true",
  );
});

test("groups are live: options and parameters that are changed count at the next step", () => {
  const a = parameter(), b = parameter(), optimizer = new SGD([a], { lr: 1 });
  optimizer.step();
  optimizer.paramGroups[0]!.lr = 2;
  optimizer.paramGroups[0]!.params.push(b);
  optimizer.step();
  assertEquals([...a.data, ...b.data], [-2, -2, -1, -1]);
  optimizer.paramGroups[0]!.momentum = 0.5;
  optimizer.step();
  optimizer.paramGroups[0]!.momentum = 0;
  optimizer.step();
  assertEquals([...a.data], [-6, -6]);
});

test("an option that is changed is checked at the next step, whatever has been changed", () => {
  type Loose = Record<string, unknown> & { betas: unknown[]; paramNames: unknown[] };
  const changes: [(group: Loose) => void, string][] = [
    [(g) => g["lr"] = -1, "lr must be >= 0, got -1"],
    [(g) => g["lr"] = NaN, "lr must be >= 0, got NaN"],
    [(g) => g["lr"] = "0.1", 'lr must be a number, got "0.1"'],
    [(g) => delete g["lr"], "lr must be a number, got undefined"],
    [(g) => g.betas[1] = 1, "betas[1] must be >= 0 and < 1, got 1"],
    [(g) => g.betas.push(0.5), "betas must be two numbers"],
    [(g) => g.betas.length = 1, "betas must be two numbers"],
    [(g) => g["betas"] = [0.9], "betas must be two numbers"],
    [(g) => g["amsgrad"] = 1, "amsgrad must be a boolean, got 1"],
    [(g) => g["foreach"] = "yes", "foreach must be a boolean or null"],
    [(g) => Object.assign(g, { foreach: true, fused: true }), "foreach and fused must not both be true"],
    [(g) => g["learningRate"] = 1, 'AdamW has no option "learningRate"'],
    [(g) => g["initialLr"] = null, "initialLr must be a number, got null"],
    [(g) => g["name"] = 7, "name must be a string, got 7"],
    [(g) => g.paramNames[0] = 7, "paramNames must be an array of strings"],
    [(g) => Object.assign(g, { paramNames: "a" }), "paramNames must be an array of strings"],
    [(g) => Object.defineProperty(g, "lr", { value: -1, enumerable: false }), "lr must be >= 0, got -1"],
    [(g) => Object.defineProperty(g, "eps", { get: () => -1, enumerable: true }), "eps must be >= 0, got -1"],
  ];
  for (const [change, message] of changes) {
    const a = parameter(2, "a"), b = parameter(2, "b"), extra = { initialLr: 1, name: "first" };
    const params: [string, Parameter][] = [["a", a]];
    const optimizer = new AdamW([{ params, ...extra }, { params: [["b", b]], ...extra }], { lr: 0.1 });
    for (let i = 0; i < 20; i++) optimizer.step();
    const before = [...a.data, ...b.data], group = optimizer.paramGroups[1] as unknown as Loose;
    const kept = { ...group, betas: [...group.betas], paramNames: [...group.paramNames] };
    change(group);
    for (let i = 0; i < 2; i++) {
      assertThrows(() => optimizer.step(), Error, message);
      assertEquals([...a.data, ...b.data], before);
    }
    Object.defineProperty(group, "lr", { value: 0.1, writable: true, enumerable: true, configurable: true });
    optimizer.paramGroups[1] = kept as unknown as typeof optimizer.paramGroups[1];
    optimizer.step();
    assert(b.data[0] !== before[2], message);
  }
});

test("options that are no numbers are checked at each step, for what is inside may have changed", () => {
  const checked: unknown[] = [];
  class Odd extends Optimizer<{ range: number[]; limits: { most: number } }> {
    constructor(params: Iterable<Parameter>) {
      super(params, { range: [1, 2, 3], limits: { most: 4 } }, {
        range: { default: [], check: (value) => void checked.push((value as number[]).join()) },
        limits: { default: null, check: (value) => void checked.push((value as { most: number }).most) },
      });
    }
    protected override update(): void {
      this.checkAllOptions();
    }
  }
  const optimizer = new Odd([parameter()]), group = optimizer.paramGroups[0]!;
  optimizer.step();
  checked.length = 0;
  optimizer.step();
  group.range[2] = 7;
  group.limits.most = 8;
  optimizer.step();
  assertEquals(checked, ["1,2,3", 4, "1,2,7", 8]);
});

test("a subclass gives defaults and update(), and has groups, hooks and state dicts", () => {
  class SignSGD extends Optimizer<{ lr: number }> {
    constructor(params: Iterable<Parameter>, { lr = 0.5 } = {}) {
      super(params, { lr });
    }
    protected override update(): void {
      for (const { params, lr } of this.paramGroups) {
        for (const p of params) {
          if (!p.grad) continue;
          (p.grad as Float32Array).forEach((g, i) => p.data[i] = p.data[i]! - lr * Math.sign(g));
          const state = this.state.get(p) ?? { count: 0 };
          this.state.set(p, { count: (state["count"] as number) + 1 });
        }
      }
    }
  }
  const p = parameter(), optimizer = new SignSGD([p]);
  let hooks = 0;
  optimizer.registerStepPostHook(() => void hooks++);
  optimizer.step();
  assertEquals([...p.data, hooks], [0.5, 0.5, 1]);
  assertThrows(
    () => new SignSGD([{ params: [p], momentum: 1 }] as unknown as Parameter[]),
    TypeError,
    'SignSGD has no option "momentum"',
  );
  const other = new SignSGD([parameter()]);
  other.loadStateDict(optimizer.stateDict());
  assertEquals(other.stateDict().state, { 0: { count: 1 } });
});

for (const { name, make, variants } of ROWS) {
  test(`${name} gives the same numbers saved and loaded at any step`, () => {
    for (const variant of variants) {
      const p = parameter(5), straight = new make([p], variant);
      for (let t = 0; t < 4; t++) {
        const q = new Parameter(p.data.slice()), resumed = new make([q], variant);
        resumed.loadStateDict(structuredClone(straight.stateDict()));
        q.grad = p.grad = Float32Array.of(1, -2, 0, 3 + t, 1e-3);
        straight.step();
        resumed.step();
        assertEquals([...q.data], [...p.data]);
        assertEquals(resumed.stateDict(), straight.stateDict());
      }
    }
  });
}

for (const { name, make, variants } of ROWS) {
  test(`${name} initState() makes the state that the first step starts from`, () => {
    for (const variant of variants) {
      const p = parameter(3), q = parameter(3), early = new make([p], variant), late = new make([q], variant);
      early.initState();
      if (name === "SGD") assertEquals(early.state.size, 0);
      else assertEquals([early.state.has(p), early.state.get(p)!["step"]], [true, 0]);
      for (let t = 0; t < 3; t++) {
        early.step();
        late.step();
      }
      assertEquals(early.stateDict().state, late.stateDict().state);
      assertEquals([...p.data], [...q.data]);
    }
  });

  test(`${name} state dicts survive JSON where they are finite, in every dtype`, () => {
    for (const dtype of ["float32", "float64", "bfloat16", "float16"] as const) {
      const make2 = () => {
        const p = new Parameter([1, -2, 0.5], { dtype });
        p.grad = new Parameter([0.25, 3, -1], { dtype }).data;
        return p;
      };
      const p = make2(), optimizer = new make([p], variants.at(-1));
      optimizer.step();
      const q = make2(), other = new make([q], variants.at(-1));
      other.loadStateDict(JSON.parse(JSON.stringify(optimizer.stateDict())));
      assertEquals(other.stateDict(), optimizer.stateDict());
    }
  });
}

const pairs = (...names: string[]) => names.map((name) => [name, parameter(2)] as [string, Parameter]);

test("loadStateDict() by name finds parameters in another order and in other groups", () => {
  const saved = pairs("a", "b", "c"), from = new Adam(saved, { lr: 0.25 });
  saved[1]![1].grad = Float32Array.of(5, 6);
  from.step();
  const target = pairs("c", "a", "b"), to = new Adam([{ params: target.slice(0, 1) }, { params: target.slice(1) }]);
  to.loadStateDict(from.stateDict(), { match: "name" });
  for (const [name, p] of target) {
    assertEquals(to.state.get(p), from.state.get(saved.find(([n]) => n === name)![1]));
  }
  assertEquals(to.paramGroups.map((g) => [g.lr, g.paramNames]), [[0.25, ["c"]], [0.25, ["a", "b"]]]);
});

test("loadStateDict() by name refuses names that one side lacks, unless strict is false", () => {
  const from = new Adam(pairs("a", "b"), { lr: 0.25 });
  from.step();
  const target = pairs("a", "x"), to = new Adam(target, { lr: 0.5 });
  const before = to.stateDict();
  assertThrows(() => to.loadStateDict(from.stateDict(), { match: "name" }), StateDictError, 'the state dict lacks "x"');
  assertEquals(to.stateDict(), before);
  to.loadStateDict(from.stateDict(), { match: "name", strict: false });
  assertEquals([to.state.has(target[0]![1]), to.state.has(target[1]![1]), to.paramGroups[0]!.lr], [true, false, 0.25]);
  const fewer = new Adam(pairs("a"));
  assertThrows(
    () => fewer.loadStateDict(from.stateDict(), { match: "name" }),
    StateDictError,
    'the state dict has "b"',
  );
});

test("loadStateDict() by name checks shapes, names, and options that differ between groups", () => {
  const from = new Adam([{ params: pairs("a"), lr: 0.25 }, { params: pairs("b") }]);
  const to = new Adam(pairs("a", "b"));
  assertThrows(
    () => to.loadStateDict(from.stateDict(), { match: "name" }),
    StateDictError,
    "in several groups of the state dict",
  );
  const other = new Adam([["a", parameter(3)]] as [string, Parameter][]);
  const one = new Adam(pairs("a"));
  assertThrows(
    () => other.loadStateDict(one.stateDict(), { match: "name" }),
    StateDictError,
    "has shape [2] in the state dict, [3]",
  );
  const unnamed = new Adam([parameter()]);
  assertThrows(() => one.loadStateDict(unnamed.stateDict(), { match: "name" }), StateDictError, "has no paramNames");
  assertThrows(
    () => unnamed.loadStateDict(one.stateDict(), { match: "name" }),
    StateDictError,
    "paramGroups[0] of the optimizer has no",
  );
});

test("loadStateDict() refuses options it does not have", () => {
  const optimizer = new SGD([parameter()]), dict = optimizer.stateDict();
  assertThrows(
    () => optimizer.loadStateDict(dict, { match: "id" } as never),
    TypeError,
    'match must be "position" or "name", got "id"',
  );
  assertThrows(() => optimizer.loadStateDict(dict, { by: 1 } as never), TypeError, '"by"');
  assertThrows(() => optimizer.loadStateDict(dict, { strict: false }), TypeError, "strict must be true unless");
});
