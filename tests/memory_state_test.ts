/** State, groups and lists of parameters that are changed by hand between steps. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { AdamW, Parameter, SGD, type TypedArray } from "../mod.ts";
import { DTYPES } from "../src/dtype.ts";
import { assertSameBits } from "./support/bits.ts";
import { typed } from "./support/golden.ts";
import {
  copied,
  FOR_LOOP,
  gradOf,
  group,
  inEachMode,
  type Mode,
  OPTIONS,
  parameter,
  SIZES,
  Twin,
  values,
} from "./support/twin.ts";

inEachMode("state tensors that are replaced are used from then on, and the old ones are left alone", (mode) => {
  const twin = new Twin(mode);
  twin.run(2);
  const old: [TypedArray, TypedArray][] = [];
  twin.params.forEach((p, i) => {
    const state = twin.state(i), expected = twin.reference.state.get(twin.copies[i]!)!;
    const key = i % 2 === 0 ? "expAvg" : "expAvgSq", tensor = state[key] as TypedArray;
    old.push([tensor, copied(tensor)]);
    const other = Array.from(values(50 + i, p.size), Math.abs);
    state[key] = typed(other, "float32");
    expected[key] = typed(other, "float32");
    const kept = state[key];
    twin.run(2);
    assert(twin.state(i)[key] === kept, "the new tensor is in use");
  });
  for (const [tensor, before] of old) assertSameBits(tensor, before, "float32", "an old state tensor");
});

inEachMode("a count of steps that is changed is used from then on", (mode) => {
  const twin = new Twin(mode);
  twin.run(2);
  twin.state(1)["step"] = 40;
  twin.reference.state.get(twin.copies[1]!)!["step"] = 40;
  twin.run(2);
  assertEquals(twin.state(1)["step"], 42);
  assertEquals(twin.state(0)["step"], 4);
});

inEachMode("a parameter whose state is deleted starts anew", (mode) => {
  const twin = new Twin(mode);
  twin.run(3);
  assert(twin.optimizer.state.delete(twin.params[1]!));
  assert(twin.reference.state.delete(twin.copies[1]!));
  const expected = new AdamW([new Parameter(copied(twin.params[1]!.data))], { ...OPTIONS, ...FOR_LOOP });
  twin.grads();
  expected.paramGroups[0]!.params[0]!.grad = copied(gradOf(twin.params[1]!));
  expected.step();
  twin.step();
  assertEquals(twin.state(1)["step"], 1);
  assertEquals(twin.state(0)["step"], 4);
  assertSameBits(twin.params[1]!.data, expected.paramGroups[0]!.params[0]!.data, "float32", "data");
  twin.run();
});

inEachMode("all parameters start anew when the state is cleared", (mode) => {
  const twin = new Twin(mode);
  twin.run(3);
  twin.optimizer.state.clear();
  twin.grads();
  const groups = SIZES.map((sizes, g) => ({
    params: sizes.map((_, i) => new Parameter(copied(group(twin, g).params[i]!.data))),
    ...(g === 1 ? { lr: 0.01, amsgrad: false } : {}),
  }));
  const params = groups.flatMap((g) => g.params), expected = new AdamW(groups, { ...OPTIONS, ...FOR_LOOP });
  params.forEach((p, i) => p.grad = twin.params[i]!.grad);
  twin.optimizer.step();
  expected.step();
  params.forEach((p, i) => {
    assertSameBits(twin.params[i]!.data, p.data, "float32", `data of w${i}`);
    assertEquals(twin.state(i)["step"], 1);
  });
});

inEachMode("state that is set is used, in the arrays that were given", (mode) => {
  const twin = new Twin(mode);
  twin.run(2);
  for (const i of [0, 4]) {
    const p = twin.params[i]!, tensors = Object.keys(twin.state(i)).filter((key) => key !== "step");
    const make = () => ({
      step: 9,
      ...Object.fromEntries(tensors.map((key, k) => [key, typed(values(60 + k, p.size).map(Math.abs), "float32")])),
    });
    const given = make();
    twin.optimizer.state.set(p, given);
    twin.reference.state.set(twin.copies[i]!, make());
    twin.run(2);
    assert(twin.state(i) === given, "the entry that was set");
    assertEquals(given.step, 11);
  }
});

inEachMode("amsgrad may be switched on and off between steps: its tensor is made, kept, and taken up again", (mode) => {
  const twin = new Twin(mode);
  for (const on of [true, false, true, true, false, false, true]) {
    for (const { paramGroups } of [twin.optimizer, twin.reference]) paramGroups[1]!.amsgrad = on;
    twin.run();
  }
  assert("maxExpAvgSq" in twin.state(3));
});

inEachMode("a group's implementation may change between steps", (mode) => {
  const twin = new Twin(mode);
  for (const other of [FOR_LOOP, mode, FOR_LOOP, mode]) {
    for (const g of twin.optimizer.paramGroups) Object.assign(g, { foreach: null, fused: null }, other);
    twin.run();
    Object.assign(group(twin, 1), FOR_LOOP); // two implementations in one step
    twin.run();
  }
});

inEachMode("a parameter that is pushed into a group is taken up", (mode) => {
  const twin = new Twin(mode);
  for (const before of [0, 2]) {
    twin.run(before);
    const p = parameter(70 + before, 33), copy = parameter(70 + before, 33);
    group(twin, 0).params.push(p);
    twin.reference.paramGroups[0]!.params.push(copy);
    twin.params.push(p);
    twin.copies.push(copy);
    twin.run(2);
    assertEquals(twin.optimizer.state.get(p)!["step"], 2);
  }
});

inEachMode("parameters that are taken out of a group are left alone, and the others go on", (mode) => {
  const twin = new Twin(mode);
  twin.run(2);
  const out = twin.params[1]!, before = copied(out.data);
  group(twin, 0).params.splice(1, 1);
  twin.reference.paramGroups[0]!.params.splice(1, 1);
  twin.run(2);
  assertSameBits(out.data, before, "float32", "the parameter that was taken out");
  // and back again, elsewhere: its state is still there
  group(twin, 1).params.unshift(out);
  twin.reference.paramGroups[1]!.params.unshift(twin.copies[1]!);
  twin.run(2);
  assertEquals(twin.state(1)["step"], 4);
});

inEachMode("a group's params may be another array, in another order", (mode) => {
  const twin = new Twin(mode);
  twin.run(2);
  group(twin, 0).params = [...group(twin, 0).params].reverse();
  twin.run(2);
});

inEachMode("groups may be taken out and put in", (mode) => {
  const twin = new Twin(mode);
  twin.run(2);
  const out = twin.optimizer.paramGroups.pop()!, outCopy = twin.reference.paramGroups.pop()!;
  const before = out.params.map((p) => copied(p.data));
  twin.run();
  out.params.forEach((p, i) => assertSameBits(p.data, before[i]!, "float32", `params[${i}]`));
  twin.optimizer.paramGroups.unshift(out);
  twin.reference.paramGroups.unshift(outCopy);
  twin.run(2);
});

inEachMode("one parameter may be updated by two optimizers in turn", (mode) => {
  const make = (options: Mode) => {
    const params = [parameter(1, 500), parameter(2, 20)];
    const optimizers = [new AdamW(params, { ...OPTIONS, ...options }), new SGD(params, { momentum: 0.9, ...options })];
    return { params, optimizers };
  };
  const actual = make(mode), expected = make(FOR_LOOP);
  for (let step = 0; step < 6; step++) {
    for (const { params, optimizers } of [actual, expected]) {
      params.forEach((p, i) => p.grad = typed(values(10 * step + i, p.size), "float32"));
      optimizers[step % 2]!.step();
    }
    actual.params.forEach((p, i) => assertSameBits(p.data, expected.params[i]!.data, "float32", `params[${i}]`));
  }
});

inEachMode("parameters without elements are stepped like the others", (mode) => {
  for (const dtype of DTYPES) {
    const make = (options: Mode) => {
      const params = [parameter(1, 0, dtype), parameter(2, 9, dtype), parameter(3, 0, dtype)];
      params.push(new Parameter(typed([], dtype), { dtype, shape: [3, 0] }));
      return { params, optimizer: new AdamW(params, { ...OPTIONS, ...options }) };
    };
    const actual = make(mode), expected = make(FOR_LOOP);
    for (let step = 0; step < 3; step++) {
      for (const { params, optimizer } of [actual, expected]) {
        for (const p of params) p.grad = typed(values(step, p.size), dtype);
        optimizer.step();
      }
      assertSameBits(actual.params[1]!.data, expected.params[1]!.data, dtype, "data");
      for (const p of actual.params) assertEquals(actual.optimizer.state.get(p)!["step"], step + 1);
    }
    actual.params[0]!.grad = typed([1], dtype);
    assertThrows(() => actual.optimizer.step(), RangeError, "grad of paramGroups[0].params[0] must have 0 elements");
  }
});

inEachMode("a step over parameters without elements alone is a step", (mode) => {
  const p = new Parameter([]), optimizer = new AdamW([p], mode);
  p.grad = new Float32Array();
  optimizer.step();
  optimizer.step();
  assertEquals(optimizer.state.get(p), { step: 2, expAvg: new Float32Array(), expAvgSq: new Float32Array() });
});
