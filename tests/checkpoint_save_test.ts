import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import {
  AdamW,
  AveragedModel,
  CheckpointError,
  load,
  loadModelStateDict,
  modelStateDict,
  Parameter,
  save,
  SGD,
  StepLR,
} from "../mod.ts";
import { withFolder } from "./support/checkpoints.ts";

const ENDINGS = [".pt", ".safetensors"];

/** A model, its optimizer, and a step; large enough that a save takes several pieces. */
function run(size = 3_000_000) {
  const weight = new Parameter(new Float32Array(size).fill(1)), bias = new Parameter([1, 2]);
  const model = {
    weight,
    bias,
    *namedParameters(): Iterable<[string, Parameter]> {
      yield ["weight", this.weight];
      yield ["bias", this.bias];
    },
    forward() {},
  };
  const optimizer = new AdamW([weight, bias], { lr: 0.5 });
  const step = () => {
    weight.grad = weight.data.slice();
    bias.grad = bias.data.slice();
    optimizer.step();
  };
  step();
  return { weight, bias, model, optimizer, step };
}

/** Saves once, then again while something is done; the second save must fail and leave the first one's file. */
async function fails(content: unknown, meanwhile: () => unknown): Promise<void> {
  for (const ending of ENDINGS) {
    await withFolder(async (folder) => {
      const path = join(folder, `run${ending}`);
      await save(path, { old: true });
      const saving = save(path, content);
      const result = saving.catch((error) => error);
      await meanwhile();
      const error = await result;
      assert(error instanceof CheckpointError, `${ending}: ${error}`);
      assert(error.message.startsWith(`${path}: `) && error.message.includes("a step was made"), error.message);
      assertEquals(await load(path), { old: true });
      assertEquals(readdirSync(folder), [`run${ending}`]);
    });
  }
}

test("save() fails and keeps the old file when its optimizer steps meanwhile", async () => {
  const { optimizer, step } = run();
  await fails({ optimizer }, step);
});

test("save() of a model fails when an optimizer of its parameters steps meanwhile, later too", async () => {
  const { model, step } = run();
  await fails({ model }, step);
  await fails(model, async () => {
    await new Promise((resolve) => setTimeout(resolve, 1));
    step();
  });
});

test("save() fails when state is replaced meanwhile", async () => {
  const { optimizer, weight } = run();
  const saved = optimizer.stateDict();
  await fails({ optimizer }, () => optimizer.state.set(weight, { ...optimizer.state.get(weight)! }));
  await fails({ optimizer }, () => optimizer.state.delete(weight));
  await fails({ optimizer }, () => optimizer.loadStateDict(saved));
});

test("save() fails when a model's numbers are loaded or averaged meanwhile", async () => {
  const { model } = run(), averaged = new AveragedModel(model), numbers = modelStateDict(model);
  averaged.updateParameters(model);
  await fails({ model }, () => loadModelStateDict(model, numbers));
  await fails({ averaged }, () => averaged.updateParameters(model));
  const dict = averaged.stateDict();
  await fails({ averaged }, () => averaged.loadStateDict(dict));
  await fails({ model }, () => averaged.swap(model, () => {}));
});

test("save() fails when an array is detached or shrunk meanwhile", async () => {
  for (const ending of ENDINGS) {
    const detached = new Float32Array(3_000_000), buffer = new ArrayBuffer(12_000_000, { maxByteLength: 12_000_000 });
    const shrunk = new Float32Array(buffer);
    await withFolder(async (folder) => {
      const path = join(folder, `run${ending}`), first = save(path, { detached }).catch((error) => error);
      structuredClone(null, { transfer: [detached.buffer] });
      const second = save(path, { shrunk }).catch((error) => error);
      buffer.resize(4);
      for (const error of await Promise.all([first, second])) {
        assert(error instanceof CheckpointError && error.message.includes("detached or resized"), String(error));
      }
      assertEquals(readdirSync(folder), []);
    });
  }
});

test("save() succeeds when another optimizer steps meanwhile", async () => {
  const { optimizer } = run(), other = run(10);
  await withFolder(async (folder) => {
    const saving = save(join(folder, "run.pt"), { optimizer });
    other.step();
    await saving;
  });
});

test("save() has what there was when it was called, groups and plain values included", async () => {
  const { optimizer } = run(), values = { epoch: 1, list: [1] };
  await withFolder(async (folder) => {
    for (const ending of ENDINGS) {
      const path = join(folder, `run${ending}`),
        before = optimizer.stateDict(),
        saving = save(path, { optimizer, values });
      optimizer.paramGroups[0]!.lr *= 2;
      values.epoch++;
      values.list.push(2);
      await saving;
      assertEquals(await load(path), { optimizer: before, values: { epoch: 1, list: [1] } });
      Object.assign(values, { epoch: 1, list: [1] });
    }
  });
});

test("save() during a step is an error, and in a step post hook is none", async () => {
  const { optimizer, weight, step } = run(10);
  await withFolder(async (folder) => {
    const path = join(folder, "run.pt");
    let saving: Promise<void> | undefined;
    optimizer.step(() => {
      saving = save(path, { optimizer });
      saving.catch(() => {});
      return 0;
    });
    await assertRejects(() => saving!, TypeError, "must not be saved during its step");
    await optimizer.stepAsync(async () => {
      await assertRejects(() => save(path, { optimizer }), TypeError, "must not be saved during its step");
      return 0;
    });
    optimizer.registerStepPostHook(() => saving = save(path, { optimizer, weight }));
    step();
    await saving;
    assertEquals(await load(path), {
      optimizer: optimizer.stateDict(),
      weight: { dtype: "float32", shape: [10], data: weight.data },
    });
  });
});

test("save() goes through state dict hooks, and a subclass's stateDict()", async () => {
  class Mine extends SGD {
    override stateDict() {
      const dict = super.stateDict();
      dict.paramGroups[0]!["meta"] = "mine";
      return dict;
    }
  }
  const hooked = run(10).optimizer, mine = new Mine([new Float32Array(2)]);
  let calls = 0;
  hooked.registerStateDictPreHook(() => void calls++);
  hooked.registerStateDictPostHook((_, dict) => ({ ...dict, extra: 1 }));
  await withFolder(async (folder) => {
    for (const ending of ENDINGS) {
      const path = join(folder, `run${ending}`);
      await save(path, { hooked, mine });
      const loaded = await load(path);
      assertEquals(loaded.hooked.extra, 1);
      assertEquals(loaded.mine.paramGroups[0].meta, "mine");
    }
  });
  assertEquals(calls, 2);
});

test("save() takes models, averages, optimizers, schedulers and objects with stateDict(), also nested", async () => {
  const { model, optimizer, weight, bias } = run(10), scheduler = new StepLR(optimizer, { stepSize: 2 });
  const averaged = new AveragedModel(model), custom = { stateDict: () => ({ inner: optimizer, n: 1 }) };
  averaged.updateParameters(model);
  await withFolder(async (folder) => {
    for (const ending of ENDINGS) {
      const path = join(folder, `run${ending}`);
      await save(path, { model, optimizer, list: [scheduler, averaged], custom, weight, array: bias.data });
      assertEquals(await load(path), {
        model: modelStateDict(model),
        optimizer: optimizer.stateDict(),
        list: [scheduler.stateDict(), averaged.stateDict()],
        custom: { inner: optimizer.stateDict(), n: 1 },
        weight: { dtype: "float32", shape: [10], data: weight.data },
        array: bias.data,
      });
      for (const single of [model, optimizer, scheduler, averaged]) {
        await save(path, single);
        const expected = single === model ? modelStateDict(model) : (single as { stateDict(): unknown }).stateDict();
        assertEquals(await load(path), expected);
      }
    }
  });
});

test("two saves to one path at a time leave one of the two files, whole", async () => {
  const contents = [1, 2].map((n) => ({ n, data: new Float32Array(1_000_000).fill(n) }));
  await withFolder(async (folder) => {
    for (const ending of ENDINGS) {
      const path = join(folder, `run${ending}`);
      await Promise.all(contents.map((content) => save(path, content)));
      const loaded = await load(path);
      assertEquals(loaded, contents[loaded.n - 1]);
      assertEquals(readdirSync(folder).filter((name) => name.endsWith(".tmp")), []);
    }
  });
});

test("save() follows a symbolic link, and keeps the file's permissions", async () => {
  if (process.platform === "win32") return console.log("skipped: Windows has neither for everyone");
  await withFolder(async (folder) => {
    mkdirSync(join(folder, "disk"));
    const target = join(folder, "disk", "run.pt"), link = join(folder, "link.pt");
    await save(target, 1);
    chmodSync(target, 0o640);
    symlinkSync(target, link);
    await save(link, 2);
    assert(lstatSync(link).isSymbolicLink());
    assertEquals([await load(target), statSync(target).mode & 0o777], [2, 0o640]);
  });
});

test("save() removes what killed saves to its path left long ago, and nothing else", async () => {
  await withFolder(async (folder) => {
    const names = [".run.pt.17-abc.tmp", ".run.pt.18-abd.tmp", ".other.pt.17-abc.tmp", ".run.pt.tmp"];
    for (const name of names) {
      writeFileSync(join(folder, name), "left over");
      if (name !== names[1]) utimesSync(join(folder, name), 1, 1);
    }
    await save(join(folder, "run.pt"), 1);
    assertEquals(readdirSync(folder).sort(), [...names.slice(1), "run.pt"].sort());
  });
});

test("save() into a folder that is not there is a CheckpointError", async () => {
  await withFolder(async (folder) => {
    const path = join(folder, "none", "run.pt");
    const error = await assertRejects(() => save(path, 1), CheckpointError, "it could not be saved: ENOENT");
    assertEquals((error.cause as { code: string }).code, "ENOENT");
  });
});

test("save() writes the same bytes each time, in both formats", async () => {
  const { model, optimizer } = run(100);
  await withFolder(async (folder) => {
    for (const ending of ENDINGS) {
      const [a, b] = ["a", "b"].map((name) => join(folder, name + ending)) as [string, string];
      await save(a, { model, optimizer });
      await save(b, { model, optimizer });
      assertEquals(readFileSync(a), readFileSync(b));
    }
  });
});

test("save() of a model as .safetensors has its names and nothing else, as other tools have it", async () => {
  const { model } = run(3);
  await withFolder(async (folder) => {
    const path = join(folder, "model.safetensors");
    await save(path, model);
    const bytes = readFileSync(path), length = Number(bytes.readBigUInt64LE(0));
    assertEquals(JSON.parse(bytes.toString("utf8", 8, 8 + length)), {
      __metadata__: { format: "pt" },
      weight: { dtype: "F32", shape: [3], data_offsets: [0, 12] },
      bias: { dtype: "F32", shape: [2], data_offsets: [12, 20] },
    });
    assertEquals((8 + length) % 8, 0);
  });
});

test("save() as .safetensors aligns every tensor, and names those of state by where they are", async () => {
  const { optimizer } = run(3);
  await withFolder(async (folder) => {
    const path = join(folder, "run.safetensors");
    await save(path, { byte: Uint8Array.of(1), optimizer, wide: Float64Array.of(1) });
    const bytes = readFileSync(path), length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString("utf8", 8, 8 + length));
    assertEquals(header["optimizer.state.0.expAvg"].shape, [3]);
    assertEquals(header.wide.data_offsets[0], 0);
    assertEquals(header["optimizer.state.0.expAvg"].data_offsets[0] % 4, 0);
  });
});
