/** The rules that look at whole tensors, by the CUDA kernels that are shipped, run from their text: the CPU's bits. */

import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import type { DType, TypedArray } from "../mod.ts";
import type { TensorRule, TensorShape } from "../ffi/backend.ts";
import { CUDA_PRODUCT } from "../ffi/cuda_kernels.ts";
import { TensorPlan } from "../ffi/cuda_tensors.ts";
import { jsBackend } from "../ffi/js.ts";
import { ADAFACTOR_RULE } from "../src/optim/adafactor.ts";
import { MUON_RULE } from "../src/optim/muon.ts";
import { DTYPES } from "../src/dtype.ts";
import { numbersFor } from "./support/arena.ts";
import { assertSameBits } from "./support/bits.ts";
import { hashNumbers, typed } from "./support/golden.ts";
import { DeviceMemory } from "./support/ptx.ts";
import { shippedKernels } from "./support/ptx_run.ts";

const LIMIT = { timeout: 180_000 };

interface TensorOf {
  readonly shape: TensorShape;
  readonly buffers: TypedArray[];
}

const sizeOf = ({ batches, rows, columns }: TensorShape) => batches === 0 ? columns : batches * rows * columns;

/** The buffers of a rule for a shape; state is what a step before may have left there. */
function tensorOf(
  rule: TensorRule,
  dtype: DType,
  shape: TensorShape,
  seed: number,
  numbers: typeof hashNumbers,
): TensorOf {
  const n = sizeOf(shape), { batches, rows, columns } = shape;
  const positive = (length: number, at: number) => numbers(at, length, 1).map(Math.abs);
  const buffers = [typed(numbers(seed, n, 2), dtype), typed(numbers(seed + 1, n, 1), dtype)];
  if (rule === MUON_RULE) buffers.push(typed(numbers(seed + 2, n, 1), dtype));
  else if (batches === 0) buffers.push(typed(positive(n, seed + 2), dtype), typed([], dtype));
  else {buffers.push(
      typed(positive(batches * rows, seed + 2), dtype),
      typed(positive(batches * columns, seed + 3), dtype),
    );}
  return { shape, buffers };
}

const copyOf = (tensors: readonly TensorOf[]): TensorOf[] =>
  tensors.map(({ shape, buffers }) => ({ shape, buffers: buffers.map((array) => array.slice()) }));

/** A step by the plan's launches, with blocks of some threads. */
function stepByPtx(
  rule: TensorRule,
  dtype: DType,
  tensors: readonly TensorOf[],
  hypers: Float64Array,
  block: number,
): void {
  const plan = new TensorPlan(rule, dtype, tensors.map((tensor) => tensor.shape)), memory = new DeviceMemory();
  const bytes = new Uint8Array(plan.bytes).fill(0xff), base = memory.map(bytes); // scratch that is read first is NaN
  const addresses = tensors.map(({ buffers }) =>
    buffers.map((b, k) => memory.map(b, rule.buffers[k]!.endsWith(":rw")))
  );
  const copy = (words: BigUint64Array<ArrayBuffer>, at: number) => bytes.set(new Uint8Array(words.buffer), at);
  copy(plan.lists(), plan.listsAt);
  copy(plan.table(base, addresses, hypers), 0);
  for (const { kernel, parameter, grid } of plan.launches(base, hypers)) {
    // fewer threads than on a device: they take turns
    shippedKernels().kernel(kernel).launch(memory, parameter, Math.min(grid, 5), block);
  }
}

function compare(
  rule: TensorRule,
  dtype: DType,
  tensors: readonly TensorOf[],
  rows: readonly (readonly number[])[],
  block: number,
): void {
  const hypers = Float64Array.from(tensors.flatMap((_, i) => rows[i % rows.length]!)), expected = copyOf(tensors);
  jsBackend.runTensors(rule, dtype, expected.map(({ shape, buffers }) => ({ ...shape, buffers })), hypers, 1);
  const before = copyOf(tensors);
  stepByPtx(rule, dtype, tensors, hypers, block);
  tensors.forEach(({ shape, buffers }, i) =>
    buffers.forEach((array, b) => {
      const what = `${rule.name} ${dtype} ${JSON.stringify(shape)}, ${rule.buffers[b]}`;
      assertSameBits(array, expected[i]!.buffers[b]!, dtype, what);
      if (b === 0 && array.length > 0) {
        assert(array.some((x, k) => !Object.is(x, before[i]!.buffers[0]![k])), `${what} has not changed`);
      }
    })
  );
}

const vector = (columns: number): TensorShape => ({ batches: 0, rows: 1, columns });
const matrices = (batches: number, rows: number, columns: number): TensorShape => ({ batches, rows, columns });

// sign, weight, eps1, 1 / eps1, eps2, rho, clip, decay
const ADAFACTOR_HYPERS = [
  [1, 1, 2 ** -23, 2 ** 23, 1e-3, 0.01, 1, 1],
  [-1, 0.3, 1e-3, 1e3, 1e-3, 0.1, 0.5, 0.99],
  [1, 0.7, 1e-30, 1e30, 1e-3, 0.1, 2, 0.9],
];
const ADAFACTOR_SHAPES = [
  ...[vector(1), vector(17), vector(4096 + 5), vector(0), matrices(1, 1, 1), matrices(1, 3, 5), matrices(2, 7, 33)],
  ...[matrices(1, 65, 40), matrices(3, 130, 2), matrices(1, 3, 2048 + 17), matrices(1, 0, 3)],
];

test("Adafactor by PTX has the bits of its body, for vectors, matrices, batches, strips and blocks", LIMIT, () => {
  for (const dtype of DTYPES) {
    const tensors = ADAFACTOR_SHAPES.map((shape, i) => tensorOf(ADAFACTOR_RULE, dtype, shape, 10 * i, hashNumbers));
    compare(ADAFACTOR_RULE, dtype, tensors, ADAFACTOR_HYPERS, 19);
  }
});

test("Adafactor by PTX has the bits of its body for special numbers, and for gradients of zeros", LIMIT, () => {
  const shapes = [vector(40), matrices(1, 5, 40), matrices(2, 3, 4)];
  for (const dtype of DTYPES) {
    for (const seed of [1, 2, 3]) {
      const tensors = shapes.map((shape, i) => tensorOf(ADAFACTOR_RULE, dtype, shape, 10 * i + seed, numbersFor));
      const still = shapes.map((shape, i) => tensorOf(ADAFACTOR_RULE, dtype, shape, 10 * i, hashNumbers));
      for (const { buffers: [, ...others] } of still) for (const array of others) array.fill(0);
      compare(ADAFACTOR_RULE, dtype, tensors, ADAFACTOR_HYPERS.slice(seed - 1), 4);
      compare(ADAFACTOR_RULE, dtype, still, ADAFACTOR_HYPERS.slice(1), 4);
    }
  }
});

// sign, momentum, 1 - momentum, nesterov, a, b, c, steps, eps, decay, step
const MUON_HYPERS = [
  [1, 0.95, 1 - 0.95, 1, 3.4445, -4.775, 2.0315, 5, 1e-7, 0.9999, 0.02],
  [-1, 0.3, 0.7, 1, 3.4445, -4.775, 2.0315, 2, 1e-7, 0.99, 0.1],
  [1, 0.9, 1 - 0.9, 0, 2, -1.5, 0.5, 1, 1e3, 1, 0.5],
  [1, 0.9, 1 - 0.9, 0, 2, -1.5, 0.5, 0, 1e-7, 1, 0.5],
];
const MUON_SHAPES = [
  ...[matrices(1, 1, 1), matrices(1, 3, 5), matrices(1, 5, 3), matrices(1, 8, 128), matrices(1, 130, 9)],
  ...[matrices(1, 17, 140), matrices(1, 33, 33), matrices(1, 0, 4)],
];

test(
  "Muon by PTX has the bits of its body, for wide, tall and square matrices and any number of iterations",
  LIMIT,
  () => {
    for (const dtype of DTYPES) {
      for (let k = 0; k < MUON_HYPERS.length; k++) {
        const shapes = k === 0 ? MUON_SHAPES : MUON_SHAPES.slice(0, 3);
        const tensors = shapes.map((shape, i) => tensorOf(MUON_RULE, dtype, shape, 10 * i + k, hashNumbers));
        compare(MUON_RULE, dtype, tensors, [MUON_HYPERS[k]!], 64);
      }
    }
  },
);

test(
  "Muon by PTX has the bits of its body where matrices have different hyperparameters, and for special numbers",
  LIMIT,
  () => {
    for (const dtype of DTYPES) {
      const some = [matrices(1, 3, 5), matrices(1, 6, 2), matrices(1, 4, 4), matrices(1, 2, 2)];
      compare(
        MUON_RULE,
        dtype,
        some.map((shape, i) => tensorOf(MUON_RULE, dtype, shape, 10 * i, hashNumbers)),
        MUON_HYPERS,
        7,
      );
      for (const seed of [1, 2]) {
        const special = some.map((shape, i) => tensorOf(MUON_RULE, dtype, shape, 10 * i + seed, numbersFor));
        compare(MUON_RULE, dtype, special, MUON_HYPERS.slice(0, 2), 7);
      }
    }
  },
);

test("a product has the bits of three loops at every edge of its pieces, symmetric or not", LIMIT, () => {
  for (const dtype of ["float32", "float64"] as const) {
    for (
      const [m, n, k] of [[1, 1, 0], [8, 128, 3], [9, 129, 2], [7, 127, 4], [33, 257, 3], [40, 5, 20], [
        150,
        150,
        2,
      ]] as const
    ) {
      for (const symmetric of m === n ? [false, true] : [false]) {
        const [a, b, add] = [m * k, k * n, m * n].map((length, i) => typed(hashNumbers(i + m, length, 1), dtype)) as [
          Float32Array,
          Float32Array,
          Float32Array,
        ];
        if (symmetric) { // a aT
          for (let i = 0; i < m; i++) for (let t = 0; t < k; t++) b[t * n + i] = a[i * k + t]!;
          for (let i = 0; i < m; i++) for (let j = 0; j < i; j++) add[i * n + j] = add[j * n + i]!;
        }
        const expected = add.slice(), actual = add.slice().fill(7), memory = new DeviceMemory();
        const shared = {
          m,
          n,
          k,
          a,
          b,
          add,
          aTransposed: false,
          bTransposed: false,
          symmetric,
          alpha: 0.3,
          beta: -1.7,
        };
        jsBackend.matmul({ ...shared, out: expected }, 1);
        const view = new DataView(new ArrayBuffer(CUDA_PRODUCT.bytes));
        const put = (field: keyof typeof CUDA_PRODUCT, x: number | bigint) =>
          view.setBigUint64(CUDA_PRODUCT[field], BigInt(x), true);
        const sizes = { m, n, k, a_row: k, a_column: 1, b_row: n, symmetric: symmetric ? 1 : 0 };
        for (const [field, x] of Object.entries(sizes)) put(field as "m", x);
        for (const [field, array] of Object.entries({ a, b, add })) put(field as "a", memory.map(array, false));
        put("out", memory.map(actual));
        view.setFloat64(CUDA_PRODUCT.alpha, 0.3, true);
        view.setFloat64(CUDA_PRODUCT.beta, -1.7, true);
        shippedKernels().kernel(`product_${dtype === "float32" ? "f32" : "f64"}`).launch(
          memory,
          new Uint8Array(view.buffer),
          3,
          96,
        );
        assertSameBits(actual, expected, dtype, `${dtype} [${m}, ${k}] [${k}, ${n}]${symmetric ? ", symmetric" : ""}`);
      }
    }
  }
});

test("a plan of tensors without elements launches nothing", LIMIT, () => {
  for (const rule of [ADAFACTOR_RULE, MUON_RULE]) {
    const plan = new TensorPlan(rule, "float32", [matrices(1, 0, 4), vector(0)]);
    assertEquals(plan.launches(0n, new Float64Array(40)), []);
    assertEquals(plan.table(0n, [[], []], new Float64Array(40)).length, 0);
  }
});
