/** Averaged models on a CUDA device: the bits of the cpu, wherever model and average are. On the stand-in, or on a real device. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "@std/path";
import {
  AveragedModel,
  type AveragedModelOptions,
  type AveragedStateDict,
  cuda,
  CudaError,
  DeviceArray,
  type DType,
  foreach,
  getEmaAvgFn,
  getEmaMultiAvgFn,
  getSwaMultiAvgFn,
  load,
  type Module,
  Parameter,
  save,
  type TypedArray,
  updateBn,
} from "../mod.ts";
import { DTYPES } from "../src/dtype.ts";
import { assertSameBits } from "./support/bits.ts";
import { cudaTest, deviceNames } from "./support/cuda.ts";
import { eachFailure } from "./support/cuda_failures.ts";
import { hashNumbers, typed } from "./support/golden.ts";

type Place = Parameters<Parameter["to"]>[0];
const SIZES = [0, 1, 300, 4097];

/** Parameters of all dtypes, one of them tied, buffers of numbers and of integers. */
class Model implements Module {
  readonly named: [string, Parameter][];
  readonly running: Parameter;
  readonly counts = Int32Array.of(0, 7);

  constructor(places: readonly Place[], dtypes: readonly DType[] = DTYPES) {
    const params = dtypes.flatMap((dtype) => SIZES.map((n) => ({ dtype, n })))
      .map(({ dtype, n }) => new Parameter(typed(new Float64Array(n), dtype), { dtype }));
    params.forEach((p, i) => p.to(places[i % places.length]!));
    this.named = [...params, params[1]!].map((p, i) => [`p${i}`, p]);
    this.running = new Parameter(new Float64Array(5)).to(places[0]!);
  }
  namedParameters(): Iterable<[string, Parameter]> {
    return this.named;
  }
  *namedBuffers(): Iterable<[string, Parameter | Int32Array]> {
    yield ["running", this.running];
    yield ["counts", this.counts];
  }
  get tensors(): Parameter[] {
    return [...this.named.map(([, p]) => p), this.running];
  }
  /** Other weights, as training gives. */
  learn(t: number): void {
    this.tensors.forEach((p, i) => {
      const values = typed(hashNumbers(100 * t + i, p.size, 2), p.dtype);
      if (p.deviceArray !== null) p.deviceArray.set(values);
      else p.data.set(values as Float64Array);
    });
    this.counts[0] = t;
  }
  to(places: readonly Place[]): void {
    this.tensors.forEach((p, i) => p.to(places[i % places.length]!));
  }
  async values(): Promise<TypedArray[]> {
    return [...await Promise.all(this.tensors.map((p) => p.toHost())), Float64Array.from(this.counts)];
  }
  dispose(): void {
    for (const p of this.tensors) p.dispose();
  }
  forward(): void {}
}

async function assertSame(actual: Model, expected: Model, what: string): Promise<void> {
  const others = await expected.values();
  (await actual.values()).forEach((values, i) => {
    assertSameBits(values, others[i]!, actual.tensors[i]?.dtype ?? "float64", `${what}, tensor ${i}`);
  });
}

const AVERAGES: [string, AveragedModelOptions][] = [
  ["the equal average", {}],
  ["the equal average with buffers", { useBuffers: true }],
  ["getEmaMultiAvgFn", { multiAvgFn: getEmaMultiAvgFn(0.9) }],
  ["getEmaMultiAvgFn with warmup", { multiAvgFn: getEmaMultiAvgFn(0.9, { warmup: true }), useBuffers: true }],
  ["getSwaMultiAvgFn", { multiAvgFn: getSwaMultiAvgFn() }],
  ["an avgFn", { avgFn: getEmaAvgFn(0.9) }],
  ["a multiAvgFn of one's own", { multiAvgFn: (a, b) => (foreach.mul_(a, 0.25), foreach.add_(a, b, { alpha: 0.75 })) }],
];

for (const [name, options] of AVERAGES) {
  cudaTest(`${name} has the same bits on devices as on the cpu, and stays there`, async () => {
    const [first, second] = deviceNames(), places = [first!, second!, "cpu", first!] as const;
    const host = new Model(["cpu"]), mixed = new Model(places);
    const expected = new AveragedModel(host, options);
    using averaged = new AveragedModel(mixed, options);
    assertEquals(averaged.module.tensors.map((p) => p.device), mixed.tensors.map((p) => p.device));
    for (let t = 0; t < 5; t++) {
      host.learn(t);
      mixed.learn(t);
      expected.updateParameters(host);
      averaged.updateParameters(mixed);
      await assertSame(averaged.module, expected.module, `update ${t}`);
      await assertSame(mixed, host, `the model after update ${t}`);
    }
    mixed.dispose();
  });

  cudaTest(`${name} has the same bits where the model is elsewhere, and moves`, async () => {
    const [first, second] = deviceNames(), host = new Model(["cpu"]), moving = new Model([first!]);
    const expected = new AveragedModel(host, options);
    using averaged = new AveragedModel(moving, options);
    const journey: readonly Place[][] = [["cpu"], [first!, "cpu"], [first!], [second!, "cpu"], ["cpu"], [second!]];
    for (const [t, places] of journey.entries()) {
      moving.to(places);
      if (t === 3) averaged.module.to(["cpu"]);
      if (t === 5) averaged.module.to([first!, "cpu", second!]);
      const where = averaged.module.tensors.map((p) => p.device);
      for (const model of [host, moving]) model.learn(t);
      expected.updateParameters(host);
      averaged.updateParameters(moving);
      await assertSame(averaged.module, expected.module, `update ${t}`);
      assertEquals(averaged.module.tensors.map((p) => p.device), where, "the average has moved");
    }
    moving.dispose();
  });
}

cudaTest("an average's copy is on the same device, in memory of its own, with what is tied tied", async () => {
  const model = new Model(["cuda"], ["float32"]);
  model.learn(1);
  using averaged = new AveragedModel(model);
  const { named, tensors } = averaged.module;
  assert(named.at(-1)![1] === named[1]![1] && named[1]![1] !== model.named[1]![1]);
  tensors.forEach((p, i) => {
    assertEquals(p.device, model.tensors[i]!.device);
    if (p.size > 0) assert(p.deviceArray!.address !== model.tensors[i]!.deviceArray!.address);
  });
  await assertSame(averaged.module, model, "the copy");
  model.learn(2);
  assert((await tensors[2]!.toHost())[0] !== (await model.tensors[2]!.toHost())[0]);
  // another library's memory is copied into our own
  const library = new Parameter([1, 2]).to("cuda"),
    view = cuda.fromPointer(library.deviceArray!.address, 2, "float32", library);
  const foreign = {
    w: new Parameter(view),
    *namedParameters() {
      yield ["w", this.w] as [string, Parameter];
    },
    forward() {},
  };
  const copy = new AveragedModel(foreign);
  copy.dispose();
  assertEquals([...await foreign.w.toHost()], [1, 2]);
  assertThrows(
    () => copy.updateParameters(foreign),
    TypeError,
    "must be there, and DeviceArray(float32 [2], cuda:0) has been disposed",
  );
  library.dispose();
  model.dispose();
});

cudaTest("clone() of a model on a device is used, and may put the copy elsewhere", async () => {
  class Cloned extends Model {
    clone(): this {
      return new Cloned(["cpu"], ["float32"]) as this;
    }
  }
  const model = new Cloned(["cuda"], ["float32"]);
  model.learn(1);
  const averaged = new AveragedModel(model);
  assert(averaged.module.tensors.every((p) => p.device === "cpu"));
  await assertSame(averaged.module, model, "the clone");
  model.dispose();
});

cudaTest("an update is one launch for each dtype and device, and uploads nothing once it has begun", (s) => {
  if (s === null) return console.log("skipped: only the stand-in counts calls");
  const model = new Model(["cuda"]), CALLS = ["cuLaunchKernel", "cuMemcpyHtoD_v2", "cuMemAlloc_v2", "cuMemcpyDtoH_v2"];
  const live = s.live();
  {
    using averaged = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn(), useBuffers: true });
    for (let t = 0; t < 3; t++) averaged.updateParameters(model);
    for (let t = 0; t < 3; t++) {
      new Parameter([1]).to("cuda").dispose(); // a move that has nothing to do with it
      const before = CALLS.map(s.calls);
      averaged.updateParameters(model);
      assertEquals(CALLS.map((call, i) => s.calls(call) - before[i]!), [4, 0, 0, 0]);
    }
    assert(s.queued() > 0, "it has waited");
  }
  assertEquals(s.live(), live, "dispose() has left something");
  model.dispose();
});

cudaTest("swap() puts averaged weights into a model on a device, and its own back", async (s) => {
  const [first, second] = deviceNames(), model = new Model([first!, "cpu"]), live = s?.live();
  const averaged = new AveragedModel(model);
  model.learn(1);
  averaged.updateParameters(model);
  model.learn(2);
  const own = await model.values(), arrays = model.tensors.map((p) => p.deviceArray ?? p.data);
  const isBack = async (what: string) => {
    (await model.values()).forEach((values, i) => assertEquals(values, own[i], `${what}, tensor ${i}`));
    assertEquals(model.counts[0], 2);
  };
  const seen = await averaged.swap(model, async () => {
    await assertSame(model, averaged.module, "inside");
    assertThrows(() => averaged.updateParameters(model), TypeError, "await swap() first");
    model.learn(9); // is undone
    return "seen";
  });
  assertEquals(seen, "seen");
  await isBack("after");
  assert(model.tensors.every((p, i) => (p.deviceArray ?? p.data) === arrays[i]));
  await assertRejects(
    () =>
      averaged.swap(model, () => {
        model.learn(9);
        throw new RangeError("mine");
      }),
    RangeError,
    "mine",
  );
  await isBack("after an error");
  await averaged.swap(model, () => model.to([second!, first!, "cpu"])); // stays there
  await isBack("after a move");
  assertEquals(model.tensors.slice(0, 3).map((p) => p.device), [second!, first!, "cpu"]);
  await averaged.swap(model, () => model.tensors[2]!.dispose());
  model.tensors[2]!.to("cpu");
  await isBack("after all");
  model.to(["cpu"]);
  await averaged.swap(model, () => model.to([first!]));
  await isBack("after a move from the host");
  averaged.updateParameters(model);
  model.to(["cpu"]);
  averaged.updateParameters(model);
  averaged.dispose();
  if (s !== null) assertEquals(s.live(), live! - arrays.filter((a) => a instanceof DeviceArray && a.length > 0).length);
});

cudaTest("state dicts of averages on a device are the host's, load onto a device, and are saved", async () => {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-"));
  const host = new Model(["cpu"]), device = new Model(["cuda"]);
  const expected = new AveragedModel(host), averaged = new AveragedModel(device);
  try {
    for (let t = 0; t < 3; t++) {
      for (const model of [host, device]) model.learn(t);
      expected.updateParameters(host);
      averaged.updateParameters(device);
    }
    const dict = averaged.stateDict();
    assertEquals(dict, expected.stateDict());
    assertEquals(structuredClone(dict), dict);
    using again = new AveragedModel(device);
    again.loadStateDict(structuredClone(dict));
    assertEquals(again.module.tensors.map((p) => p.device), device.tensors.map((p) => p.device));
    await assertSame(again.module, expected.module, "loaded");
    const before = again.stateDict(), wrong = structuredClone(dict);
    wrong["module.p2"]!.data = new Float32Array(1);
    assertThrows(() => again.loadStateDict(wrong), Error, "module.p2");
    assertEquals(again.stateDict(), before);
    for (const ending of ["safetensors", "pt"]) {
      const path = join(folder, `average.${ending}`);
      await save(path, { averaged });
      assertEquals((await load(path) as { averaged: AveragedStateDict }).averaged, expected.stateDict());
    }
  } finally {
    rmSync(folder, { recursive: true });
    averaged.dispose();
    device.dispose();
  }
});

/** A batch norm whose statistics are where they are. */
class Norm {
  runningMean: TypedArray | DeviceArray = Float32Array.of(7, 8);
  runningVar: TypedArray | DeviceArray = Float32Array.of(9, 10);
  momentum: number | null = 0.1;
  numBatchesTracked = 5;
  training = false;
  resetRunningStats(): void {
    this.runningMean.fill(0);
    this.runningVar.fill(1);
    this.numBatchesTracked = 0;
  }
}

cudaTest("updateBn works with parameters on a device, and with statistics there", async () => {
  for (const place of ["cpu", "cuda"] as const) {
    const norm = new Norm(), weight = new Parameter([1]).to("cuda");
    const mean = new Parameter(norm.runningMean as Float32Array).to(place),
      variance = new Parameter(norm.runningVar as Float32Array).to(place);
    if (place === "cuda") [norm.runningMean, norm.runningVar] = [mean.deviceArray!, variance.deviceArray!];
    const model = {
      weight,
      norm,
      *namedParameters() {
        yield ["weight", this.weight] as [string, Parameter];
      },
      *modules() {
        yield this.norm;
      },
      forward(x: number) {
        if (x < 0) throw new RangeError("below 0");
        assertEquals(norm.momentum, null);
        foreach.add_([norm.runningMean], (x - 0) / ++norm.numBatchesTracked);
      },
    };
    using averaged = new AveragedModel(model);
    assertEquals(averaged.module.namedParameters().next().value![1].device, "cuda:0");
    await assertRejects(() => updateBn([3, -1], model), RangeError, "below 0");
    assertEquals([...await mean.toHost()], [7, 8]);
    assertEquals([[...await variance.toHost()], norm.numBatchesTracked, norm.momentum], [[9, 10], 5, 0.1]);
    await updateBn([3, 5], model);
    assertEquals([...await mean.toHost()], [5.5, 5.5]);
    assertEquals([[...await variance.toHost()], norm.numBatchesTracked, norm.momentum], [[1, 1], 2, 0.1]);
    for (const p of [weight, mean, variance]) p.dispose();
  }
});

cudaTest("an average in which the driver fails changes nothing and keeps nothing", async (s) => {
  if (s === null) return console.log("skipped: only the stand-in fails when it is told to");
  const model = new Model(["cuda"], ["float32"]), host = new Model(["cpu"], ["float32"]);
  model.learn(1);
  let live = s.live();
  let made: AveragedModel<Model> | null = null;
  const failures = await eachFailure(s, () => made?.dispose(), () => made = new AveragedModel(model), (what) => {
    made = null;
    assertEquals(s.live(), live, what);
  });
  assert(failures >= 4, `only ${failures} calls could fail`);
  const averaged = made!;
  averaged.updateParameters(model);
  const dict = averaged.stateDict(), other = structuredClone(dict);
  for (
    const [name, work] of [
      ["updateParameters()", () => averaged.updateParameters(model)],
      ["updateParameters() of a model elsewhere", () => averaged.updateParameters(host)],
      ["swap()", () => averaged.swap(model, () => 1)],
    ] as const
  ) {
    averaged.loadStateDict(dict);
    model.learn(2);
    const own = await model.values();
    const settle = () => { // has on the device what an average of this model has, and no more
      for (const other of [host, model, model]) averaged.updateParameters(other);
    };
    settle();
    const before = structuredClone(averaged.stateDict());
    live = s.live();
    const count = model.tensors.filter((p) => p.size > 0).length;
    await eachFailure(s, () => averaged.loadStateDict(before), work, async (what) => {
      // a driver that fails while weights are given back has taken them
      if (name === "swap()" && Number(what.match(/^cuMemcpyDtoD.* (\d+)$/)?.[1]) > 2 * count) return model.learn(2);
      if (!what.startsWith("cuMemcpy")) assertEquals(averaged.stateDict(), before, `${name}, ${what}`);
      assertEquals(await model.values(), own, `${name}, ${what}`);
      settle();
      assertEquals(s.live(), live, `${name}, ${what}`);
    });
  }
  assertThrows(
    () => {
      s.limit(0);
      new AveragedModel(model);
    },
    CudaError,
    "CUDA_ERROR_OUT_OF_MEMORY",
  );
  s.reset();
  averaged.loadStateDict(other);
  assertEquals(averaged.stateDict(), dict);
  averaged.dispose();
  model.dispose();
});
