/**
 * The exponential moving average of weights: the program of torch's documentation, on Fisher's irises, with batch norm.
 *
 *     deno run -A examples/ema.ts
 *     bun examples/ema.ts
 *
 * The same numbers in both.
 */
import { assert, assertEquals } from "@std/assert";
import { AveragedModel, getEmaMultiAvgFn, SGD, updateBn } from "@flatstep/optim";
import { Random } from "./mnist/random.ts";
import { FEATURES, Loader, loadIris, SPECIES } from "./support/iris.ts";
import { Mlp, score } from "./support/mlp.ts";

const random = new Random(1), { train, test } = loadIris(1);
const loader = new Loader(train, 10, random);
const model = new Mlp(FEATURES, 16, SPECIES, random);
const optimizer = new SGD(model.namedParameters(), { lr: 0.1 });

const emaModel = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn(0.999) });

const losses: number[] = [];
for (let epoch = 0; epoch < 300; epoch++) {
  let sum = 0;
  for (const [inputs, labels] of loader) {
    optimizer.zeroGrad();
    sum += model.backward(inputs, labels) * labels.length;
    optimizer.step();
    emaModel.updateParameters(model);
  }
  losses.push(sum / train.count);
  if (epoch % 50 === 49) console.log(`epoch ${epoch + 1}: loss ${losses[epoch]!.toFixed(6)}`);
}

// The averaged weights have seen no activations: their batch norm gets its statistics by one pass over the data.
const before = [...emaModel.module.norm.runningMean];
await updateBn(loader, emaModel);
const after = [...emaModel.module.norm.runningMean];

const raw = score(model.eval().forward(test.inputs), test);
emaModel.module.eval();
const averaged = score(emaModel.forward(test.inputs), test);

assert(
  losses.at(-1)! < losses[0]! / 2,
  `training must lower the loss: ${losses[0]} at first, ${losses.at(-1)} at last`,
);
assertEquals(emaModel.nAveraged, 2700);
assert(before.some((mean, c) => mean !== after[c]), "updateBn must renew the statistics");
assertEquals([emaModel.module.norm.numBatchesTracked, emaModel.module.norm.momentum], [9, 0.1]);
assert(averaged.accuracy >= 0.93, "the averaged model must know the flowers");
assert(averaged.loss < raw.loss, "averaging must lower the loss on flowers not seen");
const percent = ({ accuracy, loss }: typeof raw) => `${(100 * accuracy).toFixed(1)} %, test loss ${loss.toFixed(6)}`;
console.log(`loss ${losses[0]!.toFixed(6)} in the first epoch, ${losses.at(-1)!.toFixed(6)} in the last`);
console.log(`raw weights: ${percent(raw)}\naveraged weights: ${percent(averaged)}`);
