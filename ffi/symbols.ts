/**
 * The C ABI of csrc/flatstep.h, once, in neutral terms, and its translation for each runtime's FFI.
 *
 * @module
 */

import type { TypedArray } from "../src/dtype.ts";

/** FS_ABI_VERSION of the header this file was written against. */
export const ABI_VERSION = 3;

type Type = "u32" | "i32" | "buffer" | "void";

/** [parameters, result] of each function; the C line is in csrc/flatstep.h. */
export const SYMBOLS = {
  fs_abi_version: [[], "u32"],
  fs_cpu_count: [[], "u32"],
  fs_isa: [[], "u32"],
  fs_set_isa: [["u32"], "u32"],
  fs_set_grain: [["u32"], "void"],
  fs_set_awake: [["u32"], "void"],
  fs_rule_find: [["buffer"], "i32"],
  fs_rule_describe: [["u32", "buffer", "u32"], "i32"],
  fs_bind: [["buffer", "u32", "buffer"], "void"],
  fs_bind_arrays: [
    ["buffer", "u32", "u32", "buffer", "buffer", "buffer", "buffer", "buffer", "buffer", "buffer", "buffer"],
    "i32",
  ],
  fs_make_spans: [["buffer", "u32"], "i32"],
  fs_bind_rows: [["buffer", "u32", "u32", "u32", "buffer", "u32", "u32", "buffer", "u32", "buffer"], "i32"],
  fs_sum_rows: [["u32", "buffer", "u32", "u32", "buffer", "u32", "buffer", "buffer"], "i32"],
  fs_huge_pages: [["buffer", "u32", "u32"], "i32"],
  fs_wake: [[], "void"],
  fs_profile: [["u32", "buffer"], "i32"],
  fs_run: [["buffer", "u32", "u32"], "i32"],
  fs_step: [["buffer", "u32", "u32", "buffer", "buffer", "u32", "u32"], "i32"],
  fs_reduce: [["u32", "u32", "buffer", "u32", "buffer", "u32", "buffer", "u32"], "i32"],
  fs_tensor_scratch: [["u32", "u32", "buffer", "u32", "u32", "buffer"], "i32"],
  fs_run_tensors: [["u32", "u32", "buffer", "u32", "buffer", "buffer", "u32", "u32"], "i32"],
  fs_matmul_scratch: [["u32", "u32"], "u32"],
  fs_matmul: [["u32", "buffer", "buffer", "u32", "u32"], "i32"],
  fs_combine: [["u32", "buffer", "buffer", "u32", "buffer", "u32"], "i32"],
  fs_packed_scratch: [["u32"], "u32"],
  fs_packed_product: [["u32", "u32", "buffer", "buffer", "buffer", "buffer", "u32", "u32"], "i32"],
  fs_packed_update: [["u32", "u32", "buffer", "buffer", "buffer", "buffer", "u32", "u32"], "i32"],
} as const satisfies Record<string, readonly [readonly Type[], Type]>;

/** Memory that a call reads or writes during the call. */
export type Memory = TypedArray | Uint8Array | Uint32Array;

/** The functions, as both runtimes hand them out. */
export interface Functions {
  fs_abi_version(): number;
  fs_cpu_count(): number;
  fs_isa(): number;
  fs_set_isa(isa: number): number;
  fs_set_grain(bytes: number): void;
  fs_set_awake(on: number): void;
  fs_rule_find(name: Memory): number;
  fs_rule_describe(rule: number, text: Memory, capacity: number): number;
  fs_bind(words: Memory, index: number, target: Memory): void;
  fs_bind_arrays(
    binding: Memory,
    first: number,
    count: number,
    a0: Memory,
    a1: Memory,
    a2: Memory,
    a3: Memory,
    a4: Memory,
    a5: Memory,
    a6: Memory,
    a7: Memory,
  ): number;
  fs_make_spans(words: Memory, count: number): number;
  fs_bind_rows(
    words: Memory,
    index: number,
    stride: number,
    count: number,
    rows: Memory | null,
    dtype: number,
    length: number,
    base: Memory,
    limit: number,
    positions: Memory | null,
  ): number;
  fs_sum_rows(
    dtype: number,
    out: Memory,
    count: number,
    length: number,
    values: Memory,
    limit: number,
    sources: Memory,
    starts: Memory,
  ): number;
  fs_huge_pages(base: Memory, kib: number, now: number): number;
  fs_wake(): void;
  fs_profile(on: number, nanoseconds: Memory): number;
  fs_run(jobs: Memory, count: number, threads: number): number;
  fs_step(
    jobs: Memory,
    count: number,
    phases: number,
    step: Memory,
    partials: Memory,
    partialsLength: number,
    threads: number,
  ): number;
  fs_reduce(
    op: number,
    dtype: number,
    table: Memory,
    rows: number,
    partials: Memory,
    partialsLength: number,
    results: Memory,
    threads: number,
  ): number;
  fs_tensor_scratch(
    rule: number,
    dtype: number,
    table: Memory,
    count: number,
    threads: number,
    length: Memory,
  ): number;
  fs_run_tensors(
    rule: number,
    dtype: number,
    table: Memory,
    count: number,
    hypers: Memory,
    scratch: Memory,
    scratchLength: number,
    threads: number,
  ): number;
  fs_matmul_scratch(dtype: number, threads: number): number;
  fs_matmul(dtype: number, product: Memory, scratch: Memory, scratchLength: number, threads: number): number;
  fs_combine(
    dtype: number,
    pass: Memory,
    partials: Memory,
    partialsLength: number,
    results: Memory,
    threads: number,
  ): number;
  fs_packed_scratch(n: number): number;
  fs_packed_product(
    dtype: number,
    n: number,
    matrix: Memory,
    v: Memory,
    out: Memory,
    scratch: Memory,
    scratchLength: number,
    threads: number,
  ): number;
  fs_packed_update(
    dtype: number,
    n: number,
    matrix: Memory,
    u: Memory,
    s: Memory,
    scratch: Memory,
    scratchLength: number,
    threads: number,
  ): number;
}

type Name = keyof typeof SYMBOLS;

function entries(names: readonly string[] = Object.keys(SYMBOLS)): [string, readonly Type[], Type][] {
  return names.map((name) => [name, ...SYMBOLS[name as Name]]);
}

/** The symbols, or some of them, as Deno.dlopen takes them. */
export function toDeno(names?: readonly string[]): Record<string, { parameters: readonly string[]; result: string }> {
  return Object.fromEntries(entries(names).map(([name, parameters, result]) => [name, { parameters, result }]));
}

/** The symbols, or some of them, as bun:ffi's dlopen takes them. */
export function toBun(names?: readonly string[]): Record<string, { args: string[]; returns: string }> {
  const type = (t: Type) => t === "buffer" ? "ptr" : t;
  return Object.fromEntries(
    entries(names).map(([name, parameters, result]) => [name, { args: parameters.map(type), returns: type(result) }]),
  );
}

/** What a status other than 0 means (enum fs_status). */
export const STATUS: Readonly<Record<number, string>> = {
  [-1]: "a null pointer where memory is needed",
  [-2]: "no such rule",
  [-3]: "no such dtype",
  [-4]: "a flag that the rule does not have",
  [-5]: "a row of hyperparameters that is not there",
  [-6]: "a length that no memory can have",
  [-7]: "a pointer that is not a multiple of its element's size",
  [-8]: "no such reduction",
  [-9]: "a scratch array that is too short",
  [-10]: "a row that is not there",
  [-11]: "a shape that the rule does not take",
  [-12]: "an array that shares memory with what is written",
};
