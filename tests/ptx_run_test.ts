/** The CUDA kernels that are shipped, run from their text, instruction by instruction: the bits of the rules' own bodies. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import type { DType } from "../mod.ts";
import { clipCoefficient, MEASURE, REDUCTIONS, type Rule, STEP_SUMS, STEP_WORDS, UPDATE } from "../ffi/backend.ts";
import { kernelPtx, SUFFIX } from "../ffi/cuda_kernels.ts";
import { jsBackend } from "../ffi/js.ts";
import { DTYPES } from "../src/dtype.ts";
import { numbersFor } from "./support/arena.ts";
import { assertSameBits } from "./support/bits.ts";
import { ROWS } from "./support/classes.ts";
import { hashNumbers, typed } from "./support/golden.ts";
import { LIST_RULES } from "./support/list_rules.ts";
import { DeviceMemory, Module } from "./support/ptx.ts";
import { needsOf } from "./support/ptx_rules.ts";
import { type PtxRow, reduceByPtx, stepByPtx } from "./support/ptx_run.ts";

const LIMIT = { timeout: 180_000 };
const RULES = [...new Map([...ROWS, ...LIST_RULES].map(({ rule }) => [rule.name, rule])).values()];

/** Which of a rule's buffers its flags use: the others are not there. */
const usedBy = (rule: Rule, flags: number): boolean[] =>
  needsOf(rule.name).map((needs) => needs === 0 || (needs & flags) !== 0);

/** Tensors of a rule with numbers of all kinds: some are special, some tiny, some huge. */
function rowsOf(rule: Rule, dtype: DType, flags: number, sizes: readonly number[], seed: number): PtxRow[] {
  const used = usedBy(rule, flags);
  return sizes.map((n, r) => ({
    flags,
    buffers: rule.buffers.map((_, b) => used[b] ? typed(numbersFor(seed + 31 * r + 7 * b, n), dtype) : null),
  }));
}

const copyOf = (rows: readonly PtxRow[]): PtxRow[] =>
  rows.map((row) => ({ ...row, buffers: row.buffers.map((array) => array && array.slice()) }));

/** The rule's own body over the rows. */
function stepByBody(
  rule: Rule,
  dtype: DType,
  rows: readonly PtxRow[],
  hypers: readonly number[],
  factors: readonly [number, number],
): void {
  const job = jsBackend.createJob(rule, dtype, rows.length);
  rows.forEach(({ flags, buffers }, r) => {
    job.setLength(r, buffers[0]!.length);
    job.setFlags(r, flags);
    buffers.forEach((array, b) => job.bind(r, b, array ?? buffers[0]!.slice()));
  });
  job.bindHypers(Float64Array.from(hypers), 1);
  if (factors[0] === 1 && factors[1] === 1) jsBackend.run([job], 1);
  else jsBackend.step([job], UPDATE, Float64Array.of(factors[0], 0, 0, factors[1], 0, 0, 0, 0), 1);
}

function assertSameRows(actual: readonly PtxRow[], expected: readonly PtxRow[], dtype: DType, what: string): void {
  actual.forEach((row, r) =>
    row.buffers.forEach((array, b) => {
      if (array) assertSameBits(array, expected[r]!.buffers[b]!, dtype, `${what}, row ${r}, buffer ${b}`);
    })
  );
}

/** Rows of hyperparameters that take every branch: below and above a half, and 1. With the last, of few bits, 16-bit results are ties. */
const hypersOf = (rule: Rule): number[][] => [
  rule.hypers.map((_, k) => 0.01 + 0.045 * k),
  rule.hypers.map((_, k) => (k % 2 ? -1 : 1) * (0.97 - 0.043 * k)),
  rule.hypers.map(() => 1),
  rule.hypers.map((_, k) => [0.75, 1.5, 0.625, 1.25][k % 4]!),
];

// a row that is skipped, one element, rows beside a block's size, and two chunks: tiles and what is left of them
const SIZES = [0, 1, 255, 257, 1024 + 512 + 3];
const LAUNCHES = [{ grid: 3, block: 7, length: 1100 }, { grid: 1, block: 33, length: 1536 }, {
  grid: 2,
  block: 256,
  length: 4096,
}];

for (const rule of RULES) {
  test(`the PTX of ${rule.name} has the bits of its body for every dtype and every combination of flags`, LIMIT, () => {
    for (const dtype of DTYPES) {
      for (let flags = 0; flags < 1 << rule.flags.length; flags++) {
        hypersOf(rule).forEach((hypers, k) => {
          const rows = rowsOf(rule, dtype, flags, SIZES, 1 + flags + 100 * k), expected = copyOf(rows);
          stepByBody(rule, dtype, expected, hypers, [1, 1]);
          stepByPtx(rule, dtype, rows, hypers, LAUNCHES[k % LAUNCHES.length]!);
          assertSameRows(rows, expected, dtype, `${rule.name} ${dtype}, flags ${flags}, hyperparameters ${hypers}`);
        });
      }
    }
  });
}

test("each arithmetic instruction counts: with another one in its place the comparison fails", LIMIT, () => {
  for (const [name, dtype] of [["adamax", "float32"], ["average", "float64"], ["lerp", "bfloat16"]] as const) {
    const rule = RULES.find((r) => r.name === name)!, lines = kernelPtx([`${name}_${SUFFIX[dtype]}`]).split("\n");
    const runs = Array.from({ length: 1 << rule.flags.length }, (_, flags) => {
      return hypersOf(rule).slice(0, 2).map((hypers, k) => {
        const rows = rowsOf(rule, dtype, flags, [1024 + 40], 1 + flags + 100 * k), expected = copyOf(rows);
        stepByBody(rule, dtype, expected, hypers, [1, 1]);
        return { hypers, rows, expected };
      });
    }).flat();
    let count = 0;
    lines.forEach((line, i) => {
      const other = line.replace(/^mul\.rn|^sub\.rn/, "add.rn").replace(/^div\.rn/, "mul.rn");
      const changed = other === line ? line.replace(/^add\.rn/, "sub.rn") : other;
      if (changed === line) return;
      const module = new Module(lines.with(i, changed).join("\n"));
      count++;
      assert(
        runs.some(({ hypers, rows, expected }) => {
          const copy = copyOf(rows);
          stepByPtx(rule, dtype, copy, hypers, LAUNCHES[1]!, [1, 1], module);
          try {
            assertSameRows(copy, expected, dtype, "");
          } catch {
            return true;
          }
          return false;
        }),
        `${name} ${dtype}: nothing is different with ${changed}`,
      );
    });
    assert(count > 10);
  }
});

for (const { rule, variants } of LIST_RULES) {
  test(`the PTX of ${rule.name} has the bits of its body for the numbers that lists are compared with`, LIMIT, () => {
    for (const dtype of DTYPES) {
      for (const { flags, hypers } of variants) {
        const rows = rowsOf(rule, dtype, flags, [257], 5), expected = copyOf(rows);
        stepByBody(rule, dtype, expected, hypers, [1, 1]);
        stepByPtx(rule, dtype, rows, hypers, LAUNCHES[0]!);
        assertSameRows(rows, expected, dtype, `${rule.name} ${dtype}, flags ${flags}, hyperparameters ${hypers}`);
      }
    }
  });
}

test("gradients are multiplied by two factors and rounded each time, as on the CPU, and are not changed", LIMIT, () => {
  for (const rule of RULES.filter((rule) => rule.buffers[1] === "grad:r")) {
    for (const dtype of DTYPES) {
      for (const factors of [[1 / 1024, 1], [1, 0.3], [1 / 3, 0.7], [1e-30, 1e30], [1.5, 0.75]] as const) {
        const rows = rowsOf(rule, dtype, 0, [300, 1030], 9), expected = copyOf(rows), hypers = hypersOf(rule)[0]!;
        stepByBody(rule, dtype, expected, hypers, factors);
        stepByPtx(rule, dtype, rows, hypers, LAUNCHES[1]!, factors);
        assertSameRows(rows, expected, dtype, `${rule.name} ${dtype}, times ${factors}`);
      }
    }
  }
});

const LENGTHS = [0, 1, 15, 16, 17, 255, 257, 4095, 4096, 4097, 2 * 4096 + 5];

for (const op of REDUCTIONS) {
  test(`the reduction ${op} by PTX has the bits of the CPU's`, LIMIT, () => {
    for (const dtype of DTYPES) {
      const finite = (seed: number) => LENGTHS.map((n) => typed(hashNumbers(seed, n, 3), dtype));
      const special = (seed: number) => LENGTHS.map((n) => typed(numbersFor(seed, n), dtype));
      for (const [xs, ys] of [[finite(1), finite(2)], [special(1), special(2)]] as const) {
        const other = op === "dot" ? ys : null, expected = jsBackend.reduce(op, dtype, xs, other, 1);
        for (const launch of [{ grid: 2, block: 33 }, { grid: 1, block: 1 }]) {
          const actual = reduceByPtx(op, dtype, xs, other, launch);
          actual.forEach((a, i) => {
            assert(Object.is(a, expected[i]), `${op} ${dtype} n=${LENGTHS[i]}: ${a}, expected ${expected[i]}`);
          });
        }
      }
    }
  });
}

test(
  "a step that clips to a norm, of AdamW and of SGD: squares, fold and update by PTX have the CPU's bits",
  LIMIT,
  () => {
    for (const [name, flags] of [["adam", 0], ["sgd", 2]] as const) {
      const rule = RULES.find((r) => r.name === name)!, hypers = hypersOf(rule)[0]!;
      for (const dtype of DTYPES) {
        for (const unscale of [1, 1 / 512]) {
          const used = usedBy(rule, flags);
          const rows: PtxRow[] = [5000, 300].map((n, r) => ({
            flags,
            buffers: rule.buffers.map((_, b) => used[b] ? typed(hashNumbers(3 + r + 5 * b, n, 2), dtype) : null),
          }));
          const expected = copyOf(rows), numbers = new Float64Array(STEP_WORDS);
          numbers.set([unscale, 0.03]);
          const job = jsBackend.createJob(rule, dtype, rows.length);
          expected.forEach(({ buffers }, r) => {
            job.setLength(r, buffers[0]!.length);
            job.setFlags(r, flags);
            buffers.forEach((array, b) => array && job.bind(r, b, array));
          });
          job.bindHypers(Float64Array.from(hypers), 1);
          jsBackend.step([job], MEASURE | UPDATE, numbers, 1);

          const grads = rows.map((row) => row.buffers[1]!), launch = { grid: 3, block: 32, length: 2048 };
          const squares = reduceByPtx("sumSq", dtype, grads, null, launch, unscale === 1 ? undefined : unscale);
          const sum = squares.reduce((a, b) => a + b, 0), clip = clipCoefficient(Math.sqrt(sum), 0.03);
          assert(Object.is(sum, numbers[STEP_SUMS + DTYPES.indexOf(dtype)]), `${name} ${dtype}: the sum of squares`);
          assert(clip < 1);
          stepByPtx(rule, dtype, rows, hypers, launch, [unscale, clip]);
          assertSameRows(rows, expected, dtype, `${name} ${dtype}, unscale ${unscale}`);
        }
      }
    }
  },
);

/** A kernel of some instructions, over r1 … r9 and so on, with 16 bytes of parameters. */
function kernelOf(...instructions: string[]): (memory: DeviceMemory, ...words: bigint[]) => void {
  const text = `.version 6.3
.target sm_75
.address_size 64
.visible .entry k(
.param .align 8 .b8 k_param_0[16]
)
{
.reg .pred %p<9>;
.reg .b16 %rs<9>;
.reg .b32 %r<9>;
.reg .b64 %rd<9>;
.reg .f32 %f<9>;
.reg .f64 %fd<9>;
ld.param.u64 %rd1, [k_param_0];
ld.param.u64 %rd2, [k_param_0+8];
${instructions.join("\n")}
ret;
}
`;
  return (memory, ...words) =>
    new Module(text).kernel("k").launch(memory, new Uint8Array(BigUint64Array.from(words).buffer), 1, 1);
}

test("the interpreter refuses what it does not know", () => {
  for (
    const strange of [
      "fma.rn.f32 %f1, %f2, %f3, %f4;",
      "add.f32 %f1, %f2, %f3;",
      "add.rn.ftz.f32 %f1, %f2, %f3;",
      "div.full.f32 %f1, %f2, %f3;",
      "sqrt.approx.f32 %f1, %f2;",
      "cvt.rz.f32.f64 %f1, %fd1;",
      "add.rn.f32 %f1, %f2, %fd3;",
      "add.s32 %r1, %r2, %rd3;",
      "ld.shared.f32 %f1, [%rd1];",
      "ld.global.f32 %r1, [%rd1];",
      "st.global.f64 [%rd1], %f1;",
      "bra $nowhere;",
      "bar.sync 0;",
    ]
  ) {
    assertThrows(() => kernelOf(strange)(new DeviceMemory(), 0n, 0n), SyntaxError);
  }
});

test("the interpreter refuses accesses outside of memory, not aligned, or to what is only to be read", () => {
  const memory = new DeviceMemory(),
    array = new Float32Array(4),
    at = memory.map(array),
    still = memory.map(array, false);
  const load = kernelOf("ld.global.f32 %f1, [%rd1+4];"), store = kernelOf("st.global.f32 [%rd1], %f1;");
  load(memory, at + 8n, 0n);
  assertThrows(() => load(memory, at + 12n, 0n), RangeError, "are read, which are nobody's");
  assertThrows(() => load(memory, at - 8n, 0n), RangeError, "are read, which are nobody's");
  assertThrows(() => load(memory, 0n, 0n), RangeError, "are read, which are nobody's");
  assertThrows(() => load(memory, at + 2n, 0n), RangeError, "not aligned");
  store(memory, at, 0n);
  assertThrows(() => store(memory, at + 16n, 0n), RangeError, "are written, which are nobody's");
  assertThrows(() => store(memory, still, 0n), RangeError, "only to be read");
  assertThrows(() => kernelOf("$again:", "bra.uni $again;")(memory, 0n, 0n), Error, "does not come to its end");
});

test("the interpreter computes with integers as PTX does", () => {
  const cases: [string, bigint, bigint, bigint][] = [
    ["add.s64 %rd3, %rd1, %rd2;", 2n ** 64n - 1n, 2n, 1n],
    ["sub.s64 %rd3, %rd1, %rd2;", 1n, 2n, 2n ** 64n - 1n],
    ["mul.lo.s64 %rd3, %rd1, %rd2;", 2n ** 63n + 3n, 2n, 6n],
    ["cvt.u32.u64 %r1, %rd1;\nmul.wide.u32 %rd3, %r1, %r1;", 2n ** 32n - 1n, 0n, (2n ** 32n - 1n) ** 2n],
    ["cvt.u32.u64 %r1, %rd1;\nshr.u32 %r2, %r1, 4;\ncvt.u64.u32 %rd3, %r2;", 0xf0000000n, 0n, 0x0f000000n],
    ["cvt.u32.u64 %r1, %rd1;\nshl.b32 %r2, %r1, 33;\ncvt.u64.u32 %rd3, %r2;", 1n, 0n, 0n],
    ["cvt.u32.u64 %r1, %rd1;\nbfe.u32 %r2, %r1, 16, 1;\ncvt.u64.u32 %rd3, %r2;", 0x30000n, 0n, 1n],
    ["cvt.u32.u64 %r1, %rd1;\nadd.s32 %r2, %r1, -2;\ncvt.u64.u32 %rd3, %r2;", 1n, 0n, 2n ** 32n - 1n],
    ["cvt.u32.u64 %r1, %rd1;\nmov.b32 {%rs1, %rs2}, %r1;\ncvt.u64.u16 %rd3, %rs2;", 0xabcd1234n, 0n, 0xabcdn],
    [
      "cvt.u32.u64 %r1, %rd1;\n{ .reg .b16 tmp; mov.b32 {tmp, %rs1}, %r1; }\ncvt.u64.u16 %rd3, %rs1;",
      0xabcd1234n,
      0n,
      0xabcdn,
    ],
    ["setp.gt.u64 %p1, %rd1, %rd2;\nselp.b64 %rd3, %rd1, %rd2, %p1;", 2n ** 63n, 1n, 2n ** 63n],
    ["setp.gt.s64 %p1, %rd1, %rd2;\nselp.b64 %rd3, %rd1, %rd2, %p1;", 2n ** 63n, 1n, 1n],
  ];
  for (const [text, a, b, expected] of cases) {
    const memory = new DeviceMemory(), out = new BigUint64Array(1), at = memory.map(out);
    kernelOf(...text.split("\n"), `add.s64 %rd5, %rd6, ${at};`, "st.global.u64 [%rd5], %rd3;")(memory, a, b);
    assertEquals(out[0], expected, text);
  }
});

test("the interpreter rounds as PTX does: to nearest, with subnormals, and orders NaN as it does", () => {
  const memory = new DeviceMemory(), out = new Float64Array(1), at = memory.map(out);
  const run = (...text: string[]) => {
    kernelOf(...text, `add.s64 %rd5, %rd6, ${at};`, "st.global.f64 [%rd5], %fd1;")(memory, 0n, 0n);
    return out[0]!;
  };
  const float = (x: number) =>
    `0f${new Uint32Array(Float32Array.of(x).buffer)[0]!.toString(16).toUpperCase().padStart(8, "0")}`;
  const binary = (name: string, a: number, b: number) =>
    run(`mov.f32 %f1, ${float(a)};`, `mov.f32 %f2, ${float(b)};`, `${name} %f3, %f1, %f2;`, "cvt.f64.f32 %fd1, %f3;");
  assertEquals(binary("add.rn.f32", 1, 2 ** -24), 1);
  assertEquals(binary("add.rn.f32", 1 + 2 ** -23, 2 ** -24), 1 + 2 ** -22);
  assertEquals(binary("mul.rn.f32", 2 ** -100, 2 ** -49), 2 ** -149);
  assertEquals(binary("div.rn.f32", 1, 3), Math.fround(1 / 3));
  const half = (x: number) => run(`mov.f32 %f1, ${float(x)};`, "cvt.rn.f16.f32 %rs1, %f1;", "cvt.f64.f16 %fd1, %rs1;");
  assertEquals([half(65519), half(65520), half(2 ** -24), half(2 ** -25), half(1 + 2 ** -11)], [
    65504,
    Infinity,
    2 ** -24,
    0,
    1,
  ]);
  const compare = (how: string, a: number, b: number) =>
    run(
      `mov.f32 %f1, ${float(a)};`,
      `mov.f32 %f2, ${float(b)};`,
      `setp.${how}.f32 %p1, %f1, %f2;`,
      `selp.f64 %fd1, ${"0d3FF0000000000000"}, 0d0000000000000000, %p1;`,
    );
  assertEquals(["lt", "ne", "ltu", "neu", "nan", "num"].map((how) => compare(how, NaN, 1)), [0, 0, 1, 1, 1, 0]);
  assertEquals(["lt", "ne", "geu", "eq", "nan", "num"].map((how) => compare(how, 1, 2)), [1, 1, 0, 0, 0, 1]);
});
