/** Conversions of the 16-bit dtypes, and integer powers. */

import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { Parameter, SGD } from "../mod.ts";
import { fromBfloat16, fromFloat16, toBfloat16, toFloat16 } from "../src/dtype.ts";
import { powInt } from "../src/optim/math.ts";
import { hashNumbers } from "./support/golden.ts";

const all16 = Uint16Array.from({ length: 65536 }, (_, i) => i);

test("every float16 is read as the runtime's own Float16Array reads it, and written back", () => {
  const own = new Float16Array(all16.slice().buffer);
  for (let i = 0; i < 65536; i++) {
    const x = fromFloat16(i);
    assert(Object.is(x, own[i]), `${i}: ${x}, expected ${own[i]}`);
    if (!Number.isNaN(x)) assertEquals(toFloat16(x), i);
    else assert(Number.isNaN(fromFloat16(toFloat16(x))));
  }
});

test("every bfloat16 is the upper half of a float32, and is written back", () => {
  const bits = new Uint32Array(1), float = new Float32Array(bits.buffer);
  for (let i = 0; i < 65536; i++) {
    bits[0] = i << 16;
    const x = fromBfloat16(i);
    assert(Object.is(x, float[0]));
    if (!Number.isNaN(x)) assertEquals(toBfloat16(x), i);
    else assert(Number.isNaN(fromBfloat16(toBfloat16(x))));
  }
});

test("rounding to float16 is the runtime's own Math.f16round, for ties, overflow and subnormals too", () => {
  const values = [...hashNumbers(1, 20000, 1)].flatMap((v, i) => [v * 2 ** (i % 40 - 24), Math.fround(v * 1.000123)]);
  for (let i = 0; i < 31743; i += 7) values.push((fromFloat16(i) + fromFloat16(i + 1)) / 2); // ties
  values.push(
    65504,
    65519.99,
    65520,
    65536,
    1e30,
    Infinity,
    2 ** -24,
    2 ** -25,
    2 ** -25 * 1.0001,
    2 ** -26,
    1e-45,
    0,
    -0,
  );
  for (const v of values) {
    for (const x of [Math.fround(v), -Math.fround(v)]) {
      const want = Math.f16round(x), got = fromFloat16(toFloat16(x));
      assert(Object.is(got, want), `${x}: ${got}, expected ${want}`);
    }
  }
});

test("rounding to bfloat16 is to nearest, ties to even", () => {
  assertEquals(toBfloat16(1 + 2 ** -8), 0x3f80);
  assertEquals(toBfloat16(1 + 3 * 2 ** -8), 0x3f82);
  assertEquals(toBfloat16(1 + 2 ** -8 + 2 ** -20), 0x3f81);
  assertEquals(toBfloat16(3.4e38), 0x7f80);
  assertEquals(toBfloat16(-Infinity), 0xff80);
});

test("a float16 parameter may be a Float16Array or a Uint16Array, with the same bits", () => {
  const halves = Float16Array.from(hashNumbers(3, 100, 2)), bits = new Uint16Array(halves.slice().buffer);
  const a = new Parameter(halves), b = new Parameter(bits, { dtype: "float16" });
  a.grad = Float16Array.from(hashNumbers(4, 100, 2));
  b.grad = new Uint16Array(a.grad.slice().buffer);
  for (const options of [{ fused: true }, { foreach: false, fused: false }]) {
    for (const p of [a, b]) new SGD([p], { lr: 0.1, momentum: 0.9, ...options }).step();
    assertEquals([...bits], [...new Uint16Array(halves.buffer)]);
  }
});

test("plain numbers become parameters of any dtype", () => {
  assertEquals(new Parameter([1, 2]).data, Float32Array.of(1, 2));
  assertEquals(new Parameter([1, 2], { dtype: "float64" }).data, Float64Array.of(1, 2));
  assertEquals([...new Parameter([1, -2], { dtype: "bfloat16" }).data], [0x3f80, 0xc000]);
  assertEquals([...new Parameter([1, -2], { dtype: "float16" }).data], [1, -2]);
  assertEquals(new Parameter([], { shape: [0, 3] }).size, 0);
  assertEquals(new Parameter([7], { shape: [] }).size, 1);
});

test("powInt() is the power, for any exponent", () => {
  assertEquals([powInt(0.5, 0), powInt(0.5, 1), powInt(0.5, 10), powInt(0, 0), powInt(0, 5), powInt(2, 52)], [
    1,
    0.5,
    2 ** -10,
    1,
    0,
    2 ** 52,
  ]);
  for (const x of [0.9, 0.999, 0.9999]) {
    for (const n of [1, 2, 3, 17, 1000, 12345]) {
      const want = Math.pow(x, n);
      assert(Math.abs(powInt(x, n) - want) <= 1e-12 * want * Math.max(1, n / 1000), `${x} ** ${n}`);
    }
  }
  assertEquals(powInt(0.999, 2 ** 40 + 1), 0);
});
