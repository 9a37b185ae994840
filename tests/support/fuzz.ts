/**
 * Random training runs, and what is left of them under an implementation: for the differential fuzz test.
 *
 * A run is plain data, so that it can be printed as a program and shrunk. What it leaves is a hash of every parameter and of all
 * state after each step, or the error that a step threw; every NaN counts as one value.
 *
 * @module
 */

import { existsSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import fc from "fast-check";
import { join } from "@std/path";
import {
  type DType,
  getNumThreads,
  load,
  Parameter,
  save,
  setNumThreads,
  SparseTensor,
  type StateValue,
  type TypedArray,
} from "../../mod.ts";
import { DeviceArray } from "../../src/cuda/device_array.ts";
import { GRAIN, type Isa } from "../../ffi/backend.ts";
import { bestBackend } from "../../ffi/load.ts";
import { DTYPES, isTypedArray } from "../../src/dtype.ts";
import { numbersFor } from "./arena.ts";
import { isas } from "./backends.ts";
import { type AnyOptimizer, ROWS, SPARSE_ADAM, TENSOR_ROWS } from "./classes.ts";
import { hashNumbers, typed } from "./golden.ts";

/** Where checkpoints are saved, in memory where there is such a place. */
const FOLDER = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
let saves = 0;

/** A parameter of a run. */
export interface FuzzParam {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly seed: number;
  /** Whether NaN, infinities, denormals and the like are among its numbers. */
  readonly special: boolean;
}

/** A gradient: none, another array, the array of the step before with other numbers, or a sparse one. */
export interface FuzzGrad {
  readonly kind: "null" | "new" | "same" | "sparse";
  readonly seed: number;
  readonly special: boolean;
}

/** What is done before a step. */
export type FuzzAction =
  | { readonly kind: "none" | "reload" | "pt" | "safetensors" | "zeroGrad" | "newData" }
  | { readonly kind: "set"; readonly group: number; readonly lr: number }
  | { readonly kind: "variant"; readonly group: number; readonly variant: number }
  | { readonly kind: "add"; readonly params: readonly FuzzParam[] };

/** A step. */
export interface FuzzStep {
  readonly action: FuzzAction;
  /** One for each parameter, over and over. */
  readonly grads: readonly FuzzGrad[];
  /** Options of the step. */
  readonly options: { readonly maxGradNorm?: number; readonly gradScale?: number };
}

/** A training run. */
export interface FuzzCase {
  readonly optimizer: string;
  readonly variant: number;
  readonly groups: readonly (readonly FuzzParam[])[];
  readonly steps: readonly FuzzStep[];
}

interface Entry {
  readonly make: AnyOptimizer;
  readonly variants: readonly Record<string, unknown>[];
}

const OPTIMIZERS: Readonly<Record<string, Entry>> = Object.fromEntries(
  [...ROWS, SPARSE_ADAM, ...TENSOR_ROWS].map((row) => [row.name, row]),
);
/** Those that take sparse gradients. */
const SPARSE = ["SGD", "Adagrad", "SparseAdam"];

const seed = fc.integer({ min: 0, max: 0x7fffffff });
const param = (matrices: boolean): fc.Arbitrary<FuzzParam> =>
  fc.record({
    dtype: fc.constantFrom(...DTYPES),
    shape: matrices
      ? fc.tuple(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 1, max: 20 })).map(([a, b]) => [a, b])
      : fc.oneof(
        {
          weight: 4,
          arbitrary: fc.tuple(fc.integer({ min: 0, max: 8 }), fc.integer({ min: 0, max: 9 })).map(([a, b]) => [a, b]),
        },
        { weight: 2, arbitrary: fc.integer({ min: 0, max: 70 }).map((n) => [n]) },
        { weight: 1, arbitrary: fc.integer({ min: 100, max: 700 }).map((n) => [n]) },
      ),
    seed,
    special: fc.boolean(),
  });

const gradOf = (sparse: "never" | "maybe" | "always"): fc.Arbitrary<FuzzGrad> =>
  fc.record({
    kind: sparse === "always"
      ? fc.constantFrom("null", "sparse", "sparse", "sparse")
      : fc.constantFrom("null", "new", "same", "same", ...(sparse === "maybe" ? ["sparse"] as const : [])),
    seed,
    special: fc.boolean(),
  }) as fc.Arbitrary<FuzzGrad>;

/** Random runs. */
export const FUZZ_CASES: fc.Arbitrary<FuzzCase> = fc.constantFrom(...Object.keys(OPTIMIZERS)).chain((optimizer) => {
  const params = fc.array(param(optimizer === "Muon"), { minLength: 1, maxLength: 4 });
  const grad = gradOf(optimizer === "SparseAdam" ? "always" : SPARSE.includes(optimizer) ? "maybe" : "never");
  const action = fc.oneof(
    { weight: 4, arbitrary: fc.constant({ kind: "none" } as const) },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constantFrom("reload", "pt", "safetensors", "zeroGrad", "newData") }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("variant"),
        group: fc.integer({ min: 0, max: 3 }),
        variant: fc.integer({ min: 0, max: 100 }),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("set"),
        group: fc.integer({ min: 0, max: 3 }),
        lr: fc.constantFrom(0, 1e-3, 0.1, 3),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("add"), params }) },
  ) as fc.Arbitrary<FuzzAction>;
  const options = fc.oneof(
    { weight: 3, arbitrary: fc.constant({}) },
    { weight: 1, arbitrary: fc.record({ maxGradNorm: fc.constantFrom(0.1, 1, 100) }) },
    {
      weight: 1,
      arbitrary: fc.record({ maxGradNorm: fc.constantFrom(0.1, 1), gradScale: fc.constantFrom(2, 1024, 3) }),
    },
  );
  return fc.record({
    optimizer: fc.constant(optimizer),
    variant: fc.integer({ min: 0, max: 100 }),
    groups: fc.array(params, { minLength: 1, maxLength: 3 }),
    steps: fc.array(fc.record({ action, grads: fc.array(grad, { minLength: 1, maxLength: 6 }), options }), {
      minLength: 1,
      maxLength: 6,
    }),
  }) as fc.Arbitrary<FuzzCase>;
});

/** How a run is made. */
export interface FuzzMode {
  readonly foreach: boolean;
  readonly fused: boolean;
  readonly isa: Isa | null;
  readonly threads: number;
}

/**
 * The ways to make a run in this process, the for-loop in TypeScript first. For every fourth case one of them has several threads,
 * up to eight: more threads than processors take their time.
 *
 * @param number of the case
 */
export function fuzzModes(number = 0): FuzzMode[] {
  const modes: FuzzMode[] = [{ foreach: false, fused: false, isa: null, threads: 1 }];
  const compiled = bestBackend();
  if (compiled.name === "js") return modes;
  modes.push({ foreach: true, fused: false, isa: null, threads: 1 });
  if (compiled.name === "wasm") return [...modes, { foreach: false, fused: true, isa: null, threads: 1 }];
  for (const isa of isas(compiled)) modes.push({ foreach: false, fused: true, isa, threads: 1 });
  if (number % 4 !== 0) return modes;
  const k = number / 4, threaded = 1 + k % (modes.length - 1);
  modes[threaded] = { ...modes[threaded]!, threads: 2 + k % 7 };
  return modes;
}

const double = new Float64Array(1), words = new Uint32Array(double.buffer);

/** A hash of numbers, in two halves of 32 bits. */
class Hash {
  #a = 0x811c9dc5;
  #b = 0x9e3779b1;
  add(x: number): void {
    double[0] = x === x ? x : NaN;
    if (x !== x) words[0] = 0, words[1] = 0x7ff80000;
    for (let i = 0; i < 2; i++) {
      this.#a = Math.imul(this.#a ^ words[i]!, 0x01000193);
      this.#b = Math.imul(this.#b ^ (words[i]! + this.#a), 0x85ebca6b);
      this.#b ^= this.#b >>> 13;
    }
  }
  array(array: TypedArray, dtype: DType): void {
    this.add(array.length);
    const halves = array instanceof Uint16Array, most = dtype === "bfloat16" ? 0x7f80 : 0x7c00;
    for (let i = 0; i < array.length; i++) this.add(halves && (array[i]! & 0x7fff) > most ? NaN : array[i]!);
  }
  text(text: string): void {
    for (let i = 0; i < text.length; i++) this.add(text.charCodeAt(i));
  }
  get value(): string {
    return (this.#a >>> 0).toString(16).padStart(8, "0") + (this.#b >>> 0).toString(16).padStart(8, "0");
  }
}

function addState(hash: Hash, value: StateValue, dtype: DType): void {
  if (typeof value === "number") hash.add(value);
  else if (isTypedArray(value)) hash.array(value, dtype);
  else if (Array.isArray(value)) value.forEach((v: number | TypedArray) => addState(hash, v, dtype));
  else if (!(value instanceof DeviceArray)) {
    hash.array(value.values, dtype);
    for (const index of value.indices) hash.add(index);
  }
}

const numbers = (seed: number, n: number, special: boolean, dtype: DType): TypedArray =>
  typed(special ? numbersFor(seed % 100_000, n) : hashNumbers(seed, n, 2), dtype);

function makeParam({ dtype, shape, seed, special }: FuzzParam): Parameter {
  const n = shape.reduce((a, b) => a * b, 1);
  return new Parameter(numbers(seed, n, special, dtype), { shape: [...shape], dtype });
}

function setGrad(p: Parameter, { kind, seed, special }: FuzzGrad): void {
  if (kind === "null") {
    p.grad = null;
  } else if (kind === "sparse") {
    const [rows = 0] = p.shape, length = p.shape.slice(1).reduce((a, b) => a * b, 1);
    const nnz = rows === 0 ? 0 : seed % 7;
    const indices = Array.from({ length: nnz }, (_, i) => (seed >>> (3 * i % 20)) % rows);
    const values = numbers(seed, nnz * length, special, p.dtype);
    p.grad = new SparseTensor(nnz === 0 ? [[]] : [indices], values, [...p.shape], { dtype: p.dtype });
  } else {
    const fresh = numbers(seed, p.size, special, p.dtype), { grad } = p;
    if (kind === "same" && isTypedArray(grad) && grad.constructor === fresh.constructor) grad.set(fresh as never);
    else p.grad = fresh;
  }
}

/** Makes a run; returns a hash of what it leaves. */
export async function runFuzzCase(fuzz: FuzzCase, mode: FuzzMode): Promise<string> {
  const { make, variants } = OPTIMIZERS[fuzz.optimizer]!, variant = variants[fuzz.variant % variants.length]!;
  const hash = new Hash(), compiled = bestBackend(), isa = compiled.isa, threads = getNumThreads();
  try {
    if (compiled.name !== "js") compiled.setGrain(64);
    if (mode.isa !== null) compiled.setIsa(mode.isa);
    setNumThreads(mode.threads);
    const options = { ...variant, foreach: mode.foreach, fused: mode.fused };
    const optimizer = new make(fuzz.groups.map((params) => ({ params: params.map(makeParam) })), options);
    for (const step of fuzz.steps) {
      try {
        await act(optimizer, step.action, variants);
        const params = optimizer.paramGroups.flatMap((group) => group.params);
        params.forEach((p, i) => setGrad(p, step.grads[i % step.grads.length]!));
        optimizer.step(null, step.options);
      } catch (error) {
        hash.text((error as Error).message); // the same in all of them
      }
      for (const p of optimizer.paramGroups.flatMap((group) => group.params)) {
        hash.array(p.data, p.dtype);
        for (const [key, value] of Object.entries(optimizer.state.get(p) ?? {}).sort(([a], [b]) => a < b ? -1 : 1)) {
          hash.text(key);
          addState(hash, value, p.dtype);
        }
      }
      hash.add(optimizer.stepCount);
      hash.add(optimizer.lastStep?.gradNorm ?? -1);
    }
  } finally {
    if (compiled.name !== "js") compiled.setGrain(GRAIN);
    if (mode.isa !== null) compiled.setIsa(isa);
    setNumThreads(threads);
  }
  return hash.value;
}

async function act(
  optimizer: InstanceType<AnyOptimizer>,
  action: FuzzAction,
  variants: readonly Record<string, unknown>[],
): Promise<void> {
  const params = optimizer.paramGroups.flatMap((group) => group.params);
  switch (action.kind) {
    case "none":
      return;
    case "reload":
      return optimizer.loadStateDict(structuredClone(optimizer.stateDict()));
    case "pt":
    case "safetensors": {
      const path = join(FOLDER, `${process.pid}-${saves++}.${action.kind}`);
      await save(path, { optimizer });
      try {
        return optimizer.loadStateDict((await load(path)).optimizer);
      } finally {
        rmSync(path);
      }
    }
    case "variant": { // what another variant has, options that this one lacks among it
      const group = optimizer.paramGroups[action.group % optimizer.paramGroups.length]!;
      Object.assign(group, variants[action.variant % variants.length]);
      return;
    }
    case "zeroGrad":
      return optimizer.zeroGrad({ setToNull: false });
    case "newData":
      for (const p of params) p.data = p.data.slice() as never;
      return;
    case "set":
      (optimizer.paramGroups[action.group % optimizer.paramGroups.length]! as unknown as { lr: number }).lr = action.lr;
      return;
    case "add":
      return optimizer.addParamGroup({ params: action.params.map(makeParam) });
  }
}

/** A program that makes a run in two ways, and says whether they differ. */
export function fuzzProgram(fuzz: FuzzCase, modes: readonly FuzzMode[]): string {
  return [
    "// deno run -A THIS, in the project's folder",
    'import { runFuzzCase } from "./tests/support/fuzz.ts";',
    `const fuzz = ${JSON.stringify(fuzz, null, 1)} as const;`,
    `for (const mode of ${
      JSON.stringify(modes)
    } as const) console.log(JSON.stringify(mode), await runFuzzCase(fuzz, mode));`,
  ].join("\n");
}
