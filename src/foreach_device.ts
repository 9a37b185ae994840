/**
 * The multi-tensor operations on devices: a job for each dtype and device, one launch a job.
 *
 * Tables take memory on the device. What is called once, with lists that nobody keeps, gives it back at once; from the second call with
 * the same lists on it is kept.
 *
 * @module
 */

import type { Reduction, Rule } from "../ffi/backend.ts";
import { allocateArray, type DeviceArray, deviceOf, releaseArray } from "./cuda/device_array.ts";
import { DeviceJob } from "./cuda/job.ts";

/** The row of one tensor. */
interface Row {
  readonly job: DeviceJob;
  readonly row: number;
}

/** An operand that is the tensor that is written itself: its values are copied before each launch. */
interface Copied extends Row {
  readonly buffer: number;
  readonly from: DeviceArray;
  to: DeviceArray | null;
}

/** Whether two arrays are the same memory from end to end. */
function sameMemory(a: DeviceArray, b: DeviceArray): boolean {
  return a.address === b.address && a.device === b.device && a.byteLength === b.byteLength;
}

const ignore = () => {};

/** A rule over tensors on devices. */
export class DeviceRows {
  readonly #jobs: DeviceJob[] = [];
  readonly #rows: readonly Row[];
  readonly #copied: Copied[] = [];
  #calls = 0;

  /**
   * @param rule the rule
   * @param flags its flags, for all tensors
   * @param tensors the buffers of each tensor: all of one dtype, length and device
   * @param hypers its hyperparameters, read at each launch
   */
  constructor(
    readonly rule: Rule,
    flags: number,
    tensors: readonly (readonly DeviceArray[])[],
    hypers: Float64Array,
  ) {
    const places = new Map<string, { job: DeviceJob; used: number }>();
    const nameOf = ([{ device, dtype }]: readonly DeviceArray[] & { 0: DeviceArray }) => `${dtype} ${device}`;
    const lists = tensors as readonly (readonly DeviceArray[] & { 0: DeviceArray })[],
      counts = new Map<string, number>();
    for (const buffers of lists) counts.set(nameOf(buffers), (counts.get(nameOf(buffers)) ?? 0) + 1);
    this.#rows = lists.map((buffers): Row => {
      const [self] = buffers, name = nameOf(buffers);
      let place = places.get(name);
      if (place === undefined) {
        const job = new DeviceJob(deviceOf(self), rule, self.dtype, counts.get(name)!);
        places.set(name, place = { job, used: 0 });
        job.bindHypers(hypers);
        this.#jobs.push(job);
      }
      const { job } = place, row = place.used++;
      job.setFlags(row, flags);
      job.setLength(row, self.length);
      if (self.length === 0) return { job, row };
      buffers.forEach((array, buffer) => {
        if (buffer > 0 && sameMemory(array, self)) this.#copied.push({ job, row, buffer, from: array, to: null });
        else job.bind(row, buffer, array.address);
      });
      return { job, row };
    });
  }

  /** Runs something that uses the tables; gives their memory back where it fails. */
  #using<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Makes everything ready; nothing that was there before has changed. */
  prepare(): void {
    this.#using(() => {
      for (const copy of this.#copied) {
        const { from, job, row, buffer } = copy;
        copy.to ??= allocateArray(deviceOf(from), from.dtype, from.length);
        deviceOf(from).copy(copy.to.address, from.address, from.byteLength);
        job.bind(row, buffer, copy.to.address);
      }
      for (const job of this.#jobs) job.prepare();
    });
  }

  /** Queues the rule. `prepare()` comes first. */
  launch(): void {
    this.#using(() => {
      for (const job of this.#jobs) job.launch(1, 1, ignore);
    });
  }

  /** Reduces each tensor's first buffer, for "sumSq" times a factor, and waits for the results. `prepare()` comes first. */
  reduce(op: Exclude<Reduction, "dot">, factor = 1): number[] {
    return this.#using(() => {
      const results = new Map(this.#jobs.map((job) => [job, job.reduce(op, 0, factor)]));
      return this.#rows.map(({ job, row }) => results.get(job)![row]!);
    });
  }

  /** Ends a call: after the first one the tables' memory is given back. */
  endCall(): void {
    if (this.#calls++ === 0) this.dispose();
  }

  /** Gives the tables' memory back; they can be prepared again. */
  dispose(): void {
    for (const job of this.#jobs) job.dispose();
    for (const copy of this.#copied) {
      if (copy.to !== null) releaseArray(copy.to);
      copy.to = null;
    }
  }
}
