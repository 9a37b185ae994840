/** The arithmetic of hyperparameters: whatever it keeps from the last call, the bits are those of a first call. */

import { test } from "node:test";
import { assertStrictEquals } from "@std/assert";
import { NAdam, Parameter } from "../mod.ts";
import { pow, powersOf, powInt, powOf } from "../src/optim/math.ts";
import { assertSameBits } from "./support/bits.ts";
import { ROWS } from "./support/classes.ts";
import { hashNumbers } from "./support/golden.ts";

test("the powers of two decay rates have the bits of powers one by one, whatever was asked before", () => {
  const uniform = hashNumbers(5, 3000, 1).map((x) => (x + 1) / 2),
    rates = [0, 0.5, 0.9, 0.95, 0.999, 0.9999999, 5e-324];
  const exponents = [0, 1, 2, 3, 1000, 2 ** 30, 2 ** 31 - 1, 2 ** 31, 2 ** 40 + 1];
  for (let i = 0; i < 1000; i++) {
    const [a, b, c] = [uniform[3 * i]!, uniform[3 * i + 1]!, uniform[3 * i + 2]!];
    const x = i % 3 === 0 ? a : rates[i % rates.length]!, y = i % 5 === 0 ? rates[3]! : b;
    const n = i % 4 === 0 ? exponents[i % exponents.length]! : Math.floor(c * 10 ** (i % 10));
    const found = powersOf([x, y], n);
    assertStrictEquals(found[0], powInt(x, n), `${x}^${n}`);
    assertStrictEquals(found[1], powInt(y, n), `${y}^${n}`);
  }
});

test("a power in an array has the bits of one that is returned", () => {
  const numbers = new Float64Array(2), odd = [0, 0.25, 0.75, 1, 2, 64, 65, 1e-300, 1e300, Infinity, NaN];
  for (const x of odd) {
    for (const y of [...odd, ...odd.map((y) => -y)]) {
      numbers.set([x, y]);
      powOf(numbers);
      assertStrictEquals(numbers[0], pow(x, y), `${x}^${y}`);
      const inexact = Math.pow(x, y); // Math.pow may differ by a few units in the last place, and so may the underflow
      if (Number.isFinite(inexact) && inexact > 1e-300) {
        const off = Math.abs(pow(x, y) / inexact - 1);
        if (!(off < 1e-12)) throw new Error(`${x}^${y} is ${pow(x, y)}, Math.pow says ${inexact}`);
      }
    }
  }
});

test("NAdam groups whose momenta differ, and steps that begin anew, have the bits of optimizers of their own", () => {
  const options = [{ momentumDecay: 4e-3 }, { momentumDecay: 0.1 }, { betas: [0.5, 0.99] as const }];
  const make = () => {
    const p = new Parameter([1, -2, 3]);
    p.grad = Float32Array.of(0.1, 0.2, -0.3);
    return p;
  };
  const together = options.map(make), apart = options.map(make);
  const one = new NAdam(together.map((p, i) => ({ params: [p], ...options[i] })));
  const first = one.stateDict();
  for (let round = 0; round < 2; round++) {
    for (let i = 0; i < 30; i++) one.step();
    apart.forEach((p, i) => {
      const own = new NAdam([p], options[i]);
      for (let i = 0; i < 30; i++) own.step();
    });
    together.forEach((p, i) => assertSameBits(p.data, apart[i]!.data, "float32", `round ${round}, group ${i}`));
    one.loadStateDict(first); // from step 0 again
  }
});

test("a count of steps that is infinite is one whose powers are 0: a step comes to an end", () => {
  assertStrictEquals(powInt(0, Infinity), 0);
  assertStrictEquals(powInt(0.999, Infinity), 0);
  assertStrictEquals(powInt(-0.5, Infinity), 0);
  assertStrictEquals(powInt(1.5, Infinity), Infinity);
  for (const { name, make } of ROWS) {
    const p = new Parameter([1, 2, 3]), optimizer = new make([p]);
    p.grad = Float32Array.of(1, 1, 1);
    optimizer.step();
    const entry = optimizer.state.get(p);
    if (entry === undefined) continue; // SGD
    entry["step"] = Infinity;
    optimizer.step();
    assertStrictEquals(optimizer.state.get(p)!["step"], Infinity, name);
  }
});
