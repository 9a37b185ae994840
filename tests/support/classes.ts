/**
 * The table that the table-driven tests go through: a row an optimizer. A new optimizer is a row here.
 *
 * @module
 */

import * as optim from "../../mod.ts";
import type { Rule } from "../../ffi/backend.ts";
import { ADAM_RULE } from "../../src/optim/adam.ts";
import { SGD_RULE } from "../../src/optim/sgd.ts";

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

const row = (name: "SGD" | "Adam" | "AdamW", rule: Rule, variants: Record<string, unknown>[]): Row => ({
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
];
