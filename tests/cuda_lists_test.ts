/** Lists of tensors and clipping on a CUDA device: the bits of the cpu, and what is refused. On the stand-in, or on a real device. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  clipGradNorm,
  clipGradValue,
  cuda,
  DeviceArray,
  type DType,
  foreach,
  Parameter,
  SparseTensor,
  type TypedArray,
} from "../mod.ts";
import { DTYPES } from "../src/dtype.ts";
import { numbersFor } from "./support/arena.ts";
import { assertSameBits } from "./support/bits.ts";
import { cudaTest, deviceNames } from "./support/cuda.ts";
import { eachFailure } from "./support/cuda_failures.ts";
import { collector } from "./support/garbage.ts";
import { hashNumbers, typed } from "./support/golden.ts";

type Place = Parameters<Parameter["to"]>[0];
const SIZES = [0, 1, 15, 257, 4096, 4097, 9001];

function tensor(seed: number, n: number, dtype: DType, place: Place, make = numbersFor): Parameter {
  return new Parameter(typed(make(seed, n), dtype), { dtype }).to(place);
}

/** Tensors of all dtypes and sizes, one after the other in these places. */
function tensors(seed: number, places: readonly Place[], make = numbersFor): Parameter[] {
  return DTYPES.flatMap((dtype) => SIZES.map((n) => ({ dtype, n })))
    .map(({ dtype, n }, i) => tensor(seed + i, n, dtype, places[i % places.length]!, make));
}

async function assertSame(actual: readonly Parameter[], expected: readonly Parameter[], what: string): Promise<void> {
  for (const [i, p] of actual.entries()) {
    assertSameBits(await p.toHost(), await expected[i]!.toHost(), p.dtype, `${what}, ${p} at ${i}`);
  }
}

const dispose = (...lists: Parameter[][]) => lists.flat().forEach((p) => p.dispose());

type Lists = [x: Parameter[], a: Parameter[], b: Parameter[]];
const OPERATIONS: [string, (...lists: Lists) => void][] = [
  ["lerp_", (x, a) => foreach.lerp_(x, a, 0.3)],
  ["lerp_ beyond the half", (x, a) => foreach.lerp_(x, a, 0.7)],
  ["add_", (x, a) => foreach.add_(x, a, { alpha: -0.3 })],
  ["add_ of a number", (x) => foreach.add_(x, 0.1, { alpha: 3 })],
  ["sub_", (x, a) => foreach.sub_(x, a)],
  ["mul_", (x, a) => foreach.mul_(x, a)],
  ["mul_ by a number", (x) => foreach.mul_(x, 0.1)],
  ["mul_ by itself", (x) => foreach.mul_(x, x)],
  ["div_", (x, a) => foreach.div_(x, a)],
  ["div_ by a number", (x) => foreach.div_(x, 3)],
  ["addcmul_", (x, a, b) => foreach.addcmul_(x, a, b, -0.3)],
  ["addcmul_ of itself", (x, _, b) => foreach.addcmul_(x, x, b)],
  ["addcdiv_", (x, a, b) => foreach.addcdiv_(x, a, b, 0.7)],
  ["sqrt_", (x) => foreach.sqrt_(x)],
  ["maximum_", (x, a) => foreach.maximum_(x, a)],
  ["copy_", (x, a) => foreach.copy_(x, a)],
  ["zero_", (x) => foreach.zero_(x)],
];

for (const [name, run] of OPERATIONS) {
  cudaTest(`foreach.${name} has the same bits on devices as on the cpu, in lists that mix them`, async () => {
    const [first, second] = deviceNames();
    const make = (places: readonly Place[]): Lists => [
      tensors(1, places),
      tensors(1001, places),
      tensors(2001, places),
    ];
    const host = make(["cpu"]), mixed = make([first!, "cpu", second!, first!]);
    for (let t = 0; t < 3; t++) { // the tables are made, thrown away, made again, and kept
      run(...host);
      run(...mixed);
      for (const [k, list] of mixed.entries()) await assertSame(list, host[k]!, `call ${t}, list ${k}`);
    }
    dispose(...mixed);
  });
}

cudaTest("foreach.norm has the same bits on devices as on the cpu", () => {
  const [first, second] = deviceNames();
  for (const make of [numbersFor, (seed: number, n: number) => hashNumbers(seed, n, 2)]) {
    const host = tensors(7, ["cpu"], make), mixed = tensors(7, [first!, "cpu", second!], make);
    for (const ord of [1, 2, Infinity]) assertEquals(foreach.norm(mixed, { ord }), foreach.norm(host, { ord }));
    dispose(mixed);
  }
});

cudaTest("foreach takes DeviceArrays, also of another library's memory", async () => {
  using p = new Parameter([1, 2, 3, 4]).to("cuda"), q = new Parameter([10, 20]).to("cuda");
  const { address } = p.deviceArray!, tail = cuda.fromPointer(address + 8n, 2, "float32", p);
  foreach.add_([tail], [q.deviceArray!]);
  foreach.mul_([q.deviceArray!, Float32Array.of(1)], 0.5);
  assertEquals([[...await p.toHost()], [...await q.toHost()]], [[1, 2, 13, 24], [5, 10]]);
  assertEquals(foreach.norm([tail]), [Math.sqrt(13 * 13 + 24 * 24)]);
  assertThrows(() => foreach.add_([p], [tail]), RangeError, "other[0] must have 4 elements as self[0] has, got 2");
  const head = cuda.fromPointer(address + 4n, 2, "float32", p);
  assertThrows(() => foreach.add_([tail], [head]), RangeError, "other[0] must not share memory with self[0]");
  assertThrows(() => foreach.sqrt_([tail, head]), RangeError, "must not share memory");
  assertEquals([...await p.toHost()], [1, 2, 13, 24]);
});

cudaTest("foreach.copy_ copies from one place to another and from one dtype to another", async () => {
  const [first, second] = deviceNames(), values = numbersFor(3, 5000);
  for (const toType of DTYPES) {
    for (const fromType of DTYPES) {
      const expected = new Parameter(typed(new Float64Array(5000), toType), { dtype: toType });
      foreach.copy_([expected], [new Parameter(typed(values, fromType), { dtype: fromType })]);
      for (const [to, from] of [[first!, "cpu"], ["cpu", first!], [first!, second!], [first!, first!]] as const) {
        using p = new Parameter(typed(new Float64Array(5000), toType), { dtype: toType }).to(to);
        using q = new Parameter(typed(values, fromType), { dtype: fromType }).to(from);
        foreach.copy_([p], [q]);
        await assertSame([p], [expected], `${toType} on ${to} from ${fromType} on ${from}`);
      }
    }
  }
});

cudaTest(
  "a foreach call is one launch for a dtype and device, and a later one with the same lists uploads nothing",
  (s) => {
    if (s === null) return console.log("skipped: only the stand-in counts calls");
    const self = tensors(1, ["cuda"]), other = tensors(50, ["cuda"]);
    const CALLS = ["cuLaunchKernel", "cuMemcpyHtoD_v2", "cuMemAlloc_v2"];
    const add = () => {
      const before = CALLS.map(s.calls);
      foreach.add_(self, other);
      return CALLS.map((call, i) => s.calls(call) - before[i]!);
    };
    const live = s.live();
    assertEquals(add(), [4, 8, 8]); // a table and chunks for each dtype
    assertEquals(s.live(), live, "a list that may never come again has kept memory");
    assertEquals(add(), [4, 8, 8]);
    assert(s.queued() > 0, "it has waited");
    for (let t = 0; t < 3; t++) {
      new Parameter([1]).to("cuda").dispose(); // a move that has nothing to do with it
      assertEquals(add(), [4, 0, 0]);
    }
    dispose(self, other);
  },
);

cudaTest("foreach sees that a tensor has been moved, replaced or disposed since the last call", async () => {
  const [first, second] = deviceNames(), p = new Parameter([1, 2]), q = new Parameter([10, 20]);
  const self = [p], other = [q], add = () => foreach.add_(self, other);
  for (const place of ["cpu", first!, second!, first!, "cpu", first!] as const) {
    self[0]!.to(place);
    other[0]!.to(place);
    for (let t = 0; t < 3; t++) add();
  }
  assertEquals([...await p.toHost()], [181, 362]);
  other[0] = new Parameter([1, 1]).to(first!);
  add();
  assertEquals([...await p.toHost()], [182, 363]);
  other[0].dispose();
  assertThrows(add, TypeError, "other[0] must be there, and DeviceArray(float32 [2], cuda:0) has been disposed");
  other[0] = q;
  q.to("cpu");
  assertThrows(add, TypeError, `other[0] must be on ${first} as self[0] is, got a tensor on cpu`);
  q.to(first!);
  add();
  assertEquals([...await p.toHost()], [192, 383]);
  dispose([p, q]);
});

cudaTest(
  "foreach refuses tensors that are not where the written ones are, names both places, and changes nothing",
  async () => {
    const [first, second] = deviceNames();
    using p = new Parameter([1, 2]).to(first!), q = new Parameter([3, 4]).to(second!);
    const host = Float32Array.of(5, 6);
    const wrong: [() => void, string][] = [
      [() => foreach.add_([host, p], [host, host]), `other[1] must be on ${first} as self[1] is, got a tensor on cpu`],
      [() => foreach.add_([host], [p]), `other[0] must be on cpu as self[0] is, got a tensor on ${first}`],
      [() => foreach.addcmul_([p], [p], [host]), `b[0] must be on ${first} as self[0] is, got a tensor on cpu`],
    ];
    if (first !== second) {
      wrong.push([
        () => foreach.lerp_([p], [q], 1),
        `other[0] must be on ${first} as self[0] is`.replace("other", "end"),
      ]);
    }
    for (const [call, message] of wrong) assertThrows(call, TypeError, message);
    assertEquals([[...await p.toHost()], [...await q.toHost()], [...host]], [[1, 2], [3, 4], [5, 6]]);
  },
);

cudaTest("a foreach call in which the driver fails changes nothing and keeps nothing", async (s) => {
  if (s === null) return console.log("skipped: only the stand-in fails when it is told to");
  using p = new Parameter([1, 2, 3]).to("cuda"), q = new Parameter([4, 5, 6]).to("cuda");
  const host = Float32Array.of(7, 8, 9);
  const calls: [string, () => unknown, number[][]][] = [
    ["add_", () => foreach.add_([p, host], [q, Float32Array.of(1, 1, 1)]), [[5, 7, 9], [8, 9, 10]]],
    ["mul_ by itself", () => foreach.mul_([p, host], [p, host]), [[1, 4, 9], [49, 64, 81]]],
    ["norm", () => foreach.norm([p, host]), [[1, 2, 3], [7, 8, 9]]],
    ["copy_", () => foreach.copy_([host, p], [q, Float64Array.of(9, 8, 7)]), [[9, 8, 7], [4, 5, 6]]],
  ];
  const begin = () => {
    p.deviceArray!.set(Float32Array.of(1, 2, 3));
    host.set([7, 8, 9]);
  };
  for (const [name, call, after] of calls) {
    const live = s.live();
    const failures = await eachFailure(s, begin, call, async (what) => {
      assertEquals([[...await p.toHost()], [...host]], [[1, 2, 3], [7, 8, 9]], `${name}, ${what}`);
      assertEquals(s.live(), live, `${name}, ${what}`);
    });
    assert(failures >= (name === "copy_" ? 2 : 4), `${name}: only ${failures} calls could fail`);
    assertEquals([[...await p.toHost()], [...host]], after, name);
    assertEquals(s.live(), live, name);
  }
});

cudaTest("the tables of lists that nobody holds any more are given back", async (s) => {
  if (s === null) return console.log("skipped: only the stand-in counts memory");
  using p = new Parameter([1, 2, 3]).to("cuda");
  const live = s.live(), collect = collector(), many = 50;
  for (let i = 0; i < many; i++) {
    const list = [p];
    for (let t = 0; t < 2; t++) foreach.add_(list, 1);
  }
  assert(s.live() >= live + many, "nothing was kept, and so nothing is tested");
  for (let i = 0; i < 100 && s.live() > live + many; i++) { // 2 for each list
    collect();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert(s.live() <= live + many, `${s.live() - live} pieces of memory are left`);
});

/** Parameters of all dtypes with gradients: on the host, on the parameter's device, none, empty. */
function withGrads(places: readonly Place[], make: (seed: number, n: number) => Float64Array): Parameter[] {
  return DTYPES.flatMap((dtype) => SIZES.map((n) => ({ dtype, n }))).map(({ dtype, n }, i) => {
    const p = new Parameter(typed(new Float64Array(n), dtype), { dtype });
    const grad = i % 9 === 8 ? null : typed(make(i, n), dtype);
    if (i % 2 === 0) p.grad = grad;
    p.to(places[i % places.length]!);
    if (i % 2 === 1) p.grad = grad; // stays in the host's memory
    return p;
  });
}

const gradOf = async (p: Parameter): Promise<TypedArray | null> =>
  p.grad instanceof DeviceArray ? await p.grad.toHost() : p.grad as TypedArray | null;

async function assertSameGrads(actual: Parameter[], expected: Parameter[], what: string): Promise<void> {
  for (const [i, p] of actual.entries()) {
    const a = await gradOf(p), b = await gradOf(expected[i]!);
    assertEquals(a === null, b === null);
    if (a !== null) assertSameBits(a, b!, p.dtype, `${what}, grad of params[${i}]`);
  }
}

/** Gives back gradients as well. */
function disposeAll(params: readonly Parameter[]): void {
  for (const p of params) {
    if (p.grad instanceof DeviceArray) p.grad.dispose();
    p.dispose();
  }
}

cudaTest("clipGradNorm has the same bits wherever the gradients are", async () => {
  const [first, second] = deviceNames(), finite = (seed: number, n: number) => hashNumbers(seed, n, 2);
  for (const normType of [2, 1, Infinity, 3, 0, -Infinity]) {
    for (const make of [finite, numbersFor]) {
      const host = withGrads(["cpu"], make), mixed = withGrads([first!, second!, "cpu"], make);
      const device = withGrads([first!], make), kinds = mixed.map((p) => p.grad instanceof DeviceArray);
      assert(kinds.includes(true) && kinds.includes(false));
      for (let t = 0; t < 3; t++) {
        const maxNorm = [1e9, 0.5, 0.25][t]!, expected = clipGradNorm(host, maxNorm, { normType });
        for (const params of [mixed, device]) {
          assertEquals(clipGradNorm(params, maxNorm, { normType }), expected, `order ${normType}, call ${t}`);
          await assertSameGrads(params, host, `order ${normType}, call ${t}`);
        }
      }
      assertEquals(mixed.map((p) => p.grad instanceof DeviceArray), kinds, "a gradient has been moved");
      disposeAll([...mixed, ...device]);
    }
  }
});

cudaTest("clipGradValue has the same bits wherever the gradients are", async () => {
  const [first, second] = deviceNames();
  const host = withGrads(["cpu"], numbersFor), mixed = withGrads([first!, second!, "cpu"], numbersFor);
  for (const value of [1e6, 0.7, 0.1, 0]) {
    clipGradValue(host, value);
    clipGradValue(mixed, value);
    await assertSameGrads(mixed, host, `value ${value}`);
  }
  disposeAll(mixed);
});

cudaTest(
  "clipGradNorm takes sparse gradients beside those on a device, and passes over what has no elements",
  async () => {
    const make = (place: Place) => {
      const p = new Parameter([0, 0, 0]), q = new Parameter(new Float32Array(6), { shape: [3, 2] });
      p.grad = Float32Array.of(3, 4, 5);
      q.grad = new SparseTensor([[1, 1]], Float32Array.of(1, 2, 3, 4), [3, 2]);
      const empty = new Parameter(new Float32Array(0));
      empty.grad = new Float32Array(0);
      return [p.to(place), q, empty.to(place)];
    };
    for (const normType of [2, 1, Infinity, 4]) {
      const host = make("cpu"), away = make("cuda");
      assertEquals(clipGradNorm(away, 0.1, { normType }), clipGradNorm(host, 0.1, { normType }));
      assertEquals(await gradOf(away[0]!), await gradOf(host[0]!));
      assertEquals([...(away[1]!.grad as SparseTensor).values], [...(host[1]!.grad as SparseTensor).values]);
      disposeAll(away);
    }
  },
);

cudaTest(
  "clipping sees gradients that are replaced, and refuses those that do not go with their parameter",
  async () => {
    const [first, second] = deviceNames();
    using p = new Parameter([0, 0]).to(first!),
      grad = new Parameter([3, 4]).to(first!),
      more = new Parameter([6, 8]).to(first!);
    const params = [p];
    for (const { deviceArray } of [grad, more, grad]) {
      p.grad = deviceArray;
      for (let t = 0; t < 3; t++) clipGradNorm(params, 1);
    }
    assert(Math.abs(Math.hypot(...await more.toHost()) - 1) < 1e-5); // rounded to float32
    const wrong: [Parameter, Parameter["grad"], string][] = [
      [
        new Parameter([0, 0]),
        grad.deviceArray,
        `must be where its parameter is, on cpu, got DeviceArray(float32 [2], ${first})`,
      ],
      [p, new Parameter([1, 2, 3]).to(first!).deviceArray, "must have 2 elements, as its parameter has, got 3"],
      [p, new Parameter(new Float64Array(2)).to(first!).deviceArray, "must be float32, got DeviceArray(float64 [2]"],
    ];
    if (first !== second) {
      wrong.push([
        p,
        new Parameter([1, 2]).to(second!).deviceArray,
        `must be where its parameter is, on ${first}, got`,
      ]);
    }
    const before = [...await grad.toHost()];
    for (const [owner, given, message] of wrong) {
      owner.grad = given;
      const other = new Parameter([0, 0]).to(first!);
      other.grad = grad.deviceArray;
      assertThrows(() => clipGradNorm([other, owner], 0.1), Error, message);
      assertThrows(() => clipGradValue([other, owner], 0.1), Error, message);
      if (given !== grad.deviceArray) (given as DeviceArray).dispose();
      other.grad = null; // it would go with its parameter
      other.dispose();
    }
    const same = new Parameter([0, 0]).to(first!);
    p.grad = same.grad = grad.deviceArray;
    assertThrows(() => clipGradNorm([p, same], 0.1), RangeError, "must not share memory");
    same.grad = null;
    same.dispose();
    const gone = new Parameter([1, 2]).to(first!);
    gone.dispose();
    p.grad = gone.deviceArray;
    assertThrows(() => clipGradNorm(params, 0.1), TypeError, "has been disposed");
    assertEquals([...await grad.toHost()], before);
  },
);

cudaTest("clipping in which the driver fails changes nothing and keeps nothing", async (s) => {
  if (s === null) return console.log("skipped: only the stand-in fails when it is told to");
  using p = new Parameter([0, 0, 0]).to("cuda"), grad = new Parameter([3, 4, 5]).to("cuda");
  const host = new Parameter([0, 0]);
  p.grad = grad.deviceArray;
  const begin = () => {
    grad.deviceArray!.set(Float32Array.of(3, 4, 5));
    host.grad = Float32Array.of(6, 7);
  };
  for (const clip of [() => clipGradNorm([p, host], 1), () => clipGradValue([p, host], 0.5)]) {
    const live = s.live();
    const failures = await eachFailure(s, begin, clip, async (what) => {
      assertEquals([[...await grad.toHost()], [...host.grad as Float32Array]], [[3, 4, 5], [6, 7]], what);
      assertEquals(s.live(), live, what);
    });
    assert(failures >= 4, `only ${failures} calls could fail`);
    assert((await grad.toHost())[0]! < 1);
    assertEquals(s.live(), live);
  }
});
