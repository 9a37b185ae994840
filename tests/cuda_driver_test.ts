/** How NVIDIA's driver is found and opened, and what is said where that fails. Each program is a process of its own. */

import { test } from "node:test";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import process from "node:process";
import { buildStandin } from "./support/cuda.ts";
import { IS_BUN, type RunOptions, runProgram } from "./support/runtime.ts";

const LIMIT = { timeout: 180_000 };

/** What a program says of a parameter that it wants to move. */
interface Told {
  available: boolean;
  error: string;
  message: string;
  code: string | null;
  device: string;
  data: number[];
  after: boolean;
}

/** Moves a parameter, and tells what came of it. */
const PROGRAM = `
import { cuda, CudaError, NativeLibraryError, Parameter, SGD } from "MOD";
const available = cuda.isAvailable();
const p = new Parameter([1, 2]);
p.grad = Float32Array.of(1, 1);
let error = { name: "", message: "", code: null };
try {
  p.to("cuda");
  new SGD([p], { lr: 1 }).step();
} catch (e) {
  error = e;
  if (e instanceof CudaError !== (e.name === "CudaError")) throw new Error("no CudaError");
  if (e instanceof NativeLibraryError !== (e.name === "NativeLibraryError")) throw new Error("no NativeLibraryError");
}
const device = p.device, data = [...await p.toHost()];
let after = false; // whether a second attempt succeeds
try {
  p.to("cuda");
  new SGD([p], { lr: 1 }).step();
  after = true;
} catch {}
console.log(JSON.stringify({ available, error: error.name, message: error.message, code: error.code ?? null, device, data, after }));
`;

async function tell(env: Record<string, string>, more: RunOptions = {}, program = PROGRAM): Promise<Told> {
  const ended = await runProgram(program, { env, ...more });
  assertEquals([ended.code, ended.signal, ended.stderr], [0, null, ""], ended.stderr);
  return JSON.parse(ended.stdout) as Told;
}

test(
  'without the driver to("cuda") says what is missing and what was tried, and isAvailable() is false',
  LIMIT,
  async () => {
    const told = await tell({ FLATSTEP_LIBCUDA: "/no/such/libcuda.so" });
    assertEquals([told.available, told.error, told.device, told.data, told.after], [
      false,
      "NativeLibraryError",
      "cpu",
      [1, 2],
      false,
    ]);
    assertStringIncludes(
      told.message,
      'to("cuda") needs NVIDIA\'s driver, and it cannot be had:\n  /no/such/libcuda.so: ',
    );
    assertStringIncludes(told.message, "install the driver of an NVIDIA GPU");
    assertStringIncludes(told.message, "FLATSTEP_LIBCUDA");
  },
);

test("the driver is looked for where the system keeps it", LIMIT, async () => {
  const told = await tell({});
  if (told.available) return console.log("skipped: there is a CUDA device on this machine");
  assert(told.error === "NativeLibraryError" || told.code === "CUDA_ERROR_NO_DEVICE", told.message);
  if (told.error === "NativeLibraryError" && process.platform === "linux") {
    assertMatch(told.message, /libcuda\.so\.1: [^]*\/usr\/lib\/wsl\/lib\/libcuda\.so\.1: /);
  }
});

test('without permission for FFI to("cuda") says so', LIMIT, async () => {
  if (IS_BUN) return console.log("skipped: Bun has no permissions");
  const told = await tell({ FLATSTEP_LIBCUDA: buildStandin() }, { permissions: ["-A", "--deny-ffi"] });
  assertEquals([told.available, told.error, told.device], [false, "NativeLibraryError", "cpu"]);
  assertStringIncludes(told.message, "there is no permission to open it: run with --allow-ffi");
});

test("a library that is no driver is refused", LIMIT, async () => {
  const told = await tell({ FLATSTEP_LIBCUDA: process.execPath });
  assertEquals([told.available, told.error, told.device], [false, "NativeLibraryError", "cpu"]);
});

test("a machine whose driver finds no device says so", LIMIT, async () => {
  const told = await tell({ FLATSTEP_LIBCUDA: buildStandin(), FLATSTEP_STANDIN_DEVICES: "0" });
  assertEquals([told.available, told.error, told.code], [false, "CudaError", "CUDA_ERROR_NO_DEVICE"]);
  assertEquals(told.message, "cuInit failed: CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)");
});

test("a device that is too old is refused by its name", LIMIT, async () => {
  const told = await tell({ FLATSTEP_LIBCUDA: buildStandin(), FLATSTEP_STANDIN_CAPABILITY: "7.0" });
  assertEquals([told.available, told.error, told.code, told.device], [
    true,
    "CudaError",
    "CUDA_ERROR_NO_BINARY_FOR_GPU",
    "cpu",
  ]);
  assertEquals(told.message, "cuda:0 (Stand-in 0) has compute capability 7.0, and at least 7.5 is needed");
});

test("a kernel that the driver cannot compile is an error with what it says", LIMIT, async () => {
  const told = await tell({ FLATSTEP_LIBCUDA: buildStandin(), FLATSTEP_STANDIN_FAIL: "cuModuleLoadDataEx:1:218" });
  assertEquals([told.error, told.code, told.device, told.data], ["CudaError", "CUDA_ERROR_INVALID_PTX", "cuda:0", [
    1,
    2,
  ]]);
  assertEquals(
    told.message,
    "cuModuleLoadDataEx failed: CUDA_ERROR_INVALID_PTX (a PTX JIT compilation failed): " +
      "sgd_f32 (ptxas fatal : the stand-in was told to fail) on cuda:0",
  );
});

for (
  const [call, code, name] of [
    ["cuInit", 999, "CUDA_ERROR_UNKNOWN"],
    ["cuDeviceGetCount", 999, "CUDA_ERROR_UNKNOWN"],
    ["cuDeviceGet", 101, "CUDA_ERROR_INVALID_DEVICE"],
    ["cuDeviceGetAttribute", 999, "CUDA_ERROR_UNKNOWN"],
    ["cuDevicePrimaryCtxRetain", 46, "CUDA_ERROR_DEVICE_UNAVAILABLE"],
    ["cuCtxSetCurrent", 201, "CUDA_ERROR_INVALID_CONTEXT"],
    ["cuModuleLoadDataEx", 209, "CUDA_ERROR_NO_BINARY_FOR_GPU"],
    ["cuModuleGetFunction", 500, "CUDA_ERROR_NOT_FOUND"],
  ] as const
) {
  test(`an error of ${call} is reported, changes nothing, and does not last`, LIMIT, async () => {
    const program = PROGRAM.replace("cuda.isAvailable()", "true"); // which would be what fails
    const told = await tell(
      { FLATSTEP_LIBCUDA: buildStandin(), FLATSTEP_STANDIN_FAIL: `${call}:1:${code}` },
      {},
      program,
    );
    assertEquals([told.error, told.code, told.data, told.after], ["CudaError", name, [1, 2], true]);
    assertStringIncludes(told.message, `${call} failed: ${name} (`);
    assertEquals(told.device, call.startsWith("cuModule") ? "cuda:0" : "cpu");
  });
}

test("a program that has used a device ends well, and so does one that has lost it", LIMIT, async () => {
  const used = await runProgram(`import { Parameter } from "MOD"; console.log(new Parameter([1]).to("cuda").device);`, {
    env: { FLATSTEP_LIBCUDA: buildStandin() },
  });
  assertEquals([used.code, used.signal, used.stdout, used.stderr], [0, null, "cuda:0\n", ""]);
  const lost = await tell(
    { FLATSTEP_LIBCUDA: buildStandin(), FLATSTEP_STANDIN_FAIL: "cuLaunchKernel:1:719" },
    {},
    PROGRAM
      .replace("[...await p.toHost()]", "[]"),
  );
  assertEquals([lost.error, lost.code, lost.after], ["CudaError", "CUDA_ERROR_LAUNCH_FAILED", false]);
  assertStringIncludes(lost.message, "what was on the device is lost, and only another process can use it again");
});

test("Workers use a device side by side, each with the bits of the cpu", LIMIT, async () => {
  const program = `
import { AdamW, Parameter } from "MOD";
const source = \`
import { AdamW, Parameter } from "\${new URL("MOD", import.meta.url)}";
self.onmessage = async ({ data: seed }) => {
  const p = new Parameter(Float32Array.from({ length: 5000 }, (_, i) => (i * seed) % 17 - 8)).to(seed % 2 ? "cuda:0" : "cuda:1");
  const optimizer = new AdamW([p]);
  for (let t = 0; t < 20; t++) {
    p.grad = Float32Array.from({ length: 5000 }, (_, i) => (i * (t + seed)) % 13 - 6);
    optimizer.step();
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  self.postMessage(await p.toHost());
};\`;
const results = await Promise.all([1, 2, 3, 4].map((seed) => new Promise((resolve, reject) => {
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "application/typescript" })), { type: "module" });
  worker.onmessage = ({ data }) => { worker.terminate(); resolve(data); };
  worker.onerror = (event) => reject(new Error(event.message));
  worker.postMessage(seed);
})));
for (const [k, result] of results.entries()) {
  const seed = k + 1, p = new Parameter(Float32Array.from({ length: 5000 }, (_, i) => (i * seed) % 17 - 8));
  const optimizer = new AdamW([p]);
  for (let t = 0; t < 20; t++) {
    p.grad = Float32Array.from({ length: 5000 }, (_, i) => (i * (t + seed)) % 13 - 6);
    optimizer.step();
  }
  if (!result.every((x, i) => Object.is(x, p.data[i]))) throw new Error("other bits in Worker " + seed);
}
console.log("the same");
`;
  const ended = await runProgram(program, { env: { FLATSTEP_LIBCUDA: buildStandin() } });
  assertEquals([ended.code, ended.stdout, ended.stderr], [0, "the same\n", ""]);
});
