/**
 * AdamW in 16 bits beside float32: how near a step is to what the memory allows in its own dtype.
 *
 *     deno run -A bench/low_precision.ts [--sets=1x16M,1000x1000] [--rounds=15]
 *
 * The limit is traffic_adam in the same dtype (csrc/rules/traffic.h), conversions included; bench/README.md says how it is measured.
 *
 * @module
 */

import process from "node:process";
import type { Job, Rule } from "../ffi/backend.ts";
import { build, hostTarget } from "../ffi/build.ts";
import { bestBackend } from "../ffi/load.ts";
import { AdamW, backend, type DType, getNumThreads, Parameter, type TypedArray } from "../mod.ts";
import { allocate, bytesOf, writeFrom } from "../src/dtype.ts";
import { readArguments } from "./arguments.ts";
import { contender, digits, inTurn, table, timeText } from "./ratios.ts";
import { SHAPE_SETS, type ShapeSet, sizeOf } from "./shapes.ts";

// read when the library is first used, which is later
process.env["FLATSTEP_LIBRARY"] ??= build(hostTarget(), { bench: true, log: console.error });

const TRAFFIC: Rule = {
  name: "traffic_adam",
  buffers: ["param:rw", "grad:r", "expAvg:rw", "expAvgSq:rw"],
  hypers: ["gradSign"],
  flags: [],
  body() {
    throw new Error("the traffic limit exists in C only");
  },
};

/** AdamW in a dtype, and its limit, over the same arrays. */
function make(dtype: DType, set: ShapeSet): { step: () => void; limit: () => void; bytes: number } {
  const fill = (n: number, at: (i: number) => number): TypedArray => {
    const array = allocate(dtype, n);
    for (let i = 0; i < n; i++) writeFrom(array, dtype, i, [at(i)], 1);
    return array;
  };
  const params = SHAPE_SETS[set].map((shape) => {
    const n = sizeOf(shape), p = new Parameter(fill(n, (i) => (i % 1001) / 500 - 1), { dtype });
    p.grad = fill(n, (i) => 1e-3 + (i & 255) * 1e-5);
    return p;
  });
  const optimizer = new AdamW(params, { fused: true });
  optimizer.step();
  const native = bestBackend(), threads = getNumThreads(), job: Job = native.createJob(TRAFFIC, dtype, params.length);
  params.forEach((p, row) => {
    const state = optimizer.state.get(p)!;
    job.setLength(row, p.size);
    [p.data, p.grad!, state["expAvg"], state["expAvgSq"]].forEach((array, k) => job.bind(row, k, array as TypedArray));
  });
  job.bindHypers(Float64Array.of(1), 1);
  const elements = params.reduce((sum, p) => sum + p.size, 0);
  return {
    step: () => void optimizer.step(),
    limit: () => native.run([job], threads),
    bytes: elements * 7 * bytesOf(dtype),
  };
}

async function main(): Promise<void> {
  const { sets, rounds } = readArguments();
  const { name, isa, threads } = backend(), rows: string[][] = [];
  console.log(`${name}, ${isa}, ${threads} threads, medians over ${rounds} rounds\n`);
  for (const set of sets) {
    const dtypes = ["float32", "bfloat16", "float16"] as const, works = dtypes.map((dtype) => make(dtype, set));
    const found = await inTurn(
      works.flatMap(({ step, limit }, k) => [contender(`${dtypes[k]}`, step), contender(`${dtypes[k]} limit`, limit)]),
      rounds,
    );
    dtypes.forEach((dtype, k) => {
      const ms = found.time(dtype);
      rows.push([
        dtype,
        set,
        timeText(ms),
        digits(works[k]!.bytes / ms / 1e6),
        `${(100 * found.ratio(`${dtype} limit`, dtype)).toFixed(0)} %`,
        `${digits(found.ratio("float32", dtype))}x`,
      ]);
    });
  }
  console.log(table(["AdamW", "shapes", "step", "GB/s", "of the limit", "float32 / it"], rows));
}

if (import.meta.main) await main();
