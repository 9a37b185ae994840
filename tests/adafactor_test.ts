/** Adafactor: its state's shapes, its options, and where it does otherwise than torch 2.13. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { Adafactor, type AdafactorOptions, backend, type DType, Parameter, type TypedArray } from "../mod.ts";
import { plain, typed } from "./support/golden.ts";
import { assertCompiled } from "./support/runtime.ts";

/** Bun's own limit is five seconds, which a busy machine may need. */
const LIMIT = { timeout: 180_000 };

const IMPLEMENTATIONS: readonly AdafactorOptions[] = [{ foreach: false }, { foreach: true }, {}];

/** A parameter of ones, with a gradient. */
function parameter(shape: readonly number[], grad: readonly number[], dtype: DType = "float32"): Parameter {
  const n = shape.reduce((a, b) => a * b, 1);
  const p = new Parameter(typed(new Array(n).fill(1), dtype), { shape, dtype });
  p.grad = typed(n === grad.length ? grad : new Array(n).fill(grad[0]), dtype);
  return p;
}

/** The parameters' numbers after a step. */
function stepped(options: AdafactorOptions, ...params: Parameter[]): number[][] {
  new Adafactor(params, options).step();
  return params.map((p) => [...plain(p.data, p.dtype)]);
}

const near = (a: number, b: number, relative = 1e-5): void =>
  assert(Math.abs(a - b) <= relative * Math.abs(b), `${a}, ${b}`);

test(
  "matrices have rowVar and colVar, with the dimensions before the last two kept; vectors and numbers have variance",
  LIMIT,
  () => {
    const lengths = (shape: readonly number[]) => {
      const p = parameter(shape, [0.5]), optimizer = new Adafactor([p]);
      optimizer.step();
      return Object.entries(optimizer.state.get(p)!).map(([key, value]) => [
        key,
        typeof value === "number" ? value : (value as TypedArray).length,
      ]);
    };
    assertEquals(lengths([3, 4]), [["step", 1], ["rowVar", 3], ["colVar", 4]]);
    assertEquals(lengths([2, 5, 3, 4]), [["step", 1], ["rowVar", 2 * 5 * 3], ["colVar", 2 * 5 * 4]]);
    assertEquals(lengths([1, 7]), [["step", 1], ["rowVar", 1], ["colVar", 7]]);
    assertEquals(lengths([7]), [["step", 1], ["variance", 7]]);
    assertEquals(lengths([]), [["step", 1], ["variance", 1]]);
  },
);

test("rowVar and colVar are the means of the squares over columns and rows, each of its own matrix", LIMIT, () => {
  for (const implementation of IMPLEMENTATIONS) {
    const p = parameter([2, 2, 3], [1, 2, 3, 4, 5, 6, 0, 0, 0, 1, 1, 1]),
      optimizer = new Adafactor([p], implementation);
    optimizer.step();
    const { rowVar, colVar } = optimizer.state.get(p)! as Record<string, Float32Array>;
    assertEquals([...rowVar!], [14 / 3, 77 / 3, 0, 1].map(Math.fround));
    assertEquals([...colVar!], [17 / 2, 29 / 2, 45 / 2, 0.5, 0.5, 0.5]);
  }
});

test("a step is as large as the parameter's size times lr, however large the gradient", LIMIT, () => {
  for (const implementation of IMPLEMENTATIONS) {
    for (const scale of [1e-3, 1, 1e6]) {
      for (const shape of [[4], [2, 2]]) {
        for (const value of stepped({ lr: 0.01, ...implementation }, parameter(shape, [scale]))[0]!) near(value, 0.99);
      }
    }
  }
});

test("lr is the most of the relative step size: 1 / sqrt(t) is less in time", LIMIT, () => {
  const p = parameter([2], [1]), optimizer = new Adafactor([p], { lr: 10, d: 1e9, eps: [null, 1] });
  const sizes = [1, 2, 3, 4].map(() => {
    const before = p.data[0]!;
    p.data.fill(before);
    optimizer.step();
    return (before - p.data[0]!) / Math.max(1, Math.abs(before));
  });
  sizes.forEach((size, t) => near(size, 1 / Math.sqrt(t + 1), 1e-4));
});

test("lr may be infinite: the relative step size is 1 / sqrt(t) then", LIMIT, () => {
  for (const implementation of IMPLEMENTATIONS) {
    assertEquals(stepped({ lr: Infinity, ...implementation }, parameter([2, 2], [1]), parameter([2], [-1])), [
      [0, 0, 0, 0],
      [2, 2],
    ]);
  }
});

test("eps[0] null is each parameter's own machine epsilon (torch: the first one's dtype, for all)", LIMIT, () => {
  for (const implementation of IMPLEMENTATIONS) {
    const tiny = 1e-9; // far below float32's epsilon, far above float64's
    const first = parameter([2], [tiny]), second = parameter([2], [tiny], "float64");
    const [, moved] = stepped(implementation, first, second);
    const [alone] = stepped(implementation, parameter([2], [tiny], "float64"));
    assertEquals(moved, alone);
    near(1 - moved![0]!, 0.01); // torch: 8.4e-5 behind a float32 parameter
    near(1 - first.data[0]!, 0.01 * tiny / 2 ** -23, 0.3);
  }
  for (const [dtype, epsilon] of [["bfloat16", 2 ** -7], ["float16", 2 ** -10]] as const) {
    const p = parameter([2], [epsilon / 8], dtype); // u = g / eps: an eighth
    const [[value]] = stepped({ lr: 0.5 }, p) as [[number]];
    near(1 - value, 0.5 / 8, 0.01);
  }
});

test("parameters without elements are no error (torch: ZeroDivisionError)", LIMIT, () => {
  for (const implementation of IMPLEMENTATIONS) {
    for (const shape of [[0], [0, 3], [3, 0], [2, 0, 4], [0, 2, 4]]) {
      const empty = parameter(shape, []), other = parameter([2], [1]);
      const optimizer = new Adafactor([empty, other], implementation);
      optimizer.step();
      optimizer.step();
      assertEquals(optimizer.state.get(empty)!["step"], 2);
      assert(other.data[0]! < 0.99);
      const again = new Adafactor([parameter(shape, []), parameter([2], [1])], implementation);
      again.loadStateDict(structuredClone(optimizer.stateDict()));
      again.step();
    }
  }
});

test("eps[0] 0 divides nothing by zero (torch: NaN for gradients of zero)", LIMIT, () => {
  for (const implementation of IMPLEMENTATIONS) {
    for (const dtype of ["float32", "float64", "bfloat16", "float16"] as const) {
      for (const lr of [1e-2, 0]) {
        const options = { lr, eps: [0, 1e-3] as [number, number], ...implementation };
        const all = stepped(options, parameter([3], [0], dtype), parameter([2, 2], [0], dtype));
        assertEquals(all, [[1, 1, 1], [1, 1, 1, 1]]);
        const [[a, b, c, d], [e, f]] = stepped(
          options,
          parameter([2, 2], [1, 1, 0, 0], dtype), // torch: [0.99, 0.99, NaN, NaN]
          parameter([2], [0, 2], dtype),
        ) as [[number, number, number, number], [number, number]];
        assertEquals([c, d, e], [1, 1, 1]);
        for (const moved of [a, b, f]) assert(lr === 0 ? moved === 1 : moved < 1 && moved > 0.9, `${moved}`);
      }
    }
  }
});

test("a row without gradients does not move, also where lr is 0", LIMIT, () => {
  for (const implementation of IMPLEMENTATIONS) {
    for (const lr of [0, 0.1]) {
      const p = parameter([2, 3], [1, -1, 1, 0, 0, 0]);
      const [values] = stepped({ lr, ...implementation }, p);
      assertEquals(values!.slice(3), [1, 1, 1]);
    }
  }
});

test(
  "large gradients do not overflow where their squares do not (torch: 1e10 moves a matrix by nothing)",
  LIMIT,
  () => {
    for (const implementation of IMPLEMENTATIONS) {
      const options = { ...implementation, eps: [1e-30, 1e-3] as [number, number] };
      for (const [value] of stepped(options, parameter([2, 2], [1e10]), parameter([2], [1e10]))) near(value!, 0.99);
      // torch: NaN for the matrix, where the product of rowVar and colVar, and eps[0] squared, are 0
      for (const [value] of stepped(options, parameter([2, 2], [1e-13]), parameter([2], [1e-13]))) near(value!, 0.99);
    }
  },
);

test("sums of squares are in float64: a long row's mean is right to the last place", LIMIT, () => {
  const n = 300_000, grad = Float32Array.from({ length: n }, (_, i) => 1 + (i % 1000) * 1e-3);
  const mean = grad.reduce((sum, g) => sum + g * g, 0) / n;
  const p = new Parameter(new Float32Array(n).fill(1), { shape: [1, n] }), optimizer = new Adafactor([p]);
  p.grad = grad;
  optimizer.step();
  near((optimizer.state.get(p)!["rowVar"] as Float32Array)[0]!, mean, 2 ** -23);
});

test("maximize is the same step on the negated gradient", LIMIT, () => {
  for (const shape of [[6], [2, 3]]) {
    const grad = [0.5, -1, 2, 0.25, -3, 1];
    const [up] = stepped({ maximize: true, weightDecay: 0.1 }, parameter(shape, grad));
    const [down] = stepped({ weightDecay: 0.1 }, parameter(shape, grad.map((g) => -g)));
    assertEquals(up, down);
  }
});

test("options are checked, also in groups and when they are made wrong later", LIMIT, () => {
  const p = () => parameter([2, 2], [1]);
  const cases: [AdafactorOptions, typeof TypeError | typeof RangeError, string][] = [
    [{ lr: -1 }, RangeError, "lr must be >= 0, got -1"],
    [{ lr: NaN }, RangeError, "lr must be >= 0, got NaN"],
    [{ beta2Decay: 0.1 }, RangeError, "beta2Decay must be <= 0, got 0.1"],
    [{ beta2Decay: NaN }, RangeError, "beta2Decay must be <= 0, got NaN"],
    [{ beta2Decay: "1" as unknown as number }, TypeError, 'beta2Decay must be a number, got "1"'],
    [{ eps: [-1, 1e-3] }, RangeError, "eps[0] must be null or >= 0, got -1"],
    [{ eps: [NaN, 1e-3] }, RangeError, "eps[0] must be null or >= 0, got NaN"],
    [{ eps: [null, -1] }, RangeError, "eps[1] must be >= 0, got -1"],
    [{ eps: [null, null as unknown as number] }, TypeError, "eps[1] must be >= 0, got null"],
    [{ eps: 1e-3 as unknown as [number, number] }, TypeError, "eps must be null or a number, and a number, got 0.001"],
    [{ d: 0.5 }, RangeError, "d must be >= 1, got 0.5"],
    [{ d: NaN }, RangeError, "d must be >= 1, got NaN"],
    [{ weightDecay: -1 }, RangeError, "weightDecay must be >= 0, got -1"],
    [{ maximize: 1 as unknown as boolean }, TypeError, "maximize must be a boolean, got 1"],
    [{ foreach: 1 as unknown as boolean }, TypeError, "foreach must be a boolean or null, got 1"],
    [{ fused: true } as AdafactorOptions, TypeError, 'Adafactor has no option "fused"; it has lr, beta2Decay'],
    [{ betas: [0.9, 0.9] } as AdafactorOptions, TypeError, 'Adafactor has no option "betas"'],
  ];
  for (const [options, type, message] of cases) {
    assertThrows(() => new Adafactor([p()], options), type, message);
    assertThrows(() => new Adafactor([{ params: [p()], ...options }]), type, message);
    const param = p(), optimizer = new Adafactor([param]);
    assertThrows(() => optimizer.addParamGroup({ params: [p()], ...options }), type, message);
    Object.assign(optimizer.paramGroups[0]!, options);
    const error = assertThrows(() => optimizer.step(), type);
    assert(error.message.endsWith("(in paramGroups[0])"), error.message);
    assertEquals([[...param.data], optimizer.state.size], [[1, 1, 1, 1], 0]);
  }
});

test("eps is a copy for each group, and null survives a state dict", LIMIT, () => {
  const eps: [number | null, number] = [null, 0.5], optimizer = new Adafactor([parameter([2], [1])], { eps });
  eps[1] = 7;
  assertEquals(optimizer.paramGroups[0]!.eps, [null, 0.5]);
  const other = new Adafactor([parameter([2], [1])], { eps: [1e-3, 1] });
  other.loadStateDict(JSON.parse(JSON.stringify(optimizer.stateDict())));
  assertEquals(other.paramGroups[0]!.eps, [null, 0.5]);
});

test("foreach chooses the implementation, and is no state", LIMIT, () => {
  const p = parameter([2, 2], [1]), optimizer = new Adafactor([p], { foreach: true });
  assertEquals("foreach" in optimizer.stateDict().paramGroups[0]!, false);
  optimizer.step();
  optimizer.paramGroups[0]!.foreach = false;
  optimizer.step();
  assertEquals(optimizer.state.get(p)!["step"], 2);
  assertCompiled(backend());
});
