import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { join } from "@std/path";
import {
  type CheckpointTensor,
  load,
  loadModelStateDict,
  modelStateDict,
  type NamedTensors,
  Parameter,
  save,
  StateDictError,
} from "../mod.ts";
import { GOLDEN, withFolder } from "./support/checkpoints.ts";

/** A model of a linear layer and a batch norm. */
function makeModel(fill: number) {
  const weight = new Parameter(new Float32Array(6).fill(fill), { shape: [2, 3] });
  const half = new Parameter([fill], { dtype: "bfloat16" });
  const mean = new Float32Array(2).fill(fill), count = new Int32Array(1).fill(fill);
  return {
    weight,
    half,
    mean,
    count,
    *namedParameters(): Iterable<[string, Parameter]> {
      yield ["weight", weight];
      yield ["half", half];
    },
    *namedBuffers(): Iterable<[string, Float32Array | Int32Array]> {
      yield ["mean", mean];
      yield ["count", count];
    },
  };
}

test("modelStateDict() gives parameters and buffers by name, as a snapshot", () => {
  const model = makeModel(1), dict = modelStateDict(model);
  model.weight.data.fill(5);
  assertEquals(dict, {
    weight: { dtype: "float32", shape: [2, 3], data: new Float32Array(6).fill(1) },
    half: { dtype: "bfloat16", shape: [1], data: Uint16Array.of(0x3f80) },
    mean: { dtype: "float32", shape: [2], data: Float32Array.of(1, 1) },
    count: { dtype: "int32", shape: [1], data: Int32Array.of(1) },
  });
});

test("loadModelStateDict() writes in place, also what has been saved and loaded in either format", async () => {
  await withFolder(async (folder) => {
    for (const ending of [".pt", ".safetensors"]) {
      const path = join(folder, `model${ending}`), from = makeModel(3), to = makeModel(0), { data } = to.weight;
      await save(path, { model: from });
      assertEquals(loadModelStateDict(to, (await load(path)).model), { missingKeys: [], unexpectedKeys: [] });
      assertEquals(modelStateDict(to), modelStateDict(from));
      assert(to.weight.data === data);
    }
  });
});

test("loadModelStateDict() takes what torch wrote for a module", async () => {
  const { model: dict } = await load(join(GOLDEN, "training.pt"));
  const shapes: Record<string, number[]> = {
    "0.weight": [4, 3],
    "0.bias": [4],
    "1.weight": [4],
    "1.bias": [4],
    "3.weight": [2, 4],
    "3.bias": [2],
  };
  const params = Object.entries(shapes).map(([name, shape]): [string, Parameter] => [
    name,
    new Parameter(new Float32Array(shape.reduce((a, b) => a * b)), { shape }),
  ]);
  const count = new Int32Array(1), mean = new Float32Array(4), variance = new Float32Array(4);
  const model: NamedTensors = {
    namedParameters: () => params,
    namedBuffers: () => [["1.running_mean", mean], ["1.running_var", variance], ["1.num_batches_tracked", count]],
  };
  loadModelStateDict(model, dict);
  assertEquals(count[0], 3); // torch's int64 without dimensions
  for (const [name, { data }] of params) assertEquals(data, dict[name].data);
});

test("loadModelStateDict() refuses what does not fit, and changes nothing", () => {
  const good = modelStateDict(makeModel(2));
  const float = (shape: number[]): CheckpointTensor => ({
    dtype: "float32",
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)),
  });
  const { weight: _, ...without } = good;
  for (
    const [dict, message] of [
      [{ ...good, weight: float([3, 2]) }, '"weight" has shape [3, 2] in the state dict, [2, 3] in the model'],
      [{ ...good, weight: float([5]) }, '"weight" has 5 elements in the state dict, 6 in the model'],
      [{ ...good, half: float([1]) }, '"half" is float32 in the state dict, bfloat16 in the model'],
      [{ ...good, count: float([1]) }, '"count" is float32 in the state dict, int32 in the model'],
      [
        { ...good, count: { dtype: "int64", shape: [], data: BigInt64Array.of(2n ** 40n) } },
        '"count" must be int32, got 1099511627776',
      ],
      [
        { ...good, mean: { ...float([2]), shape: [3] } },
        '"mean" must be { dtype, shape, data } that go with each other',
      ],
      [{ ...good, mean: 3 }, '"mean" must be'],
      [without, 'the state dict lacks "weight"'],
      [{ ...good, more: float([1]) }, 'the state dict has "more", which the model has not'],
      [null, "a model's state dict must be an object, got null"],
    ] as [Record<string, CheckpointTensor>, string][]
  ) {
    const model = makeModel(1);
    assertThrows(() => loadModelStateDict(model, dict), StateDictError, message);
    assertEquals(modelStateDict(model), modelStateDict(makeModel(1)));
  }
});

test("loadModelStateDict() with strict: false takes what there is, and says what there is not", () => {
  const model = makeModel(1), { weight, half } = modelStateDict(makeModel(2));
  const found = loadModelStateDict(model, { weight: weight!, half: half!, more: half! }, { strict: false });
  assertEquals(found, { missingKeys: ["mean", "count"], unexpectedKeys: ["more"] });
  assertEquals([model.weight.data[0], model.mean[0]], [2, 1]);
});

test("modelStateDict() and loadModelStateDict() refuse what is no model, and unknown options", () => {
  assertThrows(
    () => modelStateDict({} as NamedTensors),
    TypeError,
    "must be a model with namedParameters(), got an object",
  );
  const twice = {
    namedParameters: () => [["a", new Parameter([1])], ["a", new Parameter([1])]] as [string, Parameter][],
  };
  assertThrows(() => modelStateDict(twice), RangeError, "must not have a name twice");
  const none = { namedParameters: () => [["a", [1]]] as [string, unknown][] };
  assertThrows(() => modelStateDict(none), TypeError, '"a" of the model must be a Parameter or a typed array');
  assertThrows(() => loadModelStateDict(makeModel(1), {}, { strct: true } as object), TypeError, "it has strict");
  assertThrows(() => loadModelStateDict(makeModel(1), {}, { strict: 1 as unknown as boolean }), TypeError, "got 1");
});

test("modelStateDict() keeps a parameter called __proto__ as its own key", () => {
  const dict = modelStateDict({ namedParameters: () => [["__proto__", new Parameter([1])]] });
  assertEquals(Object.keys(dict), ["__proto__"]);
  assertEquals(Object.getPrototypeOf(dict), Object.prototype);
});
