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
