/** Memory of each kind: resizable, shared, of WebAssembly; views of it, that grow, shrink and lie side by side. */

import { assertThrows } from "@std/assert";
import { AdamW, Parameter, SGD, type TypedArray } from "../mod.ts";
import { bytesOf, DTYPES } from "../src/dtype.ts";
import { assertSameBits } from "./support/bits.ts";
import { guarded } from "./support/arrays.ts";
import { typed } from "./support/golden.ts";
import { copied, FOR_LOOP, inEachMode, inside, OPTIONS, parameter, SIZES, Twin, values } from "./support/twin.ts";

/** Memory of each kind that there is, for so many bytes. */
const MEMORY: Readonly<Record<string, (bytes: number) => ArrayBufferLike>> = {
  "an ArrayBuffer": (bytes) => new ArrayBuffer(bytes),
  "a resizable ArrayBuffer": (bytes) => new ArrayBuffer(bytes, { maxByteLength: 2 * bytes }),
  "a SharedArrayBuffer": (bytes) => new SharedArrayBuffer(bytes),
  "a growable SharedArrayBuffer": (bytes) => new SharedArrayBuffer(bytes, { maxByteLength: 2 * bytes }),
  "a WebAssembly.Memory": (bytes) => new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) }).buffer,
  "a shared WebAssembly.Memory": (bytes) => {
    const pages = Math.ceil(bytes / 65536);
    return new WebAssembly.Memory({ initial: pages, maximum: pages + 1, shared: true }).buffer;
  },
};

for (const [kind, memory] of Object.entries(MEMORY)) {
  inEachMode(`views in the middle of ${kind} are updated, and nothing around them`, (mode) => {
    for (const dtype of DTYPES) {
      for (const n of [1, 3, 17, 64, 1000, 1029]) {
        const size = bytesOf(dtype), guards: (() => void)[] = [];
        const put = (seed: number, at: number) => {
          const { view, check } = guarded(memory(n * size + 256), dtype, n, at * size);
          view.set(typed(values(seed, n), dtype) as Float32Array);
          guards.push(check);
          return view;
        };
        const p = new Parameter(put(1, 1), { dtype }), copy = new Parameter(typed(values(1, n), dtype), { dtype });
        const optimizer = new AdamW([p], { ...OPTIONS, ...mode }),
          reference = new AdamW([copy], { ...OPTIONS, ...FOR_LOOP });
        const tensors = ["expAvg", "expAvgSq", "maxExpAvgSq"];
        optimizer.state.set(p, { step: 0, ...Object.fromEntries(tensors.map((key, k) => [key, put(0, 3 + 2 * k)])) });
        for (const key of tensors) (optimizer.state.get(p)![key] as TypedArray).fill(0);
        for (let step = 0; step < 3; step++) {
          p.grad = put(10 + step, 7);
          copy.grad = typed(values(10 + step, n), dtype);
          optimizer.step();
          reference.step();
          const what = `${dtype}, ${n} elements, step ${step}`;
          assertSameBits(p.data, copy.data, dtype, what);
          assertSameBits(p.grad, copy.grad, dtype, `grad: ${what}`);
          for (const key of tensors) {
            const expected = reference.state.get(copy)![key] as TypedArray;
            assertSameBits(optimizer.state.get(p)![key] as TypedArray, expected, dtype, `${key}: ${what}`);
          }
          for (const check of guards) check();
        }
      }
    }
  });
}

inEachMode("views side by side in one buffer are no overlap", (mode) => {
  const bytes = new ArrayBuffer(4 * SIZES.flat().reduce<number>((a, b) => a + b, 0)), data: TypedArray[] = [];
  let at = 0;
  SIZES.flat().forEach((n, i) => {
    data.push(new Float32Array(bytes, at, n));
    (data[i] as Float32Array).set(typed(values(i, n), "float32") as Float32Array);
    at += 4 * n;
  });
  new Twin(mode, { data }).run(3);
});

inEachMode("a resizable buffer that shrinks is an error, and works again when it has grown back", (mode) => {
  for (const tracking of [false, true]) {
    for (const field of ["data", "grad", "expAvg"] as const) {
      const twin = new Twin(mode), p = twin.params[0]!;
      twin.run(2);
      twin.grads();
      const buffer = new ArrayBuffer(28, { maxByteLength: 100 });
      const view = tracking ? new Float32Array(buffer) : new Float32Array(buffer, 0, 7);
      const target = field === "expAvg" ? twin.state(0) : p as unknown as Record<string, TypedArray>;
      view.set(target[field] as Float32Array);
      target[field] = view;
      twin.step();
      twin.check();
      twin.grads();
      if (field === "grad") {
        view.set(p.grad as Float32Array);
        p.grad = view;
      }
      const before = copied(view);
      buffer.resize(24);
      assertThrows(
        () => twin.optimizer.step(),
        RangeError,
        `${field} of paramGroups[0].params[0] ("w0") must have 7 elements`,
      );
      buffer.resize(100);
      view.set(before as Float32Array);
      if (tracking) {
        assertThrows(() => twin.optimizer.step(), RangeError, "7 elements, as its parameter's shape [7] has, got 25");
        buffer.resize(28);
      }
      twin.step();
      twin.check();
      twin.run();
    }
  }
});

inEachMode("a growable SharedArrayBuffer may grow under a view of fixed length", (mode) => {
  const twin = new Twin(mode), p = twin.params[1]!;
  const buffer = new SharedArrayBuffer(4064, { maxByteLength: 1 << 20 });
  p.data = inside(buffer, p, 64);
  for (const bytes of [8000, 65536, 1 << 20]) {
    twin.run();
    buffer.grow(bytes);
    twin.run();
  }
});

inEachMode("a WebAssembly memory that grows detaches its old views, which is an error, and new views work", (mode) => {
  for (const field of ["data", "grad", "expAvgSq"] as const) {
    const twin = new Twin(mode), p = twin.params[3]!;
    twin.run();
    const memory = new WebAssembly.Memory({ initial: 1 });
    const target = field === "expAvgSq" ? twin.state(3) : p as unknown as Record<string, TypedArray>;
    const move = () => {
      const view = new Float32Array(memory.buffer, 512, 1001);
      if ((target[field] as TypedArray).length > 0) view.set(target[field] as Float32Array);
      target[field] = view;
    };
    twin.grads();
    move();
    twin.step();
    twin.check();
    for (let k = 0; k < 3; k++) {
      twin.grads();
      if (field === "grad") move();
      memory.grow(20);
      assertThrows(
        () => twin.optimizer.step(),
        RangeError,
        `${field} of paramGroups[1].params[0] ("w3") must have 1001 elements`,
      );
      move();
      twin.step();
      twin.check();
    }
  }
});

inEachMode("a WebAssembly memory may grow under views of its resizable buffer, which stay", (mode) => {
  interface Resizable extends Omit<WebAssembly.Memory, "toResizableBuffer"> { // the DOM's types have it already
    toResizableBuffer?(): ArrayBuffer;
  }
  const held: unknown[] = [];
  for (let k = 0; k < 20; k++) { // the first ones have a place of their own to grow in; later ones may move
    const memory: Resizable = new WebAssembly.Memory({ initial: 1, maximum: 10_000 });
    held.push(memory);
    if (!memory.toResizableBuffer) {
      console.log("skipped: WebAssembly memories have no toResizableBuffer() here");
      return;
    }
    const buffer = memory.toResizableBuffer();
    const p = new Parameter(inside(buffer, parameter(1, 1000))), copy = parameter(1, 1000);
    const optimizer = new SGD([p], { lr: 0.1, ...mode }), reference = new SGD([copy], { lr: 0.1, ...FOR_LOOP });
    p.grad = inside(buffer, parameter(2, 1000), 8192);
    copy.grad = typed(values(2, 1000), "float32");
    for (let step = 0; step < 4; step++) {
      optimizer.step();
      reference.step();
      assertSameBits(p.data, copy.data, "float32", `memory ${k}, step ${step}`);
      memory.grow(20);
      held.push(new ArrayBuffer(1 << 20)); // takes the place that a moved memory has left
    }
  }
});
