/**
 * The benchmark's steps in jax-js, on its WebAssembly device: a child process of bench/peers.ts, one line of JSON in, one line of
 * JSON out. Its optax is in no registry that can be reached, so the rules are written here as optax has them, and compiled by
 * `jit`: a function for each shape, called for each tensor.
 *
 * @module
 */

import { blockUntilReady, defaultDevice, init, jit, numpy as np } from "@jax-js/jax";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Request, serve } from "./serve.ts";

const LR = 1e-3, BETA1 = 0.9, BETA2 = 0.999, EPS = 1e-8, MOMENTUM = 0.9;

type Arrays = np.Array[];

/** Parameter, gradient, state and step size in; parameter and state out. Each array is used up, `ref` is one use more. */
type Update = (p: np.Array, g: np.Array, state: Arrays, corrections: Arrays) => Arrays;

function adam(decay: number): Update {
  return (p, g, [m, v], [correction1, correction2]) => {
    const mean = m!.mul(BETA1).add(g.ref.mul(1 - BETA1));
    const square = v!.mul(BETA2).add(np.square(g).mul(1 - BETA2));
    const step = mean.ref.div(correction1!).div(np.sqrt(square.ref.div(correction2!)).add(EPS));
    return [p.mul(1 - LR * decay).sub(step.mul(LR)), mean, square];
  };
}

/** State tensors, and the update. */
const RULES: Readonly<Record<string, readonly [number, Update]>> = {
  "AdamW": [2, adam(1e-2)],
  "Adam": [2, adam(0)],
  "SGD+momentum": [1, (p, g, [buffer]) => {
    const next = buffer!.mul(MOMENTUM).add(g);
    return [p.sub(next.ref.mul(LR)), next];
  }],
  "SGD": [0, (p, g) => [p.sub(g.mul(LR))]],
};

await init("wasm");
defaultDevice("wasm");
const { version: number } = JSON.parse(
  readFileSync(fileURLToPath(new URL("../../node_modules/@jax-js/jax/package.json", import.meta.url)), "utf8"),
);
let tensors: Arrays[] = [], gradients: Arrays = [];

await serve(async ({ rule, shapes }: Request) => {
  for (const array of [...tensors.flat(), ...gradients]) array.dispose();
  [tensors, gradients] = [[], []];
  const version = `jax-js ${number} (wasm)`, found = RULES[rule];
  if (found === undefined) return [{}, { version, names: [] }];
  const [states, update] = found;
  tensors = shapes.map((shape) => {
    return [np.full([...shape], 0.5), ...Array.from({ length: states }, () => np.zeros([...shape]))];
  });
  gradients = shapes.map((shape) => np.full([...shape], 1e-3));
  await blockUntilReady([...tensors.flat(), ...gradients]);
  const compiled = jit((p: np.Array, g: np.Array, state: Arrays, corrections: Arrays) =>
    update(p, g, state, corrections)
  );
  let t = 0;
  const step = async () => {
    t++;
    const corrections = states === 2 ? [np.array(1 - BETA1 ** t), np.array(1 - BETA2 ** t)] : [];
    tensors = tensors.map(([p, ...state], i) => {
      return compiled(p!, gradients[i]!.ref, state, corrections.map((array) => array.ref));
    });
    for (const array of corrections) array.dispose();
    await blockUntilReady(tensors.flat());
  };
  return [{ "jax-js": step }, { version, names: ["jax-js"] }];
});
