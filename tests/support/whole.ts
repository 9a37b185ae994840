/**
 * A checkpoint in which every number is the same, so that one of two saves mixed shows.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { Adam, Parameter } from "../../mod.ts";
import { TinyModel } from "./models.ts";

/** Elements of the parameters: small ones, whose bytes are gathered, and one that is written by itself. */
const SIZES = [1, 1000, 100_000];

/** A model and its optimizer, whose numbers are all the step's. */
export class TrainingState {
  /** What all numbers are. */
  step = 0;
  readonly model: TinyModel = new TinyModel(
    SIZES.map((n): [string, Parameter] => [`p${n}`, new Parameter(new Float32Array(n))]),
  );
  readonly optimizer: Adam = new Adam(this.model.namedParameters());

  /** Makes the optimizer's state. */
  constructor() {
    this.optimizer.initState();
  }

  /** Sets every number. */
  setAll(step: number): void {
    this.step = step;
    for (const [, p] of this.model.params) {
      const { expAvg, expAvgSq } = this.optimizer.state.get(p) as Record<"expAvg" | "expAvgSq", Float32Array>;
      for (const array of [p.data, expAvg, expAvgSq]) array.fill(step);
    }
  }

  /** What is saved. */
  contents(): Record<string, unknown> {
    const { model, optimizer, step } = this;
    return { first: step, model, optimizer, last: [step] };
  }
}

/** The number that a checkpoint's numbers are; throws unless it is whole. */
export function checkWhole(checkpoint: unknown): number {
  const { first, model, optimizer, last } = checkpoint as {
    first: number;
    model: Record<string, { data: Float32Array }>;
    optimizer: { state: Record<string, Record<"expAvg" | "expAvgSq", Float32Array>> };
    last: number[];
  };
  assert(Number.isSafeInteger(first), `the step is ${first}`);
  assertEquals(last, [first]);
  const found: [string, Float32Array][] = [];
  SIZES.forEach((size, i) => {
    const { expAvg, expAvgSq } = optimizer.state[i]!;
    found.push([`p${size}`, model[`p${size}`]!.data], [`expAvg ${i}`, expAvg], [`expAvgSq ${i}`, expAvgSq]);
    for (const [name, array] of found.slice(-3)) assertEquals(array.length, size, name);
  });
  for (const [name, array] of found) {
    const at = array.findIndex((x) => x !== first);
    assert(at < 0, `${name}[${at}] is ${array[at]}, and the step ${first}`);
  }
  return first;
}
