/** What Adafactor and Muon have in common: failed steps, memory, state dicts, and the choice of the backend. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { Adafactor, Muon, type Optimizer, Parameter, SparseTensor, StateDictError, type TypedArray } from "../mod.ts";
import { DTYPES } from "../src/dtype.ts";
import { type AnyOptimizer, TENSOR_ROWS } from "./support/classes.ts";
import { hashNumbers, typed } from "./support/golden.ts";
import { runProgram } from "./support/runtime.ts";

/** Bun's own limit is five seconds, which a busy machine may need. */
const LIMIT = { timeout: 180_000 };

type Tensors = Record<string, TypedArray>;
const SHAPE = [3, 4];

/** A parameter of shape [3, 4] with a gradient. */
function parameter(seed = 1, dtype: Parameter["dtype"] = "float32", name?: string): Parameter {
  const p = new Parameter(typed(hashNumbers(seed, 12, 1), dtype), { shape: SHAPE, dtype, ...(name ? { name } : {}) });
  p.grad = typed(hashNumbers(seed + 50, 12, 1), dtype);
  return p;
}

/** Everything that a step may change, as a copy. */
function snapshot(optimizer: Optimizer): unknown {
  const params = optimizer.paramGroups.flatMap((group) => group.params);
  return structuredClone([params.map((p) => [...p.data]), optimizer.stateDict().state]);
}

/** Steps, which must throw and change nothing. */
function fails(optimizer: Optimizer, type: typeof TypeError | typeof RangeError, message: string): void {
  const before = snapshot(optimizer);
  assertThrows(() => optimizer.step(), type, message);
  assertEquals(snapshot(optimizer), before);
}

const force = (target: object, key: string, value: unknown): void => {
  (target as Record<string, unknown>)[key] = value;
};

for (const { name, make, real } of TENSOR_ROWS) {
  const tensors = name === "Muon" ? ["momentumBuffer"] : ["rowVar", "colVar"];

  test(`${name}: a gradient of the wrong kind or length fails the step, and nothing has changed`, LIMIT, () => {
    for (const started of [false, true]) {
      const good = parameter(1), bad = parameter(2, "float32", "fc.weight"), optimizer = new real([good, bad]);
      if (started) optimizer.step();
      const place = 'grad of paramGroups[0].params[1] ("fc.weight")';
      bad.grad = new Float32Array(11);
      fails(optimizer, RangeError, `${place} must have 12 elements, as its parameter's shape [3, 4] has, got 11`);
      bad.grad = new Float64Array(12);
      fails(optimizer, TypeError, `${place} must be a Float32Array of 12, got a Float64Array of 12`);
      force(bad, "grad", "gradient");
      fails(optimizer, TypeError, `${place} must be a Float32Array of 12, got "gradient"`);
      bad.grad = new SparseTensor([[1]], [1, 2, 3, 4], SHAPE);
      fails(optimizer, TypeError, `${name} does not support sparse gradients`);
      bad.grad = new Float32Array(12).fill(1);
      optimizer.step();
      assertEquals(optimizer.state.size, 2);
    }
  });

  test(
    `${name}: state that was replaced, detached or made wrong fails the step, and nothing has changed`,
    LIMIT,
    () => {
      for (const key of tensors) {
        const good = parameter(1), bad = parameter(2), optimizer = new real([good, bad]);
        optimizer.step();
        const state = optimizer.state.get(bad)! as Tensors, own = state[key]!, n = own.length;
        const place = `${key} of paramGroups[0].params[1]`;
        state[key] = new Float32Array(n + 1);
        fails(optimizer, RangeError, `${place} must have ${n} elements`);
        state[key] = new Float64Array(n);
        fails(optimizer, TypeError, `${place} must be a Float32Array of ${n}, got a Float64Array`);
        delete state[key];
        fails(optimizer, TypeError, `${place} must be a Float32Array of ${n}, got undefined`);
        state[key] = own;
        (own.buffer as ArrayBuffer).transfer();
        const before = [...good.data];
        assertThrows(() => optimizer.step(), RangeError, `${place} must have ${n} elements`);
        assertEquals([...good.data], before);
        state[key] = new Float32Array(n); // another array of the right kind is taken as it is
        optimizer.step();
        assert(state[key]!.some((x) => x !== 0));
      }
    },
  );

  test(
    `${name}: data that was replaced is stepped; data that was detached or has another length is refused`,
    LIMIT,
    () => {
      const p = parameter(), optimizer = new real([p]);
      optimizer.step();
      const old = p.data, before = [...old];
      p.data = Float32Array.from(old);
      optimizer.step();
      assertEquals([...old], before);
      assert(p.data.some((x, i) => x !== before[i]));
      p.data = new Float32Array(13);
      assertThrows(() => optimizer.step(), RangeError, "data of paramGroups[0].params[0] must have 12 elements");
      p.data = new Float32Array(12);
      optimizer.step();
      (p.data.buffer as ArrayBuffer).transfer();
      assertThrows(() => optimizer.step(), RangeError, "data of paramGroups[0].params[0] must have 12 elements");
    },
  );

  test(`${name}: what a step writes may overlap with nothing`, LIMIT, () => {
    const memory = new Float32Array(40);
    const p = new Parameter(memory.subarray(0, 12), { shape: SHAPE }), optimizer = new real([p]);
    p.grad = memory.subarray(11, 23);
    fails(optimizer, RangeError, "must not share memory with");
    p.grad = new Float32Array(12).fill(1);
    optimizer.step();
    const key = tensors.at(-1)!, state = optimizer.state.get(p)! as Tensors, n = state[key]!.length;
    state[key] = memory.subarray(11, 11 + n);
    fails(optimizer, RangeError, "must not share memory, but they overlap");
    state[key] = memory.subarray(12, 12 + n);
    p.grad = memory.subarray(12, 24);
    fails(optimizer, RangeError, "must not share memory with");
    p.grad = memory.subarray(12 + n, 24 + n);
    optimizer.step();
    assertThrows(() => new real([p, new Parameter(memory.subarray(11, 23), { shape: SHAPE })]), RangeError);
    assertThrows(() => new real([p, p]), RangeError, "a parameter must appear once");
    const q = parameter();
    optimizer.addParamGroup({ params: [q] });
    q.grad = p.grad; // one gradient for two parameters is only read
    optimizer.step();
  });

  test(`${name}: a null gradient skips the parameter: no state, no count, no decay`, LIMIT, () => {
    const p = parameter(1), q = parameter(2), optimizer = new real([p, q], { weightDecay: 0.5, lr: 0.5 });
    q.grad = null;
    const before = [...q.data];
    optimizer.step();
    assertEquals([[...q.data], optimizer.state.has(q), optimizer.state.has(p)], [before, false, true]);
    p.grad = null;
    const left = snapshot(optimizer);
    optimizer.step();
    assertEquals(snapshot(optimizer), left);
    new real([parameter()]).zeroGrad();
  });

  test(
    `${name}: a run that is saved and resumed half way has the same bits, in every dtype and by every way of saving`,
    LIMIT,
    () => {
      for (const dtype of DTYPES) {
        const run = (from: Optimizer, p: Parameter, steps: number[]) => {
          for (const t of steps) {
            p.grad = typed(hashNumbers(t, 12, 1), dtype);
            from.step();
          }
        };
        const p = parameter(1, dtype), whole = new real([p], { lr: 0.1 });
        run(whole, p, [1, 2, 3]);
        const saved = whole.stateDict(), data = p.data.slice();
        run(whole, p, [4, 5]);
        for (const dict of [saved, structuredClone(saved), JSON.parse(JSON.stringify(saved))]) {
          const q = new Parameter(data.slice(), { shape: SHAPE, dtype }), half = new real([q], { lr: 7 });
          half.loadStateDict(dict);
          run(half, q, [4, 5]);
          assertEquals([...q.data], [...p.data]);
          assertEquals(half.stateDict(), whole.stateDict());
        }
      }
    },
  );

  test(`${name}: state that does not fit is refused when it is loaded, and nothing has changed`, LIMIT, () => {
    const p = parameter(), optimizer = new real([p]);
    optimizer.step();
    const good = optimizer.stateDict(), before = snapshot(optimizer);
    const refused = (change: (entry: Record<string, unknown>) => void, message: string) => {
      const dict = structuredClone(good);
      change(dict.state[0]!);
      assertThrows(() => optimizer.loadStateDict(dict), StateDictError, message);
      assertEquals(snapshot(optimizer), before);
    };
    for (const key of tensors) {
      refused((entry) => delete entry[key], `state[0] must have ${key}`);
      refused((entry) => entry[key] = new Float32Array(1), `state[0].${key} has 1 elements`);
      refused((entry) => entry[key] = 3, `state[0].${key} must be a typed array`);
    }
    refused((entry) => entry["variance"] = new Float32Array(12), "state[0].variance is no state of");
    refused((entry) => entry["expAvg"] = new Float32Array(12), "state[0].expAvg is no state of");
    if (name === "Adafactor") {
      refused((entry) => delete entry["step"], "state[0] must have step");
      refused((entry) => entry["step"] = NaN, "state[0].step must be a number >= 0, got NaN");
      refused((entry) => entry["step"] = "1", "state[0].step must be a number >= 0");
    }
    const other = new real([new Parameter(new Float32Array(12), { shape: [4, 3] })]);
    assertThrows(() => other.loadStateDict(good), StateDictError, "shape");
    optimizer.loadStateDict(good);
    (good.state[0]! as Tensors)[tensors[0]!]!.fill(9); // nothing is shared
    assertEquals(snapshot(optimizer), before);
  });

  test(`${name}: initState() makes the state that the first step starts from`, LIMIT, () => {
    const p = parameter(), q = parameter(), early = new real([p]), late = new real([q]);
    early.initState();
    const state = early.state.get(p)! as Tensors;
    assert(tensors.every((key) => state[key]!.every((x) => x === 0)));
    early.step();
    late.step();
    assertEquals(snapshot(early), snapshot(late));
    early.initState();
    assertEquals(snapshot(early), snapshot(late));
  });

  test(`${name}: groups have their own options, also those added later, and names and closures work`, LIMIT, () => {
    const p = parameter(1), q = parameter(2), optimizer = new real([{ params: [["a", p]], lr: 0 }], { weightDecay: 0 });
    optimizer.addParamGroup({ params: [["b", q]], lr: 0.5 });
    const before = [...p.data], other = [...q.data];
    assertEquals(optimizer.step(() => 0.5), 0.5);
    assertEquals([...p.data], before);
    assert(q.data.every((x, i) => x !== other[i]));
    assertEquals(optimizer.stateDict().paramGroups[1]!.paramNames, ["b"]);
  });

  test(`${name}: dtypes may be mixed in a group, and each parameter steps as it would alone`, LIMIT, () => {
    const mixed = [...DTYPES, ...DTYPES].map((dtype, i) => parameter(i, dtype)),
      optimizer = new real(mixed, { lr: 0.1 });
    const alone = mixed.map((p, i) => parameter(i, p.dtype)), others = alone.map((p) => new real([p], { lr: 0.1 }));
    for (let t = 0; t < 3; t++) {
      optimizer.step();
      for (const o of others) o.step();
    }
    mixed.forEach((p, i) => assertEquals([...p.data], [...alone[i]!.data], p.dtype));
  });

  test(
    `${name}: steps with FLATSTEP_BACKEND=js, and without permission to open a library, have the native bits`,
    LIMIT,
    async () => {
      const program = (which: string) => `
      import { backend, ${which}, Parameter } from "MOD";
      const params = [[7, 5], [3, 130]].map(([rows, columns]) => {
        const data = Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i * 12.9898) * 0.5);
        return new Parameter(data.map(Math.fround), { shape: [rows, columns] });
      });
      for (const p of params) p.data.forEach((_, i) => p.data[i] = ((i * 7919) % 101 - 50) / 64);
      const optimizer = new ${which}(params, { lr: 0.25, weightDecay: 0.125 });
      for (let t = 1; t <= 4; t++) {
        for (const p of params) p.grad = Float32Array.from(p.data, (_, i) => ((i * 31 * t) % 37 - 18) / 128);
        optimizer.step();
      }
      const bits = params.map((p) => [...new Uint32Array(p.data.buffer)].join());
      console.log(JSON.stringify([backend().name, bits]));
    `;
      const run = async (env: Record<string, string>, permissions: string[]) => {
        const ended = await runProgram(program(name), { env, permissions });
        assertEquals([ended.code, ended.stderr], [0, ""]);
        return JSON.parse(ended.stdout) as [string, string[]];
      };
      const [best, bits] = await run({}, ["-A"]);
      assert(best.endsWith("-ffi"));
      const [js, same] = await run({ FLATSTEP_BACKEND: "js" }, ["-A"]);
      assertEquals([js, same], ["js", bits]);
      assertEquals(await run({ FLATSTEP_BACKEND: "wasm" }, ["-A"]), ["wasm", bits]);
      if (!("Bun" in globalThis)) assertEquals(await run({}, ["--deny-net"]), ["wasm", bits]);
    },
  );

  test(`${name}: more parameters than one, in one step, go as each would alone`, LIMIT, () => {
    const shapes = Array.from({ length: 40 }, (_, i) => [1 + i % 7, 1 + i * 13 % 90]);
    const all = shapes.map((shape, i) => {
      const n = shape[0]! * shape[1]!, p = new Parameter(Float32Array.from(hashNumbers(i, n, 1)), { shape });
      p.grad = Float32Array.from(hashNumbers(i + 99, n, 1));
      return p;
    });
    const alone = all.map((p) => {
      const q = new Parameter(p.data.slice(), { shape: p.shape });
      q.grad = p.grad;
      return q;
    });
    const make2 = make as AnyOptimizer;
    new make2(all, { lr: 0.1 }).step();
    for (const q of alone) new make2([q], { lr: 0.1 }).step();
    all.forEach((p, i) => assertEquals(p.data, alone[i]!.data));
  });
}

test(
  "foreach: true of Adafactor without a library is a NativeLibraryError; Muon has no such option",
  LIMIT,
  async () => {
    const { code, stdout } = await runProgram(
      `
    import { Adafactor } from "MOD";
    const p = new Float32Array(4), optimizer = new Adafactor([p], { foreach: true });
    try {
      optimizer.paramGroups[0].params[0].grad = new Float32Array(4);
      optimizer.step();
    } catch (error) {
      console.log(error.name, error.message.split("\\n")[0]);
    }
  `,
      { env: { FLATSTEP_BACKEND: "js" } },
    );
    assertEquals(code, 0);
    assertEquals(stdout.trim(), "NativeLibraryError foreach is true, but the native library cannot be opened:");
    assertEquals("foreach" in new Adafactor([new Float32Array(1)]).defaults, true);
    assertEquals("foreach" in new Muon([parameter()]).defaults, false);
  },
);
