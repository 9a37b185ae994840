/**
 * What the page trains, without the page: a perceptron that tells two moons apart, by AdamW, OneCycleLR and an exponential
 * average of its weights. Only + − × ÷ and square roots, so that a browser computes the bits that Deno and Bun compute.
 */
import { AdamW, AveragedModel, getEmaMultiAvgFn, OneCycleLR, type Parameter } from "@flatstep/optim";
// Math.cos differs between engines in the last bit; this one does not.
import { cos } from "../../src/optim/math.ts";
import { Random } from "../mnist/random.ts";
import { Mlp, score } from "../support/mlp.ts";

/** Points of the plane, row by row, and the moon of each: 0 or 1. */
export interface Points {
  readonly count: number;
  readonly inputs: Float64Array;
  readonly labels: readonly number[];
}

/** A model's loss and accuracy, on points that it has not seen. */
export interface Score {
  readonly loss: number;
  readonly accuracy: number;
}

/** What has been measured after some step. */
export interface Measurement {
  readonly step: number;
  readonly model: Score;
  readonly averaged: Score;
}

/** Steps of a whole training. */
export const STEPS = 600;
/** Steps between two measurements. */
export const MEASURE_EVERY = 10;
const TRAIN = 400, TEST = 400, BATCH = 40, HIDDEN = 24, NOISE = 0.5;

/** Two half circles, each reaching into the other, and somewhat blurred. */
export function moons(count: number, random: Random): Points {
  const inputs = new Float64Array(2 * count), labels: number[] = [];
  for (let i = 0; i < count; i++) {
    const angle = Math.PI * random.uniform(0, 1), label = i % 2;
    const x = cos(angle), y = cos(angle - Math.PI / 2);
    const blur = () => NOISE * (random.uniform(-0.5, 0.5) + random.uniform(-0.5, 0.5));
    inputs[2 * i] = (label === 0 ? x - 0.5 : 0.5 - x) + blur();
    inputs[2 * i + 1] = (label === 0 ? y - 0.25 : 0.25 - y) + blur();
    labels.push(label);
  }
  return { count, inputs, labels };
}

/** One training. Each `step()` is a batch; all else is to look at. */
export class Training {
  readonly test: Points;
  readonly model: Mlp;
  readonly averaged: AveragedModel<Mlp>;
  readonly optimizer: AdamW;
  readonly scheduler: OneCycleLR;
  /** Each step's loss, learning rate, and beta1, which OneCycleLR moves against the rate. */
  readonly losses: number[] = [];
  readonly rates: number[] = [];
  readonly momenta: number[] = [];
  readonly measurements: Measurement[] = [];
  /** The learning rates of the whole training, known before it begins. */
  readonly plan: readonly number[];
  readonly #train: Points;
  readonly #order: Uint32Array;
  readonly #random: Random;

  constructor(seed: number) {
    this.#random = new Random(seed);
    this.#train = moons(TRAIN, this.#random);
    this.#order = Uint32Array.from({ length: TRAIN }, (_, i) => i);
    this.test = moons(TEST, this.#random);
    this.model = new Mlp(2, HIDDEN, 2, this.#random);
    this.averaged = new AveragedModel(this.model, {
      multiAvgFn: getEmaMultiAvgFn(0.98, { warmup: true }),
      useBuffers: true,
    });
    this.optimizer = new AdamW(this.model.namedParameters(), { lr: 0.02, weightDecay: 0.01 });
    this.scheduler = new OneCycleLR(this.optimizer, { maxLr: 0.02, totalSteps: STEPS });
    this.plan = this.scheduler.values(STEPS).map(([rate]) => rate!);
    this.#measure();
  }

  get done(): boolean {
    return this.losses.length === STEPS;
  }

  step(): void {
    const step = this.losses.length, batch = step % (TRAIN / BATCH), { optimizer, scheduler, model } = this;
    if (batch === 0) this.#random.shuffle(this.#order);
    const chosen = this.#order.subarray(batch * BATCH, (batch + 1) * BATCH), { inputs, labels } = this.#train;
    this.rates.push(scheduler.getLastLr()[0]!);
    this.momenta.push(optimizer.paramGroups[0]!.betas[0]);
    const points = Float64Array.from({ length: 2 * BATCH }, (_, i) => inputs[2 * chosen[i >> 1]! + (i & 1)]!);
    this.losses.push(model.train().backward(points, Array.from(chosen, (i) => labels[i]!)));
    optimizer.step();
    scheduler.step();
    this.averaged.updateParameters(model);
    if (this.losses.length % MEASURE_EVERY === 0) this.#measure();
  }

  #measure(): void {
    const { test, model, averaged } = this;
    this.measurements.push({
      step: this.losses.length,
      model: score(model.eval().forward(test.inputs), test),
      averaged: score(averaged.module.eval().forward(test.inputs), test),
    });
  }

  /** The start of the SHA-256 of all weights and of their averages, in hexadecimal: equal bits, equal text. */
  async fingerprint(): Promise<string> {
    const arrays: Parameter[] = [this.model, this.averaged.module].flatMap((model) =>
      [...model.namedParameters()].map(([, parameter]) => parameter)
    );
    const bytes = new Uint8Array(
      await new Blob(arrays.map(({ data }) => data as Float32Array<ArrayBuffer>)).arrayBuffer(),
    );
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return Array.from(hash.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
}
