/**
 * What is timed of the averages: an update over a shape set, the foreach call that is inside, and their traffic limit, all of
 * them over the very same arrays.
 *
 * @module
 */

import process from "node:process";
import type { Job, Rule } from "../ffi/backend.ts";
import { build, hostTarget } from "../ffi/build.ts";
import { bestBackend } from "../ffi/load.ts";
import { AveragedModel, foreach, getEmaMultiAvgFn, getNumThreads, type Module, type Parameter } from "../mod.ts";
import { elementsOf, makeParameters, SHAPE_SETS, type ShapeSet } from "./shapes.ts";

// read when the library is first used, which is later
process.env["FLATSTEP_LIBRARY"] ??= build(hostTarget(), { bench: true, log: console.error });

const DECAY = 0.999;

/** A model that is nothing but its parameters. */
class Parameters implements Module {
  readonly named: [string, Parameter][];
  constructor(params: readonly Parameter[]) {
    this.named = params.map((p, i) => [`p${i}`, p]);
  }
  namedParameters(): Iterable<[string, Parameter]> {
    return this.named;
  }
  forward(): void {}
}

/** The averages over a shape set. Each function is one update. */
export class AveragingWork {
  /** The number of tensors. */
  readonly tensors: number;
  /** Bytes that an update has to read and write: the average is read and written, the model read. */
  readonly bytes: number;
  /** `averaged.updateParameters(model)` with `getEmaMultiAvgFn()`. */
  readonly ema: () => void;
  /** The same with the equal average. */
  readonly equal: () => void;
  /** `foreach.lerp_()` over the same lists. */
  readonly lerp: () => void;
  /** The traffic limit: the twin in C. */
  readonly limit: () => void;
  /** The loop that a user would write. */
  readonly plain: () => void;

  constructor(set: ShapeSet) {
    const params = makeParameters(SHAPE_SETS[set]), model = new Parameters(params);
    this.tensors = params.length;
    this.bytes = elementsOf(SHAPE_SETS[set]) * 12;
    const averaged = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn(DECAY) });
    averaged.updateParameters(model);
    this.ema = () => averaged.updateParameters(model);
    const own = averaged.module.named.map(([, p]) => p), arrays = own.map((p) => p.data as Float32Array);
    const current = params.map((p) => p.data as Float32Array), sharing = new AveragedModel(new Parameters([]));
    Object.assign(sharing, { module: averaged.module, nAveraged: 1 }); // the same arrays, another average
    this.equal = () => sharing.updateParameters(model);
    this.lerp = () => foreach.lerp_(own, params, 1 - DECAY);
    const jobs = [twinJob(arrays, current)];
    this.limit = () => bestBackend().run(jobs, getNumThreads());
    this.plain = () => {
      for (let k = 0; k < arrays.length; k++) {
        const a = arrays[k]!, b = current[k]!;
        for (let i = 0; i < a.length; i++) a[i] = DECAY * a[i]! + (1 - DECAY) * b[i]!;
      }
    };
  }
}

/** SGD's twin in csrc/rules/traffic.h has the same traffic: one array read and written, another read. */
function twinJob(written: readonly Float32Array[], read: readonly Float32Array[]): Job {
  const rule: Rule = {
    name: "traffic_sgd",
    buffers: ["param:rw", "grad:r"],
    hypers: ["gradSign"],
    flags: [],
    body() {
      throw new Error("the traffic limit exists in C only");
    },
  };
  const job = bestBackend().createJob(rule, "float32", written.length);
  written.forEach((array, row) => {
    job.setLength(row, array.length);
    job.bind(row, 0, array);
    job.bind(row, 1, read[row]!);
  });
  job.bindHypers(Float64Array.of(1), 1);
  return job;
}
