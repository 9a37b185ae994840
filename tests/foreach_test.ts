/** The multi-tensor operations: what they compute, the same bits everywhere, and what they refuse. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type DType, foreach, getNumThreads, Parameter, setNumThreads, type TypedArray } from "../mod.ts";
import { type Backend, GRAIN } from "../ffi/backend.ts";
import { jsBackend } from "../ffi/js.ts";
import { bestBackend } from "../ffi/load.ts";
import { DTYPES } from "../src/dtype.ts";
import { Arena, numbersFor } from "./support/arena.ts";
import { isas, withBackend } from "./support/backends.ts";
import { assertSameBits } from "./support/bits.ts";
import { typed } from "./support/golden.ts";
import { LIST_RULES, type ListRule } from "./support/list_rules.ts";

/** A rule over arrays of all sizes at all offsets; what it has written. */
function run({ rule }: ListRule, flags: number, hypers: readonly number[], dtype: DType, backend: Backend, n: number) {
  const arenas = rule.buffers.map((_, k) => new Arena(dtype, k + 1)), self = arenas[0]!;
  const job = backend.createJob(rule, dtype, self.views.length);
  job.bindHypers(Float64Array.of(...hypers, 0), 1);
  self.views.forEach(({ length }, row) => {
    job.setLength(row, length);
    job.setFlags(row, flags);
    if (length > 0) arenas.forEach(({ views }, k) => job.bind(row, k, views[row]!));
  });
  backend.run([job], n);
  for (const arena of arenas) arena.assertGuards();
  return self.memory;
}

for (const row of LIST_RULES) {
  for (const dtype of DTYPES) {
    test(`the rule ${row.rule.name} has the same bits in ${dtype} for every backend, instruction set and thread count`, () => {
      const native = bestBackend(), best = native.isa;
      try {
        native.setGrain(64);
        for (const { flags, hypers } of row.variants) {
          const expected = run(row, flags, hypers, dtype, jsBackend, 1);
          for (const isa of isas(native)) {
            native.setIsa(isa);
            for (const threads of [1, 2, 5]) {
              const what = `flags ${flags}, ${hypers}, ${isa}, ${threads} threads`;
              assertSameBits(run(row, flags, hypers, dtype, native, threads), expected, dtype, what);
            }
          }
        }
      } finally {
        native.setGrain(GRAIN);
        native.setIsa(best);
      }
    });
  }
}

/** Each operation on x = [4, -9], a = [2, 3], b = [0.5, -4] and the number 2. */
const CASES: [string, (x: TypedArray[], a: TypedArray[], b: TypedArray[]) => void, [number, number]][] = [
  ["lerp_", (x, a) => foreach.lerp_(x, a, 0.25), [3.5, -6]],
  ["lerp_ beyond the half", (x, a) => foreach.lerp_(x, a, 0.75), [2.5, 0]],
  ["add_", (x, a) => foreach.add_(x, a), [6, -6]],
  ["add_ with alpha", (x, a) => foreach.add_(x, a, { alpha: -0.5 }), [3, -10.5]],
  ["add_ of a number", (x) => foreach.add_(x, 2, { alpha: 3 }), [10, -3]],
  ["sub_", (x, a) => foreach.sub_(x, a), [2, -12]],
  ["sub_ with alpha", (x, a) => foreach.sub_(x, a, { alpha: 2 }), [0, -15]],
  ["sub_ of a number", (x) => foreach.sub_(x, 2), [2, -11]],
  ["mul_", (x, a) => foreach.mul_(x, a), [8, -27]],
  ["mul_ by a number", (x) => foreach.mul_(x, 2), [8, -18]],
  ["div_", (x, _, b) => foreach.div_(x, b), [8, 2.25]],
  ["div_ by a number", (x) => foreach.div_(x, 2), [2, -4.5]],
  ["addcmul_", (x, a, b) => foreach.addcmul_(x, a, b), [5, -21]],
  ["addcmul_ with a value", (x, a, b) => foreach.addcmul_(x, a, b, 2), [6, -33]],
  ["addcdiv_", (x, a, b) => foreach.addcdiv_(x, a, b), [8, -9.75]],
  ["addcdiv_ with a value", (x, a, b) => foreach.addcdiv_(x, a, b, 2), [12, -10.5]],
  ["sqrt_", (x) => foreach.sqrt_(x), [2, NaN]],
  ["maximum_", (x, a) => foreach.maximum_(x, a), [4, 3]],
  ["copy_", (x, a) => foreach.copy_(x, a), [2, 3]],
  ["zero_", (x) => foreach.zero_(x), [0, 0]],
  ["mul_ by itself", (x) => foreach.mul_(x, x), [16, 81]],
  ["div_ by itself", (x) => foreach.div_(x, [...x]), [1, 1]],
  ["copy_ of itself", (x) => foreach.copy_(x, [...x]), [4, -9]],
  ["addcmul_ of itself", (x, _, b) => foreach.addcmul_(x, x, b), [6, 27]],
];

for (const [name, call, expected] of CASES) {
  test(`foreach.${name} does what its name says, in every dtype and backend`, () => {
    for (const backend of [jsBackend, bestBackend()]) {
      withBackend(backend, () => {
        const make = (values: number[]) =>
          DTYPES.map((dtype) => {
            const array = typed(values, dtype);
            if (array instanceof Uint16Array) new Parameter(array, { dtype }); // tells its dtype
            return array;
          });
        const x = make([4, -9]), a = make([2, 3]), b = make([0.5, -4]);
        call(x, a, b);
        DTYPES.forEach((dtype, i) => assertSameBits(x[i]!, typed(expected, dtype), dtype, `${dtype}, ${backend.name}`));
        DTYPES.forEach((dtype, i) => {
          assertSameBits(a[i]!, typed([2, 3], dtype), dtype, "a");
          assertSameBits(b[i]!, typed([0.5, -4], dtype), dtype, "b");
        });
      });
    }
  });
}

test("foreach operations take Parameters, mixed dtypes, tensors of no elements, and empty lists", () => {
  for (const backend of [jsBackend, bestBackend()]) {
    withBackend(backend, () => {
      const p = new Parameter([1, 2]), q = new Parameter(Uint16Array.of(0x3f80), { dtype: "bfloat16" }); // 1
      const empty = new Float64Array(), d = Float64Array.of(5);
      foreach.add_([p, empty, q, d], [Float32Array.of(1, 1), new Float64Array(), q, Float64Array.of(1)]);
      assertEquals([...p.data, q.data[0], d[0]], [2, 3, 0x4000, 6]);
      foreach.add_([], []);
      foreach.sqrt_([]);
      foreach.zero_([]);
      assertEquals(foreach.norm([]), []);
    });
  }
});

test("foreach operations find their tables again, and see what has been replaced since", () => {
  const threads = getNumThreads();
  try {
    setNumThreads(1);
    for (const backend of [jsBackend, bestBackend()]) {
      withBackend(backend, () => {
        const p = new Parameter([1, 2]), q = new Parameter([10, 20]), self = [p], other = [q];
        foreach.add_(self, other);
        foreach.add_(self, other);
        assertEquals([...p.data], [21, 42]);
        q.data = Float32Array.of(1, 1); // another array
        foreach.add_(self, other);
        assertEquals([...p.data], [22, 43]);
        const before = p.data;
        p.data = Float32Array.of(0, 0);
        foreach.add_(self, other);
        assertEquals([[...p.data], [...before]], [[1, 1], [22, 43]]);
        other[0] = new Parameter([5, 5]); // another tensor in the same list
        foreach.add_(self, other);
        assertEquals([...p.data], [6, 6]);
        p.data = Float32Array.of(1, 2, 3);
        assertThrows(() => foreach.add_(self, other), RangeError, "self[0] must have 2 elements");
        p.data = Float32Array.of(1, 2);
        structuredClone(other[0].data.buffer, { transfer: [other[0].data.buffer as ArrayBuffer] }); // detached
        assertThrows(() => foreach.add_(self, other), RangeError, "other[0] must have 2 elements");
        assertEquals([...p.data], [1, 2]);
        const grown = new Float32Array(new ArrayBuffer(8, { maxByteLength: 16 }));
        const tracking = [new Parameter(grown)], one = [new Parameter([1, 1])];
        foreach.add_(tracking, one);
        (grown.buffer as ArrayBuffer).resize(4);
        assertThrows(() => foreach.add_(tracking, one), RangeError, "self[0] must have 2 elements");
        (grown.buffer as ArrayBuffer).resize(8);
        foreach.add_(tracking, one);
        assertEquals([...grown], [2, 1]);
      });
    }
  } finally {
    setNumThreads(threads);
  }
});

test("foreach.norm gives a number for each tensor, in the order of the list, the same everywhere", () => {
  const arrays = DTYPES.flatMap((dtype) =>
    [3, 0, 20_011].map((n) =>
      new Parameter(typed(numbersFor(n, n).map((v) => Number.isFinite(v) ? v : 1), dtype), { dtype })
    )
  );
  for (const ord of [1, 2, Infinity]) {
    const ours = foreach.norm(arrays, { ord });
    assertEquals(withBackend(jsBackend, () => foreach.norm(arrays, { ord })), ours);
    assertEquals(ours.length, arrays.length);
  }
  const x = Float32Array.of(3, -4), y = Float64Array.of(-1, 2, 2);
  assertEquals(foreach.norm([x, y, x]), [5, 3, 5]);
  assertEquals(foreach.norm([x, y], { ord: 1 }), [7, 5]);
  assertEquals(foreach.norm([x, y], { ord: Infinity }), [4, 2]);
  assertEquals(foreach.norm([Float32Array.of(NaN, 1), new Float32Array()]), [NaN, 0]);
});

test("foreach.norm of float32 does not overflow, unlike torch's", () => {
  // torch: torch._foreach_norm([torch.tensor([1e30, 1e30])]) is [tensor(inf)]
  assertEquals(foreach.norm([Float32Array.of(1e30, 0)]), [Math.fround(1e30)]);
});

test("foreach.copy_ rounds from one dtype to another, to nearest and ties to even, by way of float32", () => {
  const from = Float64Array.of(1, 0.1, 1 + 2 ** -9, NaN, -Infinity, 1e-40);
  for (const dtype of DTYPES) {
    const to = new Parameter(typed(new Array(6).fill(0), dtype), { dtype });
    foreach.copy_([to], [from]);
    assertSameBits(to.data, typed(from, dtype), dtype, dtype);
  }
  const half = new Parameter(Uint16Array.of(0x3dcd, 0x3f80), { dtype: "bfloat16" }), wide = new Float32Array(2);
  foreach.copy_([wide], [half]);
  assertEquals([...wide], [0.10009765625, 1]);
  if (typeof Float16Array !== "undefined") {
    const bits = new Parameter(new Uint16Array(2), { dtype: "float16" });
    foreach.copy_([bits], [Float16Array.of(1, -2)]);
    assertEquals([...bits.data], [0x3c00, 0xc000]);
  }
});

test("foreach operations refuse what does not fit, name it, and change nothing", () => {
  const x = Float32Array.of(1, 2), y = Float32Array.of(3, 4), memory = new Float32Array(8);
  const half = memory.subarray(0, 4), other = memory.subarray(2, 6), bits = new Uint16Array(2);
  const wrong: [() => unknown, typeof TypeError | typeof RangeError, string][] = [
    [
      () => foreach.add_(x as unknown as TypedArray[], 1),
      TypeError,
      "self must be an array of Parameters or typed arrays",
    ],
    [
      () => foreach.add_(null as unknown as TypedArray[], 1),
      TypeError,
      "self must be an array of Parameters or typed arrays, got null",
    ],
    [() => foreach.add_([x], y as unknown as TypedArray[]), TypeError, "other must be an array"],
    [
      () => foreach.add_([x], undefined as unknown as number),
      TypeError,
      "other must be an array of Parameters or typed arrays, got undefined",
    ],
    [
      () => foreach.add_([x], ["1"] as unknown as TypedArray[]),
      TypeError,
      'other[0] must be a Parameter or a typed array, got "1"',
    ],
    [() => foreach.add_([x, bits], 1), TypeError, "dtype must be"],
    [() => foreach.add_([x], [y, y]), RangeError, "other must have as many tensors as self, 1, got 2"],
    [() => foreach.add_([x], [new Float32Array(3)]), RangeError, "other[0] must have 2 elements as self[0] has, got 3"],
    [() => foreach.add_([x], [new Float64Array(2)]), TypeError, "other[0] must be float32 as self[0] is, got float64"],
    [() => foreach.add_([x], [y], { alpha: "1" as unknown as number }), TypeError, 'alpha must be a number, got "1"'],
    [
      () => foreach.add_([x], [y], { alhpa: 1 } as Record<string, number>),
      TypeError,
      'add_() has no option "alhpa"; it has alpha',
    ],
    [
      () => foreach.sub_([x], [y], null as unknown as { alpha: number }),
      TypeError,
      "options must be an object, got null",
    ],
    [
      () => foreach.lerp_([x], [y], undefined as unknown as number),
      TypeError,
      "weight must be a number, got undefined",
    ],
    [() => foreach.addcmul_([x], [y], [y], "2" as unknown as number), TypeError, "value must be a number"],
    [() => foreach.addcdiv_([x], [y], [new Float32Array(1)]), RangeError, "b[0] must have 2 elements"],
    [() => foreach.mul_([half], [other]), RangeError, "other[0] must not share memory with self[0]"],
    [() => foreach.mul_([x, y], [y, x]), RangeError, "must not share memory"],
    [() => foreach.sqrt_([x, x]), RangeError, "self[0] and self[1] must not share memory"],
    [() => foreach.copy_([half], [other]), RangeError, "from[0] must not share memory with self[0]"],
    [() => foreach.copy_([x], [y, y]), RangeError, "from must have as many tensors as self"],
    [() => foreach.copy_([x], [new Float64Array(3)]), RangeError, "from[0] must have 2 elements"],
    [() => foreach.zero_([x, 3] as unknown as TypedArray[]), TypeError, "self[1] must be a Parameter"],
    [() => foreach.norm([x], { ord: 3 }), RangeError, "ord must be 1, 2 or Infinity, got 3"],
    [() => foreach.norm([x], { order: 2 } as Record<string, number>), TypeError, 'norm() has no option "order"'],
  ];
  for (const [call, type, message] of wrong) assertThrows(call, type, message);
  assertEquals([[...x], [...y]], [[1, 2], [3, 4]]);
  assert(memory.every((v) => v === 0));
});
