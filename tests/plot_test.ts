/** Pictures of schedules. */

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import {
  AdamW,
  CosineAnnealingLR,
  CyclicLR,
  ExponentialLR,
  LambdaLR,
  LRScheduler,
  OneCycleLR,
  plotSchedule,
  ReduceLROnPlateau,
  SGD,
  StepLR,
} from "../mod.ts";
import { IS_BUN, ROOT, run } from "./support/runtime.ts";

const one = () => new SGD([new Float32Array(1)], { lr: 0.1, momentum: 0.9 });
const two = (name: string) =>
  new AdamW([{ params: [new Float32Array(1)], name }, { params: [new Float32Array(1)], lr: 0.03 }], { lr: 0.1 });

/** Holds that a text is one XML element, all closed and escaped; gives the texts in it. */
function textsOf(svg: string): string[] {
  const open: string[] = [], texts: string[] = [];
  let ended = false;
  for (const [token] of svg.matchAll(/<[^>]*>|[^<]+/g)) {
    assert(!ended, `${token} comes after the end`);
    if (!token.startsWith("<")) {
      assert(!/&(?!(amp|lt|gt|quot|apos|#\d+);)|>/.test(token), `${token} is not escaped`);
      texts.push(token);
    } else if (token.startsWith("</")) {
      assertEquals(token, `</${open.pop()}>`);
      ended = open.length === 0;
    } else {
      const tag = /^<([a-zA-Z]+)((?: [\w:-]+="[^"<&]*(?:&\w+;[^"<&]*)*")*)\s*\/?>$/.exec(token);
      assert(tag, `${token} is no tag`);
      if (!token.endsWith("/>")) open.push(tag[1]!);
    }
  }
  assert(ended, `${open} is not closed`);
  return texts;
}

/** The lines of a picture: their colours, dashes, and how many points they have. */
function linesOf(svg: string): { color: string; dashes: string; points: number }[] {
  return [...svg.matchAll(/<path aria-[^>]*>|<path [^>]*>/g)].map(([path]) => path)
    .filter((path) => /stroke-width="2"/.test(path) && /stroke-linejoin="round"/.test(path))
    .map((path) => ({
      color: /stroke="([^"]*)"/.exec(path)![1]!,
      dashes: /stroke-dasharray="([^"]*)"/.exec(path)?.[1] ?? "",
      points: [.../ d="([^"]*)"/.exec(path)![1]!.matchAll(/[ML]/g)].length,
    }));
}

test("several schedulers are lines with a legend, a title, a subtitle and titled axes", async () => {
  const svg = await plotSchedule({
    cosine: new CosineAnnealingLR(one(), { tMax: 100 }),
    "one cycle": new OneCycleLR(one(), { maxLr: 0.2, totalSteps: 100 }),
    halves: new StepLR(one(), { stepSize: 30, gamma: 0.5 }),
  }, 100);
  const texts = textsOf(svg);
  for (const text of ["lr over 100 steps", "steps", "lr", "cosine", "one cycle", "halves"]) {
    assert(texts.includes(text), `${text} is not among ${texts}`);
  }
  assertStringIncludes(texts.join(" "), "cosine: CosineAnnealingLR on SGD, one cycle: OneCycleLR on SGD,");
  const lines = linesOf(svg);
  assertEquals(lines.length, 3);
  assertEquals(new Set(lines.map((line) => line.color)).size, 3);
  const width = Number(/width="(\d+)"/.exec(svg)![1]);
  assert(width > 760 && width < 840, `the picture is ${width} pixels wide`);
});

test("groups that differ are dashed lines by name or number, groups alike are one line", async () => {
  const exponential = (name: string) => new ExponentialLR(two(name), { gamma: 0.9 });
  const svg = await plotSchedule({ ExponentialLR: exponential("weights") }, 20), texts = textsOf(svg);
  assert(texts.includes("weights") && texts.includes("group 1"), String(texts));
  assert(
    texts.includes("ExponentialLR on AdamW&apos;s 2 groups") || texts.includes("ExponentialLR on AdamW's 2 groups"),
  );
  assertEquals(new Set(linesOf(svg).map((line) => line.dashes)).size, 2);

  const alike = await plotSchedule(
    { decay: new CosineAnnealingLR(two("weights"), { tMax: 20, field: "weightDecay" }) },
    20,
  );
  assertEquals(linesOf(alike).length, 1);
  assert(!textsOf(alike).includes("weights"));
  assert(textsOf(alike).includes("weightDecay"), "the axis has the field's name");
});

test("schedulers of two fields are drawn in two panels", async () => {
  const texts = textsOf(
    await plotSchedule({
      rate: new ExponentialLR(one(), { gamma: 0.9 }),
      momentum: new CosineAnnealingLR(one(), { tMax: 20, field: "momentum" }),
    }, 20),
  );
  assert(
    texts.includes("lr, momentum over 20 steps") && texts.includes("lr") && texts.includes("momentum"),
    String(texts),
  );
});

test("names are escaped, shortened, and without what an SVG must not have", async () => {
  const name = `a <b> & "c" 'd'\0\n` + "x".repeat(200);
  const texts = textsOf(await plotSchedule({ [name]: new LambdaLR(two("<&>"), { lrLambda: (t) => 1 / (1 + t) }) }, 5));
  assertStringIncludes(texts.join(" "), "a &lt;b&gt; &amp; ");
  assert(texts.includes("&lt;&amp;&gt;"), String(texts));
  // deno-lint-ignore no-control-regex -- these are what is looked for
  assert(!/[\x00-\x09\x0b-\x1f]/.test(texts.join("")));
});

test("steps that do not show are thinned out, peaks are kept", async () => {
  const fast = new CyclicLR(one(), { baseLr: 1e-5, maxLr: 1e-4, stepSizeUp: 50 });
  const svg = await plotSchedule({ fast }, 50_000);
  textsOf(svg);
  assert(svg.length < 100_000, `${svg.length} letters`);
  const points = linesOf(svg)[0]!.points;
  assert(points > 1000 && points <= 1300, `${points} points`);
});

test("drawing changes nothing in optimizers and schedulers, and the present values are the first", async () => {
  const optimizer = one(), scheduler = new OneCycleLR(optimizer, { maxLr: 0.2, totalSteps: 50 });
  for (let i = 0; i < 7; i++) {
    optimizer.step();
    scheduler.step();
  }
  const before = structuredClone([optimizer.stateDict(), scheduler.stateDict(), optimizer.stepCount]);
  const ahead = scheduler.values(43), svg = await plotSchedule({ scheduler }, 43);
  assertEquals(structuredClone([optimizer.stateDict(), scheduler.stateDict(), optimizer.stepCount]), before);
  assertEquals(scheduler.values(43), ahead);
  assert(textsOf(svg).includes("steps from now"));
  await assertRejects(() => plotSchedule({ scheduler }, 1000), RangeError);
  assertEquals(structuredClone([optimizer.stateDict(), scheduler.stateDict(), optimizer.stepCount]), before);
});

test("a schedule that stays where it is, and a class of one's own, can be drawn", async () => {
  class Own extends LRScheduler {
    override getLr(): number[] {
      return this.baseLrs.map((base) => base + 0 * this.lastEpoch);
    }
  }
  const svg = await plotSchedule({ own: new Own(one()) }, 2);
  textsOf(svg);
  assert(!/NaN|Infinity|undefined/.test(svg));
});

test("wrong arguments are errors that name them", async () => {
  const scheduler = new StepLR(one(), { stepSize: 3 }), plateau = new ReduceLROnPlateau(one());
  const plot = plotSchedule as (...args: unknown[]) => Promise<string>;
  for (const wrong of [undefined, null, 3, scheduler]) {
    await assertRejects(() => plot(wrong, 10), TypeError, "schedulers must be an object of schedulers by name");
  }
  await assertRejects(() => plot({}, 10), RangeError, "schedulers must have at least one scheduler, got none");
  await assertRejects(() => plot({ a: scheduler, b: 3 }, 10), TypeError, 'schedulers["b"] must be a scheduler, got 3');
  await assertRejects(
    () => plot({ scheduler, plateau }, 10),
    TypeError,
    'schedulers["plateau"] must have values ahead, got a ReduceLROnPlateau',
  );
  for (const wrong of [undefined, "10", null]) {
    await assertRejects(() => plot({ scheduler }, wrong), TypeError, "steps must be a number, got");
  }
  for (const wrong of [1, 0, -3, 2.5, NaN, Infinity]) {
    await assertRejects(() => plot({ scheduler }, wrong), RangeError, `steps must be an integer >= 2, got ${wrong}`);
  }
});

test("without vega the error says what to install", { timeout: 180_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-plot-"));
  try {
    for (const part of ["mod.ts", "src", "ffi"]) cpSync(join(ROOT, part), join(folder, part), { recursive: true });
    const program = join(folder, "program.ts");
    writeFileSync(join(folder, "deno.json"), "{}");
    writeFileSync(
      program,
      `import { plotSchedule, SGD, StepLR } from "./mod.ts";
      const scheduler = new StepLR(new SGD([new Float32Array(1)]), { stepSize: 3 });
      await plotSchedule({ scheduler }, 10).catch((error) => console.log(error.name, error.message));`,
    );
    const args = IS_BUN ? ["--no-install", program] : ["run", "-A", "--quiet", "--no-prompt", program];
    const { code, stdout, stderr } = await run(process.execPath, args, { env: { FLATSTEP_BACKEND: "js" } });
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^Error plotSchedule draws with the npm packages vega and vega-lite, which cannot be loaded: /);
    assertStringIncludes(stdout, '"deno add npm:vega npm:vega-lite" or "bun add vega vega-lite"');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("docs/schedules.svg is what examples/plot_schedules.ts draws", { timeout: 180_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-plot-")), out = join(folder, "schedules.svg");
  try {
    const path = "examples/plot_schedules.ts";
    const args = [...(IS_BUN ? [path] : ["run", "-A", "--quiet", path]), `--out=${out}`];
    const { code, stderr } = await run(process.execPath, args);
    assertEquals(code, 0, stderr);
    const svg = readFileSync(out, "utf8");
    assertEquals(
      svg === readFileSync(join(ROOT, "docs", "schedules.svg"), "utf8"),
      true,
      "run: deno run -A examples/plot_schedules.ts",
    );
    assert(svg.length < 200_000);
    const texts = textsOf(svg);
    for (const name of ["LambdaLR", "SWALR", "ReduceLROnPlateau", "OneCycleLR"]) assert(texts.includes(name), name);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
