/** Many small tensors: calls that are made again, long tables that several threads check, and gradients that are new each time. */

import { test } from "node:test";
import { assert, assertThrows } from "@std/assert";
import { AdamW, Parameter } from "../mod.ts";
import {
  type Backend,
  type Job,
  type StateMemory,
  STEP_COEFFICIENT,
  STEP_UNSCALE,
  STEP_WORDS,
  UPDATE,
} from "../ffi/backend.ts";
import { jsBackend } from "../ffi/js.ts";
import { bestBackend } from "../ffi/load.ts";
import { WasmBackend } from "../ffi/wasm.ts";
import { everywhere } from "./support/backends.ts";
import { assertSameBits } from "./support/bits.ts";
import { ROWS } from "./support/classes.ts";
import { collector } from "./support/garbage.ts";
import { hashNumbers } from "./support/golden.ts";

const LIMIT = { timeout: 120_000 };
const ADAM = ROWS.find((row) => row.name === "AdamW")!.rule, SGD_RULE = ROWS.find((row) => row.name === "SGD")!.rule;
const some = (seed: number, n: number) => Float32Array.from(hashNumbers(seed, n, 2), Math.abs);

/** A job of Adam's over small rows that has things done to it, in one backend. */
class Changing {
  readonly job: Job;
  readonly rows: Float32Array[][];
  readonly memory: StateMemory | null;
  hypers = new Float64Array(18);

  constructor(readonly backend: Backend, sizes: readonly number[]) {
    const memory = this.memory = backend.stateMemory?.(sizes.map((n) => ({ dtype: "float32", size: 99 * n })), 2) ??
      null;
    this.job = backend.createJob(ADAM, "float32", sizes.length);
    this.rows = sizes.map((n, row) =>
      [0, 1, 2, 3].map((b) => {
        const array = some(4 * row + b, n);
        const inside = b >= 2 && row % 5 !== 0 ? memory?.allocate(b - 2, "float32", n, array) : null;
        if (!inside) return array;
        inside.set(array);
        return inside as Float32Array;
      })
    );
    this.rows.forEach((arrays, row) => {
      this.job.setLength(row, arrays[0]!.length);
      arrays.forEach((array, b) => this.job.bind(row, b, array));
    });
    this.setHypers(1);
  }

  bind(row: number, buffer: number, array: Float32Array): void {
    this.rows[row]![buffer] = array;
    this.job.bind(row, buffer, array);
  }

  setHypers(scale: number): void {
    const first = [1, 0.01, 0.99, 0.1, 0.9, 0.99, 0.01, 0.03, 1e-6];
    this.hypers = Float64Array.from([...first, ...first.map((h, i) => i === 7 ? h * scale : h)]);
    this.job.bindHypers(this.hypers, 2);
  }
}

/** Something that is done to both jobs; `k` is a number at random. */
type Change = (it: Changing, row: number, k: number) => void;

const CHANGES: Readonly<Record<string, Change>> = {
  "nothing": () => {},
  "another gradient": (it, row, k) => it.bind(row, 1, some(k, it.rows[row]![0]!.length)),
  "other gradients for all": (it, _row, k) => it.rows.forEach((a, row) => it.bind(row, 1, some(k + row, a[0]!.length))),
  "a gradient that is a part of a larger array": (it, row, k) => {
    const n = it.rows[row]![0]!.length;
    it.bind(row, 1, some(k, n + 9).subarray(5, 5 + n));
  },
  "a gradient that tracks a buffer, which grows": (it, row, k) => {
    const n = it.rows[row]![0]!.length;
    const Resizable = ArrayBuffer as unknown as new (
      bytes: number,
      options: object,
    ) => ArrayBuffer & { resize(bytes: number): void };
    const buffer = new Resizable(4 * n, { maxByteLength: 4 * n + 400 }), array = new Float32Array(buffer);
    array.set(some(k, n));
    it.bind(row, 1, array);
    it.backend.run([it.job], 1);
    buffer.resize(4 * n + 400);
  },
  "a gradient that lies in the memory of state": (it, row, k) => {
    const n = it.rows[row]![0]!.length, array = some(k, n);
    const inside = it.memory?.allocate(k % 2, "float32", n, array); // where the rows' own state is, most of it
    inside?.set(array);
    it.bind(row, 1, (inside ?? array) as Float32Array);
  },
  "a row that is left out": (it, row) => it.job.setLength(row, 0),
  "all rows": (it) => it.rows.forEach((a, row) => it.job.setLength(row, a[0]!.length)),
  "another flag": (it, row, k) => it.job.setFlags(row, k % 2),
  "other hyperparameters for a row": (it, row, k) => it.job.setHyper(row, k % 2),
  "other hyperparameters": (it, _row, k) => it.setHypers(1 + (k % 7) / 8),
  "gradients that are multiplied": (it, _row, k) => {
    const step = new Float64Array(STEP_WORDS);
    step[STEP_UNSCALE] = 1;
    step[STEP_COEFFICIENT] = 1 / (2 + k % 3);
    it.backend.step([it.job], UPDATE, step, 1);
  },
  "a product that makes the workspace grow": (it, _row, k) => {
    const m = 8 + 64 * (k % 6), a = new Float32Array(m * m).fill(1);
    const product = { m, n: m, k: m, aTransposed: false, bTransposed: false, symmetric: false, alpha: 1, beta: 0 };
    it.backend.matmul({ ...product, a, b: a, add: null, out: new Float32Array(m * m) }, 1);
  },
};

for (const compiled of new Set<Backend>([bestBackend(), new WasmBackend()])) {
  test(
    `a job over small rows has TypeScript's bits, whatever changes between its runs (${compiled.name})`,
    LIMIT,
    () => {
      const sizes = Array.from({ length: 40 }, (_, row) => [1, 7, 16, 33, 64][row % 5]!), names = Object.keys(CHANGES);
      const both = [new Changing(compiled, sizes), new Changing(jsBackend, sizes)] as const;
      const order = Uint32Array.from(hashNumbers(7, 600, 1), (x) => Math.floor((x + 1) * 1e6));
      for (let i = 0; i < 200; i++) {
        const [kind, row, k] = order.subarray(3 * i, 3 * i + 3) as unknown as [number, number, number];
        const name = i % 3 === 0 ? names[kind % names.length]! : "nothing";
        for (const it of both) {
          CHANGES[name]!(it, row % sizes.length, k);
          it.backend.run([it.job], 1);
        }
        both[0].rows.forEach((arrays, r) => {
          arrays.forEach((array, b) => {
            if (b !== 1) {
              assertSameBits(array, both[1].rows[r]![b]!, "float32", `run ${i}, ${name}: row ${r}, buffer ${b}`);
            }
          });
        });
      }
    },
  );
}

test("a wrong row anywhere in a long table is an error, and nothing is written", LIMIT, () => {
  const rows = 6000;
  everywhere((compiled, threads, what) => {
    const job = compiled.createJob(SGD_RULE, "float32", rows), data = new Float32Array(16 * rows).fill(1);
    const grads = new Float32Array(16 * rows).fill(1);
    for (let row = 0; row < rows; row++) {
      job.setLength(row, 16);
      job.bind(row, 0, data.subarray(16 * row, 16 * row + 16));
      job.bind(row, 1, grads.subarray(16 * row, 16 * row + 16));
    }
    job.bindHypers(Float64Array.of(1, 0, 0, 1, 0.5), 1);
    compiled.run([job], threads);
    assert(data.every((x) => x === 0.5), what); // from now on the library knows that the threads are awake
    const before = data.slice();
    for (const row of [0, 1, 2047, 2048, 2999, 3000, 3001, 4999, rows - 1]) {
      job.setHyper(row, 1);
      assertThrows(() => compiled.run([job], threads), Error, "hyperparameters");
      job.setHyper(row, 0);
      job.setFlags(row, 1 << 9);
      assertThrows(() => compiled.run([job], threads), Error, "flag");
      job.setFlags(row, 0);
    }
    assertSameBits(data, before, "float32", what);
    compiled.run([job], threads);
    assert(data.every((x) => x === 0), what);
  }, [1, 2, 3]);
});

/** Small tensors, whose gradients are there. */
function smallOnes(tensors: number): Parameter[] {
  const params = Array.from({ length: tensors }, () => new Parameter(new Float32Array(20)));
  for (const p of params) p.grad = new Float32Array(20).fill(1e-3);
  return params;
}
const adamW = (tensors: number): AdamW => new AdamW(smallOnes(tensors), { lr: 1e-3 });

test("new gradient arrays in each step are used, checked, and not kept", LIMIT, async () => {
  const tensors = 50, optimizer = adamW(tensors), twin = adamW(tensors);
  for (const group of twin.paramGroups) Object.assign(group, { foreach: false, fused: false });
  const params = optimizer.paramGroups[0]!.params, plain = twin.paramGroups[0]!.params, held: WeakRef<object>[] = [];
  for (let step = 0; step < 20; step++) {
    params.forEach((p, i) => {
      p.grad = some(step * tensors + i, 20);
      plain[i]!.grad = p.grad.slice();
      if (step < 10) held.push(new WeakRef(p.grad));
    });
    optimizer.step();
    twin.step();
    params.forEach((p, i) => assertSameBits(p.data, plain[i]!.data, "float32", `step ${step}, tensor ${i}`));
    await new Promise((resolve) => setTimeout(resolve)); // a WeakRef holds until the turn ends
  }
  collector()();
  const alive = held.filter((ref) => ref.deref() !== undefined).length;
  assert(alive <= tensors, `${alive} of ${held.length} gradients of earlier steps are still there`);
  const before = params.map((p) => p.data.slice());
  for (
    const [wrong, words] of [
      [new Float32Array(19), "grad of paramGroups[0].params[3]"],
      [new Float64Array(20), "must be a Float32Array"],
      [params[7]!.data.subarray(0), "must not share memory"],
      [params[7]!.data.subarray(0, 19), "must have 20 elements"],
    ] as const
  ) {
    for (const p of params) p.grad = some(1, 20);
    params[3]!.grad = wrong;
    assertThrows(() => optimizer.step(), Error, words);
    params.forEach((p, i) => assertSameBits(p.data, before[i]!, "float32", words));
    params[3]!.grad = some(1, 20);
  }
});
