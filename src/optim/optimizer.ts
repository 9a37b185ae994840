/**
 * The base of all optimizers: param groups, hooks, state dicts, and the frame of a step.
 *
 * @module
 */

import { addLiveSource, announceChange, type LiveState, pendingSaves } from "../checkpoint/live.ts";
import { isTypedArray, type TypedArray } from "../dtype.ts";
import { checkKeys, show } from "../errors.ts";
import { Parameter } from "../parameter.ts";
import { type Measurement, profiling, startStep, tellStep } from "../profile.ts";
import { emptySparse, SparseTensor } from "../sparse_tensor.ts";
import { refusePromise } from "./checks.ts";
import { type HookHandle, type HookOptions, Hooks } from "./hooks.ts";
import {
  checkGroupKey,
  isGroupKey,
  KnownOptions,
  optionsObject,
  type OptionSpec,
  readOptions,
  type Schema,
} from "./options.ts";
import {
  checkGroups,
  type ParamGroup,
  type ParamGroupInput,
  type ParamsInput,
  readGroupParams,
  readParams,
} from "./param_group.ts";
import { type LoadOptions, matchByName, readLoadOptions } from "./match_names.ts";
import { type GradOptions, KnownGradOptions, LastStep, type StepOptions, type StepResult } from "./step_options.ts";
import {
  makeStateDict,
  type ParameterState,
  readStateDict,
  releaseState,
  type StateDict,
  StateMap,
} from "./state_dict.ts";

/** Computes gradients and returns the loss. */
export type Closure = () => number;
/** Computes gradients and returns the loss, later. */
export type AsyncClosure = () => Promise<number> | number;
/** What `step()` was called with, as step hooks get it. */
export type StepArgs = [closure?: Closure | AsyncClosure | null | undefined, options?: StepOptions];
type AnyClosure = StepArgs[0];

const argsOf = (closure: AnyClosure, options: StepOptions | undefined): StepArgs =>
  options === undefined ? [closure] : [closure, options];

/** An optimizer of any class. */
// deno-lint-ignore no-explicit-any -- hooks for all optimizers take any of them
export type AnyOptimizer = Optimizer<any>;
/** Runs before a step; may return other arguments for it. */
export type StepPreHook = (optimizer: AnyOptimizer, args: StepArgs) => void | StepArgs;
/** Runs after a step. */
export type StepPostHook = (optimizer: AnyOptimizer, args: StepArgs) => void;
/** Runs before a state dict is made. */
export type StateDictPreHook = (optimizer: AnyOptimizer) => void;
/** Runs when a state dict has been made; may return another one. */
export type StateDictPostHook = (optimizer: AnyOptimizer, stateDict: StateDict) => void | StateDict;
/** Runs before a state dict is loaded; may return another one. */
export type LoadStateDictPreHook = (optimizer: AnyOptimizer, stateDict: StateDict) => void | StateDict;
/** Runs when a state dict has been loaded. */
export type LoadStateDictPostHook = (optimizer: AnyOptimizer) => void;

const ZERO_GRAD_OPTIONS = ["setToNull"];

const globalPre = new Hooks<StepPreHook>();
const globalPost = new Hooks<StepPostHook>();

/**
 * Registers a hook that runs before every optimizer's step, before that optimizer's own hooks.
 *
 * @param hook gets the optimizer and the step's arguments; may return others
 * @returns a handle with `remove()`
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { registerOptimizerStepPreHook, SGD } from "@flatstep/optim";
 *
 * let steps = 0;
 * const handle = registerOptimizerStepPreHook(() => { steps++; });
 * new SGD([new Float32Array(1)]).step();
 * handle.remove();
 * assert(steps === 1);
 * ```
 */
export function registerOptimizerStepPreHook(hook: StepPreHook): HookHandle {
  return globalPre.add(hook);
}

/**
 * Registers a hook that runs after every optimizer's step, after that optimizer's own hooks.
 *
 * @param hook gets the optimizer and the step's arguments
 * @returns a handle with `remove()`
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { registerOptimizerStepPostHook, SGD } from "@flatstep/optim";
 *
 * let steps = 0;
 * const handle = registerOptimizerStepPostHook(() => { steps++; });
 * new SGD([new Float32Array(1)]).step();
 * handle.remove();
 * assert(steps === 1);
 * ```
 */
export function registerOptimizerStepPostHook(hook: StepPostHook): HookHandle {
  return globalPost.add(hook);
}

/** An optimizer's state, for those who change nothing without the optimizer's knowledge. */
export let stateOf: (optimizer: object) => StateMap;

/** Appends where it happened to an error's message, and throws it on. */
function inGroup(index: number, check: () => void): void {
  try {
    check();
  } catch (error) {
    if (error instanceof Error) error.message += ` (in paramGroups[${index}])`;
    throw error;
  }
}

/**
 * The base class of all optimizers, to be subclassed: a subclass gives defaults, and an `update()` that changes the
 * parameters of `paramGroups` in place.
 *
 * torch source: `torch/optim/optimizer.py`. Differences: duplicate parameters and names, unknown options and options out
 * of range are errors, in every group and at every step; parameters that share memory are refused; a failed call changes
 * nothing.
 *
 * @example An optimizer of one's own
 * ```ts
 * import { assert } from "@std/assert";
 * import { Optimizer, Parameter } from "@flatstep/optim";
 *
 * class SignSGD extends Optimizer<{ lr: number }> {
 *   constructor(params: Iterable<Parameter>, { lr = 1e-3 } = {}) {
 *     super(params, { lr });
 *   }
 *   protected override update(): void {
 *     for (const { params, lr } of this.paramGroups) {
 *       for (const { data, grad } of params) {
 *         if (grad === null) continue;
 *         if (!ArrayBuffer.isView(grad)) throw new TypeError("SignSGD takes dense gradients in the host's memory");
 *         data.forEach((x, i) => data[i] = x - lr * Math.sign(grad[i]!));
 *       }
 *     }
 *   }
 * }
 * const p = new Parameter([1, 1]);
 * p.grad = Float32Array.of(3, -2);
 * new SignSGD([p], { lr: 0.5 }).step();
 * assert(p.data.join() === "0.5,1.5");
 * ```
 */
export abstract class Optimizer<Options extends object = Record<string, unknown>> {
  /** The options that groups have unless they say otherwise: the constructor's. */
  readonly defaults: Readonly<Required<Options>>;
  /** The param groups: live, checked again at each step. */
  paramGroups: ParamGroup<Options>[] = [];
  readonly #state = new StateMap();
  readonly #schema: Readonly<Record<string, OptionSpec<unknown>>>;
  readonly #keys: readonly string[];
  /** What each group's options were at the last step. */
  readonly #known: KnownOptions[] = [];
  readonly #pre = new Hooks<StepPreHook>();
  readonly #post = new Hooks<StepPostHook>();
  readonly #stateDictPre = new Hooks<StateDictPreHook>();
  readonly #stateDictPost = new Hooks<StateDictPostHook>();
  readonly #loadPre = new Hooks<LoadStateDictPreHook>();
  readonly #loadPost = new Hooks<LoadStateDictPostHook>();
  #busy = false;
  #stepCount = 0;
  /** Raised when a step begins and when it ends, so that a save notices; odd: within a step, before its hooks. */
  #changes = 0;
  /** What a step has to do to gradients. */
  readonly #gradOptions = new KnownGradOptions();
  /** Whether the step that is being made has to. */
  #clips = false;
  #result: StepResult | null = null;
  readonly #lastStep = new LastStep();

  static {
    stateOf = (optimizer) => (optimizer as Optimizer).#state;
    addLiveSource((object) => object instanceof Optimizer ? object.#live() : undefined);
  }

  /**
   * For subclasses.
   *
   * @param params parameters, `[name, parameter]` pairs, or groups
   * @param defaults every option with its value; groups may have these options and no others
   * @param schema a check for each option; without it any value is accepted
   * @throws {TypeError} for the wrong kind of thing, a missing `params`, an unknown option, named and unnamed parameters mixed
   * @throws {RangeError} for an option out of range, no parameters, a parameter or a name that appears twice, shared memory
   */
  protected constructor(params: ParamsInput<Options>, defaults: Required<Options>, schema?: Schema<Options>) {
    const free = () =>
      Object.fromEntries(Object.keys(defaults).map((key) => [key, { default: undefined, check() {} }]));
    this.#schema = (schema as Record<string, OptionSpec<unknown>> | undefined) ?? free();
    this.#keys = Object.keys(this.#schema);
    this.defaults = Object.freeze({ ...defaults });
    this.#checkOptions({ ...defaults } as ParamGroup<Options>);
    for (const group of readParams(params)) this.#add(group as ParamGroupInput<Options>);
  }

  /**
   * Each parameter's state. Made at the first step in which the parameter has a gradient. Who has read this property may change
   * entries at any time: from then on each step looks at all of them (some nanoseconds a parameter).
   */
  get state(): Map<Parameter, ParameterState> {
    return this.#state.show();
  }

  /** How many steps this object has made. No state: a loaded state dict does not change it. */
  get stepCount(): number {
    return this.#stepCount;
  }

  /** What became of the last step, if it had `maxGradNorm` or `gradScale`; else null. */
  get lastStep(): StepResult | null {
    return this.#lastStep.result;
  }

  /**
   * Adds a group, for parameters that come later.
   *
   * @param group `{ params, ...options }`; options that it lacks are the constructor's
   * @throws {TypeError} as the constructor
   * @throws {RangeError} as the constructor
   * @example
   * ```ts
   * import { assert } from "@std/assert";
   * import { SGD } from "@flatstep/optim";
   *
   * const optimizer = new SGD([new Float32Array(2)], { lr: 0.1 });
   * optimizer.addParamGroup({ params: [new Float32Array(3)], lr: 0.01 });
   * assert(optimizer.paramGroups.length === 2);
   * ```
   */
  addParamGroup(group: ParamGroupInput<Options>): void {
    this.#add(group);
  }

  #add(input: ParamGroupInput<Options>): void {
    const index = this.paramGroups.length;
    let group: ParamGroup<Options>;
    inGroup(index, () => {
      if ((input as unknown) instanceof Parameter) {
        throw new TypeError("a param group must be { params }, got a Parameter");
      }
      const options = readOptions(input, this.#schema, this.constructor.name, true);
      const { params, names } = readGroupParams(options["params"], options["paramNames"]);
      delete options["paramNames"];
      const defaults = Object.entries(this.defaults).map((
        [key, value],
      ) => [key, Array.isArray(value) ? [...value] : value]);
      group = optionsObject({ ...Object.fromEntries(defaults), ...options, params }) as ParamGroup<Options>;
      if (names) group.paramNames = names;
      this.#checkOptions(group);
    });
    const groups = [...this.paramGroups, group!];
    checkGroups(groups);
    this.groupsChange(groups);
    this.paramGroups.push(group!);
  }

  /** Throws unless a group's options are as they must be. */
  #checkOptions(group: ParamGroup<Options>): void {
    if (typeof group !== "object" || group === null) {
      throw new TypeError(`a param group must be an object, got ${show(group)}`);
    }
    const values = group as Record<string, unknown>, schema = this.#schema;
    for (const key of this.#keys) schema[key]!.check(values[key], key);
    for (const key in values) {
      if (Object.hasOwn(schema, key)) continue;
      if (!isGroupKey(key, schema)) {
        throw new TypeError(`${this.constructor.name} has no option ${show(key)}; it has ${this.#keys.join(", ")}`);
      }
      checkGroupKey(key, values[key]);
    }
    this.validate(group as unknown as Readonly<Required<Options>>);
  }

  /** Throws unless every group's options are as they must be. */
  protected checkAllOptions(): void {
    const groups = this.paramGroups;
    for (let g = 0; g < groups.length; g++) {
      const group = groups[g]!, known = this.#known[g] ??= new KnownOptions(this.#schema);
      try {
        if (known.check(group)) {
          this.validate(group as unknown as Readonly<Required<Options>>);
        } else {
          this.#checkOptions(group);
          known.note(group);
        }
      } catch (error) {
        inGroup(g, () => {
          throw error;
        });
      }
    }
  }

  /**
   * Throws unless options go with each other. Called for the constructor's options, for each group, and at each step.
   *
   * @param _options a group, or the defaults
   */
  protected validate(_options: Readonly<Required<Options>>): void {}

  /** Called with the groups as they are about to be; may throw, and must change nothing. */
  protected groupsChange(_groups: readonly ParamGroup<Options>[]): void {}

  /** Updates the parameters of all groups that have a gradient, in place. Called by `step()`, inside the hooks. */
  protected abstract update(): void;

  /**
   * `update()` with gradients that are unscaled and clipped on their way, and are not changed. Where they are not finite
   * nothing may change. Classes without it have no such options of `step()`.
   *
   * @returns what became of it; the next step may write the same object again
   */
  protected updateClipped?(options: GradOptions): StepResult;

  /** One update of a step, as its options want it. */
  #update(): void {
    this.#result = null;
    if (!this.#clips) this.update();
    else this.#result = this.updateClipped!(this.#gradOptions);
  }

  /**
   * Makes the state of every parameter now, and not at its first step: to look at, or to load into other programs.
   * Optimizers whose state begins with a gradient (SGD's momentum, LBFGS) make none.
   */
  initState(): void {}

  /**
   * Sets all gradients to null, or to zeros (a sparse one to one without entries). A parameter whose gradient is null is
   * skipped by `step()`: no decay, no momentum, no count. One whose gradient is zero is not.
   *
   * @param options `setToNull`: null (the default, true) or zeros in place (false)
   * @throws {TypeError} for anything but an object with a boolean `setToNull`: torch's positional `False` is `{ setToNull: false }`
   */
  zeroGrad(options: { setToNull?: boolean } = {}): void {
    checkKeys(options, ZERO_GRAD_OPTIONS, "zeroGrad()");
    const { setToNull = true } = options;
    if (typeof setToNull !== "boolean") throw new TypeError(`setToNull must be a boolean, got ${show(setToNull)}`);
    for (const group of this.paramGroups) {
      for (const p of group.params) {
        if (setToNull) p.grad = null;
        else if (p.grad instanceof SparseTensor) p.grad = emptySparse(p.grad);
        else p.grad?.fill(0);
      }
    }
  }

  /**
   * One step: updates every parameter that has a gradient.
   *
   * With `maxGradNorm` or `gradScale` the gradients of all groups are unscaled, clipped by their common norm and used in one
   * call; they stay as they are. Gradients that are not finite skip the step: parameters, state and `stepCount` do not change,
   * post hooks do not run, `lastStep.skipped` is true. The bits are those of the separate calls: `foreach.mul_(grads, 1 /
   * gradScale)`, `clipGradNorm(params, maxGradNorm)`, `step()`. LBFGS and BFGS have no such options.
   *
   * @param closure null or undefined
   * @param options see {@linkcode StepOptions}
   * @throws {TypeError} for a gradient of another kind than its parameter, an option of the wrong kind
   * @throws {RangeError} for a gradient of another length, an option out of range
   * @throws {NativeLibraryError} if `foreach` or `fused` is true and there is no compiled code
   */
  step(closure?: null, options?: StepOptions): undefined;
  /**
   * One step, of gradients that the closure computes.
   *
   * @param closure computes the gradients and returns the loss; called once, before the update
   * @param options see {@linkcode StepOptions}
   * @returns the closure's loss
   */
  step(closure: Closure, options?: StepOptions): number;
  step(closure?: Closure | null, options?: StepOptions): number | undefined {
    const measured = profiling.on === false ? null : startStep();
    if (measured === null) return this.#step(closure, options, null);
    let loss: number | undefined;
    try {
      loss = this.#step(closure, options, measured);
    } finally {
      measured.leave();
    }
    tellStep(measured, this);
    return loss;
  }

  #step(
    closure: Closure | null | undefined,
    options: StepOptions | undefined,
    measured: Measurement | null,
  ): number | undefined {
    this.#enter();
    try {
      const args = this.#before(closure, options);
      const given = (args === null ? closure : args[0]) as Closure | null | undefined;
      const loss = this.runStep(measured === null || !given ? given : measured.aside(given));
      this.#after(args, closure, options);
      return loss;
    } finally {
      this.#leave();
    }
  }

  /**
   * One step, of gradients that an asynchronous closure computes. A second step may not begin before this one has ended.
   *
   * @param closure computes the gradients and returns the loss, or a Promise of it
   * @param options see {@linkcode StepOptions}
   * @returns the loss
   */
  async stepAsync(closure: AsyncClosure, options?: StepOptions): Promise<number> {
    if (typeof closure !== "function") throw new TypeError(`closure must be a function, got ${show(closure)}`);
    const measured = profiling.on === false ? null : startStep();
    let loss: number;
    try {
      this.#enter();
      try {
        const args = this.#before(closure, options), given = args === null ? closure : args[0]!;
        loss = await this.runStepAsync(measured === null ? given : measured.asideAsync(given));
        this.#after(args, closure, options);
      } finally {
        this.#leave();
      }
    } finally {
      measured?.leave();
    }
    if (measured !== null) tellStep(measured, this);
    return loss;
  }

  /** The inside of `step()`: calls the closure, if there is one, then `update()`. For optimizers that call it more often. */
  protected runStep(closure: Closure | null | undefined): number | undefined {
    let loss: number | undefined;
    if (closure !== undefined && closure !== null) {
      loss = closure();
      refusePromise(loss);
    }
    this.#update();
    return loss;
  }

  /** The inside of `stepAsync()`. */
  protected async runStepAsync(closure: AsyncClosure): Promise<number> {
    const loss = await closure();
    this.#update();
    return loss;
  }

  #enter(): void {
    if (this.#busy) {
      throw new TypeError(
        "step() must not be called during another step of the same optimizer: await stepAsync() first",
      );
    }
    this.#busy = true;
    this.#change();
  }

  #leave(): void {
    this.#busy = false;
    if (this.#changes % 2 === 1) this.#change();
  }

  /** Tells saves that parameters and state change. */
  #change(): void {
    this.#changes++;
    if (pendingSaves.size > 0) this.#announce(); // a method of its own: what makes a function costs memory at each call
  }

  #announce(): void {
    const arrays: TypedArray[] = [];
    for (const group of this.paramGroups as readonly (ParamGroup<Options> | null | undefined)[]) { // not checked yet
      if (!Array.isArray(group?.params)) continue;
      for (const p of group.params as unknown[]) {
        if (p instanceof Parameter && p.device === "cpu" && isTypedArray(p.data)) arrays.push(p.data);
      }
    }
    announceChange(() => arrays);
  }

  /** Runs the pre hooks. Returns the arguments that they have left, or null where there are none and nothing has to be made. */
  #before(closure: AnyClosure, options: StepOptions | undefined): StepArgs | null {
    const args = globalPre.empty && this.#pre.empty ? null : this.#runPreHooks(argsOf(closure, options));
    const given = args === null ? closure : args[0], more = args === null ? options : args[1];
    if (given !== undefined && given !== null && typeof given !== "function") {
      throw new TypeError(`closure must be a function, got ${show(given)}`);
    }
    this.#result = null;
    this.#clips = this.#gradOptions.read(more);
    if (this.#clips && this.updateClipped === undefined) {
      const key = Object.entries(more!).find(([, value]) => value !== undefined)![0];
      throw new TypeError(`step() of ${this.constructor.name} has no option ${show(key)}`);
    }
    return args;
  }

  #runPreHooks(args: StepArgs): StepArgs {
    const call = (hook: StepPreHook) => {
      const changed = hook(this, args);
      if (changed === undefined || changed === null) return;
      if (!Array.isArray(changed) || changed.length > 2) {
        throw new TypeError(`a step pre hook must return nothing or [closure?, options?], got ${show(changed)}`);
      }
      args = changed;
    };
    globalPre.each(call);
    this.#pre.each(call);
    return args;
  }

  #after(args: StepArgs | null, closure: AnyClosure, options: StepOptions | undefined): void {
    this.#change();
    this.#lastStep.note(this.#result);
    if (this.#lastStep.skipped) return;
    this.#stepCount++;
    if (!this.#post.empty || !globalPost.empty) this.#runPostHooks(args ?? argsOf(closure, options));
  }

  #runPostHooks(args: StepArgs): void {
    const call = (hook: StepPostHook) => hook(this, args);
    this.#post.each(call);
    globalPost.each(call);
  }

  /**
   * A snapshot of state and options, in torch's layout with camelCase names. Later steps do not change it; it survives
   * `structuredClone`. `foreach`, `fused` and `differentiable` are no state and are left out.
   *
   * @returns `{ state: { 0: { step, … } }, paramGroups: [{ lr, …, params: [0], paramShapes, paramDtypes }] }`
   */
  stateDict(): StateDict {
    this.#stateDictPre.each((hook) => hook(this));
    let dict = makeStateDict(this.paramGroups, this.#upToDate());
    this.#stateDictPost.each((hook) => {
      dict = hook(this, dict) ?? dict;
    });
    return dict;
  }

  /** The state with every number written. */
  #upToDate(): StateMap {
    this.#state.catchUp();
    return this.#state;
  }

  /** The state dict as it is saved: of live arrays, unless hooks or a subclass have a say in it. */
  #live(): LiveState {
    if (this.#changes % 2 === 1) throw new TypeError("an optimizer must not be saved during its step: await it first");
    const own = this.#stateDictPre.empty && this.#stateDictPost.empty &&
      this.stateDict === Optimizer.prototype.stateDict;
    return {
      dict: own ? makeStateDict(this.paramGroups, this.#upToDate(), true) : this.stateDict(),
      version: () => this.#changes + this.#state.version,
    };
  }

  /**
   * Loads a state dict: options and state. Nothing is shared with the dict afterwards. `foreach` and `fused` stay as they
   * are, and so does an option that the dict lacks.
   *
   * By position (the default, as in torch), groups and parameters must be as many as in the dict. By name, each parameter
   * gets the state that the dict has under its name, in whatever group, and each group the options of the group that its
   * parameters are in; with `strict: false` names may be missing on either side, and what is missing in the dict stays.
   *
   * @param stateDict what `stateDict()` gave, or torch's with camelCase names
   * @param options `match`: `"position"` (default) or `"name"`; `strict`: default true
   * @throws {StateDictError} if it does not fit: groups, parameters, shapes, dtypes, options, names of state
   */
  loadStateDict(stateDict: StateDict, options: LoadOptions = {}): void {
    const { match, strict } = readLoadOptions(options);
    let dict = stateDict;
    this.#loadPre.each((hook) => {
      dict = hook(this, dict) ?? dict;
    });
    if (match === "name") dict = matchByName(dict, makeStateDict(this.paramGroups, this.#upToDate()), strict);
    const { groups, state } = readStateDict(dict, this.paramGroups, this.#schema, (entry, p, where) => {
      return this.readState(entry, p, where);
    }, (group) => {
      this.upgradeGroup(group);
      this.#checkOptions(group as ParamGroup<Options>);
    });
    this.paramGroups.forEach((group, g) => {
      for (const key of Object.keys(group)) {
        if (!(key in groups[g]!)) delete (group as Record<string, unknown>)[key];
      }
      Object.assign(group, groups[g]);
    });
    const before = [...this.#state.values()];
    this.#state.clear();
    for (const [p, entry] of state) this.#state.set(p, entry);
    releaseState(before);
    this.#loadPost.each((hook) => hook(this));
  }

  /**
   * Gives back what the optimizer has in the memory of devices, its state among it; it must not step parameters there afterwards. In the
   * host's memory there is nothing to do. Without it that memory is freed some time after nobody holds the optimizer any more.
   */
  dispose(): void {
    releaseState(this.#state.values());
  }

  /** `dispose()`, at the end of a block where the optimizer is declared by `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Mends a group of a state dict of another class or an older version, before it is checked. */
  protected upgradeGroup(_group: Record<string, unknown>): void {}

  /**
   * A parameter's state as it is to be kept, from a state dict's entry, of which nothing may be shared. Throws a
   * StateDictError where it does not fit.
   */
  protected readState(entry: Readonly<Record<string, unknown>>, _parameter: Parameter, _where: string): ParameterState {
    return structuredClone(entry) as ParameterState;
  }

  /** Registers a hook that runs before each step; it may return other arguments. */
  registerStepPreHook(hook: StepPreHook): HookHandle {
    return this.#pre.add(hook);
  }
  /** Registers a hook that runs after each step. */
  registerStepPostHook(hook: StepPostHook): HookHandle {
    return this.#post.add(hook);
  }
  /** Registers a hook that runs before a state dict is made. */
  registerStateDictPreHook(hook: StateDictPreHook, options?: HookOptions): HookHandle {
    return this.#stateDictPre.add(hook, options);
  }
  /** Registers a hook that runs when a state dict has been made; it may return another one. */
  registerStateDictPostHook(hook: StateDictPostHook, options?: HookOptions): HookHandle {
    return this.#stateDictPost.add(hook, options);
  }
  /** Registers a hook that runs before a state dict is loaded; it may return another one. */
  registerLoadStateDictPreHook(hook: LoadStateDictPreHook, options?: HookOptions): HookHandle {
    return this.#loadPre.add(hook, options);
  }
  /** Registers a hook that runs when a state dict has been loaded. */
  registerLoadStateDictPostHook(hook: LoadStateDictPostHook, options?: HookOptions): HookHandle {
    return this.#loadPost.add(hook, options);
  }
}
