/**
 * What the tests of memory are made of: two optimizers, of which one has strange things done to it, and the other tells what must
 * come out.
 *
 * @module
 */

import { test } from "node:test";
import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import { AdamW, type AdamWOptions, backend, type DType, Parameter, type ParamGroup } from "../../mod.ts";
import type { ParameterState, TypedArray } from "../../mod.ts";
import { assertSameBits } from "./bits.ts";
import { hashNumbers, typed } from "./golden.ts";

/** How steps are run: torch's two switches. */
export interface Mode {
  readonly foreach: boolean;
  readonly fused: boolean;
}

/** In TypeScript: what the others are compared with. */
export const FOR_LOOP: Mode = { foreach: false, fused: false };
const MODES: Readonly<Record<string, Mode>> = {
  "for-loop": FOR_LOOP,
  foreach: { foreach: true, fused: false },
  fused: { foreach: false, fused: true },
};

/** A test in each implementation that there is. */
export function inEachMode(name: string, body: (mode: Mode) => void | Promise<void>): void {
  for (const [key, mode] of Object.entries(MODES)) {
    test(`${name} (${key})`, { timeout: 60_000 }, () => {
      if (mode !== FOR_LOOP && backend().name === "js") {
        console.log(`skipped: there is no compiled code: ${backend().why}`);
        return;
      }
      return body(mode);
    });
  }
}

/** A parameter's gradient: a dense one, in these tests. */
export const gradOf = (p: Parameter): TypedArray => p.grad as TypedArray;

/** Numbers that are different for each seed. */
export const values = (seed: number, n: number): Float64Array => hashNumbers(seed, n, 2);

/** A Parameter of such numbers in an array of its own. */
export function parameter(seed: number, n: number, dtype: DType = "float32", name?: string): Parameter {
  return new Parameter(typed(values(seed, n), dtype), { dtype, ...(name === undefined ? {} : { name }) });
}

/** Another array of the same numbers. */
export const copied = (array: TypedArray): TypedArray => array.slice();

/** Sets a field to something that its type does not allow. */
export function force(target: object, key: string, value: unknown): void {
  (target as Record<string, unknown>)[key] = value;
}

/** Moves a buffer's memory to another owner, so that its views have no elements any more. */
export const detach = (array: { readonly buffer: ArrayBufferLike }): ArrayBuffer =>
  (array.buffer as ArrayBuffer).transfer();

/** The sizes of the parameters of a {@linkcode Twin}: two groups of them. */
export const SIZES: readonly (readonly number[])[] = [[7, 1000, 300], [1001, 12]];
/** What both optimizers of a {@linkcode Twin} are made with. */
export const OPTIONS: AdamWOptions = { lr: 0.05, weightDecay: 0.1, amsgrad: true };

/**
 * Two optimizers: one that a test does strange things to, and one (in TypeScript, over arrays that nobody else touches)
 * that tells what must come out.
 */
export class Twin {
  readonly optimizer: AdamW;
  readonly params: Parameter[];
  readonly reference: AdamW;
  readonly copies: Parameter[];
  #step = 0;

  constructor(mode: Mode, { data, dtype = "float32" }: { data?: readonly TypedArray[]; dtype?: DType } = {}) {
    const make = (own: boolean) => {
      const params: Parameter[] = [];
      const groups = SIZES.map((sizes, g) => ({
        params: sizes.map((n) => {
          const i = params.length, given = own ? undefined : data?.[i];
          const array = given ?? typed(values(i, n), dtype);
          params.push(new Parameter(array, { dtype, name: `w${i}` }));
          return params[i]!;
        }),
        ...(g === 1 ? { lr: 0.01, amsgrad: false } : {}),
      }));
      return { params, groups };
    };
    const strange = make(false), plain = make(true);
    this.params = strange.params;
    this.copies = plain.params;
    this.optimizer = new AdamW(strange.groups, { ...OPTIONS, ...mode });
    this.reference = new AdamW(plain.groups, { ...OPTIONS, ...FOR_LOOP });
  }

  /** New gradients for the next step, in new arrays. */
  grads(): void {
    const seed = 100 * ++this.#step;
    for (const params of [this.params, this.copies]) {
      params.forEach((p, i) => p.grad = typed(values(seed + i, p.size), p.dtype));
    }
  }

  /** Steps both. */
  step(): void {
    this.optimizer.step();
    this.reference.step();
  }

  /** New gradients, a step, and a look at the results. */
  run(steps = 1): void {
    for (let i = 0; i < steps; i++) {
      this.grads();
      this.step();
      this.check();
    }
  }

  state(i: number): ParameterState {
    return this.optimizer.state.get(this.params[i]!)!;
  }

  /** Throws unless parameters and state have the same bits. */
  check(): void {
    assertEquals(this.optimizer.state.size, this.reference.state.size);
    this.params.forEach((p, i) => {
      const copy = this.copies[i]!;
      assertSameBits(p.data, copy.data, p.dtype, `data of w${i}`);
      const state = this.optimizer.state.get(p), expected = this.reference.state.get(copy);
      assertEquals(Object.keys(state ?? {}), Object.keys(expected ?? {}));
      for (const [key, value] of Object.entries(expected ?? {})) {
        const actual = state![key]!;
        if (typeof value === "number") assertStrictEquals(actual, value, `${key} of w${i}`);
        else assertSameBits(actual as TypedArray, value as TypedArray, p.dtype, `${key} of w${i}`);
      }
    });
  }
}

/** An array's bytes; none where its memory is gone. */
export function bytesOfView({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return byteLength === 0 ? new Uint8Array() : new Uint8Array(buffer, byteOffset, byteLength);
}

/** Everything that a failed step may not change: which arrays there are, and every byte of them. */
export function capture(twin: Twin): () => void {
  const checks: (() => void)[] = [];
  const same = (what: string, read: () => unknown) => {
    const before = read();
    checks.push(() => assert(Object.is(read(), before), `${what} is another one`));
    if (!ArrayBuffer.isView(before)) return;
    const bytes = bytesOfView(before).slice();
    checks.push(() => assertEquals(bytesOfView(before), bytes, `${what} has changed`));
  };
  const { optimizer } = twin;
  twin.params.forEach((p, i) => {
    same(`data of w${i}`, () => p.data);
    same(`grad of w${i}`, () => p.grad);
    same(`state of w${i}`, () => optimizer.state.get(p));
    for (const key of Object.keys(optimizer.state.get(p) ?? {})) {
      same(`${key} of w${i}`, () => optimizer.state.get(p)?.[key]);
    }
  });
  const entries = () => [...optimizer.state].map(([p, state]) => [p.name, Object.keys(state)]);
  const before = entries();
  checks.push(() => assertEquals(entries(), before));
  const groups = optimizer.paramGroups.map((group) => ({ ...group, params: [...group.params] }));
  checks.push(() => {
    assertEquals(optimizer.paramGroups.length, groups.length);
    optimizer.paramGroups.forEach((group, g) => {
      const { params, ...options } = group, { params: before, ...optionsBefore } = groups[g]!;
      assertEquals(options, optionsBefore);
      assert(params.length === before.length && params.every((p, i) => p === before[i]), "other parameters");
    });
  });
  return () => checks.forEach((check) => check());
}

/** Replaces a field, and puts it back. */
export function swap<Target extends object>(target: Target, key: keyof Target & string, value: unknown): () => void {
  const had = key in target, before = target[key];
  force(target, key, value);
  return () => {
    if (had) target[key] = before;
    else delete target[key];
  };
}

/** A view of a parameter's elements in the middle of other memory, filled with them. */
export function inside<Buffer extends ArrayBufferLike>(buffer: Buffer, p: Parameter, offset = 64): TypedArray {
  const View = p.data.constructor as new (buffer: Buffer, offset: number, length?: number) => TypedArray;
  const view = new View(buffer, offset, p.size);
  view.set(p.data as Float32Array);
  return view;
}

/** A group of the optimizer that strange things are done to. */
export const group = (twin: Twin, g: number): ParamGroup<AdamWOptions> => twin.optimizer.paramGroups[g]!;
