/** The CUDA kernels as text: what is shipped is what csrc/ makes, rounds as the CPU does, and assembles for every GPU. */

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { join } from "@std/path";
import { findZig, ptxSource } from "../ffi/build.ts";
import {
  CUDA_FOLD,
  CUDA_HYPERS,
  CUDA_LANES,
  CUDA_PRODUCT,
  CUDA_STEP,
  CUDA_TENSORS,
  CUDA_TRANSPOSE,
  kernelNames,
  kernelPtx,
  SUFFIX,
  TENSOR_WORD,
  TENSOR_WORDS,
} from "../ffi/cuda_kernels.ts";
import { PTX_SHA256, PTX_SIZE, PTX_ZIG } from "../ffi/cuda_ptx.ts";
import { type Entry, type Instruction, parsePtx } from "./support/ptx.ts";
import { RULE_NAMES } from "./support/ptx_rules.ts";
import { IS_BUN, ROOT } from "./support/runtime.ts";

const LIMIT = { timeout: 600_000 };
const SUFFIXES = Object.values(SUFFIX);
const text = kernelPtx(kernelNames()), { head, entries } = parsePtx(text);
const instructionsOf = (entry: Entry) => entry.body.filter((item): item is Instruction => typeof item !== "string");

test("the package carries the PTX that csrc/ makes, in every byte", LIMIT, () => {
  const bytes = new TextEncoder().encode(text);
  assertEquals(
    { size: bytes.length, hash: createHash("sha256").update(bytes).digest("hex") },
    { size: PTX_SIZE, hash: PTX_SHA256 },
  );
  let version: string;
  try {
    version = findZig().version;
  } catch (error) {
    return console.log(`skipped: ${(error as Error).message.split("\n")[0]}`);
  }
  if (version !== PTX_ZIG) return console.log(`skipped: the PTX is zig ${PTX_ZIG}'s, and this is zig ${version}`);
  const made = createHash("sha256").update(ptxSource()).digest("hex");
  assertEquals(made, PTX_SHA256, "csrc/ or the flags have changed: run deno task build --ptx");
});

test(
  "there is a kernel for each rule and dtype, those of reductions, whole tensors and products, and no other",
  LIMIT,
  () => {
    const phases = [
      ...[
        "rows",
        "columns",
        "row_averages",
        "means",
        "row_factors",
        "column_averages",
        "norm",
        "vector_norm",
        "step",
        "update",
      ],
      "vector_update",
    ].map((phase) => `adafactor_${phase}`).concat(["begin", "norm", "scale", "end"].map((phase) => `muon_${phase}`));
    const expected = SUFFIXES.flatMap((suffix) =>
      [...RULE_NAMES, "lanes", ...phases].map((name) => `${name}_${suffix}`)
    );
    const products = ["f32", "f64"].flatMap((suffix) => [`product_${suffix}`, `transpose_${suffix}`]);
    assertEquals(entries.map((entry) => entry.name).sort(), [...expected, ...products, "fold"].sort());
    assertEquals(kernelNames(), entries.map((entry) => entry.name));
  },
);

test("a module is for sm_75 and later, of 64-bit addresses, and nothing is shared by its kernels", LIMIT, () => {
  assertEquals(head, [".version 6.3", ".target sm_75", ".address_size 64"]);
  const one = parsePtx(kernelPtx(["sgd_f64"]));
  assertEquals({ head: one.head, names: one.entries.map((entry) => entry.name) }, { head, names: ["sgd_f64"] });
  assertThrows(() => kernelPtx(["adam_f32", "adam_f8"]), Error, "there is no CUDA kernel adam_f8");
});

test("each kernel takes one structure, whose size and fields TypeScript and csrc/cuda.h have alike", LIMIT, () => {
  const sizes: Record<string, number> = {
    lanes: CUDA_LANES.bytes,
    fold: CUDA_FOLD.bytes,
    adafactor: CUDA_TENSORS.bytes,
    muon: CUDA_TENSORS.bytes,
    product: CUDA_PRODUCT.bytes,
    transpose: CUDA_TRANSPOSE.bytes,
  };
  for (const { name, parameters } of entries) {
    const size = sizes[name.split("_")[0]!] ?? CUDA_STEP.bytes;
    assertEquals(parameters, [{ name: `${name}_param_0`, size }]);
  }
  const header = readFileSync(join(ROOT, "csrc", "cuda.h"), "utf8").replace(/\/\*.*?\*\//gs, "");
  assertEquals(Number(header.match(/#define FS_CUDA_HYPERS (\d+)u/)?.[1]), CUDA_HYPERS);
  const layouts = {
    ...{ step: CUDA_STEP, lanes: CUDA_LANES, fold: CUDA_FOLD, tensors: CUDA_TENSORS, product: CUDA_PRODUCT },
    transpose: CUDA_TRANSPOSE,
  };
  const words = [...header.match(/enum fs_cuda_tensor_word \{([^}]*)\}/)![1]!.matchAll(/(\w+) = (\d+)/g)];
  const named = words.map(([, name, value]) => [name!.replace("C_", "").toLowerCase(), Number(value)]);
  assertEquals(Object.fromEntries(named), { ...TENSOR_WORD, fs_cuda_tensor_words: TENSOR_WORDS });
  const width: Record<string, number> = { uint64_t: 8, double: 8, uint32_t: 4 };
  for (const [name, known] of Object.entries(layouts)) {
    const body = header.match(new RegExp(`typedef struct fs_cuda_${name} \\{([^}]*)\\}`))![1]!;
    const offsets: Record<string, number> = {};
    let at = 0;
    for (const [, type, fields] of body.matchAll(/(\w+) ([\w, [\]]+);/g)) {
      for (const field of fields!.split(", ")) {
        const [, label, count] = field.match(/^(\w+)(\[FS_CUDA_HYPERS\])?$/)!;
        if (label !== "reserved") offsets[label!] = at;
        at += width[type!]! * (count === undefined ? 1 : CUDA_HYPERS);
      }
    }
    assertEquals({ ...offsets, bytes: at }, { ...known } as Record<string, number>, name);
  }
});

/**
 * All instructions that there may be. Those on floating-point numbers are rounded to nearest (.rn), or exact: nothing is
 * contracted (fma, mad), approximated, saturated, or flushed to zero.
 */
const ALLOWED: readonly RegExp[] = [
  /^(add|sub|mul|div|sqrt|rcp)\.rn\.f(32|64)$/, // rcp: 1 / x
  /^mul\.rn\.f16$/, // where a product of two float16, exact in float32, is rounded to float16 anyway
  /^(neg|abs|max|min)\.f(32|64)$/,
  /^setp\.(eq|ne|lt|le|gt|ge|nan|num|equ|neu|ltu|leu|gtu|geu)\.f(16|32|64)$/,
  /^selp\.([bufs]32|[bufs]64|[bus]16)$/,
  /^cvt\.rn\.(f32\.f64|f16\.f32|f64\.[us]64|f64\.[us]32)$/,
  /^cvt\.(f64\.f32|f64\.f16|f32\.f16)$/,
  /^cvt\.[us](16|32|64)\.[us](16|32|64)$/,
  /^mov\.([bu]16|[bu]32|[bu]64|f32|f64|pred)$/,
  /^ld\.(global|param)\.(v2\.)?([bu]16|[bu]32|[bu]64|f32|f64)$/,
  /^st\.global\.(v2\.)?([bu]16|[bu]32|[bu]64|f32|f64)$/,
  /^(add|sub|neg)\.s(16|32|64)$/,
  /^mul\.(lo\.s(16|32|64)|wide\.[us]32)$/,
  /^(div|rem)\.u(32|64)$/,
  /^(min|max)\.[us](32|64)$/,
  /^(and|or|xor|not)\.(b16|b32|b64|pred)$/,
  /^(shl\.b|shr\.[us])(32|64)$/,
  /^(shl\.b|shr\.u)16$/,
  /^bfe\.u32$/,
  /^setp\.(eq|ne|lt|le|gt|ge)\.[bsu](16|32|64)$/,
  /^(bra|bra\.uni|ret)$/,
];
const isAllowed = (name: string) => ALLOWED.some((pattern) => pattern.test(name));

test(
  "every instruction of every kernel is an integer's, exact, or rounded to nearest: nothing else is allowed",
  LIMIT,
  () => {
    let count = 0;
    for (const entry of entries) {
      for (const { name, text } of instructionsOf(entry)) {
        assert(isAllowed(name), `${entry.name}: ${text}`);
        count++;
      }
    }
    assert(count > 10_000, `${count} instructions`);
    for (
      const name of [
        "fma.rn.f32",
        "mad.rn.f32",
        "mul.f32",
        "add.rn.ftz.f32",
        "div.approx.f32",
        "div.full.f32",
        "sqrt.approx.f32",
        "add.rz.f32",
        "add.rn.sat.f32",
        "cvt.rzi.s32.f32",
        "cvt.sat.f32.f32",
        "rsqrt.approx.f32",
        "ex2.approx.f32",
        "add.rn.f16",
        "fma.rn.bf16",
        "ld.local.f32",
        "st.shared.f32",
        "atom.global.add.f32",
        "bar.sync",
      ]
    ) {
      assert(!isAllowed(name), name);
    }
  },
);

test("a rule's kernel for a dtype computes in that dtype's arithmetic alone", LIMIT, () => {
  for (const entry of entries) {
    const [, rule, suffix] = entry.name.match(/^(\w+?)_(f32|f64|bf16|f16)$/) ?? [];
    if (rule === undefined || !RULE_NAMES.includes(rule)) continue;
    const arithmetic = instructionsOf(entry).map((i) => i.name).filter((name) =>
      /^(add|sub|mul|div|sqrt)\.rn/.test(name)
    );
    const types = new Set(arithmetic.map((name) => name.split(".")[2]));
    types.delete(suffix === "f16" ? "f16" : "");
    for (const type of types) assertEquals(type, suffix === "f64" ? "f64" : "f32", entry.name);
  }
});

/** ptxas of a CUDA toolkit, or null. */
function findPtxas(): string | null {
  const name = process.platform === "win32" ? "ptxas.exe" : "ptxas";
  const folders = [process.env["CUDA_HOME"], process.env["CUDA_PATH"], "/usr/local/cuda", "/opt/cuda"];
  const paths = folders.filter((folder) => folder !== undefined).map((folder) => join(folder, "bin", name));
  return [name, ...paths.filter((path) => existsSync(path))].find((path) => {
    return spawnSync(path, ["--version"], { stdio: "ignore" }).status === 0;
  }) ?? null;
}

for (const arch of ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]) {
  test(`every kernel assembles for ${arch}, without a stack and without spilling registers`, LIMIT, () => {
    if (IS_BUN) return console.log("skipped: it takes long, and `deno test` does it: ptxas is the same for both");
    const ptxas = findPtxas(), folder = mkdtempSync(join(tmpdir(), "flatstep-ptx-"));
    if (ptxas === null) return console.log("skipped: there is no ptxas (of a CUDA toolkit) on this machine");
    try {
      const source = join(folder, "flatstep.ptx");
      writeFileSync(source, text);
      const { status, stderr } = spawnSync(ptxas, [`-arch=${arch}`, "-v", source, "-o", join(folder, "out.cubin")], {
        encoding: "utf8",
        maxBuffer: 1 << 26,
      });
      if (/is not defined for option|Unsupported gpu architecture/.test(stderr)) {
        return console.log(`skipped: this ptxas does not know ${arch}`);
      }
      assertEquals(status, 0, `${arch}: ${stderr.slice(0, 400)}`);
      const frames = [
        ...stderr.matchAll(/(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/g),
      ];
      for (const [line, ...bytes] of frames) assertEquals(bytes, ["0", "0", "0"], `${arch}: ${line}`);
      const registers = [...stderr.matchAll(/Used (\d+) registers/g)].map(([, count]) => Number(count));
      assertEquals([frames.length, registers.length], [entries.length, entries.length]);
      const most = Math.max(...registers), total = registers.reduce((a, b) => a + b, 0);
      assert(most * 256 <= 65536, `a block of 256 threads needs ${most * 256} registers, of 65536`);
      console.log(
        `${arch}: ${entries.length} kernels, ${
          (total / entries.length).toFixed(1)
        } registers on average, at most ${most}`,
      );
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}
