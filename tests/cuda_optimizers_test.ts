/**
 * The table of optimizers on a CUDA device, bit for bit as on the CPU: on the stand-in for libcuda, or, in `deno task test:cuda`, on a
 * real device.
 */

import { test } from "node:test";
import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import {
  AdamW,
  type AnyOptimizer as Any,
  BFGS,
  cuda,
  DeviceArray,
  type DType,
  ExponentialLR,
  LBFGS,
  Parameter,
  Rprop,
  SGD,
  SparseAdam,
  SparseTensor,
  type StateDict,
} from "../mod.ts";
import { DTYPES } from "../src/dtype.ts";
import { arraysOf, assertSameBits } from "./support/bits.ts";
import { ROWS } from "./support/classes.ts";
import { cudaTest, deviceNames, REAL } from "./support/cuda.ts";
import { numbersFor } from "./support/arena.ts";
import { hashNumbers, typed } from "./support/golden.ts";

const SIZES = [0, 1, 3, 255, 257, 1023, 1024, 1025, 4096, 4097, 9001, ...REAL ? [3_000_001] : []];
const FINITE = (seed: number, n: number) => hashNumbers(seed, n, 2);

/** Where each parameter is; "cpu" where nothing is said. */
type Places = readonly Parameters<Parameter["to"]>[0][];

function makeParams(dtype: DType, places: Places, sizes = SIZES, make = numbersFor): Parameter[] {
  return sizes.map((n, i) => {
    const p = new Parameter(typed(make(i + 1, n), dtype), { dtype });
    return p.to(places[i % places.length] ?? "cpu");
  });
}

/** Throws unless parameters and state are the same, wherever they are. */
async function assertSame(actual: Any, expected: Any, what: string): Promise<void> {
  const other = expected.paramGroups.flatMap((group) => group.params);
  for (const [i, p] of actual.paramGroups.flatMap((group) => group.params).entries()) {
    const q = other[i]!, a = actual.state.get(p) ?? {}, b = expected.state.get(q) ?? {};
    assertSameBits(await p.toHost(), await q.toHost(), p.dtype, `${what}, params[${i}]`);
    assertEquals(Object.keys(a).sort(), Object.keys(b).sort());
    for (const key of Object.keys(a)) {
      assertEquals(
        a[key] instanceof DeviceArray ? a[key].device : "cpu",
        typeof a[key] === "number" ? "cpu" : p.device,
      );
      arraysOf(a[key]!).forEach((array, k) => {
        assertSameBits(array, arraysOf(b[key]!)[k]!, p.dtype, `${what}, ${key} of params[${i}]`);
      });
    }
  }
}

/** A step of both, with the same gradients: the k-th has none in step k, the next one's is on its device. */
function stepBoth(pair: readonly Any[], dtype: DType, t: number, special: boolean): void {
  for (const optimizer of pair) {
    const params = optimizer.paramGroups.flatMap((group) => group.params);
    params.forEach((p, i) => {
      const grad = typed((special ? numbersFor : FINITE)(100 * t + i, p.size), dtype);
      p.grad = grad;
      if (i % params.length === t % params.length) p.grad = null;
      else if (i % params.length === (t + 1) % params.length && p.device !== "cpu") {
        const library = new Parameter(grad, { dtype }).to(p.device);
        p.grad = cuda.fromPointer(library.deviceArray!.address, p.size, dtype, library);
      }
    });
    optimizer.step(null, special ? {} : { maxGradNorm: 0.7, ...(t % 2 === 0 ? { gradScale: 3 } : {}) });
  }
  assertEquals(pair[0]!.lastStep, pair[1]!.lastStep);
}

const MODES = [{}, { foreach: true }, { fused: true }, { foreach: false, fused: false }];

for (const row of ROWS) {
  for (const dtype of DTYPES) {
    cudaTest(`${row.name} has the same bits in ${dtype} on a device as on the cpu`, async () => {
      for (const [v, variant] of row.variants.entries()) {
        const options = { ...variant, ...MODES[v % MODES.length] };
        const host = new row.make(makeParams(dtype, ["cpu"]), options);
        using device = new row.make(makeParams(dtype, ["cuda"]), options);
        const schedulers = [host, device].map((optimizer) => new ExponentialLR(optimizer, { gamma: 0.7 }));
        for (let t = 0; t < 4; t++) {
          stepBoth([device, host], dtype, t, t % 2 === 0);
          for (const scheduler of schedulers) scheduler.step();
          await assertSame(device, host, `${JSON.stringify(options)}, step ${t}`);
        }
        for (const { params } of device.paramGroups) params.forEach((p) => p.dispose());
      }
    });
  }

  cudaTest(`${row.name} has the same bits when its groups are in several places, and parameters move`, async () => {
    const [first, second] = deviceNames();
    const variant = row.variants.at(-1)!, sizes = [5, 300, 1, 4097, 0, 33, 1030];
    const groups = (places: Places) => {
      const params = DTYPES.flatMap((dtype) => makeParams(dtype, places, sizes, FINITE));
      return [{ params: params.slice(0, 9) }, { params: params.slice(9), ...variant }];
    };
    const host = new row.make(groups(["cpu"]) as unknown as Iterable<unknown>);
    using mixed = new row.make(groups([first!, "cpu", second!]) as unknown as Iterable<unknown>);
    for (let t = 0; t < 6; t++) {
      for (const optimizer of [mixed, host]) {
        optimizer.paramGroups.flatMap((group) => group.params).forEach((p, i) => {
          p.grad = (i + t) % 5 === 0 ? null : typed(FINITE(1000 + 50 * t + i, p.size), p.dtype);
        });
        optimizer.step(null, t % 2 === 0 ? {} : { maxGradNorm: 2, gradScale: t });
      }
      assertEquals(mixed.lastStep, host.lastStep);
      await assertSame(mixed, host, `step ${t}`);
      mixed.paramGroups.flatMap((group) => group.params).forEach((p, i) => {
        const places = ["cpu", first!, second!] as const;
        if ((i + t) % 3 === 0) p.to(places[(i + t) % 9 / 3]!);
      });
    }
  });

  cudaTest(`${row.name}'s state dicts are the same from a device, and load onto one`, async () => {
    const sizes = [3, 300], variant = row.variants.at(-1)!;
    for (const dtype of DTYPES) {
      const make = (places: Places) => new row.make(makeParams(dtype, places, sizes, FINITE), variant);
      const host = make(["cpu"]);
      using device = make(["cuda"]);
      stepBoth([device, host], dtype, 5, false);
      const dict = device.stateDict();
      assertEquals(dict, host.stateDict());
      assertEquals(structuredClone(dict), dict);
      using again = make(["cuda"]);
      again.loadStateDict(structuredClone(dict) as StateDict);
      await again.paramGroups[0]!.params.reduce(async (done, p, i) => {
        await done;
        p.deviceArray!.set(host.paramGroups[0]!.params[i]!.data);
      }, Promise.resolve());
      stepBoth([again, host], dtype, 6, false);
      await assertSame(again, host, `${dtype}, loaded`);
      again.loadStateDict(host.stateDict()); // onto state that is there
      stepBoth([again, host], dtype, 7, false);
      await assertSame(again, host, `${dtype}, loaded again`);
    }
  });
}

cudaTest("initState() makes state where the parameter is", async () => {
  for (const dtype of DTYPES) {
    const make = (places: Places) => new AdamW(makeParams(dtype, places, [3, 5000]), { amsgrad: true });
    const host = make(["cpu"]);
    using device = make(["cuda"]);
    host.initState();
    device.initState();
    await assertSame(device, host, dtype);
    stepBoth([device, host], dtype, 3, true);
    await assertSame(device, host, `${dtype}, stepped`);
  }
  const adagrad = ROWS.find((row) => row.name === "Adagrad")!;
  for (const dtype of DTYPES) { // its state begins with a number, which fills 16, 32 and 64 bits
    const options = { initialAccumulatorValue: 0.3 };
    const host = new adagrad.make(makeParams(dtype, ["cpu"], [3, 5000]), options);
    using device = new adagrad.make(makeParams(dtype, ["cuda"], [3, 5000]), options);
    host.initState();
    device.initState();
    await assertSame(device, host, dtype);
  }
});

cudaTest("zeroGrad() clears gradients on a device in place, or drops them", async () => {
  using p = new Parameter([1, 2, 3]);
  p.grad = Float32Array.of(4, 5, 6);
  p.to("cuda");
  const optimizer = new SGD([p], { lr: 1 }), { grad } = p;
  assert(grad instanceof DeviceArray);
  optimizer.zeroGrad({ setToNull: false });
  assertEquals([...await grad.toHost()], [0, 0, 0]);
  assert(p.grad === grad);
  optimizer.zeroGrad();
  assertEquals(p.grad, null);
});

cudaTest("a step is one launch for a group, device and dtype, and does not wait", (standin) => {
  if (standin === null) return console.log("skipped: only the stand-in counts calls");
  using weights = new AdamW([
    { params: makeParams("float32", ["cuda"], [1, 5000, 0, 77]) },
    { params: [...makeParams("float32", ["cuda"], [9]), ...makeParams("float16", ["cuda"], [9, 10])] },
  ]);
  const params = weights.paramGroups.flatMap((group) => group.params);
  const step = () => {
    for (const p of params) p.grad = typed(FINITE(1, p.size), p.dtype);
    const before = ["cuLaunchKernel", "cuMemcpyHtoD_v2", "cuMemAlloc_v2"].map(standin.calls);
    weights.step();
    return ["cuLaunchKernel", "cuMemcpyHtoD_v2", "cuMemAlloc_v2"].map((call, i) => standin.calls(call) - before[i]!);
  };
  step();
  assert(standin.queued() > 0, "it has waited");
  // two uploads: each group's gradients, which are small, at once
  for (let t = 0; t < 3; t++) assertEquals(step(), [3, 2, 0]);
  for (const p of params) p.to("cpu").to("cuda");
  step();
  assertEquals(step(), [3, 2, 0]);
  const library = params.map((p) => new Parameter(typed(FINITE(1, p.size), p.dtype), { dtype: p.dtype }).to("cuda"));
  params.forEach((p, i) => p.grad = library[i]!.deviceArray);
  weights.step();
  const before = standin.calls("cuMemcpyHtoD_v2");
  weights.step();
  assertEquals(standin.calls("cuMemcpyHtoD_v2"), before, "gradients on the device are used in place");
  cuda.synchronize();
  assertEquals(standin.queued(), 0);
});

cudaTest("what cannot be stepped on a device is refused by name, and nothing changes", async () => {
  const name = deviceNames()[0]!;
  const make = () => new Parameter(new Float32Array(4).fill(1), { shape: [2, 2] }).to("cuda");
  const sparse = new SparseTensor([[0]], Float32Array.of(1, 1), [2, 2]);
  const table: [string, (p: Parameter) => Any][] = [
    ["LBFGS", (p) => new LBFGS([p])],
    ["BFGS", (p) => new BFGS([p])],
    ["SparseAdam", (p) => new SparseAdam([p])],
  ];
  for (const [who, build] of table) {
    using p = make();
    p.grad = who === "SparseAdam" ? sparse : new Float32Array(4).fill(1);
    const error = assertThrows(() => {
      const optimizer = build(p);
      if (who === "LBFGS" || who === "BFGS") optimizer.step(() => 1);
      else optimizer.step();
    }, TypeError);
    assertStringIncludes(error.message, who);
    assertStringIncludes(error.message, "cpu");
    assertEquals([...await p.toHost()], [1, 1, 1, 1]);
  }
  using p = make();
  p.grad = sparse;
  const optimizer = new SGD([p], { lr: 1 });
  assertThrows(
    () => optimizer.step(),
    TypeError,
    `sparse gradients are for parameters on the cpu, and this one is on ${name}`,
  );
  p.grad = new Float32Array(3);
  assertThrows(() => optimizer.step(), RangeError, "grad of paramGroups[0].params[0] must have 4 elements");
  p.grad = new Float64Array(4);
  assertThrows(() => optimizer.step(), TypeError, "must be a Float32Array of 4, got a Float64Array of 4");
  using wrong = new Parameter([1, 2, 3]).to("cuda");
  p.grad = wrong.deviceArray;
  assertThrows(() => optimizer.step(), RangeError, "must have 4 elements, as its parameter has, got 3");
  p.grad = p.deviceArray;
  assertThrows(() => optimizer.step(), RangeError, "must not share memory");
  using other = new Parameter(new Float64Array(4)).to("cuda");
  p.grad = other.deviceArray;
  assertThrows(() => optimizer.step(), TypeError, "must be float32, got DeviceArray(float64 [4]");
  assertEquals([[...await p.toHost()], optimizer.state.size, optimizer.stepCount], [[1, 1, 1, 1], 0, 0]);
});

cudaTest("a gradient on another device than its parameter is an error that names both", (standin) => {
  const [first, second] = deviceNames();
  using grad = new Parameter([1, 1]).to(first!);
  const host = new Parameter([1, 2]), optimizer = new SGD([host], { lr: 1 });
  host.grad = grad.deviceArray;
  const expected = `must be where its parameter is, on cpu, got DeviceArray(float32 [2], ${first})`;
  assertThrows(() => optimizer.step(), TypeError, expected);
  host.grad = Float32Array.of(0, 0);
  optimizer.step();
  host.grad = grad.deviceArray;
  assertThrows(() => optimizer.step(), TypeError, expected); // in the quick way, too
  assertEquals([...host.data], [1, 2]);
  if (first === second) return console.log(`skipped the rest: there is ${standin === null ? "one device" : "a bug"}`);
  using there = new Parameter([1, 2]).to(second!);
  there.grad = grad.deviceArray;
  const message = `must be where its parameter is, on ${second}, got DeviceArray(float32 [2], ${first})`;
  assertThrows(() => new SGD([there], { lr: 1 }).step(), TypeError, message);
});

cudaTest("parameters that share a device's memory are refused", () => {
  using whole = new Parameter(new Float32Array(8)).to("cuda");
  const { address } = whole.deviceArray!;
  const part = new Parameter(cuda.fromPointer(address + 16n, 4, "float32", whole));
  assertThrows(() => new SGD([whole, part], { lr: 1 }), RangeError, "must not share memory");
  const half = new Parameter(cuda.fromPointer(address, 4, "float32", whole));
  half.grad = Float32Array.of(1, 1, 1, 1);
  new SGD([half, part], { lr: 1 }).step();
  const seen = new Parameter(cuda.fromPointer(address, 8, "float32", whole));
  seen.grad = null;
  const apart = new AdamW([half]);
  apart.step();
  half.grad = apart.state.get(half)!["expAvg"] as DeviceArray;
  assertThrows(() => apart.step(), RangeError, "must not share memory");
  apart.dispose();
});

cudaTest("a step whose gradients are not finite is skipped, with the device's state as it was", async () => {
  const host = new AdamW(makeParams("float32", ["cpu"], [3, 300], FINITE));
  using device = new AdamW(makeParams("float32", ["cuda"], [3, 300], FINITE));
  for (let t = 0; t < 3; t++) {
    for (const optimizer of [device, host]) {
      for (const p of optimizer.paramGroups[0]!.params) {
        p.grad = typed(FINITE(t, p.size), "float32");
        if (t !== 1) (p.grad as Float32Array)[2] = t === 0 ? Infinity : NaN;
      }
      optimizer.step(null, { maxGradNorm: 1 });
    }
    assertEquals(device.lastStep, host.lastStep);
    assertEquals(device.lastStep!.skipped, t !== 1);
    await assertSame(device, host, `step ${t}`);
  }
});

cudaTest(
  "a first step that is skipped leaves no state behind: the next one's begins with the options of then",
  async () => {
    const ends: number[][] = [];
    for (const skips of [0, 1, 2]) {
      const p = new Parameter([1, 2, 3]).to("cuda"), host = new Parameter([1, 2, 3]);
      using optimizer = new Rprop([p, host], { lr: 0.5 });
      for (let t = 0; t < skips; t++) {
        for (const q of [p, host]) q.grad = Float32Array.of(1, NaN, 1);
        optimizer.step(null, { maxGradNorm: 1 });
        assert(optimizer.lastStep!.skipped);
      }
      optimizer.paramGroups[0]!.lr = 0.25;
      for (const q of [p, host]) q.grad = Float32Array.of(1, 1, 1);
      optimizer.step(null, { maxGradNorm: 1 });
      ends.push([...await p.toHost(), ...host.data]);
      p.dispose();
    }
    assertEquals(ends, Array.from({ length: 3 }, () => [0.75, 1.75, 2.75, 0.75, 1.75, 2.75]));
  },
);

cudaTest("other parameters that are moved or disposed cost a step nothing, its own are noticed", async (standin) => {
  const [p, other] = [new Parameter([1, 2, 3]), new Parameter([4, 5])];
  using optimizer = new SGD([p.to("cuda"), other], { lr: 1, momentum: 0.5 });
  using grad = new Parameter([1, 1, 1]).to("cuda");
  p.grad = grad.deviceArray;
  other.grad = Float32Array.of(1, 1);
  optimizer.step();
  optimizer.step(); // its tables are as they stay: the first step had no momentum
  const calls = ["cuMemAlloc_v2", "cuMemcpyHtoD_v2", "cuMemFree_v2"];
  new Parameter([7]).to("cuda").dispose();
  const before = calls.map((call) => standin?.calls(call));
  optimizer.step();
  assertEquals(calls.map((call) => standin?.calls(call)), before);
  other.to("cuda"); // its momentum follows
  other.grad = Float32Array.of(1, 1);
  optimizer.step();
  p.to("cpu");
  p.grad = Float32Array.of(1, 1, 1);
  optimizer.step();
  const momentum = [1, 1.5, 1.75, 1.875, 1.9375].reduce((sum, x) => sum + x);
  assertEquals([...p.data], [1 - momentum, 2 - momentum, 3 - momentum]);
  assertEquals([...await other.toHost()], [4 - momentum, 5 - momentum]);
  other.dispose();
  assertThrows(() => optimizer.step(), TypeError, "disposed");
  assertEquals([...p.data], [1 - momentum, 2 - momentum, 3 - momentum]);
});

test("the table has every elementwise optimizer", () => {
  assertEquals(ROWS.length, 11);
});
