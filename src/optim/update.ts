/**
 * What a class of optimizers tells of its update.
 *
 * @module
 */

import type { Rule } from "../../ffi/backend.ts";

/** What a class does with sparse gradients. */
export interface SparseSupport<Group> {
  /** Whether it takes dense gradients too. */
  readonly dense: boolean;
  /** Whether its one state tensor has the rows only that gradients have named so far: a SparseTensor in the state. */
  readonly sparseState: boolean;
  /** Throws where a group's options do not go with sparse gradients; `label` is what the gradient is called. */
  check?(group: Group, label: () => string): void;
}

/** What a class tells of its update: how a group's options and a parameter's state become a rule's inputs. */
export interface Update<Group> {
  /** The class, for messages. */
  readonly name: string;
  /** The rule; its first two buffers are the parameter and the gradient, then come the state tensors. */
  readonly rule: Rule;
  /** The state's numbers; rows whose numbers are equal share hyperparameters. */
  readonly scalars: readonly string[];
  /** The state tensors that a group's options need, by the names of the rule's buffers; the same array for the same options. */
  tensors(group: Group): readonly string[];
  /** The rule's flags for a group. */
  flags(group: Group): number;
  /** Flags for a parameter one of whose state tensors has just been made. */
  readonly freshFlags: number;
  /** The numbers of a new state. */
  start(group: Group): Record<string, number>;
  /** What a new state tensor is filled with; 0 if absent. */
  fill?(group: Group, tensor: string): number;
  /** Writes the rule's hyperparameters for a step that starts from these numbers. */
  hypers(group: Group, scalars: Readonly<Record<string, number>>, out: Float64Array, at: number): void;
  /** Writes the state's numbers after that step. */
  next(group: Group, scalars: Readonly<Record<string, number>>, out: Record<string, number>): void;
  /** What it does with sparse gradients; absent: it refuses them. */
  readonly sparse?: SparseSupport<Group>;
}

/** {@linkcode Update.next} where `step` is all there is. */
export function countStep(
  _group: unknown,
  scalars: Readonly<Record<string, number>>,
  out: Record<string, number>,
): void {
  out["step"] = scalars["step"]! + 1;
}
