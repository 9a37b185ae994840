/** clipGradNorm() and clipGradValue(): torch's results, the same bits everywhere, and what is refused. */

import { readFileSync } from "node:fs";
import { test } from "node:test";
import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { join } from "@std/path";
import {
  clipGradNorm,
  type ClipGradNormOptions,
  clipGradValue,
  type DType,
  Parameter,
  SparseTensor,
  type TypedArray,
} from "../mod.ts";
import { jsBackend } from "../ffi/js.ts";
import { bestBackend } from "../ffi/load.ts";
import { DTYPES } from "../src/dtype.ts";
import { Arena } from "./support/arena.ts";
import { everywhere, withBackend } from "./support/backends.ts";
import { assertSameBits } from "./support/bits.ts";
import { hashNumbers, numbers, plain, revive, typed, type Written } from "./support/golden.ts";
import { assertCompiled, ROOT } from "./support/runtime.ts";

/** Bun's own limit is five seconds, which a busy machine may need. */
const LIMIT = { timeout: 180_000 };

function parameter(grad: TypedArray | SparseTensor | null, dtype: DType = "float32", shape?: number[]): Parameter {
  const p = new Parameter(typed(new Float64Array(grad instanceof SparseTensor ? 8 : grad?.length ?? 1), dtype), {
    dtype,
    ...(shape ? { shape } : {}),
  });
  p.grad = grad;
  return p;
}

interface Case {
  name: string;
  grads: { dtype: DType; values: Written | null }[];
  options: { maxNorm?: number; normType?: number; errorIfNonfinite?: boolean; clipValue?: number };
  norm?: number | string;
  torchError?: string;
  clipped: (Written | null)[];
}

const CASES = (JSON.parse(readFileSync(join(ROOT, "tests", "golden", "clip_grad.json"), "utf8")) as { cases: Case[] })
  .cases;

/**
 * Units of the last place between torch's numbers and ours. torch rounds each tensor's norm, their norm, and the coefficient
 * to the dtype, which we do not: up to three roundings of it; its float32 sums round at every addition.
 */
const ULPS = 3;
const EPSILON: Record<DType, number> = { float32: 2 ** -23, float64: 2 ** -52, bfloat16: 2 ** -7, float16: 2 ** -10 };

function assertClose(got: number, want: number, dtype: DType, what: string): void {
  const near = Object.is(got, want) || got === want ||
    Math.abs(got - want) <= ULPS * EPSILON[dtype] * Math.abs(want) + (dtype === "float16" ? 2 ** -24 : 0);
  assert(near, `${what} is ${got}, torch has ${want}`);
}

for (const c of CASES) {
  test(`clipping is torch's: ${c.name}`, () => {
    const options = revive(c.options), grads = c.grads.map(({ values }) => values && numbers(values));
    const params = c.grads.map(({ dtype }, i) => parameter(grads[i] ? typed(grads[i], dtype) : null, dtype));
    // the coarsest dtype there is: in it torch's norm has been rounded
    const coarsest = (["bfloat16", "float16", "float32", "float64"] as const).find((dtype) => {
      return c.grads.some((grad) => grad.dtype === dtype);
    }) ?? "float32";
    if (options.clipValue !== undefined) {
      clipGradValue(params, options.clipValue);
    } else {
      const { maxNorm, ...more } = options, call = () => clipGradNorm(params, maxNorm!, more as ClipGradNormOptions);
      if (c.torchError) assertThrows(call, RangeError, "errorIfNonfinite");
      else assertClose(call(), Number(c.norm), coarsest, "the norm");
    }
    params.forEach((p, i) => {
      const want = c.clipped[i];
      if (want === null || want === undefined) return assertEquals(p.grad, null);
      const got = plain(p.grad as TypedArray, p.dtype);
      // a limit, a zero, a NaN, or a gradient that stays has one value; products are as near as the norms are
      if (options.clipValue !== undefined || c.torchError) {
        assertSameBits(p.grad as TypedArray, typed(numbers(want), p.dtype), p.dtype, `grad ${i}`);
      } else {
        numbers(want).forEach((x, k) => assertClose(got[k]!, x, coarsest, `grad ${i}[${k}]`));
      }
    });
  });
}

const SHAPES = [0, 1, 15, 16, 17, 63, 64, 129, 4095, 4096, 4097, 30_011];

/** What a call leaves in every implementation, instruction set and with 1, 2 and 5 threads. */
function assertEverywhere(run: () => TypedArray[], dtype: DType): void {
  assertCompiled(bestBackend());
  const expected = withBackend(jsBackend, run);
  everywhere((_compiled, _threads, what) => {
    run().forEach((array, i) => assertSameBits(array, expected[i]!, dtype, `${what}, array ${i}`));
  });
}

for (const dtype of DTYPES) {
  test(
    `clipGradNorm() has the same bits in ${dtype} in every implementation and with any number of threads`,
    LIMIT,
    () => {
      for (const normType of [2, 1, Infinity, -Infinity, 0, 3, 0.5]) {
        assertEverywhere(() => {
          const params = SHAPES.map((n, i) => parameter(typed(hashNumbers(i, n, 2), dtype), dtype));
          const sparse = new SparseTensor([[1, 3, 1, 0]], typed(hashNumbers(77, 8, 2), dtype), [4, 2], { dtype });
          params.splice(3, 0, parameter(null, dtype), parameter(sparse, dtype, [4, 2]));
          const norm = clipGradNorm(params, 0.3, { normType });
          const grads = params.flatMap((p) => p.grad === null ? [] : [p.grad as TypedArray | SparseTensor]);
          return [Float64Array.of(norm), ...grads.map((grad) => grad instanceof SparseTensor ? grad.values : grad)];
        }, dtype);
      }
    },
  );

  test(`clipGradValue() has the same bits in ${dtype} in every implementation, and writes nothing else`, LIMIT, () => {
    assertEverywhere(() => {
      const arena = new Arena(dtype, 5), params = arena.views.map((view) => parameter(view, dtype));
      clipGradValue(params, 0.3);
      arena.assertGuards();
      return [arena.memory];
    }, dtype);
  });
}

test("the norm is one of float64: it neither overflows nor rounds in float32", () => {
  const p = parameter(Float32Array.of(3e38, 3e38, 3e38, 3e38));
  assertEquals(clipGradNorm([p], 1), 2 * Math.fround(3e38));
  assertEquals(
    [...p.grad as Float32Array],
    Array(4).fill(Math.fround(Math.fround(3e38) * Math.fround(0.5 / Math.fround(3e38)))),
  );
});

test("a single Parameter, a typed array, and any iterable of them are taken", () => {
  const array = Float32Array.of(0, 0), p = Parameter.of(array);
  const clip = (params: Parameters<typeof clipGradNorm>[0]) => {
    p.grad = Float32Array.of(3, 4);
    const norm = clipGradNorm(params, 1);
    return [norm, Math.hypot(...p.grad)];
  };
  for (
    const params of [
      p,
      array,
      [p],
      [array],
      new Set([p]),
      (function* () {
        yield array;
      })(),
    ]
  ) {
    const [norm, now] = clip(params);
    assertEquals(norm, 5);
    assert(Math.abs(now! - 1) < 1e-6, `${now}`);
  }
  assertEquals(clipGradNorm([], 1), 0);
  p.grad = null;
  assertEquals(clipGradNorm([p], 1), 0);
  clipGradValue([p], 1);
});

test("gradients below the limit stay as they are, to the bit", () => {
  const grad = Float32Array.of(1e-3, -0, 1e-40), p = parameter(grad), before = grad.slice();
  assertEquals(clipGradNorm([p], 5), Math.sqrt(Math.fround(1e-3) ** 2));
  assertSameBits(grad, before, "float32", "grad");
  assertStrictEquals(p.grad, grad);
});

test("calls with the same list see gradients that are others, or have gone, or came, or are shorter", () => {
  const params = [parameter(Float32Array.of(3)), parameter(Float32Array.of(4))];
  assertEquals(clipGradNorm(params, 10), 5);
  params[0]!.grad = Float32Array.of(12);
  params[1]!.grad = Float32Array.of(5);
  assertEquals(clipGradNorm(params, 20), 13);
  params[0]!.grad = null;
  assertEquals(clipGradNorm(params, 20), 5);
  params.push(parameter(Float32Array.of(12)));
  assertEquals(clipGradNorm(params, 20), 13);
  const grad = params[2]!.grad as Float32Array;
  (grad.buffer as ArrayBuffer).transfer();
  assertThrows(() => clipGradNorm(params, 20), RangeError, "grad of params[2] must have 1 elements");
  params[2]!.grad = new SparseTensor([[0]], [12], [1]);
  assertEquals(clipGradNorm(params, 20), 13);
  params[2]!.grad = Float32Array.of(0);
  params[1]!.grad = Float32Array.of(40);
  assertEquals(clipGradNorm(params, 20), 40);
  assertEquals(params[1]!.grad[0], Math.fround(40 * Math.fround(20 / (40 + 1e-6))));
});

test("the entries of a sparse gradient's row are added up for the norm, and multiplied each", () => {
  const grad = new SparseTensor([[1, 1, 0]], [1, 2, 2, 2, 12, 0], [4, 2]), p = parameter(grad, "float32", [4, 2]);
  assertEquals(clipGradNorm([p], 6.5), 13); // rows [12, 0] and [3, 4]
  const half = Math.fround(6.5 / (13 + 1e-6));
  assertEquals([...grad.values], [1, 2, 2, 2, 12, 0].map((x) => Math.fround(x * half)));
  assertStrictEquals(p.grad, grad);
  assertEquals(
    clipGradNorm([parameter(new SparseTensor([[1, 1]], [1, 2, 2, 2], [4, 2]), "float32", [4, 2])], 9, {
      normType: Infinity,
    }),
    4,
  );
});

test("errorIfNonfinite throws before anything is changed; without it gradients become 0 or NaN, as in torch", () => {
  for (const bad of [NaN, Infinity]) {
    const grads = [Float32Array.of(1, 2), Float32Array.of(bad, 3)], params = grads.map((grad) => parameter(grad));
    assertThrows(
      () => clipGradNorm(params, 1, { errorIfNonfinite: true }),
      RangeError,
      `the norm of the gradients must be finite where errorIfNonfinite is true, got ${bad}`,
    );
    assertEquals(grads.map((grad) => [...grad]), [[1, 2], [bad, 3]]);
    assertEquals(clipGradNorm(params, 1), bad);
    const rest = Number.isNaN(bad) ? NaN : 0;
    assertEquals(grads.map((grad) => [...grad]), [[rest, rest], [NaN, rest]]);
  }
});

test("gradients that share memory are refused by name: they would be multiplied twice", () => {
  const memory = new Float32Array(6).fill(1);
  const a = parameter(memory.subarray(0, 3)),
    b = parameter(memory.subarray(2, 5)),
    c = parameter(memory.subarray(3, 6));
  const message = "grad of params[0] and grad of params[1] must not share memory, but they overlap";
  assertThrows(() => clipGradNorm([a, b], 1), RangeError, message);
  assertThrows(() => clipGradValue([a, b], 0.5), RangeError, message);
  assertThrows(() => clipGradNorm([a, a], 1), RangeError, message);
  assertEquals([...memory], Array(6).fill(1));
  assertEquals(clipGradNorm([a, c], 9), Math.sqrt(6)); // beside each other they may be
});

test("wrong arguments are refused by name, and nothing is changed", () => {
  const grad = Float32Array.of(3, 4), p = parameter(grad), other = parameter(Float32Array.of(1));
  const force = (value: unknown) => value as never;
  const refused: [() => unknown, typeof TypeError | typeof RangeError, string][] = [
    [() => clipGradNorm([p], -1), RangeError, "maxNorm must be >= 0, got -1"],
    [() => clipGradNorm([p], NaN), RangeError, "maxNorm must be >= 0, got NaN"],
    [() => clipGradNorm([p], force("1")), TypeError, 'maxNorm must be a number, got "1"'],
    [() => clipGradNorm([p], 1, { normType: NaN }), RangeError, "normType must be a number, got NaN"],
    [() => clipGradNorm([p], 1, force({ normType: "inf" })), TypeError, 'normType must be a number, got "inf"'],
    [
      () => clipGradNorm([p], 1, force({ errorIfNonfinite: 1 })),
      TypeError,
      "errorIfNonfinite must be a boolean, got 1",
    ],
    [() => clipGradNorm([p], 1, force({ foreach: true })), TypeError, 'clipGradNorm() has no option "foreach"'],
    [() => clipGradNorm([p], 1, force(null)), TypeError, "options must be an object, got null"],
    [() => clipGradNorm(force(3), 1), TypeError, "params must be Parameters or typed arrays, got 3"],
    [() => clipGradNorm(force(null), 1), TypeError, "params must be Parameters or typed arrays, got null"],
    [() => clipGradNorm(force([p, [1]]), 1), TypeError, "params[1] must be a Parameter or a typed array, got an Array"],
    [() => clipGradValue([p], -0.5), RangeError, "clipValue must be >= 0, got -0.5"],
    [() => clipGradValue([p], force(null)), TypeError, "clipValue must be a number, got null"],
    [() => clipGradValue(force({}), 1), TypeError, "params must be Parameters or typed arrays, got an object"],
  ];
  for (const [call, type, message] of refused) assertThrows(call, type, message);
  for (const bad of [new Float64Array(1), new Float32Array(2), "grad", new SparseTensor([[0]], [1], [2])]) {
    other.grad = force(bad);
    assertThrows(() => clipGradNorm([p, other], 1), Error, "grad of params[1]");
    assertThrows(() => clipGradValue([p, other], 1), Error, "grad of params[1]");
  }
  assertThrows(
    () => clipGradValue([p, parameter(new SparseTensor([[0]], [1, 1], [4, 2]), "float32", [4, 2])], 1),
    TypeError,
    "clipGradValue() does not support sparse gradients, got one as grad of params[1]",
  );
  assertEquals([...grad], [3, 4]);
});
