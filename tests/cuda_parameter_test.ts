/** Parameters and arrays on a CUDA device: moves, copies, memory that is given back. */

import { test } from "node:test";
import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { AdamW, cuda, CudaError, DeviceArray, type DType, Parameter, SGD, SparseTensor } from "../mod.ts";
import { DTYPES } from "../src/dtype.ts";
import { numbersFor } from "./support/arena.ts";
import { assertSameBits } from "./support/bits.ts";
import { cudaTest, deviceNames } from "./support/cuda.ts";
import { collector } from "./support/garbage.ts";
import { typed } from "./support/golden.ts";

cudaTest("a parameter goes to a device and back with its bits, its gradient, and its kind of array", async () => {
  const [first, second] = deviceNames();
  for (const dtype of [...DTYPES, "float16 bits"]) {
    const real = dtype.split(" ")[0] as DType;
    for (const n of [0, 1, 5, 4097]) {
      const data = dtype === "float16 bits" ? new Uint16Array(n).map((_, i) => i) : typed(numbersFor(n, n), real);
      const grad = dtype === "float16 bits" ? new Uint16Array(n).fill(7) : typed(numbersFor(n + 1, n), real);
      const before = data.slice(), gradBefore = grad.slice();
      const p = new Parameter(data, { dtype: real, name: "w" });
      p.grad = grad;
      assertStrictEquals(p.to("cuda"), p);
      assertEquals([p.device, p.deviceArray!.length, p.deviceArray!.dtype], ["cuda:0", n, real]);
      assertEquals(String(p), `Parameter(${real} [${n}], "w", cuda:0)`);
      assert(p.grad instanceof DeviceArray && p.grad.device === "cuda:0");
      assertStrictEquals(p.to("cuda"), p);
      const copy = await p.toHost();
      assertStrictEquals(copy.constructor, before.constructor);
      assertSameBits(copy, before, real, dtype);
      assertEquals(p.to(second!).device, second);
      assertSameBits(await p.toHost(), before, real, dtype);
      assertStrictEquals(p.to(first!).to("cpu"), p);
      assertEquals([p.device, p.deviceArray], ["cpu", null]);
      assertStrictEquals(p.data.constructor, before.constructor);
      assertSameBits(p.data, before, real, dtype);
      assertSameBits(p.grad as typeof grad, gradBefore, real, dtype);
      assertStrictEquals(Parameter.of(p.data), p);
      p.data = before; // a plain field again
    }
  }
});

cudaTest("data of a parameter on a device throws, and says what to do", () => {
  using p = new Parameter([1, 2]).to("cuda");
  assertThrows(
    () => p.data,
    TypeError,
    "data of a parameter on cuda:0 is not in the host's memory: await parameter.toHost()",
  );
  assertThrows(
    () => {
      p.data = Float32Array.of(1, 2);
    },
    TypeError,
    "parameter.deviceArray.set(array) writes it",
  );
  assertEquals({ ...p }.shape, [2]); // what lists properties does not stumble
});

cudaTest("to() refuses what it cannot move, and changes nothing", async () => {
  const p = new Parameter([1, 2]);
  assertThrows(() => p.to("gpu" as "cuda"), RangeError, 'device must be "cpu", "cuda" or "cuda:N", got "gpu"');
  assertThrows(() => p.to("cuda:-1"), RangeError, 'got "cuda:-1"');
  assertThrows(() => p.to("cuda:01" as "cuda"), RangeError, 'got "cuda:01"');
  assertThrows(() => p.to(0 as unknown as "cuda"), TypeError, 'device must be "cpu", "cuda" or "cuda:N", got 0');
  const count = cuda.devices().length;
  assertThrows(
    () => p.to(`cuda:${count}`),
    RangeError,
    `"cuda:${count}" must be one of the ${count} devices that there are`,
  );
  p.grad = new SparseTensor([[0]], Float32Array.of(1), [2]);
  assertThrows(() => p.to("cuda"), TypeError, "must not have a sparse gradient");
  p.grad = new Float32Array(3);
  assertThrows(
    () => p.to("cuda"),
    TypeError,
    "grad of Parameter(float32 [2]) must be a Float32Array of 2, got a Float32Array of 3",
  );
  p.grad = null;
  p.data = new Float32Array(1);
  assertThrows(() => p.to("cuda"), TypeError, "data of Parameter(float32 [2]) must be a Float32Array of 2");
  p.data = Float32Array.of(3, 4);
  Object.defineProperty(p, "data", { get: () => Float32Array.of(5, 6), configurable: true });
  assertThrows(() => p.to("cuda"), TypeError, "they are another library's");
  assertEquals([p.device, [...await p.toHost()]], ["cpu", [5, 6]]);
});

cudaTest("dispose() gives memory back, and what is used afterwards is an error", async (standin) => {
  const live = standin?.live();
  const p = new Parameter([1, 2], { name: "w" });
  p.grad = Float32Array.of(1, 1);
  p.dispose(); // in the host's memory: nothing
  const optimizer = new AdamW([p.to("cuda")]), array = p.deviceArray!;
  optimizer.step();
  const state = optimizer.state.get(p)!["expAvg"] as DeviceArray;
  p.dispose();
  p.dispose();
  assertEquals([array.disposed, p.device, String(p)], [true, "cuda:0", 'Parameter(float32 [2], "w", cuda:0)']);
  const message = "must not be used any more: its memory has been disposed";
  assertThrows(() => array.address, TypeError, message);
  assertThrows(() => array.fill(0), TypeError, message);
  assertThrows(() => array.set(Float32Array.of(1, 2)), TypeError, message);
  await assertRejects(() => array.toHost(), TypeError, message);
  await assertRejects(() => p.toHost(), TypeError, message);
  assertThrows(() => p.to("cpu"), TypeError, message);
  assertThrows(() => new Parameter(array), TypeError, message);
  p.grad = Float32Array.of(1, 1);
  assertThrows(() => optimizer.step(), TypeError, 'data of paramGroups[0].params[0] ("w") must be there');
  assertThrows(() => new SGD([p], { lr: 1 }), TypeError, "has been disposed");
  assert(!state.disposed);
  optimizer.dispose();
  assert(state.disposed);
  assertEquals(standin?.live(), live);
  {
    using q = new Parameter([1]).to("cuda");
    using other = new SGD([q], { lr: 1, momentum: 0.5 });
    q.grad = Float32Array.of(1);
    other.step();
  }
  assertEquals(standin?.live(), live);
});

cudaTest("state that has been disposed is an error, and so is a gradient", () => {
  using p = new Parameter([1, 2]).to("cuda");
  p.grad = Float32Array.of(1, 1);
  const optimizer = new AdamW([p]);
  optimizer.step();
  const before = optimizer.state.get(p)!["step"];
  const grad = new Parameter([1, 1]).to("cuda");
  p.grad = grad.deviceArray;
  optimizer.step();
  grad.dispose();
  assertThrows(() => optimizer.step(), TypeError, "grad of paramGroups[0].params[0] must be there");
  p.grad = Float32Array.of(1, 1);
  optimizer.dispose();
  assertThrows(() => optimizer.step(), TypeError, "expAvg of paramGroups[0].params[0] must be there");
  assertEquals([before, optimizer.state.get(p)!["step"]], [1, 2]);
});

cudaTest("memory that nobody holds any more is freed", async (standin) => {
  if (standin === null) return console.log("skipped: only the stand-in counts what is live");
  const collect = collector(), live = standin.live();
  const use = () => {
    const p = new Parameter(new Float32Array(1000)).to("cuda"), optimizer = new AdamW([p]);
    p.grad = new Float32Array(1000);
    optimizer.step();
  };
  for (let i = 0; i < 20; i++) use();
  assert(standin.live() >= live + 20);
  for (let i = 0; i < 200 && standin.live() > live + 5; i++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert(standin.live() <= live + 5, `${standin.live()} pieces of memory are left, and there were ${live}`);
});

cudaTest("fromPointer() keeps the owner, frees nothing, and checks what it is told", async (standin) => {
  using owner = new Parameter([1, 2, 3, 4]).to(deviceNames()[1]!);
  const { address } = owner.deviceArray!, live = standin?.live();
  const array = cuda.fromPointer(address, 4, "float32", owner);
  assertEquals([array.device, array.length, array.byteLength], [owner.device, 4, 16]);
  assertEquals(String(array), `DeviceArray(float32 [4], ${owner.device})`);
  const p = new Parameter(array, { shape: [2, 2] });
  assertEquals([p.device, p.dtype, p.size], [owner.device, "float32", 4]);
  p.grad = Float32Array.of(1, 1, 1, 1);
  const optimizer = new SGD([p], { lr: 1 });
  optimizer.step();
  optimizer.dispose();
  assertEquals([...await owner.toHost()], [0, 1, 2, 3]);
  p.dispose();
  assertEquals([array.disposed, [...await owner.toHost()]], [true, [0, 1, 2, 3]]);
  assertEquals(standin?.live(), live);
  const middle = cuda.fromPointer(Number(address) + 4, 2, "float32", null);
  assertEquals([...await middle.toHost()], [1, 2]);
  const moved = new Parameter(middle).to("cpu");
  assertEquals([...moved.data], [1, 2]);
  assert(!middle.disposed, "another's memory is not given back by a move");

  const call = (...args: unknown[]) => () => cuda.fromPointer(...args as Parameters<typeof cuda.fromPointer>);
  assertThrows(call("1", 1, "float32", null), TypeError, 'address must be a bigint or an integer, got "1"');
  assertThrows(call(2 ** 53, 1, "float32", null), RangeError, "address must be a bigint or an integer below 2 ** 53");
  assertThrows(call(0n, 1, "float32", null), RangeError, "address must be that of memory on a device, got 0n");
  assertThrows(
    call(address + 2n, 1, "float32", null),
    RangeError,
    "address must be a multiple of 4, as elements of float32 are",
  );
  assertThrows(call(address, -1, "float32", null), RangeError, "length must be an integer >= 0, got -1");
  assertThrows(call(address, 1, "int8", null), TypeError, "dtype must be one of");
  assertThrows(call(address, 1, "float32", null, "gpu"), RangeError, 'device must be "cuda" or "cuda:N", got "gpu"');
  assertThrows(call(64n, 1, "float32", null), RangeError, "of which the driver knows nothing");
  assertEquals(cuda.fromPointer(address, 4, "float32", null, "cuda:0").device, "cuda:0");
  assertEquals(cuda.fromPointer(0, 0, "float32", null).length, 0);
  assertThrows(
    () => new Parameter(owner.deviceArray!, { dtype: "float64" }),
    TypeError,
    'dtype must be "float32" for DeviceArray',
  );
  assertThrows(
    () => new Parameter(owner.deviceArray!, { shape: [3] }),
    RangeError,
    "shape [3] has 3 elements, data has 4",
  );
});

cudaTest("a device's array can be written and filled, in every dtype", async () => {
  for (const dtype of DTYPES) {
    using p = new Parameter(typed([1, 2, 3], dtype), { dtype }).to("cuda");
    const array = p.deviceArray!;
    array.set(typed([4, 5, 6], dtype));
    assertSameBits(await array.toHost(), typed([4, 5, 6], dtype), dtype, dtype);
    for (const value of [0, -0, 1, 0.1, -3e5, NaN, Infinity]) {
      assertStrictEquals(array.fill(value), array);
      assertSameBits(await array.toHost(), typed([value, value, value], dtype), dtype, `${dtype} ${value}`);
    }
    assertThrows(() => array.set(typed([1, 2], dtype)), RangeError, "values must have 3 elements, got 2");
    assertThrows(() => array.set(new Uint8Array(3) as unknown as Float32Array), TypeError, "values must be a");
    assertThrows(() => array.fill("1" as unknown as number), TypeError, 'value must be a number, got "1"');
  }
});

cudaTest("devices() tells what there is", () => {
  assert(cuda.isAvailable());
  cuda.devices().forEach(({ index, device, name, memory, computeCapability: [major, minor] }, i) => {
    assertEquals([index, device], [i, `cuda:${i}`]);
    assert(name.length > 0 && memory > 0 && major >= 7 && minor >= 0);
  });
  cuda.synchronize();
  cuda.synchronize("cuda:0");
  assertThrows(() => cuda.synchronize("cpu" as "cuda"), RangeError, 'device must be "cuda" or "cuda:N", got "cpu"');
});

cudaTest("a device without room is an error that says how much was wanted, and nothing has moved", async (standin) => {
  if (standin === null) return console.log("skipped: only the stand-in runs out of memory at once");
  const p = new Parameter(new Float32Array(100).fill(2)), live = standin.live();
  p.grad = new Float32Array(100);
  standin.limit(500); // the data fits, the gradient does not
  const error = assertThrows(() => p.to("cuda"), CudaError);
  assertEquals(
    [error.message, (error as CudaError).code],
    ["cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY (out of memory): 400 bytes on cuda:0", "CUDA_ERROR_OUT_OF_MEMORY"],
  );
  assertEquals([p.device, standin.live(), p.data[0], p.grad instanceof Float32Array], ["cpu", live, 2, true]);
  standin.reset();
  assertEquals((await p.to("cuda").toHost())[0], 2);
  p.dispose();
  assertEquals(standin.live(), live);
});

test("a parameter in the host's memory says so, and copies itself", async () => {
  using p = new Parameter([1, 2]);
  assertEquals([p.device, p.deviceArray], ["cpu", null]);
  const copy = await p.toHost();
  assert(copy !== p.data);
  assertEquals([...copy], [1, 2]);
  assertStrictEquals(p.to("cpu"), p);
});
