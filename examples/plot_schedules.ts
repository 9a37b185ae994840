/**
 * Draws a gallery of all schedulers:
 *
 *     deno run -A examples/plot_schedules.ts [--out=docs/schedules.svg]
 *     bun examples/plot_schedules.ts [--out=docs/schedules.svg]
 *
 * The same bytes in both. For pictures of one's own schedules there is `plotSchedule`.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { assertEquals } from "@std/assert";
import * as optim from "@flatstep/optim";
import { type Curve, drawGallery, type Panel } from "./support/gallery.ts";

const EPOCHS = 100;

/** An optimizer of two groups, the second with half the rate, if `groups` is 2. */
const makeOptimizer = (groups: number) =>
  new optim.SGD(
    Array.from({ length: groups }, (_, g) => ({ params: [new Float32Array(1)], lr: 1 / (1 + g) })),
    { lr: 1, momentum: 0.9 },
  );

type Make = (optimizer: optim.SGD) => optim.LRScheduler;

const constant = (optimizer: optim.SGD) => new optim.ConstantLR(optimizer, { factor: 0.3, totalIters: 20 });
const exponential = (optimizer: optim.SGD) => new optim.ExponentialLR(optimizer, { gamma: 0.97 });

/** Every scheduler, with what stands below its name. */
const SCHEDULERS: readonly [name: string, options: string, make: Make, further?: "momentum" | "group"][] = [
  ["LambdaLR", "1 / (1 + t / 10), 0.97ᵗ", (o) => {
    return new optim.LambdaLR(o, { lrLambda: [(t) => 1 / (1 + t / 10), (t) => 0.97 ** t] });
  }, "group"],
  ["MultiplicativeLR", "times 0.95 or 1, by turns of ten", (o) => {
    return new optim.MultiplicativeLR(o, { lrLambda: (t) => t % 20 < 10 ? 0.95 : 1 });
  }],
  ["StepLR", "stepSize 30, gamma 0.5", (o) => new optim.StepLR(o, { stepSize: 30, gamma: 0.5 })],
  ["MultiStepLR", "at 30 and 80, gamma 0.3", (o) => {
    return new optim.MultiStepLR(o, { milestones: [30, 80], gamma: 0.3 });
  }],
  ["ConstantLR", "factor 0.5, totalIters 40", (o) => new optim.ConstantLR(o, { factor: 0.5, totalIters: 40 })],
  ["LinearLR", "startFactor 0.1, totalIters 40", (o) => {
    return new optim.LinearLR(o, { startFactor: 0.1, totalIters: 40 });
  }],
  ["ExponentialLR", "gamma 0.96", (o) => new optim.ExponentialLR(o, { gamma: 0.96 })],
  ["PolynomialLR", "totalIters 80, power 2", (o) => new optim.PolynomialLR(o, { totalIters: 80, power: 2 })],
  ["CosineAnnealingLR", "tMax 100", (o) => new optim.CosineAnnealingLR(o, { tMax: 100 })],
  ["CosineAnnealingWarmRestarts", "t0 15, tMult 2", (o) => {
    return new optim.CosineAnnealingWarmRestarts(o, { t0: 15, tMult: 2 });
  }],
  ["CyclicLR", "stepSizeUp 12, triangular2", (o) => {
    return new optim.CyclicLR(o, { baseLr: 0.1, maxLr: 1, stepSizeUp: 12, mode: "triangular2" });
  }, "momentum"],
  ["OneCycleLR", "maxLr 1, totalSteps 100", (o) => {
    return new optim.OneCycleLR(o, { maxLr: 1, totalSteps: EPOCHS });
  }, "momentum"],
  ["ChainedScheduler", "Constant × Exponential", (o) => new optim.ChainedScheduler([constant(o), exponential(o)])],
  ["SequentialLR", "Linear, then cosine from 20", (o) => {
    const warmUp = new optim.LinearLR(o, { startFactor: 0.05, totalIters: 20 });
    const cosine = new optim.CosineAnnealingLR(o, { tMax: EPOCHS - 20 });
    return new optim.SequentialLR(o, { schedulers: [warmUp, cosine], milestones: [20] });
  }],
  ["SWALR", "swaLr 0.3, annealEpochs 30", (o) => new optim.SWALR(o, { swaLr: 0.3, annealEpochs: 30 })],
  ["ReduceLROnPlateau", "factor 0.5, patience 5", (o) => {
    return new optim.ReduceLROnPlateau(o, { factor: 0.5, patience: 5, threshold: 0.01 });
  }],
];

/** A made-up metric: it falls to a plateau, four times. */
function metricAt(epoch: number): number {
  const drop = Math.floor(epoch / 25), part = Math.min(1, (epoch % 25) / 10);
  return 0.9 - 0.2 * (drop + part * (2 - part));
}

/** What training sees: the groups' values in each epoch. */
function record(name: string, make: Make, groups: number): Curve[] {
  const optimizer = makeOptimizer(groups), scheduler = make(optimizer);
  const plateau = scheduler instanceof optim.ReduceLROnPlateau ? scheduler : null;
  const ahead = plateau ? null : scheduler.values(EPOCHS), metrics: number[] = [];
  const rates: number[][] = [], momenta: number[] = [];
  for (let epoch = 0; epoch < EPOCHS; epoch++) {
    rates.push(optimizer.paramGroups.map((group) => group.lr));
    momenta.push(optimizer.paramGroups[0]!.momentum);
    metrics.push(metricAt(epoch));
    optimizer.step();
    if (plateau) plateau.step(metrics[epoch]!);
    else if (epoch < EPOCHS - 1) scheduler.step();
  }
  if (ahead) assertEquals(rates, ahead, `${name}: values(n) must be what training sees`);
  const curves: Curve[] = rates[0]!.map((_, g) => {
    return { series: g === 0 ? "learning rate" : "a second group's", values: rates.map((row) => row[g]!) };
  });
  if (momenta.some((momentum) => momentum !== momenta[0])) curves.push({ series: "momentum", values: momenta });
  if (plateau) curves.push({ series: "metric", values: metrics });
  return curves;
}

const { out } = parseArgs({ options: { out: { type: "string", default: "docs/schedules.svg" } } }).values;
const panels = SCHEDULERS.map(([name, options, make, further]): Panel => {
  return { title: name, subtitle: options, curves: record(name, make, further === "group" ? 2 : 1) };
});
mkdirSync(dirname(out), { recursive: true });
writeFileSync(out, await drawGallery(panels, EPOCHS));
console.log(`${panels.length} schedulers over ${EPOCHS} epochs are in ${out}`);
