/**
 * Momentum that goes up when the rate goes down: what CyclicLR and OneCycleLR share.
 *
 * @module
 */

import type { AnyOptimizer } from "../optim/optimizer.ts";
import type { Group } from "./engine.ts";

/** Reads and writes a group's momentum, or its first beta. */
export interface Momentum {
  /** The momentum of a group. */
  get(group: Group): number;
  /** Sets it. */
  set(group: Group, momentum: number): void;
}

const BETA1: Momentum = {
  get: (group) => (group["betas"] as [number, number])[0],
  set(group, momentum) {
    const [, ...more] = group["betas"] as [number, number];
    group["betas"] = [momentum, ...more];
  },
};

const MOMENTUM: Momentum = {
  get: (group) => group["momentum"] as number,
  set(group, momentum) {
    group["momentum"] = momentum;
  },
};

/**
 * The momentum of an optimizer's groups. Warns where there was none: SGD has a buffer from then on.
 *
 * @throws {RangeError} if it has none
 */
export function momentumOf(optimizer: AnyOptimizer, owner: string): Momentum {
  const defaults = optimizer.defaults as Group;
  if (Object.hasOwn(defaults, "betas")) return BETA1;
  if (!Object.hasOwn(defaults, "momentum")) {
    throw new RangeError(
      `cycleMomentum must be false for an optimizer without momentum or betas, got true with ${optimizer.constructor.name}`,
    );
  }
  if ((optimizer.paramGroups as Group[]).every((group) => group["momentum"] === 0)) {
    console.warn(
      `${owner} gives ${optimizer.constructor.name} a momentum that it did not have: say cycleMomentum: false to leave it`,
    );
  }
  return MOMENTUM;
}

/** What a schedule writes beside the rate, and takes back. */
export interface MomentumWriter {
  /** Writes the momentum at t. */
  settle(groups: readonly Group[], t: number): void;
  /** Writes what was there before. */
  undo(groups: readonly Group[]): void;
}

/** Writes momentum, a function of group and t, and remembers what was there. */
export function momentumWriter(
  optimizer: AnyOptimizer,
  momentum: Momentum,
  at: (group: number, t: number) => number,
): MomentumWriter {
  const before = (optimizer.paramGroups as Group[]).map((group) => momentum.get(group));
  return {
    settle(groups, t) {
      for (let i = 0; i < groups.length; i++) momentum.set(groups[i]!, at(i, t));
    },
    undo(groups) {
      before.forEach((value, i) => groups[i] && momentum.set(groups[i], value));
    },
  };
}
