/**
 * Every driver call that fails, once in every place: the error says so, parameters and state are as they were, nothing leaks, and the same call
 * succeeds afterwards with the bits of the cpu.
 */

import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { type AnyOptimizer as Any, CudaError, DeviceArray, type DType, Parameter } from "../mod.ts";
import { CUDA_SYMBOLS, type CudaCall } from "../ffi/cuda_symbols.ts";
import { downloadArray } from "../src/cuda/device_array.ts";
import { DTYPES } from "../src/dtype.ts";
import { ROWS } from "./support/classes.ts";
import { cudaTest, type Standin } from "./support/cuda.ts";
import { hashNumbers, typed } from "./support/golden.ts";

/** CUDA_ERROR_UNKNOWN, which is no word about the device; CUDA_ERROR_LAUNCH_FAILED, after which it is lost. */
const UNKNOWN = 999, LOST = 719;
/** Calls that no operation here makes once the driver is open: cuda_driver_test.ts has those. */
const OPENING: readonly CudaCall[] = [
  "cuInit",
  "cuDriverGetVersion",
  "cuDeviceGetCount",
  "cuDeviceGet",
  "cuDeviceGetName",
  "cuDeviceTotalMem_v2",
  "cuDeviceGetAttribute",
  "cuDevicePrimaryCtxRetain",
  "cuModuleLoadDataEx",
  "cuModuleUnload",
  "cuModuleGetFunction",
  "cuPointerGetAttribute",
  "cuGetErrorName",
  "cuGetErrorString",
  "cuMemcpyDtoD_v2",
];
const CALLS = (Object.keys(CUDA_SYMBOLS) as CudaCall[]).filter((call) => !OPENING.includes(call));

interface World {
  readonly params: Parameter[];
  readonly optimizer: Any;
}

type Operation = readonly [name: string, run: (world: World) => void];

/** Gradients are the caller's: one that has been moved to a device is given back before it is replaced. */
function drop({ params }: World): void {
  for (const p of params) {
    if (p.grad instanceof DeviceArray) p.grad.dispose();
    p.grad = null;
  }
}

const grads = (t: number) => (world: World) => {
  drop(world);
  world.params.forEach((p, i) => p.grad = typed(hashNumbers(10 * t + i, p.size, 2), p.dtype));
};

/** A short training run, with everything that talks to the driver. */
const OPERATIONS: readonly Operation[] = [
  ["the move of one parameter", ({ params }) => params[0]!.to("cuda")],
  ["the move of another", ({ params }) => params[1]!.to("cuda")],
  ["the first step", (world) => {
    grads(1)(world);
    world.optimizer.step();
  }],
  ["a step", (world) => {
    grads(2)(world);
    world.optimizer.step();
  }],
  ["a step that is clipped", (world) => {
    grads(3)(world);
    world.optimizer.step(null, { maxGradNorm: 0.5, gradScale: 3 });
  }],
  ["a state dict", ({ optimizer }) => void optimizer.stateDict()],
  ["a move to another device, with a gradient", ({ params }) => params[1]!.to("cuda:1")],
  ["a move between devices", ({ params }) => params[0]!.to("cuda:1")],
  ["a step there", (world) => {
    grads(4)(world);
    world.optimizer.step();
  }],
  ["a move back", ({ params }) => params[0]!.to("cpu")],
  ["a step in both places", (world) => {
    grads(5)(world);
    world.optimizer.step(null, { maxGradNorm: 0.5 });
  }],
  ["loading a state dict", ({ optimizer }) => optimizer.loadStateDict(optimizer.stateDict())],
  ["a step with what was loaded", (world) => {
    grads(6)(world);
    world.optimizer.step();
  }],
];

/** Enough to have state of its own, state with a number in it, none, and flags for the first step. */
const CHOSEN: readonly (readonly [string, number, DType])[] = [
  ["AdamW", 1, "float32"],
  ["SGD", 0, "bfloat16"],
  ["SGD", 2, "float64"],
  ["Adagrad", 1, "float16"],
];

function makeWorld(row: typeof ROWS[number], variant: number, dtype: DType): World {
  const sizes = [300, dtype === "float64" ? 8200 : 1500]; // the longest is more than is uploaded together
  const params = sizes.map((n, i) => new Parameter(typed(hashNumbers(i, n, 2), dtype), { dtype }));
  return { params, optimizer: new row.make(params, row.variants[variant]!) as Any };
}

function dispose(world: World): void {
  world.optimizer.dispose();
  drop(world);
  for (const p of world.params) p.dispose();
}

/** Everything that can be seen, as text. */
function snapshot({ params, optimizer }: World): string {
  const bits = (value: unknown): unknown => {
    const array = value instanceof DeviceArray ? downloadArray(value) : value;
    if (!ArrayBuffer.isView(array)) return value;
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    return `${array.constructor.name} ${bytes.toHex()}`;
  };
  return JSON.stringify(
    params.map((p) => [
      p.device,
      bits(p.deviceArray ?? p.data),
      bits(p.grad),
      Object.entries(optimizer.state.get(p) ?? {}).map(([key, value]) => [key, bits(value)]).sort(),
    ]).concat([[optimizer.stepCount, JSON.stringify(optimizer.lastStep)]]),
  );
}

for (const [name, variant, dtype] of CHOSEN) {
  const row = ROWS.find((row) => row.name === name)!;
  cudaTest(`an error of any driver call, in any place, changes nothing of ${name} in ${dtype}`, (standin) => {
    if (standin === null) return console.log("skipped: only the stand-in can be told to fail");
    const host = makeWorld(row, variant, dtype);
    for (const [what, run] of OPERATIONS) if (!/move/.test(what)) run(host);
    const expected = host.params.map((p) => [...p.data].join());
    let tried = 0;
    for (let k = 0; k < OPERATIONS.length; k++) {
      for (const call of CALLS) {
        for (const code of [UNKNOWN, LOST]) {
          for (let nth = 1; code === UNKNOWN || nth === 1; nth++) {
            const live = standin.live(), world = makeWorld(row, variant, dtype);
            for (const [, run] of OPERATIONS.slice(0, k)) run(world);
            const came = failOnce(standin, world, OPERATIONS[k]!, call, nth, code);
            if (came === "an error") {
              tried++;
              for (const [, run] of OPERATIONS.slice(k)) run(world);
              for (const p of world.params) p.to("cpu");
              assertEquals(
                world.params.map((p) => [...p.data].join()),
                expected,
                `${OPERATIONS[k]![0]}, ${call} ${nth}`,
              );
            }
            dispose(world);
            // what could not be given back is tried again when nobody holds it any more
            const kept = code === LOST || call === "cuMemFree_v2" || call === "cuCtxSetCurrent";
            assert(standin.live() === live || kept, `${OPERATIONS[k]![0]}, ${call} ${nth}: memory is left`);
            if (came === "no such call") break;
          }
        }
      }
    }
    console.log(`${tried} errors`);
    assert(tried > 100, `${tried}`);
    assertEquals(standin.problem(), "");
  });
}

/** Makes an operation whose nth call of a driver function fails. Says what came of it: what only gives memory back may fail unheard. */
function failOnce(
  standin: Standin,
  world: World,
  [what, run]: Operation,
  call: CudaCall,
  nth: number,
  code: number,
): "an error" | "nothing" | "no such call" {
  const where = `${what}, ${call} ${nth}`;
  if (what.includes("step")) drop(world);
  const before = snapshot(world), calls = standin.calls(call);
  standin.fail(call, nth, code);
  let error: unknown = null;
  try {
    run(world);
  } catch (e) {
    error = e;
  }
  const fired = standin.calls(call) - calls >= nth;
  standin.reset();
  if (error === null) {
    assert(!fired || call === "cuMemFree_v2" || call === "cuCtxSetCurrent", where);
    return fired ? "nothing" : "no such call";
  }
  assert(error instanceof CudaError, `${where}: ${error}`);
  assertEquals(error.code, code === LOST ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_UNKNOWN", where);
  assertEquals(error.message.includes("is lost"), code === LOST, where);
  assertStringIncludes(error.message, call === "cuMemFree_v2" || code === LOST ? " failed: " : `${call} failed: `);
  if (what.includes("step")) drop(world);
  assertEquals(snapshot(world), before, where);
  return "an error";
}

cudaTest(
  "where the second of two kernels cannot be queued, the first one's parameters and state go together",
  (standin) => {
    if (standin === null) return console.log("skipped: only the stand-in can be told to fail");
    const row = ROWS.find(({ name }) => name === "AdamW")!;
    const params = DTYPES.slice(0, 2).map((dtype) => new Parameter(typed([1, 2, 3], dtype), { dtype }).to("cuda"));
    const host = new Parameter([1, 2, 3]), groups = [{ params }, { params: [host] }];
    const optimizer = new row.make(groups as unknown as Iterable<unknown>) as Any;
    for (const p of [...params, host]) p.grad = typed([1, 1, 1], p.dtype);
    standin.fail("cuLaunchKernel", 2, UNKNOWN);
    const error = assertThrows(() => optimizer.step(), CudaError);
    standin.reset();
    assertStringIncludes(
      error.message,
      "1 of 2 parameters on devices had been updated before, and their state with them",
    );
    assertEquals([...optimizer.state.keys()], [params[0]]);
    assertEquals(optimizer.state.get(params[0]!)!["step"], 1);
    assert(downloadArray(params[0]!.deviceArray!)[0] !== 1);
    assertEquals([...downloadArray(params[1]!.deviceArray!)], [1, 2, 3]);
    assertEquals([...host.data], [1, 2, 3]);
    optimizer.step();
    assertEquals([...params, host].map((p) => optimizer.state.get(p)!["step"]), [2, 1, 1]);
    optimizer.dispose();
    for (const p of params) p.dispose();
  },
);

cudaTest(
  "no memory for state or gradients is an error of the step, and the step can be made once there is room",
  (standin) => {
    if (standin === null) return console.log("skipped: only the stand-in runs out of memory at once");
    const p = new Parameter(new Float32Array(1000).fill(1)).to("cuda"),
      row = ROWS.find(({ name }) => name === "AdamW")!;
    const optimizer = new row.make([p]) as Any, live = standin.live();
    p.grad = new Float32Array(1000).fill(1);
    for (const room of [3999, 4000, 8000, 12_000, 12_100]) { // two pieces of state, the gradient, the table, chunks
      standin.limit(4000 + room);
      const error = assertThrows(() => optimizer.step(), CudaError);
      assertEquals((error as CudaError).code, "CUDA_ERROR_OUT_OF_MEMORY");
      assertEquals([standin.live(), optimizer.state.size, optimizer.stepCount], [live, 0, 0]);
    }
    standin.reset();
    optimizer.step();
    const host = new Parameter(new Float32Array(1000).fill(1)), other = new row.make([host]) as Any;
    host.grad = p.grad;
    other.step();
    assertEquals([...downloadArray(p.deviceArray!)], [...host.data]);
    optimizer.dispose();
    p.dispose();
  },
);
