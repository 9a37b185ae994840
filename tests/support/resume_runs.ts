/**
 * Training runs that are saved half-way and go on elsewhere: every optimizer, each with a scheduler and an average. Their
 * gradients are formulas of + − × alone, so that every runtime computes the same bits.
 *
 * @module
 */

import * as optim from "../../mod.ts";
import {
  AveragedModel,
  type DType,
  getEmaMultiAvgFn,
  load,
  loadModelStateDict,
  type LRScheduler,
  type ModelStateDict,
  Parameter,
  save,
  SparseTensor,
} from "../../mod.ts";
import { type AnyOptimizer, ROWS, SPARSE_ADAM, TENSOR_ROWS } from "./classes.ts";
import { hashNumbers, plain, typed } from "./golden.ts";
import { TinyModel } from "./models.ts";
import { makeScheduler, SCHEDULES } from "./schedulers.ts";

/** The steps before a checkpoint, and those of the whole run. */
export const SAVED_AT = 4, STEPS = 9;
/** The formats. */
export const FORMATS = ["safetensors", "pt"] as const;

/** A run's parameters: name, dtype, shape. */
type Shapes = readonly (readonly [name: string, dtype: DType, shape: readonly number[]])[];

/** How a run's parameters get their gradients. */
type Gradients = "dense" | "sparse" | "closure";

/** A training run. */
export interface Run {
  /** Optimizer and options, in words; good as a file's name. */
  readonly name: string;
  /** Makes everything anew, as a program does when it starts. */
  make(): Trainer;
}

const MIXED: Shapes = [
  ["weight", "float32", [3, 5]],
  ["late", "float32", [2]],
  ["double", "float64", [4]],
  ["brain", "bfloat16", [7]],
  ["half", "float16", [2, 3]],
];
const MATRICES: Shapes = [["weight", "float32", [4, 3]], ["late", "float32", [2, 2]], ["double", "float64", [3, 5]]];
const TABLES: Shapes = [["table", "float32", [6, 3]], ["late", "float32", [4, 2]]];
const ONE_DTYPE: Shapes = [["weight", "float64", [3, 2]], ["bias", "float64", [3]]];

/** Averages, one for each run in turn. */
const AVERAGES = [
  {},
  { multiAvgFn: getEmaMultiAvgFn(0.9), useBuffers: true },
  { multiAvgFn: getEmaMultiAvgFn(0.99, { warmup: true }) },
];

/** What a checkpoint of a run holds. */
interface Saved {
  readonly model: ModelStateDict;
  readonly optimizer: optim.StateDict;
  readonly scheduler: optim.SchedulerStateDict;
  readonly averaged: optim.AveragedStateDict;
  readonly step: number;
}

/** A program that trains. */
export class Trainer {
  readonly model: TinyModel;
  readonly optimizer: optim.Optimizer;
  readonly scheduler: LRScheduler;
  readonly averaged: AveragedModel<TinyModel>;
  /** The steps taken. */
  step = 0;
  readonly #mean = new Float32Array(4);
  readonly #counts = new Int32Array(2);

  constructor(
    shapes: Shapes,
    readonly gradients: Gradients,
    make: AnyOptimizer,
    options: Record<string, unknown>,
    number: number,
  ) {
    const params = shapes.map(([name, dtype, shape], i): [string, Parameter] => {
      const values = hashNumbers(i + 1, shape.reduce((a, b) => a * b, 1), 1);
      return [name, new Parameter(typed(values, dtype), { dtype, shape: [...shape], name })];
    });
    this.model = new TinyModel(params, [["mean", this.#mean], ["counts", this.#counts]]);
    // a group of its own for the second parameter, where the optimizer can have that
    const groups = gradients === "closure" ? [{ params }] : [
      { params: params.filter((_, i) => i !== 1) },
      { params: params.slice(1, 2), ...("lr" in options ? { lr: options["lr"] as number / 2 } : {}) },
    ];
    this.optimizer = new make(groups, options);
    const spec = SCHEDULES[number % SCHEDULES.length]!, defaults = this.optimizer.defaults as Record<string, unknown>;
    const momentum = Boolean(defaults["momentum"] ?? defaults["betas"]);
    const more = ["CyclicLR", "OneCycleLR"].includes(spec.type) ? { cycleMomentum: momentum } : {};
    this.scheduler = makeScheduler({ ...spec, options: { ...spec.options, ...more } }, this.optimizer);
    this.averaged = new AveragedModel(this.model, AVERAGES[number % AVERAGES.length]);
  }

  /** Trains until so many steps have been taken. */
  trainTo(steps: number): void {
    while (this.step < steps) {
      const t = ++this.step;
      if (this.gradients === "closure") {
        this.optimizer.step(() => this.#closure());
      } else {
        this.model.params.forEach(([name, p], i) => p.grad = this.#gradient(name, p, 100 * t + i));
        this.optimizer.step();
      }
      this.#mean.forEach((m, i) => this.#mean[i] = m + 0.1 * (t + i - m));
      this.#counts[0]!++;
      const { scheduler } = this;
      if (scheduler instanceof optim.ReduceLROnPlateau) scheduler.step(t % 3);
      else scheduler.step();
      this.averaged.updateParameters(this.model);
    }
  }

  /** A gradient for one step: none at first where the parameter is late. */
  #gradient(name: string, p: Parameter, seed: number): Parameter["grad"] {
    if (name === "late" && this.step <= SAVED_AT + 1) return null;
    const noise = hashNumbers(seed, p.size, 1);
    if (this.gradients === "sparse") {
      const [rows, width] = p.shape as readonly [number, number], first = this.step % rows;
      const indices = [[first, (first + 2) % rows, first]]; // one of them twice
      return new SparseTensor(indices, Float32Array.from(noise.subarray(0, 3 * width)), [rows, width]);
    }
    return typed(plain(p.data, p.dtype).map((w, i) => 0.25 * w + noise[i]!), p.dtype);
  }

  /** Σ c (w − t)² / 2 + w⁴ / 40 */
  #closure(): number {
    let loss = 0;
    this.model.params.forEach(([, p], i) => {
      const curvature = hashNumbers(50 + i, p.size, 1), target = hashNumbers(60 + i, p.size, 2);
      p.grad = typed(
        plain(p.data, p.dtype).map((w, k) => {
          const c = 1.5 + curvature[k]!, error = w - target[k]!;
          loss += c * error * error / 2 + w * w * w * w / 40;
          return c * error + w * w * w / 10;
        }),
        p.dtype,
      );
    });
    return loss;
  }

  /** Saves a checkpoint. */
  async save(path: string): Promise<void> {
    const { model, optimizer, scheduler, averaged, step } = this;
    await save(path, { model, optimizer, scheduler, averaged, step });
  }

  /** Takes over a checkpoint. */
  async load(path: string): Promise<void> {
    const saved = await load(path) as Saved;
    loadModelStateDict(this.model, saved.model);
    this.scheduler.loadStateDict(saved.scheduler);
    this.optimizer.loadStateDict(saved.optimizer);
    this.averaged.loadStateDict(saved.averaged);
    this.step = saved.step;
  }

  /** Every bit of the run, by name. */
  bits(): Record<string, string> {
    const { model, optimizer, scheduler, averaged, step } = this;
    const entries = {
      step,
      parameters: Object.fromEntries(model.params.map(([name, { data }]) => [name, data])),
      buffers: Object.fromEntries(model.buffers),
      optimizer: optimizer.stateDict(),
      scheduler: scheduler.stateDict(),
      averaged: averaged.stateDict(),
    };
    const found: Record<string, string> = {};
    collect("", entries, found);
    return found;
  }
}

/** Writes down what a value holds, bit by bit. */
function collect(name: string, value: unknown, found: Record<string, string>): void {
  if (typeof value === "number") {
    found[name] = `${value} ${hex(Float64Array.of(value))}`;
  } else if (ArrayBuffer.isView(value)) {
    found[name] = `${value.constructor.name} ${hex(value)}`;
  } else if (typeof value === "object" && value !== null) {
    for (const [key, inner] of Object.entries(value)) collect(name === "" ? key : `${name}.${key}`, inner, found);
    if (Array.isArray(value)) found[`${name}.length`] = String(value.length);
  } else {
    found[name] = String(value);
  }
}

function hex(array: ArrayBufferView): string {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Options in a run's name: `lr=0.1 betas=0.3,0.99`. */
const inWords = (options: Record<string, unknown>) =>
  Object.entries(options).map(([key, value]) => ` ${key}=${String(value)}`).join("");

const Classes = optim as unknown as Record<string, AnyOptimizer>;

function* allRuns(): Generator<Run> {
  let number = 0;
  const run = (name: string, shapes: Shapes, gradients: Gradients, what: string, options: Record<string, unknown>) => {
    const own = number++;
    return { name, make: () => new Trainer(shapes, gradients, Classes[what]!, options, own) };
  };
  for (const { name, variants } of ROWS) {
    for (const options of variants) yield run(`${name}${inWords(options)}`, MIXED, "dense", name, options);
  }
  for (const { name, variants } of TENSOR_ROWS) {
    const shapes = name === "Muon" ? MATRICES : MIXED;
    for (const options of variants) yield run(`${name}${inWords(options)}`, shapes, "dense", name, options);
  }
  for (const options of SPARSE_ADAM.variants) {
    yield run(`SparseAdam${inWords(options)}`, TABLES, "sparse", "SparseAdam", options);
  }
  yield run("SGD with sparse gradients", TABLES, "sparse", "SGD", { lr: 0.1, momentum: 0.9 });
  yield run("Adagrad with sparse gradients", TABLES, "sparse", "Adagrad", { lr: 0.1 });
  const searching = { lr: 0.5, maxIter: 3 };
  for (const lineSearchFn of [null, "strong_wolfe", "hager_zhang"]) {
    const options = { ...searching, historySize: 4, lineSearchFn };
    yield run(`LBFGS${inWords(options)}`, ONE_DTYPE, "closure", "LBFGS", options);
  }
  for (const options of [{}, { lineSearchFn: "hager_zhang" }, { curvature: "damp", scaleInit: false }]) {
    yield run(`BFGS${inWords(options)}`, ONE_DTYPE, "closure", "BFGS", { ...searching, ...options });
  }
}

/** Every optimizer, in every variant that has a state of its own kind. */
export const RUNS: readonly Run[] = [...allRuns()];

/** The file of a run's checkpoint. */
export const fileOf = (run: Run, format: string): string => `${run.name.replaceAll(/[^\w=.,-]/g, "_")}.${format}`;
