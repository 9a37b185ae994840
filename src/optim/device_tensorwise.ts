/**
 * Steps of rules that look at whole tensors, for parameters on a device: one list of kernels for each dtype.
 *
 * What can fail (memory, uploads, kernels that have to be compiled) comes before the first kernel that writes. The memory that sums and
 * iterations take is kept from step to step.
 *
 * @module
 */

import type { TensorRule, TensorShape } from "../../ffi/backend.ts";
import type { Device } from "../../ffi/cuda_driver.ts";
import { BLOCK, TensorPlan } from "../../ffi/cuda_tensors.ts";
import { atLeast, DeviceArray, foreignArray, releaseArray } from "../cuda/device_array.ts";
import { Staging } from "../cuda/staging.ts";
import { bytesOf, type DType, type TypedArray } from "../dtype.ts";
import { DeviceRows } from "../foreach_device.ts";
import { MUL_RULE, SCALE_RULE } from "../foreach_rules.ts";

/** A parameter of a step. */
export interface DeviceTensor {
  readonly shape: TensorShape;
  /** The parameter's numbers, then its state's. */
  readonly buffers: readonly DeviceArray[];
  /** In the host's memory, or on the device. */
  readonly grad: TypedArray | DeviceArray;
  readonly hypers: readonly number[];
}

const sameShape = (a: TensorShape, b: TensorShape | undefined): boolean =>
  a.batches === b?.batches && a.rows === b.rows && a.columns === b.columns;

/** A kernel that is ready to be queued. */
interface Ready {
  readonly kernel: bigint;
  readonly parameter: Uint8Array;
  readonly threads: number;
}

/** The tensors of one dtype on one device. */
export class DeviceTensors {
  #plan: TensorPlan | null = null;
  /** The plan's memory: tables, and room for what kernels leave for each other. */
  #memory: DeviceArray | null = null;
  /** Gradients of the host's, and gradients that have been multiplied. */
  readonly #staging: Staging;
  #tensors: readonly DeviceTensor[] = [];
  #grads: DeviceArray[] = [];
  /** Room for each gradient's products; null: the gradient itself is our own. */
  #products: (DeviceArray | null)[] = [];
  /** What multiplies and measures gradients; kept until the next step, as kernels may still read its tables. */
  #rows: DeviceRows[] = [];
  #launches: readonly Ready[] = [];

  constructor(readonly device: Device, readonly rule: TensorRule, readonly dtype: DType) {
    this.#staging = new Staging(device);
  }

  /**
   * Uploads gradients and makes room; changes nothing that anyone can see.
   *
   * @param scaling whether the gradients may have to be multiplied
   */
  prepare(tensors: readonly DeviceTensor[], scaling: boolean): void {
    const { device, rule, dtype } = this;
    for (const rows of this.#rows) rows.dispose();
    this.#rows = [];
    this.#launches = [];
    this.#tensors = tensors;
    const known = this.#plan?.shapes;
    if (known?.length !== tensors.length || !tensors.every(({ shape }, i) => sameShape(shape, known[i]))) {
      this.#plan = null; // not kept where its lists cannot be uploaded
      const plan = new TensorPlan(rule, dtype, tensors.map(({ shape }) => shape));
      this.#memory = atLeast(this.#memory, device, plan.bytes);
      device.upload(this.#memory.address + BigInt(plan.listsAt), plan.lists());
      this.#plan = plan;
    }
    this.#upload(scaling);
  }

  /** Puts gradients of the host's in their places, and makes room for the products of others. */
  #upload(scaling: boolean): void {
    const { device, dtype } = this, staging = this.#staging, size = bytesOf(dtype);
    const isHere = ({ grad }: DeviceTensor) => !(grad instanceof DeviceArray);
    staging.lay(this.#tensors.map((tensor) => isHere(tensor) || scaling ? tensor.grad.length * size : 0));
    const own = (i: number, length: number) => foreignArray(device, staging.address(i), dtype, length, staging.memory!);
    this.#products = this.#tensors.map((tensor, i) => !isHere(tensor) && scaling ? own(i, tensor.grad.length) : null);
    this.#grads = this.#tensors.map(({ grad }, i) => {
      if (grad instanceof DeviceArray) return grad;
      staging.put(i, dtype, grad);
      return own(i, grad.length);
    });
    staging.flush();
  }

  /** The sum of the squares of each gradient, multiplied by a number first. Waits for them. */
  squares(unscale: number): number[] {
    return this.#rowsOf(this.#grads.map((grad) => [grad]), 1).reduce("sumSq", unscale);
  }

  /** A rule over some gradients, ready: `[self]` is multiplied in place, `[out, x]` is out = x factor. */
  #rowsOf(tensors: readonly (readonly DeviceArray[])[], factor: number): DeviceRows {
    const rule = tensors[0]?.length === 2 ? SCALE_RULE : MUL_RULE;
    const rows = new DeviceRows(rule, 0, tensors, Float64Array.of(factor));
    this.#rows.push(rows);
    rows.prepare();
    return rows;
  }

  /** Multiplies the gradients by numbers, rounded each time, and makes the kernels ready. Only memory of our own is written. */
  ready(factors: readonly number[]): void {
    const { device } = this, grads = [...this.#grads];
    for (const factor of factors) {
      if (factor === 1) continue;
      const given = grads.flatMap((grad, i) => {
        const product = this.#products[i]!;
        return product !== null && grad !== product ? [[product, grad]] : [];
      });
      const own = grads.filter((grad, i) => this.#products[i] === null || grad === this.#products[i]);
      if (given.length > 0) this.#rowsOf(given, factor).launch();
      if (own.length > 0) this.#rowsOf(own.map((grad) => [grad]), factor).launch();
      grads.forEach((grad, i) => grads[i] = this.#products[i] ?? grad);
    }
    const plan = this.#plan!, base = this.#memory!.address, width = this.rule.hypers.length;
    const hypers = new Float64Array(this.#tensors.length * width);
    this.#tensors.forEach((tensor, i) => hypers.set(tensor.hypers, i * width));
    const addresses = this.#tensors.map(({ buffers: [param, ...state] }, i) =>
      [param!, grads[i]!, ...state].map(({ address }) => address)
    );
    device.upload(base, plan.table(base, addresses, hypers));
    this.#launches = plan.launches(base, hypers).map(({ kernel, parameter, grid }) => ({
      kernel: device.kernel(kernel),
      parameter,
      threads: grid * BLOCK,
    }));
  }

  /** Queues the step. */
  launch(): void {
    this.#launches.forEach(({ kernel, parameter, threads }, i) => {
      try {
        this.device.launch(kernel, parameter, threads);
      } catch (error) {
        if (i > 0 && error instanceof Error) error.message += `; the step of ${this.dtype} parameters there had begun`;
        throw error;
      }
    });
  }

  /** Gives back what it has on the device. */
  dispose(): void {
    for (const rows of this.#rows) rows.dispose();
    if (this.#memory !== null) releaseArray(this.#memory);
    this.#staging.dispose();
    this.#rows = [];
    this.#plan = this.#memory = null;
    this.#tensors = this.#grads = this.#products = [];
    this.#launches = [];
  }
}
