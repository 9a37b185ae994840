/** LBFGS, BFGS, averages, foreach.* and clipping over memory that moves, shrinks, goes away, or is not what it says. */

import { test } from "node:test";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  AveragedModel,
  BFGS,
  clipGradNorm,
  clipGradValue,
  foreach,
  LBFGS,
  Parameter,
  type TypedArray,
} from "../mod.ts";
import { bytesOf, DTYPES } from "../src/dtype.ts";
import { guarded, lying } from "./support/arrays.ts";
import { assertSameBits } from "./support/bits.ts";
import { typed } from "./support/golden.ts";
import { collector } from "./support/garbage.ts";
import { copied, detach, parameter, values } from "./support/twin.ts";

const LIMIT = { timeout: 60_000 };
const QUASI_NEWTON = {
  LBFGS: (params: Parameter[]) => new LBFGS(params, { lineSearchFn: "strong_wolfe", maxIter: 4 }),
  BFGS: (params: Parameter[]) => new BFGS(params, { lineSearchFn: "hager_zhang", maxIter: 4 }),
};

/** A convex function of two tensors: writes the gradients into new arrays, and gives the loss. */
function bowl(params: readonly Parameter[]): number {
  let loss = 0;
  for (const p of params) {
    const grad = new Float64Array(p.size);
    p.data.forEach((x, i) => {
      const weight = 1 + i % 5, d = x - Math.sin(i);
      grad[i] = weight * d;
      loss += weight * d * d / 2;
    });
    p.grad = grad;
  }
  return loss;
}

const two = () => [new Parameter(values(1, 40)), new Parameter(values(2, 7))];

for (const [name, make] of Object.entries(QUASI_NEWTON)) {
  test(
    `${name} goes on in the array that the closure puts in the place of the data, and leaves the old one alone`,
    LIMIT,
    () => {
      const params = two(), expected = two(), optimizer = make(params), reference = make(expected);
      const old: [TypedArray, TypedArray][] = [];
      for (let step = 0; step < 3; step++) {
        optimizer.step(() => {
          const p = params[0]!, loss = bowl(params);
          p.data = copied(p.data);
          old.push([p.data, copied(p.data)]);
          p.data = copied(p.data);
          return loss;
        });
        reference.step(() => bowl(expected));
        params.forEach((p, i) => assertSameBits(p.data, expected[i]!.data, "float64", `params[${i}], step ${step}`));
      }
      for (const [array, before] of old) assertSameBits(array, before, "float64", "an array that was in between");
    },
  );

  test(
    `${name} refuses what the closure makes wrong, at each of its calls, and goes on afterwards`,
    LIMIT,
    async () => {
      const wrongs: readonly [string, (p: Parameter) => void][] = [
        ["data that is too short", (p) => p.data = new Float64Array(3)],
        ["data of another dtype", (p) => p.data = new Float32Array(7)],
        ["data that has gone", (p) => void detach(p.data)],
        ["data that lies", (p) => p.data = lying(p.data, 7, 2)],
        ["a gradient that is too short", (p) => p.grad = new Float64Array(3)],
        ["a gradient that has gone", (p) => void detach(p.grad as TypedArray)],
        ["a gradient that lies", (p) => p.grad = lying(p.data, 7, 2)],
        ["a gradient that is the data", (p) => p.grad = p.data],
        ["a gradient in the other's data", (p) => p.grad = other(p).subarray(0, 7)],
      ];
      let params = two();
      const other = (p: Parameter) => params.find((q) => q !== p)!.data;
      for (const [what, wrong] of wrongs) {
        for (const when of [1, 2, 4]) {
          for (const later of [false, true]) {
            params = two();
            const optimizer = make(params), last = params[1]!;
            let calls = 0, data: TypedArray = copied(last.data);
            const closure = () => {
              const loss = bowl(params);
              if (++calls === when) {
                data = copied(last.data);
                wrong(last);
              }
              return loss;
            };
            const alike = two(), thrower = make(alike);
            let times = 0;
            assertThrows(() =>
              thrower.step(() => {
                if (++times === when) throw new EvalError("from outside");
                return bowl(alike);
              }), EvalError);
            const run = async () => later ? await optimizer.stepAsync(closure) : optimizer.step(closure);
            const error = await assertRejects(run, Error);
            assert(error instanceof TypeError || error instanceof RangeError, `${what}: ${error.stack}`);
            assert(error.message.includes("params[1]"), `${what}, call ${when}: ${error.message}`);
            assertSameBits(params[0]!.data, alike[0]!.data, "float64", `${what}, call ${when}: the other parameter`);
            const state = optimizer.state.get(params[0]!), wanted = thrower.state.get(alike[0]!);
            assertEquals(Object.keys(state ?? {}), Object.keys(wanted ?? {}));
            assertEquals(state?.["nIter"], wanted?.["nIter"]);
            if (last.data.length !== 7 || !(last.data instanceof Float64Array) || last.data.byteLength !== 56) {
              last.data = data;
            }
            const before = bowl(params);
            assert(optimizer.step(() => bowl(params)) === before, what);
            assert(bowl(params) < before, `${what}, call ${when}: it does not go on`);
          }
        }
      }
    },
  );

  test(
    `${name} writes nothing around views in the middle of other memory, also while garbage is collected`,
    LIMIT,
    () => {
      const collect = collector(), expected = two(), reference = make(expected);
      const views = expected.map((p) => guarded(new ArrayBuffer(p.size * 8 + 256), "float64", p.size, 64));
      views.forEach(({ view }, i) => view.set(expected[i]!.data as Float64Array));
      const params = views.map(({ view }) => new Parameter(view)), optimizer = make(params);
      for (let step = 0; step < 3; step++) {
        optimizer.step(() => {
          const loss = bowl(params);
          collect();
          return loss;
        });
        reference.step(() => bowl(expected));
        params.forEach((p, i) => assertSameBits(p.data, expected[i]!.data, "float64", `params[${i}], step ${step}`));
        for (const { check } of views) check();
      }
    },
  );
}

/** Two lists of tensors of some dtype in watched memory, and what looks at all of it. */
function lists(dtype: (typeof DTYPES)[number], seed: number) {
  const checks: (() => void)[] = [];
  const list = (from: number) =>
    [1, 17, 0, 300].map((n, i) => {
      const { view, check } = guarded(new ArrayBuffer(n * bytesOf(dtype) + 160), dtype, n, 64);
      view.set(typed(values(from + i, n).map(Math.abs), dtype) as Float32Array);
      checks.push(check);
      return new Parameter(view, { dtype });
    });
  return { self: list(seed), other: list(seed + 10), third: list(seed + 20), check: () => checks.forEach((c) => c()) };
}

type Lists = ReturnType<typeof lists>;
const OPERATIONS: Readonly<Record<string, (l: Lists) => unknown>> = {
  lerp_: ({ self, other }) => foreach.lerp_(self, other, 0.3),
  add_: ({ self, other }) => foreach.add_(self, other, { alpha: 0.5 }),
  sub_: ({ self, other }) => foreach.sub_(self, other),
  mul_: ({ self, other }) => foreach.mul_(self, other),
  div_: ({ self, other }) => foreach.div_(self, other),
  addcmul_: ({ self, other, third }) => foreach.addcmul_(self, other, third, 0.1),
  addcdiv_: ({ self, other, third }) => foreach.addcdiv_(self, other, third, 0.1),
  sqrt_: ({ self }) => foreach.sqrt_(self),
  maximum_: ({ self, other }) => foreach.maximum_(self, other),
  copy_: ({ self, other }) => foreach.copy_(self, other),
  zero_: ({ self }) => foreach.zero_(self),
  norm: ({ self }) => foreach.norm(self),
};

for (const [name, operation] of Object.entries(OPERATIONS)) {
  test(
    `foreach.${name} writes its first list and nothing around it, and refuses memory that has gone or lies`,
    LIMIT,
    () => {
      for (const dtype of DTYPES) {
        const all = lists(dtype, 1), others = [...all.other, ...all.third].map((p) => copied(p.data));
        for (let k = 0; k < 2; k++) operation(all); // the second one finds the plan
        all.check();
        [...all.other, ...all.third].forEach((p, i) => assertSameBits(p.data, others[i]!, dtype, `operand ${i}`));
        const used = [all.self, ...(/sqrt|zero|norm/.test(name) ? [] : [all.other])];
        for (const list of used) {
          const p = list[3]!, { data } = p, before = all.self.map((q) => copied(q.data));
          for (const wrong of [lying(data, 300, 20), new (data.constructor as Float32ArrayConstructor)(299), null]) {
            p.data = wrong as TypedArray;
            const error = assertThrows(() => operation(all), Error);
            assert(error instanceof TypeError || error instanceof RangeError, error.stack);
            assert(error.message.includes("[3]"), error.message);
            p.data = data;
            all.self.forEach((q, i) => assertSameBits(q.data, before[i]!, dtype, `self[${i}]`));
          }
          p.data = copied(data);
          operation(all);
          const kept = copied(p.data);
          detach(p.data);
          assertThrows(() => operation(all), RangeError, "[3]");
          p.data = kept;
          operation(all);
          p.data = data;
        }
        all.check();
      }
    },
  );
}

test(
  "clipGradNorm() and clipGradValue() write gradients and nothing around them, and refuse what has gone or lies",
  LIMIT,
  () => {
    const clips: readonly ((params: Parameter[]) => unknown)[] = [
      (params) => clipGradNorm(params, 0.01),
      (params) => clipGradNorm(params, 0.01, { normType: Infinity }),
      (params) => clipGradNorm(params, 0.01, { normType: 3 }),
      (params) => clipGradValue(params, 0.01),
    ];
    for (const clip of clips) {
      for (const dtype of DTYPES) {
        const { self: params, other, check } = lists(dtype, 3);
        params.forEach((p, i) => p.grad = other[i]!.data);
        const data = params.map((p) => copied(p.data));
        for (let k = 0; k < 2; k++) clip(params);
        check();
        const p = params[3]!, { grad } = p, before = params.map((q) => copied(q.grad as TypedArray));
        for (const wrong of [lying(grad as TypedArray, 300, 20), typed(values(1, 299), dtype), {}]) {
          p.grad = wrong as TypedArray;
          const error = assertThrows(() => clip(params), Error);
          assert(error instanceof TypeError || error instanceof RangeError, error.stack);
          assert(error.message.includes("grad of params[3]"), error.message);
          p.grad = grad;
          params.forEach((q, i) => assertSameBits(q.grad as TypedArray, before[i]!, dtype, `grad of params[${i}]`));
        }
        p.grad = copied(grad as TypedArray);
        clip(params);
        detach(p.grad);
        assertThrows(() => clip(params), RangeError, "grad of params[3]");
        check();
        params.forEach((q, i) => assertSameBits(q.data, data[i]!, dtype, `data of params[${i}]`));
      }
    }
  },
);

/** A model of two tensors. */
class Pair {
  constructor(readonly a: Parameter, readonly b: Parameter) {}
  *namedParameters(): Iterable<[string, Parameter]> {
    yield ["a", this.a];
    yield ["b", this.b];
  }
  forward(): void {}
  clone(): this {
    return new Pair(new Parameter(copied(this.a.data)), new Parameter(copied(this.b.data))) as this;
  }
}

test(
  "AveragedModel follows arrays that are swapped, and refuses those that have gone or lie, on both sides",
  LIMIT,
  () => {
    const model = new Pair(parameter(1, 300), parameter(2, 9)), averaged = new AveragedModel(model);
    const twin = new Pair(parameter(1, 300), parameter(2, 9)),
      expected = new AveragedModel(twin, {
        avgFn: (mean, x, n) => Math.fround(mean + Math.fround(Math.fround(x - mean) / (n + 1))),
      });
    const collect = collector();
    const update = (seed: number) => {
      for (const [m, average] of [[model, averaged], [twin, expected]] as const) {
        m.a.data.set(parameter(seed, 300).data as Float32Array);
        average.updateParameters(m);
      }
      expectSame();
    };
    const expectSame = () => {
      assertEquals(averaged.nAveraged, expected.nAveraged);
      for (const key of ["a", "b"] as const) {
        averaged.module[key].data.forEach((x, i) =>
          // avgFn is computed in float64
          assert(Math.abs(x - expected.module[key].data[i]!) <= 1e-6, `${key}[${i}]`)
        );
      }
    };
    update(3);
    update(4);
    for (const p of [model.a, averaged.module.a]) {
      const old = p.data, { view, check } = guarded(new ArrayBuffer(300 * 4 + 256), "float32", 300, 64);
      view.set(old as Float32Array);
      p.data = view;
      collect();
      const before = copied(old);
      update(5);
      check();
      assertSameBits(old, before, "float32", "the array that was there before");
      const bits = copied(averaged.module.a.data), count = averaged.nAveraged, good = p.data;
      for (const wrong of [lying(good, 300, 10), new Float32Array(299), new Float64Array(300)]) {
        p.data = wrong;
        const error = assertThrows(() => averaged.updateParameters(model), Error);
        assert(error instanceof TypeError || error instanceof RangeError, error.stack);
        assert(error.message.includes('"a" of the'), error.message);
        p.data = good;
        assertSameBits(averaged.module.a.data, bits, "float32", "the average");
        assertEquals(averaged.nAveraged, count);
      }
      update(6);
    }
  },
);

test(
  "a multiAvgFn that takes memory away fails its update, and the next one goes on with what is put back",
  LIMIT,
  () => {
    let spoil = false;
    const model = new Pair(parameter(1, 300), parameter(2, 9));
    const averaged: AveragedModel<Pair> = new AveragedModel(model, {
      multiAvgFn: (own, current) => {
        if (spoil) detach(own[1]!.data);
        foreach.lerp_(own, current, 0.5);
      },
    });
    averaged.updateParameters(model);
    averaged.updateParameters(model);
    const a = copied(averaged.module.a.data), b = copied(averaged.module.b.data);
    spoil = true;
    assertThrows(() => averaged.updateParameters(model), RangeError, "9 elements");
    assertEquals(averaged.nAveraged, 2);
    assertSameBits(averaged.module.a.data, a, "float32", "a");
    spoil = false;
    assertThrows(() => averaged.updateParameters(model), RangeError, '"b" of the averaged model');
    averaged.module.b.data = b;
    averaged.updateParameters(model);
    assertEquals(averaged.nAveraged, 3);
  },
);
