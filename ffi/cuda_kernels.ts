/**
 * The CUDA kernels: their text (PTX), and how what they take lies in memory. csrc/cuda.h says what it means.
 *
 * @module
 */

import type { DType } from "../src/dtype.ts";
import { type CompressedPtx, fetched } from "./cuda_fetch.ts";
import { builtin, readGenerated } from "./runtime.ts";

/** What a kernel's name ends with: adam_f32. */
export const SUFFIX: Readonly<Record<DType, string>> = {
  float32: "f32",
  float64: "f64",
  bfloat16: "bf16",
  float16: "f16",
};

/** Hyperparameters that a step's kernel takes, used or not. */
export const CUDA_HYPERS = 13;

/** Elements of a chunk of a step should be a multiple of this: less is computed one element at a time. */
export const CUDA_TILE = 1024;

/** Where the fields of struct fs_cuda_step are, in bytes, and its size. */
export const CUDA_STEP = {
  table: 0,
  chunks: 8,
  count: 16,
  words: 24,
  length: 28,
  unscale: 32,
  clip: 40,
  hypers: 48,
  bytes: 152,
} as const;

/** The same of struct fs_cuda_lanes. */
export const CUDA_LANES = {
  table: 0,
  chunks: 8,
  count: 16,
  out: 24,
  words: 32,
  x: 36,
  y: 40,
  op: 44,
  factor: 48,
  bytes: 64,
} as const;

/** The same of struct fs_cuda_fold. */
export const CUDA_FOLD = { lanes: 0, out: 8, count: 16, op: 24, bytes: 32 } as const;

/** The same of struct fs_cuda_tensors. */
export const CUDA_TENSORS = { table: 0, chunks: 8, count: 16, length: 24, bytes: 32 } as const;

/** The same of struct fs_cuda_product. */
export const CUDA_PRODUCT = {
  m: 0,
  n: 8,
  k: 16,
  a: 24,
  b: 32,
  add: 40,
  out: 48,
  a_row: 56,
  a_column: 64,
  b_row: 72,
  alpha: 80,
  beta: 88,
  symmetric: 96,
  bytes: 104,
} as const;

/** The same of struct fs_cuda_transpose. */
export const CUDA_TRANSPOSE = { rows: 0, columns: 8, from: 16, to: 24, bytes: 32 } as const;

/** A tensor's row in the table of a rule that looks at whole tensors (enum fs_cuda_tensor_word), and its length. */
export const TENSOR_WORD = {
  size: 0,
  matrices: 1,
  rows: 2,
  columns: 3,
  param: 4,
  grad: 5,
  first: 6,
  second: 7,
  hypers: 8,
  chunk_sums: 9,
  result: 10,
  x: 11,
  last: 12,
  row_lanes: 13,
  row_sums: 14,
  column_sums: 15,
  row_factors: 16,
  means: 17,
  factors: 18,
  unit_lanes: 19,
  unit_sums: 20,
} as const;
/** Words of such a row. */
export const TENSOR_WORDS = 21;

/** `op` for the sum of the squares of x * factor; the others are as in {@linkcode REDUCTIONS}. */
export const SUM_SQ_SCALED = 5;

/** The kernels by name, and what comes before each of them in a module. */
interface Kernels {
  readonly head: string;
  readonly entries: ReadonlyMap<string, string>;
}

let unpacked: Kernels | null = null;

/** The compressed text: what was fetched, else a file beside this one. */
function compressed(): CompressedPtx {
  if (fetched !== null) return fetched;
  if (!import.meta.url.startsWith("file:")) {
    throw new Error(
      "the CUDA kernels were not fetched: no device was seen, or FFI not granted, when the package was imported",
    );
  }
  const found = readGenerated(import.meta.url, "./cuda_ptx", "deno task build --ptx");
  if (found === null) throw new Error("the package's CUDA kernels are missing");
  return { PTX_SHA256: found.sha256, PTX_SIZE: found.size, PTX_BROTLI: found.compressed };
}

function kernels(): Kernels {
  if (unpacked) return unpacked;
  const { PTX_SHA256, PTX_SIZE, PTX_BROTLI } = compressed();
  const { Buffer } = builtin<typeof import("node:buffer")>("node:buffer");
  const { createHash } = builtin<typeof import("node:crypto")>("node:crypto");
  const { brotliDecompressSync } = builtin<typeof import("node:zlib")>("node:zlib");
  const bytes = brotliDecompressSync(Buffer.from(PTX_BROTLI, "base64"), { maxOutputLength: PTX_SIZE });
  if (bytes.length !== PTX_SIZE || createHash("sha256").update(bytes).digest("hex") !== PTX_SHA256) {
    throw new Error("the package's CUDA kernels are damaged");
  }
  const [head, ...entries] = new TextDecoder().decode(bytes).split(/^(?=\.visible \.entry )/m);
  unpacked = {
    head: head!,
    entries: new Map(entries.map((text) => [text.match(/^\.visible \.entry (\w+)/)![1]!, text])),
  };
  return unpacked;
}

/** The names of all kernels. */
export function kernelNames(): string[] {
  return [...kernels().entries.keys()];
}

/**
 * Some kernels as the text of a module. They have nothing in common, so that each may be compiled when it is first needed:
 * all of them take the driver seconds, one some milliseconds.
 *
 * @throws {Error} if there is no such kernel, or the package is damaged
 */
export function kernelPtx(names: readonly string[]): string {
  const { head, entries } = kernels();
  return head + names.map((name) => {
    const text = entries.get(name);
    if (text === undefined) throw new Error(`there is no CUDA kernel ${name}`);
    return text;
  }).join("");
}
