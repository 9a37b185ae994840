/** updateBn: torch's statistics, and what torch leaves behind. */

import { readFileSync } from "node:fs";
import { test } from "node:test";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import { AveragedModel, type DType, type Module, updateBn } from "../mod.ts";
import { assertNear, plain, type Tolerance, type Written } from "./support/golden.ts";
import { type Batch, BatchNorm1d, type LayerSpec, makeNet, modelOf, type Sequential } from "./support/models.ts";
import { ROOT } from "./support/runtime.ts";

interface BnCase {
  name: string;
  kind: string;
  dtype: DType;
  layers: LayerSpec[];
  training: boolean;
  layerTraining: boolean[];
  batches: { shape: [number, number]; data: number[] }[];
  wrapped: boolean;
  expect: {
    training: boolean;
    layerTraining: boolean[];
    batchNorms: { momentum: number | null; numBatchesTracked: number; runningMean: Written; runningVar: Written }[];
  };
  tolerance: Tolerance;
}

const { cases } = JSON.parse(readFileSync(join(ROOT, "tests", "golden", "swa.json"), "utf8")) as { cases: BnCase[] };

const normsOf = (net: Sequential) => net.layers.filter((layer) => layer instanceof BatchNorm1d);

for (const c of cases) {
  if (c.kind !== "updateBn") continue;
  test(`updateBn computes torch's statistics, over synchronous and asynchronous loaders: ${c.name}`, async () => {
    for (const asynchronous of [false, true]) {
      for (const averaged of [false, true]) {
        const net = makeNet(c.layers, c.dtype);
        net.training = c.training;
        net.layers.forEach((layer, i) => layer.training = c.layerTraining[i]!);
        const model = averaged ? new AveragedModel(net) : net,
          ran = averaged ? (model as AveragedModel<Sequential>).module : net;
        const inputs = c.batches.map(({ shape: [rows, cols], data }): Batch => ({
          rows,
          cols,
          data: Float64Array.from(data),
        }));
        const batches = c.wrapped ? inputs.map((x) => [x, null]) : inputs;
        const loader = asynchronous
          ? (async function* () {
            yield* batches;
          })()
          : batches;
        await updateBn(loader, model as Module);
        const norms = normsOf(ran);
        assertEquals(ran.calls, norms.length > 0 ? batches.length : 0);
        assertEquals(ran.training, c.expect.training);
        assertEquals(ran.layers.map((layer) => layer.training), c.expect.layerTraining);
        norms.forEach((norm, i) => {
          const want = c.expect.batchNorms[i]!;
          assertEquals([norm.momentum, norm.numBatchesTracked], [want.momentum, want.numBatchesTracked]);
          for (const key of ["runningMean", "runningVar"] as const) {
            const w = Float64Array.from(want[key] as number[]);
            assertNear(key, plain(norm[key], c.dtype), w, (k) => Math.abs(w[k]!), c.tolerance, c.dtype);
          }
        });
      }
    }
  });
}

const spec = (momentum: number | null = 0.1): LayerSpec => ({
  type: "BatchNorm1d",
  out: 1,
  weight: [1],
  bias: [0],
  runningMean: [7],
  runningVar: [9],
  momentum,
  numBatchesTracked: 5,
  eps: 1e-5,
});

const batch = (...data: number[]): Batch => ({ rows: data.length, cols: 1, data: Float64Array.from(data) });

/** A net of two batch norms, the second of which is frozen. */
function frozenNet(): Sequential {
  const net = makeNet([spec(), spec(null)], "float32");
  net.layers[1]!.training = false;
  return net;
}

const stateOf = (net: Sequential) =>
  normsOf(net).map((n) => [n.runningMean[0], n.runningVar[0], n.numBatchesTracked, n.momentum, n.training]);

test("updateBn gives a frozen layer its own mode back, where torch leaves it in training mode", async () => {
  // torch: update_bn restores model.training by model.train(was_training), and so sets all modules alike
  const net = frozenNet();
  await updateBn([batch(1, 3), batch(5, 7)], net);
  assertEquals(stateOf(net).map((s) => s.slice(2)), [[2, 0.1, true], [2, null, false]]);
  assertEquals(normsOf(net)[0]!.runningMean[0], 4);
});

test("updateBn leaves the statistics alone where the loader is empty; torch wipes them", async () => {
  // torch: reset_running_stats() comes before the loop; running_mean is 0 and num_batches_tracked 0 afterwards
  const net = frozenNet(), before = stateOf(net);
  await updateBn([], net);
  assertEquals(stateOf(net), before);
});

test("updateBn leaves everything as it was when the loader or the model throws; torch leaves momentum None", async () => {
  // torch: no try/finally: momentum stays None, the model in training mode, the statistics half done
  const failing = async function* () {
    yield batch(1, 3);
    await Promise.resolve();
    throw new Error("disk");
  };
  for (const asynchronous of [false, true]) {
    const net = frozenNet(), before = stateOf(net);
    net.training = false;
    const loader = asynchronous ? failing() : (function* () {
      yield batch(1, 3);
      throw new Error("disk");
    })();
    await assertRejects(() => updateBn(loader, net), Error, "disk");
    assertEquals(stateOf(net), before);
    assertEquals(net.training, false);
    net.forward = () => {
      throw new Error("shape");
    };
    await assertRejects(() => updateBn([batch(1, 3)], net), Error, "shape");
    assertEquals(stateOf(net), before);
  }
});

test("updateBn restores arrays that resetRunningStats() has replaced", async () => {
  const net = frozenNet(), [norm] = normsOf(net) as [BatchNorm1d], mean = norm.runningMean;
  norm.resetRunningStats = function () {
    this.runningMean = new Float32Array(1);
    this.runningVar = Float32Array.of(1);
    this.numBatchesTracked = 0;
  };
  await updateBn([batch(1, 3)], net);
  assert(norm.runningMean !== mean && norm.runningMean[0] === 2);
  const now = norm.runningMean;
  net.forward = () => {
    throw new Error("shape");
  };
  await assertRejects(() => updateBn([batch(1, 3)], net), Error, "shape");
  assert(norm.runningMean === now && now[0] === 2);
});

test("updateBn awaits a model that is asynchronous, and runs none without batch norms", async () => {
  const net = frozenNet(), forward = net.forward.bind(net), order: string[] = [];
  const slow = {
    namedParameters: () => [],
    modules: () => net.modules(),
    forward: async (x: Batch) => {
      order.push("begin");
      await new Promise((resolve) => setTimeout(resolve, 1));
      order.push("end");
      return forward(x);
    },
  };
  await updateBn([batch(1, 3), [batch(5, 7), "label"]], slow);
  assertEquals(order, ["begin", "end", "begin", "end"]);
  assertEquals(stateOf(net).map(([mean, , batches]) => [mean, batches])[0], [4, 2]);
  let asked = 0;
  const loader = (function* () {
    yield asked++;
  })();
  await updateBn(loader, modelOf(1));
  assertEquals(asked, 0);
});

test("updateBn refuses what is no loader or no model", async () => {
  await assertRejects(
    () => updateBn(3 as unknown as Iterable<unknown>, frozenNet()),
    TypeError,
    "loader must be an iterable of batches, or an asynchronous one, got 3",
  );
  await assertRejects(() => updateBn({} as unknown as Iterable<unknown>, frozenNet()), TypeError, "got an object");
  await assertRejects(
    () => updateBn([], null as unknown as Module),
    TypeError,
    "model must be a Module with forward(), got null",
  );
});
