/** Gradients and data that are other arrays from one step to the next, and small arrays that Bun moves. */

import { assert, assertEquals } from "@std/assert";
import { AdamW, Parameter, SGD, type TypedArray } from "../mod.ts";
import { DTYPES } from "../src/dtype.ts";
import { assertSameBits } from "./support/bits.ts";
import {
  copied,
  FOR_LOOP,
  gradOf,
  inEachMode,
  inside,
  type Mode,
  OPTIONS,
  parameter,
  Twin,
  values,
} from "./support/twin.ts";

for (const dtype of DTYPES) {
  inEachMode(`gradients may be other arrays at each step: ${dtype}`, (mode) => {
    new Twin(mode, { dtype }).run(4);
  });
}

inEachMode("gradients may be the same arrays, written anew", (mode) => {
  const twin = new Twin(mode);
  twin.grads();
  const grads = twin.params.map(gradOf);
  for (let i = 0; i < 4; i++) {
    twin.step();
    twin.check();
    twin.grads();
    twin.params.forEach((p, k) => {
      grads[k]!.set(p.grad! as Float32Array);
      p.grad = grads[k]!;
    });
  }
});

inEachMode("a gradient that is null now and then skips its parameter, and that one alone", (mode) => {
  const twin = new Twin(mode);
  for (let i = 0; i < 6; i++) {
    twin.grads();
    twin.params.forEach((p, k) => {
      if ((i + k) % 3 === 0) p.grad = twin.copies[k]!.grad = null;
    });
    twin.step();
    twin.check();
  }
  assertEquals(twin.state(0)["step"], 4);
});

inEachMode("gradients may share memory with each other", (mode) => {
  const shared = Float32Array.from(values(5, 100));
  const make = (options: Mode) => {
    const params = [parameter(1, 60), parameter(2, 60), parameter(3, 80)];
    params[0]!.grad = params[1]!.grad = shared.subarray(0, 60);
    params[2]!.grad = shared.subarray(20);
    return { params, optimizer: new AdamW(params, options) };
  };
  const { params, optimizer } = make(mode), expected = make(FOR_LOOP);
  for (const p of expected.params) p.grad = copied(gradOf(p));
  for (let i = 0; i < 3; i++) {
    optimizer.step();
    expected.optimizer.step();
  }
  params.forEach((p, i) => assertSameBits(p.data, expected.params[i]!.data, "float32", `params[${i}]`));
  assertSameBits(shared, Float32Array.from(values(5, 100)), "float32", "the gradients");
});

inEachMode("another array in p.data is updated from then on, and the old one is left alone", (mode) => {
  const twin = new Twin(mode);
  twin.run(2);
  for (let i = 0; i < twin.params.length; i++) {
    const p = twin.params[i]!, old = p.data, before = copied(old);
    const bytes = new ArrayBuffer(p.size * 4 + 128);
    p.data = i % 2 === 0 ? copied(old) : inside(bytes, p);
    const state = { ...twin.state(i) };
    twin.run(2);
    assertSameBits(old, before, "float32", `the old data of w${i}`);
    assert(twin.state(i)["expAvg"] === state["expAvg"], "the state stays where it is");
  }
});

inEachMode("p.data may be replaced while the gradient is null", (mode) => {
  const twin = new Twin(mode);
  twin.run();
  const p = twin.params[1]!, copy = twin.copies[1]!, old = p.data, before = copied(old);
  p.grad = copy.grad = null;
  p.data = copied(old);
  twin.step();
  twin.check();
  p.data = copied(old);
  twin.run(2);
  assertSameBits(old, before, "float32", "the old data");
});

/** What a user may do with an array, that changes none of its elements. */
const TOUCHES: Readonly<Record<string, (array: TypedArray, port: MessagePort) => unknown>> = {
  "buffer is": (array) => array.buffer,
  "subarray() is": (array) => array.subarray(1),
  "copy by structuredClone() is": (array) => structuredClone(array),
  "copy by postMessage() is": (array, port) => port.postMessage(array),
};

for (const [what, touch] of Object.entries(TOUCHES)) {
  inEachMode(`a small array whose ${what} taken between steps is updated all the same`, (mode) => {
    const { port1, port2 } = new MessageChannel();
    try {
      for (const n of [1, 2, 15, 16, 17, 64, 999, 1000, 1001]) {
        // arrays without an explicit buffer: Bun keeps up to 1000 elements in a place that they leave when touched
        const p = new Parameter(new Float32Array(n)), copy = new Parameter(new Float32Array(n));
        for (let i = 0; i < n; i++) p.data[i] = copy.data[i] = (i % 13) - 6;
        const optimizer = new AdamW([p], { ...OPTIONS, ...mode }),
          reference = new AdamW([copy], { ...OPTIONS, ...FOR_LOOP });
        const grad = p.grad = new Float32Array(n);
        copy.grad = new Float32Array(n);
        for (let step = 0; step < 6; step++) {
          for (let i = 0; i < n; i++) grad[i] = copy.grad[i] = (i + step) % 5 - 2;
          optimizer.step();
          reference.step();
          const state = optimizer.state.get(p)!;
          if (step === 1) touch(p.data, port1);
          if (step === 2) touch(grad, port1);
          if (step === 3) {
            for (const key of ["expAvg", "expAvgSq", "maxExpAvgSq"]) touch(state[key] as TypedArray, port1);
          }
          assertSameBits(p.data, copy.data, "float32", `${n} elements, step ${step}`);
          assertSameBits(grad, copy.grad, "float32", `grad, ${n} elements, step ${step}`);
          for (const key of ["expAvg", "expAvgSq", "maxExpAvgSq"]) {
            const expected = reference.state.get(copy)![key] as TypedArray;
            assertSameBits(state[key] as TypedArray, expected, "float32", `${key}, ${n} elements, step ${step}`);
          }
        }
      }
    } finally {
      port1.close();
      port2.close();
    }
  });
}

inEachMode("thousands of small gradients, each in an array of its own that nobody keeps, are all read", (mode) => {
  const p = new Parameter(new Float32Array(16)), optimizer = new SGD([p], { lr: 1, ...mode });
  for (let step = 1; step <= 20_000; step++) {
    const grad = new Float32Array(16);
    for (let i = 0; i < 16; i++) grad[i] = -i;
    p.grad = grad;
    optimizer.step();
    if (p.data[15] !== 15 * step) {
      throw new Error(`after ${step} steps p.data[15] is ${p.data[15]}, expected ${15 * step}`);
    }
  }
  assertEquals([...p.data], Array.from({ length: 16 }, (_, i) => 20_000 * i));
});
