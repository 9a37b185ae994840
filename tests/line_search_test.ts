/** Line searches on functions of one variable: conditions, evaluations, values that are not finite, and what has failed elsewhere. */

import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { hagerZhang } from "../src/line_search/hager_zhang.ts";
import { type Found, type Point, runSearch } from "../src/line_search/line_search.ts";
import { cubicMinimum, strongWolfe } from "../src/line_search/strong_wolfe.ts";

type Phi = (a: number) => { value: number; slope: number };

const pointOf = (phi: Phi, alpha: number): Point => ({ alpha, ...phi(alpha) });

/** Runs a search, and keeps what it asked for. */
function search(name: "strong_wolfe" | "hager_zhang", phi: Phi, first: number, maxTrials = 40) {
  const start = pointOf(phi, 0), asked: number[] = [];
  const run = name === "strong_wolfe"
    ? strongWolfe(start, first, { maxTrials })
    : hagerZhang(start, first, { limit: start.value + 1e-6 * Math.abs(start.value), maxTrials });
  const found = runSearch(run, (a) => {
    asked.push(a);
    return phi(a);
  });
  assertEquals(found.evaluations, asked.length);
  return { ...found, start, asked };
}

const SEARCHES = ["strong_wolfe", "hager_zhang"] as const;

/** Throws unless a point satisfies the conditions of its search. */
function assertWolfe(name: typeof SEARCHES[number], { point, ok, start }: Found & { start: Point }): void {
  assert(ok, "the search has failed");
  if (name === "strong_wolfe") {
    assert(point.value <= start.value + 1e-4 * point.alpha * start.slope, "no sufficient decrease");
    assert(Math.abs(point.slope) <= -0.9 * start.slope, "too steep");
  } else {
    assert(point.slope >= 0.9 * start.slope, "too steep");
    const decrease = point.value - start.value <= 0.1 * point.alpha * start.slope;
    assert(decrease || point.slope <= (2 * 0.1 - 1) * start.slope, "neither condition");
  }
}

/** The functions of Moré & Thuente 1994, "Line search algorithms with guaranteed sufficient decrease", section 5. */
const MORE_THUENTE: Record<string, Phi> = {
  "5.1, a minimum far from 0": (a) => ({ value: -a / (a * a + 2), slope: (a * a - 2) / (a * a + 2) ** 2 }),
  "5.2, a narrow valley": (a) => {
    const b = a + 0.004;
    return { value: b ** 5 - 2 * b ** 4, slope: 5 * b ** 4 - 8 * b ** 3 };
  },
  "5.3, many waves": (a) => {
    const beta = 0.01, l = 39, w = l * Math.PI / 2;
    const [v, s] = a <= 1 - beta
      ? [1 - a, -1]
      : a >= 1 + beta
      ? [a - 1, 1]
      : [(a - 1) ** 2 / (2 * beta) + beta / 2, (a - 1) / beta];
    return { value: v + 2 * (1 - beta) / (l * Math.PI) * Math.sin(w * a), slope: s + (1 - beta) * Math.cos(w * a) };
  },
  ...Object.fromEntries(
    [[0.001, 0.001], [0.01, 0.001], [0.001, 0.01]].map(([b1, b2], i) => {
      const gamma = (b: number) => Math.sqrt(1 + b * b) - b, [g1, g2] = [gamma(b1!), gamma(b2!)];
      const left = (a: number) => Math.sqrt((1 - a) ** 2 + b2! ** 2),
        right = (a: number) => Math.sqrt(a * a + b1! ** 2);
      return [`5.4 ${b1} ${b2}, number ${4 + i}`, (a: number) => ({
        value: g1 * left(a) + g2 * right(a),
        slope: g1 * (a - 1) / left(a) + g2 * a / right(a),
      })];
    }),
  ),
};

for (const name of SEARCHES) {
  for (const [what, phi] of Object.entries(MORE_THUENTE)) {
    for (const first of [1e-3, 1e-1, 10, 1e3]) {
      test(`${name} satisfies its conditions on Moré & Thuente's function ${what}, from ${first}`, () => {
        const found = search(name, phi, first);
        assertWolfe(name, found);
        assert(found.evaluations <= 20, `${found.evaluations} evaluations`);
      });
    }
  }

  test(`${name} takes the first trial if it will do`, () => {
    const found = search(name, (a) => ({ value: (a - 1) ** 2, slope: 2 * (a - 1) }), 1);
    assertEquals([found.ok, found.point.alpha, found.evaluations], [true, 1, 1]);
  });

  for (const bad of [NaN, Infinity, -Infinity]) {
    test(`${name} shrinks its step where the loss is ${bad}, and never ends there`, () => {
      const phi: Phi = (a) => a > 1e-3 ? { value: bad, slope: bad } : { value: (a - 5e-4) ** 2, slope: 2 * (a - 5e-4) };
      const found = search(name, phi, 1);
      assertWolfe(name, found);
      assert(found.point.alpha <= 1e-3);
      assertEquals(found.asked.slice(0, 4), [1, 0.1, 0.1 * 0.1, 0.1 * (0.1 * 0.1)]);
    });

    test(`${name} ends at the start where everything else is ${bad}`, () => {
      const found = search(name, (a) => a > 0 ? { value: bad, slope: 1 } : { value: 1, slope: -1 }, 1);
      assertEquals([found.ok, found.point.alpha], [false, 0]);
    });
  }

  test(`${name} shrinks its step where only the slope is not finite`, () => {
    const phi: Phi = (a) => ({ value: (a - 0.05) ** 2, slope: a > 0.2 ? NaN : 2 * (a - 0.05) });
    const found = search(name, phi, 1);
    assertWolfe(name, found);
    assert(found.point.alpha <= 0.2);
  });

  test(`${name} does not step over a wall that it has seen while it extrapolates`, () => {
    // falls until the wall at 3: the step grows from 0.1, meets NaN, and comes back to before it
    const phi: Phi = (a) =>
      a >= 3 ? { value: NaN, slope: NaN } : { value: -Math.log(3 - a) - 2 * a, slope: 1 / (3 - a) - 2 };
    const found = search(name, phi, 0.1);
    assertWolfe(name, found);
    assert(found.point.alpha < 3);
    const wall = found.asked.findIndex((a) => a >= 3);
    if (wall >= 0) assert(found.asked.slice(wall + 1).every((a) => a < found.asked[wall]!), `asked for ${found.asked}`);
  });

  test(`${name} on a function that falls for ever makes no more trials than it may`, () => {
    const found = search(name, (a) => ({ value: -a, slope: -1 }), 1, 7);
    assertEquals(found.evaluations, 8);
    assertEquals(found.ok, false);
    assert(found.point.value < 0 && Number.isFinite(found.point.value));
  });

  test(`${name} gives up where the function only rises, at the start`, () => {
    const found = search(name, (a) => ({ value: a, slope: a === 0 ? -1 : 1 }), 1, 5000);
    assertEquals([found.ok, found.point.alpha], [false, 0]);
    assert(found.evaluations < 1200, "it goes on although there is no number left to try");
  });

  test(`${name} keeps what it may still return`, () => {
    const phi = MORE_THUENTE["5.3, many waves"]!, start = pointOf(phi, 0), known = new Set<Point>([start]);
    const run = name === "strong_wolfe"
      ? strongWolfe(start, 1e-3, { maxTrials: 40 })
      : hagerZhang(start, 1e-3, { limit: start.value + 1e-6, maxTrials: 40 });
    let next = run.next(), last: Point | null = null;
    while (!next.done) {
      const { alpha, keep } = next.value;
      for (const p of keep) assert(known.has(p), "it keeps a point that it gave up before");
      known.clear();
      known.add(start);
      for (const p of keep) known.add(p);
      last = pointOf(phi, alpha);
      known.add(last);
      next = run.next(last);
    }
    assert(known.has(next.value.point), "it returns a point that it gave up before");
  });
}

test("strong_wolfe does not run away from a NaN as torch's does (pytorch#5953)", () => {
  // With torch every comparison with NaN is false, so the trial step grows about fivefold each time: 1, 5.05, 25.3, …
  const { asked, ok } = search(
    "strong_wolfe",
    (a) => a > 0.5 ? { value: NaN, slope: NaN } : { value: (a - 0.3) ** 2, slope: 2 * (a - 0.3) },
    1,
  );
  assert(ok);
  assert(Math.max(...asked) === 1, `asked for ${asked}`);
});

test("hager_zhang ends near a minimum whose value hides in rounding, where a search for decrease does not (Brown & Dennis)", () => {
  // a unit in the last place of the value is 1.5e-11: it has gone up by rounding, where phi has gone down by 1e-12
  const phi: Phi = (a) => ({ value: 85822.2016263563 + (a > 0 ? 1.5e-11 : 0), slope: 2e-12 * (a - 1) });
  assert(phi(1).value > phi(0).value);
  const found = search("hager_zhang", phi, 1.5);
  assertEquals([found.ok, found.point.alpha], [true, 1.5]);
  const other = search("strong_wolfe", phi, 1.5);
  assertEquals([other.ok, other.point.alpha], [false, 0]);
});

test("strong_wolfe narrows its bracket by at least a tenth where the cubic lies at an end (torch's insufficient progress)", () => {
  // a kink: the cubic through both ends lies next to the steep side each time
  const phi: Phi = (a) => a < 0.01 ? { value: -a, slope: -1 } : { value: -0.01 + 100 * (a - 0.01), slope: 100 };
  const { asked, ok } = search("strong_wolfe", phi, 1, 5000);
  assertEquals(ok, false); // there is no point that satisfies the second condition
  assert(asked.length < 500, `${asked.length} trials: 0.9^350 is 1e-16`);
});

test("cubicMinimum is where the cubic through two points and slopes is lowest", () => {
  const cubic = (a: number) => ({ alpha: a, value: a ** 3 - 3 * a, slope: 3 * a * a - 3 }); // a minimum at 1
  assert(Math.abs(cubicMinimum(cubic(0), cubic(3), 0, 3) - 1) < 1e-12);
  assert(Math.abs(cubicMinimum(cubic(3), cubic(0), 0, 3) - 1) < 1e-12);
  assertEquals(cubicMinimum(cubic(0), cubic(3), 1.5, 3), 1.5);
  assertEquals(cubicMinimum(cubic(0), cubic(3), 0, 0.5), 0.5);
  const rising = (a: number) => ({ alpha: a, value: a ** 3 + a, slope: 3 * a * a + 1 }); // none
  assertEquals(cubicMinimum(rising(0), rising(2), 0, 2), 1);
  assertEquals(cubicMinimum(cubic(1), cubic(1), 0, 2), 1);
});
