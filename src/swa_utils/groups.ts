/**
 * The tensors that are averaged together, and how.
 *
 * @module
 */

import { allocateArray, deviceOf } from "../cuda/device_array.ts";
import { copyBits, onHost } from "../cuda/transfer.ts";
import { allocate, readInto, type TypedArray, writeFrom } from "../dtype.ts";
import { describe } from "../errors.ts";
import { likeOf, Parameter } from "../parameter.ts";
import type { AvgFn, MultiAvgFn } from "./averages.ts";
import { isObject } from "./module.ts";
import { type Entry, numbersOf } from "./tensors.ts";

/** Elements that are averaged at a time. */
const BLOCK = 4096;

/** Averaged tensors of one dtype, and what is averaged. */
export interface Group {
  readonly averaged: Parameter[];
  readonly current: Parameter[];
}

/** A tensor of the model's that is not where the average is, and its copy that is there. */
export interface Fetched {
  readonly from: Parameter;
  readonly to: Parameter;
}

/** A parameter like another where the average is, for the numbers of one that is elsewhere. */
function fetchTo(p: Parameter, from: Parameter): Fetched {
  const { dtype, shape, size, deviceArray } = p;
  const array = deviceArray === null
    ? allocate(dtype, size, p.data)
    : allocateArray(deviceOf(deviceArray), dtype, size);
  return { from, to: new Parameter(array, { dtype, shape }) };
}

/** The tensors that are averaged, by dtype, each once; those that must be fetched are added to a list. */
export function groupByType(
  own: readonly Entry[],
  other: readonly Entry[],
  useBuffers: boolean,
  fetched: Fetched[],
): Group[] {
  const groups = new Map<string, Group>();
  own.forEach(({ param, isBuffer, first, dtype }, i) => {
    if (param === null || first !== i || (isBuffer && !useBuffers)) return;
    let group = groups.get(dtype);
    if (group === undefined) groups.set(dtype, group = { averaged: [], current: [] });
    const current = other[i]!.param!;
    group.averaged.push(param);
    if (param.device === current.device) {
      group.current.push(current);
      return;
    }
    const pair = fetchTo(param, current);
    fetched.push(pair);
    group.current.push(pair.to);
  });
  for (const { averaged, current } of groups.values()) {
    Object.freeze(averaged);
    Object.freeze(current);
  }
  return [...groups.values()];
}

/** Averages by a function for whole lists. */
export function averageGroup({ averaged, current }: Group, multiAvgFn: MultiAvgFn, n: number): void {
  const result = multiAvgFn(averaged, current, n) as unknown;
  if (isObject(result) && typeof result["then"] === "function") {
    throw new TypeError("multiAvgFn must work in place and return nothing, got a Promise");
  }
}

/** Element by element; all results are there before the first is written. */
export function averageElements(groups: readonly Group[], avgFn: AvgFn, n: number): void {
  const results = groups.map(({ averaged, current }) =>
    averaged.map((p, i) => averageTensor(p, current[i]!, avgFn, n))
  );
  groups.forEach(({ averaged }, g) => averaged.forEach((p, i) => copyBits(numbersOf(p), results[g]![i]!)));
}

function averageTensor(p: Parameter, q: Parameter, avgFn: AvgFn, n: number): TypedArray {
  const { dtype, size } = p, out = allocate(dtype, size, likeOf(p));
  const averaged = onHost(numbersOf(p)), current = onHost(numbersOf(q));
  const block = dtype === "float64" ? Float64Array : Float32Array; // 16 bits are rounded from float32
  const a = new block(Math.min(size, BLOCK)), b = new block(a.length);
  for (let from = 0; from < size; from += BLOCK) {
    const length = Math.min(BLOCK, size - from);
    readInto(a, averaged, dtype, from, length);
    readInto(b, current, dtype, from, length);
    for (let i = 0; i < length; i++) {
      const value = avgFn(a[i]!, b[i]!, n) as unknown;
      if (typeof value !== "number") {
        throw new TypeError(`avgFn must return a number, got ${describe(value)}`);
      }
      a[i] = value;
    }
    writeFrom(out, dtype, from, a, length);
  }
  return out;
}
