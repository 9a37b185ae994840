/**
 * Checkpoints: models, optimizers, schedulers and plain values in one file, which PyTorch reads too, and back.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { AdamW, checkpoint, Parameter } from "@flatstep/optim";
 * import { mkdtemp } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 *
 * const weight = new Parameter([1, 2, 3]);
 * const optimizer = new AdamW([weight], { lr: 0.1 });
 * weight.grad = Float32Array.of(1, 1, 1);
 * optimizer.step();
 *
 * const path = `${await mkdtemp(`${tmpdir()}/run-`)}/run.safetensors`;
 * await checkpoint.save(path, { optimizer, epoch: 3 });
 * const saved = await checkpoint.load(path);
 * new AdamW([new Parameter([1, 2, 3])]).loadStateDict(saved.optimizer);
 * assertEquals(saved.epoch, 3);
 * ```
 *
 * @module
 */

export { CheckpointError } from "./error.ts";
export { load, save } from "./checkpoint.ts";
export {
  type LoadModelOptions,
  type LoadModelResult,
  loadModelStateDict,
  type ModelStateDict,
  modelStateDict,
  type NamedTensors,
} from "./model_state.ts";
export type { CheckpointTensor, TensorArray, TensorDType } from "./value.ts";
