/**
 * The shape sets that are timed: one tensor, GPT-2's, and many small ones.
 *
 * @module
 */

import { Parameter } from "../mod.ts";

/** The shapes of a model's tensors. */
export type Shapes = readonly (readonly number[])[];

function repeat(n: number, shape: readonly number[]): Shapes {
  return Array.from({ length: n }, () => shape);
}

/** GPT-2 small: 148 tensors, 124,439,808 elements. The output layer is the token embedding again, and counts once. */
function gpt2(): Shapes {
  const d = 768, tokens = 50257, positions = 1024, layers = 12;
  const norm = [[d], [d]];
  const attention = [[d, 3 * d], [3 * d], [d, d], [d]];
  const mlp = [[d, 4 * d], [4 * d], [4 * d, d], [d]];
  const block = [...norm, ...attention, ...norm, ...mlp];
  return [[tokens, d], [positions, d], ...Array.from({ length: layers }, () => block).flat(), ...norm];
}

/** The sets, by name. */
export const SHAPE_SETS = {
  "1x16M": [[16 * 1024 * 1024]],
  "gpt2": gpt2(),
  "1000x1000": repeat(1000, [1000]),
  "10000x64": repeat(10000, [64]),
  "1x1000": [[1000]],
} as const satisfies Record<string, Shapes>;

/** A set's name. */
export type ShapeSet = keyof typeof SHAPE_SETS;

/** All names. */
export const SET_NAMES = Object.keys(SHAPE_SETS) as ShapeSet[];

/** The number of elements of a shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

/** The number of elements of a whole set. */
export function elementsOf(shapes: Shapes): number {
  return shapes.reduce((sum, shape) => sum + sizeOf(shape), 0);
}

/** Parameters of these shapes, between -1 and 1, without gradients. */
export function makeParameters(shapes: Shapes): Parameter[] {
  return shapes.map((shape) => {
    const data = new Float32Array(sizeOf(shape));
    for (let i = 0; i < data.length; i++) data[i] = (i * 2654435761 >>> 8) / 2 ** 23 - 1;
    return new Parameter(data, { shape });
  });
}

/**
 * A new gradient array for every parameter.
 *
 * All are positive: the traffic limit adds them to the averages of squares, which have to stay what they could be. No number
 * becomes subnormal, which would be slow and is no case of its own here.
 */
export function setNewGradients(params: readonly Parameter[]): void {
  for (const p of params) {
    const grad = new Float32Array(p.size);
    for (let i = 0; i < grad.length; i++) grad[i] = 1e-3 + (i & 255) * 1e-5;
    p.grad = grad;
  }
}
