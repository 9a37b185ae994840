/**
 * flatstep: torch.optim for Deno and Bun. Flat kernels in C through FFI, the same bits everywhere.
 *
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { AdamW, Parameter } from "@flatstep/optim";
 *
 * const weight = new Parameter(new Float32Array(8).fill(1), { shape: [2, 4], name: "weight" });
 * const optimizer = new AdamW([weight], { lr: 0.1 });
 *
 * for (let step = 0; step < 100; step++) {
 *   optimizer.zeroGrad();
 *   weight.grad = Float32Array.from(weight.data, (w) => 2 * w); // the gradient of sum(w²)
 *   optimizer.step();
 * }
 * assert(weight.data.every((w) => Math.abs(w) < 0.1));
 * ```
 *
 * @module
 */

export { backend, type BackendInfo, getNumThreads, setNumThreads } from "./ffi/load.ts";
export type { Isa } from "./ffi/backend.ts";
export type { DType, TypedArray } from "./src/dtype.ts";
export { CudaError, NativeLibraryError, StateDictError } from "./src/errors.ts";
export { Parameter, type ParameterOptions } from "./src/parameter.ts";
export * as cuda from "./src/cuda/mod.ts";
export { type CudaDevice, DeviceArray, type DeviceName } from "./src/cuda/mod.ts";
export { type SparseData, SparseTensor, type SparseTensorOptions } from "./src/sparse_tensor.ts";
export { type Profile, profile, type ProfileTimes, type ProfileTotals, type StepProfile } from "./src/profile.ts";
export type { HookHandle, HookOptions } from "./src/optim/hooks.ts";
export {
  type AnyOptimizer,
  type AsyncClosure,
  type Closure,
  type LoadStateDictPostHook,
  type LoadStateDictPreHook,
  Optimizer,
  registerOptimizerStepPostHook,
  registerOptimizerStepPreHook,
  type StateDictPostHook,
  type StateDictPreHook,
  type StepArgs,
  type StepPostHook,
  type StepPreHook,
} from "./src/optim/optimizer.ts";
export type { GradOptions, StepOptions, StepResult } from "./src/optim/step_options.ts";
export type { LoadOptions } from "./src/optim/match_names.ts";
export type { OptionSpec, Schema } from "./src/optim/options.ts";
export type {
  GroupExtras,
  InitialOptions,
  InitialValues,
  NamedParameter,
  ParameterLike,
  ParamGroup,
  ParamGroupInput,
  ParamsInput,
  Writable,
} from "./src/optim/param_group.ts";
export type { ParameterState, StateDict, StateDictGroup, StateValue } from "./src/optim/state_dict.ts";
export { ElementwiseOptimizer, type ElementwiseOptions } from "./src/optim/elementwise.ts";
export { Adafactor, type AdafactorOptions } from "./src/optim/adafactor.ts";
export { Adam, type AdamOptions } from "./src/optim/adam.ts";
export { AdamW, type AdamWOptions } from "./src/optim/adamw.ts";
export { SGD, type SGDOptions } from "./src/optim/sgd.ts";
export { Adamax, type AdamaxOptions } from "./src/optim/adamax.ts";
export { NAdam, type NAdamOptions } from "./src/optim/nadam.ts";
export { RAdam, type RAdamOptions } from "./src/optim/radam.ts";
export { Adagrad, type AdagradOptions } from "./src/optim/adagrad.ts";
export { Adadelta, type AdadeltaOptions } from "./src/optim/adadelta.ts";
export { RMSprop, type RMSpropOptions } from "./src/optim/rmsprop.ts";
export { Rprop, type RpropOptions } from "./src/optim/rprop.ts";
export { ASGD, type ASGDOptions } from "./src/optim/asgd.ts";
export { SparseAdam, type SparseAdamOptions } from "./src/optim/sparse_adam.ts";
export { Muon, type MuonOptions } from "./src/optim/muon.ts";
export { LBFGS, type LBFGSOptions } from "./src/optim/lbfgs.ts";
export { BFGS, type BFGSOptions } from "./src/optim/bfgs.ts";
export { QuasiNewton, type QuasiNewtonResult, type StopReason } from "./src/optim/quasi_newton.ts";
export type { LineSearchFn, QuasiNewtonOptions } from "./src/optim/quasi_newton_options.ts";
export { TensorwiseOptimizer } from "./src/optim/tensorwise.ts";
export { clipGradNorm, type ClipGradNormOptions, clipGradValue, type GradOwners } from "./src/clip_grad.ts";
export * as foreach from "./src/foreach.ts";
export * as swaUtils from "./src/swa_utils/mod.ts";
export {
  AveragedModel,
  type AveragedModelOptions,
  type AveragedStateDict,
  type AvgFn,
  type BatchNorm,
  type EmaOptions,
  getEmaAvgFn,
  getEmaMultiAvgFn,
  getSwaAvgFn,
  getSwaMultiAvgFn,
  type IntegerArray,
  type IntegerType,
  type Module,
  type MultiAvgFn,
  SWALR,
  type SWALROptions,
  type TensorData,
  updateBn,
} from "./src/swa_utils/mod.ts";
export * as lrScheduler from "./src/lr_scheduler/mod.ts";
export {
  ChainedScheduler,
  ConstantLR,
  type ConstantLROptions,
  CosineAnnealingLR,
  type CosineAnnealingLROptions,
  CosineAnnealingWarmRestarts,
  type CosineAnnealingWarmRestartsOptions,
  CyclicLR,
  type CyclicLROptions,
  ExponentialLR,
  type ExponentialLROptions,
  LambdaLR,
  type LambdaLROptions,
  LinearLR,
  type LinearLROptions,
  type LrLambda,
  LRScheduler,
  MultiplicativeLR,
  type MultiplicativeLROptions,
  MultiStepLR,
  type MultiStepLROptions,
  OneCycleLR,
  type OneCycleLROptions,
  PolynomialLR,
  type PolynomialLROptions,
  ReduceLROnPlateau,
  type ReduceLROnPlateauOptions,
  type Schedule,
  type SchedulerOptions,
  type SchedulerStateDict,
  SequentialLR,
  type SequentialLROptions,
  StepLR,
  type StepLROptions,
} from "./src/lr_scheduler/mod.ts";
export * as checkpoint from "./src/checkpoint/mod.ts";
export {
  CheckpointError,
  type CheckpointTensor,
  load,
  type LoadModelOptions,
  type LoadModelResult,
  loadModelStateDict,
  type ModelStateDict,
  modelStateDict,
  type NamedTensors,
  save,
  type TensorArray,
  type TensorDType,
} from "./src/checkpoint/mod.ts";
export { plotSchedule } from "./src/plot.ts";
