/** Gradients that are other arrays at each step: many are bound in one call, and Bun's small ones without a look at their buffer. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { AdamW, backend, Parameter, SGD, type TypedArray } from "../mod.ts";
import { bestBackend } from "../ffi/load.ts";
import { type DType, DTYPES } from "../src/dtype.ts";
import { WrittenMemory } from "../src/memory.ts";
import { SGD_RULE } from "../src/optim/sgd.ts";
import { assertSameBits } from "./support/bits.ts";
import { collector } from "./support/garbage.ts";
import { typed } from "./support/golden.ts";
import { IS_BUN } from "./support/runtime.ts";
import { FOR_LOOP, gradOf, inEachMode, type Mode, values } from "./support/twin.ts";

/** An array of `like`'s kind over other memory. */
function over(like: TypedArray, buffer: ArrayBufferLike, at = 0): TypedArray {
  const View = like.constructor as new (buffer: ArrayBufferLike, at: number, n: number) => TypedArray;
  const view = new View(buffer, at, like.length);
  view.set(like as Float32Array);
  return view;
}

const wasm = new WebAssembly.Memory({ initial: 4 });
let place = 0;

/** Ways to come by an array: another one with the same elements. */
const KINDS: Readonly<Record<string, (array: TypedArray) => TypedArray>> = {
  "slice()": (array) => array.slice(),
  "of()": (array) => (array.constructor as unknown as typeof Float32Array).of(...array),
  "a copy whose buffer was read": (array) => {
    const copy = array.slice();
    assert(copy.buffer.byteLength > 0);
    return copy;
  },
  "a part of a larger array": (array) => {
    const View = array.constructor as typeof Float32Array, whole = new View(array.length + 5);
    whole.set(array, 3);
    return whole.subarray(3, 3 + array.length);
  },
  "memory of its own": (array) => over(array, new ArrayBuffer(array.byteLength)),
  "resizable memory": (array) => {
    return over(array, new ArrayBuffer(array.byteLength, { maxByteLength: 4 * array.byteLength }));
  },
  "shared memory": (array) => over(array, new SharedArrayBuffer(array.byteLength + 8), 8),
  "WebAssembly memory": (array) => {
    const at = place < 200_000 ? place : 64;
    place = at + 64 + Math.ceil(array.byteLength / 8) * 8;
    return over(array, wasm.buffer, at);
  },
};

/** An optimizer, and one in TypeScript over copies of its parameters. The state is not looked at, as in most programs. */
class Pair {
  readonly params: Parameter[];
  readonly copies: Parameter[];
  readonly optimizer: AdamW;
  readonly reference: AdamW;
  #seed = 0;

  constructor(mode: Mode, sizes: readonly number[], dtype: (i: number) => DType = () => "float32") {
    const make = () =>
      sizes.map((n, i) => new Parameter(typed(values(i, n), dtype(i)), { dtype: dtype(i), name: `w${i}` }));
    this.params = make();
    this.copies = make();
    this.optimizer = new AdamW(this.params, { lr: 0.01, ...mode });
    this.reference = new AdamW(this.copies, { lr: 0.01, ...FOR_LOOP });
  }

  /** Gives some parameters other gradients. */
  grads(of: (array: TypedArray, i: number) => TypedArray = (array) => array, which = (_i: number) => true): void {
    this.#seed += 1000;
    this.params.forEach((p, i) => {
      if (!which(i)) return;
      const grad = typed(values(this.#seed + i, p.size), p.dtype);
      this.copies[i]!.grad = grad;
      p.grad = of(grad.slice(), i);
    });
  }

  step(): void {
    this.optimizer.step();
    this.reference.step();
    this.check();
  }

  check(): void {
    this.params.forEach((p, i) => assertSameBits(p.data, this.copies[i]!.data, p.dtype, `data of w${i}`));
  }
}

for (const [kind, make] of Object.entries(KINDS)) {
  inEachMode(`new gradients by ${kind} are read, however many and whatever their length`, (mode) => {
    for (const dtype of DTYPES) {
      for (const count of [1, 2, 7, 8, 9, 15, 16, 17]) {
        const pair = new Pair(
          mode,
          Array.from({ length: count }, (_, i) => 1 + (i * i * 37 + count) % 300),
          () => dtype,
        );
        for (let step = 0; step < 4; step++) {
          pair.grads(make);
          pair.step();
        }
      }
    }
  });
}

inEachMode("new gradients of every length from 1 to 1100 are read", (mode) => {
  const pair = new Pair(mode, Array.from({ length: 1100 }, (_, i) => i + 1));
  for (let step = 0; step < 4; step++) {
    pair.grads();
    pair.step();
  }
});

inEachMode("some gradients are new and others are not, at each step in another pattern", (mode) => {
  const pair = new Pair(mode, Array.from({ length: 37 }, (_, i) => i % 9 === 4 ? 0 : 5 + i));
  pair.grads();
  for (let step = 0; step < 3; step++) pair.step();
  for (let pattern = 1; pattern < 40; pattern++) {
    pair.grads((array) => array, (i) => (i * pattern) % 7 < pattern % 8);
    pair.step();
    if (pattern % 5 === 0) pair.step(); // the same once more
  }
});

inEachMode("parameters of several dtypes in turn get new gradients", (mode) => {
  const pair = new Pair(mode, Array.from({ length: 45 }, (_, i) => 1 + i), (i) => DTYPES[(i >> 1) % 4]!);
  for (let step = 0; step < 5; step++) {
    pair.grads();
    pair.step();
  }
});

inEachMode("a new gradient whose buffer is read after the step is found where it has gone", (mode) => {
  const pair = new Pair(mode, [64, 7, 64, 1, 100]);
  for (let round = 0; round < 3; round++) {
    pair.grads();
    pair.step();
    pair.params.forEach((p, i) => { // what is written moves with it
      const grad = gradOf(p), view = i % 2 === 0 ? new Uint8Array(grad.buffer) : grad.subarray(0);
      assert(view.length > 0);
      grad.fill(i + 1);
      (pair.copies[i]!.grad as Float32Array).fill(i + 1);
    });
    pair.step();
    pair.step();
  }
});

inEachMode("a gradient that is looked at while the step looks at the next one is read where it is then", (mode) => {
  const pair = new Pair(mode, Array.from({ length: 20 }, () => 50));
  let read = 0, step = 0;
  for (let i = 0; i < 20; i++) {
    const p = pair.params[i]!;
    let own: TypedArray | null = null;
    Object.defineProperty(p, "grad", {
      get() {
        if (i === 13) { // its elements are where they stay from then on, and others
          const before = seen.get(pair.params[4]!) as Float32Array;
          read += before.buffer.byteLength;
          before.fill(step);
          (pair.copies[4]!.grad as Float32Array).fill(step);
        }
        return own;
      },
      set(grad: TypedArray | null) {
        own = grad;
        seen.set(p, grad);
      },
    });
  }
  const seen = new Map<Parameter, TypedArray | null>();
  for (; step < 5; step++) {
    pair.grads();
    pair.step();
  }
  assert(read > 0);
});

inEachMode("a gradient that parameters share is new for some and not for others", (mode) => {
  const pair = new Pair(mode, Array.from({ length: 12 }, () => 33));
  pair.grads();
  pair.step();
  for (let step = 0; step < 6; step++) {
    for (const params of [pair.params, pair.copies]) {
      const grad = typed(values(step, 33), "float32"), other = params[step]!.grad;
      params.forEach((p, i) => p.grad = i % 3 === 0 ? other : grad);
    }
    pair.step();
    pair.step();
  }
});

test("groups in TypeScript and in compiled code share new gradients", () => {
  if (backend().name === "js") return console.log(`skipped: there is no compiled code: ${backend().why}`);
  const make = (modes: readonly Mode[]) => {
    const params = modes.map((_, i) =>
      Array.from({ length: 10 }, (_, k) => new Parameter(typed(values(10 * i + k, 40), "float32")))
    );
    const optimizer = new AdamW(modes.map((mode, i) => ({ params: params[i]!, ...mode })), { lr: 0.1 });
    return { params, optimizer };
  };
  const fused = { foreach: false, fused: true }, foreach = { foreach: true, fused: false };
  const mixed = make([fused, FOR_LOOP, foreach, fused]), plain = make([FOR_LOOP, FOR_LOOP, FOR_LOOP, FOR_LOOP]);
  for (let step = 0; step < 5; step++) {
    for (const { params, optimizer } of [mixed, plain]) {
      for (let k = 0; k < 10; k++) {
        const grad = Float32Array.from(values(step * 10 + k, 40));
        for (const list of params) list[k]!.grad = grad;
      }
      optimizer.step(null, step % 2 === 0 ? {} : { maxGradNorm: 0.5 });
    }
    mixed.params.flat().forEach((p, i) => assertSameBits(p.data, plain.params.flat()[i]!.data, "float32", `w${i}`));
  }
});

inEachMode("new gradients are clipped in the step", (mode) => {
  const pair = new Pair(mode, Array.from({ length: 30 }, (_, i) => 3 * i + 1));
  for (let step = 0; step < 5; step++) {
    pair.grads();
    for (const optimizer of [pair.optimizer, pair.reference]) optimizer.step(null, { maxGradNorm: 0.7, gradScale: 4 });
    pair.check();
  }
});

inEachMode("a gradient in memory that may move, and a large one, give way to new ones", (mode) => {
  const pair = new Pair(mode, [64, 1 << 20, 64]);
  const other = (array: TypedArray, i: number) => i === 1 ? array : KINDS["resizable memory"]!(array);
  for (const make of [undefined, undefined, other, undefined, other, other, undefined, undefined]) {
    pair.grads(make);
    pair.step();
    if (make === other) pair.step(); // it has come to stay
  }
});

/** Runs a steady state until the gradients of `bad` are refused with this message; then all is as before, and goes on. */
function refuses(pair: Pair, bad: () => void, says: string): void {
  const before = pair.params.map((p) => p.data.slice()), counted = pair.optimizer.stepCount;
  bad();
  assertThrows(() => pair.optimizer.step(), RangeError, says);
  pair.params.forEach((p, i) => assertSameBits(p.data, before[i]!, p.dtype, `data of w${i} after a failed step`));
  assertEquals(pair.optimizer.stepCount, counted);
  for (let step = 0; step < 3; step++) {
    pair.grads();
    pair.step();
  }
}

inEachMode("a new gradient in memory that the step writes is refused, and nothing has changed", (mode) => {
  const pair = new Pair(mode, Array.from({ length: 21 }, () => 30)), block = new Float32Array(21 * 40);
  pair.params.forEach((p, i) => { // side by side, with gaps of ten elements
    const part = block.subarray(40 * i, 40 * i + 30);
    part.set(p.data as Float32Array);
    p.data = part;
  });
  for (let step = 0; step < 3; step++) {
    pair.grads();
    pair.step();
  }
  for (const at of [0, 1, 7, 8, 15, 20]) {
    const part = (from: number) => () => pair.params[at]!.grad = block.subarray(from, from + 30);
    const says = `grad of paramGroups[0].params[${at}] ("w${at}") must not share memory with data of`;
    refuses(pair, part(40 * at), says);
    refuses(pair, part(Math.max(0, 40 * at - 29)), says); // one element
    refuses(pair, part(Math.min(810, 40 * at + 29)), says);
    pair.grads();
    refuses(pair, part(40 * ((at + 5) % 21)), says); // another's, among new ones
  }
  const gaps = new Pair(mode, [10, 10, 10]);
  gaps.params.forEach((p, i) => p.data = over(p.data, block.buffer, 160 * i));
  for (let step = 0; step < 4; step++) { // between what is written, and touching it
    gaps.grads((array, i) => over(array, block.buffer, 160 * i + 40));
    gaps.step();
  }
});

inEachMode("a new gradient in the state's memory is refused", (mode) => {
  const pair = new Pair(mode, [30, 30, 30]);
  for (let step = 0; step < 3; step++) {
    pair.grads();
    pair.step();
  }
  const state = pair.optimizer.state.get(pair.params[1]!)!["expAvgSq"] as Float32Array;
  refuses(pair, () => pair.params[2]!.grad = state, "must not share memory with expAvgSq of paramGroups[0].params[1]");
});

inEachMode("a new gradient is held against parameters and state that have come later", (mode) => {
  const pair = new Pair(mode, [30, 30, 30]);
  for (let step = 0; step < 3; step++) {
    pair.grads();
    pair.step();
  }
  const late = new Parameter(new Float32Array(90));
  late.grad = new Float32Array(90);
  pair.optimizer.addParamGroup({ params: [late] });
  for (let step = 0; step < 3; step++) {
    pair.grads();
    pair.step();
  }
  refuses(
    pair,
    () => pair.params[0]!.grad = late.data.subarray(60),
    "must not share memory with data of paramGroups[1]",
  );
});

inEachMode("a new gradient is held against the state of a parameter that has its first gradient late", (mode) => {
  const pair = new Pair(mode, [30, 30, 30]), late = new Parameter(new Float32Array(30));
  pair.optimizer.addParamGroup({ params: [late] });
  for (let step = 0; step < 5; step++) {
    pair.grads();
    if (step === 3) late.grad = new Float32Array(30);
    pair.step();
  }
  const state = pair.optimizer.state.get(late)!["expAvg"] as Float32Array;
  refuses(pair, () => pair.params[0]!.grad = state, "must not share memory with expAvg of paramGroups[1]");
});

test("memory that two objects stand for is refused where only its addresses tell", () => {
  if (bestBackend().library === null) return console.log(`skipped: there is no native library: ${backend().why}`);
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 2, shared: true }), before = memory.buffer;
  memory.grow(1);
  if (memory.buffer === before) return console.log("skipped: a memory that grows keeps its buffer");
  const p = new Parameter(new Float32Array(before, 0, 16)), optimizer = new SGD([p], { lr: 1, fused: true });
  for (let step = 0; step < 3; step++) {
    p.grad = new Float32Array(16).fill(1);
    optimizer.step();
  }
  p.grad = new Float32Array(memory.buffer, 32, 16);
  assertThrows(() => optimizer.step(), RangeError, "must not share memory with what the step writes");
  assertEquals(p.data.join(), new Float32Array(16).fill(-3).join());
});

inEachMode("new gradients of a wrong kind or length are refused among right ones", (mode) => {
  const pair = new Pair(mode, Array.from({ length: 19 }, () => 12));
  for (let step = 0; step < 3; step++) {
    pair.grads();
    pair.step();
  }
  const wrong: [unknown, string][] = [
    [new Float32Array(11), "must have 12 elements"],
    [new Float64Array(12), "must be a Float32Array of 12"],
    [new Proxy(new Float32Array(12), {}), "must be a Float32Array of 12"],
    [Array(12).fill(0), "must be a Float32Array of 12"],
    [Object.defineProperty(new Float32Array(5), "length", { value: 12 }), "must be a Float32Array of 12"],
  ];
  for (const [grad, says] of wrong) {
    for (const at of [0, 7, 8, 18]) {
      const before = pair.params.map((p) => p.data.slice());
      pair.grads();
      (pair.params[at] as { grad: unknown }).grad = grad;
      assertThrows(() => pair.optimizer.step(), Error, says);
      pair.params.forEach((p, i) => assertSameBits(p.data, before[i]!, p.dtype, `data of w${i}`));
      pair.grads();
      pair.step();
    }
  }
});

inEachMode("gradients of earlier steps are not kept", async (mode) => {
  const pair = new Pair(mode, Array.from({ length: 10 }, () => 50_000)), old: WeakRef<TypedArray>[] = [];
  for (let step = 0; step < 6; step++) {
    pair.grads();
    if (step < 5) { for (const p of pair.params) old.push(new WeakRef(gradOf(p))); }
    pair.step();
  }
  await new Promise((resolve) => setTimeout(resolve, 1)); // an array that was just made counts as used until then
  collector()();
  const kept = old.filter((ref) => ref.deref() !== undefined).length;
  assert(kept <= 5, `${kept} of ${old.length} are still there`); // a collector may see some on the stack
});

test("a binder looks at every array's address, in whatever order they lie", () => {
  const native = bestBackend();
  if (native.library === null) return console.log(`skipped: there is no native library: ${backend().why}`);
  const rows = 61, n = 16, block = new Float32Array(2 * rows * n), written = new WrittenMemory();
  const part = (k: number) => block.subarray(k * n, (k + 1) * n); // even ones are written
  for (let k = 0; k < rows; k++) written.add(part(2 * k), `row ${k}`);
  const orders = [(k: number) => k, (k: number) => rows - 1 - k, (k: number) => (k * 37) % rows];
  for (const order of orders) {
    const job = native.createJob(SGD_RULE, "float32", rows), binder = job.binder!(1, written)!;
    assert(binder.ready());
    for (let row = 0; row < rows; row++) job.setLength(row, n);
    const grads = Array.from({ length: rows }, (_, row) => part(2 * order(row) + 1));
    for (let count = 0; count <= 8; count++) {
      for (let at = 0; at + Math.max(1, count) <= rows; at += count || rows) {
        assertEquals(binder.bind(at, count, grads, at), -1);
      }
    }
    for (let bad = 0; bad < rows; bad++) {
      const with1 = grads.with(bad, part(2 * ((bad * 7) % rows))), at = Math.min(bad, rows - 8);
      assertEquals(binder.bind(at, 8, with1, at), bad);
      const across = grads.with(bad, block.subarray(2 * n * ((bad * 7) % rows) + n - 1).subarray(0, n));
      assertEquals(binder.bind(at, 8, across, at), bad);
    }
    assertThrows(() => binder.bind(rows - 1, 2, [...grads, part(1)], rows - 1), Error, "a row that is not there");
    for (let at = 0; at < rows; at++) {
      assertEquals(binder.bind(at, 1, grads, at), -1);
      grads[at]!.fill(at + 1);
      job.bind(at, 0, part(2 * at).fill(100));
    }
    job.bindHypers(Float64Array.of(1, 0, 0, 0, 1), 1); // param - grad
    native.run([job], 1);
    for (let row = 0; row < rows; row++) {
      assertEquals(part(2 * row), new Float32Array(n).fill(99 - row));
      assertEquals(grads[row]!, new Float32Array(n).fill(row + 1));
    }
  }
});

test("Bun moves small arrays when their buffer is read and at no other time; Deno moves none", () => {
  const native = bestBackend();
  if (native.library === null) return console.log(`skipped: there is no native library: ${backend().why}`);
  const binder = native.createJob(SGD_RULE, "float32", 1).binder!(1, new WrittenMemory())!;
  assertEquals(binder.moves, IS_BUN);
});
