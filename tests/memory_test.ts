/** What becomes of buffers between steps: replaced, detached, resized, moved, overlapping, collected. */

import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { AdamW, type AdamWOptions, backend, type DType, Parameter, type ParamGroup, SGD } from "../mod.ts";
import type { ParameterState, TypedArray } from "../mod.ts";
import { jsBackend } from "../ffi/js.ts";
import { bestBackend } from "../ffi/load.ts";
import { bytesOf, DTYPES } from "../src/dtype.ts";
import { SGD_RULE } from "../src/optim/sgd.ts";
import { assertSameBits } from "./support/bits.ts";
import { hashNumbers, typed } from "./support/golden.ts";

interface Mode {
  readonly foreach: boolean;
  readonly fused: boolean;
}

const FOR_LOOP: Mode = { foreach: false, fused: false };
const MODES: Readonly<Record<string, Mode>> = {
  "for-loop": FOR_LOOP,
  foreach: { foreach: true, fused: false },
  fused: { foreach: false, fused: true },
};

/** A test in each implementation that there is. */
function inEachMode(name: string, body: (mode: Mode) => void | Promise<void>): void {
  for (const [key, mode] of Object.entries(MODES)) {
    test(`${name} (${key})`, { timeout: 60_000 }, () => {
      if (mode !== FOR_LOOP && backend().name === "js") {
        console.log(`skipped: there is no compiled code: ${backend().why}`);
        return;
      }
      return body(mode);
    });
  }
}

/** A parameter's gradient: a dense one, in this file. */
const gradOf = (p: Parameter): TypedArray => p.grad as TypedArray;

/** Numbers that are different for each seed. */
const values = (seed: number, n: number): Float64Array => hashNumbers(seed, n, 2);

/** A Parameter of such numbers in an array of its own. */
function parameter(seed: number, n: number, dtype: DType = "float32", name?: string): Parameter {
  return new Parameter(typed(values(seed, n), dtype), { dtype, ...(name === undefined ? {} : { name }) });
}

/** Another array of the same numbers. */
const copied = (array: TypedArray): TypedArray => array.slice();

/** Sets a field to something that its type does not allow. */
function force(target: object, key: string, value: unknown): void {
  (target as Record<string, unknown>)[key] = value;
}

/** Moves a buffer's memory to another owner, so that its views have no elements any more. */
const detach = (array: { readonly buffer: ArrayBufferLike }): ArrayBuffer => (array.buffer as ArrayBuffer).transfer();

/** The sizes of the parameters of a {@linkcode Twin}: two groups of them. */
const SIZES = [[7, 1000, 300], [1001, 12]] as const;
const OPTIONS: AdamWOptions = { lr: 0.05, weightDecay: 0.1, amsgrad: true };

/**
 * Two optimizers: one that a test does strange things to, and one (in TypeScript, over arrays that nobody else touches)
 * that tells what must come out.
 */
class Twin {
  readonly optimizer: AdamW;
  readonly params: Parameter[];
  readonly reference: AdamW;
  readonly copies: Parameter[];
  #step = 0;

  constructor(mode: Mode, { data, dtype = "float32" }: { data?: readonly TypedArray[]; dtype?: DType } = {}) {
    const make = (own: boolean) => {
      const params: Parameter[] = [];
      const groups = SIZES.map((sizes, g) => ({
        params: sizes.map((n) => {
          const i = params.length, given = own ? undefined : data?.[i];
          const array = given ?? typed(values(i, n), dtype);
          params.push(new Parameter(array, { dtype, name: `w${i}` }));
          return params[i]!;
        }),
        ...(g === 1 ? { lr: 0.01, amsgrad: false } : {}),
      }));
      return { params, groups };
    };
    const strange = make(false), plain = make(true);
    this.params = strange.params;
    this.copies = plain.params;
    this.optimizer = new AdamW(strange.groups, { ...OPTIONS, ...mode });
    this.reference = new AdamW(plain.groups, { ...OPTIONS, ...FOR_LOOP });
  }

  /** New gradients for the next step, in new arrays. */
  grads(): void {
    const seed = 100 * ++this.#step;
    for (const params of [this.params, this.copies]) {
      params.forEach((p, i) => p.grad = typed(values(seed + i, p.size), p.dtype));
    }
  }

  /** Steps both. */
  step(): void {
    this.optimizer.step();
    this.reference.step();
  }

  /** New gradients, a step, and a look at the results. */
  run(steps = 1): void {
    for (let i = 0; i < steps; i++) {
      this.grads();
      this.step();
      this.check();
    }
  }

  state(i: number): ParameterState {
    return this.optimizer.state.get(this.params[i]!)!;
  }

  /** Throws unless parameters and state have the same bits. */
  check(): void {
    assertEquals(this.optimizer.state.size, this.reference.state.size);
    this.params.forEach((p, i) => {
      const copy = this.copies[i]!;
      assertSameBits(p.data, copy.data, p.dtype, `data of w${i}`);
      const state = this.optimizer.state.get(p), expected = this.reference.state.get(copy);
      assertEquals(Object.keys(state ?? {}), Object.keys(expected ?? {}));
      for (const [key, value] of Object.entries(expected ?? {})) {
        const actual = state![key]!;
        if (typeof value === "number") assertStrictEquals(actual, value, `${key} of w${i}`);
        else assertSameBits(actual as TypedArray, value as TypedArray, p.dtype, `${key} of w${i}`);
      }
    });
  }
}

/** An array's bytes; none where its memory is gone. */
function bytesOfView({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return byteLength === 0 ? new Uint8Array() : new Uint8Array(buffer, byteOffset, byteLength);
}

/** Everything that a failed step may not change: which arrays there are, and every byte of them. */
function capture(twin: Twin): () => void {
  const checks: (() => void)[] = [];
  const same = (what: string, read: () => unknown) => {
    const before = read();
    checks.push(() => assert(Object.is(read(), before), `${what} is another one`));
    if (!ArrayBuffer.isView(before)) return;
    const bytes = bytesOfView(before).slice();
    checks.push(() => assertEquals(bytesOfView(before), bytes, `${what} has changed`));
  };
  const { optimizer } = twin;
  twin.params.forEach((p, i) => {
    same(`data of w${i}`, () => p.data);
    same(`grad of w${i}`, () => p.grad);
    same(`state of w${i}`, () => optimizer.state.get(p));
    for (const key of Object.keys(optimizer.state.get(p) ?? {})) {
      same(`${key} of w${i}`, () => optimizer.state.get(p)?.[key]);
    }
  });
  const entries = () => [...optimizer.state].map(([p, state]) => [p.name, Object.keys(state)]);
  const before = entries();
  checks.push(() => assertEquals(entries(), before));
  const groups = optimizer.paramGroups.map((group) => ({ ...group, params: [...group.params] }));
  checks.push(() => {
    assertEquals(optimizer.paramGroups.length, groups.length);
    optimizer.paramGroups.forEach((group, g) => {
      const { params, ...options } = group, { params: before, ...optionsBefore } = groups[g]!;
      assertEquals(options, optionsBefore);
      assert(params.length === before.length && params.every((p, i) => p === before[i]), "other parameters");
    });
  });
  return () => checks.forEach((check) => check());
}

/** Something wrong, and how it is put right again. */
interface Fault {
  /** `a step refuses …` */
  readonly what: string;
  readonly error: new (message?: string) => Error;
  /** What the message must have in it. */
  readonly says: readonly string[];
  /** Only where there is state already. */
  readonly needsState?: boolean;
  /** Makes it wrong; the gradients of the next step are there already. Returns what puts it right. */
  readonly make: (twin: Twin) => () => void;
}

/** Replaces a field, and puts it back. */
function swap<Target extends object>(target: Target, key: keyof Target & string, value: unknown): () => void {
  const had = key in target, before = target[key];
  force(target, key, value);
  return () => {
    if (had) target[key] = before;
    else delete target[key];
  };
}

/** A view of a parameter's elements in the middle of other memory, filled with them. */
function inside<Buffer extends ArrayBufferLike>(buffer: Buffer, p: Parameter, offset = 64): TypedArray {
  const View = p.data.constructor as new (buffer: Buffer, offset: number, length?: number) => TypedArray;
  const view = new View(buffer, offset, p.size);
  view.set(p.data as Float32Array);
  return view;
}

const group = (twin: Twin, g: number) => twin.optimizer.paramGroups[g]!;

const FAULTS: readonly Fault[] = [
  {
    what: "a gradient that is too short",
    error: RangeError,
    says: ['grad of paramGroups[1].params[0] ("w3")', "1001 elements", "got 1000"],
    make: ({ params }) => swap(params[3]!, "grad", new Float32Array(1000)),
  },
  {
    what: "a gradient that is too long",
    error: RangeError,
    says: ['grad of paramGroups[0].params[1] ("w1")', "1000 elements", "got 1001"],
    make: ({ params }) => swap(params[1]!, "grad", new Float32Array(1001)),
  },
  {
    what: "a gradient of another dtype",
    error: TypeError,
    says: ['grad of paramGroups[1].params[1] ("w4")', "a Float32Array of 12", "a Float64Array of 12"],
    make: ({ params }) => swap(params[4]!, "grad", new Float64Array(12)),
  },
  {
    what: "a gradient of plain numbers",
    error: TypeError,
    says: ['grad of paramGroups[0].params[2] ("w2")', "a Float32Array of 300", "an Array"],
    make: ({ params }) => swap(params[2]!, "grad", new Array(300).fill(0)),
  },
  {
    what: "a gradient that is no array at all",
    error: TypeError,
    says: ['grad of paramGroups[0].params[2] ("w2")', "got 1"],
    make: ({ params }) => swap(params[2]!, "grad", 1),
  },
  {
    what: "a gradient that has been transferred away",
    error: RangeError,
    says: ['grad of paramGroups[1].params[1] ("w4")', "got 0"],
    make: ({ params }) => {
      const grad = copied(gradOf(params[4]!));
      detach(gradOf(params[4]!));
      return () => params[4]!.grad = grad;
    },
  },
  {
    what: "a gradient that has been posted away by structuredClone",
    error: RangeError,
    says: ['grad of paramGroups[0].params[0] ("w0")', "got 0"],
    make: ({ params }) => {
      const grad = gradOf(params[0]!);
      const moved = structuredClone(grad, { transfer: [grad.buffer as ArrayBuffer] });
      return () => params[0]!.grad = moved;
    },
  },
  {
    what: "a gradient in a part of a parameter",
    error: RangeError,
    says: ['grad of paramGroups[1].params[1] ("w4")', 'data of paramGroups[0].params[1] ("w1")', "share memory"],
    make: ({ params }) => swap(params[4]!, "grad", params[1]!.data.subarray(988)),
  },
  {
    what: "a gradient that is its own parameter's array",
    error: RangeError,
    says: ['grad of paramGroups[0].params[0] ("w0")', 'data of paramGroups[0].params[0] ("w0")', "share memory"],
    make: ({ params }) => swap(params[0]!, "grad", params[0]!.data),
  },
  {
    what: "a gradient that is a state tensor",
    error: RangeError,
    says: ['grad of paramGroups[1].params[1] ("w4")', 'expAvgSq of paramGroups[1].params[1] ("w4")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.params[4]!, "grad", twin.state(4)["expAvgSq"]),
  },
  {
    what: "a gradient in a part of another parameter's state",
    error: RangeError,
    says: ['grad of paramGroups[0].params[0] ("w0")', 'expAvg of paramGroups[1].params[0] ("w3")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.params[0]!, "grad", (twin.state(3)["expAvg"] as TypedArray).subarray(1, 8)),
  },
  {
    what: "data that has been replaced by a shorter array",
    error: RangeError,
    says: ['data of paramGroups[1].params[0] ("w3")', "1001 elements", "got 1000"],
    make: ({ params }) => swap(params[3]!, "data", new Float32Array(1000)),
  },
  {
    what: "data that has been replaced by a longer array",
    error: RangeError,
    says: ['data of paramGroups[0].params[0] ("w0")', "7 elements", "got 8"],
    make: ({ params }) => swap(params[0]!, "data", new Float32Array(8)),
  },
  {
    what: "data that has been replaced by an array of another dtype",
    error: TypeError,
    says: ['data of paramGroups[1].params[1] ("w4")', "a Float32Array of 12", "a Float64Array of 12"],
    make: ({ params }) => swap(params[4]!, "data", new Float64Array(12)),
  },
  {
    what: "data that has been replaced by null",
    error: TypeError,
    says: ['data of paramGroups[0].params[1] ("w1")', "got null"],
    make: ({ params }) => swap(params[1]!, "data", null),
  },
  {
    what: "data that has been transferred away",
    error: RangeError,
    says: ['data of paramGroups[1].params[0] ("w3")', "got 0"],
    make: ({ params }) => {
      const buffer = detach(params[3]!.data);
      return () => params[3]!.data = new Float32Array(buffer);
    },
  },
  {
    what: "data that has been posted away by structuredClone",
    error: RangeError,
    says: ['data of paramGroups[0].params[0] ("w0")', "got 0"],
    make: ({ params }) => {
      const { data } = params[0]!, moved = structuredClone(data, { transfer: [data.buffer as ArrayBuffer] });
      return () => params[0]!.data = moved;
    },
  },
  {
    what: "data that has been replaced by memory of another parameter",
    error: RangeError,
    says: ['data of paramGroups[0].params[2] ("w2")', 'data of paramGroups[1].params[0] ("w3")', "share memory"],
    make: ({ params }) => swap(params[2]!, "data", params[3]!.data.subarray(700, 1000)),
  },
  {
    what: "data that has been replaced by a state tensor",
    error: RangeError,
    says: ['paramGroups[0].params[2] ("w2")', 'paramGroups[0].params[1] ("w1")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.params[2]!, "data", (twin.state(1)["expAvg"] as TypedArray).subarray(0, 300)),
  },
  {
    what: "a state tensor that is too short",
    error: RangeError,
    says: ['expAvgSq of paramGroups[1].params[0] ("w3")', "1001 elements", "got 3"],
    needsState: true,
    make: (twin) => swap(twin.state(3), "expAvgSq", new Float32Array(3)),
  },
  {
    what: "a state tensor of another dtype",
    error: TypeError,
    says: ['maxExpAvgSq of paramGroups[0].params[2] ("w2")', "a Float32Array of 300", "a Float64Array of 300"],
    needsState: true,
    make: (twin) => swap(twin.state(2), "maxExpAvgSq", new Float64Array(300)),
  },
  {
    what: "a number in place of a state tensor",
    error: TypeError,
    says: ['expAvg of paramGroups[0].params[1] ("w1")', "got 0"],
    needsState: true,
    make: (twin) => swap(twin.state(1), "expAvg", 0),
  },
  {
    what: "a state tensor that has been transferred away",
    error: RangeError,
    says: ["expAvg of paramGroups[1]", "got 0"], // compiled code keeps the state of small tensors in one block: all of it has gone
    needsState: true,
    make: (twin) => {
      const array = twin.state(4)["expAvg"] as TypedArray;
      const gone = [...twin.optimizer.state.values()].flatMap((state) =>
        Object.entries(state).flatMap(([key, value]) => {
          if (!ArrayBuffer.isView(value) || value.buffer !== array.buffer) return [];
          return [{ state, key, at: value.byteOffset, n: value.length }];
        })
      );
      const buffer = detach(array);
      return () => gone.forEach(({ state, key, at, n }) => state[key] = new Float32Array(buffer, at, n));
    },
  },
  {
    what: "a state tensor that is its own parameter's gradient",
    error: RangeError,
    says: ['expAvg of paramGroups[0].params[2] ("w2")', 'grad of paramGroups[0].params[2] ("w2")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.state(2), "expAvg", twin.params[2]!.grad),
  },
  {
    what: "a state tensor in a gradient of a parameter before it",
    error: RangeError,
    says: ['expAvgSq of paramGroups[1].params[1] ("w4")', 'grad of paramGroups[0].params[1] ("w1")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.state(4), "expAvgSq", gradOf(twin.params[1]!).subarray(500, 512)),
  },
  {
    what: "a state tensor in a gradient of a parameter behind it",
    error: RangeError,
    says: ['expAvg of paramGroups[0].params[0] ("w0")', 'grad of paramGroups[1].params[0] ("w3")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.state(0), "expAvg", gradOf(twin.params[3]!).subarray(0, 7)),
  },
  {
    what: "a state tensor that is another parameter's",
    error: RangeError,
    says: ['expAvg of paramGroups[1].params[1] ("w4")', 'expAvgSq of paramGroups[0].params[1] ("w1")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.state(4), "expAvg", (twin.state(1)["expAvgSq"] as TypedArray).subarray(0, 12)),
  },
  {
    what: "one array as two state tensors",
    error: RangeError,
    says: ['expAvg of paramGroups[0].params[0] ("w0")', 'expAvgSq of paramGroups[0].params[0] ("w0")', "share memory"],
    needsState: true,
    make: (twin) => swap(twin.state(0), "expAvgSq", twin.state(0)["expAvg"]),
  },
  {
    what: "a count of steps that is NaN",
    error: TypeError,
    says: ['step of paramGroups[1].params[0] ("w3")', "got NaN"],
    needsState: true,
    make: (twin) => swap(twin.state(3), "step", NaN),
  },
  {
    what: "a count of steps that is missing",
    error: TypeError,
    says: ['step of paramGroups[0].params[1] ("w1")', "got undefined"],
    needsState: true,
    make: (twin) => {
      const state = twin.state(1), { step } = state;
      force(state, "step", undefined);
      return () => state["step"] = step!;
    },
  },
  {
    what: "a parameter that was pushed twice",
    error: RangeError,
    says: ["paramGroups[0].params[2]", "paramGroups[1].params[2]"],
    make: (twin) => {
      group(twin, 1).params.push(twin.params[2]!);
      return () => group(twin, 1).params.pop();
    },
  },
  {
    what: "a typed array that was pushed as a parameter",
    error: TypeError,
    says: ["paramGroups[1].params[2] must be a Parameter", "a Float32Array of 4"],
    make: (twin) => {
      (group(twin, 1).params as unknown[]).push(new Float32Array(4));
      return () => group(twin, 1).params.pop();
    },
  },
  {
    what: "a pushed parameter in the memory of another",
    error: RangeError,
    says: ["data of paramGroups[1].params[2]", 'data of paramGroups[0].params[1] ("w1")', "share memory"],
    make: (twin) => {
      group(twin, 1).params.push(new Parameter(twin.params[1]!.data.subarray(3, 9)));
      return () => group(twin, 1).params.pop();
    },
  },
  {
    what: "a learning rate that is NaN",
    error: RangeError,
    says: ["lr must be >= 0, got NaN", "paramGroups[1]"],
    make: (twin) => swap(group(twin, 1), "lr", NaN),
  },
  {
    what: "a learning rate that is no number",
    error: TypeError,
    says: ['lr must be a number, got "0.1"', "paramGroups[0]"],
    make: (twin) => swap(group(twin, 0), "lr", "0.1"),
  },
  {
    what: "an unknown key in a group",
    error: TypeError,
    says: ['AdamW has no option "learningRate"', "paramGroups[1]"],
    make: (twin) => swap(group(twin, 1) as ParamGroup<AdamWOptions> & { learningRate?: number }, "learningRate", 0.1),
  },
  {
    what: "a second implementation in a group",
    error: TypeError,
    says: ["foreach and fused must not both be true", "paramGroups[1]"],
    make: (twin) => {
      const undo = [swap(group(twin, 1), "foreach", true), swap(group(twin, 1), "fused", true)];
      return () => undo.forEach((call) => call());
    },
  },
];

for (const { what, error, says, needsState = false, make } of FAULTS) {
  inEachMode(`step() refuses ${what}, changes nothing, and goes on as if it had not been`, (mode) => {
    for (const before of needsState ? [1, 3] : [0, 2]) {
      const twin = new Twin(mode);
      twin.run(before);
      twin.grads();
      const mend = make(twin), assertUnchanged = capture(twin);
      for (let attempt = 0; attempt < 2; attempt++) {
        const { message } = assertThrows(() => twin.optimizer.step(), error);
        for (const text of says) assert(message.includes(text), `after ${before} steps: ${message}\nlacks ${text}`);
        assertUnchanged();
      }
      mend();
      twin.step();
      twin.check();
      twin.run(2);
    }
  });
}

inEachMode("step() with a closure that throws changes nothing", (mode) => {
  for (const before of [0, 2]) {
    const twin = new Twin(mode);
    twin.run(before);
    twin.grads();
    const assertUnchanged = capture(twin);
    assertThrows(
      () =>
        twin.optimizer.step(() => {
          throw new RangeError("from the closure");
        }),
      RangeError,
      "from the closure",
    );
    assertUnchanged();
    twin.step();
    twin.check();
    twin.run();
  }
});

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

/** A view of n elements in the middle of memory, whose other bytes are watched. */
function guarded(
  buffer: ArrayBufferLike,
  dtype: DType,
  n: number,
  offset: number,
): { view: TypedArray; check: () => void } {
  const all = new Uint8Array(buffer), end = offset + n * bytesOf(dtype);
  all.fill(0xa5);
  const View = typed([], dtype).constructor as new (
    buffer: ArrayBufferLike,
    offset: number,
    length: number,
  ) => TypedArray;
  return {
    view: new View(buffer, offset, n),
    check() {
      for (let i = 0; i < all.length; i++) {
        if (i === offset) i = end;
        if (i < all.length && all[i] !== 0xa5) throw new Error(`byte ${i} outside [${offset}, ${end}) is ${all[i]}`);
      }
    },
  };
}

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

/** Collects garbage now. */
function collector(): () => void {
  const { Bun } = globalThis as unknown as { Bun?: { gc(now: boolean): void } };
  if (Bun) return () => Bun.gc(true);
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
}

inEachMode("garbage collection between steps moves and frees nothing that a step needs", (mode) => {
  const twin = new Twin(mode), collect = collector();
  const litter: Float32Array[] = [];
  const fill = () => { // takes the places that have become free
    for (const n of [7, 12, 300, 1000, 1001]) for (let i = 0; i < 20; i++) litter.push(new Float32Array(n).fill(NaN));
  };
  for (let step = 0; step < 6; step++) {
    twin.grads();
    fill();
    collect();
    twin.step();
    twin.check();
    for (const p of [...twin.params, ...twin.copies]) p.grad = null;
    collect();
    fill();
    if (step % 2 === 1) { for (const p of twin.params) p.data = copied(p.data); }
  }
  assert(litter.every((array) => array.every((x) => x !== x)), "a step has written to memory that is not its own");
});

inEachMode("a job keeps the arrays that are bound to it", async (mode) => {
  const backend = mode === FOR_LOOP ? jsBackend : bestBackend(), job = backend.createJob(SGD_RULE, "float32", 1);
  const kept = [0, 1].map((buffer) => { // only the job knows these arrays from here on
    const array = new Float32Array(100_000).fill(buffer);
    job.bind(0, buffer, array);
    return new WeakRef(array);
  });
  await new Promise((resolve) => setTimeout(resolve, 1)); // an array that was just made counts as used until then
  collector()();
  for (const array of kept) assert(array.deref() !== undefined, "a step would write to memory that has been freed");
});

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

test("a constructor refuses parameters that share memory", () => {
  const data = new Float32Array(10);
  const whole = new Parameter(data, { name: "whole" }), part = new Parameter(data.subarray(8), { name: "part" });
  for (const params of [[whole, part], [{ params: [whole] }, { params: [part] }]]) {
    const error = assertThrows(() => new SGD(params as Parameter[]), RangeError, "share memory");
    for (const name of ["whole", "part"]) assert(error.message.includes(`"${name}"`), error.message);
  }
  new SGD([new Parameter(data.subarray(0, 5)), new Parameter(data.subarray(5))]); // side by side
});

test("a constructor refuses views of different kinds that share memory", () => {
  const bytes = new ArrayBuffer(64);
  const params = [new Parameter(new Float32Array(bytes, 0, 4)), new Parameter(new Float64Array(bytes, 8, 4))];
  assertThrows(() => new SGD(params), RangeError, "share memory");
});

test("addParamGroup() refuses parameters that share memory with others, and adds nothing", () => {
  const data = new Float32Array(10), optimizer = new SGD([new Parameter(data)]);
  assertThrows(
    () => optimizer.addParamGroup({ params: [new Parameter(data.subarray(2, 3))] }),
    RangeError,
    "share memory",
  );
  assertEquals(optimizer.paramGroups.length, 1);
  optimizer.step();
});
