/**
 * The rules of the multi-tensor operations: csrc/rules/ once more, in TypeScript.
 *
 * @module
 */

import type { Rule } from "../ffi/backend.ts";

/** The flag of `add`, `mul` and `div`: the other operand is a tensor, not a number. */
export const TENSOR = 1;

/** self = self + weight (end - self), as torch rounds it. */
export const LERP_RULE: Rule = {
  name: "lerp",
  buffers: ["self:rw", "end:r"],
  hypers: ["weight", "complement"],
  flags: [],
  body(round, _flags, h, buffers, n) {
    const [weight, complement] = h as Two, [self, end] = buffers as Pair;
    for (let i = 0; i < n; i++) {
      const from = self[i]!, to = end[i]!, d = round(to - from);
      self[i] = weight < 0.5 ? round(from + round(weight * d)) : round(to - round(complement * d));
    }
  },
};

/** self = self + alpha other. */
export const ADD_RULE: Rule = {
  name: "add",
  buffers: ["self:rw", "other:r"],
  hypers: ["alpha", "value"],
  flags: ["tensor"],
  body(round, flags, h, buffers, n) {
    const [alpha, value] = h as Two, [self, other] = buffers as Pair, tensor = (flags & TENSOR) !== 0;
    for (let i = 0; i < n; i++) self[i] = round(self[i]! + round(alpha * (tensor ? other[i]! : value)));
  },
};

/** self = self other. */
export const MUL_RULE: Rule = {
  name: "mul",
  buffers: ["self:rw", "other:r"],
  hypers: ["value"],
  flags: ["tensor"],
  body(round, flags, h, buffers, n) {
    const [value] = h as Two, [self, other] = buffers as Pair, tensor = (flags & TENSOR) !== 0;
    for (let i = 0; i < n; i++) self[i] = round(self[i]! * (tensor ? other[i]! : value));
  },
};

/** self = self / other. */
export const DIV_RULE: Rule = {
  name: "div",
  buffers: ["self:rw", "other:r"],
  hypers: ["value"],
  flags: ["tensor"],
  body(round, flags, h, buffers, n) {
    const [value] = h as Two, [self, other] = buffers as Pair, tensor = (flags & TENSOR) !== 0;
    for (let i = 0; i < n; i++) self[i] = round(self[i]! / (tensor ? other[i]! : value));
  },
};

/** self = self + (value a) b. */
export const ADDCMUL_RULE: Rule = {
  name: "addcmul",
  buffers: ["self:rw", "a:r", "b:r"],
  hypers: ["value"],
  flags: [],
  body(round, _flags, h, buffers, n) {
    const [value] = h as Two, [self, a, b] = buffers as Three;
    for (let i = 0; i < n; i++) self[i] = round(self[i]! + round(round(value * a[i]!) * b[i]!));
  },
};

/** self = self + (value a) / b. */
export const ADDCDIV_RULE: Rule = {
  name: "addcdiv",
  buffers: ["self:rw", "a:r", "b:r"],
  hypers: ["value"],
  flags: [],
  body(round, _flags, h, buffers, n) {
    const [value] = h as Two, [self, a, b] = buffers as Three;
    for (let i = 0; i < n; i++) self[i] = round(self[i]! + round(round(value * a[i]!) / b[i]!));
  },
};

/** self = sqrt(self). */
export const SQRT_RULE: Rule = {
  name: "sqrt",
  buffers: ["self:rw"],
  hypers: [],
  flags: [],
  body(round, _flags, _h, buffers, n) {
    const [self] = buffers as Pair;
    for (let i = 0; i < n; i++) self[i] = round(Math.sqrt(self[i]!));
  },
};

/** self = max(self, other), a NaN if there is one. */
export const MAXIMUM_RULE: Rule = {
  name: "maximum",
  buffers: ["self:rw", "other:r"],
  hypers: [],
  flags: [],
  body(_round, _flags, _h, buffers, n) {
    const [self, other] = buffers as Pair;
    for (let i = 0; i < n; i++) {
      const x = self[i]!, y = other[i]!;
      self[i] = x >= y || x !== x ? x : y;
    }
  },
};

/** out = x factor: a gradient on its way into a rule. */
export const SCALE_RULE: Rule = {
  name: "scale",
  buffers: ["out:rw", "x:r"],
  hypers: ["factor"],
  flags: [],
  body(round, _flags, h, buffers, n) {
    const [factor] = h as Two, [out, x] = buffers as Pair;
    for (let i = 0; i < n; i++) out[i] = round(x[i]! * factor);
  },
};

/** self = min(max(self, -limit), limit). */
export const CLAMP_RULE: Rule = {
  name: "clamp",
  buffers: ["self:rw"],
  hypers: ["limit"],
  flags: [],
  body(_round, _flags, h, buffers, n) {
    const [limit] = h as Two, [self] = buffers as Pair;
    for (let i = 0; i < n; i++) {
      const x = self[i]!;
      self[i] = x < -limit ? -limit : x > limit ? limit : x;
    }
  },
};

type Two = [number, number];
type Pair = [Float64Array, Float64Array];
type Three = [Float64Array, Float64Array, Float64Array];
