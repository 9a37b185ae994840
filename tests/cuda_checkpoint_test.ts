/** Checkpoints of what is on a CUDA device. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { join } from "@std/path";
import {
  AdamW,
  CudaError,
  load,
  loadModelStateDict,
  type ModelStateDict,
  modelStateDict,
  Parameter,
  save,
  type StateDict,
  type TypedArray,
} from "../mod.ts";
import { DTYPES } from "../src/dtype.ts";
import { cudaTest } from "./support/cuda.ts";
import { hashNumbers, typed } from "./support/golden.ts";

/** A model of a tensor for each dtype. */
function makeModel(device: "cpu" | "cuda") {
  const params = DTYPES.map((dtype, i) => {
    const p = new Parameter(typed(hashNumbers(i, 12, 2), dtype), { dtype, shape: [3, 4] });
    return [dtype, p.to(device)] as const;
  });
  return { params, namedParameters: () => params };
}

function train(model: ReturnType<typeof makeModel>): AdamW {
  const optimizer = new AdamW(model.params);
  model.params.forEach(([dtype, p], i) => p.grad = typed(hashNumbers(50 + i, 12, 2), dtype));
  optimizer.step();
  return optimizer;
}

const bits = (array: TypedArray) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength).toHex();

cudaTest(
  "save() takes models and optimizers whose tensors are on a device, and load() gives what the cpu gives",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "flatstep-"));
    try {
      const host = makeModel("cpu"), device = makeModel("cuda");
      const other = train(host);
      using optimizer = train(device);
      for (const ending of ["safetensors", "pt"]) {
        const [a, b] = ["device", "host"].map((name) => join(folder, `${name}.${ending}`));
        const alone = device.params[0]![1];
        await save(a!, { model: device, optimizer, alone });
        await save(b!, { model: host, optimizer: other, alone: host.params[0]![1] });
        const [mine, expected] = [await load(a!), await load(b!)] as { model: ModelStateDict; optimizer: StateDict }[];
        assertEquals(mine, expected);
        assertEquals(mine!.optimizer, other.stateDict());
      }
      for (const [, p] of device.params) p.dispose();
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);

cudaTest("modelStateDict() and loadModelStateDict() read and write where the tensors are", async () => {
  const host = makeModel("cpu"), device = makeModel("cuda"), arrays = device.params.map(([, p]) => p.deviceArray);
  assertEquals(modelStateDict(device), modelStateDict(host));
  const dict = modelStateDict(host);
  for (const { data } of Object.values(dict)) (data as Uint16Array).fill(1);
  loadModelStateDict(device, dict);
  for (const [i, [name, p]] of device.params.entries()) {
    assertStrictEquals(p.deviceArray, arrays[i]!);
    assertEquals(bits(await p.toHost()), bits(dict[name]!.data as TypedArray));
    p.dispose();
  }
});

cudaTest("loadModelStateDict() changes nothing where the driver fails half way", (standin) => {
  if (standin === null) return console.log("skipped: only the stand-in can be told to fail");
  const model = makeModel("cuda"), before = modelStateDict(model), dict = modelStateDict(makeModel("cpu"));
  for (const { data } of Object.values(dict)) (data as Uint16Array).fill(0);
  for (let nth = 1; nth <= 4; nth++) {
    standin.fail("cuMemcpyHtoD_v2", nth, 999);
    assertThrows(() => loadModelStateDict(model, dict), CudaError, "cuMemcpyHtoD_v2 failed: CUDA_ERROR_UNKNOWN");
    standin.reset();
    assertEquals(modelStateDict(model), before);
  }
  loadModelStateDict(model, dict);
  assertEquals(modelStateDict(model), dict);
  for (const [, p] of model.params) p.dispose();
});
