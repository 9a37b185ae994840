/**
 * Pictures of schedules.
 *
 * @module
 */

import type { TopLevelSpec } from "vega-lite";
import { show } from "./errors.ts";
import { ReduceLROnPlateau } from "./lr_scheduler/plateau.ts";
import { LRScheduler } from "./lr_scheduler/scheduler.ts";

/** A line of more points than this is thinned out: they do not show at 800 pixels. */
const MAX_POINTS = 1200;
/** The width of a panel without its axis: the picture is 800 pixels wide. */
const WIDTH = 690;
/** Letters in the title, in a row of the subtitle, and in a name in the legend: Vega guesses how wide text is, generously. */
const TITLE = 54, LINE = 77, LABEL = 60;
/** Distinct also for the colour-blind, and in print (Okabe and Ito). */
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const DASHES = [[1, 0], [6, 3], [2, 2], [9, 3, 2, 3], [12, 4]];

/** A point of a line. */
interface Point {
  readonly step: number;
  readonly value: number;
}

/** A line: what one scheduler writes into one group, or into several alike. */
interface Line {
  readonly scheduler: string;
  readonly group: string;
  readonly field: string;
  readonly points: readonly Point[];
}

/**
 * Draws schedules: the values that schedulers will write, now and after each of the next steps, as an SVG 800 pixels wide.
 *
 * Each scheduler is a line with its name in a legend, where there are several. Groups whose values differ are lines of their
 * own, dashed, by the group's `name` or number. Schedulers of different fields are drawn one below the other.
 *
 * The values are those of {@linkcode LRScheduler.values}: nothing changes in the schedulers or their optimizers. More values
 * than the picture can show are thinned out to the lowest and the highest of each neighbourhood.
 *
 * It draws with the npm packages `vega` and `vega-lite`, which are loaded by the first call: `deno add npm:vega
 * npm:vega-lite`, `bun add vega vega-lite`. The picture depends on their version, not on the runtime.
 *
 * @param schedulers one or more schedulers by the names that the legend gives them; all but ReduceLROnPlateau, whose values
 * depend on metrics
 * @param steps how many values, an integer >= 2: the present ones, and those after the next steps - 1 steps
 * @returns the SVG, as text
 * @throws {TypeError} for something else than schedulers by name, a ReduceLROnPlateau, steps that are no number
 * @throws {RangeError} for steps out of range, no schedulers at all; and whatever a schedule throws, as OneCycleLR past its end
 * @throws {Error} if vega or vega-lite cannot be loaded
 * @example
 * ```ts
 * import { assert } from "@std/assert";
 * import { CosineAnnealingLR, OneCycleLR, plotSchedule, SGD } from "@flatstep/optim";
 *
 * const optimizer = () => new SGD([new Float32Array(1)], { lr: 0.1, momentum: 0.9 });
 * const svg = await plotSchedule({
 *   cosine: new CosineAnnealingLR(optimizer(), { tMax: 100 }),
 *   oneCycle: new OneCycleLR(optimizer(), { maxLr: 0.2, totalSteps: 100 }),
 * }, 100);
 * assert(svg.startsWith("<svg")); // await Deno.writeTextFile("schedules.svg", svg);
 * ```
 */
export async function plotSchedule(schedulers: Readonly<Record<string, LRScheduler>>, steps: number): Promise<string> {
  const named = checkSchedulers(schedulers);
  if (typeof steps !== "number") throw new TypeError(`steps must be a number, got ${show(steps)}`);
  if (!Number.isSafeInteger(steps) || steps < 2) {
    throw new RangeError(`steps must be an integer >= 2, got ${show(steps)}`);
  }
  const lines = named.flatMap(([name, scheduler]) => linesOf(printable(name), scheduler, steps));
  const { compile, View, parse } = await libraries();
  const view = new View(parse(compile(specification(named, lines, steps)).spec), { renderer: "none" });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

function checkSchedulers(schedulers: unknown): [string, LRScheduler][] {
  if (typeof schedulers !== "object" || schedulers === null || schedulers instanceof LRScheduler) {
    throw new TypeError(
      `schedulers must be an object of schedulers by name, { name: scheduler }, got ${show(schedulers)}`,
    );
  }
  const named = Object.entries(schedulers);
  if (named.length === 0) throw new RangeError("schedulers must have at least one scheduler, got none");
  for (const [name, scheduler] of named) {
    if (!(scheduler instanceof LRScheduler)) {
      throw new TypeError(`schedulers[${show(name)}] must be a scheduler, got ${show(scheduler)}`);
    }
    if (scheduler instanceof ReduceLROnPlateau) {
      throw new TypeError(
        `schedulers[${show(name)}] must have values ahead, got a ReduceLROnPlateau: its values depend on metrics`,
      );
    }
  }
  return named;
}

async function libraries() {
  try {
    const [{ compile }, { View, parse }] = await Promise.all([import("vega-lite"), import("vega")]);
    return { compile, View, parse };
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : show(cause);
    throw new Error(
      "plotSchedule draws with the npm packages vega and vega-lite, which cannot be loaded: add them with " +
        `"deno add npm:vega npm:vega-lite" or "bun add vega vega-lite" (${why})`,
      { cause },
    );
  }
}

/** The lines of one scheduler: one, if all groups have the same values. */
function linesOf(name: string, scheduler: LRScheduler, steps: number): Line[] {
  const rows = scheduler.values(steps), groups = groupNames(scheduler);
  const alike = rows.every((row) => row.every((value) => value === row[0]));
  return (alike ? ["all groups"] : groups).map((group, g) => {
    return { scheduler: name, group, field: scheduler.field, points: thinned(rows.map((row) => row[g]!)) };
  });
}

/** The names of an optimizer's groups; `group 0` and so on where they have none, or the same. */
function groupNames({ optimizer }: LRScheduler): string[] {
  const names = optimizer.paramGroups.map((group, g) => printable(group.name ?? `group ${g}`));
  return names.map((name, g) => names.indexOf(name) === names.lastIndexOf(name) ? name : `group ${g}`);
}

/** The points of a line that show: without those in the middle of a level part, and few enough. */
function thinned(values: readonly number[]): Point[] {
  const last = values.length - 1;
  const points = values
    .map((value, step) => ({ step, value }))
    .filter(({ step, value }) => {
      return step === 0 || step === last || value !== values[step - 1] || value !== values[step + 1];
    });
  if (points.length <= MAX_POINTS) return points;
  const size = Math.ceil(points.length / (MAX_POINTS / 2)), kept: Point[] = [points[0]!];
  for (let start = 1; start < points.length - 1; start += size) {
    const near = points.slice(start, Math.min(start + size, points.length - 1));
    const low = near.reduce((a, b) => b.value < a.value ? b : a),
      high = near.reduce((a, b) => b.value > a.value ? b : a);
    kept.push(...low.step < high.step ? [low, high] : low === high ? [low] : [high, low]);
  }
  return [...kept, points.at(-1)!];
}

/** A text without what must not be in an SVG. */
function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, " ").toWellFormed();
}

function shortened(text: string, length: number): string {
  return text.length > length ? `${text.slice(0, length - 1).toWellFormed()}…` : text;
}

/** Phrases, joined by commas, in rows. */
function wrapped(phrases: readonly string[]): string[] {
  const rows: string[] = [];
  phrases.forEach((phrase, i) => {
    const text = shortened(phrase, LINE - 1) + (i < phrases.length - 1 ? "," : ""), row = rows.at(-1);
    if (row !== undefined && row.length + 1 + text.length <= LINE) rows[rows.length - 1] = `${row} ${text}`;
    else rows.push(text);
  });
  return rows;
}

/** What a scheduler is, in words. */
function describe([name, scheduler]: [string, LRScheduler]): string {
  const { optimizer, constructor } = scheduler, groups = optimizer.paramGroups.length;
  const kind = printable(constructor.name),
    of = `${optimizer.constructor.name}${groups > 1 ? `'s ${groups} groups` : ""}`;
  return `${kind === printable(name) ? kind : `${printable(name)}: ${kind}`} on ${of}`;
}

function specification(named: readonly [string, LRScheduler][], lines: readonly Line[], steps: number): TopLevelSpec {
  const names = named.map(([name]) => printable(name));
  const groups = [...new Set(lines.map((line) => line.group))], fields = [...new Set(lines.map((line) => line.field))];
  const from = named.some(([, scheduler]) => scheduler.lastEpoch > 0) ? "steps from now" : "steps";
  const legend = (labels: readonly string[]) => ({
    title: null,
    orient: "bottom" as const,
    columns: Math.max(
      1,
      Math.floor(WIDTH / (45 + 10 * Math.min(LABEL, Math.max(...labels.map((text) => text.length))))),
    ),
    symbolType: "stroke",
    symbolSize: 500,
    symbolStrokeWidth: 2.5,
  });
  const panel = (field: string, last: boolean) => {
    const own = lines.filter((line) => line.field === field);
    const values = own.flatMap(({ scheduler, group, points }) =>
      points.map((point) => ({ ...point, scheduler, group }))
    );
    const [low, high] = values.reduce(([a, b], { value }) => [Math.min(a, value), Math.max(b, value)], [
      Infinity,
      -Infinity,
    ]);
    return {
      width: WIDTH,
      height: fields.length > 1 ? 200 : 300,
      data: { values },
      mark: { type: "line" as const, strokeWidth: 2, strokeJoin: "round" as const },
      encoding: {
        x: {
          field: "step",
          type: "quantitative" as const,
          scale: { domain: [0, steps < 20 ? steps - 1 : steps], nice: false },
          axis: {
            title: last ? from : null,
            labels: last,
            ticks: last,
            tickMinStep: 1,
            tickCount: Math.min(steps, 10),
          },
        },
        y: {
          field: "value",
          type: "quantitative" as const,
          scale: { zero: !(low > high / 2 && low < high), nice: true },
          axis: {
            title: field,
            tickCount: 6,
            labelExpr: `datum.value ? format(datum.value, "~${high < 1e-2 ? "e" : "g"}") : "0"`,
          },
        },
        color: {
          field: "scheduler",
          type: "nominal" as const,
          scale: { domain: names, range: COLORS },
          legend: names.length > 1 ? legend(names) : null,
        },
        strokeDash: {
          field: "group",
          type: "nominal" as const,
          scale: { domain: groups, range: DASHES },
          legend: groups.length > 1 ? legend(groups) : null,
        },
        detail: [{ field: "scheduler", type: "nominal" as const }, { field: "group", type: "nominal" as const }],
      },
    };
  };
  return {
    background: "white",
    padding: { left: 12, right: 16, top: 12, bottom: 12 },
    title: {
      text: shortened(`${fields.join(", ")} over ${steps.toLocaleString("en-US")} steps`, TITLE),
      subtitle: wrapped(named.map(describe)),
      anchor: "start",
      frame: "group",
      limit: 0,
      fontSize: 18,
      subtitleFontSize: 12.5,
      subtitleLineHeight: 17,
      subtitlePadding: 5,
      offset: 14,
    },
    spacing: 18,
    vconcat: fields.map((field, f) => panel(field, f === fields.length - 1)),
    resolve: { scale: { color: "shared", strokeDash: "shared" } },
    config: {
      font: "Helvetica, Arial, sans-serif",
      aria: false,
      view: { stroke: "#bbbbbb" },
      axis: { labelFontSize: 12, titleFontSize: 13, titleFontWeight: "normal", gridColor: "#e8e8e8" },
      axisX: { labelFlush: false },
      axisY: { minExtent: 54, maxExtent: 54 },
      legend: { labelFontSize: 12.5, labelLimit: 10 * LABEL, columnPadding: 16 },
    },
  };
}
