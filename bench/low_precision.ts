/**
 * Rules in 16 bits beside float32: how near a step is to what the memory allows in its own dtype.
 *
 *     deno run -A bench/low_precision.ts [--rules=AdamW,SGD+momentum] [--sets=1x16M,1000x1000] [--rounds=15]
 *
 * The limit is the rule's twin in the same dtype (csrc/rules/traffic.h), conversions included; bench/README.md says how it is measured.
 *
 * @module
 */

import { bestBackend } from "../ffi/load.ts";
import { backend, type DType, getNumThreads, Parameter, type TypedArray } from "../mod.ts";
import { allocate, bytesOf, writeFrom } from "../src/dtype.ts";
import { stateOf } from "../src/optim/optimizer.ts";
import { readArguments } from "./arguments.ts";
import { contender, digits, inTurn, table, timeText } from "./ratios.ts";
import { SHAPE_SETS, type ShapeSet, sizeOf } from "./shapes.ts";
import { RECIPES, type RuleName, twinJob } from "./work.ts"; // which sees to it that the library has the limits

/** A rule in a dtype, and its limit, over the same arrays. */
function make(rule: RuleName, dtype: DType, set: ShapeSet): { step: () => void; limit: () => void; bytes: number } {
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
  const recipe = RECIPES[rule], optimizer = recipe.make(params, { fused: true });
  optimizer.step();
  const states = stateOf(optimizer), native = bestBackend(), threads = getNumThreads();
  const arrays = params.map((p) =>
    [p.data, p.grad!, ...recipe.state.map((key) => states.get(p)![key])] as TypedArray[]
  );
  const twin = [twinJob(recipe, dtype, arrays)];
  const elements = params.reduce((sum, p) => sum + p.size, 0);
  return {
    step: () => void optimizer.step(),
    limit: () => {
      native.wake(); // as a step does
      native.run(twin, threads);
    },
    bytes: elements * (3 + 2 * recipe.state.length) * bytesOf(dtype),
  };
}

async function main(): Promise<void> {
  const { rules, sets, rounds } = readArguments();
  const { name, isa, threads } = backend(), rows: string[][] = [];
  console.log(`${name}, ${isa}, ${threads} threads, medians over ${rounds} rounds\n`);
  for (const rule of rules) {
    for (const set of sets) {
      const dtypes = ["float32", "bfloat16", "float16"] as const, works = dtypes.map((dtype) => make(rule, dtype, set));
      const found = await inTurn(
        works.flatMap(({ step, limit }, k) => [
          contender(`${dtypes[k]}`, step),
          contender(`${dtypes[k]} limit`, limit),
        ]),
        rounds,
      );
      dtypes.forEach((dtype, k) => {
        const ms = found.time(dtype);
        rows.push([
          rule,
          dtype,
          set,
          timeText(ms),
          digits(works[k]!.bytes / ms / 1e6),
          `${(100 * found.ratio(`${dtype} limit`, dtype)).toFixed(0)} %`,
          `${digits(found.ratio("float32", dtype))}x`,
        ]);
      });
    }
  }
  console.log(table(["rule", "dtype", "shapes", "step", "GB/s", "of the limit", "float32 / it"], rows));
}

if (import.meta.main) await main();
