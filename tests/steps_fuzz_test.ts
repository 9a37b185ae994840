/**
 * Random sequences of what users do between steps, done to several optimizers at once: one that has the fast path of repeated
 * steps, one in compiled code, one that is made anew for every step, and one that is spared the steps that fail or are skipped.
 * After each action they must have the same bits, and the same errors.
 */

import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { SparseTensor, type TypedArray } from "../mod.ts";
import { isTypedArray } from "../src/dtype.ts";
import { stateOf } from "../src/optim/optimizer.ts";
import { type Row, ROWS, SPARSE_ADAM } from "./support/classes.ts";
import { type Action, another, Dice, gradients, setOption, step, Subject } from "./support/steps.ts";

const CASES = 20, LIMIT = { timeout: 120_000 };

const text = (x: unknown): string =>
  isTypedArray(x)
    ? `${x.constructor.name} ${x}`
    : x instanceof SparseTensor
    ? `${x.indices}: ${x.values}`
    : Object.is(x, -0)
    ? "-0"
    : String(x);

/** Every NaN counts as one value. */
function sameNumbers(a: TypedArray, b: TypedArray): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) return false;
  return true;
}

/** Everything, without a look at `optimizer.state`. */
function everything(subject: Subject): string {
  const { optimizer, params } = subject, state = stateOf(optimizer);
  state.catchUp();
  const entries = params.map((p) => Object.entries(state.get(p) ?? {}).sort().map(([key, x]) => `${key} ${text(x)}`));
  const groups = optimizer.paramGroups.map(({ params: _, foreach: _a, fused: _b, ...options }) => options);
  return JSON.stringify([
    params.map((p) => text(p.data)),
    entries,
    groups.map((group) => Object.entries(group).map(String)),
  ]);
}

/** Counts of what has come about. */
const met = { good: 0, failed: 0, skipped: 0 };

/** Does one thing to all; returns the same for all, or throws. */
function doTo(subjects: readonly Subject[], action: Action, log: string[]): void {
  const outcomes: string[] = [];
  let vain = false;
  for (const subject of subjects) {
    if (action.only?.includes(subject.role) === false) continue;
    if (subject.role === "rebuilt" && action.label.startsWith("step")) subject.rebuild();
    if (subject.role === "spared" && vain) continue;
    let outcome: string;
    try {
      outcome = `returns ${action.run(subject)}`;
    } catch (error) {
      outcome = String(error);
    }
    const { lastStep } = subject.optimizer, failed = !outcome.startsWith("returns");
    if (action.step && !failed) outcome += JSON.stringify(lastStep);
    if (outcomes.push(outcome) > 1 || !action.step) continue;
    const skipped = lastStep?.skipped === true;
    met[failed ? "failed" : skipped ? "skipped" : "good"]++;
    vain = (failed || skipped) && !subject.hooked; // hooks do something in any case
  }
  log.push(`${action.label}: ${outcomes[0] ?? ""}`);
  if (outcomes.some((outcome) => outcome !== outcomes[0])) {
    throw new Error(`${outcomes.join("\n")}\nafter ${log.join("\n")}`);
  }
  for (const subject of subjects) {
    const i = subject.params.findIndex((p, i) => !sameNumbers(p.data, subjects[0]!.params[i]!.data));
    if (i >= 0) throw new Error(`parameter ${i} of the ${subject.role} one is another after ${log.join("\n")}`);
  }
}

function runCase(row: Row, seed: number): void {
  const first = new Dice(seed),
    variant = first.of(row.variants),
    log = [`${row.name} ${JSON.stringify(variant)}, seed ${seed}`];
  const sparse = row === SPARSE_ADAM || (["SGD", "Adagrad"].includes(row.name) && first.below(3) === 0);
  const subjects = (["plain", "compiled", "rebuilt", "spared"] as const).map((role) =>
    new Subject(role, row, variant, seed)
  );
  const begin = new Dice(seed * 1000), plain: Action = { label: "step", step: true, run: (s) => s.optimizer.step() };
  if (seed % 4 === 1) { // the first step is skipped, and the next one has other options
    doTo(subjects, gradients(begin, false, "not finite"), log);
    doTo(subjects, step(begin, { maxGradNorm: 1 }), log);
    doTo(subjects, setOption(begin, "lr", 0.1 * seed), log);
    doTo(subjects, gradients(begin, sparse, "new"), log);
  }
  for (let i = 1; i <= 30; i++) {
    const dice = new Dice(seed * 1000 + i), roll = dice.below(10);
    doTo(
      subjects,
      roll < 3 ? gradients(dice, sparse) : roll < 6 ? step(dice) : roll < 7 ? setOption(dice) : another(dice),
      log,
    );
    for (let k = dice.below(4); k > 0; k--) doTo(subjects, plain, log);
  }
  const expected = everything(subjects[0]!);
  for (const subject of subjects) assertEquals(everything(subject), expected, `${subject.role}\n${log.join("\n")}`);
}

for (const row of [...ROWS, SPARSE_ADAM]) {
  test(
    `${row.name}: whatever is done between steps, fast, rebuilt and compiled ones have the same bits and errors`,
    LIMIT,
    () => {
      for (let seed = 1; seed <= CASES; seed++) runCase(row, seed);
    },
  );
}

test("the sequences have steps of every kind", () => {
  assert(
    met.good > 3000 && met.failed > 1000 && met.skipped > 30,
    JSON.stringify(met),
  );
});
