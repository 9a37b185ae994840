/**
 * Programs that must not compile: each line under an expect-error comment is one, and a checker complains about a comment whose
 * line compiles. Nothing of this is run. tests/types_test.ts has both checkers read it.
 *
 * @module
 */

import {
  Adafactor,
  Adam,
  AdamW,
  AveragedModel,
  BFGS,
  clipGradNorm,
  CosineAnnealingLR,
  getEmaAvgFn,
  LambdaLR,
  LBFGS,
  Muon,
  Optimizer,
  Parameter,
  ReduceLROnPlateau,
  RMSprop,
  SequentialLR,
  SGD,
  SparseAdam,
  SparseTensor,
  StepLR,
} from "../../mod.ts";

const p = new Parameter([1, 2, 3]);
const optimizer = new AdamW([p], { lr: 1e-3 });

// Names and kinds of options
// @ts-expect-error -- there is no such option
new SGD([p], { learningRate: 0.1 });
// @ts-expect-error -- torch's own spelling
new AdamW([p], { weight_decay: 0.1 });
// @ts-expect-error -- a text is no number
new Adam([p], { lr: "0.1" });
// @ts-expect-error -- two rates, not three
new Adam([p], { betas: [0.9, 0.99, 0.999] });
// @ts-expect-error -- two rates, not one
new Adam([p], { betas: 0.9 });
// @ts-expect-error -- SGD has no betas
new SGD([p], { betas: [0.9, 0.999] });
// @ts-expect-error -- there is no autograd here to record the step
new SGD([p], { differentiable: true });
// @ts-expect-error -- null is no number of steps
new Muon([p], { nsSteps: null });
// @ts-expect-error -- one of two names
new Muon([p], { adjustLrFn: "rms" });
// @ts-expect-error -- SparseAdam has no decay
new SparseAdam([p], { weightDecay: 0.1 });
// @ts-expect-error -- no such line search
new LBFGS([p], { lineSearchFn: "armijo" });
// @ts-expect-error -- BFGS keeps a matrix, not a history
new BFGS([p], { historySize: 10 });
// @ts-expect-error -- skip or damp
new BFGS([p], { curvature: "ignore" });
// @ts-expect-error -- RMSprop's smoothing is called alpha
new RMSprop([p], { rho: 0.9 });
// @ts-expect-error -- eps is a pair
new Adafactor([p], { eps: 1e-8 });
// @ts-expect-error -- exact optional properties: undefined is absence to the library, but no value
new SGD([p], { momentum: undefined });

// Parameters and groups
// @ts-expect-error -- there are no parameters
new SGD();
// @ts-expect-error -- a single number is no parameter
new SGD([3]);
// @ts-expect-error -- a name alone is no parameter
new SGD(["weight"]);
// @ts-expect-error -- a group has params
new SGD([{ lr: 0.1 }]);
// @ts-expect-error -- a group's option of another class
new SGD([{ params: [p], betas: [0.9, 0.999] }]);
// @ts-expect-error -- a group's option of the wrong kind
optimizer.addParamGroup({ params: [p], lr: "0.1" });
// @ts-expect-error -- groups have numbers
optimizer.paramGroups[0]!.lr = "0.1";
// @ts-expect-error -- groups have no such field
optimizer.paramGroups[0]!.learningRate = 0.1;
// @ts-expect-error -- no such dtype
new Parameter(new Float32Array(3), { dtype: "float8" });
// @ts-expect-error -- a shape is a list
new Parameter([1, 2, 3], { shape: 3 });
// @ts-expect-error -- an option that there is not
new Parameter([1, 2, 3], { device: "cpu" });
// @ts-expect-error -- a gradient is an array
p.grad = 1;
// @ts-expect-error -- a parameter's shape stays
p.shape = [1, 3];
// @ts-expect-error -- a parameter's dtype stays
p.dtype = "float64";
// @ts-expect-error -- a sparse tensor has a shape
new SparseTensor([[0]], [1]);

// Steps
// @ts-expect-error -- step() takes a closure of a number
optimizer.step(() => Promise.resolve(1));
// @ts-expect-error -- a closure returns a loss
optimizer.step(() => {});
// @ts-expect-error -- no such option of a step
optimizer.step(null, { clip: 1 });
// @ts-expect-error -- a loss may be missing
optimizer.step().toFixed();
// @ts-expect-error -- abstract
new Optimizer([p], {});
// @ts-expect-error -- a norm is a number
clipGradNorm([p], "1");
// @ts-expect-error -- torch's spelling
clipGradNorm([p], 1, { norm_type: 2 });

// Schedulers
// @ts-expect-error -- a scheduler has an optimizer
new StepLR({ stepSize: 10 });
// @ts-expect-error -- stepSize is needed
new StepLR(optimizer, {});
// @ts-expect-error -- torch's spelling
new CosineAnnealingLR(optimizer, { T_max: 10 });
// @ts-expect-error -- a function, not its value
new LambdaLR(optimizer, { lrLambda: 0.5 });
// @ts-expect-error -- a metric is needed
new ReduceLROnPlateau(optimizer, {}).step();
// @ts-expect-error -- milestones are needed
new SequentialLR(optimizer, { schedulers: [new StepLR(optimizer, { stepSize: 10 })] });
// @ts-expect-error -- min or max
new ReduceLROnPlateau(optimizer, { mode: "lowest" });

// Averages
// @ts-expect-error -- a parameter is no model
new AveragedModel(p);
// @ts-expect-error -- a decay is a number
getEmaAvgFn("0.999");

// State dicts
// @ts-expect-error -- a state dict has paramGroups
optimizer.loadStateDict({ state: {} });
// @ts-expect-error -- by position or by name
optimizer.loadStateDict(optimizer.stateDict(), { match: "shape" });
