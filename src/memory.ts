/**
 * Which arrays share memory: a rule may not write where another array reads.
 *
 * @module
 */

/** A piece of memory: a typed array, or what stands for one on a device. */
export interface MemorySpan {
  /** The memory that it is a piece of. */
  readonly buffer: object;
  /** Where it begins. */
  readonly byteOffset: number;
  /** Its bytes. */
  readonly byteLength: number;
}

/** A piece of a buffer, in bytes. */
interface Span {
  readonly from: number;
  readonly to: number;
  readonly label: string;
}

/** The memory that a step writes, to find arrays that overlap with it. */
export class WrittenMemory {
  readonly #spans = new Map<object, Span[]>();
  #sorted = true;
  #version = 0;
  #size = 0;

  /** Raised by every change. */
  get version(): number {
    return this.#version;
  }

  /** How many arrays there are. */
  get size(): number {
    return this.#size;
  }

  /** Every buffer with the pieces of it that are written. */
  pieces(): Iterable<readonly [buffer: object, pieces: readonly { readonly from: number; readonly to: number }[]]> {
    return this.#spans;
  }

  /** Adds an array that is written. */
  add(array: MemorySpan, label: string): void {
    if (array.byteLength === 0) return;
    this.#version++;
    this.#size++;
    const span = { from: array.byteOffset, to: array.byteOffset + array.byteLength, label };
    const spans = this.#spans.get(array.buffer);
    if (spans) {
      spans.push(span);
      this.#sorted = false;
    } else {
      this.#spans.set(array.buffer, [span]);
    }
  }

  /** Whether some of a buffer is written. */
  has(buffer: ArrayBufferLike): boolean {
    return this.#spans.has(buffer);
  }

  /** Takes out an array that was added. */
  remove(array: MemorySpan): void {
    const spans = this.#spans.get(array.buffer);
    const at = spans?.findIndex((s) => s.from === array.byteOffset && s.to === s.from + array.byteLength) ?? -1;
    if (spans === undefined || at < 0) return;
    this.#version++;
    this.#size--;
    spans.splice(at, 1);
    if (spans.length === 0) this.#spans.delete(array.buffer);
  }

  /** Throws if two of the arrays share memory. */
  check(): void {
    this.#sort();
    for (const spans of this.#spans.values()) {
      for (let i = 1; i < spans.length; i++) {
        const a = spans[i - 1]!, b = spans[i]!;
        if (b.from < a.to) throw new RangeError(`${a.label} and ${b.label} must not share memory, but they overlap`);
      }
    }
  }

  /** Throws if an array that is read shares memory with one of them. */
  checkRead(array: MemorySpan, label: () => string): void {
    const spans = this.#spans.get(array.buffer);
    if (spans === undefined || array.byteLength === 0) return;
    this.#sort();
    const from = array.byteOffset, to = from + array.byteLength;
    let low = 0, high = spans.length; // the first span that ends behind `from`
    while (low < high) {
      const middle = (low + high) >> 1;
      if (spans[middle]!.to <= from) low = middle + 1;
      else high = middle;
    }
    const hit = spans[low];
    if (hit && hit.from < to) {
      throw new RangeError(`${label()} must not share memory with ${hit.label}, but they overlap`);
    }
  }

  #sort(): void {
    if (this.#sorted) return;
    for (const spans of this.#spans.values()) spans.sort((a, b) => a.from - b.from);
    this.#sorted = true;
  }
}
