/** Programs that do what nobody should: arrays that lie, options that throw, hooks and closures that pull the rug away. */

import { test } from "node:test";
import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { AdamW, type AdamWOptions, Parameter, SGD, StateDictError, type TypedArray } from "../mod.ts";
import { assertSameBits } from "./support/bits.ts";
import { guarded, lying } from "./support/arrays.ts";
import {
  capture,
  copied,
  detach,
  FOR_LOOP,
  force,
  group,
  inEachMode,
  OPTIONS,
  parameter,
  swap,
  Twin,
} from "./support/twin.ts";

/** What says that it is an array, and is none, or another one than it says. */
const LIARS: Readonly<Record<string, (array: TypedArray) => TypedArray>> = {
  "an array that says that it is longer than it is": (array) => lying(array, array.length, array.length >> 1),
  "an array of a class that says so": (array) => {
    const { length } = array;
    class Longer extends Float32Array {
      override get length(): number {
        return length;
      }
    }
    return new Longer(length >> 1);
  },
  "a Proxy of an array": (array) => new Proxy(copied(array), {}),
  "an object that has only an array's prototype": () => Object.create(Float32Array.prototype),
};

for (const [what, lie] of Object.entries(LIARS)) {
  inEachMode(`step() refuses ${what}, as data, gradient and state, and changes nothing`, (mode) => {
    for (const before of [0, 2]) {
      for (const field of ["data", "grad", "expAvgSq"] as const) {
        if (field === "expAvgSq" && before === 0) continue;
        const twin = new Twin(mode);
        twin.run(before);
        twin.grads();
        const target = field === "expAvgSq" ? twin.state(3) : twin.params[3] as unknown as Record<string, TypedArray>;
        const undo = swap(target, field, lie(target[field] as TypedArray));
        const error = assertThrows(() => twin.optimizer.step(), Error);
        assert(error instanceof TypeError || error instanceof RangeError, error.stack);
        assert(error.message.includes(`${field} of paramGroups[1].params[0] ("w3")`), error.message);
        undo();
        twin.step();
        twin.check();
        twin.run();
      }
    }
  });
}

test("a Parameter is not made of an array that lies about itself", () => {
  for (const [what, lie] of Object.entries(LIARS)) {
    const array = lie(new Float32Array(8));
    const error = assertThrows(() => new Parameter(array), Error);
    assert(error instanceof TypeError || error instanceof RangeError, `${what}: ${error.stack}`);
  }
});

inEachMode("options in a Proxy are read once each, and count like any others", (mode) => {
  const twin = new Twin(mode), reads = new Map<PropertyKey, number>();
  const proxy = new Proxy({ ...OPTIONS, ...mode }, {
    get(target, key) {
      reads.set(key, (reads.get(key) ?? 0) + 1);
      return Reflect.get(target, key);
    },
  });
  const params = twin.copies.map((p) => new Parameter(copied(p.data)));
  const optimizer = new AdamW(params, proxy as AdamWOptions);
  assertEquals([...reads].filter(([, n]) => n !== 1), []);
  const reference = new AdamW(params.map((p) => new Parameter(copied(p.data))), { ...OPTIONS, ...FOR_LOOP });
  const others = reference.paramGroups[0]!.params;
  for (let step = 0; step < 3; step++) {
    params.forEach((p, i) => {
      p.grad = parameter(10 * step + i, p.size).data;
      others[i]!.grad = copied(p.grad);
    });
    optimizer.step();
    reference.step();
  }
  params.forEach((p, i) => assertSameBits(p.data, others[i]!.data, "float32", `params[${i}]`));
});

/** Options that throw when they are read, or listed. */
const THROWERS: Readonly<Record<string, () => object>> = {
  "a getter": () => ({
    get lr(): number {
      throw new EvalError("from outside");
    },
  }),
  "a Proxy's get": () =>
    new Proxy({ lr: 1 }, {
      get() {
        throw new EvalError("from outside");
      },
    }),
  "a Proxy's ownKeys": () =>
    new Proxy({ lr: 1 }, {
      ownKeys() {
        throw new EvalError("from outside");
      },
    }),
};

for (const [what, options] of Object.entries(THROWERS)) {
  test(`${what} that throws goes through the constructor, addParamGroup() and loadStateDict(), and changes nothing`, () => {
    const twin = new Twin(FOR_LOOP);
    twin.run();
    const assertUnchanged = capture(twin);
    assertThrows(() => new AdamW([parameter(1, 3)], options()), EvalError, "from outside");
    const added = options();
    if (!what.endsWith("ownKeys")) force(added, "params", [parameter(1, 3)]);
    assertThrows(() => twin.optimizer.addParamGroup(added as { params: Parameter[] }), EvalError, "from outside");
    const dict = twin.optimizer.stateDict();
    const { state, paramGroups } = dict;
    for (
      const wrong of [
        { ...dict, paramGroups: [paramGroups[0]!, options()] },
        { ...dict, state: { ...state, 2: options() } },
        {
          state,
          get paramGroups(): never {
            throw new EvalError("from outside");
          },
        },
      ]
    ) {
      const error = assertThrows(() => twin.optimizer.loadStateDict(wrong as unknown as typeof dict), Error);
      assert(error instanceof EvalError || error instanceof StateDictError, error.stack);
    }
    assertUnchanged();
    twin.run(2);
  });
}

inEachMode("an option of a group that throws when it is read fails the step, which changes nothing", (mode) => {
  for (const before of [0, 1, 3]) {
    for (const after of [0, 1, 2, 3]) { // reads that go well
      const twin = new Twin(mode);
      twin.run(before);
      twin.grads();
      const g = group(twin, 1), { lr } = g;
      let left = after, thrown = false;
      const assertUnchanged = capture(twin);
      Object.defineProperty(g, "lr", {
        configurable: true,
        enumerable: true,
        get() {
          if (left-- > 0) return lr;
          thrown = true;
          throw new EvalError("from outside");
        },
      });
      let failed = false;
      try {
        twin.optimizer.step();
      } catch (error) {
        failed = true;
        assert(error instanceof EvalError && error.message.startsWith("from outside"), String(error));
      }
      Object.defineProperty(g, "lr", { configurable: true, enumerable: true, writable: true, value: lr });
      assertEquals(failed, thrown);
      if (failed) assertUnchanged();
      if (failed) twin.optimizer.step();
      twin.reference.step();
      twin.check();
      twin.run();
    }
  }
});

inEachMode("a gradient that throws when it is read fails the step, which changes nothing", (mode) => {
  for (const before of [0, 1, 3]) {
    const twin = new Twin(mode);
    twin.run(before);
    twin.grads();
    const p = twin.params[3]!, { grad } = p, assertUnchanged = capture(twin);
    Object.defineProperty(p, "grad", {
      configurable: true,
      enumerable: true,
      get() {
        throw new EvalError("from outside");
      },
    });
    assertThrows(() => twin.optimizer.step(), EvalError, "from outside");
    Object.defineProperty(p, "grad", { configurable: true, enumerable: true, writable: true, value: grad });
    assertUnchanged();
    twin.step();
    twin.check();
    twin.run();
  }
});

inEachMode("data that is another array each time it is read is never written beyond its end", (mode) => {
  const twin = new Twin(mode);
  twin.run();
  const p = twin.params[0]!, good = p.data, { view, check } = guarded(new ArrayBuffer(256), "float32", 3, 64);
  let reads = 0;
  Object.defineProperty(p, "data", {
    configurable: true,
    enumerable: true,
    get: () => reads++ % 2 === 0 ? good : view,
  });
  for (let step = 0; step < 8; step++) {
    twin.grads();
    try {
      twin.optimizer.step();
    } catch (error) {
      assert(error instanceof RangeError, String(error));
    }
    check();
  }
});

inEachMode("a gradient that a pre hook or the closure swaps is the one that counts", (mode) => {
  for (const where of ["hook", "closure"]) {
    const twin = new Twin(mode);
    twin.run(2);
    twin.grads();
    const wanted = twin.params.map((p) => copied(p.grad as TypedArray));
    twin.params.forEach((p) => (p.grad as Float32Array).fill(NaN));
    const old = twin.params.map((p) => p.grad as TypedArray);
    const swapAll = () => void twin.params.forEach((p, i) => p.grad = wanted[i]!);
    if (where === "hook") {
      const hook = twin.optimizer.registerStepPreHook(swapAll);
      twin.optimizer.step();
      hook.remove();
    } else {
      assertStrictEquals(twin.optimizer.step(() => (swapAll(), 3)), 3);
    }
    twin.reference.step();
    twin.check();
    for (const grad of old) assert(grad.every((x) => x !== x), "an old gradient has been written");
    twin.run();
  }
});

inEachMode("what a pre hook or the closure makes wrong is found, and nothing has changed but that", (mode) => {
  const wrongs: readonly ((p: Parameter) => () => void)[] = [
    (p) => swap(p, "grad", new Float32Array(5)),
    (p) => swap(p, "data", new Float32Array(5)),
    (p) => swap(p, "grad", p.data),
    (p) => {
      const grad = copied(p.grad as TypedArray);
      detach(p.grad as TypedArray);
      return () => p.grad = grad;
    },
    (p) => {
      const data = copied(p.data);
      detach(p.data);
      return () => p.data = data;
    },
  ];
  for (const where of ["hook", "closure"]) {
    for (const wrong of wrongs) {
      const twin = new Twin(mode);
      twin.run(2);
      twin.grads();
      let mend = () => {};
      const others = twin.params.map((p) => copied(p.data));
      const spoil = () => void (mend = wrong(twin.params[3]!));
      const hook = twin.optimizer.registerStepPreHook(where === "hook" ? spoil : () => {});
      const closure = () => (where === "closure" && spoil(), 1);
      assertThrows(() => twin.optimizer.step(closure), RangeError, 'paramGroups[1].params[0] ("w3")');
      hook.remove();
      mend();
      twin.params.forEach((p, i) => assertSameBits(p.data, others[i]!, "float32", `data of w${i}`));
      twin.step();
      twin.check();
      twin.run();
    }
  }
});

inEachMode("a group that a pre hook adds takes part in the step", (mode) => {
  const twin = new Twin(mode);
  twin.run();
  twin.grads();
  const added = [parameter(50, 9), parameter(50, 9)] as const;
  for (const p of added) p.grad = parameter(51, 9).data;
  const hook = twin.optimizer.registerStepPreHook(() => twin.optimizer.addParamGroup({ params: [added[0]] }));
  twin.optimizer.step();
  hook.remove();
  twin.reference.addParamGroup({ params: [added[1]] });
  twin.reference.step();
  twin.check();
  assertSameBits(added[0].data, added[1].data, "float32", "the new parameter");
});

inEachMode(
  "a closure or a hook that calls step() again is told so, and the step goes on as if it had not",
  async (mode) => {
    const twin = new Twin(mode);
    twin.run();
    const { optimizer } = twin, message = "during another step of the same optimizer";
    const again = () => assertThrows(() => optimizer.step(), TypeError, message);
    twin.grads();
    optimizer.step(() => (again(), 1));
    twin.reference.step();
    twin.check();
    for (const register of ["registerStepPreHook", "registerStepPostHook"] as const) {
      const hook = optimizer[register](() => void again());
      twin.run();
      hook.remove();
    }
    twin.grads();
    const loss = await optimizer.stepAsync(async () => {
      again();
      await assertRejects(() => optimizer.stepAsync(() => 2), TypeError, message);
      return 1;
    });
    assertStrictEquals(loss, 1);
    twin.reference.step();
    twin.check();
  },
);

inEachMode("a closure may step another optimizer, also of the same parameters", (mode) => {
  const make = (options: typeof mode) => {
    const p = parameter(1, 200);
    return { p, outer: new AdamW([p], { ...OPTIONS, ...options }), inner: new SGD([p], { momentum: 0.9, ...options }) };
  };
  const actual = make(mode), expected = make(FOR_LOOP);
  for (let step = 0; step < 4; step++) {
    for (const { p, outer, inner } of [actual, expected]) {
      outer.step(() => {
        p.grad = parameter(10 + step, 200).data;
        inner.step();
        p.grad = parameter(20 + step, 200).data;
        return 0;
      });
    }
    assertSameBits(actual.p.data, expected.p.data, "float32", `step ${step}`);
  }
});

/** State dicts with keys that reach for a prototype. */
const POLLUTERS: readonly string[] = [
  '{"state":{"__proto__":{"step":1,"polluted":1}},"paramGroups":GROUPS}',
  '{"state":{"0":{"__proto__":{"polluted":1},"step":1}},"paramGroups":GROUPS}',
  '{"state":{"0":{"constructor":{"prototype":{"polluted":1}},"step":1}},"paramGroups":GROUPS}',
  '{"state":{},"paramGroups":GROUPS,"__proto__":{"polluted":1}}',
  '{"state":{},"paramGroups":[{"params":[0],"__proto__":{"polluted":1}}]}',
  '{"state":{},"paramGroups":[{"params":["__proto__"]}]}',
  '{"state":{"constructor":{"step":1}},"paramGroups":GROUPS}',
];

test("a state dict cannot reach a prototype: it is refused, or what it brings is its own", () => {
  for (const text of POLLUTERS) {
    const p = parameter(1, 4), optimizer = new AdamW([p]);
    const groups = JSON.stringify(optimizer.stateDict().paramGroups), before = copied(p.data);
    const dict = JSON.parse(text.replace("GROUPS", groups));
    try {
      optimizer.loadStateDict(dict);
    } catch (error) {
      assert(error instanceof StateDictError || error instanceof TypeError, `${text}: ${(error as Error).stack}`);
    }
    for (const prototype of [Object.prototype, Array.prototype, Map.prototype, Parameter.prototype, AdamW.prototype]) {
      assert(!("polluted" in prototype), text);
    }
    for (const thing of [optimizer, optimizer.state, optimizer.paramGroups[0]!, optimizer.state.get(p) ?? {}]) {
      assert(!("polluted" in thing), text);
    }
    assertSameBits(p.data, before, "float32", text);
    p.grad = new Float32Array(4);
    optimizer.step();
  }
});
