/**
 * Steps with sparse gradients: what they cost by the rows named, and by the rows of the table.
 *
 *     deno run -A ffi/build.ts && deno bench -A bench/sparse.bench.ts
 *
 * The table is an embedding of 1,000,000 x 64, or of 10,000 x 64, in float32. Gradients name random rows of it; 50 of them take
 * turns, so that rows are mostly not in a cache near the processor. The cost is to grow with the rows named, and not with the
 * table. The momentum's steps are taken with the rows of one gradient, and of ten of them: all rows named so far move.
 *
 * @module
 */

import { Adagrad, Parameter, SGD, SparseAdam, SparseTensor } from "../mod.ts";

const WIDTH = 64, GRADIENTS = 50;

interface Stepping {
  step(): unknown;
}

const RULES: Record<string, (table: Parameter) => Stepping> = {
  "SGD": (table) => new SGD([table], { lr: 1e-3 }),
  "SGD+momentum": (table) => new SGD([table], { lr: 1e-3, momentum: 0.9 }),
  "Adagrad": (table) => new Adagrad([table], { lr: 1e-3 }),
  "SparseAdam": (table) => new SparseAdam([table], { lr: 1e-3 }),
};

let table: Parameter | undefined;

function tableOf(rows: number): Parameter {
  if (table?.shape[0] !== rows) {
    table = undefined;
    table = new Parameter(new Float32Array(rows * WIDTH).fill(0.5), { shape: [rows, WIDTH] });
  }
  return table;
}

function gradients(rows: number, named: number, count: number): SparseTensor[] {
  let seed = named;
  const below = (n: number) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor(seed / 2 ** 32 * n);
  };
  return Array.from({ length: count }, () => {
    const indices = Int32Array.from({ length: named }, () => below(rows));
    return new SparseTensor(indices, new Float32Array(named * WIDTH).fill(1e-3), [rows, WIDTH]);
  });
}

/** What is timed, made when it is first run; the one before is dropped. */
let current: { name: string; step: () => void } | undefined;

function add(group: string, name: string, rule: string, rows: number, named: number, count: number): void {
  const make = () => {
    const p = tableOf(rows), grads = gradients(rows, named, count), optimizer = RULES[rule]!(p);
    let t = 0;
    const step = () => {
      p.grad = grads[t++ % count]!;
      optimizer.step();
    };
    for (let i = 0; i < 200; i++) step(); // every row has been named, the code is warm
    return { name, step };
  };
  Deno.bench({
    name,
    group,
    fn() {
      if (current?.name !== name) {
        current = undefined;
        current = make();
      }
      current.step();
    },
  });
}

for (const rule of Object.keys(RULES)) {
  const count = rule === "SGD+momentum" ? 1 : GRADIENTS;
  for (const rows of [1_000_000, 10_000]) {
    for (const named of [64, 512, 4096]) {
      add(rule, `${rule}: ${named} rows of ${rows} x ${WIDTH}`, rule, rows, named, count);
    }
  }
}
add("SGD+momentum", `SGD+momentum: 512 rows, 5120 so far, of 1000000 x ${WIDTH}`, "SGD+momentum", 1_000_000, 512, 10);
