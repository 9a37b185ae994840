/**
 * The benchmark's steps in TensorFlow.js, on its WebAssembly backend: a child process of bench/peers.ts, one line of JSON in, one
 * line of JSON out. `applyGradients` with gradients that are there already.
 *
 * @module
 */

import * as tf from "@tensorflow/tfjs";
import { getThreadsCount, setThreadsCount, version_wasm } from "@tensorflow/tfjs-backend-wasm";
import { type Request, serve } from "./serve.ts";

const LR = 1e-3;

/** tfjs has no AdamW, NAdam, RAdam, Rprop and ASGD. */
const RULES: Readonly<Record<string, () => tf.Optimizer>> = {
  "Adam": () => tf.train.adam(LR, 0.9, 0.999, 1e-8),
  "SGD+momentum": () => tf.train.momentum(LR, 0.9),
  "SGD": () => tf.train.sgd(LR),
  "Adamax": () => tf.train.adamax(LR, 0.9, 0.999, 1e-8),
  "Adadelta": () => tf.train.adadelta(LR, 0.9, 1e-6),
  "Adagrad": () => tf.train.adagrad(LR, 0),
  "RMSprop": () => tf.train.rmsprop(LR, 0.99, 0, 1e-8),
};

/** Frees what the last setup has made. */
let clear = () => {};

await serve(async ({ rule, shapes, threads }: Request) => {
  clear();
  clear = () => {};
  setThreadsCount(threads); // before the backend starts
  if (!await tf.setBackend("wasm")) throw new Error("tfjs cannot use its backend wasm here");
  const many = getThreadsCount(), make = RULES[rule];
  const version = `tfjs ${version_wasm} (wasm, ${many} thread${many === 1 ? "" : "s"})`;
  if (make === undefined) return [{}, { version, names: [] }];
  const optimizer = make();
  const variables = shapes.map((shape, i) => {
    return tf.tidy(() => tf.variable(tf.randomUniform([...shape], -1, 1), true, `p${i}`));
  });
  const gradients = Object.fromEntries(variables.map((v) => [v.name, tf.fill(v.shape, 1e-3)]));
  clear = () => {
    optimizer.dispose();
    tf.disposeVariables();
    tf.dispose(gradients);
  };
  return [{ tfjs: () => tf.tidy(() => optimizer.applyGradients(gradients)) }, { version, names: ["tfjs"] }];
});
