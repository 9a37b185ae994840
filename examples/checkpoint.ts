// deno run -A examples/checkpoint.ts     (or: bun examples/checkpoint.ts)
import { AdamW, AveragedModel, CosineAnnealingLR, load, loadModelStateDict, Parameter, save } from "@flatstep/optim";
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

class Model {
  weight = new Parameter(new Float32Array(6), { shape: [2, 3] });
  *namedParameters(): Iterable<[string, Parameter]> {
    yield ["weight", this.weight];
  }
  forward() {}
}

/** A training run: all that a checkpoint has to have. */
class Run {
  model = new Model();
  optimizer = new AdamW(this.model.namedParameters(), { lr: 0.1 });
  scheduler = new CosineAnnealingLR(this.optimizer, { tMax: 100 });
  averaged = new AveragedModel(this.model);

  train(steps: number) {
    for (let step = 0; step < steps; step++) {
      this.model.weight.grad = (this.model.weight.data as Float32Array).map((w, i) => 2 * (w - i));
      this.optimizer.step();
      this.scheduler.step();
      this.averaged.updateParameters(this.model);
    }
  }
}

// One run is saved on the way and goes straight on.
const path = join(tmpdir(), `run-${Date.now()}.pt`); // or .safetensors
const straight = new Run();
straight.train(40);
await save(path, { ...straight, epoch: 4, note: "anything plain" });
straight.train(60);

// Another goes on from the checkpoint, in what may be another program, or another runtime.
const resumed = new Run(), checkpoint = await load(path);
loadModelStateDict(resumed.model, checkpoint.model);
resumed.scheduler.loadStateDict(checkpoint.scheduler); // schedulers before the optimizer
resumed.optimizer.loadStateDict(checkpoint.optimizer);
resumed.averaged.loadStateDict(checkpoint.averaged);
resumed.train(60);

const same = straight.model.weight.data.every((w, i) => w === resumed.model.weight.data[i]);
console.log(`resumed after epoch ${checkpoint.epoch}: ${same ? "the same bits" : "other bits"}`);
rmSync(path);
