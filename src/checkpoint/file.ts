/**
 * Reading and writing of files in large pieces, straight from and into the arrays that hold the numbers.
 *
 * @module
 */

import { broken } from "./error.ts";
import type { Handle } from "./platform.ts";
import type { Tensor } from "./value.ts";

/** How much is written or read at a time: large enough to be as fast as the disk, small enough to hear of a change soon. */
export const CHUNK = 8 << 20;

const SMALL = 16 << 10;
/** As much as a record's header may cost on the way to a large tensor. */
const WINDOW = 64 << 10;
const GATHERED = 1 << 20;

/** How many tensors are read at a time: as one is checked or copied the next ones are on their way. */
const IN_FLIGHT = 3;

/** Does something for all items, a few at a time and begun in order. If one fails, no other is left running. */
export async function forAll<T>(items: readonly T[], run: (item: T) => Promise<void>): Promise<void> {
  let next = 0, failed = false;
  const work = async () => {
    while (next < items.length && !failed) {
      try {
        await run(items[next++]!);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  for (const result of await Promise.allSettled(Array.from({ length: IN_FLIGHT }, work))) {
    if (result.status === "rejected") throw result.reason;
  }
}

/** Reads from a file at any place. Small reads are served from a window, since files have many small tensors in a row. */
export class FileReader {
  #window: Uint8Array = new Uint8Array(0);
  #windowAt = 0;

  constructor(
    readonly handle: Handle,
    /** Bytes of the file. */
    readonly size: number,
  ) {}

  /** Fills an array from a place in the file; `onChunk` sees each piece in order. */
  async read(into: Uint8Array, position: number, onChunk?: (chunk: Uint8Array) => void): Promise<void> {
    const length = into.length;
    if (position < 0 || position + length > this.size) broken("it is cut off");
    if (length <= SMALL) {
      if (length > 0) into.set(await this.#small(position, length));
      onChunk?.(into);
      return;
    }
    for (let at = 0; at < length; at += CHUNK) {
      const piece = into.subarray(at, Math.min(length, at + CHUNK));
      await this.#fill(piece, position + at);
      onChunk?.(piece);
    }
  }

  /** Bytes of the file, in an array of their own. The caller has checked the length. */
  async bytes(position: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    if (position < 0 || position + length > this.size) broken("it is cut off");
    const into = new Uint8Array(length);
    await this.read(into, position);
    return into;
  }

  async #small(position: number, length: number): Promise<Uint8Array> {
    let from = position - this.#windowAt;
    if (from < 0 || from + length > this.#window.length) {
      const window = new Uint8Array(Math.min(WINDOW, this.size - position));
      await this.#fill(window, position);
      this.#window = window;
      this.#windowAt = position;
      from = 0;
    }
    return this.#window.subarray(from, from + length);
  }

  async #fill(into: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < into.length;) {
      const { bytesRead } = await this.handle.read(into, done, into.length - done, position + done);
      if (bytesRead === 0) broken("it became shorter while it was read");
      done += bytesRead;
    }
  }
}

/** Writes a file from beginning to end; small pieces are gathered. */
export class FileWriter {
  /** Where the next byte goes. */
  position = 0;
  readonly #buffer = new Uint8Array(GATHERED);
  #used = 0;

  constructor(
    readonly handle: Handle,
    /** Throws if what is being written has changed. */
    readonly check: () => void,
  ) {}

  /** Writes bytes; they may change once this is awaited. */
  async append(bytes: Uint8Array, onChunk?: (chunk: Uint8Array) => void): Promise<void> {
    if (bytes.length <= SMALL) {
      if (this.#used + bytes.length > GATHERED) await this.flush();
      this.#buffer.set(bytes, this.#used);
      this.#used += bytes.length;
      this.position += bytes.length;
      onChunk?.(bytes);
      return;
    }
    await this.flush();
    for (let at = 0; at < bytes.length; at += CHUNK) {
      let piece = bytes.subarray(at, Math.min(bytes.length, at + CHUNK));
      if (!(piece.buffer instanceof ArrayBuffer)) piece = piece.slice(); // shared memory: files take none
      const written = this.#write(piece, this.position);
      onChunk?.(piece);
      await written;
      this.check();
      this.position += piece.length;
    }
  }

  /** Writes a tensor's elements from the array that it lives in. */
  async tensor(tensor: Tensor, onChunk?: (chunk: Uint8Array) => void): Promise<void> {
    await this.append(bytesOf(tensor), onChunk);
    if (tensor.array.length !== tensor.length) changed();
  }

  /** Writes zeros. */
  async zeros(count: number): Promise<void> {
    await this.append(new Uint8Array(count));
  }

  /** Writes over what has been written before. */
  async patch(bytes: Uint8Array, position: number): Promise<void> {
    await this.flush();
    await this.#write(bytes, position);
  }

  /** Writes what has been gathered. */
  async flush(): Promise<void> {
    const used = this.#used;
    this.#used = 0;
    if (used > 0) await this.#write(this.#buffer.subarray(0, used), this.position - used);
    this.check();
  }

  async #write(bytes: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const { bytesWritten } = await this.handle.write(bytes, done, bytes.length - done, position + done);
      if (bytesWritten === 0) throw new Error("nothing could be written");
      done += bytesWritten;
    }
  }
}

function changed(): never {
  throw new Error("an array was detached or resized while it was being saved");
}

/** The memory of a tensor's elements; throws where the array has lost some of them. */
export function bytesOf(tensor: Tensor): Uint8Array {
  const { array, length } = tensor;
  if (array.length !== length) changed();
  return new Uint8Array(array.buffer, array.byteOffset, tensor.bytes);
}
