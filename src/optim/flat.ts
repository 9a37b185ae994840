/**
 * A group's parameters as one vector, as quasi-Newton methods see them.
 *
 * @module
 */

import type { Backend, Numbers } from "../../ffi/backend.ts";
import { bestBackend, getNumThreads } from "../../ffi/load.ts";
import { holds } from "../dtype.ts";
import { WrittenMemory } from "../memory.ts";
import type { Parameter } from "../parameter.ts";
import { checkSparse, namedRows, rowLength, SparseTensor } from "../sparse_tensor.ts";
import { checkArray, refuseDevice } from "./checks.ts";
import { placeOf } from "./param_group.ts";

/** A parameter, and where its elements begin in the vector. */
interface Piece {
  readonly param: Parameter;
  readonly from: number;
  readonly to: number;
  readonly label: string;
}

/** What a gradient has added up: with a direction, and its largest magnitude (NaN if there is one). */
export interface Gathered {
  /** The sum of gradient and direction's products. */
  readonly slope: number;
  /** The largest magnitude. */
  readonly largest: number;
}

/** Parameters of one dtype, float32 or float64, behind each other. */
export class FlatParameters {
  /** Elements of all parameters. */
  readonly n: number;
  #backend: Backend | null = null;
  #threads = 1;
  readonly #pieces: readonly Piece[];
  readonly #wide: boolean;

  /** Looks at the parameters of a group; throws a TypeError where dtypes differ, or are of 16 bits. */
  constructor(owner: string, group: { readonly params: readonly Parameter[]; readonly paramNames?: string[] }) {
    const { params } = group;
    const dtype = params[0]?.dtype ?? "float32";
    params.forEach((param, i) => {
      const where = `params[${i}]`;
      if (param.dtype !== "float32" && param.dtype !== "float64") {
        throw new TypeError(`${owner} takes float32 and float64 parameters, got ${where} of ${param.dtype}`);
      }
      if (param.dtype !== dtype) {
        throw new TypeError(`${owner} takes parameters of one dtype, got ${where} of ${param.dtype} after ${dtype}`);
      }
    });
    let at = 0;
    this.#pieces = params.map((param, i) => {
      const from = at;
      at += param.size;
      return { param, from, to: at, label: placeOf(group, 0, i) };
    });
    this.n = at;
    this.#wide = dtype === "float64";
  }

  /** What runs passes over them; opened when it is asked for. */
  get backend(): Backend {
    if (this.#backend === null) {
      this.#backend = bestBackend();
      if (this.#backend.name !== "js") this.#threads = getNumThreads();
    }
    return this.#backend;
  }

  /** How many threads it may use. */
  get threads(): number {
    return this.backend && this.#threads;
  }

  /** A new vector of zeros. */
  vector(n: number = this.n): Numbers {
    return this.#wide ? new Float64Array(n) : new Float32Array(n);
  }

  /** Bytes of an element. */
  get bytes(): number {
    return this.#wide ? 8 : 4;
  }

  /** The unit roundoff's double: the distance from 1 to the next number. */
  get epsilon(): number {
    return this.#wide ? 2 ** -52 : 2 ** -23;
  }

  /** Throws unless every parameter's array is as it must be. Gives their memory. */
  check(): WrittenMemory {
    const written = new WrittenMemory();
    for (const { param, label } of this.#pieces) {
      refuseDevice(param, label, "LBFGS and BFGS");
      checkArray(param.data, param, () => `data of ${label}`);
      written.add(param.data, `data of ${label}`);
    }
    written.check();
    return written;
  }

  /** out = the parameters. */
  read(out: Numbers): void {
    for (const { param, from } of this.#pieces) out.set(param.data as Numbers, from);
  }

  /** Whether the parameters are x. */
  equals(x: Numbers): boolean {
    return this.#pieces.every(({ param, from }) => (param.data as Numbers).every((v, i) => v === x[from + i]));
  }

  /** The parameters = x: those whose arrays are as they must be, for a step may end because another one's is not. */
  write(x: Numbers): void {
    for (const { param, from, to } of this.#pieces) {
      const { data } = param;
      if (holds(data, param.dtype) && data.length === to - from) data.set(x.subarray(from, to));
    }
  }

  /** The parameters = x + t d. */
  move(x: Numbers, t: number, d: Numbers): void {
    this.check();
    const { backend, threads } = this;
    for (const { param, from, to } of this.#pieces) {
      backend.combine({
        n: to - from,
        x: x.subarray(from, to),
        y: d.subarray(from, to),
        z: null,
        out: param.data as Numbers,
        negate: false,
        a: t,
        c: null,
      }, threads);
    }
  }

  /**
   * out = the gradients: zeros where there is none, a sparse one with its zeros.
   *
   * @param negate whether to take their negative
   * @param d the direction for the slope; null: there is none yet
   */
  gather(out: Numbers, negate: boolean, d: Numbers | null): Gathered {
    const written = this.check(); // the closure may have done anything
    for (const { param, label } of this.#pieces) {
      const { grad } = param;
      if (grad === null || grad === undefined) continue;
      if (grad instanceof SparseTensor) {
        checkSparse(grad, param.shape, param.dtype, () => `grad of ${label}`);
      } else {
        checkArray(grad, param, () => `grad of ${label}`);
        written.checkRead(grad, () => `grad of ${label}`);
      }
    }
    let slope = 0, largest = 0;
    for (const { param, from, to, label } of this.#pieces) {
      const part = out.subarray(from, to), { grad } = param;
      if (grad === null || grad === undefined) {
        part.fill(0);
        continue;
      }
      if (grad instanceof SparseTensor) densify(part, grad, `grad of ${label}`);
      const z = d === null ? part : d.subarray(from, to);
      const x = grad instanceof SparseTensor ? part : grad as Numbers;
      const sums = this.backend.combine(
        { n: to - from, x, y: null, z, out: part, negate, a: 0, c: null },
        this.threads,
      );
      slope += sums.dot;
      if (!(sums.largest <= largest)) {
        largest = sums.largest !== sums.largest ? NaN : largest === largest ? sums.largest : NaN;
      }
    }
    return { slope: d === null ? 0 : slope, largest };
  }

  /** out = (±x + a y) c; the sum of out z, and the largest |out|. */
  combine(
    out: Numbers,
    x: Numbers,
    { y = null, a = 0, c = null, z = null, negate = false }: {
      y?: Numbers | null;
      a?: number;
      c?: number | null;
      z?: Numbers | null;
      negate?: boolean;
    },
  ): Gathered {
    const sums = this.backend.combine({ n: this.n, x, y, z, out, negate, a, c }, this.threads);
    return { slope: sums.dot, largest: sums.largest };
  }

  /** The sum of x y. */
  dot(x: Numbers, y: Numbers): number {
    return this.backend.reduce("dot", this.#wide ? "float64" : "float32", [x], [y], this.threads)[0]!;
  }

  /** The sum of |x|. */
  sumAbs(x: Numbers): number {
    return this.backend.reduce("sumAbs", this.#wide ? "float64" : "float32", [x], null, this.threads)[0]!;
  }
}

/** A sparse tensor with its zeros; entries of one index are added up in order. */
function densify(out: Numbers, tensor: SparseTensor, label: string): void {
  const length = rowLength(tensor), { rows } = namedRows(tensor, label), { values } = tensor.coalesce();
  out.fill(0);
  rows.forEach((row, k) => out.set(values.subarray(k * length, (k + 1) * length) as Numbers, row * length));
}
