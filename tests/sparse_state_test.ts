/** SGD's sparse momentum, state dicts with it, and sparse steps that fail. */

import { test } from "node:test";
import { assert, assertEquals, assertInstanceOf, assertStrictEquals, assertThrows } from "@std/assert";
import {
  type Optimizer,
  Parameter,
  SGD,
  SparseAdam,
  type SparseData,
  SparseTensor,
  type StateDict,
  StateDictError,
  type TypedArray,
} from "../mod.ts";
import { DTYPES } from "../src/dtype.ts";
import { assertSameBits } from "./support/bits.ts";
import { type AnyOptimizer, ROWS } from "./support/classes.ts";
import { hashNumbers, typed } from "./support/golden.ts";

const table = (rows = 4) => new Parameter(new Float32Array(2 * rows).fill(1), { shape: [rows, 2], name: "table" });
const rowsOf = (rows: number[], value = 1, count = 4) =>
  new SparseTensor([rows], new Float32Array(2 * rows.length).fill(value), [count, 2]);
const bufferOf = (optimizer: Pick<Optimizer, "state">, p: Parameter) => {
  return optimizer.state.get(p)!["momentumBuffer"] as SparseTensor;
};
const any = SGD as unknown as AnyOptimizer;

test("SGD's momentum buffer is sparse: it has the rows named so far, each once, and all of them move", () => {
  for (const how of [{}, { foreach: false, fused: false }]) {
    const p = table(), optimizer: Optimizer = new any([p], { lr: 1, momentum: 0.5, dampening: 0.5, ...how });
    p.grad = rowsOf([3, 3, 1]);
    optimizer.step();
    const first = bufferOf(optimizer, p);
    assertInstanceOf(first, SparseTensor);
    assertEquals([[...first.indices], [...first.values]], [[1, 3], [1, 1, 2, 2]]); // undampened: 3 has two entries
    assertEquals([...p.data], [1, 1, 0, 0, 1, 1, -1, -1]);
    p.grad = rowsOf([2]);
    optimizer.step();
    const second = bufferOf(optimizer, p);
    assertEquals([[...second.indices], [...second.values]], [[1, 2, 3], [0.5, 0.5, 0.5, 0.5, 1, 1]]);
    assertEquals([...p.data], [1, 1, -0.5, -0.5, 0.5, 0.5, -2, -2]);
    assertEquals([...first.values], [1, 1, 2, 2]); // it has been replaced, for it has new rows
    p.grad = rowsOf([]);
    optimizer.step();
    assertStrictEquals(bufferOf(optimizer, p), second);
    assertEquals([...second.values], [0.25, 0.25, 0.25, 0.25, 0.5, 0.5]);
    p.grad = null;
    optimizer.step();
    assertEquals([...p.data], [1, 1, -0.75, -0.75, 0.25, 0.25, -2.5, -2.5]);
  }
});

test("a momentum that is switched on later begins with that step's gradient, and off leaves the buffer alone", () => {
  const p = table(), optimizer = new SGD([p], { lr: 1, dampening: 0.5 });
  const group = optimizer.paramGroups[0]!;
  p.grad = rowsOf([0]);
  optimizer.step();
  assertEquals(optimizer.state.size, 0);
  group.momentum = 0.5;
  optimizer.step();
  assertEquals([...bufferOf(optimizer, p).values], [1, 1]);
  group.momentum = 0;
  optimizer.step();
  assertEquals([...bufferOf(optimizer, p).values, ...p.data.subarray(0, 2)], [1, 1, -2, -2]);
  group.momentum = 0.5;
  optimizer.step();
  assertEquals([...bufferOf(optimizer, p).values], [1, 1]); // 0.5 * 1 + 0.5 * 1
});

test("a sparse gradient on a dense buffer is a dense step, with nesterov too", () => {
  for (const dtype of DTYPES) {
    for (const nesterov of [false, true]) {
      const [p, q] = [0, 1].map(() => new Parameter(typed(hashNumbers(1, 8, 1), dtype), { shape: [4, 2], dtype }));
      const optimizers = [p!, q!].map((x) => new SGD([x], { lr: 0.5, momentum: 0.9, nesterov }));
      for (let t = 0; t < 4; t++) {
        const values = typed(hashNumbers(t, 4, 1), dtype), full = typed(new Float64Array(8), dtype);
        full.set(values.subarray(0, 2), 6);
        full.set(values.subarray(2, 4), 2);
        p!.grad = t === 0 ? full : new SparseTensor([[3, 1]], values, [4, 2], { dtype });
        q!.grad = full;
        for (const optimizer of optimizers) optimizer.step();
        assertSameBits(p!.data, q!.data, dtype, `step ${t + 1}`);
      }
      assert(!(optimizers[0]!.state.get(p!)!["momentumBuffer"] instanceof SparseTensor));
    }
  }
});

test("a sparse momentum buffer is plain data in a state dict, a snapshot that survives structuredClone and JSON", () => {
  for (const dtype of DTYPES) {
    const make = () => new Parameter(typed(hashNumbers(1, 40, 1), dtype), { shape: [4, 5, 2], dtype });
    const gradient = (t: number) =>
      new SparseTensor([[t % 4, 3], [2, t % 5]], typed(hashNumbers(t, 4, 1), dtype), [4, 5, 2], { dtype });
    const options = { lr: 0.5, momentum: 0.9, nesterov: true };
    const p = make(), optimizer = new SGD([p], options);
    for (let t = 0; t < 3; t++) {
      p.grad = gradient(t);
      optimizer.step();
    }
    const dict = optimizer.stateDict(), saved = dict.state[0]!["momentumBuffer"] as SparseData;
    assertEquals(Object.keys(saved), ["indices", "values", "shape", "dtype"]);
    assertEquals(Object.getPrototypeOf(saved), Object.prototype);
    assertEquals([saved.shape, saved.dtype], [[4, 5, 2], dtype]);
    const frozen = structuredClone(dict), data = p.data.slice();
    const goOn = (from: StateDict, what: string) => {
      const q = new Parameter(data.slice(), { shape: [4, 5, 2], dtype }), other = new SGD([q], options);
      other.loadStateDict(from);
      const loaded = bufferOf(other, q);
      assertInstanceOf(loaded, SparseTensor);
      assert(loaded.values !== saved.values && loaded.indices !== saved.indices, "nothing is shared");
      for (let t = 3; t < 6; t++) {
        q.grad = gradient(t);
        other.step();
      }
      return [q.data, bufferOf(other, q).values, Float64Array.from(bufferOf(other, q).indices), what] as const;
    };
    const results = [
      goOn(dict, "as it is"),
      goOn(frozen, "structuredClone"),
      goOn(JSON.parse(JSON.stringify(frozen)), "JSON"),
    ];
    for (let t = 3; t < 6; t++) {
      p.grad = gradient(t);
      optimizer.step();
    }
    const now = bufferOf(optimizer, p);
    for (const [parameter, values, indices, what] of results) {
      assertSameBits(parameter, p.data, dtype, what);
      assertSameBits(values, now.values, dtype, what);
      assertEquals([...indices], [...now.indices]);
    }
    assertEquals(dict, frozen);
  }
});

/** A state dict of SGD with momentum on a [4, 2] parameter, with another buffer. */
function dictWith(buffer: unknown): StateDict {
  const dict = new SGD([table()], { momentum: 0.5 }).stateDict();
  dict.state[0] = { momentumBuffer: buffer as SparseData };
  return dict;
}

test("a loaded buffer is coalesced, cast, and may have its indices as lists, as torch's has them", () => {
  const p = table(), optimizer = new SGD([p], { lr: 1, momentum: 0.5 });
  const shape = [4, 2];
  for (
    const buffer of [
      { indices: [[3, 1, 3]], values: [1, 2, 3, 4, 5, 6], shape },
      { indices: [3, 1, 3], values: Float64Array.of(1, 2, 3, 4, 5, 6), shape, dtype: "float64" },
      {
        indices: Int32Array.of(3, 1, 3),
        values: { dtype: "float32", data: [1, 2, 3, 4, 5, 6] },
        shape,
        dtype: "float32",
      },
      {
        indices: [[3, 1, 3]],
        values: Uint16Array.of(0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0),
        shape,
        dtype: "bfloat16",
      },
    ]
  ) {
    optimizer.loadStateDict(dictWith(buffer));
    const { indices, values, dtype } = bufferOf(optimizer, p);
    assertEquals([[...indices], [...values], dtype], [[1, 3], [3, 4, 6, 8], "float32"]);
  }
});

test("a buffer that does not fit is a StateDictError, and changes nothing", () => {
  const p = table(), optimizer = new SGD([p], { momentum: 0.5 });
  p.grad = rowsOf([1]);
  optimizer.step();
  const before = optimizer.stateDict(), shape = [4, 2];
  const cases: [unknown, string][] = [
    [
      { indices: [[4]], values: [1, 2], shape },
      "state[0].momentumBuffer: indices[0][0] must be an integer >= 0 and < 4",
    ],
    [{ indices: [4], values: [1, 2], shape }, "indices[0][0] must be >= 0 and < 4, got 4"],
    [{ indices: [0.5], values: [1, 2], shape }, "state[0].momentumBuffer.indices[0] must be an integer, got 0.5"],
    [{ indices: "0", values: [1, 2], shape }, "must be an integer, got undefined"],
    [{ indices: [0], values: [1, 2, 3], shape }, "do not go together"],
    [{ indices: [0], values: "12", shape }, "state[0].momentumBuffer.values must be a typed array"],
    [{ indices: [0], values: Uint16Array.of(1, 2), shape }, "Uint16Array of an unknown dtype"],
    [
      { indices: [0], values: [1, 2], shape: [2, 4] },
      "state[0].momentumBuffer.shape is [2, 4], its parameter's is [4, 2]",
    ],
    [{ indices: [0], values: [1, 2] }, "shape is undefined"],
  ];
  for (const [buffer, message] of cases) {
    assertThrows(() => optimizer.loadStateDict(dictWith(buffer)), StateDictError, message);
    assertEquals(optimizer.stateDict(), before);
  }
  for (const { name, make, rule } of ROWS) {
    const tensor = rule.buffers[2]?.split(":")[0];
    if (name === "SGD" || tensor === undefined) continue;
    const other = new make([table()]), dict = other.stateDict();
    dict.state[0] = { step: 1, ...dict.state[0], [tensor]: { ...rowsOf([1]) } };
    assertThrows(() => other.loadStateDict(dict), StateDictError, tensor);
  }
});

test("a buffer that was put into the state by hand is taken, whatever its order", () => {
  const p = table(), optimizer = new SGD([p], { lr: 1, momentum: 0.5 });
  p.grad = rowsOf([0]);
  optimizer.step();
  optimizer.state.get(p)!["momentumBuffer"] = rowsOf([3, 1, 3]);
  optimizer.step();
  const buffer = bufferOf(optimizer, p);
  assertEquals([[...buffer.indices], [...buffer.values]], [[0, 1, 3], [1, 1, 0.5, 0.5, 1, 1]]);
  p.grad = rowsOf([1]); // no row is new
  for (const put of [rowsOf([3, 1, 3]), new SparseTensor([[1, 3]], [1, 1, 2, 2], [4, 2])]) {
    const before = [...p.data];
    optimizer.state.get(p)!["momentumBuffer"] = put;
    optimizer.step();
    const now = bufferOf(optimizer, p);
    assertEquals([[...now.indices], [...now.values]], [[1, 3], [1.5, 1.5, 1, 1]]);
    assertEquals([...p.data].map((x, i) => before[i]! - x), [0, 0, 1.5, 1.5, 0, 0, 1, 1]);
  }
  p.grad = rowsOf([0]);
  delete optimizer.state.get(p)!["momentumBuffer"];
  optimizer.step();
  assertEquals([[...bufferOf(optimizer, p).indices], [...bufferOf(optimizer, p).values]], [[0], [1, 1]]);
});

interface Failure {
  readonly what: string;
  readonly error: typeof TypeError | typeof RangeError;
  readonly says: string;
  /** Makes something wrong; returns what makes it right again. */
  readonly spoil: (p: Parameter, optimizer: SGD) => () => void;
}

/** Gives a parameter another gradient; its own comes back. */
const swap = (make: (p: Parameter, optimizer: SGD) => unknown): Failure["spoil"] => (p, optimizer) => {
  const { grad } = p;
  p.grad = make(p, optimizer) as SparseTensor;
  return () => p.grad = grad;
};
/** Gives a parameter another momentum buffer; its own comes back. */
const swapBuffer = (make: (p: Parameter, optimizer: SGD) => SparseTensor): Failure["spoil"] => (p, optimizer) => {
  const entry = optimizer.state.get(p)!, was = entry["momentumBuffer"]!;
  entry["momentumBuffer"] = make(p, optimizer);
  return () => entry["momentumBuffer"] = was;
};
const label = 'grad of paramGroups[1].params[0] ("table")';

const FAILURES: readonly Failure[] = [
  {
    what: "an index that has been made too big",
    error: RangeError,
    says: `indices of ${label}[0][1] must be >= 0 and < 4, got 4`,
    spoil: swap(() => {
      const grad = rowsOf([0, 1]);
      grad.indices[1] = 4;
      return grad;
    }),
  },
  {
    what: "another shape",
    error: RangeError,
    says: `${label} must have its parameter's shape [4, 2], got [5, 2]`,
    spoil: swap(() => rowsOf([1], 1, 5)),
  },
  {
    what: "another dtype",
    error: TypeError,
    says: `${label} must be float32, as its parameter is, got float64`,
    spoil: swap(() => new SparseTensor([[1]], Float64Array.of(1, 2), [4, 2])),
  },
  {
    what: "values that have been posted away",
    error: RangeError,
    says: `values of ${label} must have 2 elements, got 0`,
    spoil: swap(() => {
      const grad = rowsOf([1]);
      structuredClone(grad.values, { transfer: [grad.values.buffer as ArrayBuffer] });
      return grad;
    }),
  },
  {
    what: "indices that have been posted away",
    error: RangeError,
    says: `indices of ${label} must have 1 elements, got 0`,
    spoil: swap(() => {
      const grad = new SparseTensor(Int32Array.of(1), [1, 1], [4, 2]);
      structuredClone(grad.indices, { transfer: [grad.indices.buffer as ArrayBuffer] });
      return grad;
    }),
  },
  {
    what: "values that are the parameter's memory",
    error: RangeError,
    says: "must not share memory with data of paramGroups[1].params[0]",
    spoil: swap((p) => new SparseTensor([[1]], p.data.subarray(0, 2), [4, 2])),
  },
  {
    what: "values that are the momentum's memory",
    error: RangeError,
    says: "must not share memory with momentumBuffer of paramGroups[1].params[0]",
    spoil: swap((p, optimizer) => bufferOf(optimizer, p)),
  },
  {
    what: "a dense gradient on a sparse buffer",
    error: TypeError,
    says: 'momentumBuffer of paramGroups[1].params[0] ("table") is sparse, as its gradients were',
    spoil: swap(() => new Float32Array(8)),
  },
  {
    what: "other sparse dimensions than the buffer's",
    error: TypeError,
    says: "has 1 sparse dimensions, its gradient has 2",
    spoil: swap(() => new SparseTensor([[1], [1]], [1], [4, 2])),
  },
  {
    what: "a plain object",
    error: TypeError,
    says: `${label} must be a Float32Array of 8, got an object`,
    spoil: swap(() => ({ ...rowsOf([1]) })),
  },
  {
    what: "weight decay",
    error: RangeError,
    says: `weightDecay must be 0 where a gradient is sparse, got 0.1 for ${label}`,
    spoil: (_p, { paramGroups: [, group] }) => {
      group!.weightDecay = 0.1;
      return () => group!.weightDecay = 0;
    },
  },
  {
    what: "a momentum buffer of another shape",
    error: RangeError,
    says: 'momentumBuffer of paramGroups[1].params[0] ("table") must have its parameter\'s shape [4, 2], got [5, 2]',
    spoil: swapBuffer(() => rowsOf([1], 1, 5)),
  },
  {
    what: "a momentum buffer in the parameter's memory",
    error: RangeError,
    says: 'momentumBuffer of paramGroups[1].params[0] ("table") must not share memory with data of paramGroups[1]',
    spoil: swapBuffer((p) => new SparseTensor([[1]], p.data.subarray(0, 2), [4, 2])),
  },
  {
    what: "a momentum buffer in another parameter's gradient",
    error: RangeError,
    says: "grad of paramGroups[0].params[0] must not share memory with momentumBuffer of paramGroups[1].params[0]",
    spoil: swapBuffer((_p, { paramGroups: [group] }) => {
      return new SparseTensor([[1]], (group!.params[0]!.grad as TypedArray).subarray(0, 2), [4, 2]);
    }),
  },
];

for (const { what, error, says, spoil } of FAILURES) {
  for (const [name, how] of [["native", {}], ["TypeScript", { foreach: false, fused: false }]] as const) {
    test(`a sparse step with ${what} fails, changes nothing, and goes on as if it had not been (${name})`, () => {
      const make = () => {
        const first = new Parameter(new Float32Array(3).fill(1)), p = table();
        const optimizer = new any([{ params: [first] }, { params: [p] }], { lr: 0.5, momentum: 0.5, ...how });
        return { first, p, optimizer: optimizer as unknown as SGD };
      };
      const tried = make(), twin = make();
      const all = (
        { first, p, optimizer }: ReturnType<typeof make>,
      ) => [[...first.data], [...p.data], optimizer.stateDict()];
      for (let t = 0; t < 4; t++) {
        for (const { first, p } of [tried, twin]) {
          first.grad = new Float32Array(3).fill(t);
          p.grad = rowsOf([t % 4, 1], t);
        }
        if (t > 0) {
          for (let again = 0; again < 2; again++) {
            const mend = spoil(tried.p, tried.optimizer);
            assertThrows(() => tried.optimizer.step(), error, says);
            mend();
            assertEquals(all(tried), all(twin));
          }
        }
        tried.optimizer.step();
        twin.optimizer.step();
        assertEquals(all(tried), all(twin));
      }
    });
  }
}

test("memory of a momentum buffer that has been replaced is free to be a gradient", () => {
  const p = table(64), optimizer = new SGD([p], { lr: 0.1, momentum: 0.5 }), seen: TypedArray[] = [];
  for (let t = 0; t < 64; t++) {
    p.grad = rowsOf([t, 63 - t], 1, 64);
    optimizer.step();
    seen.push(bufferOf(optimizer, p).values);
  }
  assertEquals(bufferOf(optimizer, p).nnz, 64);
  // a buffer that has been replaced may be anybody's gradient
  p.grad = new SparseTensor([[5]], seen[0]!.subarray(0, 2), [64, 2]);
  optimizer.step();
});

test("SparseAdam resumes from a state dict", () => {
  const p = table(), q = table(), optimizers = [new SparseAdam([p]), new SparseAdam([q])];
  const step = (k: number, t: number) => {
    [p, q][k]!.grad = rowsOf([t % 4, 2, 2], t + 0.5);
    optimizers[k]!.step();
  };
  for (let t = 0; t < 3; t++) step(0, t);
  q.data.set(p.data);
  optimizers[1]!.loadStateDict(structuredClone(optimizers[0]!.stateDict()));
  for (let t = 3; t < 6; t++) step(0, t), step(1, t);
  assertSameBits(p.data, q.data, "float32", "the parameter");
  assertEquals(optimizers[0]!.stateDict(), optimizers[1]!.stateDict());
});
