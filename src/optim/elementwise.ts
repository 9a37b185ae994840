/**
 * Optimizers that update element by element: options in, jobs out.
 *
 * @module
 */

import {
  type Backend,
  type Job,
  judge,
  MEASURE,
  STEP_COEFFICIENT,
  STEP_MAX_NORM,
  STEP_NORM,
  STEP_UNSCALE,
  STEP_WORDS,
  UPDATE,
} from "../../ffi/backend.ts";
import { jsBackend } from "../../ffi/js.ts";
import { bestBackend, compiledBackend, getNumThreads } from "../../ffi/load.ts";
import { allocateArray, deviceOf } from "../cuda/device_array.ts";
import { allocate } from "../dtype.ts";
import { show, StateDictError } from "../errors.ts";
import { WrittenMemory } from "../memory.ts";
import { likeOf, moveCount, type Parameter } from "../parameter.ts";
import { followParameters } from "./device_plan.ts";
import { DevicePlans } from "./device_plans.ts";
import { Optimizer, stateOf } from "./optimizer.ts";
import { readDefaults, type Schema } from "./options.ts";
import { checkGroups, type ParamGroup, type ParamsInput } from "./param_group.ts";
import { fillTensor, GroupPlan, type Update } from "./plan.ts";
import { isSparseEntry, readSparse } from "./sparse_state.ts";
import { type GradOptions, Outcome, type StepResult } from "./step_options.ts";
import { type ParameterState, readTensor } from "./state_dict.ts";

/** Options that every elementwise optimizer has. */
export interface ElementwiseOptions {
  /** Maximizes the objective instead of minimizing it; default false. */
  maximize?: boolean;
  /**
   * One call into compiled code per group; default null: let the library choose. `false` with `fused: false`: TypeScript. Parameters on
   * a device are always stepped by its kernels, one launch for a group, device and dtype.
   */
  foreach?: boolean | null;
  /** One call into compiled code per step; default null: let the library choose. */
  fused?: boolean | null;
  /** Must be false: there is no autograd here to record the step. */
  differentiable?: false;
}

type Elementwise = Required<ElementwiseOptions>;
type Mode = "for-loop" | "foreach" | "fused";

/** What an elementwise class is made of. */
export interface Definition<Group> {
  /** Its options. */
  readonly schema: object;
  /** Its update. */
  readonly update: Update<Group>;
}

/** Which implementation a group's options ask for. */
function modeOf(group: Elementwise): Mode {
  if (group.foreach === true) return "foreach";
  if (group.fused === true || (group.foreach ?? null) === null || (group.fused ?? null) === null) return "fused";
  return "for-loop";
}

/** Whether a plan's jobs go down with those of other groups. */
function isFused(plan: { readonly backend: Backend; readonly group: unknown }): boolean {
  return plan.backend !== jsBackend && modeOf(plan.group as Elementwise) === "fused";
}

/** Whether all plans are ready; if not, they must be built again. */
function prepareAll(
  plans: readonly { prepare(factors?: readonly number[]): boolean }[],
  factors?: readonly number[],
): boolean {
  for (const plan of plans) if (!plan.prepare(factors)) return false;
  return true;
}

function backendOf(group: Elementwise): Backend {
  if (group.foreach === true) return compiledBackend("foreach is true");
  if (group.fused === true) return compiledBackend("fused is true");
  return modeOf(group) === "for-loop" ? jsBackend : bestBackend();
}

const chosen = (group: unknown): Backend => backendOf(group as Elementwise);

/** The base of the optimizers whose rule is one of csrc/rules/. */
export abstract class ElementwiseOptimizer<Options extends ElementwiseOptions> extends Optimizer<Options> {
  readonly #update: Update<ParamGroup<Options>>;
  #plans: GroupPlan<ParamGroup<Options>>[] | null = null;
  #version = -1;
  /** The parameters on devices; null where all are in the host's memory. */
  #devices: DevicePlans<ParamGroup<Options>> | null = null;
  #moves = -1;
  #jobs: Job[] = [];
  readonly #numbers = new Float64Array(new ArrayBuffer(STEP_WORDS * 8));
  readonly #unscale: [number] = [1];
  readonly #outcome = new Outcome();

  /** For subclasses. */
  protected constructor(
    params: ParamsInput<Options>,
    options: Options | undefined,
    name: string,
    definition: Definition<ParamGroup<Options>>,
  ) {
    const schema = definition.schema as Schema<Options>;
    super(params, readDefaults(options, schema, name), schema);
    this.#update = definition.update;
  }

  /** Throws unless options go with each other. */
  protected override validate(options: Readonly<Required<Options>>): void {
    const { foreach, fused } = options as Elementwise;
    if (foreach === true && fused === true) throw new TypeError("foreach and fused must not both be true");
  }

  /** Looks at every array, runs the rule, and writes the new state. */
  protected override update(): void {
    this.#plans?.[0]?.backend.wake(); // while everything is looked at
    this.checkAllOptions();
    const plans = this.#prepare(), devices = this.#devices;
    try {
      devices?.launch(1, 1);
      this.#run(plans);
    } catch (error) {
      this.#failed(error);
    }
    for (const plan of plans) plan.commit();
    devices?.commit();
  }

  /** The same with gradients that are unscaled and clipped on their way. */
  protected override updateClipped({ unscale, maxNorm }: GradOptions): StepResult {
    this.#plans?.[0]?.backend.wake();
    this.checkAllOptions();
    this.#unscale[0] = unscale;
    const plans = this.#prepare(this.#unscale), numbers = this.#numbers.fill(0);
    numbers[STEP_UNSCALE] = unscale;
    numbers[STEP_MAX_NORM] = maxNorm;
    let ready = plans;
    try {
      ready = this.#runClipped(plans, numbers);
    } catch (error) {
      this.#failed(error);
    }
    const result = this.#outcome.read(numbers);
    if (result.skipped) {
      this.#rollback();
      return result;
    }
    for (const plan of ready) plan.commit();
    this.#devices?.commit();
    return result;
  }

  /** A step has failed while it ran. */
  #failed(error: unknown): never {
    this.#rollback();
    const devices = this.#devices;
    if (devices !== null) {
      devices.abandon(error);
      this.#forget();
    }
    throw error;
  }

  /** The plans are of no more use; what they have on devices is given back. */
  #forget(): void {
    stateOf(this).catchUp();
    this.#plans = null;
    this.#devices?.dispose();
    this.#devices = null;
  }

  /** Gives back what the optimizer has in the memory of devices. */
  override dispose(): void {
    this.#forget();
    super.dispose();
  }

  /** Plans that are ready to run. One that throws is not kept: what it has bound may be what was wrong. */
  #prepare(factors?: readonly number[]): GroupPlan<ParamGroup<Options>>[] {
    try {
      if (
        !this.#fresh() || !prepareAll(this.#plans!, factors) || this.#devices?.prepare() === false
      ) {
        this.#rollback();
        this.#plan();
        for (const plan of this.#plans!) plan.prepare(factors);
        this.#devices?.prepare();
      }
      const plans = this.#plans!, devices = this.#devices;
      let added = devices?.stateAdded ?? false;
      for (const plan of plans) added ||= plan.stateAdded;
      if (added) {
        for (const plan of plans) plan.checkGradients();
        for (const plan of plans) plan.stateAdded = false;
        devices?.checkGradients();
      }
      for (const plan of plans) plan.bindGradients();
      return plans;
    } catch (error) {
      this.#rollback();
      this.#forget();
      throw error;
    }
  }

  /** Puts numbers back that `prepare()` has raised; state that it has made is made again at the next step. */
  #rollback(): void {
    let made = this.#devices?.madeState ?? false;
    for (const plan of this.#plans ?? []) made = plan.rollback() || made;
    if (made) this.#version = -1;
  }

  /**
   * Makes the state of every parameter that has none, as its first step would. SGD's momentum is left to the first step,
   * whose gradient it begins with.
   */
  override initState(): void {
    if (this.#update.freshFlags !== 0) return;
    this.checkAllOptions();
    const known = stateOf(this);
    for (const group of this.paramGroups) {
      for (const p of group.params) {
        if (known.has(p)) continue;
        const state: ParameterState = this.#update.start(group);
        for (const key of this.#update.tensors(group)) {
          const value = this.#update.fill?.(group, key) ?? 0;
          if (p.deviceArray !== null) {
            state[key] = allocateArray(deviceOf(p.deviceArray), p.dtype, p.size).fill(value);
            continue;
          }
          const tensor = state[key] = allocate(p.dtype, p.size, p.data);
          fillTensor(tensor, p.dtype, value);
        }
        known.set(p, state);
      }
    }
  }

  /** Whether the plans are for these groups, this state, and these implementations. */
  #fresh(): boolean {
    const plans = this.#plans, groups = this.paramGroups;
    if (plans === null || plans.length !== groups.length || stateOf(this).version !== this.#version) {
      return false;
    }
    if (this.#moves !== moveCount()) { // some parameter has been moved, perhaps none of these
      const away = (p: Parameter) => p.deviceArray !== null;
      if (this.#devices?.stay() === false) return false;
      if (this.#devices === null && groups.some(({ params }) => params.some(away))) return false;
      this.#moves = moveCount();
    }
    if (this.#devices !== null) return this.#devices.fit(groups, plans, chosen);
    for (let g = 0; g < groups.length; g++) {
      if (plans[g]!.group !== groups[g] || plans[g]!.backend !== backendOf(groups[g] as Elementwise)) return false;
    }
    return true;
  }

  /** Builds all plans again. */
  #plan(): void {
    this.#forget();
    checkGroups(this.paramGroups);
    const written = new WrittenMemory(), state = stateOf(this), groups = this.paramGroups, moves = moveCount();
    const away = groups.some(({ params }) => params.some((p) => p.device !== "cpu"));
    const devices = away ? new DevicePlans(groups, this.#update, state, written) : null;
    if (away || moves > 0) followParameters(groups.flatMap(({ params }) => params), state);
    const plans = groups.map((group, g) => {
      const backend = devices === null ? chosen(group) : devices.backend(g, chosen);
      return new GroupPlan(devices?.host(g) ?? group, g, backend, this.#update, state, written);
    });
    written.check();
    this.#version = state.version;
    this.#moves = moves;
    this.#plans = plans;
    this.#devices = devices;
  }

  #threads(plans: readonly GroupPlan<ParamGroup<Options>>[]): number {
    for (const plan of plans) if (plan.backend !== jsBackend) return getNumThreads(); // throws before anything runs
    return 1;
  }

  /** The jobs of the plans that are fused. */
  #fused(plans: readonly GroupPlan<ParamGroup<Options>>[]): Job[] {
    const fused = this.#jobs;
    let count = 0;
    for (const plan of plans) {
      if (isFused(plan)) { for (const job of plan.jobs) fused[count++] = job; }
    }
    if (fused.length > count) fused.length = count; // an array that is emptied gives its memory away
    return fused;
  }

  #run(plans: readonly GroupPlan<ParamGroup<Options>>[]): void {
    const threads = this.#threads(plans), fused = this.#fused(plans);
    for (const plan of plans) {
      if (!isFused(plan)) plan.backend.run(plan.jobs, threads);
    }
    this.#runSparse(plans, fused, threads);
    if (fused.length > 0) bestBackend().run(fused, threads);
  }

  /** Runs the jobs of sparse gradients; those that are fused join others that are. */
  #runSparse(plans: readonly GroupPlan<ParamGroup<Options>>[], fused: Job[], threads: number): void {
    for (const plan of plans) {
      if (plan.sparseJobs.length === 0) continue;
      if (isFused(plan)) { for (const job of plan.sparseJobs) fused.push(job); }
      else plan.backend.run(plan.sparseJobs, threads);
    }
  }

  /**
   * Finds the norm of all gradients, and runs the plans if it is finite: in one call where all are fused and no gradient is
   * sparse. The entries of sparse gradients are multiplied before those of a row are added up.
   *
   * @param numbers those of {@linkcode Backend.step}
   * @returns the plans, as they have run
   */
  #runClipped(
    plans: GroupPlan<ParamGroup<Options>>[],
    numbers: Float64Array,
  ): GroupPlan<ParamGroup<Options>>[] {
    const threads = this.#threads(plans);
    let sparse = false, allFused = true;
    for (const plan of plans) {
      sparse ||= plan.sparseJobs.length > 0;
      allFused &&= isFused(plan);
    }
    if (!sparse && this.#devices === null && (allFused || plans.length === 1)) {
      const backend = allFused ? bestBackend() : plans[0]!.backend,
        jobs = allFused ? this.#fused(plans) : plans[0]!.jobs;
      backend.step(jobs, MEASURE | UPDATE, numbers, threads);
      return plans;
    }
    return this.#runParts(plans, allFused, sparse, numbers, threads);
  }

  /** The same, where one call cannot do it. */
  #runParts(
    plans: GroupPlan<ParamGroup<Options>>[],
    allFused: boolean,
    sparse: boolean,
    numbers: Float64Array,
    threads: number,
  ): GroupPlan<ParamGroup<Options>>[] {
    const parts = allFused ? [{ backend: bestBackend(), jobs: this.#fused(plans) }] : plans;
    let more = 0;
    if (this.#devices !== null) {
      this.#devices.measure(numbers, plans.map(({ backend }) => backend), threads);
      for (const plan of plans) plan.bindGradients(); // their buffers have been read
    } else for (const { backend, jobs } of parts) backend.step(jobs, MEASURE, numbers, threads);
    for (const plan of plans) for (const squares of plan.sparseSquares()) more += squares;
    judge(numbers, more);
    const coefficient = numbers[STEP_COEFFICIENT]!;
    if (!Number.isFinite(numbers[STEP_NORM]!)) return plans;
    if (sparse && coefficient !== 1) {
      this.#rollback();
      plans = this.#prepare([numbers[STEP_UNSCALE]!, coefficient]);
    }
    this.#devices?.launch(numbers[STEP_UNSCALE]!, coefficient);
    const fused = this.#fused(plans);
    for (const plan of plans) {
      if (!isFused(plan)) plan.backend.step(plan.jobs, UPDATE, numbers, threads);
    }
    if (fused.length > 0) bestBackend().step(fused, UPDATE, numbers, threads);
    fused.length = 0;
    this.#runSparse(plans, fused, threads);
    if (fused.length > 0) bestBackend().run(fused, threads);
    return plans;
  }

  /** A parameter's state from a state dict's entry: the rule's tensors, copied and cast, and its numbers. */
  protected override readState(entry: Readonly<Record<string, unknown>>, p: Parameter, where: string): ParameterState {
    const { scalars, rule, sparse, freshFlags } = this.#update;
    const known = rule.buffers.slice(2).map((buffer) => buffer.split(":")[0]!);
    const state: ParameterState = {};
    for (const [key, value] of Object.entries(entry)) {
      if (scalars.includes(key)) {
        if (typeof value !== "number") throw new StateDictError(`${where}.${key} must be a number, got ${show(value)}`);
        if (key === "step" && !(value >= 0 && value < Infinity)) {
          throw new StateDictError(`${where}.step must be >= 0 and finite, got ${show(value)}`);
        }
        state[key] = value;
      } else if (known.includes(key)) {
        // none yet: older versions of torch save it for momentum 0
        if (value === null && freshFlags !== 0) continue;
        state[key] = sparse?.sparseState && isSparseEntry(value)
          ? readSparse(value, p, `${where}.${key}`)
          : readTensor(value, { data: likeOf(p), dtype: p.dtype, size: p.size }, `${where}.${key}`);
      } else {
        const names = [...scalars, ...known].join(", ");
        throw new StateDictError(`${where}.${key} is no state of ${this.#update.name}; it has ${names}`);
      }
    }
    for (const key of scalars) {
      if (!(key in state)) {
        throw new StateDictError(`${where} must have ${key}, got ${Object.keys(state).join(", ") || "nothing"}`);
      }
    }
    return state;
  }
}
