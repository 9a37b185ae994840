/**
 * What users do between steps and in them, by chance, and the optimizers that it is done to.
 *
 * @module
 */

import { Parameter, type ParameterState, SparseTensor, type StepOptions, type TypedArray } from "../../mod.ts";
import { DTYPES, isTypedArray } from "../../src/dtype.ts";
import type { AnyOptimizer, Row } from "./classes.ts";
import { hashNumbers, typed } from "./golden.ts";

const FOR_LOOP = { foreach: false, fused: false };

type Optimizer = InstanceType<AnyOptimizer>;
export type Role = "plain" | "compiled" | "rebuilt" | "spared";

/** A source of numbers that are the same for the same seed. */
export class Dice {
  #at = 0;
  #numbers: Float64Array;
  constructor(readonly seed: number) {
    this.#numbers = hashNumbers(seed, 256, 1);
  }
  /** An integer >= 0 and < n. */
  below(n: number): number {
    const x = (this.#numbers[this.#at++ % 256]! + 1) / 2; // [0, 1)
    return Math.min(n - 1, Math.floor(x * n));
  }
  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

/** Values for options: good ones and bad ones; an option that a class does not have is left alone. */
const OPTIONS: Readonly<Record<string, readonly unknown[]>> = {
  lr: [0, -0, 0.1, 0.1 + 0.2, 3, Infinity, -1, NaN, "1"],
  weightDecay: [0, 0.1, -1, null],
  betas: [[0.9, 0.999], [0, 0.5], [0.9, 1], [0.9]],
  maximize: [true, false, 1],
  amsgrad: [true, false],
  momentum: [0, 0.9, -1],
  centered: [true, false],
  nesterov: [true, false],
};

const finite = (dice: Dice, p: Parameter, i: number) => typed(hashNumbers(dice.seed + i, p.size, 2), p.dtype);

/** An optimizer that things are done to. */
export class Subject {
  readonly params: Parameter[] = [];
  optimizer: Optimizer;
  held: ParameterState | undefined = undefined;
  #hook: (() => void) | null = null;
  #handle: { remove(): void } | null = null;

  constructor(readonly role: Role, readonly row: Row, readonly options: Record<string, unknown>, seed: number) {
    const dice = new Dice(seed), groups = Array.from({ length: 1 + dice.below(3) }, () => ({ params: this.add(dice) }));
    const mode = role === "compiled" ? {} : FOR_LOOP;
    this.options = { ...options, ...mode };
    this.optimizer = new row.make(groups, this.options);
  }

  /** New parameters, some in one piece of memory. */
  add(dice: Dice): Parameter[] {
    const block = new ArrayBuffer(16 * 200), mixed = dice.below(3) === 0, made: Parameter[] = [];
    for (let i = 0, count = 1 + dice.below(12); i < count; i++) {
      const n = dice.of([0, 1, 2, 3, 5, 8, 13]), dtype = mixed ? dice.of(DTYPES) : "float32";
      let data = typed(hashNumbers(dice.seed + i, n, 2), dtype);
      if (dice.below(3) === 0) { // in steps of 13 * 8 bytes
        const View = data.constructor as new (buffer: ArrayBuffer, at: number, n: number) => TypedArray;
        const view = new View(block, i * 104, n);
        view.set(data as Float32Array);
        data = view;
      }
      made.push(new Parameter(data, { dtype }));
    }
    this.params.push(...made);
    return made;
  }

  /** Another optimizer takes the place of this one: over the same groups and entries, with no memory of any step. */
  rebuild(): void {
    const { paramGroups } = this.optimizer, entries = [...this.optimizer.state];
    this.optimizer = new this.row.make([new Float32Array(1)], this.options);
    this.optimizer.paramGroups = paramGroups;
    this.optimizer.state.clear();
    for (const [p, entry] of entries) this.optimizer.state.set(p, entry);
    this.hook(this.#hook);
  }

  get hooked(): boolean {
    return this.#hook !== null;
  }
  hook(hook: (() => void) | null): void {
    this.#hook = hook;
    this.#handle?.remove();
    this.#handle = hook === null ? null : this.optimizer.registerStepPreHook(hook);
  }
}

export interface Action {
  readonly label: string;
  /** Whether it is a step, and nothing else. */
  readonly step?: boolean;
  readonly only?: readonly Role[];
  run(subject: Subject): unknown;
}

/** Gives gradients: other arrays, the same with other numbers, none; at times one that is not finite, or one that is wrong. */
export function gradients(dice: Dice, sparse: boolean, only?: string): Action {
  const kind = only ?? dice.of(["new", "new", "some", "in place", "shared", "wrong", "overlap", "not finite"]),
    at = dice.below(1000);
  return {
    label: `gradients: ${kind}`,
    run({ optimizer }) {
      const params = optimizer.paramGroups.flatMap((group) => group.params), special = at % params.length;
      params.forEach((p, i) => {
        const numbers = finite(dice, p, i), roll = (i * 7 + at) % 10;
        if (kind === "some" && roll < 4) {
          if (roll === 0) p.grad = null;
          return;
        }
        if (sparse) {
          const row = p.size === 0 ? [] : [roll % p.size];
          p.grad = new SparseTensor([row], numbers.slice(0, row.length), p.shape, { dtype: p.dtype });
        } else if (kind === "in place" && isTypedArray(p.grad) && p.grad.length === p.size) {
          p.grad.set(numbers as Float32Array);
        } else p.grad = numbers;
        if (i !== special || p.size === 0 || sparse) return;
        const other = params.find((q) => q !== p && q.dtype === p.dtype && q.size === p.size);
        if (kind === "shared" && isTypedArray(other?.grad)) p.grad = other.grad;
        if (kind === "wrong") p.grad = at % 2 === 0 ? numbers.slice(1) : new Int8Array(p.size) as never;
        if (kind === "overlap") p.grad = (other ?? p).data;
        if (kind === "not finite" && !(numbers instanceof Uint16Array)) numbers[0] = NaN;
      });
    },
  };
}

const STEPS: readonly (StepOptions | null)[] = [null, null, null, { maxGradNorm: 0.5 }, { gradScale: 3 }, {
  maxGradNorm: 0,
}];

export function step(dice: Dice, given?: StepOptions): Action {
  const options = given ?? dice.of(STEPS);
  const kind = given ? "plain" : dice.of(["plain", "plain", "plain", "closure", "throws", "again"]);
  return {
    label: `step ${kind} ${JSON.stringify(options)}`,
    step: kind === "plain",
    run({ optimizer }) {
      if (kind === "plain") return options === null ? optimizer.step() : optimizer.step(null, options);
      return optimizer.step(() => {
        if (kind === "throws") throw new Error("the closure");
        if (kind === "again") optimizer.step();
        return dice.seed;
      }, options ?? {});
    },
  };
}

type Change = (subject: Subject, at: number, dice: Dice) => unknown;
const entryOf = ({ optimizer, params }: Subject, at: number) => optimizer.state.get(params[at % params.length]!);
const setCount = (entry: ParameterState | undefined, count: unknown): void => {
  if (entry !== undefined && "step" in entry) entry["step"] = count as number;
};

/** What is done between steps, but for gradients and options. */
const CHANGES: Readonly<Record<string, Change>> = {
  add: (subject, _, dice) => subject.optimizer.addParamGroup({ params: subject.add(new Dice(dice.seed)) }),
  reload: ({ optimizer }) => optimizer.loadStateDict(structuredClone(optimizer.stateDict())),
  look: ({ optimizer }) => optimizer.state.size,
  number: (subject, at) => setCount(entryOf(subject, at), [0, 3, 50, 1.5, NaN, undefined][at % 6]),
  tensor: (subject, at) => {
    const entry = entryOf(subject, at) ?? {};
    for (const [key, x] of Object.entries(entry)) if (isTypedArray(x)) entry[key] = x.slice();
  },
  delete: ({ optimizer, params }, at) => optimizer.state.delete(params[at % params.length]!),
  clear: ({ optimizer }) => optimizer.state.clear(),
  set: (subject, at) => {
    const { optimizer, params } = subject, entry = entryOf(subject, at);
    if (entry !== undefined) optimizer.state.set(params[at % params.length]!, { ...entry });
  },
  hold: (subject, at) => void (subject.held = entryOf(subject, at)),
  "let go": ({ held }) => setCount(held, 5), // long after it was got
  hook: (subject, at) => {
    let calls = 0;
    subject.hook(() => {
      const call = calls++;
      if (at % 5 === 0 && call % 2 === 1) throw new Error("the hook");
      if (at % 3 === 0) subject.optimizer.paramGroups[0]!["lr"] = 0.01 * (1 + call);
      if (at % 2 === 1) setCount(entryOf(subject, at), 2 * call);
    });
  },
  unhook: (subject) => subject.hook(null),
  groups: ({ optimizer: { paramGroups: groups } }, at) => {
    const group = groups[at % groups.length]!;
    if (at % 3 === 0) groups.reverse();
    else if (at % 3 === 1) group.params = [...group.params];
    else group.params.reverse();
  },
  data: ({ params }, at) => {
    const p = params[at % params.length]!;
    p.data = p.data.slice();
  },
  zeroGrad: ({ optimizer }, at) => optimizer.zeroGrad({ setToNull: at % 2 === 0 }),
};

export function another(dice: Dice): Action {
  const name = dice.of(Object.keys(CHANGES)), at = dice.below(1000);
  const only: readonly Role[] = dice.of([["plain"], ["compiled", "spared"]]);
  return { label: `${name} ${at}`, ...(name === "look" ? { only } : {}), run: (s) => void CHANGES[name]!(s, at, dice) };
}

export function setOption(dice: Dice, key = dice.of(Object.keys(OPTIONS)), value = dice.of(OPTIONS[key]!)): Action {
  const at = dice.below(10);
  return {
    label: `${key} = ${String(value)}`,
    run({ optimizer: { paramGroups: groups } }) {
      const group = groups[at % groups.length]!;
      if (!(key in group)) return;
      if (!Array.isArray(value)) group[key] = value;
      else if (at % 2 === 0) group[key] = [...value];
      else Object.assign(group[key] as unknown[], value); // the same array
    },
  };
}
