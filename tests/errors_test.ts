/** What must be refused: the kind of error, what its message says, and that nothing has changed. */

import { readFileSync } from "node:fs";
import { test } from "node:test";
import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { join } from "@std/path";
import { Adam, AdamW, type DType, LBFGS, Parameter, SGD, SparseAdam, SparseTensor, StateDictError } from "../mod.ts";
import { type AnyOptimizer, ROWS, TENSOR_ROWS } from "./support/classes.ts";
import { revive } from "./support/golden.ts";
import { ROOT } from "./support/runtime.ts";

interface GoldenParam {
  name?: string;
  shape: number[];
  ref?: string;
}
interface GoldenGroup {
  options: Record<string, unknown>;
  params: GoldenParam[];
}
interface ErrorCase {
  name: string;
  kind: string;
  optimizer: string;
  options?: Record<string, unknown>;
  groups?: GoldenGroup[];
  otherGroups?: GoldenGroup[];
  form?: string;
  add?: GoldenGroup;
  grad?: "none" | "dense" | "sparse";
  expectError: boolean;
  mentions?: string;
}

const { cases } = JSON.parse(readFileSync(join(ROOT, "tests", "golden", "errors.json"), "utf8")) as {
  cases: ErrorCase[];
};

for (const c of cases) {
  const row = [
    ...ROWS,
    { name: "SparseAdam", make: SparseAdam as unknown as AnyOptimizer },
    { name: "LBFGS", make: LBFGS as unknown as AnyOptimizer },
    ...TENSOR_ROWS.map(({ name, real }) => ({ name, make: real })),
  ].find((r) => r.name === c.optimizer);
  if (!row || !["optimizer", "addParamGroup", "step", "loadStateDict"].includes(c.kind)) continue;
  test(`golden errors: ${c.name} is ${c.expectError ? "refused" : "accepted"} (${c.kind})`, () => {
    const made = new Map<string, Parameter>();
    const param = ({ ref, shape }: GoldenParam) => {
      const p = (ref && made.get(ref)) ||
        new Parameter(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1), { shape });
      if (ref) made.set(ref, p);
      return p;
    };
    const entry = (p: GoldenParam) => p.name ? [p.name, param(p)] as const : param(p);
    const groupOf = (g: GoldenGroup) => ({ ...revive(g.options), params: g.params.map(entry) });
    const make = (groups = c.groups ?? [{ options: {}, params: [{ shape: [3] }] }]) => {
      const all = groups.map(groupOf);
      const forms: Record<string, () => unknown> = {
        groups: () => all,
        list: () => all.flatMap((g) => g.params),
        empty: () => [],
        "one-tensor": () => all[0]!.params[0],
        "not-a-tensor": () => ["weight"],
        number: () => [3],
        "no-params-key": () => [{ lr: 0.1 }],
      };
      return new row.make(forms[c.form ?? "groups"]!() as Iterable<unknown>, revive(c.options ?? {}));
    };
    let attempt: () => unknown, unchanged = () => {};
    if (c.kind === "optimizer") {
      attempt = () => make();
    } else if (c.kind === "addParamGroup") {
      const optimizer = make(), count = optimizer.paramGroups.length;
      attempt = () => optimizer.addParamGroup(groupOf(c.add!));
      unchanged = () => assertEquals(optimizer.paramGroups.length, count);
    } else if (c.kind === "loadStateDict") {
      const optimizer = make(), dict = make(c.otherGroups).stateDict(), before = optimizer.stateDict();
      attempt = () => optimizer.loadStateDict(dict);
      unchanged = () => assertEquals(optimizer.stateDict(), before);
    } else {
      const optimizer = make(), params = optimizer.paramGroups.flatMap((g) => g.params);
      for (const p of params) {
        const dense = new Float32Array(p.size).fill(1), [rows] = p.shape as [number];
        if (c.grad === "dense") p.grad = dense;
        if (c.grad === "sparse") p.grad = new SparseTensor([[0, rows - 1]], dense.slice(0, 2 * p.size / rows), p.shape);
      }
      const before = optimizer.stateDict();
      attempt = () => optimizer.step();
      unchanged = () => {
        assertEquals(optimizer.stateDict(), before);
        for (const p of params) assert(p.data.every((x) => x === 1), "the failed step changed a parameter");
      };
    }
    if (!c.expectError) return void attempt();
    let thrown: unknown;
    try {
      attempt();
    } catch (error) {
      thrown = error;
    }
    assert(thrown instanceof Error, "nothing was thrown");
    assert(
      (c.kind === "loadStateDict" ? ["StateDictError"] : ["TypeError", "RangeError"]).includes(thrown.name),
      String(thrown),
    );
    if (c.mentions) assertStringIncludes(thrown.message, c.mentions);
    unchanged();
  });
}

const p = () => new Parameter(new Float32Array(3).fill(1));

test("messages name the option, the value and what is allowed", () => {
  const cases: [() => unknown, typeof TypeError | typeof RangeError, string][] = [
    [() => new SGD([p()], { lr: -1 }), RangeError, "lr must be >= 0, got -1"],
    [() => new SGD([p()], { lr: NaN }), RangeError, "lr must be >= 0, got NaN"],
    [() => new SGD([p()], { lr: "0.1" as unknown as number }), TypeError, 'lr must be a number, got "0.1"'],
    [() => new SGD([p()], { lr: null as unknown as number }), TypeError, "lr must be a number, got null"],
    [() => new SGD([p()], { dampening: NaN }), RangeError, "dampening must be a number, got NaN"],
    [() => new SGD([p()], { nesterov: 1 as unknown as boolean }), TypeError, "nesterov must be a boolean, got 1"],
    [
      () => new SGD([p()], { differentiable: true as unknown as false }),
      TypeError,
      "differentiable must be false, got true: there is no autograd",
    ],
    [
      () => new SGD([p()], { lrr: 1 } as Record<string, number>),
      TypeError,
      'SGD has no option "lrr"; it has lr, momentum',
    ],
    [() => new SGD([{ params: [p()], lrr: 1 } as { params: Parameter[] }]), TypeError, '"lrr"'],
    [() => new SGD([p()], 3 as unknown as Record<string, number>), TypeError, "options must be an object, got 3"],
    [
      () => new SGD([{ params: [p()] }, { params: [p()], lr: -2 }]),
      RangeError,
      "lr must be >= 0, got -2 (in paramGroups[1])",
    ],
    [() => new Adam([p()], { betas: [0.9, 1] }), RangeError, "betas[1] must be >= 0 and < 1, got 1"],
    [() => new Adam([p()], { betas: [NaN, 0.5] }), RangeError, "betas[0] must be >= 0 and < 1, got NaN"],
    [
      () => new Adam([p()], { betas: 0.9 as unknown as [number, number] }),
      TypeError,
      "betas must be two numbers, got 0.9",
    ],
    [
      () => new Adam([p()], { betas: [0.9] as unknown as [number, number] }),
      TypeError,
      "betas must be two numbers, got [0.9]",
    ],
    [() => new AdamW([p()], { eps: -1e-9 }), RangeError, "eps must be >= 0, got -1e-9"],
    [() => new AdamW([p()], { weightDecay: NaN }), RangeError, "weightDecay must be >= 0, got NaN"],
    [
      () => new AdamW([p()], { fused: "yes" as unknown as boolean }),
      TypeError,
      'fused must be a boolean or null, got "yes"',
    ],
    [() => new AdamW([p()], { foreach: true, fused: true }), TypeError, "foreach and fused must not both be true"],
    [() => new AdamW([]), RangeError, "params must have at least one parameter, got none"],
    [() => new AdamW(p() as unknown as Parameter[]), TypeError, "params must be an iterable of Parameters"],
    [() => new AdamW(new Float32Array(3) as unknown as Parameter[]), TypeError, "got a Float32Array of 3"],
    [() => new AdamW(undefined as unknown as Parameter[]), TypeError, "got undefined"],
    [() => new AdamW([{ params: new Set([p()]) }]), TypeError, "params of a group must be ordered, got a Set"],
    [
      () => new AdamW([[1, p()] as unknown as [string, Parameter]]),
      TypeError,
      "params[0] must be a parameter or a [name, parameter] pair",
    ],
    [
      () => new AdamW([[1, 2, 3]] as unknown as Parameter[]),
      TypeError,
      "params[0] must be a parameter or a [name, parameter] pair",
    ],
    [
      () => new AdamW([new Uint8Array(3)] as unknown as Parameter[]),
      TypeError,
      "params[0] must be a Parameter or a typed array",
    ],
    [
      () => new AdamW([new Uint16Array(3)]),
      TypeError,
      'dtype must be "bfloat16" or "float16" for a Uint16Array, got undefined',
    ],
    [() => new Parameter([1, 2], { shape: [3] }), RangeError, "shape [3] has 3 elements, data has 2"],
    [() => new Parameter([1, 2], { shape: [-1, -2] }), RangeError, "shape must be integers >= 0, got [-1, -2]"],
    [
      () => new Parameter([1, 2], { shape: 2 as unknown as number[] }),
      TypeError,
      "shape must be an array of lengths, got 2",
    ],
    [() => new Parameter([1, 2], { dtype: "float8" as DType }), TypeError, 'dtype must be one of "float32"'],
    [
      () => new Parameter(new Float32Array(1), { dtype: "float64" }),
      TypeError,
      'dtype must be "float32" for a Float32Array of 1, got "float64"',
    ],
    [() => new Parameter(["1"] as unknown as number[]), TypeError, 'data must be numbers, got "1" among them'],
    [() => new Parameter(3 as unknown as number[]), TypeError, "data must be a Float32Array"],
    [() => new Parameter([1], { requires_grad: true } as Record<string, boolean>), TypeError, '"requires_grad"'],
    [() => new Parameter([1], { name: 1 as unknown as string }), TypeError, "name must be a string, got 1"],
  ];
  for (const [call, type, message] of cases) assertThrows(call, type, message);
});

for (const { name, make } of ROWS) {
  test(`${name} refuses NaN for every numeric option, in the constructor and in a group`, () => {
    for (const [key, value] of Object.entries(new make([p()]).defaults)) {
      const bad = typeof value === "number" ? NaN : Array.isArray(value) ? value.map(() => NaN) : null;
      if (bad === null) continue;
      assertThrows(() => new make([p()], { [key]: bad }), RangeError, key);
      assertThrows(() => new make([{ params: [p()], [key]: bad }]), RangeError, key);
    }
  });

  test(`${name} refuses an option that is made wrong later at the next step, and changes nothing`, () => {
    const good = p(), other = p();
    const optimizer = new make([{ params: [good] }, { params: [other] }], { lr: 0.5 });
    good.grad = other.grad = new Float32Array(3).fill(1);
    optimizer.step();
    const before = [optimizer.stateDict(), [...good.data], [...other.data]];
    for (
      const [key, value] of [["lr", -1], ["lr", NaN], ["lr", "1"], ["maximize", 1], ["lrr", 1], [
        "foreach",
        "yes",
      ]] as const
    ) {
      const group = optimizer.paramGroups[1]! as Record<string, unknown>, had = key in group, was = group[key];
      group[key] = value;
      const error = assertThrows(() => optimizer.step(), Error, key);
      assert(["TypeError", "RangeError"].includes(error.name), String(error));
      assertStringIncludes(error.message, "paramGroups[1]");
      if (had) group[key] = was;
      else delete group[key];
      assertEquals([optimizer.stateDict(), [...good.data], [...other.data]], before);
    }
  });
}

test("StateDictError is an Error with its own name", () => {
  assertEquals(new StateDictError("x").name, "StateDictError");
});
