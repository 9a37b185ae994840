/**
 * The names of what is inside of optimizer and scheduler state: camelCase here, torch's in `.pt` files. Names that are in no
 * table are a user's own, and stay as they are. The optimizers have one table, in which no name stands for two things; among
 * the schedulers some do.
 *
 * @module
 */

/** A table of names, both ways. */
export class Names {
  readonly #toTorch = new Map<string, string>();
  readonly #fromTorch = new Map<string, string>();

  constructor(camel: readonly string[], exceptions: Readonly<Record<string, string>> = {}) {
    for (const name of [...camel, ...Object.keys(exceptions)]) {
      const torch = Object.hasOwn(exceptions, name) ? exceptions[name]! : snake(name);
      this.#toTorch.set(name, torch);
      this.#fromTorch.set(torch, name);
    }
  }

  /** torch's name. */
  toTorch(name: string): string {
    return this.#toTorch.get(name) ?? name;
  }

  /** The name here. */
  fromTorch(name: string): string {
    return this.#fromTorch.get(name) ?? name;
  }

  /** Whether a name is in the table. */
  has(name: string): boolean {
    return this.#toTorch.has(name);
  }

  /** Whether all of these come back from torch's names as they are. */
  keeps(names: Iterable<string>): boolean {
    for (const name of names) if (this.fromTorch(this.toTorch(name)) !== name) return false;
    return true;
  }
}

/** `expAvgSq` as `exp_avg_sq`. */
const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

const words = (text: string): string[] => text.split(/\s+/).filter((word) => word !== "");

/** The state of a parameter that is a tensor of the parameter's shape. */
export const LIKE_PARAMETER: ReadonlySet<string> = new Set(words(`
  expAvg expAvgSq maxExpAvgSq  expInf  sum  squareAvg accDelta gradAvg momentumBuffer  prev stepSize  ax  variance
`)); // Adam and its kin, Adamax, Adagrad, Adadelta and RMSprop, Rprop, ASGD, Adafactor

/** The tensors of LBFGS and BFGS, which are over all parameters at once. */
export const FLAT: ReadonlySet<string> = new Set(words("d oldDirs oldStps prevFlatGrad h"));
/** Numbers of LBFGS and BFGS that are numbers in torch too, and not tensors. */
export const PLAIN_NUMBERS: ReadonlySet<string> = new Set(words("funcEvals nIter t prevLoss"));

/** What a parameter's state has. */
export const STATE_NAMES: Names = new Names([
  ...LIKE_PARAMETER,
  ...FLAT,
  ...PLAIN_NUMBERS,
  ...words("step muProduct eta mu rowVar colVar ro al scaled"),
], { hDiag: "H_diag" });

/** Options that are pairs or triples: tuples in torch. */
export const TUPLES: ReadonlySet<string> = new Set(words("betas etas stepSizes nsCoefficients eps"));

const OPTIONS = words(`
  lr maximize foreach fused capturable differentiable weightDecay
  momentum dampening nesterov                                                 betas eps amsgrad decoupledWeightDecay
  momentumDecay  lrDecay initialAccumulatorValue  rho  alpha centered         etas stepSizes  lambd t0  beta2Decay d
  nsCoefficients nsSteps adjustLrFn
  maxIter maxEval toleranceGrad toleranceChange historySize lineSearchFn      curvature scaleInit
`);

/** What a param group has: options, its parameters, what schedulers write. */
export const GROUP_NAMES: Names = new Names([
  ...OPTIONS,
  ...OPTIONS.map((option) => `initial${option[0]!.toUpperCase()}${option.slice(1)}`),
  ...words("params paramNames paramShapes paramDtypes swaLr maxLr minLr baseMomentum maxMomentum name meta"),
]);

/** What the state dict of an optimizer has. */
export const OPTIMIZER_NAMES: Names = new Names(["state", "paramGroups"]);

const SCHEDULER = words(`
  lastEpoch baseLrs field  stepSize gamma milestones factor totalIters startFactor endFactor power etaMin
  maxLrs minLrs totalSize stepRatio mode scaleMode cycleMomentum baseMomentums maxMomentums totalSteps
  best cooldownCounter numBadEpochs patience threshold thresholdMode cooldown eps defaultMinLr modeWorse
  swaLrs annealEpochs lrLambdas
`);
const PRIVATE = {
  stepCount: "_step_count",
  lastLr: "_last_lr",
  isInitial: "_is_initial",
  getLrCalledWithinStep: "_get_lr_called_within_step",
  scaleFnCustom: "_scale_fn_custom",
  useBeta1: "use_beta1",
};
const COSINE = { tMax: "T_max", t0: "T_0", tMult: "T_mult", tCur: "T_cur", tI: "T_i" };
const COMMON = new Names(SCHEDULER, { ...PRIVATE, ...COSINE });
const ONE_CYCLE = new Names(SCHEDULER, {
  ...PRIVATE,
  ends: "_schedule_phases",
  annealStrategy: "_anneal_func_type",
});
const SWA = new Names(SCHEDULER, { ...PRIVATE, annealStrategy: "_anneal_strategy" });
const COMPOSITE = new Names(SCHEDULER, { ...PRIVATE, schedulers: "_schedulers", milestones: "_milestones" });

/** The names of a scheduler's class, told by what is in its state dict: the keys as they are here, or as torch has them. */
export function schedulerNames(has: (key: string) => boolean): Names {
  if (has("schedulers") || has("_schedulers")) return COMPOSITE;
  if ((has("ends") && has("totalSteps")) || has("_schedule_phases")) return ONE_CYCLE;
  return has("annealEpochs") || has("anneal_epochs") ? SWA : COMMON;
}
