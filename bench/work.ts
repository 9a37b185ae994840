/**
 * What is timed: a rule over a shape set in every implementation, as a plain loop, and its traffic limit, all of them over the
 * very same arrays.
 *
 * The traffic limit is the rule's twin in csrc/rules/traffic.h, which reads and writes the same buffers and does next to
 * nothing with them. It is in the library that `deno run -A ffi/build.ts --bench` makes, which is therefore the one used here.
 *
 * @module
 */

import process from "node:process";
import type { Job, Rule } from "../ffi/backend.ts";
import { build, hostTarget } from "../ffi/build.ts";
import { bestBackend } from "../ffi/load.ts";
import { NativeJob } from "../ffi/native.ts";
import {
  Adadelta,
  Adagrad,
  Adam,
  Adamax,
  AdamW,
  ASGD,
  type DType,
  type ElementwiseOptions,
  getNumThreads,
  NAdam,
  type Parameter,
  type ParameterState,
  RAdam,
  RMSprop,
  Rprop,
  SGD,
  type StepOptions,
  type TypedArray,
} from "../mod.ts";
import { stateOf } from "../src/optim/optimizer.ts";
import { elementsOf, makeParameters, setNewGradients, SHAPE_SETS, type ShapeSet } from "./shapes.ts";

// read when the library is first used, which is later
process.env["FLATSTEP_LIBRARY"] ??= build(hostTarget(), { bench: true, log: console.error });

/** What is used of an optimizer. */
export interface Stepping {
  readonly state: Map<Parameter, ParameterState>;
  readonly paramGroups: readonly { lr: number }[];
  step(closure?: null, options?: StepOptions): unknown;
  step(closure: () => number, options?: StepOptions): unknown;
}

/** A tensor's arrays in the order of its rule's buffers: parameter, gradient, state. */
type Arrays = readonly Float32Array[];

interface Recipe {
  make(params: Parameter[], options: ElementwiseOptions): Stepping;
  /** The state's tensors, in the order of the rule's buffers. */
  readonly state: readonly string[];
  /** The name of the rule's twin. */
  readonly twin: string;
  /** The update as a user would write it; for some rules only. */
  plain?(tensors: readonly Arrays[]): () => void;
}

const LR = 1e-3, BETA1 = 0.9, BETA2 = 0.999, EPS = 1e-8, MOMENTUM = 0.9;

function plainAdam(decay: number): (tensors: readonly Arrays[]) => () => void {
  return (tensors) => {
    let t = 0;
    return () => {
      t++;
      const correction1 = 1 - BETA1 ** t, correction2 = 1 - BETA2 ** t;
      for (
        const [param, grad, m, v] of tensors as readonly [Float32Array, Float32Array, Float32Array, Float32Array][]
      ) {
        for (let i = 0; i < param.length; i++) {
          const g = grad[i]!;
          m[i] = BETA1 * m[i]! + (1 - BETA1) * g;
          v[i] = BETA2 * v[i]! + (1 - BETA2) * g * g;
          param[i] = param[i]! * (1 - LR * decay) - LR * (m[i]! / correction1) / (Math.sqrt(v[i]! / correction2) + EPS);
        }
      }
    };
  };
}

function plainMomentum(tensors: readonly Arrays[]): () => void {
  return () => {
    for (const [param, grad, buffer] of tensors as readonly [Float32Array, Float32Array, Float32Array][]) {
      for (let i = 0; i < param.length; i++) {
        buffer[i] = MOMENTUM * buffer[i]! + grad[i]!;
        param[i] = param[i]! - LR * buffer[i]!;
      }
    }
  };
}

/** A rule with two state tensors: param, grad and both read, all but the gradient written: 28 bytes an element. */
const two = (make: Recipe["make"], ...state: [string, string]): Recipe => ({ make, state, twin: "traffic_adam" });
/** A rule with one state tensor: 20 bytes an element. */
const one = (make: Recipe["make"], state: string): Recipe => ({ make, state: [state], twin: "traffic_momentum" });

/** The rules that are timed. */
export const RECIPES = {
  "AdamW": {
    make: (params, options) => new AdamW(params, { lr: LR, ...options }),
    state: ["expAvg", "expAvgSq"],
    twin: "traffic_adam",
    plain: plainAdam(1e-2),
  },
  "Adam": {
    make: (params, options) => new Adam(params, { lr: LR, ...options }),
    state: ["expAvg", "expAvgSq"],
    twin: "traffic_adam",
    plain: plainAdam(0),
  },
  "SGD+momentum": {
    make: (params, options) => new SGD(params, { lr: LR, momentum: MOMENTUM, ...options }),
    state: ["momentumBuffer"],
    twin: "traffic_momentum",
    plain: plainMomentum,
  },
  "SGD": { make: (params, options) => new SGD(params, { lr: LR, ...options }), state: [], twin: "traffic_sgd" },
  "Adamax": two((params, options) => new Adamax(params, { lr: LR, ...options }), "expAvg", "expInf"),
  "NAdam": two((params, options) => new NAdam(params, { lr: LR, ...options }), "expAvg", "expAvgSq"),
  "RAdam": two((params, options) => new RAdam(params, { lr: LR, ...options }), "expAvg", "expAvgSq"),
  "Adadelta": two((params, options) => new Adadelta(params, { lr: LR, ...options }), "squareAvg", "accDelta"),
  "Rprop": two((params, options) => new Rprop(params, { lr: LR, ...options }), "prev", "stepSize"),
  "Adagrad": one((params, options) => new Adagrad(params, { lr: LR, ...options }), "sum"),
  "RMSprop": one((params, options) => new RMSprop(params, { lr: LR, ...options }), "squareAvg"),
  "ASGD": one((params, options) => new ASGD(params, { lr: LR, ...options }), "ax"),
} as const satisfies Record<string, Recipe>;

/** A rule's name. */
export type RuleName = keyof typeof RECIPES;

/** All names. */
export const RULE_NAMES = Object.keys(RECIPES) as RuleName[];

/** Those that are timed unless others are asked for. */
export const MAIN_RULES: readonly RuleName[] = ["AdamW", "Adam", "SGD+momentum"];

/** A rule over a shape set. Each function is one step; all of them work on the same arrays. */
export class Work {
  /** The number of tensors. */
  readonly tensors: number;
  /** Bytes that a step has to read and write: all buffers are read, all but the gradient written. */
  readonly bytes: number;
  /** The optimizer that `fused` steps. */
  readonly optimizer: Stepping;
  /** `optimizer.step()`, everything in one native call. */
  readonly fused: () => void;
  /** `optimizer.step()`, one native call a group. */
  readonly foreach: () => void;
  /** `optimizer.step()` in TypeScript. */
  readonly forLoop: () => void;
  /** The plain loop, where there is one. */
  readonly plain: (() => void) | null;
  /** The traffic limit: the twin in C. */
  readonly limit: () => void;
  /** The native call that is inside `fused`, alone. */
  readonly native: () => void;
  readonly #params: Parameter[];

  /** Makes the arrays, and takes the first step, which makes the state. */
  constructor(rule: RuleName, set: ShapeSet) {
    const recipe: Recipe = RECIPES[rule], params = this.#params = makeParameters(SHAPE_SETS[set]);
    setNewGradients(params);
    this.tensors = params.length;
    this.bytes = elementsOf(SHAPE_SETS[set]) * 4 * (3 + 2 * recipe.state.length);

    const backend = bestBackend(), threads = getNumThreads();
    const fused = this.optimizer = recipe.make(params, { fused: true });
    const jobs = jobsOf(() => fused.step()), states = stateOf(fused); // reading `state` is what a training loop does not do
    warmUp(() => void fused.step(), jobs);
    const sharing = (options: ElementwiseOptions) => {
      const optimizer = recipe.make(params, options);
      for (const [p, state] of states) optimizer.state.set(p, { ...state });
      return () => void optimizer.step();
    };
    this.fused = () => void fused.step();
    this.native = () => backend.run(jobs, threads);
    this.foreach = sharing({ foreach: true });
    this.forLoop = sharing({ foreach: false, fused: false });

    const arrays = params.map((p) =>
      [p.data, p.grad!, ...recipe.state.map((key) => states.get(p)![key])] as Arrays[number][]
    );
    this.plain = recipe.plain?.(arrays) ?? null;
    const twin = [twinJob(recipe, "float32", arrays)];
    this.limit = () => {
      backend.wake(); // as a step does
      backend.run(twin, threads);
    };
  }

  /** Gives every parameter another gradient array. */
  newGradients(): void {
    setNewGradients(this.#params);
  }
}

/** Milliseconds; so long steps are made at most before anything is timed. */
const LONGEST_WARM_UP_MS = 15_000;

/**
 * Steps until large parameters and gradients have huge pages: the first seconds of a run, in which a 32nd of all time goes into that. It
 * would count for the contender alone that happens to step, which is at work a fifth of the time.
 */
function warmUp(step: () => void, jobs: readonly Job[]): void {
  const end = performance.now() + LONGEST_WARM_UP_MS;
  while (jobs.some((job) => job instanceof NativeJob && job.settling) && performance.now() < end) step();
}

/** The jobs that a step hands to the backend: listens in while it runs. */
function jobsOf(step: () => void): readonly Job[] {
  const backend = bestBackend(), run = backend.run.bind(backend);
  let seen: readonly Job[] = [];
  backend.run = (jobs, threads) => {
    seen = [...jobs];
    run(jobs, threads);
  };
  try {
    step();
  } finally {
    delete (backend as { run?: unknown }).run; // the method of the class again
  }
  return seen;
}

/** A job of a rule's twin over tensors' arrays, which are in the order of the rule's buffers. */
export function twinJob(recipe: Recipe, dtype: DType, arrays: readonly (readonly TypedArray[])[]): Job {
  const rule: Rule = {
    name: recipe.twin,
    buffers: ["param:rw", "grad:r", ...recipe.state.map((key) => `${key}:rw`)],
    hypers: ["gradSign"],
    flags: [],
    body() {
      throw new Error("the traffic limit exists in C only");
    },
  };
  const job = bestBackend().createJob(rule, dtype, arrays.length);
  arrays.forEach((buffers, row) => {
    job.setLength(row, buffers[0]!.length);
    buffers.forEach((array, k) => job.bind(row, k, array));
  });
  job.bindHypers(Float64Array.of(1), 1);
  return job;
}
