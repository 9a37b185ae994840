/**
 * The parts of an optimizer's groups that are on devices, and what is left of them in the host's memory.
 *
 * @module
 */

import { type Backend, STEP_SUMS, STEP_UNSCALE } from "../../ffi/backend.ts";
import { jsBackend } from "../../ffi/js.ts";
import { deviceOf } from "../cuda/device_array.ts";
import { allocate, DTYPES } from "../dtype.ts";
import type { WrittenMemory } from "../memory.ts";
import type { Parameter } from "../parameter.ts";
import { SparseTensor } from "../sparse_tensor.ts";
import { DevicePlan } from "./device_plan.ts";
import { scaleArrays } from "./scaling.ts";
import type { StateMap } from "./state_dict.ts";
import type { Update } from "./update.ts";

interface Grouped {
  params: Parameter[];
}

/** A group, as it was when plans were made for it. */
interface Seen<Group> {
  readonly group: Group;
  readonly params: readonly Parameter[];
  readonly copy: readonly Parameter[];
  /** What a plan for the host's memory is for: the group itself, or what looks like it and has only the parameters that are there. */
  readonly host: Group;
  readonly hosts: number;
}

/** The plans for parameters on devices. */
export class DevicePlans<Group extends Grouped> {
  readonly #seen: readonly Seen<Group>[];
  readonly #plans: readonly DevicePlan<Group>[];

  /** Plans for all parameters that are on a device. Nothing is allocated yet. */
  constructor(groups: readonly Group[], update: Update<Group>, state: StateMap, written: WrittenMemory) {
    this.#seen = groups.map((group) => {
      const { params } = group, places = [...params.keys()].filter((i) => params[i]!.device === "cpu");
      const host = places.length === params.length ? group : Object.create(group, {
        params: { value: places.map((i) => params[i]!) },
        places: { value: places },
      }) as Group;
      return { group, params, copy: [...params], host, hosts: places.length };
    });
    this.#plans = groups.flatMap((group, g) => {
      const arrays = group.params.map((p) => p.deviceArray).filter((array) => array !== null);
      const devices = new Set(arrays.map(deviceOf));
      return [...devices].map((device) => new DevicePlan(group, g, device, update, state, written));
    });
  }

  /** What the plan of a group's parameters in the host's memory is for. */
  host(g: number): Group {
    return this.#seen[g]!.host;
  }

  /** What runs a group's parameters in the host's memory, where `choose` is for groups that have some. */
  backend(g: number, choose: (group: Group) => Backend): Backend {
    const { group, hosts } = this.#seen[g]!;
    return hosts > 0 ? choose(group) : jsBackend; // it has nothing to do
  }

  /** Whether the plans are for these groups. */
  fit(
    groups: readonly Group[],
    plans: readonly { readonly backend: Backend }[],
    choose: (group: Group) => Backend,
  ): boolean {
    return this.#seen.length === groups.length &&
      this.#seen.every(({ group, params, copy }, g) =>
        group === groups[g] && params === group.params && params.length === copy.length &&
        copy.every((p, i) => params[i] === p) && plans[g]!.backend === this.backend(g, choose)
      );
  }

  /** Whether the host's parameters are still there; those on devices are looked at in each step. */
  stay(): boolean {
    return this.#seen.every(({ host }) => host.params.every((p) => p.deviceArray === null));
  }

  /** Looks at every array and makes everything ready to launch; false if the plans are stale. */
  prepare(): boolean {
    return this.#plans.every((plan) => plan.prepare());
  }

  /** Whether state that was there already has been bound since gradients were last checked. */
  get stateAdded(): boolean {
    return this.#plans.some((plan) => plan.stateAdded);
  }

  /** Whether state has been made that no step has used yet. */
  get madeState(): boolean {
    return this.#plans.some((plan) => plan.madeState);
  }

  /** Throws if a gradient shares memory with anything that is written. */
  checkGradients(): void {
    for (const plan of this.#plans) {
      plan.checkGradients();
      plan.stateAdded = false;
    }
  }

  /**
   * Adds the squares of all dense gradients to a step's sums: by dtype, group and parameter, wherever they are, so that the norm does not
   * depend on that.
   */
  measure(numbers: Float64Array, backends: readonly Backend[], threads: number): void {
    const unscale = numbers[STEP_UNSCALE]!;
    const found = this.#plans.map((plan) => ({ index: plan.index, squares: plan.squares(unscale) }));
    this.#seen.forEach(({ params }, g) => {
      params.forEach((p, i) => {
        const { grad, dtype } = p, at = STEP_SUMS + DTYPES.indexOf(dtype);
        if (grad === null || grad === undefined || grad instanceof SparseTensor) return;
        if (p.device !== "cpu") {
          numbers[at]! += found.find(({ index, squares }) => index === g && squares.has(i))!.squares.get(i)!;
          return;
        }
        const backend = backends[g]!, array = grad as Exclude<typeof grad, { device: string }>;
        const scaled = unscale === 1 ? array : allocate(dtype, array.length, array);
        if (scaled !== array) scaleArrays(backend, dtype, [array], [scaled], unscale);
        numbers[at]! += backend.reduce("sumSq", dtype, [scaled], null, threads)[0]!;
      });
    });
  }

  /** Queues the kernels, which multiply gradients by two numbers, one after the other. */
  launch(unscale: number, clip: number): void {
    for (const plan of this.#plans) plan.launch(unscale, clip);
  }

  /** The step has succeeded: writes what it has changed. */
  commit(): void {
    for (const plan of this.#plans) plan.commit(true);
  }

  /** The step has failed: writes what was queued before, and says so. */
  abandon(error: unknown): void {
    let count = 0, active = 0;
    for (const plan of this.#plans) {
      active += plan.active;
      count += plan.commit(false);
    }
    if (count === 0 || !(error instanceof Error)) return;
    error.message += `; ${count} of ${active} parameters on devices had been updated before, and their state with them`;
  }

  /** Gives back what the plans have on devices. */
  dispose(): void {
    for (const plan of this.#plans) plan.dispose();
  }
}
