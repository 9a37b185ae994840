/**
 * sfc32, Chris Doty-Humphrey's small fast counting generator: 32-bit integer arithmetic only, so that every runtime
 * draws the same numbers from the same seed.
 */
export class Random {
  #a: number;
  #b: number;
  #c = 0x243f6a88 | 0;
  #counter = 1;

  /** Starts at a seed, of which every stream has its own numbers. */
  constructor(seed: number, stream = 0) {
    this.#a = seed | 0;
    this.#b = 0x9e3779b9 ^ stream;
    for (let i = 0; i < 16; i++) this.uint32();
  }

  /** An integer from 0 to 2^32 - 1. */
  uint32(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** A number in [low, high). */
  uniform(low: number, high: number): number {
    return low + (high - low) * (this.uint32() / 2 ** 32);
  }

  /** Puts the elements into a random order, in place (Fisher and Yates). */
  shuffle(values: Uint32Array): void {
    for (let i = values.length - 1; i > 0; i--) {
      const j = Math.floor(this.uniform(0, i + 1));
      const kept = values[i]!;
      values[i] = values[j]!;
      values[j] = kept;
    }
  }
}
