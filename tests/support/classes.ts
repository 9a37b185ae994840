/**
 * The table that the table-driven tests go through: a row an optimizer. A new optimizer is a row here.
 *
 * @module
 */

import * as optim from "../../mod.ts";
import type { Rule } from "../../ffi/backend.ts";
import { ADADELTA_RULE } from "../../src/optim/adadelta.ts";
import { ADAGRAD_RULE } from "../../src/optim/adagrad.ts";
import { ADAM_RULE } from "../../src/optim/adam.ts";
import { ADAMAX_RULE } from "../../src/optim/adamax.ts";
import { ASGD_RULE } from "../../src/optim/asgd.ts";
import { NADAM_RULE } from "../../src/optim/nadam.ts";
import { RADAM_RULE } from "../../src/optim/radam.ts";
import { RMSPROP_RULE } from "../../src/optim/rmsprop.ts";
import { RPROP_RULE } from "../../src/optim/rprop.ts";
import { SGD_RULE } from "../../src/optim/sgd.ts";
import { jsBackend } from "../../ffi/js.ts";
import { bestBackend } from "../../ffi/load.ts";
import { ADAFACTOR_SCHEMA, ADAFACTOR_UPDATE } from "../../src/optim/adafactor.ts";
import { MUON_SCHEMA, MUON_UPDATE } from "../../src/optim/muon.ts";
import { TensorwiseOptimizer } from "../../src/optim/tensorwise.ts";
import { ElementwiseOptimizer } from "../../src/optim/elementwise.ts";
import { choice } from "../../src/optim/options.ts";
import { SPARSE_ADAM_SCHEMA, SPARSE_ADAM_UPDATE } from "../../src/optim/sparse_adam.ts";

/** Any optimizer's constructor, as the tests call it. */
export type AnyOptimizer = new (params: Iterable<unknown>, options?: Record<string, unknown>) => optim.Optimizer;

/** An optimizer for the table-driven tests. */
export interface Row {
  readonly name: string;
  readonly make: AnyOptimizer;
  readonly rule: Rule;
  /** Options under which implementations are compared bit for bit. */
  readonly variants: readonly Record<string, unknown>[];
}

type Name =
  | "SGD"
  | "Adam"
  | "AdamW"
  | "Adamax"
  | "NAdam"
  | "RAdam"
  | "Adagrad"
  | "Adadelta"
  | "RMSprop"
  | "Rprop"
  | "ASGD";

const row = (name: Name, rule: Rule, variants: Record<string, unknown>[]): Row => ({
  name,
  make: optim[name] as unknown as AnyOptimizer,
  rule,
  variants,
});

/** Every elementwise optimizer. */
export const ROWS: readonly Row[] = [
  row("SGD", SGD_RULE, [
    { lr: 0.1 },
    { lr: 0.1, weightDecay: 0.3, maximize: true },
    { lr: 0.1, momentum: 0.9 },
    { lr: 0.1, momentum: 0.9, dampening: 0.5, weightDecay: 0.1 },
    { lr: 0.1, momentum: 0.9, nesterov: true },
    { lr: 0.1, momentum: 0.9, nesterov: true, weightDecay: 0.1, maximize: true },
  ]),
  row("Adam", ADAM_RULE, [
    { lr: 0.1 },
    { lr: 0.1, betas: [0.3, 0.99], weightDecay: 0.1, maximize: true },
    { lr: 0.1, amsgrad: true },
    { lr: 0.1, amsgrad: true, weightDecay: 0.1, betas: [0, 0] },
    { lr: 0.1, eps: 0 },
  ]),
  row("AdamW", ADAM_RULE, [{ lr: 0.1 }, { lr: 0.1, amsgrad: true, maximize: true }]),
  row("Adamax", ADAMAX_RULE, [{ lr: 0.1 }, { lr: 0.1, weightDecay: 0.1, betas: [0.2, 0.9], maximize: true }]),
  row("NAdam", NADAM_RULE, [
    { lr: 0.1 },
    { lr: 0.1, weightDecay: 0.1, momentumDecay: 0.1 },
    { lr: 0.1, weightDecay: 0.1, decoupledWeightDecay: true, maximize: true },
  ]),
  row("RAdam", RADAM_RULE, [
    { lr: 0.1 },
    { lr: 0.1, betas: [0.8, 0.9999], weightDecay: 0.1, maximize: true },
    { lr: 0.1, betas: [0.8, 0.5], weightDecay: 0.1, decoupledWeightDecay: true },
  ]),
  row("Adagrad", ADAGRAD_RULE, [{ lr: 0.1 }, {
    lr: 0.1,
    lrDecay: 0.1,
    weightDecay: 0.1,
    initialAccumulatorValue: 0.3,
    maximize: true,
  }]),
  row("Adadelta", ADADELTA_RULE, [{}, { lr: 0.5, rho: 0.5, weightDecay: 0.1, maximize: true }]),
  row("RMSprop", RMSPROP_RULE, [
    {},
    { weightDecay: 0.1, momentum: 0.9, maximize: true },
    { centered: true, alpha: 0.4 },
    { centered: true, momentum: 0.5, weightDecay: 0.1 },
  ]),
  row("Rprop", RPROP_RULE, [{}, { lr: 0.3, etas: [0.3, 2], stepSizes: [1e-3, 0.5], maximize: true }]),
  row("ASGD", ASGD_RULE, [{}, { lr: 0.1, lambd: 0.3, alpha: 0.5, t0: 1, weightDecay: 0.1, maximize: true }]),
];

/** SparseAdam with the options that choose an implementation, which it does not have itself. */
class AnySparseAdam extends ElementwiseOptimizer<optim.SparseAdamOptions> {
  constructor(params: optim.ParamsInput<optim.SparseAdamOptions>, options?: optim.SparseAdamOptions) {
    const schema = { ...SPARSE_ADAM_SCHEMA, foreach: choice, fused: choice };
    super(params, options, "SparseAdam", { schema, update: SPARSE_ADAM_UPDATE });
  }
}

/** SparseAdam: it takes no dense gradients, and so stands beside the table. */
export const SPARSE_ADAM: Row = {
  name: "SparseAdam",
  make: AnySparseAdam as unknown as AnyOptimizer,
  rule: ADAM_RULE,
  variants: [{ lr: 0.1 }, { lr: 0.1, betas: [0.3, 0.99], eps: 1e-3, maximize: true }],
};

/** Adafactor with both options that choose an implementation; it has one of them itself. */
class AnyAdafactor extends TensorwiseOptimizer<optim.AdafactorOptions> {
  constructor(params: optim.ParamsInput<optim.AdafactorOptions>, options?: optim.AdafactorOptions) {
    super(params, options, { ...ADAFACTOR_SCHEMA, fused: choice } as typeof ADAFACTOR_SCHEMA, ADAFACTOR_UPDATE);
  }
}

type Chosen = optim.MuonOptions & { foreach?: boolean | null; fused?: boolean | null };

/** Muon with the options that choose an implementation, which it does not have itself. */
class AnyMuon extends TensorwiseOptimizer<Chosen> {
  constructor(params: optim.ParamsInput<Chosen>, options?: Chosen) {
    super(params, options, { ...MUON_SCHEMA, foreach: choice, fused: choice }, {
      ...MUON_UPDATE,
      backend: ({ foreach, fused }) => foreach === false && fused === false ? jsBackend : bestBackend(),
    });
  }
}

/** An optimizer whose rule looks at a whole tensor. */
export interface TensorRow {
  readonly name: "Adafactor" | "Muon";
  /** The class, with `foreach` and `fused`. */
  readonly make: AnyOptimizer;
  /** The class as users have it. */
  readonly real: AnyOptimizer;
  /** Options under which implementations are compared bit for bit. */
  readonly variants: readonly Record<string, unknown>[];
}

/** The optimizers whose rule looks at a whole tensor: their state has other shapes, and stands beside the table. */
export const TENSOR_ROWS: readonly TensorRow[] = [
  {
    name: "Adafactor",
    make: AnyAdafactor as unknown as AnyOptimizer,
    real: optim.Adafactor as unknown as AnyOptimizer,
    variants: [
      {},
      { lr: 0.3, beta2Decay: -0.3, eps: [1e-4, 1e-2], d: 1.5, weightDecay: 0.1, maximize: true },
      { eps: [0, 0] },
    ],
  },
  {
    name: "Muon",
    make: AnyMuon as unknown as AnyOptimizer,
    real: optim.Muon as unknown as AnyOptimizer,
    variants: [
      {},
      { lr: 0.1, momentum: 0.3, nesterov: false, nsSteps: 3, adjustLrFn: "match_rms_adamw", maximize: true },
      { momentum: 0.4, weightDecay: 0, nsCoefficients: [2, -1.5, 0.5], eps: 0 },
      { nsSteps: 0 },
    ],
  },
];
