/**
 * TensorFlow.js: its variables and LayersModels, trained by flatstep's optimizers, averaged, and saved.
 *
 * tfjs is not imported here: it is the user's, and is handed in as `tf`. Only what its interfaces say is used, so that two copies
 * of tfjs-core do no harm.
 *
 * Where the numbers are: on the backends `cpu` and `wasm` a parameter's `data` *is* the variable's memory, so that a step copies
 * nothing and tfjs's next operation sees it. It may be elsewhere after any operation of tfjs: ask for `data` anew before writing to it,
 * as optimizers do, and await a `save()` before the next pass. On other backends (webgl, webgpu, tfjs-node), and on request
 * (`copy: true`), the numbers are copied out by `dataSync()` and in by `assign()` before each pass; whoever uses a variable in
 * another way calls `push()` first.
 *
 * What tfjs 4.22 cannot do: its wasm backend has no kernel for the gradients of convolutions (`Conv2DBackpropFilter`) and of
 * embeddings (`UnsortedSegmentSum`); its cpu backend has both.
 *
 * ```ts
 * import { assert } from "@std/assert";
 * import * as tf from "@tensorflow/tfjs";
 * import { AdamW } from "@flatstep/optim";
 * import { LayersModule } from "@flatstep/optim/adapters/tfjs";
 *
 * await tf.setBackend("cpu");
 * const x = tf.tensor2d([0, 1, 2, 3], [4, 1]), y = tf.tensor2d([1, 3, 5, 7], [4, 1]); // y = 2 x + 1
 * const line = new LayersModule(tf, tf.sequential({ layers: [tf.layers.dense({ units: 1, inputShape: [1] })] }));
 * const optimizer = new AdamW(line.namedParameters(), { lr: 0.1, weightDecay: 0 });
 * for (let step = 0; step < 500; step++) {
 *   optimizer.step(line.closure(() => tf.losses.meanSquaredError(y, line.forward(x))));
 * }
 * assert(line.parameters.every((p, i) => Math.abs(p.data[0]! - [2, 1][i]!) < 0.01));
 * ```
 *
 * @module
 */

export type { TfApi, TfLayer, TfLayersModel, TfLayerWeight, TfTensor, TfVariable } from "./tfjs_types.ts";
export { TfVariables, type TfVariablesOptions } from "./tfjs_variables.ts";
export { LayersModule, type LayersModuleOptions, type TfOutput } from "./tfjs_module.ts";
export type { TfBatchNorm } from "./tfjs_batch_norm.ts";
