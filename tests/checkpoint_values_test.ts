import { writeFileSync } from "node:fs";
import { test } from "node:test";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import fc from "fast-check";
import { Adam, type CheckpointTensor, load, Parameter, save, SGD, SparseTensor, type TensorDType } from "../mod.ts";
import { arrayNameOf, TENSOR_DTYPES, viewAs } from "../src/checkpoint/value.ts";
import { pickle, tensor as tensorPickle, text, torchFile, withFolder } from "./support/checkpoints.ts";

const ENDINGS = [".pt", ".safetensors"];

/** Saves and loads, in both formats. */
async function roundTrip(content: unknown, check: (loaded: unknown, ending: string) => void): Promise<void> {
  await withFolder(async (folder) => {
    for (const ending of ENDINGS) {
      const path = join(folder, `values${ending}`);
      await save(path, content);
      check(await load(path), ending);
    }
  });
}

const comesBack = (content: unknown) =>
  roundTrip(content, (loaded, ending) => assertEquals(loaded, content, `changed by ${ending}`));

// keys that something could stumble over: prototypes, our own escapes, names that are translated elsewhere
const KEYS = [
  "__proto__",
  "constructor",
  "toString",
  "__metadata__",
  "$tensor",
  "$object",
  "$",
  "",
  "a.b",
  "a",
  "0",
  "é\ud800",
];
const KEYS_OF_STATE = [
  "state",
  "paramGroups",
  "param_groups",
  "lastEpoch",
  "lastLr",
  "stepCount",
  "expAvg",
  "nAveraged",
];
const key = fc.oneof(fc.constantFrom(...KEYS, ...KEYS_OF_STATE), fc.string({ unit: "binary", maxLength: 8 }));

const typedArray = fc.oneof(
  ...[
    fc.float64Array(),
    fc.float32Array(),
    fc.int8Array(),
    fc.int16Array(),
    fc.int32Array(),
    fc.bigInt64Array(),
    fc.bigUint64Array(),
    fc.uint8Array(),
    fc.uint8ClampedArray(),
    fc.uint16Array(),
    fc.uint32Array(),
  ] as fc.Arbitrary<unknown>[],
  fc.array(fc.float()).map((numbers) => Float16Array.from(numbers)),
);

const tensor: fc.Arbitrary<CheckpointTensor> = fc.record({
  dtype: fc.constantFrom(...Object.keys(TENSOR_DTYPES) as TensorDType[]),
  shape: fc.array(fc.nat(4), { maxLength: 4 }),
  seed: fc.nat(255),
}).map(({ dtype, shape, seed }) => {
  const size = shape.reduce((a, b) => a * b, 1), { bytes, arrays } = TENSOR_DTYPES[dtype];
  const memory = Uint8Array.from({ length: size * bytes }, (_, i) => dtype === "bool" ? i & 1 : i * 37 + seed);
  return { dtype, shape, data: viewAs(arrays[0]!, memory.buffer, 0, size) };
});

const plain = fc.oneof(
  fc.constant(null),
  fc.boolean(),
  fc.double(),
  fc.integer(),
  fc.maxSafeInteger(),
  fc.constantFrom(-0, NaN, Infinity, -Infinity, 2 ** 53, -(2 ** 53), 2 ** 60, 255, 256, 65535, 65536, 2 ** 31, 5e-324),
  fc.string({ unit: "binary" }),
  fc.bigInt(),
  fc.bigInt({ min: -(2n ** 3000n), max: 2n ** 3000n }),
);

const { tree } = fc.letrec((tie) => ({
  tree: fc.oneof({ maxDepth: 4, depthSize: "small" }, plain, typedArray, tensor, tie("list"), tie("object")),
  list: fc.array(tie("tree"), { maxLength: 5 }),
  object: fc.array(fc.tuple(key, tie("tree")), { maxLength: 6 }).map((entries) => Object.fromEntries(entries)),
}));

test("save() and load() give back any plain values, bit for bit, in both formats", async () => {
  await withFolder(async (folder) => {
    await fc.assert(
      fc.asyncProperty(tree, async (content) => {
        for (const ending of ENDINGS) {
          const path = join(folder, `any${ending}`);
          await save(path, content);
          assertEquals(bits(await load(path)), bits(content), ending);
        }
      }),
      { numRuns: 150 },
    );
  });
});

/** The same with the bits of arrays in place of their numbers: NaNs have payloads. */
function bits(value: unknown): unknown {
  const name = arrayNameOf(value);
  if (name !== undefined) {
    const { buffer, byteOffset, byteLength } = value as Uint8Array;
    return [name, [...new Uint8Array(buffer, byteOffset, byteLength)]];
  }
  if (Array.isArray(value)) return value.map(bits);
  if (typeof value !== "object" || value === null) return value;
  return Object.keys(value).map((key) => [key, bits((value as Record<string, unknown>)[key])]);
}

test("save() and load() keep objects, arrays, null, booleans and strings", () =>
  comesBack({ a: { b: [1, [2, { c: null }]], d: {} }, e: [], f: [true, false], g: "é✓🚀\ud800", h: "" }));

test("save() and load() keep numbers that JSON and Python's integers do not", () =>
  comesBack([NaN, Infinity, -Infinity, -0, 0, 5e-324, 1.7976931348623157e308, 2 ** 53, 2 ** 60, -(2 ** 31), 65536]));

test("save() and load() keep BigInt apart from numbers, whatever its size", () =>
  comesBack([0n, 5n, -1n, 2n ** 53n, -(2n ** 64n), 2n ** 2039n - 1n, 2n ** 2039n, -(2n ** 2047n), 2n ** 9000n]));

test("save() and load() keep a typed array apart from a tensor", () =>
  comesBack({
    array: Float32Array.of(1.5, NaN, -0),
    tensor: { dtype: "float32", shape: [1, 2], data: Float32Array.of(1, 2) },
    number: { dtype: "float64", shape: [], data: Float64Array.of(7) },
    bytes: Uint8Array.of(1, 255),
    clamped: Uint8ClampedArray.of(255),
    bool: { dtype: "bool", shape: [2], data: Uint8Array.of(1, 0) },
    half: { dtype: "bfloat16", shape: [2], data: Uint16Array.of(0x3f80, 0x7fc0) },
    unsigned: [Uint16Array.of(65535), Uint32Array.of(2 ** 32 - 1), BigUint64Array.of(2n ** 64n - 1n)],
    empty: [new Float64Array(0), { dtype: "int32", shape: [0, 3], data: new Int32Array(0) }],
  }));

test("save() and load() keep __proto__ and other names as keys, and no prototype changes", async () => {
  const content = JSON.parse('{ "__proto__": { "polluted": 1 }, "constructor": { "prototype": { "polluted": 1 } } }');
  await roundTrip(content, (loaded) => {
    assertEquals(loaded, content);
    assertEquals(Object.keys(loaded as object), ["__proto__", "constructor"]);
    assertEquals(Object.getPrototypeOf(loaded), Object.prototype);
    assertEquals(({} as Record<string, unknown>)["polluted"], undefined);
  });
});

test("save() and load() keep what is no object at the top", async () => {
  for (
    const content of [3, "text", null, [1, 2], Float32Array.of(1), { dtype: "int8", shape: [], data: Int8Array.of(1) }]
  ) {
    await comesBack(content);
  }
});

test("save() leaves a user's own keys as they are, also those that are translated in state", () =>
  comesBack({
    expAvg: 1,
    exp_avg: 2,
    param_groups: [{ lr: 1 }],
    state: { 0: { expAvg: 1 } },
    meta: { tMax: 1, T_max: 2, lastEpoch: 3, last_epoch: 4 },
    both: { state: {}, paramGroups: [], param_groups: [] },
    mixed: { state: { 0: { expAvg: 1, exp_avg: 2 } }, paramGroups: [{ params: [0] }] },
    scheduler: { lastEpoch: 1, lastLr: [1], stepCount: 2, last_epoch: 5 },
    averaged: { nAveraged: 2, n_averaged: 3 },
  }));

test("save() and load() keep state of bfloat16 and float16 parameters, and of a 0-d one", async () => {
  const params = [
    new Parameter([1, 2], { dtype: "bfloat16" }),
    new Parameter([1, 2], { dtype: "float16" }),
    new Parameter(Uint16Array.of(0x3c00), { dtype: "float16" }),
    new Parameter([3], { shape: [] }),
  ];
  const optimizer = new Adam(params);
  params.forEach((p) => p.grad = p.data.slice());
  optimizer.step();
  const stateDict = optimizer.stateDict();
  await roundTrip({ optimizer, stateDict }, (loaded) => assertEquals(loaded, { optimizer: stateDict, stateDict }));
});

test("save() and load() keep sparse state", async () => {
  const p = new Parameter([1, 2, 3, 4, 5, 6], { shape: [3, 2] }), optimizer = new SGD([p], { momentum: 0.9 });
  p.grad = new SparseTensor([[2, 0]], [1, 2, 3, 4], [3, 2]);
  optimizer.step();
  const stateDict = optimizer.stateDict();
  assert("indices" in (stateDict.state[0]!["momentumBuffer"] as object));
  await roundTrip({ optimizer }, (loaded) => assertEquals(loaded, { optimizer: stateDict }));
});

test("save() and load() keep lists of arrays and of numbers in state, as LBFGS and BFGS have them", () =>
  comesBack({
    state: {
      0: {
        funcEvals: 5,
        nIter: 3,
        t: 0.25,
        d: Float32Array.of(1, 2),
        oldDirs: [Float32Array.of(1, 2), Float32Array.of(3, 4)],
        ro: [0.1, NaN],
        al: [null, 0.5],
        hDiag: 1,
        prevLoss: Infinity,
        scaled: true,
        custom: { of: [Float64Array.of(1)] },
      },
    },
    paramGroups: [{ lr: 1, lineSearchFn: null, params: [0], paramShapes: [[2]], paramDtypes: ["float32"] }],
  }));

test("save() and load() keep schedulers' state as it is, also what torch has beside it", () =>
  comesBack({
    lambda: { lastEpoch: 1, baseLrs: [1], stepCount: 2, lastLr: [1] },
    torch: { lastEpoch: 1, baseLrs: [1], stepCount: 2, lastLr: [1], lrLambdas: [null], isInitial: false },
    cyclic: { lastEpoch: 1, stepCount: 2, lastLr: [1], scaleMode: "cycle", scaleFnCustom: null },
    steps: { lastEpoch: 1, stepCount: 2, lastLr: [1], gamma: 0.1, milestones: [3, 3, 5] },
    unsorted: { lastEpoch: 1, stepCount: 2, lastLr: [1], gamma: 0.1, milestones: [5, 3] },
    plateau: [null, Infinity, 1].map((best) => ({ lastEpoch: 1, numBadEpochs: 0, lastLr: [1], mode: "max", best })),
    cycle: { lastEpoch: 1, stepCount: 2, lastLr: [1], totalSteps: 9, ends: [2, 4, 8], annealStrategy: "cos" },
    swa: { lastEpoch: 1, stepCount: 2, lastLr: [1], swaLrs: [0.1], annealEpochs: 3, annealStrategy: "linear" },
    nested: {
      lastEpoch: 1,
      stepCount: 2,
      lastLr: [1],
      milestones: [2],
      schedulers: [{ lastEpoch: 1, stepCount: 2, lastLr: [1], tMax: 5 }],
    },
    own: { lastEpoch: 1, stepCount: 2, lastLr: [1], ownKey: 3, tMax: 5, t0: 6 },
  }));

test("save() and load() keep a step count beyond 2^24, and numbers to the last bit", () =>
  comesBack({
    state: { 0: { step: 2 ** 24 + 1, muProduct: 0.1 }, 1: { step: 2 ** 24, muProduct: -0 }, 2: { step: -0 } },
    paramGroups: [{ params: [0, 1, 2] }],
  }));

test("save() and load() keep 66,000 tensors, more than an archive without zip64 has room for", async () => {
  const content = Array.from({ length: 66_000 }, (_, i) => Int32Array.of(i));
  await roundTrip(content, (loaded) => {
    const arrays = loaded as Int32Array[];
    assertEquals(arrays.length, content.length);
    assert(arrays.every((array, i) => array instanceof Int32Array && array.length === 1 && array[0] === i));
  });
});

test("save() refuses what it cannot save, and says where it is", async () => {
  const cyclic: unknown[] = [];
  cyclic.push([cyclic]);
  let deep: unknown = 1;
  for (let i = 0; i < 100_000; i++) deep = [deep];
  for (
    const [content, message] of [
      [
        { a: [undefined] },
        "checkpoint.a[0] must be a model, plain values, or something with stateDict(), got undefined",
      ],
      [
        { a: { b: () => 1 } },
        "checkpoint.a.b must be a model, plain values, or something with stateDict(), got a function",
      ],
      [{ a: Symbol("s") }, "checkpoint.a must be"],
      [
        { when: new Date() },
        "checkpoint.when must be a model, plain values, or something with stateDict(), got a Date",
      ],
      [{ m: new Map() }, "got a Map"],
      [[new ArrayBuffer(1)], "checkpoint[0] must be"],
      [[new DataView(new ArrayBuffer(1))], "checkpoint[0] must be"],
      [cyclic, "must not contain itself"],
    ] as [unknown, string][]
  ) {
    for (const ending of ENDINGS) {
      await assertRejects(() => save(`nowhere${ending}`, content), TypeError, message);
    }
  }
  await assertRejects(() => save("nowhere.pt", deep), RangeError, "500 levels");
  await assertRejects(
    () => save("nowhere.pt", { big: 10n ** 200_000n }),
    RangeError,
    "checkpoint.big must have at most",
  );
});

test("save() and load() refuse a path with another ending, or none", async () => {
  for (const path of ["run.bin", "run", "run.pth", "pt", "run.PT"]) {
    await assertRejects(() => save(path, {}), RangeError, `path must end in .safetensors or .pt, got "${path}"`);
    await assertRejects(() => load(path), RangeError, "path must end in .safetensors or .pt");
  }
  await assertRejects(() => save(3 as unknown as string, {}), TypeError, "path must be a string, got 3");
});

test("load() takes the 0-d tensors that torch's rates and betas may be for numbers, in groups and schedulers alone", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "rates.pt"), single = tensorPickle("0", 1, pickle(")"), pickle(")"));
    const group = pickle("}(", text("lr"), single, text("betas"), single, single, "\x86", text("params"), "]u");
    const optimizer = pickle("}(", text("state"), "}", text("param_groups"), "](", group, "eu");
    const list = pickle("](", single, "e");
    const scheduler = pickle("}(", text("last_epoch"), "K\x03", text("base_lrs"), list, text("_last_lr"), list, "u");
    const parts = [text("optimizer"), optimizer, text("scheduler"), scheduler, text("model"), single];
    writeFileSync(path, torchFile(pickle("}(", ...parts, "u"), { 0: new Uint8Array(Float32Array.of(0.1).buffer) }));
    const rate = Math.fround(0.1);
    assertEquals(await load(path), {
      optimizer: { state: {}, paramGroups: [{ lr: rate, betas: [rate, rate], params: [] }] },
      scheduler: { lastEpoch: 3, baseLrs: [rate], lastLr: [rate] },
      model: { dtype: "float32", shape: [], data: Float32Array.of(0.1) },
    });
  });
});
