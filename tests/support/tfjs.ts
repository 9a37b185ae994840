/**
 * tfjs on each of its backends, with shared memory and with copies.
 *
 * @module
 */

import { test } from "node:test";
import { assert } from "@std/assert";
import * as tf from "@tensorflow/tfjs";
import { version_wasm } from "@tensorflow/tfjs-backend-wasm";

/** A test for each place where the numbers may be: in the memory of each backend, and in copies. */
export function testPlaces(name: string, body: (copy: boolean) => void | Promise<void>): void {
  for (const [backend, copy] of [["cpu", false], ["wasm", false], ["cpu", true], ["wasm", true]] as const) {
    test(`${name} (${backend}${copy ? ", copies" : ""})`, { timeout: 120_000 }, async () => {
      assert(await tf.setBackend(backend), `tfjs must have the backend ${backend} (${version_wasm})`);
      await body(copy);
    });
  }
}

/** A variable with memory of its own, and no tensor beside it. */
export function variable(values: ArrayLike<number>, shape: number[] = [values.length], trainable = true): tf.Variable {
  return tf.tidy(() => tf.variable(tf.tensor(Float32Array.from(values), shape), trainable));
}

/** How many tensors there are. */
export const tensors = (): number => tf.memory().numTensors;
