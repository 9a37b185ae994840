/**
 * How far a float32 trajectory is from the float64 truth of the same inputs.
 *
 * @module
 */

import type { AnyOptimizer } from "./classes.ts";
import { makeGroups, numbers, type OptimizerCase, plain, revive, sample, typed, ulp, type Written } from "./golden.ts";

/** The largest and the mean error of the parameters, in float32 units in the last place of each element's scale. */
export function errorsAgainstTruth(c: OptimizerCase, make: AnyOptimizer): { maxUlp: number; meanUlp: number } {
  const { params, groups } = makeGroups(c.groups, c.dtype);
  const optimizer = new make(groups, revive(c.options));
  const scales = params.map((p) => plain(p.data, c.dtype).map(Math.abs));
  for (const step of c.steps) {
    for (const { group, ...changes } of step.setOptions ?? []) {
      Object.assign(optimizer.paramGroups[group]!, revive(changes));
    }
    params.forEach((p, i) => p.grad = step.grads[i] ? typed(numbers(step.grads[i] as Written), c.dtype) : null);
    optimizer.step();
    step.expectParams?.forEach((expected, i) => {
      const want = sample(expected), scale = scales[i]!;
      if (!want.at) {
        want.values.forEach((v, k) => scale[k] = Number.isFinite(v) ? Math.max(scale[k]!, Math.abs(v)) : scale[k]!);
      }
    });
  }
  let most = 0, sum = 0, n = 0;
  c.truthParams!.forEach((expected, i) => {
    const want = sample(expected), all = plain(params[i]!.data, c.dtype);
    want.values.forEach((truth, k) => {
      const scale = Math.max(want.at ? 2 : scales[i]![k]!, Math.abs(truth));
      const off = Math.abs(all[want.at ? want.at[k]! : k]! - truth) / ulp(scale, "float32");
      if (!Number.isFinite(off)) return;
      most = Math.max(most, off);
      sum += off;
      n++;
    });
  });
  return { maxUlp: most, meanUlp: n ? sum / n : 0 };
}
