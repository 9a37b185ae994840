import { Parameter, SparseTensor } from "@flatstep/optim";
import type { Random } from "../mnist/random.ts";
import type { Corpus } from "./novel.ts";

/** What a model is made of. */
export interface SkipGramOptions {
  readonly dim: number;
  readonly window: number;
  readonly negatives: number;
  /** Words more frequent than this are thinned out. */
  readonly subsample: number;
}

/** Pairs of a word and one from its surroundings; both have the same length. */
export interface Pairs {
  readonly centers: Int32Array;
  readonly contexts: Int32Array;
}

/** Beyond this a sigmoid is as good as 0 or 1. */
const LIMIT = 8;
const STEPS = 4096;

/** exp, by multiplications alone: `Math.exp` may differ between runtimes in the last bit, and all that follows with it. */
function exponential(x: number): number {
  let power = 1 + x / 2 ** 24;
  for (let i = 0; i < 24; i++) power *= power;
  return power;
}

const SIGMOIDS = Float64Array.from(
  { length: STEPS + 1 },
  (_, i) => 1 / (1 + exponential(LIMIT - 2 * LIMIT * i / STEPS)),
);

function sigmoid(x: number): number {
  if (x >= LIMIT) return 1;
  return x <= -LIMIT ? 0 : SIGMOIDS[Math.round((x + LIMIT) * (STEPS / (2 * LIMIT)))]!;
}

/** -log(p), to be looked at and for nothing else. */
const surprise = (p: number) => -Math.log(Math.max(p, 1e-4));

/**
 * Skip-gram with negative sampling (Mikolov et al. 2013, arXiv:1310.4546): a word's vector is to tell the words around it from
 * words that are drawn by chance. Only the rows of the words that a batch has get a gradient.
 */
export class SkipGram {
  /** A vector for each word; where training ends they are the embedding. */
  readonly inputs: Parameter;
  /** A vector for each word as one of the surroundings. */
  readonly outputs: Parameter;
  /** What negative words are drawn from: each word as often as the power 3/4 of its count says. */
  readonly #noise: Int32Array;
  /** The chance of each word to stay in the text. */
  readonly #kept: Float64Array;

  constructor(readonly corpus: Corpus, readonly options: SkipGramOptions, random: Random) {
    const { counts } = corpus, { dim, subsample } = options, shape = [counts.length, dim];
    const bound = 0.5 / dim;
    const first = Float32Array.from({ length: counts.length * dim }, () => random.uniform(-bound, bound));
    this.inputs = new Parameter(first, { shape, name: "inputs" });
    this.outputs = new Parameter(new Float32Array(first.length), { shape, name: "outputs" });

    const weights = counts.map((count) => Math.sqrt(count) * Math.sqrt(Math.sqrt(count)));
    const total = weights.reduce((a, b) => a + b), size = 1 << 18;
    this.#noise = new Int32Array(size);
    let word = 0, sum = weights[0]! / total;
    for (let i = 0; i < size; i++) {
      this.#noise[i] = word;
      if ((i + 1) / size > sum && word < weights.length - 1) sum += weights[++word]! / total;
    }
    const all = counts.reduce((a, b) => a + b);
    this.#kept = Float64Array.from(counts, (count) => Math.min(1, Math.sqrt(subsample * all / count)));
  }

  /** All pairs of the text, in random order: frequent words thinned out, each word with a window of its own width. */
  pairs(random: Random): Pairs {
    const centers: number[] = [], contexts: number[] = [];
    for (const chapter of this.corpus.chapters) {
      const text = chapter.filter((word) => random.uniform(0, 1) < this.#kept[word]!);
      for (let i = 0; i < text.length; i++) {
        const reach = 1 + Math.floor(random.uniform(0, this.options.window));
        for (let j = Math.max(0, i - reach); j <= Math.min(text.length - 1, i + reach); j++) {
          if (j === i) continue;
          centers.push(text[i]!);
          contexts.push(text[j]!);
        }
      }
    }
    const order = Uint32Array.from(centers, (_, i) => i);
    random.shuffle(order);
    return {
      centers: Int32Array.from(order, (i) => centers[i]!),
      contexts: Int32Array.from(order, (i) => contexts[i]!),
    };
  }

  /**
   * The loss of the pairs from `from` to `to`, averaged; sets both gradients. With a pair's vectors a and b the loss is
   * -log σ(a·b), and -log σ(-a·n) for each negative word's n: so b's gradient is (σ(a·b) - 1) a, n's is σ(a·n) a, and a's is
   * (σ(a·b) - 1) b + Σ σ(a·n) n.
   */
  backward({ centers, contexts }: Pairs, from: number, to: number, random: Random): number {
    const { dim, negatives } = this.options, count = to - from, each = 1 + negatives;
    const inputs = this.inputs.data, outputs = this.outputs.data;
    const rows = new Int32Array(count * each);
    const gradIn = new Float32Array(count * dim), gradOut = new Float32Array(count * each * dim);
    let loss = 0;
    for (let pair = 0; pair < count; pair++) {
      const a = centers[from + pair]! * dim, ga = pair * dim;
      for (let k = 0; k < each; k++) {
        const slot = pair * each + k;
        const word = k === 0 ? contexts[from + pair]! : this.#noise[random.uint32() >>> 14]!;
        const b = word * dim, gb = slot * dim;
        rows[slot] = word;
        let dot = 0;
        for (let d = 0; d < dim; d++) dot += inputs[a + d]! * outputs[b + d]!;
        const p = sigmoid(dot), error = (k === 0 ? p - 1 : p) / count;
        loss += surprise(k === 0 ? p : 1 - p);
        for (let d = 0; d < dim; d++) {
          gradIn[ga + d]! += error * outputs[b + d]!;
          gradOut[gb + d] = error * inputs[a + d]!;
        }
      }
    }
    this.inputs.grad = new SparseTensor(centers.slice(from, to), gradIn, [...this.inputs.shape]);
    this.outputs.grad = new SparseTensor(rows, gradOut, [...this.outputs.shape]);
    return loss / count;
  }

  /**
   * The words whose vectors point most nearly where the word's does, of those that are there `minCount` times; `skipped` of the
   * most frequent words are left out.
   */
  nearest(word: string, n: number, minCount: number, skipped: number): string[] {
    const { words, counts } = this.corpus, { dim } = this.options, { data } = this.inputs, own = words.indexOf(word);
    const dot = (i: number, j: number) => {
      let sum = 0;
      for (let d = 0; d < dim; d++) sum += data[i * dim + d]! * data[j * dim + d]!;
      return sum;
    };
    return words
      .map((other, i) => ({ other, cosine: dot(own, i) / Math.sqrt(dot(i, i)) }))
      .filter((_, i) => i !== own && i >= skipped && counts[i]! >= minCount)
      .sort((a, b) => b.cosine - a.cosine)
      .slice(0, n)
      .map(({ other }) => other);
  }
}
