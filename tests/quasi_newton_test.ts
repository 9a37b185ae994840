/** LBFGS and BFGS: closures, values that are not finite, what is refused, and what a step leaves behind. */

import { test } from "node:test";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  BFGS,
  type BFGSOptions,
  LBFGS,
  type LBFGSOptions,
  Parameter,
  SparseTensor,
  StateDictError,
  type TypedArray,
} from "../mod.ts";
import { arraysOf, assertSameBits } from "./support/bits.ts";
import { runProgram } from "./support/runtime.ts";

type Both = LBFGS | BFGS;
const CLASSES = {
  LBFGS: (params: Parameter[], options: LBFGSOptions = {}): Both => new LBFGS(params, options),
  BFGS: (params: Parameter[], options: BFGSOptions = {}): Both => new BFGS(params, options),
};
const NAMES = ["LBFGS", "BFGS"] as const;
const SEARCHES = [null, "strong_wolfe", "hager_zhang"] as const;

/** Rosenbrock's valley. */
function rosenbrock(p: Parameter): number {
  const [x, y] = [p.data[0]!, p.data[1]!];
  const g = [-400 * x * (y - x * x) - 2 * (1 - x), 200 * (y - x * x)];
  p.grad = p.dtype === "float64" ? Float64Array.from(g) : Float32Array.from(g);
  return 100 * (y - x * x) ** 2 + (1 - x) ** 2;
}

const valley = (dtype: "float32" | "float64" = "float64") =>
  new Parameter(dtype === "float64" ? Float64Array.of(-1.2, 1) : Float32Array.of(-1.2, 1));

/** A convex function of many parameters in several tensors. */
function bowl(params: readonly Parameter[]): number {
  let loss = 0, k = 0;
  for (const p of params) {
    p.grad = p.data.map((x) => {
      const w = 1 + k % 7, d = x - Math.sin(k);
      k++;
      loss += w * d * d / 2;
      return w * d;
    }) as TypedArray;
  }
  return loss;
}

/** Everything that a step may change, as arrays. */
function snapshot(o: Both): TypedArray[] {
  const params = o.paramGroups[0]!.params, state = o.state.get(params[0]!) ?? {};
  return [
    ...params.map((p) => p.data.slice()),
    ...Object.keys(state).sort().flatMap((key) => arraysOf(state[key]!).map((a) => a.slice())),
  ];
}

function assertSame(a: readonly TypedArray[], b: readonly TypedArray[], what: string): void {
  assertEquals(a.length, b.length);
  a.forEach((x, i) => assertSameBits(x, b[i]!, "", `${what}, ${i}`));
}

for (const name of NAMES) {
  const make = CLASSES[name];

  for (const lineSearchFn of SEARCHES) {
    const options = { lineSearchFn, ...(lineSearchFn === null ? { lr: 1e-3 } : {}) };

    test(`${name} step() lowers the loss, with lineSearchFn ${lineSearchFn}, and says where it has ended`, () => {
      const p = valley(), optimizer = make([p], options), start = rosenbrock(p);
      let calls = 0;
      const loss = optimizer.step(() => (calls++, rosenbrock(p)));
      assertEquals(loss, start);
      const { reason, iterations, evaluations, loss: last, gradNorm } = optimizer.lastResult!;
      assertEquals(evaluations, calls);
      assert(last < start);
      assert(["maxIter", "maxEval"].includes(reason), reason);
      assertEquals(optimizer.state.get(p)!["funcEvals"], calls);
      assertEquals(optimizer.state.get(p)!["nIter"], iterations);
      if (lineSearchFn !== null) {
        assertEquals(last, rosenbrock(p));
        assertEquals(gradNorm, Math.max(...(p.grad as Float64Array).map(Math.abs)));
      }
    });

    test(`${name} stepAsync() goes the same way as step(), with lineSearchFn ${lineSearchFn}`, async () => {
      const p = valley(), q = valley(), a = make([p], options), b = make([q], options);
      for (let i = 0; i < 3; i++) {
        const now = a.step(() => rosenbrock(p));
        const later = await b.stepAsync(async () => {
          await Promise.resolve();
          return rosenbrock(q);
        });
        assertEquals(now, later);
        assertEquals(a.lastResult, b.lastResult);
        assertSame(snapshot(a), snapshot(b), `step ${i}`);
      }
    });

    test(`${name} maximize is minimizing the negative, with lineSearchFn ${lineSearchFn}`, () => {
      const p = valley(), q = valley(), a = make([p], options), b = make([q], { ...options, maximize: true });
      for (let i = 0; i < 3; i++) {
        const least = a.step(() => rosenbrock(p));
        const most = b.step(() => {
          const loss = -rosenbrock(q);
          q.grad = (q.grad as Float64Array).map((g) => -g);
          return loss;
        });
        assertEquals(most, -least);
        assertEquals(b.lastResult, { ...a.lastResult!, loss: -a.lastResult!.loss });
        assertSame(snapshot(a), snapshot(b), `step ${i}`);
      }
    });

    for (const when of [1, 2, 3, 5, 8, 13]) {
      test(`${name} with lineSearchFn ${lineSearchFn}: a closure that throws at call ${when} leaves the last accepted point, and one can go on`, async () => {
        for (const later of [false, true]) {
          const p = valley(), optimizer = make([p], { ...options, maxIter: 6, maxEval: 100 });
          const losses = new Map<string, number>();
          let calls = 0, lowest = Infinity;
          const closure = () => {
            if (++calls === when) throw new Error("out of luck");
            const loss = rosenbrock(p);
            losses.set([...p.data].join(), loss);
            lowest = Math.min(lowest, loss);
            return loss;
          };
          const start = [...p.data].join();
          let thrown: unknown;
          try {
            if (later) await optimizer.stepAsync(() => Promise.resolve().then(closure));
            else optimizer.step(closure);
          } catch (error) {
            thrown = error;
          }
          if (calls < when) continue; // it ended before
          assertEquals((thrown as Error).message, "out of luck");
          const here = [...p.data].join();
          if (when === 1) assertEquals([here, optimizer.state.size, optimizer.lastResult], [start, 0, null]);
          else assert(losses.has(here), `${here} was never evaluated`);
          if (lineSearchFn !== null && when > 1) assert(losses.get(here)! <= losses.get(start)!);
          const state = optimizer.state.get(p);
          if (state) assertEquals(state["funcEvals"], when - 1);

          const dict = structuredClone(optimizer.stateDict()), q = new Parameter(p.data.slice() as Float64Array);
          const other = make([q], { ...options, maxIter: 6, maxEval: 100 });
          other.loadStateDict(dict);
          const before = rosenbrock(p);
          optimizer.step(() => rosenbrock(p));
          other.step(() => rosenbrock(q));
          assertSame(snapshot(optimizer), snapshot(other), "one that was resumed");
          if (lineSearchFn !== null) assert(optimizer.lastResult!.loss < before);
        }
      });
    }

    for (const bad of [NaN, Infinity, -Infinity]) {
      test(`${name} with lineSearchFn ${lineSearchFn} never accepts a loss of ${bad}`, () => {
        // finite only for x < 1: the first steps go too far
        const p = new Parameter(Float64Array.of(0.5)),
          optimizer = make([p], { lineSearchFn, lr: 10, maxIter: 30, maxEval: 200 });
        let seen = 0;
        optimizer.step(() => {
          const x = p.data[0]!;
          if (x >= 1) {
            seen++;
            p.grad = Float64Array.of(bad);
            return bad;
          }
          p.grad = Float64Array.of(1 / (1 - x) - 4); // the minimum is at 0.75
          return -Math.log(1 - x) - 4 * x;
        });
        assert(seen > 0, "it has never gone too far");
        assert(Number.isFinite(optimizer.lastResult!.loss) && p.data[0]! < 1, `ends at ${p.data[0]}`);
      });

      test(`${name} with lineSearchFn ${lineSearchFn} says so where everything around is ${bad}, and stays`, () => {
        const p = new Parameter(Float64Array.of(2)), optimizer = make([p], { lineSearchFn });
        optimizer.step(() => {
          p.grad = Float64Array.of(p.data[0] === 2 ? 1 : bad);
          return p.data[0] === 2 ? 1 : bad;
        });
        assertEquals([optimizer.lastResult!.reason, p.data[0]], ["nonFinite", 2]);
      });
    }

    test(`${name} with lineSearchFn ${lineSearchFn} does nothing where the first loss or gradient is not finite`, () => {
      for (const [loss, grad] of [[NaN, 1], [Infinity, 1], [1, NaN], [1, Infinity], [1, -Infinity]]) {
        const p = new Parameter(Float64Array.of(2, 3)), optimizer = make([p], { lineSearchFn });
        const returned = optimizer.step(() => {
          p.grad = Float64Array.of(1, grad!);
          return loss!;
        });
        assert(Object.is(returned, loss));
        assertEquals([optimizer.lastResult!.reason, [...p.data]], ["nonFinite", [2, 3]]);
      }
    });

    test(`${name} with lineSearchFn ${lineSearchFn} stops at once at a minimum`, () => {
      const p = new Parameter(Float64Array.of(1, 1)), optimizer = make([p], { lineSearchFn });
      assertEquals(optimizer.step(() => rosenbrock(p)), 0);
      assertEquals(optimizer.lastResult, {
        reason: "toleranceGrad",
        iterations: 0,
        evaluations: 1,
        loss: 0,
        gradNorm: 0,
      });
      assertEquals(optimizer.state.get(p), { funcEvals: 1, nIter: 0 });
    });
  }

  test(`${name} sees several tensors as one vector`, () => {
    const sizes = [3, 1, 7, 2];
    const many = sizes.map((n) => new Parameter(new Float64Array(n)));
    const one = new Parameter(new Float64Array(13));
    const a = make(many, { lineSearchFn: "strong_wolfe" }), b = make([one], { lineSearchFn: "strong_wolfe" });
    a.step(() => bowl(many));
    b.step(() => bowl([one]));
    assertEquals(a.lastResult!.evaluations, b.lastResult!.evaluations);
    const joined = many.flatMap((p) => [...p.data]);
    joined.forEach((x, i) =>
      assert(Math.abs(x - one.data[i]!) < 1e-9 && Math.abs(x - Math.sin(i)) < 1e-5, `element ${i}`)
    );
  });

  test(`${name} takes a parameter without a gradient for one whose gradient is 0, and adds the zeros of a sparse one`, () => {
    const build = () => [new Parameter([1, 2]), new Parameter([3, 4, 5, 6], { shape: [2, 2] })];
    const [a, b] = [build(), build()], options = { lineSearchFn: null, maxIter: 1 };
    const first = make(a, options), second = make(b, options);
    first.step(() => {
      a[1]!.grad = new SparseTensor([[1, 0, 1]], Float32Array.of(1, 2, 10, 20, 3, 4), [2, 2]);
      return 1;
    });
    second.step(() => {
      b[0]!.grad = new Float32Array(2);
      b[1]!.grad = Float32Array.of(10, 20, 4, 6);
      return 1;
    });
    assertSame(snapshot(first), snapshot(second), "both");
    assertEquals([...a[0]!.data], [1, 2]);
    assert(a[1]!.data[0]! < 3);
  });

  test(`${name} runs float32 as float32`, () => {
    const p = valley("float32"), optimizer = make([p], { lineSearchFn: "strong_wolfe", maxIter: 100 });
    optimizer.step(() => rosenbrock(p));
    assert(p.data.every((x) => Math.abs(x - 1) < 1e-3), `ends at ${p.data}`);
    for (const value of Object.values(optimizer.state.get(p)!)) {
      for (const array of arraysOf(value)) assert(array instanceof Float32Array || array.length === 1);
    }
  });

  test(`${name} refuses what it cannot do, by name`, async () => {
    const p = valley();
    assertThrows(() => make([p], { lr: -1 }), RangeError, "lr must be >= 0, got -1");
    assertThrows(() => make([p], { maxIter: 0 }), RangeError, "maxIter must be an integer >= 1, got 0");
    assertThrows(() => make([p], { maxIter: 1.5 }), RangeError, "maxIter");
    assertThrows(() => make([p], { maxEval: 0 }), RangeError, "maxEval must be an integer >= 1, got 0");
    assertThrows(() => make([p], { toleranceGrad: NaN }), RangeError, "toleranceGrad");
    assertThrows(() => make([p], { toleranceChange: -1e-9 }), RangeError, "toleranceChange");
    assertThrows(() => make([p], { lineSearchFn: "armijo" as never }), RangeError, '"hager_zhang"');
    assertThrows(() => make([p], { maximize: 1 as never }), TypeError, "maximize");
    assertThrows(() => make([p], { momentum: 1 } as never), TypeError, "momentum");
    assertThrows(() => make([new Parameter(new Uint16Array(2), { dtype: "bfloat16" })]), TypeError, "bfloat16");
    assertThrows(() => make([p, new Parameter([1])]), TypeError, "one dtype");
    const groups = [{ params: [p] }, { params: [new Parameter(Float64Array.of(1))] }] as never;
    assertThrows(() => make(groups), RangeError, "one param group, got 2");
    const optimizer = make([p]);
    assertThrows(() => optimizer.addParamGroup({ params: [Float64Array.of(1)] }), RangeError, "one param group");
    assertEquals(optimizer.paramGroups.length, 1);
    assertThrows(() => optimizer.step(), TypeError, "closure must be a function");
    assertThrows(
      () => optimizer.step(() => undefined as never),
      TypeError,
      "closure must return a number, got undefined",
    );
    assertThrows(() => optimizer.step(() => Promise.resolve(1) as never), TypeError, "stepAsync");
    await assertRejects(() => optimizer.stepAsync(() => Promise.resolve("1" as never)), TypeError, "number");
    assertThrows(() => optimizer.step(() => rosenbrock(p), { maxGradNorm: 1 } as never), TypeError, "maxGradNorm");
    assertThrows(() => optimizer.step(() => (p.grad = new Float64Array(3) as never, 1)), RangeError, "2 elements");
    optimizer.paramGroups[0]!.lr = NaN;
    assertThrows(() => optimizer.step(() => rosenbrock(p)), RangeError, "lr");
    assertEquals([[...p.data], optimizer.state.size, optimizer.lastResult], [[-1.2, 1], 0, null]);
  });

  test(`${name} does not let a step begin inside another one`, () => {
    const p = valley(), optimizer = make([p]);
    assertThrows(() => optimizer.step(() => optimizer.step(() => rosenbrock(p))), TypeError, "during another step");
    assertEquals([...p.data], [-1.2, 1]);
  });

  test(`${name} puts the parameters back where a later gradient is of the wrong kind`, () => {
    const p = valley(), optimizer = make([p], { lineSearchFn: "strong_wolfe" });
    let calls = 0;
    assertThrows(
      () =>
        optimizer.step(() => {
          const loss = rosenbrock(p);
          if (++calls === 2) p.grad = new Float32Array(2) as never;
          return loss;
        }),
      TypeError,
      "grad",
    );
    assertEquals([...p.data], [-1.2, 1]);
    assert(optimizer.step(() => rosenbrock(p)) > optimizer.lastResult!.loss);
  });

  test(`${name} loadStateDict() refuses state that does not fit, and changes nothing`, () => {
    const p = valley(), optimizer = make([p], { lineSearchFn: "strong_wolfe" });
    optimizer.step(() => rosenbrock(p));
    const before = snapshot(optimizer), good = optimizer.stateDict();
    const broken: [string, (state: Record<string, unknown>) => void][] = [
      ["funcEvals", (s) => s["funcEvals"] = "7"],
      ["nIter", (s) => s["nIter"] = 1.5],
      ["d", (s) => s["d"] = new Float64Array(3)],
      ["prevFlatGrad", (s) => s["prevFlatGrad"] = 1],
      ["momentumBuffer", (s) => s["momentumBuffer"] = new Float64Array(2)],
      name === "BFGS"
        ? ["h", (s) => s["h"] = new Float64Array(4)]
        : ["oldDirs", (s) => s["oldDirs"] = [new Float64Array(2)]],
      name === "BFGS" ? ["d", (s) => delete s["d"]] : ["ro", (s) => s["ro"] = 1],
    ];
    for (const [key, breaks] of broken) {
      const dict = structuredClone(good);
      breaks(dict.state[0]! as Record<string, unknown>);
      assertThrows(() => optimizer.loadStateDict(dict), StateDictError, key);
      assertSame(snapshot(optimizer), before, key);
    }
  });

  test(`${name} shares nothing with a state dict`, () => {
    const p = valley(), optimizer = make([p], { lineSearchFn: "strong_wolfe", maxIter: 5 });
    optimizer.step(() => rosenbrock(p));
    const dict = optimizer.stateDict(), kept = structuredClone(dict);
    optimizer.step(() => rosenbrock(p));
    assertEquals(dict, kept);
    optimizer.loadStateDict(dict);
    optimizer.step(() => rosenbrock(p));
    assertEquals(dict, kept);
  });

  test(`${name} opens nothing when it is made`, async () => {
    const ended = await runProgram(
      `
      import { ${name}, Parameter } from "MOD";
      new ${name}([new Parameter([1, 2])]);
      console.log("made");
    `,
      { env: { FLATSTEP_BACKEND: "native", FLATSTEP_LIBRARY: "/nowhere/libflatstep.so" } },
    );
    assertEquals([ended.stdout.trim(), ended.code], ["made", 0]);
  });

  test(`${name} keeps no more vectors than it needs over many steps`, () => {
    const p = new Parameter(new Float64Array(50)), optimizer = make([p], { lineSearchFn: "strong_wolfe", maxIter: 3 });
    for (let i = 0; i < 200; i++) {
      p.data.fill(i % 3); // away from the minimum again
      optimizer.step(() => bowl([p]));
    }
    const vectors = Object.values(optimizer.state.get(p)!).flatMap(arraysOf).filter((a) => a.length === 50).length;
    assert(vectors <= 2 + 2 * 100, `${vectors}`);
  });
}

test("LBFGS keeps historySize pairs, the newest ones", () => {
  const p = new Parameter(new Float64Array(30)),
    optimizer = new LBFGS([p], { lineSearchFn: "strong_wolfe", historySize: 3 });
  optimizer.step(() => bowl([p]));
  const state = optimizer.state.get(p)!;
  assertEquals([state["oldDirs"], state["oldStps"], state["ro"]].map((list) => (list as unknown[]).length), [3, 3, 3]);
  optimizer.paramGroups[0]!.historySize = 2;
  p.data.fill(3);
  optimizer.step(() => bowl([p]));
  assertEquals((optimizer.state.get(p)!["ro"] as number[]).length, 2);
});

test("LBFGS does not learn from a step that it has not made (torch does, where the slope is below toleranceChange)", () => {
  const p = new Parameter(Float64Array.of(1e-4)),
    optimizer = new LBFGS([p], { toleranceGrad: 0, toleranceChange: 1e-3 });
  optimizer.step(() => (p.grad = p.data.slice() as Float64Array, p.data[0]! ** 2 / 2));
  assertEquals(optimizer.lastResult!.reason, "toleranceChange");
  const state = optimizer.state.get(p)!;
  assertEquals([p.data[0], state["t"], state["nIter"]], [1e-4, 0, 1]);
  optimizer.paramGroups[0]!.toleranceChange = 0;
  optimizer.step(() => (p.grad = p.data.map((x) => 7 * x + 1) as Float64Array, 7 * p.data[0]! ** 2 / 2 + p.data[0]!)); // another batch
  const learned = optimizer.state.get(p)!["oldStps"] as Float64Array[];
  assert(learned.every((s) => Math.abs(s[0]!) > 0), "a step that was not made");
});

test("LBFGS loads torch's state: al is left out, numbers may be tensors", () => {
  const p = valley(),
    optimizer = new LBFGS([p]),
    number = (x: number) => ({ dtype: "float64", shape: [], data: Float64Array.of(x) });
  const vector = () => ({ dtype: "float64", shape: [2], data: Float64Array.of(1, 2) });
  const dict = optimizer.stateDict();
  dict.state[0] = {
    funcEvals: 4,
    nIter: 3,
    d: vector(),
    t: number(0.5),
    oldDirs: [vector()],
    oldStps: [vector()],
    ro: [number(0.25)],
    hDiag: number(2),
    prevFlatGrad: vector(),
    prevLoss: 7,
    al: [number(1), null],
  } as never;
  optimizer.loadStateDict(dict);
  const state = optimizer.state.get(p)!;
  assertEquals([state["t"], state["ro"], state["hDiag"], "al" in state], [0.5, [0.25], 2, false]);
  optimizer.step(() => rosenbrock(p));
});

test("BFGS refuses a matrix that is too large, with its bytes, and names LBFGS", () => {
  const p = new Parameter(new Float32Array(50_000));
  assertThrows(() => new BFGS([p]), RangeError, "5000100000 bytes");
  assertThrows(() => new BFGS([p]), RangeError, "LBFGS");
  new LBFGS([p]);
});

test("BFGS learns from a step whose gradient comes with the next call, without a line search", () => {
  const p = new Parameter(new Float64Array(5)), optimizer = new BFGS([p], { lineSearchFn: null, maxIter: 1, lr: 0.5 });
  optimizer.step(() => bowl([p]));
  const first = optimizer.state.get(p)!;
  assertEquals([first["t"] as number > 0, first["scaled"], optimizer.lastResult!.evaluations], [true, 0, 1]);
  const dict = structuredClone(optimizer.stateDict()), q = new Parameter(p.data.slice() as Float64Array);
  const other = new BFGS([q], { lineSearchFn: null, maxIter: 1, lr: 0.5 });
  other.loadStateDict(dict);
  for (let i = 0; i < 40; i++) {
    optimizer.step(() => bowl([p]));
    other.step(() => bowl([q]));
    assertSame(snapshot(optimizer), snapshot(other), `step ${i}`);
  }
  assertEquals(optimizer.state.get(p)!["scaled"], 1);
  assert(optimizer.lastResult!.loss < 1e-8, `loss ${optimizer.lastResult!.loss}`);
});

test("BFGS curvature damp learns from a step along which the gradient falls, skip does not", () => {
  const matrices = (["skip", "damp"] as const).map((curvature) => {
    const p = new Parameter(Float64Array.of(1, 1)),
      optimizer = new BFGS([p], { lineSearchFn: null, lr: 0.1, maxIter: 4, curvature });
    optimizer.step(() => {
      p.grad = p.data.map((x) => -x) as Float64Array; // a hill: curvature is negative everywhere
      return -(p.data[0]! ** 2 + p.data[1]! ** 2) / 2;
    });
    return optimizer.state.get(p)!;
  });
  assertEquals([...matrices[0]!["h"] as Float64Array], [1, 0, 1]);
  assertEquals([matrices[0]!["scaled"], matrices[1]!["scaled"]], [0, 1]);
  const [a, b, c] = [...matrices[1]!["h"] as Float64Array];
  assert(a! > 0 && a! * c! - b! * b! > 0, "damping keeps H positive definite");
});

test("BFGS scaleInit false begins with the identity", () => {
  const states = [true, false].map((scaleInit) => {
    const p = new Parameter(Float64Array.of(3)), optimizer = new BFGS([p], { scaleInit, maxIter: 1 });
    optimizer.step(() => (p.grad = p.data.map((x) => 100 * x) as Float64Array, 50 * p.data[0]! ** 2));
    return optimizer.state.get(p)!;
  });
  for (const state of states) assert(Math.abs((state["h"] as Float64Array)[0]! - 0.01) < 1e-12); // in one dimension the secant equation is all
  const planes = [true, false].map((scaleInit) => {
    const p = new Parameter(Float64Array.of(1, 0)), optimizer = new BFGS([p], { scaleInit, maxIter: 1 });
    optimizer.step(() => (p.grad = p.data.map((x) => 100 * x) as Float64Array, 50 * p.data[0]! ** 2));
    return [...optimizer.state.get(p)!["h"] as Float64Array].map((x) => Math.round(x * 1e9) / 1e9);
  });
  assertEquals(planes, [[0.01, 0, 0.01], [0.01, 0, 1]]);
});
