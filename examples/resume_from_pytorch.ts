/**
 * Goes on with a run that PyTorch has begun: model, optimizer and scheduler come from the file that `torch.save` wrote.
 *
 *     deno run -A examples/resume_from_pytorch.ts
 *     bun examples/resume_from_pytorch.ts
 *
 * The model is nn.Sequential(Linear(3, 4), BatchNorm1d(4), ReLU(), Linear(4, 2)), trained by AdamW to give zeros. PyTorch's own
 * continuation, to compare with, is examples/resume_from_pytorch.py.
 */
import { assert } from "@std/assert";
import { AdamW, CosineAnnealingLR, load, loadModelStateDict, type ModelStateDict } from "@flatstep/optim";
import { fileURLToPath } from "node:url";
import { Random } from "./mnist/random.ts";
import { Mlp } from "./support/mlp.ts";

/** What examples/resume_from_pytorch.py prints: the loss at the end of each further epoch. */
const IN_PYTORCH = [
  0.06482283771038055,
  0.039537213742733,
  0.026257667690515518,
  0.019912857562303543,
  0.01701248809695244,
  0.015796702355146408,
  0.015469660982489586,
];

const path = fileURLToPath(new URL("../tests/golden/checkpoints/training.pt", import.meta.url));
const checkpoint = await load(path);

// The same model, whose parts have names here: "1.running_mean" is "norm.runningMean".
const PARTS: Record<string, string> = { "0": "first", "1": "norm", "3": "second" };
const NAMES: Record<string, string> = { running_mean: "runningMean", running_var: "runningVar" };
const { "1.num_batches_tracked": batches, ...tensors } = checkpoint.model as ModelStateDict;
const renamed: ModelStateDict = {};
for (const [key, tensor] of Object.entries(tensors)) {
  const [part, name] = key.split(".") as [string, string];
  renamed[`${PARTS[part]}.${NAMES[name] ?? name}`] = tensor;
}

const model = new Mlp(3, 4, 2, new Random(0));
loadModelStateDict(model, renamed);
model.norm.numBatchesTracked = Number(batches!.data[0]);

const optimizer = new AdamW(model.namedParameters());
const scheduler = new CosineAnnealingLR(optimizer, { tMax: 10 });
scheduler.loadStateDict(checkpoint.scheduler);
optimizer.loadStateDict(checkpoint.optimizer);

const inputs = Float64Array.from({ length: 5 * 3 }, (_, i) => (37 * i) % 101 / 50 - 1);
const steps = optimizer.state.get(model.first.weight)!["step"];
console.log(`PyTorch stopped after epoch ${checkpoint.epoch}, ${steps} steps, with lr ${optimizer.paramGroups[0]!.lr}`);
for (let epoch = checkpoint.epoch; epoch < 10; epoch++) {
  let loss = 0;
  for (let step = 0; step < 20; step++) {
    const outputs = model.forward(inputs);
    loss = outputs.reduce((sum, y) => sum + y * y / outputs.length, 0);
    model.propagate(outputs.map((y) => 2 * y / outputs.length));
    optimizer.step();
  }
  scheduler.step();
  const theirs = IN_PYTORCH[epoch - checkpoint.epoch]!;
  console.log(`epoch ${epoch + 1}: loss ${loss.toFixed(6)}, in PyTorch ${theirs.toFixed(6)}`);
  assert(Math.abs(loss - theirs) < 1e-5 * theirs, `the loss must be PyTorch's, ${theirs}, got ${loss}`);
}
console.log("went on from PyTorch's checkpoint as PyTorch does");
