/** Muon: what its steps are, its options, and where it does otherwise than torch 2.13. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { Muon, type MuonOptions, Parameter } from "../mod.ts";
import { hashNumbers, typed } from "./support/golden.ts";

/** Bun's own limit is five seconds, which a busy machine may need. */
const LIMIT = { timeout: 180_000 };

/** A parameter of zeros, with a gradient. */
function parameter(rows: number, columns: number, grad?: ArrayLike<number>): Parameter {
  const p = new Parameter(new Float32Array(rows * columns), { shape: [rows, columns] });
  p.grad = Float32Array.from(grad ?? hashNumbers(rows * 100 + columns, rows * columns, 1));
  return p;
}

/** The update of one step: what is taken away with lr 1. */
function update(p: Parameter, options: MuonOptions = {}): Float32Array {
  new Muon([p], { lr: 1, weightDecay: 0, ...options }).step();
  return Float32Array.from(p.data, (x) => -x);
}

/** x xᵀ of a matrix of `rows`. */
function gram(x: ArrayLike<number>, rows: number): number[] {
  const columns = x.length / rows;
  return Array.from({ length: rows * rows }, (_, at) => {
    let sum = 0;
    for (let k = 0; k < columns; k++) sum += x[Math.floor(at / rows) * columns + k]! * x[at % rows * columns + k]!;
    return sum;
  });
}

test("a step is nearly orthogonal: with enough iterations that converge, x xᵀ is the identity", LIMIT, () => {
  for (const [rows, columns] of [[4, 4], [3, 8], [20, 33]] as const) {
    const options: MuonOptions = { nsCoefficients: [1.875, -1.25, 0.375], nsSteps: 60 };
    const x = update(parameter(rows, columns), options);
    gram(x, rows).forEach((value, at) => {
      assert(Math.abs(value - (at % (rows + 1) === 0 ? 1 : 0)) < 1e-4, `${rows} x ${columns}, [${at}]: ${value}`);
    });
  }
});

test("a matrix with more rows than columns is treated as its transpose is", LIMIT, () => {
  const rows = 23, columns = 9, tall = hashNumbers(5, rows * columns, 1);
  const wide = Float64Array.from(tall, (_, at) => tall[at % rows * columns + Math.floor(at / rows)]!);
  const a = update(parameter(rows, columns, tall), { adjustLrFn: "match_rms_adamw" });
  const b = update(parameter(columns, rows, wide), { adjustLrFn: "match_rms_adamw" });
  a.forEach((x, at) => assert(Math.abs(x - b[at % columns * rows + Math.floor(at / columns)]!) < 1e-5));
});

test("the iteration is in float32 (torch: in bfloat16, so that 3 x [1 x 1] becomes 0.6875)", LIMIT, () => {
  const x = update(parameter(1, 1, [3]))[0]!;
  let exact = 1;
  for (let step = 0; step < 5; step++) exact = 3.4445 * exact - 4.775 * exact ** 3 + 2.0315 * exact ** 5;
  assert(Math.abs(x - exact) < 1e-5, `${x}, ${exact}`);
  assert(Math.abs(0.6875 - exact) > 1e-3);
});

test("lr is adjusted to the shape", LIMIT, () => {
  const largest = (rows: number, columns: number, options: MuonOptions) => {
    const grad = new Float32Array(rows * columns);
    grad[0] = 1;
    return Math.max(...update(parameter(rows, columns, grad), { nsSteps: 0, ...options }));
  };
  for (const adjustLrFn of [null, "original"] as const) {
    assertEquals(largest(8, 2, { adjustLrFn }), 2);
    assertEquals(largest(2, 8, { adjustLrFn }), 1);
  }
  assertEquals(largest(25, 4, { adjustLrFn: "match_rms_adamw" }), 1);
  assertEquals(largest(4, 100, { adjustLrFn: "match_rms_adamw" }), 2);
});

test("weight decay takes lr as it is, not adjusted", LIMIT, () => {
  const p = new Parameter(new Float32Array(16).fill(1), { shape: [8, 2] });
  p.grad = new Float32Array(16);
  new Muon([p], { lr: 0.5, weightDecay: 0.25 }).step();
  assertEquals(new Set(p.data), new Set([0.875]));
});

test(
  "parameters that are not 2-D are refused in the constructor, in groups added later, and in groups changed (torch: in the constructor)",
  LIMIT,
  () => {
    const matrix = parameter(2, 2),
      vector = new Parameter([1, 2]),
      cube = new Parameter(new Float32Array(8), { shape: [2, 2, 2] });
    assertThrows(
      () => new Muon([vector]),
      RangeError,
      "Muon takes 2-D parameters, got shape [2] for paramGroups[0].params[0]",
    );
    assertThrows(
      () => new Muon([{ params: [["a", matrix]] }, { params: [["b", cube]] }]),
      RangeError,
      'got shape [2, 2, 2] for paramGroups[1].params[0] ("b")',
    );
    assertThrows(() => new Muon([new Parameter([1], { shape: [] })]), RangeError, "got shape []");
    const optimizer = new Muon([matrix]);
    assertThrows(() => optimizer.addParamGroup({ params: [vector] }), RangeError, "got shape [2]");
    assertEquals(optimizer.paramGroups.length, 1);
    optimizer.paramGroups[0]!.params.push(vector);
    const before = [...matrix.data];
    assertThrows(() => optimizer.step(), RangeError, "got shape [2] for paramGroups[0].params[1]");
    assertThrows(() => optimizer.initState(), RangeError, "got shape [2] for paramGroups[0].params[1]");
    assertEquals([[...matrix.data], optimizer.state.size], [before, 0]);
  },
);

test("a gradient of zeros moves nothing, with eps 0 too (torch: NaN)", LIMIT, () => {
  for (const dtype of ["float32", "float64", "bfloat16", "float16"] as const) {
    const p = new Parameter(typed([1, 1, 1, 1, 1, 1], dtype), { shape: [2, 3], dtype });
    p.grad = typed([0, 0, 0, 0, 0, 0], dtype);
    const before = p.data.slice();
    new Muon([p], { eps: 0, weightDecay: 0 }).step();
    assertEquals(p.data, before);
  }
});

test("matrices without elements are no error (torch: ZeroDivisionError for [3, 0])", LIMIT, () => {
  for (const shape of [[0, 3], [3, 0], [0, 0]]) {
    const p = new Parameter(new Float32Array(), { shape }), other = parameter(2, 2);
    p.grad = new Float32Array();
    new Muon([p, other]).step();
    assert(other.data.every((x) => x !== 0));
  }
});

test("maximize is the same step on the negated gradient (torch has none)", LIMIT, () => {
  const grad = hashNumbers(3, 12, 1);
  assertEquals(update(parameter(3, 4, grad), { maximize: true }), update(parameter(3, 4, grad.map((g) => -g))));
});

test("momentum is an average: the first step's buffer is (1 - momentum) times the gradient", LIMIT, () => {
  const p = parameter(1, 2, [1, -2]), optimizer = new Muon([p], { momentum: 0.75 });
  optimizer.step();
  assertEquals([...optimizer.state.get(p)!["momentumBuffer"] as Float32Array], [0.25, -0.5]);
  optimizer.step();
  assertEquals([...optimizer.state.get(p)!["momentumBuffer"] as Float32Array], [0.4375, -0.875]);
});

test(
  "options are checked in the constructor, in groups and when they are made wrong later (torch: nsSteps and nsCoefficients at the step)",
  LIMIT,
  () => {
    const p = () => parameter(2, 2);
    const three = (value: unknown) => value as [number, number, number];
    const cases: [MuonOptions, typeof TypeError | typeof RangeError, string][] = [
      [{ lr: -1 }, RangeError, "lr must be >= 0, got -1"],
      [{ lr: NaN }, RangeError, "lr must be >= 0, got NaN"],
      [{ momentum: -0.1 }, RangeError, "momentum must be >= 0, got -0.1"],
      [{ weightDecay: NaN }, RangeError, "weightDecay must be >= 0, got NaN"],
      [{ eps: -1 }, RangeError, "eps must be >= 0, got -1"],
      [{ nesterov: 1 as unknown as boolean }, TypeError, "nesterov must be a boolean, got 1"],
      [{ nsSteps: 100 }, RangeError, "nsSteps must be an integer from 0 to 99, got 100"],
      [{ nsSteps: -1 }, RangeError, "nsSteps must be an integer from 0 to 99, got -1"],
      [{ nsSteps: 2.5 }, RangeError, "nsSteps must be an integer from 0 to 99, got 2.5"],
      [{ nsSteps: NaN }, RangeError, "nsSteps must be an integer from 0 to 99, got NaN"],
      [{ nsSteps: "5" as unknown as number }, TypeError, 'nsSteps must be a number, got "5"'],
      [{ nsCoefficients: three([1, 2]) }, TypeError, "nsCoefficients must be three numbers, got [1, 2]"],
      [{ nsCoefficients: three([1, 2, "3"]) }, TypeError, 'nsCoefficients[2] must be a number, got "3"'],
      [{ nsCoefficients: [1, NaN, 3] }, RangeError, "nsCoefficients[1] must be a number, got NaN"],
      [
        { adjustLrFn: "other" as "original" },
        RangeError,
        'adjustLrFn must be null, "original" or "match_rms_adamw", got "other"',
      ],
      [{ adjustLrFn: 1 as unknown as null }, TypeError, "adjustLrFn must be null"],
      [{ foreach: true } as MuonOptions, TypeError, 'Muon has no option "foreach"; it has lr, weightDecay'],
    ];
    for (const [options, type, message] of cases) {
      assertThrows(() => new Muon([p()], options), type, message);
      assertThrows(() => new Muon([{ params: [p()], ...options }]), type, message);
      const param = p(), optimizer = new Muon([param]);
      assertThrows(() => optimizer.addParamGroup({ params: [p()], ...options }), type, message);
      Object.assign(optimizer.paramGroups[0]!, options);
      const error = assertThrows(() => optimizer.step(), type);
      assert(error.message.endsWith("(in paramGroups[0])"), error.message);
      assertEquals([[...param.data], optimizer.state.size], [[0, 0, 0, 0], 0]);
    }
  },
);
