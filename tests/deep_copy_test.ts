/** How AveragedModel copies a model: everything kept that can be, clone() asked for where it cannot. */

import { test } from "node:test";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { AveragedModel, type Module, Parameter } from "../mod.ts";
import { deepCopy } from "../src/swa_utils/deep_copy.ts";
import { modelOf, TinyModel } from "./support/models.ts";

/** Throws unless a model is refused with a message that asks for clone(). */
function assertAsksForClone(model: Module, why: string): void {
  const error = assertThrows(() => new AveragedModel(model), TypeError, why);
  assert(error.message.includes("clone()"), error.message);
}

test("a copy keeps prototypes, accessors, shared references, cycles and tied parameters", () => {
  class Layer {
    parent: Net | null = null;
    constructor(readonly weight: Parameter) {}
    get norm() {
      return Math.hypot(...this.weight.data);
    }
  }
  class Net implements Module {
    readonly first: Layer;
    readonly second: Layer;
    readonly layers: Layer[];
    readonly byName: Map<string, Layer>;
    readonly seen = new Set<unknown>();
    readonly activation = (x: number) => Math.max(x, 0);
    readonly made = new Date(5);
    readonly pattern = /a+/gi;
    readonly key = Symbol.for("key");
    constructor(weight: Parameter) {
      this.first = new Layer(weight);
      this.second = new Layer(weight); // tied
      this.layers = [this.first, this.second];
      this.byName = new Map([["first", this.first]]);
      this.first.parent = this.second.parent = this;
      this.seen.add(this);
    }
    *namedParameters(): Iterable<[string, Parameter]> {
      yield ["first", this.first.weight];
      yield ["second", this.second.weight];
    }
    forward(x: number) {
      return this.activation(x * this.first.weight.data[0]!);
    }
  }
  const weight = new Parameter([3, 4], { shape: [2, 1], name: "weight", requiresGrad: false });
  weight.grad = Float32Array.of(1, 1);
  const net = new Net(weight), { module } = new AveragedModel(net);
  assert(module instanceof Net && module.first instanceof Layer && module !== net);
  assert(module.layers[0] === module.first && module.byName.get("first") === module.first);
  assert(module.first.parent === module && module.seen.has(module) && !module.seen.has(net));
  assert(module.first.weight === module.second.weight && module.first.weight !== weight);
  assert(module.activation === net.activation && module.key === net.key);
  assert(module.made instanceof Date && module.made !== net.made && module.made.getTime() === 5);
  assert(module.pattern !== net.pattern && String(module.pattern) === "/a+/gi");
  const copy = module.first.weight;
  assert(copy instanceof Parameter && copy.data !== weight.data && module.first.norm === 5);
  assertEquals([copy.shape, copy.name, copy.requiresGrad, copy.grad, copy.dtype], [
    [2, 1],
    "weight",
    false,
    null,
    "float32",
  ]);
  assert(Parameter.of(copy.data) === copy);
  copy.data[0] = 100;
  assertEquals([weight.data[0], module.forward(1), net.forward(1)], [3, 100, 3]);
});

test("views of one buffer are views of one buffer in the copy", () => {
  const memory = new ArrayBuffer(64), flat = new Float32Array(memory), part = new Float32Array(memory, 16, 4);
  flat.forEach((_, i) => flat[i] = i);
  const copy = deepCopy({ flat, part, view: new DataView(memory, 8), bytes: new Uint8Array(memory, 3, 2) });
  assert(copy.flat.buffer === copy.part.buffer && copy.flat.buffer !== memory && copy.view.buffer === copy.flat.buffer);
  assertEquals([copy.part.byteOffset, copy.part.length, copy.part[0], copy.view.byteOffset, copy.bytes.length], [
    16,
    4,
    4,
    8,
    2,
  ]);
  copy.flat[4] = 99;
  assertEquals([copy.part[0], part[0]], [99, 4]);
});

test("subclasses of Parameter and of arrays, symbols, sealed and frozen objects and sparse arrays are kept", () => {
  class Weight extends Parameter {
    tag = { a: 1 };
  }
  class Stack extends Array<number> {}
  const hidden = Symbol("hidden"), bits = new Uint16Array(2);
  new Parameter(bits, { dtype: "bfloat16" });
  const original = {
    weight: new Weight([1, 2]),
    stack: Stack.from([1, 2, 3]) as Stack,
    frozen: Object.freeze({ inner: { x: 1 } }),
    sealed: Object.seal([1]),
    // deno-lint-ignore no-sparse-arrays
    sparse: [1, , 3],
    bare: Object.create(null, { x: { value: 1, enumerable: false } }) as { x: number },
    [hidden]: new Float64Array([7]),
    bits,
    nothing: null,
    missing: undefined,
    big: 5n,
  };
  const copy = deepCopy(original);
  assert(copy.weight instanceof Weight && copy.weight.tag !== original.weight.tag && copy.weight.tag.a === 1);
  assert(copy.stack instanceof Stack && copy.stack.length === 3);
  assert(Object.isFrozen(copy.frozen) && copy.frozen.inner !== original.frozen.inner);
  assert(Object.isSealed(copy.sealed) && !(1 in copy.sparse) && copy.sparse.length === 3);
  assert(copy.bare.x === 1 && Object.getPrototypeOf(copy.bare) === null);
  assert(copy[hidden] !== original[hidden] && copy[hidden][0] === 7);
  assertEquals(Parameter.of(copy.bits).dtype, "bfloat16");
  assertEquals([copy.nothing, copy.missing, copy.big], [null, undefined, 5n]);
});

test("a model with private fields is asked for clone(), and averaged by it", () => {
  class Secret implements Module {
    #w: Parameter;
    constructor(w: Parameter) {
      this.#w = w;
    }
    *namedParameters(): Iterable<[string, Parameter]> {
      yield ["w", this.#w];
    }
    forward(x: number): number {
      return x * this.#w.data[0]!;
    }
  }
  assertAsksForClone(new Secret(new Parameter([1])), "the model cannot be deep-copied");
  class Open extends Secret {
    constructor(readonly w: Parameter) {
      super(w);
    }
    clone(): this {
      return new Open(new Parameter([0])) as this; // its own weights, which the average replaces
    }
  }
  const model = new Open(new Parameter([2])), averaged = new AveragedModel(model);
  assertEquals(averaged.forward(3), 6);
  model.w.data[0] = 4;
  averaged.updateParameters(model);
  assertEquals(averaged.forward(3), 12);
});

test("a model whose functions belong to the original is asked for clone()", () => {
  const w = new Parameter([1]);
  assertAsksForClone({ namedParameters: () => [["w", w]], forward: () => w.data[0] }, "must not share memory");
  class Arrow {
    w = new Parameter([1]);
    *namedParameters(): Iterable<[string, Parameter]> {
      yield ["w", this.w];
    }
    forward = (x: number) => x * this.w.data[0]!;
  }
  assertAsksForClone(new Arrow(), "own forward is bound to the original");
  const bound = modelOf(1);
  bound.forward = bound.forward.bind(bound);
  assertAsksForClone(bound, "own forward is bound to the original");
  const literal = {
    w,
    *namedParameters(): Iterable<[string, Parameter]> {
      yield ["w", this.w];
    },
    forward(x: number) {
      return x * this.w.data[0]!;
    },
  };
  const averaged = new AveragedModel(literal);
  literal.w.data[0] = 2;
  averaged.updateParameters(literal);
  assertEquals([averaged.forward(3), averaged.module.w === w], [6, false]);
});

test("what cannot be copied is named, and clone() asked for", () => {
  const make = (extra: object) => Object.assign(modelOf(1), extra);
  assertAsksForClone(make({ cache: new WeakMap() }), "a WeakMap cannot be copied");
  assertAsksForClone(make({ ready: Promise.resolve() }), "a Promise cannot be copied");
  assertAsksForClone(make({ shared: new Float32Array(new SharedArrayBuffer(8)) }), "shared memory cannot be copied");
  let deep: object = {};
  for (let i = 0; i < 200_000; i++) deep = { deep };
  assertAsksForClone(make({ deep }), "it cannot be copied");
  const broken = make({
    get modules() {
      return () => [{
        runningMean: new Float32Array(1),
        runningVar: new Float32Array(1),
        momentum: null,
        resetRunningStats() {},
      }];
    },
  });
  new AveragedModel(broken); // a batch norm made anew is one of its own
  const norm = {
    runningMean: new Float32Array(1),
    runningVar: new Float32Array(1),
    momentum: null,
    resetRunningStats() {},
  };
  assertAsksForClone(make({ modules: () => [norm] }), "does not give batch norms of its own");
});

test("a clone() that is no independent copy is a TypeError that says so", () => {
  class Cloned extends TinyModel {
    constructor(readonly make: (self: Cloned) => unknown) {
      super([["w", new Parameter([1])]]);
    }
    clone(): this {
      return this.make(this) as this;
    }
  }
  const message = "the model's clone() must return an independent copy, but ";
  const cases: [(self: Cloned) => unknown, string][] = [
    [(self) => self, "must not share memory"],
    [(self) => new TinyModel(self.params), "must not share memory"],
    [() => new TinyModel([["v", new Parameter([1])]]), 'the parameter "v" where'],
    [() => new TinyModel([["w", new Parameter([1, 2])]]), "shape"],
    [() => undefined, "the copy must be a Module with namedParameters(), got undefined"],
    [() => {
      throw new Error("no more memory");
    }, "no more memory"],
  ];
  for (const [make, why] of cases) {
    const error = assertThrows(() => new AveragedModel(new Cloned(make)), TypeError, message);
    assert(error.message.includes(why), error.message);
  }
});
