/**
 * jax-js computes the gradients, flatstep updates: a small network on Fisher's irises, whose parameters are a pytree.
 *
 *     deno run -A examples/adapter_jax.ts
 *     bun examples/adapter_jax.ts
 */
import { assert } from "@std/assert";
import { defaultDevice, init, jit, nn, numpy as np, valueAndGrad } from "@jax-js/jax";
import { AdamW, AveragedModel, CosineAnnealingLR, getEmaMultiAvgFn } from "@flatstep/optim";
import { ParameterTree } from "@flatstep/optim/adapters/jax";
import { Random } from "./mnist/random.ts";
import { FEATURES, type Flowers, Loader, loadIris, SPECIES } from "./support/iris.ts";

await init("wasm");
defaultDevice("wasm");

interface Layer {
  w: np.Array;
  b: np.Array;
}
interface Net {
  layers: Layer[];
}

/** The logits of a batch. jax-js moves what it uses: what is used twice is used as `x.ref` the first time. */
function forward({ layers }: Net, x: np.Array): np.Array {
  layers.forEach(({ w, b }, i) => {
    x = np.matmul(x, w).add(b);
    if (i < layers.length - 1) x = nn.relu(x);
  });
  return x;
}

const crossEntropy = (net: Net, x: np.Array, labels: np.Array) =>
  np.mean(np.sum(nn.logSoftmax(forward(net, x)).mul(nn.oneHot(labels, SPECIES)), -1)).mul(-1);

const jitForward = jit(forward), jitGradient = jit(valueAndGrad(crossEntropy));

/** A layer with weights by He's initialisation. */
function layer(inputs: number, outputs: number, random: Random): Layer {
  const bound = Math.sqrt(6 / inputs);
  const w = Float32Array.from({ length: inputs * outputs }, () => random.uniform(-bound, bound));
  return { w: np.array(w, { shape: [inputs, outputs] }), b: np.zeros([outputs]) };
}

const inputsOf = (values: ArrayLike<number>, count: number) =>
  np.array(Float32Array.from(values), { shape: [count, FEATURES] });

const random = new Random(1), { train, test } = loadIris(1), loader = new Loader(train, 10, random);
const net: Net = { layers: [layer(FEATURES, 16, random), layer(16, SPECIES, random)] };
const model = new ParameterTree(np, net, (arrays: Net, x: np.Array) => jitForward(arrays, x));
console.log(model.namedParameters().map(([name, { shape }]) => `${name} [${shape.join(", ")}]`).join(", "));

const epochs = 60, optimizer = new AdamW(model.namedParameters(), { lr: 0.02 });
const scheduler = new CosineAnnealingLR(optimizer, { tMax: epochs });
const averaged = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn(0.95) });
const losses: number[] = [];
for (let epoch = 1; epoch <= epochs; epoch++) {
  let sum = 0;
  for (const [inputs, labels] of loader) {
    const x = inputsOf(inputs, labels.length), y = np.array(Int32Array.from(labels));
    const loss = optimizer.step(model.closure((arrays) => jitGradient(arrays, x, y)), { maxGradNorm: 1 });
    averaged.updateParameters(model);
    sum += loss * labels.length / train.count;
  }
  scheduler.step();
  losses.push(sum);
  if (epoch % 20 === 0) console.log(`epoch ${epoch}: loss ${sum.toFixed(3)}`);
}

/** The share of the flowers that get the right species. */
function accuracy(model: { forward(x: np.Array): np.Array }, { inputs, labels, count }: Flowers): number {
  const logits = model.forward(inputsOf(inputs, count)).js() as number[][];
  return logits.filter((row, i) => row.indexOf(Math.max(...row)) === labels[i]).length / count;
}
const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
const raw = accuracy(model, test), smooth = accuracy(averaged, test);
console.log(`test accuracy: ${percent(raw)}, averaged weights: ${percent(smooth)}`);
assert(
  losses.at(-1)! < losses[0]! / 4,
  `training must lower the loss: ${losses[0]} at first, ${losses.at(-1)} at last`,
);
assert(raw >= 0.93 && smooth >= 0.93, "the model must know the flowers");
