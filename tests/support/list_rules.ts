/**
 * The table of the rules that are no optimizer's: those of the multi-tensor operations and of the averages.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";
import {
  ADD_RULE,
  ADDCDIV_RULE,
  ADDCMUL_RULE,
  CLAMP_RULE,
  DIV_RULE,
  LERP_RULE,
  MAXIMUM_RULE,
  MUL_RULE,
  SCALE_RULE,
  SQRT_RULE,
  TENSOR,
} from "../../src/foreach_rules.ts";
import { AVERAGE_RULE } from "../../src/swa_utils/averages.ts";

/** A rule, with flags and hyperparameters under which implementations are compared bit for bit. */
export interface ListRule {
  readonly rule: Rule;
  readonly variants: readonly { readonly flags: number; readonly hypers: readonly number[] }[];
}

const row = (rule: Rule, ...variants: [number, ...number[]][]): ListRule => ({
  rule,
  variants: variants.map(([flags, ...hypers]) => ({ flags, hypers })),
});

/** Every such rule. */
export const LIST_RULES: readonly ListRule[] = [
  row(LERP_RULE, [0, 0.1, 0.9], [0, 0.5, 0.5], [0, 0.7, 0.3], [0, 0, 1], [0, 1, 0], [0, -3, 4]),
  row(AVERAGE_RULE, [0, 2], [0, 3], [0, 1e6]),
  row(ADD_RULE, [0, 1, 0.1], [0, -0.3, 3], [TENSOR, 1, 0], [TENSOR, -0.3, 0]),
  row(MUL_RULE, [0, 0.1], [0, 0], [TENSOR, 0]),
  row(DIV_RULE, [0, 3], [0, 0], [TENSOR, 0]),
  row(ADDCMUL_RULE, [0, 1], [0, -0.3]),
  row(ADDCDIV_RULE, [0, 1], [0, -0.3]),
  row(SQRT_RULE, [0]),
  row(MAXIMUM_RULE, [0]),
  row(SCALE_RULE, [0, 0.1], [0, -0.3]),
  row(CLAMP_RULE, [0, 0.1], [0, 0]),
];
