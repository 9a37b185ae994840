/**
 * Saving and loading.
 *
 * @module
 */

import { show } from "../errors.ts";
import { writeAtomically } from "./atomic_write.ts";
import { Broken, CheckpointError, checkpointError } from "./error.ts";
import { FileReader, type FileWriter } from "./file.ts";
import { type PendingSave, pendingSaves } from "./live.ts";
import { platform } from "./platform.ts";
import { readSafetensors, writeSafetensors } from "./safetensors.ts";
import { readTorch, writeTorch } from "./torch_pt.ts";
import { readTree } from "./tree.ts";
import { checkLittleEndian, type Value } from "./value.ts";

interface Format {
  write(writer: FileWriter, root: Value): Promise<void>;
  read(reader: FileReader): Promise<unknown>;
}

const FORMATS: readonly (readonly [ending: string, Format])[] = [
  [".safetensors", { write: writeSafetensors, read: readSafetensors }],
  [".pt", { write: writeTorch, read: readTorch }],
];

function formatOf(path: unknown): Format {
  if (typeof path !== "string") throw new TypeError(`path must be a string, got ${show(path)}`);
  const found = FORMATS.find(([ending]) => path.endsWith(ending));
  if (!found) throw new RangeError(`path must end in ${FORMATS.map(([e]) => e).join(" or ")}, got ${show(path)}`);
  checkLittleEndian();
  return found[1];
}

/**
 * Saves models, optimizers, schedulers and plain values in one file.
 *
 * The file's ending picks the format: `.safetensors`, or `.pt`, which is what `torch.save` writes and
 * `torch.load(path, weights_only=True)` reads, with torch's names for what is inside of optimizer and scheduler state.
 *
 * A crash leaves the old file or the new one, whole. Nothing large is copied: the numbers are written from the arrays that they
 * live in. So until the save is done no step may be made: one that is made makes the save fail, and the old file stays. (Numbers
 * that are written into an array by other code meanwhile are not noticed.)
 *
 * Plain values are objects, arrays, numbers (all of them), strings, booleans, null, BigInt, typed arrays, and
 * `{ dtype, shape, data }`; what is loaded equals what was saved.
 *
 * @param path the file, ending in `.safetensors` or `.pt`
 * @param content models (anything with `namedParameters()`), objects with `stateDict()`, state dicts, plain values, and objects
 * and arrays of these
 * @throws {CheckpointError} if the file cannot be written, or what is saved has changed meanwhile; the old file stays
 * @throws {TypeError} for something that cannot be saved
 * @throws {RangeError} for another ending, objects more than 500 levels deep
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { load, save, SGD } from "@flatstep/optim";
 * import { mkdtemp } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 *
 * const optimizer = new SGD([new Float32Array(3)], { lr: 0.1, momentum: 0.9 });
 * const path = `${await mkdtemp(`${tmpdir()}/run-`)}/run.pt`;
 * await save(path, { optimizer, epoch: 7, best: Infinity });
 * const { epoch, best } = await load(path);
 * assertEquals([epoch, best], [7, Infinity]);
 * ```
 */
export async function save(path: string, content: unknown): Promise<void> {
  const format = formatOf(path), tree = readTree(content);
  const pending: PendingSave = { buffers: tree.buffers, changed: false };
  const check = () => {
    if (pending.changed || tree.changed()) {
      throw new Broken("a step was made, or state replaced, before it was saved: await save() first");
    }
  };
  pendingSaves.add(pending);
  try {
    await writeAtomically(await platform(), path, (writer) => format.write(writer, tree.root), check);
  } catch (error) {
    throw checkpointError(path, error, "it could not be saved");
  } finally {
    pendingSaves.delete(pending);
  }
}

/**
 * Loads what {@linkcode save} or `torch.save` wrote.
 *
 * Inside of optimizer state tensors are typed arrays and single numbers are numbers, as `loadStateDict()` takes them; elsewhere a
 * tensor is `{ dtype, shape, data }`, for {@linkcode loadModelStateDict}. Integers beyond 2⁵³ are BigInt. torch's names come back in
 * camelCase inside of optimizer and scheduler state. Objects have all keys as their own, `__proto__` too.
 *
 * Nothing is executed from a file, whatever it is, and nothing is allocated that the file's size does not bear out.
 *
 * @param path the file, ending in `.safetensors` or `.pt`
 * @returns the content
 * @throws {CheckpointError} if the file is not there, or is broken, truncated or hostile: the message says what is wrong
 * @throws {RangeError} for another ending
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { load, save } from "@flatstep/optim";
 * import { mkdtemp } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 *
 * const path = `${await mkdtemp(`${tmpdir()}/run-`)}/values.safetensors`;
 * const values = { w: { dtype: "float32", shape: [2], data: Float32Array.of(1, 2) }, seed: 5n, history: [0.5, NaN] };
 * await save(path, values);
 * assertEquals(await load(path), values);
 * ```
 */
// deno-lint-ignore no-explicit-any -- what is in it is the file's affair
export async function load(path: string): Promise<any> {
  const format = formatOf(path);
  try {
    const { fs } = await platform();
    if (!(await fs.stat(path)).isFile()) throw new CheckpointError(path, "it is no file"); // a pipe would never open
    const handle = await fs.open(path, "r");
    try {
      return await format.read(new FileReader(handle, (await handle.stat()).size));
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw checkpointError(path, error, "it could not be loaded");
  }
}
