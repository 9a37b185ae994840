/** Adafactor and Muon on a CUDA device, bit for bit as on the cpu: on the stand-in, or on a real device. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  Adafactor,
  type AnyOptimizer as Any,
  DeviceArray,
  type DType,
  ExponentialLR,
  Muon,
  Parameter,
  SparseTensor,
  type StateDict,
} from "../mod.ts";
import { DTYPES } from "../src/dtype.ts";
import { numbersFor } from "./support/arena.ts";
import { arraysOf, assertSameBits } from "./support/bits.ts";
import { cudaTest, deviceNames } from "./support/cuda.ts";
import { eachFailure } from "./support/cuda_failures.ts";
import { hashNumbers, typed } from "./support/golden.ts";

type Place = Parameters<Parameter["to"]>[0];
type Options = Record<string, unknown>;
interface Row {
  readonly name: string;
  readonly make: (params: Iterable<unknown>, options?: Options) => Any;
  readonly shapes: readonly (readonly number[])[];
  readonly variants: readonly Options[];
}

const ROWS: readonly Row[] = [
  {
    name: "Adafactor",
    make: (params, options) => new Adafactor(params as Iterable<Parameter>, options),
    shapes: [[], [0], [1], [300], [4097], [1, 1], [3, 5], [65, 7], [130, 2], [2, 2050], [2, 3, 4], [2, 0, 3], [
      2,
      1,
      65,
      3,
    ]],
    variants: [{ lr: 0.1 }, { maximize: true, weightDecay: 0.3, d: 2, eps: [1e-4, 0.1], beta2Decay: -0.3 }, {
      foreach: false,
    }],
  },
  {
    name: "Muon",
    make: (params, options) => new Muon(params as Iterable<Parameter>, options),
    shapes: [[1, 1], [3, 5], [5, 3], [0, 4], [33, 20], [20, 133], [9, 9]],
    variants: [
      { lr: 0.1 },
      { maximize: true, nesterov: false, weightDecay: 0.3, nsSteps: 2, adjustLrFn: "match_rms_adamw" },
      { nsSteps: 0, momentum: 0.3, nsCoefficients: [2, -1.5, 0.5] },
    ],
  },
];

const FINITE = (seed: number, n: number) => hashNumbers(seed, n, 2);

function makeParams(dtype: DType, shapes: Row["shapes"], places: readonly Place[]): Parameter[] {
  return shapes.map((shape, i) => {
    const n = shape.reduce((a, b) => a * b, 1);
    return new Parameter(typed(FINITE(i + 1, n), dtype), { dtype, shape: [...shape] }).to(places[i % places.length]!);
  });
}

const paramsOf = (optimizer: Any) => optimizer.paramGroups.flatMap((group) => group.params);

async function assertSame(actual: Any, expected: Any, what: string): Promise<void> {
  const other = paramsOf(expected);
  for (const [i, p] of paramsOf(actual).entries()) {
    const a = actual.state.get(p) ?? {}, b = expected.state.get(other[i]!) ?? {};
    assertSameBits(await p.toHost(), await other[i]!.toHost(), p.dtype, `${what}, ${p}`);
    assertEquals(Object.keys(a), Object.keys(b));
    for (const [key, value] of Object.entries(a)) {
      const place = value instanceof DeviceArray ? value.device : "cpu";
      assertEquals(place, typeof value === "number" ? "cpu" : p.device, `${what}, ${key} of ${p}`);
      arraysOf(value).forEach((array, k) =>
        assertSameBits(array, arraysOf(b[key]!)[k]!, p.dtype, `${what}, ${key} of ${p}`)
      );
    }
  }
}

/** A step of all, with the same gradients: one has none, one has its gradient on its device. */
function stepAll(optimizers: readonly Any[], t: number, make = FINITE, options = {}): void {
  for (const optimizer of optimizers) {
    const params = paramsOf(optimizer);
    params.forEach((p, i) => {
      const grad = typed(make(100 * t + i, p.size), p.dtype);
      if (p.grad instanceof DeviceArray) p.grad.dispose();
      p.grad = i % params.length === t % params.length ? null : grad;
      if (i % 3 === t % 3 && p.device !== "cpu" && p.grad !== null) {
        p.grad = new Parameter(grad, { dtype: p.dtype }).to(p.device).deviceArray;
      }
    });
    optimizer.step(null, options);
  }
  for (const other of optimizers) assertEquals(other.lastStep, optimizers[0]!.lastStep);
}

function disposeAll(optimizer: Any): void {
  for (const p of paramsOf(optimizer)) {
    if (p.grad instanceof DeviceArray) p.grad.dispose();
    p.dispose();
  }
  optimizer.dispose();
}

for (const { name, make, shapes, variants } of ROWS) {
  for (const dtype of DTYPES) {
    cudaTest(`${name} has the same bits in ${dtype} on a device as on the cpu, for every kind of shape`, async (s) => {
      for (const [v, variant] of variants.entries()) {
        const live = s?.live();
        const host = make(makeParams(dtype, shapes, ["cpu"]), variant),
          device = make(makeParams(dtype, shapes, ["cuda"]), variant);
        const schedulers = [host, device].map((optimizer) => new ExponentialLR(optimizer, { gamma: 0.7 }));
        for (let t = 0; t < 4; t++) {
          const options = [{}, { maxGradNorm: 0.7 }, { maxGradNorm: 0.5, gradScale: 3 }, {}][t]!;
          stepAll([device, host], t, t === 3 ? numbersFor : FINITE, options);
          for (const scheduler of schedulers) scheduler.step();
          await assertSame(device, host, `variant ${v}, step ${t}`);
        }
        disposeAll(device);
        assertEquals(s?.live(), live, "something is left on the device");
      }
    });
  }

  cudaTest(`${name} has the same bits when its groups are in several places, and parameters move`, async () => {
    const [first, second] = deviceNames(), places = ["cpu", first!, second!] as const;
    const groups = (at: readonly Place[]) => {
      const params = DTYPES.flatMap((dtype) => makeParams(dtype, shapes.slice(1, 7), at));
      return [{ params: params.slice(0, 9) }, { params: params.slice(9), ...variants[1] }];
    };
    const host = make(groups(["cpu"])), mixed = make(groups([first!, "cpu", second!, first!]));
    for (let t = 0; t < 5; t++) {
      stepAll([mixed, host], t, FINITE, t % 2 === 0 ? {} : { maxGradNorm: 2, gradScale: t });
      await assertSame(mixed, host, `step ${t}`);
      paramsOf(mixed).forEach((p, i) => {
        if ((i + t) % 2 === 0) p.to(places[(i + t) % 6 / 2]!);
      });
    }
    disposeAll(mixed);
  });

  cudaTest(`${name}'s state dicts are the same from a device, and load onto one`, async () => {
    for (const dtype of DTYPES) {
      const build = (place: Place) => make(makeParams(dtype, shapes.slice(1, 6), [place]), variants[0]);
      const host = build("cpu"), device = build("cuda"), again = build("cuda"), back = build("cpu");
      for (const optimizer of [host, device]) optimizer.initState();
      await assertSame(device, host, `${dtype}, initState()`);
      stepAll([device, host], 1);
      const dict = device.stateDict();
      assertEquals(dict, host.stateDict());
      for (const optimizer of [again, back]) {
        optimizer.loadStateDict(structuredClone(dict) as StateDict);
        for (const [i, p] of paramsOf(optimizer).entries()) {
          const { data } = paramsOf(host)[i]!;
          if (p.deviceArray !== null) p.deviceArray.set(data);
          else p.data.set(data as Float64Array);
        }
      }
      stepAll([again, back, host], 2);
      await assertSame(again, host, `${dtype}, loaded onto a device`);
      await assertSame(back, host, `${dtype}, loaded onto the cpu`);
      for (const optimizer of [device, again]) disposeAll(optimizer);
    }
  });

  cudaTest(`a step of ${name} does not wait, and takes no memory once it has begun`, (s) => {
    if (s === null) return console.log("skipped: only the stand-in counts calls");
    const optimizer = make(makeParams("float32", shapes, ["cuda"]), variants[0]), params = paramsOf(optimizer);
    const CALLS = ["cuMemAlloc_v2", "cuMemFree_v2", "cuMemcpyDtoH_v2", "cuMemcpyHtoD_v2"];
    const step = () => {
      for (const p of params) p.grad = typed(FINITE(1, p.size), p.dtype);
      new Parameter([1]).to("cuda").dispose(); // a move that has nothing to do with it
      const before = CALLS.map(s.calls);
      optimizer.step();
      return CALLS.map((call, i) => s.calls(call) - before[i]!);
    };
    step();
    assert(s.queued() > 0, "it has waited");
    for (let t = 0; t < 3; t++) assertEquals(step(), [0, 0, 0, 2]); // gradients, which are small; the table
    for (const p of params) p.to("cpu");
    const live = s.live(), state = params.filter((p) => p.size > 0).length;
    step(); // moves the state as well
    assert(s.live() < live - state, "room on a device is kept that is of no use");
    disposeAll(optimizer);
  });

  cudaTest(
    `a step of ${name} in which the driver fails, or gradients are not finite, changes nothing and keeps nothing`,
    async (s) => {
      if (s === null) return console.log("skipped: only the stand-in fails when it is told to");
      const some = shapes.slice(-3);
      for (const options of [{}, { maxGradNorm: 0.5, gradScale: 2 }]) {
        const params = makeParams("float32", some, ["cuda"]), values = await Promise.all(params.map((p) => p.toHost()));
        const live = s.live();
        let optimizer: Any | null = null;
        const begin = () => {
          optimizer?.dispose();
          optimizer = make(params, variants[0]);
          params.forEach((p, i) => {
            p.deviceArray!.set(values[i]!);
            p.grad = typed(FINITE(i, p.size), p.dtype);
          });
        };
        const failures = await eachFailure(s, begin, () => optimizer!.step(null, options), async (what) => {
          assertEquals(optimizer!.state.size, 0, what);
          assertEquals(s.live(), live, what);
          if (/^cuLaunchKernel number [^1]/.test(what)) return; // what kernels before it have written
          for (const [i, p] of params.entries()) assertEquals(await p.toHost(), values[i], `${what}, params[${i}]`);
        });
        assert(failures >= 8, `only ${failures} calls could fail`);
        begin();
        (params[0]!.grad as Float32Array)[0] = Infinity;
        optimizer!.step(null, { maxGradNorm: 1 });
        assertEquals([optimizer!.lastStep?.skipped, optimizer!.state.size], [true, 0]);
        for (const [i, p] of params.entries()) assertEquals(await p.toHost(), values[i], `skipped, params[${i}]`);
        optimizer!.dispose();
        assertEquals(s.live(), live);
        for (const p of params) p.dispose();
      }
    },
  );

  cudaTest(`${name} refuses what does not go with a parameter on a device, and changes nothing`, async () => {
    const [first, second] = deviceNames();
    using p = new Parameter([1, 2, 3, 4], { shape: [2, 2] }).to(first!), small = new Parameter([1, 2, 3]).to(first!);
    using other = new Parameter([1, 2, 3, 4], { shape: [2, 2] }).to(second!);
    const host = new Parameter([1, 2, 3, 4], { shape: [2, 2] }),
      gone = new Parameter([1, 2, 3, 4], { shape: [2, 2] }).to(first!);
    gone.dispose();
    const wrong: [Parameter, Parameter["grad"], typeof TypeError | typeof RangeError, string][] = [
      [p, new Float32Array(3), RangeError, "grad of paramGroups[0].params[0] must have 4 elements"],
      [p, new Float64Array(4), TypeError, "must be a Float32Array of 4"],
      [p, small.deviceArray, RangeError, "must have 4 elements, as its parameter has, got 3"],
      [p, p.deviceArray, RangeError, "must not share memory"],
      [p, gone.deviceArray, TypeError, "has been disposed"],
      [p, new SparseTensor([[0]], Float32Array.of(1, 1), [2, 2]), TypeError, "sparse"],
      [
        host,
        p.deviceArray,
        TypeError,
        `must be where its parameter is, on cpu, got DeviceArray(float32 [4], ${first})`,
      ],
    ];
    if (first !== second) {
      wrong.push([p, other.deviceArray, TypeError, `must be where its parameter is, on ${first}, got`]);
    }
    for (const [owner, grad, type, message] of wrong) {
      owner.grad = grad;
      const optimizer = make([owner]);
      assertThrows(() => optimizer.step(), type, message);
      assertEquals(optimizer.state.size, 0);
    }
    assertEquals([[...await p.toHost()], [...host.data]], [[1, 2, 3, 4], [1, 2, 3, 4]]);
    assertThrows(() => make([gone]), TypeError, "data of paramGroups[0].params[0] must be there");
    const optimizer = make([other.to(first!)]);
    other.grad = new Float32Array(4);
    other.dispose();
    assertThrows(() => optimizer.step(), TypeError, "data of paramGroups[0].params[0] must be there");
  });
}
