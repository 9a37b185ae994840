/** step() with maxGradNorm and gradScale: the bits of the separate calls, skipped steps, and what is refused. */

import { test } from "node:test";
import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import {
  AdamW,
  type AnyOptimizer as Any,
  clipGradNorm,
  type DType,
  ExponentialLR,
  foreach,
  getNumThreads,
  Optimizer,
  Parameter,
  setNumThreads,
  SGD,
  SparseTensor,
  type StepOptions,
  type TypedArray,
} from "../mod.ts";
import { GRAIN } from "../ffi/backend.ts";
import { bestBackend } from "../ffi/load.ts";
import { DTYPES } from "../src/dtype.ts";
import { isas } from "./support/backends.ts";
import { arraysOf, assertSameBits } from "./support/bits.ts";
import { type AnyOptimizer, ROWS, SPARSE_ADAM, TENSOR_ROWS } from "./support/classes.ts";
import { hashNumbers, plain, typed } from "./support/golden.ts";
import { assertCompiled } from "./support/runtime.ts";

/** Bun's own limit is five seconds, which a busy machine may need. */
const LIMIT = { timeout: 180_000 };
const FOR_LOOP = { foreach: false, fused: false };

/** Options of which each clips the gradients below; 1 / 3 and 1 / 0.3 are no floats. */
const OPTIONS: readonly StepOptions[] = [{ maxGradNorm: 0.7 }, { gradScale: 3 }, { maxGradNorm: 0.7, gradScale: 0.3 }];

/** Vectors with and without a rest, more than one chunk of a sum, and long enough for blocks that are fetched ahead. */
const SHAPES: readonly (readonly number[])[] = [[0], [1], [15], [16], [17], [64], [3, 43], [4095], [5, 820], [33_003]];

/** Finite gradients of many magnitudes, subnormal ones among them. */
function finite(seed: number, n: number, dtype: DType): TypedArray {
  const small = dtype === "float16" ? 1e-6 : dtype === "float64" ? 1e-310 : 1e-40;
  return typed(hashNumbers(seed, n, 2).map((x, i) => i % 13 === 4 ? x * 30 : i % 11 === 7 ? x * small : x), dtype);
}

type Grad = TypedArray | SparseTensor | null;

/** A gradient that shares nothing with another one. */
function copyOf(grad: Grad): Grad {
  if (!(grad instanceof SparseTensor)) return grad?.slice() ?? null;
  return new SparseTensor(grad.indices, grad.values.slice(), grad.shape, { dtype: grad.dtype });
}

/** The step as it would be made without the options: on copies that are multiplied and clipped. Returns the norm. */
function separately(optimizer: Any, { maxGradNorm, gradScale }: StepOptions): number {
  const params = optimizer.paramGroups.flatMap((group) => group.params), grads = params.map((p) => p.grad);
  for (const p of params) p.grad = copyOf(p.grad as Grad);
  const given = params.filter((p) => p.grad !== null);
  if (gradScale !== undefined) {
    foreach.mul_(
      given.map((p) => new Parameter(p.grad instanceof SparseTensor ? p.grad.values : p.grad!, { dtype: p.dtype })),
      1 / gradScale,
    );
  }
  const norm = clipGradNorm(params, maxGradNorm ?? Infinity);
  optimizer.step();
  params.forEach((p, i) => p.grad = grads[i]!);
  return norm;
}

/** Parameters and state. */
function everything(optimizer: Any): TypedArray[] {
  return optimizer.paramGroups.flatMap((group) => group.params).flatMap((p) => {
    return [p.data, ...Object.values(optimizer.state.get(p) ?? {}).flatMap(arraysOf)];
  });
}

function assertSame(actual: TypedArray[], expected: TypedArray[], dtype: DType, what: string): void {
  assertEquals(actual.length, expected.length);
  actual.forEach((array, i) => assertSameBits(array, expected[i]!, dtype, `${what}, array ${i}`));
}

/** Makes an optimizer over `makeParams()`, steps it three times with `gradOf`, and returns what there is then, and the norms. */
function train(
  make: (params: Parameter[]) => Any,
  makeParams: () => Parameter[],
  gradOf: (p: Parameter, i: number, t: number) => Grad,
  step: (optimizer: Any) => number,
): { found: TypedArray[]; norms: number[] } {
  const params = makeParams(), optimizer = make(params), norms: number[] = [];
  for (let t = 0; t < 3; t++) {
    params.forEach((p, i) => p.grad = gradOf(p, i, t));
    const before = params.map((p) => copyOf(p.grad as Grad));
    norms.push(step(optimizer));
    params.forEach((p, i) => {
      const values = (grad: Grad) => grad instanceof SparseTensor ? grad.values : grad ?? new Float32Array(0);
      assertSameBits(values(p.grad as Grad), values(before[i]!), p.dtype, `the gradient ${i}, which stays as it is`);
    });
  }
  return { found: everything(optimizer), norms };
}

/** A step in one call; returns the norm. */
const together = (options: StepOptions) => (optimizer: Any): number => {
  optimizer.step(null, options);
  const { skipped, gradNorm, clipCoefficient } = optimizer.lastStep!;
  assert(!skipped, "a step was skipped");
  assert(options.maxGradNorm === undefined ? clipCoefficient === 1 : clipCoefficient < 1, "nothing was clipped");
  return gradNorm;
};

/** Compares a step in one call with the separate calls: in TypeScript, and for every instruction set and 1, 2 and 5 threads. */
function compare(
  make: AnyOptimizer,
  variant: Record<string, unknown>,
  dtype: DType,
  makeParams: () => Parameter[],
  gradOf: (p: Parameter, i: number, t: number) => Grad,
  options: readonly StepOptions[] = OPTIONS,
): void {
  const native = bestBackend(), best = native.isa, threads = getNumThreads();
  assertCompiled(native);
  const run = (options: Record<string, unknown>, step: (optimizer: Any) => number) => {
    return train((params) => new make(params, { ...variant, ...options }), makeParams, gradOf, step);
  };
  try {
    for (const given of options) {
      const expected = run(FOR_LOOP, (optimizer) => separately(optimizer, given));
      const check = (chosen: Record<string, unknown>, where: string) => {
        const { found, norms } = run(chosen, together(given));
        const what = `${JSON.stringify({ ...variant, ...chosen, ...given })} ${where}`;
        assertEquals(norms, expected.norms, what);
        assertSame(found, expected.found, dtype, what);
      };
      check(FOR_LOOP, "in TypeScript");
      for (const isa of isas(native)) {
        native.setIsa(isa);
        for (const n of isa === best ? [1, 2, 5] : [2]) {
          setNumThreads(n);
          native.setGrain(64); // even little work goes to all threads
          check({ fused: true }, `${isa}, ${n} threads`);
        }
      }
      check({ foreach: true }, `${best}, 5 threads`);
    }
  } finally {
    native.setGrain(GRAIN);
    native.setIsa(best);
    setNumThreads(threads);
  }
}

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

function parameters(shapes: readonly (readonly number[])[], dtype: DType): Parameter[] {
  return shapes.map((shape, i) =>
    new Parameter(typed(hashNumbers(900 + i, sizeOf(shape), 1), dtype), { shape, dtype })
  );
}

for (const { name, make, variants } of ROWS) {
  for (const dtype of DTYPES) {
    test(`${name} unscales and clips with the bits of the separate calls in ${dtype}`, LIMIT, () => {
      for (const variant of [variants[0]!, variants.at(-1)!]) {
        const options = variant === variants[0] ? OPTIONS : OPTIONS.slice(2);
        const makeParams = () => parameters(SHAPES, dtype);
        const gradOf = (p: Parameter, i: number, t: number) => {
          return t === 1 && i === 5 ? null : finite(50 * t + i, p.size, dtype);
        };
        compare(make, variant, dtype, makeParams, gradOf, options);
      }
    });
  }
}

for (const { name, make, variants } of TENSOR_ROWS) {
  for (const dtype of DTYPES) {
    test(`${name} unscales and clips with the bits of the separate calls in ${dtype}`, LIMIT, () => {
      const shapes = name === "Muon" ? [[3, 4], [40, 17], [0, 5]] : [[3, 4], [40, 17], [5000], [2, 30, 4], []];
      for (const variant of variants.slice(0, 2)) {
        compare(make, variant, dtype, () => parameters(shapes, dtype), (p, i, t) => {
          return t === 1 && i === 0 ? null : finite(50 * t + i, p.size, dtype);
        });
      }
    });
  }
}

/** A sparse gradient of 9 entries, some of the same row. */
function sparseGrad(seed: number, shape: readonly number[], dtype: DType): SparseTensor {
  const rows = Array.from({ length: 9 }, (_, i) => (seed * 7 + i * i) % shape[0]!);
  return new SparseTensor([rows], finite(seed, 9 * sizeOf(shape.slice(1)), dtype), shape, { dtype });
}

const SPARSE_SHAPES = [[50, 3], [64], [9, 700], [5, 0]];

for (const { name, make, variants } of [...ROWS.filter((r) => r.name === "SGD" || r.name === "Adagrad"), SPARSE_ADAM]) {
  for (const dtype of DTYPES) {
    test(`${name} unscales and clips sparse gradients with the bits of the separate calls in ${dtype}`, LIMIT, () => {
      for (const { weightDecay: _, ...variant } of [variants[0]!, variants[2] ?? variants.at(-1)!]) {
        // the second parameter's gradients: dense, then sparse and so made dense where there is momentum
        compare(make, variant, dtype, () => parameters(SPARSE_SHAPES, dtype), (p, i, t) => {
          return i === 1 && t === 0 && name !== "SparseAdam"
            ? finite(i, p.size, dtype)
            : sparseGrad(10 * t + i, p.shape, dtype);
        });
      }
    });
  }
}

test("a step clips several groups, dtypes and implementations together, in the order of clipGradNorm()", LIMIT, () => {
  const modes = [{ fused: true }, FOR_LOOP, { foreach: true }, { fused: true }];
  const run = (step: (optimizer: Any) => number) => {
    const all = modes.map((_, g) =>
      parameters([[31], [4099], [7]], "float32").map((p, i) => {
        const dtype = DTYPES[(g + i) % 4]!;
        return new Parameter(typed(Float64Array.from(p.data), dtype), { dtype });
      })
    );
    const optimizer = new SGD(all.map((params, g) => ({ params, lr: 0.1 * (g + 1), momentum: 0.9, ...modes[g] })));
    for (let t = 0; t < 3; t++) {
      all.flat().forEach((p, i) => p.grad = finite(100 * t + i, p.size, p.dtype));
      step(optimizer);
    }
    return all.flat();
  };
  for (const options of OPTIONS) {
    const actual = run(together(options)), expected = run((optimizer) => separately(optimizer, options));
    actual.forEach((p, i) => assertSameBits(p.data, expected[i]!.data, p.dtype, `parameter ${i}`));
  }
});

test("gradNorm is the norm of all gradients, unscaled; the coefficient that of torch's formula", () => {
  const a = new Parameter([0, 0]), b = new Parameter([0, 0, 0], { dtype: "float64" });
  a.grad = Float32Array.of(3, -4);
  b.grad = Float64Array.of(12, 0, 0);
  const optimizer = new SGD([{ params: [a] }, { params: [b], lr: 2 }], { lr: 1 });
  assertEquals(optimizer.lastStep, null);
  optimizer.step(null, { maxGradNorm: 2, gradScale: 0.5 });
  const { skipped, gradNorm, clipCoefficient } = optimizer.lastStep!;
  assertEquals([skipped, gradNorm, clipCoefficient], [false, 26, 2 / (26 + 1e-6)]);
  assertEquals(b.data[0], -2 * (24 * (2 / (26 + 1e-6))));
  optimizer.step(null, { gradScale: 2 });
  assertEquals(optimizer.lastStep, { skipped: false, gradNorm: 6.5, clipCoefficient: 1 });
  optimizer.step(null, { maxGradNorm: Infinity });
  assertEquals(optimizer.lastStep, { skipped: false, gradNorm: 13, clipCoefficient: 1 });
  optimizer.step();
  assertEquals(optimizer.lastStep, null);
  optimizer.zeroGrad();
  optimizer.step(null, { maxGradNorm: 1 });
  assertEquals(optimizer.lastStep, { skipped: false, gradNorm: 0, clipCoefficient: 1 });
  assertEquals(optimizer.stepCount, 5);
});

/** Everything that a step may change, as a copy. */
function snapshot(optimizer: Any): unknown {
  const params = optimizer.paramGroups.flatMap((group) => group.params);
  return structuredClone([params.map((p) => [...p.data]), optimizer.stateDict().state, optimizer.stepCount]);
}

const CLASSES: readonly (readonly [string, AnyOptimizer, readonly Record<string, unknown>[]])[] = [
  ...ROWS.map(({ name, make }) => [name, make, [FOR_LOOP, { foreach: true }, { fused: true }]] as const),
  ...TENSOR_ROWS.map(({ name, make }) => [name, make, [FOR_LOOP, { foreach: true }]] as const),
];

for (const [name, make, modes] of CLASSES) {
  test(`${name} skips a step whose gradients are not finite, and the next one is as if it had not been`, LIMIT, () => {
    for (const dtype of DTYPES) {
      for (const mode of modes) {
        for (const bad of dtype === "float64" ? [NaN, Infinity, -Infinity, 1e200] : [NaN, Infinity, -Infinity]) {
          for (const started of [false, true]) {
            const run = (poisoned: boolean) => {
              const params = parameters([[3, 4], [9, 30]], dtype), optimizer = new make(params, { ...mode });
              const good = (t: number) => params.forEach((p, i) => p.grad = finite(10 * t + i, p.size, dtype));
              good(1);
              if (started) optimizer.step();
              if (poisoned) {
                const before = snapshot(optimizer), hooks: string[] = [];
                optimizer.registerStepPreHook(() => void hooks.push("pre"));
                optimizer.registerStepPostHook(() => void hooks.push("post"));
                const poison = new Float64Array(270).fill(0.5);
                poison[257] = bad;
                params[1]!.grad = typed(poison, dtype);
                optimizer.step(null, { maxGradNorm: 1 });
                assertEquals(hooks, ["pre"]);
                const { skipped, gradNorm, clipCoefficient } = optimizer.lastStep!;
                assertEquals([skipped, clipCoefficient], [true, 0]);
                assertEquals(gradNorm, Number.isNaN(bad) ? NaN : Infinity);
                assertEquals(snapshot(optimizer), before);
              }
              good(2);
              optimizer.step(null, { maxGradNorm: 1 });
              good(3);
              optimizer.step();
              return everything(optimizer);
            };
            assertSame(run(true), run(false), dtype, `${bad} ${JSON.stringify(mode)} ${started}`);
          }
        }
      }
    }
  });
}

test("a sparse gradient that is not finite skips the step, the state stays as it was", () => {
  for (const mode of [FOR_LOOP, { fused: true }]) {
    const p = new Parameter(new Float32Array(8), { shape: [4, 2] });
    const optimizer = new SGD([p], { lr: 1, momentum: 0.9, ...mode });
    p.grad = new SparseTensor([[1, 1]], [3e38, 1, 3e38, 1], [4, 2]); // finite, but not their sum
    optimizer.step(null, { gradScale: 1 });
    assertEquals(optimizer.lastStep!.skipped, true);
    assertEquals([optimizer.state.size, p.data.some((x) => x !== 0)], [0, false]);
    p.grad = new SparseTensor([[2, 0]], [3, 0, 0, 4], [4, 2]);
    optimizer.step(null, { maxGradNorm: 100 });
    assertEquals(optimizer.lastStep, { skipped: false, gradNorm: 5, clipCoefficient: 1 });
    assertEquals([...p.data], [0, -4, 0, 0, -3, 0, 0, 0]);
  }
});

test("unscaling that overflows skips the step", () => {
  const p = new Parameter([1]), optimizer = new SGD([p]);
  p.grad = Float32Array.of(1e30);
  optimizer.step(null, { gradScale: 1e-30 });
  assertEquals(optimizer.lastStep, { skipped: true, gradNorm: Infinity, clipCoefficient: 0 });
  assertEquals([p.data[0], optimizer.stepCount], [1, 0]);
});

test("a closure runs before the gradients are looked at, and its loss is returned, also by a step that is skipped", async () => {
  const p = new Parameter([1]), optimizer = new SGD([p], { lr: 1 });
  const closure = (grad: number, loss: number) => () => {
    p.grad = Float32Array.of(grad);
    return loss;
  };
  assertEquals(optimizer.step(closure(8, 3), { maxGradNorm: 4 }), 3);
  assertEquals(p.data[0], Math.fround(1 - Math.fround(8 * Math.fround(4 / (8 + 1e-6)))));
  assertEquals(optimizer.step(closure(NaN, 7), { maxGradNorm: 4 }), 7);
  assert(optimizer.lastStep!.skipped);
  const before = p.data[0]!;
  assertEquals(await optimizer.stepAsync(() => Promise.resolve(closure(8, 5)()), { gradScale: 8 }), 5);
  assertEquals([p.data[0], optimizer.stepCount], [Math.fround(before - 1), 2]);
});

test("options may come from a pre hook", () => {
  const p = new Parameter([0]), optimizer = new SGD([p], { lr: 1 });
  p.grad = Float32Array.of(4);
  optimizer.registerStepPreHook((_, [closure]) => [closure, { gradScale: 4 }]);
  optimizer.step();
  assertEquals([p.data[0], optimizer.lastStep!.gradNorm], [-1, 1]);
});

test("two parameters may have the same gradient: it is counted for each, and multiplied once", () => {
  const a = new Parameter([0]), b = new Parameter([0]), optimizer = new SGD([a, b], { lr: 1 });
  a.grad = b.grad = Float32Array.of(1);
  optimizer.step(null, { maxGradNorm: 1 });
  assertEquals(optimizer.lastStep!.gradNorm, Math.SQRT2);
  assertStrictEquals(a.data[0], b.data[0]);
  assertEquals(a.data[0], -Math.fround(1 / (Math.SQRT2 + 1e-6)));
});

test("step() refuses unknown options, wrong kinds and values out of range by name, and changes nothing", async () => {
  const p = new Parameter([1]), optimizer = new AdamW([p]);
  p.grad = Float32Array.of(1);
  optimizer.step(null, { maxGradNorm: 1 });
  const before = snapshot(optimizer), last = optimizer.lastStep;
  const refused: [unknown, typeof TypeError | typeof RangeError, string][] = [
    [{ maxNorm: 1 }, TypeError, 'step() has no option "maxNorm"; it has maxGradNorm, gradScale'],
    [{ maxGradNorm: -1 }, RangeError, "maxGradNorm must be > 0, got -1"],
    [{ maxGradNorm: 0 }, RangeError, "maxGradNorm must be > 0, got 0"],
    [{ maxGradNorm: NaN }, RangeError, "maxGradNorm must be > 0, got NaN"],
    [{ maxGradNorm: "1" }, TypeError, 'maxGradNorm must be a number, got "1"'],
    [{ maxGradNorm: null }, TypeError, "maxGradNorm must be a number, got null"],
    [{ gradScale: 0 }, RangeError, "gradScale must be finite and > 0, got 0"],
    [{ gradScale: Infinity }, RangeError, "gradScale must be finite and > 0, got Infinity"],
    [{ gradScale: -2 }, RangeError, "gradScale must be finite and > 0, got -2"],
    [{ gradScale: 1e-320 }, RangeError, "gradScale must be finite and > 0"],
    [3, TypeError, "options of step() must be an object, got 3"],
  ];
  for (const [options, type, message] of refused) {
    assertThrows(() => optimizer.step(null, options as StepOptions), type, message);
    await assertRejects(() => optimizer.stepAsync(() => 0, options as StepOptions), type, message);
  }
  assertEquals(snapshot(optimizer), before);
  assertStrictEquals(optimizer.lastStep, last);
  optimizer.step(null, {});
  optimizer.step(null, { maxGradNorm: undefined } as unknown as StepOptions);
  assertEquals([optimizer.lastStep, optimizer.stepCount], [null, 3]);
});

test("an optimizer of one's own that has update() alone refuses the options by name", () => {
  class Own extends Optimizer<{ lr: number }> {
    updates = 0;
    constructor(params: Parameter[]) {
      super(params, { lr: 1 });
    }
    protected override update(): void {
      this.updates++;
    }
  }
  const optimizer = new Own([new Parameter([1])]);
  assertThrows(() => optimizer.step(null, { gradScale: 2 }), TypeError, 'step() of Own has no option "gradScale"');
  assertThrows(() => optimizer.step(null, { maxGradNorm: 2 }), TypeError, 'step() of Own has no option "maxGradNorm"');
  assertEquals([optimizer.updates, optimizer.stepCount], [0, 0]);
  optimizer.step(null, {});
  assertEquals(optimizer.updates, 1);
});

test("a step with options that fails changes nothing, also after others", () => {
  for (const mode of [FOR_LOOP, { foreach: true }, { fused: true }]) {
    for (const started of [false, true]) {
      const params = parameters([[3], [4]], "float32"), optimizer = new AdamW(params, mode);
      params.forEach((p, i) => p.grad = finite(i, p.size, "float32"));
      if (started) { for (let t = 0; t < 3; t++) optimizer.step(null, { maxGradNorm: 0.1 }); }
      const before = snapshot(optimizer), grad = params[1]!.grad;
      params[1]!.grad = new Float32Array(5);
      assertThrows(() => optimizer.step(null, { maxGradNorm: 1 }), RangeError, "grad of paramGroups[0].params[1]");
      params[1]!.grad = new Float64Array(4);
      assertThrows(() => optimizer.step(null, { gradScale: 2 }), TypeError, "grad of paramGroups[0].params[1]");
      assertEquals(snapshot(optimizer), before);
      params[1]!.grad = grad;
      optimizer.step(null, { maxGradNorm: 1 });
      assertEquals(optimizer.stepCount, started ? 4 : 1);
    }
  }
});

test("a scheduler that steps after a skipped step does not complain of the order", () => {
  const p = new Parameter([1]), optimizer = new SGD([p], { lr: 1 }), warn = console.warn, said: unknown[] = [];
  const scheduler = new ExponentialLR(optimizer, { gamma: 0.5 });
  p.grad = Float32Array.of(NaN);
  console.warn = (...what) => void said.push(what);
  try {
    optimizer.step(null, { maxGradNorm: 1 });
    scheduler.step();
    new ExponentialLR(new SGD([p]), { gamma: 0.5 }).step();
  } finally {
    console.warn = warn;
  }
  assertEquals(said.length, 1); // of the second one
  assertEquals(scheduler.getLastLr(), [0.5]);
});

/** The bytes that are asked for by `new ArrayBuffer` and `new Float32Array` while a function runs. */
function allocated(run: () => void): number {
  const real = { ArrayBuffer, Float32Array, Float64Array };
  let bytes = 0;
  const counting = <Type extends new (...args: never[]) => { byteLength: number }>(type: Type): Type => {
    return new Proxy(type, {
      construct(target, args) {
        const made = Reflect.construct(target, args) as { byteLength: number };
        if (typeof args[0] === "number") bytes += made.byteLength;
        return made;
      },
    });
  };
  for (const [name, type] of Object.entries(real)) Object.assign(globalThis, { [name]: counting(type as never) });
  try {
    run();
  } finally {
    Object.assign(globalThis, real);
  }
  return bytes;
}

test(
  "a step with options in steady state allocates nothing of the tensors' size, and neither does clipGradNorm()",
  LIMIT,
  () => {
    const classes = CLASSES.filter(([name]) => ["AdamW", "SGD", "Adafactor"].includes(name));
    for (const [name, make, modes] of classes) {
      // Adafactor's body in TypeScript makes arrays for rows and columns, with and without these options
      for (const mode of name === "Adafactor" ? [{ foreach: true }] : modes) {
        const params = parameters([[300, 400], [50_000]], "float32"), optimizer = new make(params, mode);
        params.forEach((p, i) => p.grad = finite(i, p.size, "float32"));
        const step = () => {
          optimizer.step(null, { maxGradNorm: 0.1, gradScale: 7 });
          clipGradNorm(params, 1);
        };
        for (let t = 0; t < 3; t++) step();
        const bytes = allocated(step);
        assert(bytes > 0, "nothing was counted");
        assert(bytes < 20_000, `${name} ${JSON.stringify(mode)} allocates ${bytes} bytes`);
      }
    }
  },
);

test("steps with and without options may alternate", () => {
  const run = (options: Record<string, unknown>) => {
    const params = parameters([[100], [5000]], "float32"), optimizer = new AdamW(params, options);
    for (let t = 0; t < 12; t++) {
      params.forEach((p, i) => p.grad = finite(10 * t + i, p.size, "float32"));
      optimizer.step(null, t % 3 === 0 ? {} : t % 3 === 1 ? { maxGradNorm: 1e9 } : { maxGradNorm: 0.1, gradScale: 7 });
    }
    return everything(optimizer);
  };
  assertSame(run({ fused: true }), run(FOR_LOOP), "float32", "after 12 steps");
  assert(plain(run(FOR_LOOP)[0]!, "float32").every(Number.isFinite));
});
