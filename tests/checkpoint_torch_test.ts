/** What flatstep saves torch loads and goes on with, and the other way: step by step the same numbers. */

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import * as optim from "../mod.ts";
import {
  type DType,
  load,
  loadModelStateDict,
  type LRScheduler,
  type ModelStateDict,
  Parameter,
  save,
  SparseTensor,
  type TypedArray,
} from "../mod.ts";
import { type AnyOptimizer, ROWS, SPARSE_ADAM, TENSOR_ROWS } from "./support/classes.ts";
import { hashNumbers, plain, typed } from "./support/golden.ts";
import { TinyModel } from "./support/models.ts";
import { ROOT, run as runCommand } from "./support/runtime.ts";
import { makeScheduler, rates, SCHEDULES, type Spec } from "./support/schedulers.ts";

const LIMIT = { timeout: 180_000 };
/** Steps here before the first checkpoint, there between both, and afterwards. */
const STEPS = 4;

/** What torch has saved when it had gone on from flatstep's checkpoint, and later; loaded. */
interface TorchSaved {
  // deno-lint-ignore no-explicit-any -- as load() gives it
  readonly torch: any;
  // deno-lint-ignore no-explicit-any -- as load() gives it
  readonly end: any;
}

type Shapes = readonly (readonly [name: string, dtype: DType, shape: readonly number[]])[];
/** The numbers of a tensor, as a checkpoint has it. */
interface Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TypedArray;
}

/** A case: saved here, gone on with there and here, compared. */
interface Case {
  readonly name: string;
  readonly file: string;
  /** What torch's side has to know of it. */
  readonly about: Record<string, unknown>;
  /** Trains, saves, and goes on beside torch. */
  begin(path: string): Promise<void>;
  /** Compares with what torch has saved, and goes on from that. */
  compare(saved: TorchSaved): void;
}

/** torch's shape of a run: what all steps' gradients are, or the function that is minimised. */
type Row = (Float32Array | Float64Array | { indices: number[][]; values: Float32Array } | null)[] | {
  curvatures: Float64Array[];
  targets: Float64Array[];
};

/**
 * How far a number may be from torch's: |got − want| <= atol + rtol · scale, as shared/golden/README.md has it. 2e-6 and 1e-12
 * are what different orders of operations come to in float32 and float64. The scale of a parameter's element is the largest
 * magnitude it has had, that of a state's the largest in its tensor: both are sums that can cancel.
 */
const RTOL: Record<string, number> = {
  float32: 2e-6,
  float64: 1e-12,
  // one unit in the last place: both compute in float32 and round once, and may be on two sides of a tie
  bfloat16: 2 ** -7,
  float16: 2 ** -10,
};

/** A checkpoint here, of an optimizer and its parameters. */
interface Saved {
  readonly model: Record<string, Tensor>;
  readonly optimizer: optim.StateDict;
}

const Classes = optim as unknown as Record<string, AnyOptimizer>;

/** Goes from here to torch and back with an optimizer. */
class OptimizerCase implements Case {
  readonly file: string;
  readonly about: Record<string, unknown>;
  readonly #make: () => { model: TinyModel; optimizer: optim.Optimizer };
  #initial: readonly Float64Array[] = [];
  #largest: readonly Float64Array[] = [];
  #beside: { model: TinyModel; optimizer: optim.Optimizer } | null = null;

  constructor(
    readonly name: string,
    optimizer: string,
    options: Record<string, unknown>,
    private readonly shapes: Shapes,
    private readonly rowAt: (step: number) => Row,
    /** For parameters alone; torch's Muon multiplies matrices in bfloat16. */
    private readonly atol = 0,
    private readonly rtol: Record<string, number> = RTOL,
  ) {
    this.file = name.replaceAll(/[^\w=.,-]/g, "_");
    const groups = optimizer !== "LBFGS";
    // torch's other implementations round 16 bits after each operation
    this.about = { kind: "optimizer", optimizer, groups, fused: shapes === HALVES };
    this.#make = () => {
      const params = shapes.map(([name, dtype, shape], i): [string, Parameter] => [
        name,
        new Parameter(typed(hashNumbers(i + 1, sizeOf(shape), 1), dtype), { dtype, shape: [...shape] }),
      ]);
      const input = groups ? params.map((pair) => ({ params: [pair] })) : params;
      return { model: new TinyModel(params), optimizer: new Classes[optimizer]!(input, options) };
    };
  }

  /** Takes steps, and keeps the largest magnitude that each element of the parameters has had. */
  #train(trainer: { model: TinyModel; optimizer: optim.Optimizer }, from: number, to: number): void {
    const { model, optimizer } = trainer;
    for (let step = from; step < to; step++) {
      const row = this.rowAt(step);
      if (!Array.isArray(row)) {
        optimizer.step(() => closure(model, row.curvatures, row.targets));
        this.#note(model);
        continue;
      }
      model.params.forEach(([, p], i) => {
        const grad = row[i]!;
        if (grad === null) p.grad = null;
        else if (ArrayBuffer.isView(grad)) p.grad = typed(grad, p.dtype);
        else p.grad = new SparseTensor(grad.indices, grad.values, [...p.shape]);
      });
      optimizer.step();
      this.#note(model);
    }
  }

  #note(model: TinyModel): void {
    this.#largest.forEach((largest, i) => {
      const [, p] = model.params[i]!;
      plain(p.data, p.dtype).forEach((x, k) => largest[k] = Math.max(largest[k]!, Math.abs(x)));
    });
  }

  async begin(path: string): Promise<void> {
    const trainer = this.#make(),
      rows = (from: number) => Array.from({ length: STEPS }, (_, k) => this.rowAt(from + k));
    this.#initial = trainer.model.params.map(([, p]) => plain(p.data.slice(), p.dtype));
    this.#largest = this.#initial.map((first) => first.map(Math.abs));
    this.#train(trainer, 0, STEPS);
    await save(path, { ...trainer, forTorch: rows(STEPS), afterwards: rows(2 * STEPS) });
    this.#train(trainer, STEPS, 2 * STEPS);
    this.#beside = trainer;
  }

  compare({ torch: middle, end }: { torch: Saved; end: Saved }): void {
    this.#compare(this.#beside!, middle, "torch, from flatstep's checkpoint");
    const back = this.#make();
    loadModelStateDict(back.model, middle.model as ModelStateDict);
    back.optimizer.loadStateDict(middle.optimizer);
    this.#train(back, 2 * STEPS, 3 * STEPS);
    this.#compare(back, end, "flatstep, from torch's checkpoint");
  }

  #compare({ model, optimizer }: { model: TinyModel; optimizer: optim.Optimizer }, theirs: Saved, what: string): void {
    model.params.forEach(([name, p], i) => {
      const ours = plain(p.data, p.dtype), want = plain(theirs.model[name]!.data, p.dtype), first = this.#initial[i]!;
      assertNear(ours, want, this.#largest[i]!, this.rtol[p.dtype]!, this.atol, `${what}: ${name}`);
      assert(want.some((x, k) => x !== first[k]), `${name} has not been trained`);
    });
    const mine = optimizer.stateDict(), state = theirs.optimizer.state as unknown as typeof mine.state;
    assertEquals(Object.keys(state).sort(), Object.keys(mine.state).sort(), `${what}: the parameters with state`);
    for (const [id, entry] of Object.entries(mine.state)) {
      for (const [key, value] of Object.entries(entry)) {
        this.#compareState(value, state[Number(id)]![key], this.shapes[Number(id)]![1], `${what}: state ${id}, ${key}`);
      }
    }
  }

  #compareState(ours: unknown, theirs: unknown, dtype: DType, what: string): void {
    if (ours === null || typeof ours === "boolean") return assertEquals(theirs, ours, what);
    if (Array.isArray(ours)) {
      assertEquals((theirs as unknown[])?.length, ours.length, `${what}: length`);
      return ours.forEach((value, i) => this.#compareState(value, (theirs as unknown[])[i], dtype, `${what}[${i}]`));
    }
    const [got, want] = [ours, theirs].map((value) =>
      typeof value === "number" ? Float64Array.of(value) : plain(value as TypedArray, dtype)
    ) as [Float64Array, Float64Array];
    const largest = want.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    assertNear(got, want, want.map(() => largest), this.rtol[dtype]!, 0, what);
  }
}

/** Σ c (w − t)² / 2 + w⁴ / 40, and its gradient. */
function closure(model: TinyModel, curvatures: readonly Float64Array[], targets: readonly Float64Array[]): number {
  let loss = 0;
  model.params.forEach(([, p], i) => {
    p.grad = Float64Array.from(p.data, (w, k) => {
      const c = curvatures[i]![k]!, error = w - targets[i]![k]!;
      loss += c * error * error / 2 + w * w * w * w / 40;
      return c * error + w * w * w / 10;
    });
  });
  return loss;
}

function assertNear(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  scale: ArrayLike<number>,
  rtol: number,
  atol: number,
  what: string,
): void {
  assertEquals(got.length, want.length, what);
  for (let i = 0; i < want.length; i++) {
    const far = Math.abs(got[i]! - want[i]!), allowed = atol + rtol * scale[i]!;
    assert(far <= allowed, `${what}[${i}] is ${got[i]}, torch's ${want[i]}: ${far} apart, allowed are ${allowed}`);
  }
}

/** An optimizer and its scheduler. */
interface Scheduled {
  readonly optimizer: optim.AnyOptimizer;
  readonly scheduler: LRScheduler;
}

/** Goes from here to torch and back with a scheduler. */
class SchedulerCase implements Case {
  readonly file: string;
  readonly about: Record<string, unknown>;
  #rates: number[] = [];

  constructor(readonly name: string, private readonly spec: Spec) {
    this.file = name;
    this.about = { kind: "scheduler", scheduler: spec, lr: LR, steps: STEPS };
  }

  #make(): Scheduled {
    const p = new Parameter(new Float64Array(1));
    p.grad = new Float64Array(1);
    const optimizer = new optim.SGD([p], { lr: LR, momentum: 0.9 });
    return { optimizer, scheduler: makeScheduler(this.spec, optimizer) };
  }

  #train({ optimizer, scheduler }: Scheduled, from: number): number[] {
    return Array.from({ length: STEPS }, (_, k) => {
      optimizer.step();
      if (scheduler instanceof optim.ReduceLROnPlateau) scheduler.step((from + k + 1) % 3);
      else scheduler.step();
      return rates(optimizer)[0]!;
    });
  }

  async begin(path: string): Promise<void> {
    const trainer = this.#make();
    this.#train(trainer, 0);
    await save(path, { ...trainer });
    this.#rates = this.#train(trainer, STEPS);
  }

  compare({ torch: middle, end }: TorchSaved): void {
    // learning rates are float64 arithmetic, equal to torch's to the last few bits
    assertNear(this.#rates, middle.rates, middle.rates, 1e-12, 0, "torch's rates, from flatstep's checkpoint");
    const back = this.#make();
    back.scheduler.loadStateDict(middle.scheduler);
    back.optimizer.loadStateDict(middle.optimizer);
    assertNear(
      this.#train(back, 2 * STEPS),
      end.rates,
      end.rates,
      1e-12,
      0,
      "flatstep's rates, from torch's checkpoint",
    );
  }
}

const LR = 0.1;

/** A module's parameters and buffers, there and back. */
class ModuleCase implements Case {
  readonly name = "a module's state dict";
  readonly file = "module";
  readonly about = { kind: "module" };

  #make(seed: number): TinyModel {
    const float = (k: number, n: number) => Float32Array.from(hashNumbers(seed + k, n, 1));
    const parameter = (k: number, ...shape: number[]) => new Parameter(float(k, sizeOf(shape)), { shape });
    return new TinyModel([
      ["0.weight", parameter(1, 4, 3)],
      ["0.bias", parameter(2, 4)],
      ["1.weight", parameter(3, 4)],
      ["1.bias", parameter(4, 4)],
      ["3.weight", parameter(5, 2, 4)],
      ["3.bias", parameter(6, 2)],
    ], [
      ["1.running_mean", float(7, 4)],
      ["1.running_var", float(8, 4).map(Math.abs)],
      ["1.num_batches_tracked", BigInt64Array.of(7n)],
    ]);
  }

  async begin(path: string): Promise<void> {
    await save(path, { model: this.#make(0) });
  }

  compare({ torch: { model } }: { torch: Saved }): void {
    const ours = this.#make(0), loaded = this.#make(100);
    loadModelStateDict(loaded, model as ModelStateDict);
    ours.params.forEach(([name, p], i) => {
      assertEquals([...loaded.params[i]![1].data], [...p.data].map((x) => 2 * x), `${name}, which torch doubled`);
    });
    const [mean, , count] = loaded.buffers.map(([, buffer]) => buffer) as [Float32Array, Float32Array, BigInt64Array];
    assertEquals([...count], [8n], "the batches that torch counted");
    assert(mean.some((x, i) => x !== (ours.buffers[0]![1] as Float32Array)[i]), "torch's batch changed the statistics");
  }
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

const BOTH: Shapes = [["weight", "float32", [3, 5]], ["double", "float64", [4]], ["late", "float32", [2]]];
const HALVES: Shapes = [["brain", "bfloat16", [7]], ["half", "float16", [2, 3]], ["late", "bfloat16", [2]]];
const MATRICES: Shapes = [["weight", "float32", [4, 3]], ["late", "float32", [2, 2]]];
const TABLES: Shapes = [["table", "float32", [6, 3]], ["late", "float32", [4, 2]]];
const DOUBLES: Shapes = [["weight", "float64", [3, 2]], ["bias", "float64", [3]]];

/** Gradients of a step; that of "late" comes later than the first checkpoint. */
const dense = (shapes: Shapes) => (step: number): Row =>
  shapes.map(([name, dtype, shape], i) => {
    if (name === "late" && step <= STEPS) return null;
    const grad = hashNumbers(100 * step + i + 1, sizeOf(shape), 1);
    return dtype === "float64" ? grad : Float32Array.from(grad);
  });

const sparse = (shapes: Shapes) => (step: number): Row =>
  shapes.map(([, , [rows, width]], i) => ({
    indices: [[step % rows!, (step + 2) % rows!, step % rows!]], // one of them twice
    values: Float32Array.from(hashNumbers(100 * step + i + 1, 3 * width!, 1)),
  }));

const minimised = (shapes: Shapes) => (): Row => ({
  curvatures: shapes.map(([, , shape], i) => hashNumbers(50 + i, sizeOf(shape), 4).map((c) => 0.01 + c * c)),
  targets: shapes.map(([, , shape], i) => hashNumbers(60 + i, sizeOf(shape), 2)),
});

const inWords = (options: Record<string, unknown>) =>
  Object.entries(options).map(([key, value]) => ` ${key}=${String(value)}`).join("");

function* allCases(): Generator<Case> {
  for (const { name, variants } of ROWS) {
    for (const options of variants) {
      // 1 − β2^t and RAdam's length of the moving average each cancel nearly four digits with this β2
      const rtol = name === "RAdam" && String(options["betas"]) === "0.8,0.9999" ? { ...RTOL, float64: 1e-9 } : RTOL;
      yield new OptimizerCase(`${name}${inWords(options)}`, name, options, BOTH, dense(BOTH), 0, rtol);
    }
  }
  for (const name of ["Adam", "AdamW"]) {
    const options = { lr: 0.1, weightDecay: 0.1 };
    yield new OptimizerCase(`${name} in 16 bits`, name, options, HALVES, dense(HALVES));
  }
  for (const { name, variants } of TENSOR_ROWS) {
    const shapes = name === "Muon" ? MATRICES : BOTH;
    for (const { maximize, ...options } of variants) {
      // torch's Muon has no maximize
      const all = name === "Muon" || maximize === undefined ? options : { ...options, maximize };
      // torch iterates in bfloat16, which takes an update of the size of lr some hundredths from the exact one
      const atol = name === "Muon" ? 0.1 * ((options["lr"] as number | undefined) ?? 1e-3) * STEPS : 0;
      yield new OptimizerCase(`${name}${inWords(all)}`, name, all, shapes, dense(shapes), atol);
    }
  }
  for (const { maximize: _, ...options } of SPARSE_ADAM.variants) {
    yield new OptimizerCase(`SparseAdam${inWords(options)}`, "SparseAdam", options, TABLES, sparse(TABLES));
  }
  yield new OptimizerCase("Adagrad with sparse gradients", "Adagrad", { lr: 0.1 }, TABLES, sparse(TABLES));
  for (const lineSearchFn of [null, "strong_wolfe"]) {
    const options = { lr: 0.5, maxIter: 2, historySize: 4, lineSearchFn };
    // quasi-Newton steps divide by differences of gradients, which multiplies the last places' differences
    const rtol = { float64: 1e-9 };
    yield new OptimizerCase(`LBFGS${inWords(options)}`, "LBFGS", options, DOUBLES, minimised(DOUBLES), 0, rtol);
  }
  for (const spec of SCHEDULES) yield new SchedulerCase(spec.type, spec);
  yield new ModuleCase();
}

const CASES = [...allCases()];

/** Runs a program of torch's: the lines that it prints, or why it cannot run here. */
async function runPython(...args: string[]): Promise<{ lines: string[] } | { skipped: string }> {
  const python = process.platform === "win32" ? "python" : "python3";
  const ended = await runCommand(python, args).catch((error: Error) => error);
  if (ended instanceof Error) return { skipped: `${python} cannot be started: ${ended.message}` };
  if (ended.code === 3) return { skipped: `torch is not installed: ${ended.stdout.trim()}` };
  assertEquals(ended.code, 0, ended.stderr);
  return { lines: ended.stdout.trim().split("\n") };
}

/** How it went with a case: what torch has saved, or what went wrong. */
type Went = TorchSaved | { problem: string };

/** Goes to torch with all cases; or why nothing could be tried. */
async function goAll(): Promise<Map<string, Went> | { skipped: string }> {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-torch-")), went = new Map<string, Went>();
  const pathOf = ({ file }: Case, stage: string) => join(folder, `${file}.${stage}.pt`);
  const attempt = async (one: Case, what: string, body: () => Promise<void>) => {
    try {
      await body();
    } catch (error) {
      went.set(one.name, { problem: `${what}: ${(error as Error).stack}` });
    }
  };
  try {
    for (const one of CASES) await attempt(one, "not saved", () => one.begin(pathOf(one, "flatstep")));
    const listed = CASES.filter(({ name }) => !went.has(name)).map(({ name, file, about }) => ({
      name,
      file,
      ...about,
    }));
    writeFileSync(join(folder, "cases.json"), JSON.stringify(listed));
    const printed = await runPython("tests/support/torch_side.py", folder);
    if ("skipped" in printed) return printed;
    for (const line of printed.lines.slice(1)) {
      const { name, problem } = JSON.parse(line) as { name: string; problem: string | null };
      if (problem !== null) went.set(name, { problem: `in torch: ${problem}` });
    }
    for (const one of CASES.filter(({ name }) => !went.has(name))) {
      await attempt(one, "not loaded", async () => {
        const end = pathOf(one, "end");
        went.set(one.name, {
          torch: await load(pathOf(one, "torch")),
          end: existsSync(end) ? await load(end) : null,
        });
      });
    }
    return went;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

let all: ReturnType<typeof goAll> | undefined;

for (const one of CASES) {
  test(`${one.name}: goes on in torch from a checkpoint of flatstep's, and back`, LIMIT, async () => {
    const found = await (all ??= goAll());
    if ("skipped" in found) return console.log(`skipped: ${found.skipped}`);
    const went = found.get(one.name)!;
    if ("problem" in went) throw new Error(went.problem);
    one.compare(went);
  });
}

test("examples/resume_from_pytorch.ts has the losses of torch's own continuation", LIMIT, async () => {
  const printed = await runPython("examples/resume_from_pytorch.py");
  if ("skipped" in printed) return console.log(`skipped: ${printed.skipped}`);
  const theirs = JSON.parse(printed.lines[0]!) as number[];
  const source = readFileSync(join(ROOT, "examples", "resume_from_pytorch.ts"), "utf8");
  const written = JSON.parse(/IN_PYTORCH = (\[[^\]]*)\]/.exec(source)![1]!.replace(/,\s*$/, "]")) as number[];
  // torch computes in float32, in another order on other processors
  assertNear(written, theirs, theirs, 1e-5, 0, "the losses");
});
