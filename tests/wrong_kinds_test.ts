/** What programs without types hand over: refused by name, or read as it is meant; never taken for defaults in silence. */

import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "@std/path";
import {
  Adam,
  Adamax,
  ASGD,
  AveragedModel,
  CheckpointError,
  clipGradNorm,
  foreach,
  getEmaAvgFn,
  loadModelStateDict,
  NAdam,
  Parameter,
  RAdam,
  save,
  SGD,
  SparseTensor,
  StateDictError,
  StepLR,
} from "../mod.ts";

const p = () => new Parameter(new Float32Array(2).fill(1));
const sgd = () => new SGD([["w", p()]], { lr: 0.5, momentum: 0.5 });
const model = () => ({
  w: p(),
  *namedParameters(): Iterable<[string, Parameter]> {
    yield ["w", this.w];
  },
  forward: () => 0,
});

const CALLS: [string, (options: never) => unknown][] = [
  ["SGD", (options) => new SGD([p()], options)],
  ["StepLR", (options) => new StepLR(sgd(), options)],
  ["Parameter", (options) => new Parameter([1], options)],
  ["SparseTensor", (options) => new SparseTensor([[0]], [1], [2], options)],
  ["AveragedModel", (options) => new AveragedModel(model(), options)],
  ["getEmaAvgFn()", (options) => getEmaAvgFn(0.9, options)],
  ["loadModelStateDict()", (options) => loadModelStateDict(model(), {}, options)],
  ["clipGradNorm()", (options) => clipGradNorm([p()], 1, options)],
  ["foreach.add_()", (options) => foreach.add_([p()], 1, options)],
  ["zeroGrad()", (options) => sgd().zeroGrad(options)],
  ["loadStateDict()", (options) => sgd().loadStateDict(sgd().stateDict(), options)],
  ["registerStateDictPostHook()", (options) => sgd().registerStateDictPostHook(() => {}, options)],
];

for (const [name, call] of CALLS) {
  test(`${name} refuses options that are no object of options`, () => {
    const notAwaited = Promise.resolve({ lr: 1 });
    for (const options of [false, true, 1, "name", "", ["lr"], new Map([["lr", 1]]), new Set(), notAwaited, () => 1]) {
      assertThrows(() => call(options as never), TypeError, "options must be an object, got ");
    }
    assertThrows(() => call({ weight_decay: 1 } as never), TypeError, '"weight_decay"');
    if (name !== "StepLR") assertThrows(() => call(null as never), TypeError, "options must be an object, got null");
  });
}

test("options are read from a class's getters, and from what an object inherits", () => {
  class Config {
    momentum = 0.25;
    get lr() {
      return 0.125;
    }
  }
  for (const options of [new Config(), Object.create({ lr: 0.125, momentum: 0.25 }) as Config]) {
    const { lr, momentum } = new SGD([p()], options).paramGroups[0]!;
    assertEquals([lr, momentum], [0.125, 0.25]);
    assertEquals(new SGD([Object.assign(options, { params: [p()] })]).paramGroups[0]!.lr, 0.125);
  }
});

test("zeroGrad(false), as torch's positional argument, is refused and leaves the gradients", () => {
  const x = p(), optimizer = new SGD([x]);
  const grad = x.grad = Float32Array.of(1, 2);
  assertThrows(() => optimizer.zeroGrad(false as never), TypeError, "options must be an object, got false");
  assertEquals([x.grad === grad, ...grad], [true, 1, 2]);
});

test("a Parameter refuses an undefined or missing number, and a shape of no numbers", () => {
  assertThrows(() => new Parameter([1, undefined as never]), TypeError, "data must be numbers, got undefined");
  assertThrows(() => new Parameter(new Array(2) as number[]), TypeError, "data must be numbers, got undefined");
  assertThrows(
    () => new Parameter([1], { shape: null as never }),
    TypeError,
    "shape must be an array of lengths, got null",
  );
  assertThrows(
    () => new Parameter([1], { shape: ["1"] as never }),
    TypeError,
    'shape must be integers >= 0, got ["1"]',
  );
  assertThrows(
    () => new SparseTensor([[0]], [1], ["2"] as never),
    TypeError,
    'shape must be integers >= 0, got ["2"]',
  );
});

test("paramNames of a group must be an array of strings, and those that params have", () => {
  for (const paramNames of [null, "w", [1], [undefined]]) {
    const group = { params: [p()], paramNames: paramNames as never };
    assertThrows(() => new SGD([group]), TypeError, "paramNames must be an array of strings");
  }
  const params: [string, Parameter][] = [["w", p()]];
  assertThrows(() => new SGD([{ params, paramNames: ["x"] }]), RangeError, 'paramNames[0] must be "w"');
  assertEquals(new SGD([{ params, paramNames: ["w"] }]).paramGroups[0]!.paramNames, ["w"]);
});

test("a hook's prepend must be a boolean", () => {
  assertThrows(
    () => sgd().registerStateDictPreHook(() => {}, { prepend: "yes" as never }),
    TypeError,
    "prepend must be a boolean",
  );
});

test("loadStateDict() refuses state that is a Map, lists that are none, and data that cannot be copied", () => {
  const target = sgd(),
    before = target.stateDict(),
    dict = () => structuredClone(before) as never as Record<string, never>;
  const group = (more: object) => ({ ...dict(), paramGroups: [{ ...before.paramGroups[0], ...more }] });
  const wrong: [unknown, string][] = [
    [{ ...dict(), state: target.state }, "a state dict must be { state, paramGroups }"],
    [target, "a state dict must be { state, paramGroups }"], // the optimizer itself, for its state dict
    [{ ...dict(), state: { 0: new Map() } }, "state[0] must be an object"],
    [group({ paramShapes: "2" }), "paramGroups[0].paramShapes must be an array"],
    [group({ paramDtypes: { 0: "float32" } }), "paramGroups[0].paramDtypes must be an array"],
    [group({ lr: () => 1 }), "paramGroups[0].lr must be plain data"],
  ];
  for (const [given, message] of wrong) {
    assertThrows(() => target.loadStateDict(given as never), StateDictError, message);
    assertEquals(target.stateDict(), before);
  }
});

test("loadStateDict() by name refuses a state dict without state or with a group that is none", () => {
  const { paramGroups } = sgd().stateDict();
  const load = (dict: unknown) => sgd().loadStateDict(dict as never, { match: "name" });
  assertThrows(() => load({ paramGroups }), StateDictError, "state of the state dict must be an object, got undefined");
  assertThrows(() => load({ state: {}, paramGroups: [null] }), StateDictError, "paramGroups[0] must be an object");
});

for (const Class of [Adam, NAdam, RAdam, Adamax, ASGD]) {
  test(`${Class.name} refuses a state dict whose step is infinite, and one that is set to it does not hang`, () => {
    const x = new Parameter([1, 1]), optimizer = new Class([x]);
    x.grad = Float32Array.of(1, 1);
    optimizer.step();
    for (const step of [Infinity, NaN, -1]) {
      const dict = optimizer.stateDict();
      dict.state[0]!["step"] = step;
      assertThrows(
        () => optimizer.loadStateDict(dict),
        StateDictError,
        `state[0].step must be >= 0 and finite, got ${step}`,
      );
    }
    optimizer.state.get(x)!["step"] = Infinity;
    optimizer.step();
    assert(x.data.every((v) => v <= 1));
  });
}

test("AveragedModel updateParameters() refuses undefined before it has seen a model", () => {
  assertThrows(() => new AveragedModel(model()).updateParameters(undefined as never), TypeError, "must be a Module");
});

test("a step that fails for a broken group while a save is pending can be made when the group is mended", async () => {
  const x = p(), optimizer = new SGD([x], { lr: 1 }), path = join(tmpdir(), `flatstep-broken-${Date.now()}.pt`);
  x.grad = Float32Array.of(1, 1);
  const group = optimizer.paramGroups[0]! as object as Record<string, unknown>, params = group["params"];
  const pending = assertRejects(() => save(path, { optimizer, x: x.data }), CheckpointError);
  group["params"] = "x";
  assertThrows(() => optimizer.step(), TypeError, "params of paramGroups[0] must be an array");
  group["params"] = params;
  optimizer.step();
  assertEquals([...x.data], [0, 0]);
  await pending;
  rmSync(path, { force: true });
});

test("step() refuses a group that is none, by its place", () => {
  const optimizer = sgd(), groups = optimizer.paramGroups as unknown[];
  for (const group of [undefined, null, "x", 1]) {
    groups.push(group);
    assertThrows(() => optimizer.step(), TypeError, `a param group must be an object, got ${JSON.stringify(group)}`);
    assertThrows(() => optimizer.step(), TypeError, "(in paramGroups[1])");
    groups.pop();
  }
  optimizer.step();
});

test("stateDict() names what of a group cannot be copied", () => {
  const optimizer = new SGD([{ params: [p()], meta: { scale: () => 1 } }]);
  assertThrows(() => optimizer.stateDict(), TypeError, "paramGroups[0].meta must be plain data");
  optimizer.paramGroups[0]!.meta = { scale: 1 };
  assertEquals(optimizer.stateDict().paramGroups[0]!["meta"], { scale: 1 });
});

test("a Parameter among groups, and one that is added, is refused as what it is", () => {
  const message = "a param group must be { params }, got a Parameter (in paramGroups[1])";
  assertThrows(() => new SGD([{ params: [p()] }, p()] as never), TypeError, message);
  assertThrows(() => sgd().addParamGroup(p() as never), TypeError, message);
});
