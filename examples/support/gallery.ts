import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

/** A line of a panel: a value for each epoch. */
export interface Curve {
  readonly series: "learning rate" | "a second group's" | "momentum" | "metric";
  readonly values: readonly number[];
}

/** One scheduler. */
export interface Panel {
  readonly title: string;
  readonly subtitle: string;
  readonly curves: readonly Curve[];
}

const COLUMNS = 4;
/** Panels, the space between them, and that around all: 800 pixels across. */
const WIDTH = 166, HEIGHT = 104;
const GAP = { row: 58, column: 22 };
const PADDING = { left: 56, right: 14, top: 98, bottom: 72 };
/** The height of the axes, and so of all panels: momentum, at most 0.95, shares it with the rates. */
const TOP = 1;
const SERIES: Record<Curve["series"], string> = {
  "learning rate": "#0072b2",
  "a second group's": "#d55e00",
  momentum: "#009e73",
  metric: "#999999",
};

/** Draws a panel for each scheduler, as an SVG 800 pixels wide. */
export function drawGallery(panels: readonly Panel[], epochs: number): Promise<string> {
  const { spec } = compile(specification(panels, epochs)), rows = Math.ceil(panels.length / COLUMNS);
  // Vega guesses how wide text is, generously, and would make the picture wider: its size is given instead.
  Object.assign(spec, {
    autosize: "none",
    padding: PADDING,
    width: COLUMNS * (WIDTH + GAP.column) - GAP.column,
    height: rows * (HEIGHT + GAP.row) - GAP.row,
  });
  return new View(parse(spec), { renderer: "none" }).toSVG();
}

function specification(panels: readonly Panel[], epochs: number): TopLevelSpec {
  const names = Object.keys(SERIES);
  return {
    background: "white",
    title: {
      text: "Schedulers",
      subtitle: `Learning rate from 1 over ${epochs} epochs: what a param group has in each of them`,
      anchor: "start",
      frame: "group",
      fontSize: 18,
      subtitleFontSize: 12.5,
      subtitlePadding: 5,
      offset: 14,
    },
    columns: COLUMNS,
    bounds: "flush",
    spacing: GAP,
    concat: panels.map(({ title, subtitle, curves }, i) => {
      const left = i % COLUMNS === 0, bottom = i >= panels.length - COLUMNS;
      return {
        width: WIDTH,
        height: HEIGHT,
        title: { text: title, subtitle, fontSize: title.length > 22 ? 9.5 : 12 }, // the longest fits in any font
        data: {
          values: curves.flatMap(({ series, values }) =>
            values
              .map((value, epoch) => ({ epoch, value, series }))
              .filter(({ value }, e) => e === 0 || value !== values[e - 1] || value !== values[e + 1])
          ),
        },
        mark: { type: "line" as const, clip: true, strokeWidth: 1.8, strokeJoin: "round" as const },
        encoding: {
          x: {
            field: "epoch",
            type: "quantitative" as const,
            scale: { domain: [0, epochs], nice: false },
            axis: { title: bottom ? "epoch" : null, labels: bottom, ticks: bottom, values: [0, 25, 50, 75, 100] },
          },
          y: {
            field: "value",
            type: "quantitative" as const,
            scale: { domain: [0, TOP * 1.05], nice: false },
            axis: { title: left ? "value" : null, labels: left, ticks: left, values: [0, 0.5, 1] },
          },
          color: {
            field: "series",
            type: "nominal" as const,
            scale: { domain: names, range: Object.values(SERIES) },
            legend: { title: null, orient: "bottom" as const, columns: names.length },
          },
        },
      };
    }),
    resolve: { scale: { color: "shared" } },
    config: {
      font: "Helvetica, Arial, sans-serif",
      aria: false,
      view: { stroke: "#bbbbbb" },
      axis: { labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", gridColor: "#e8e8e8" },
      title: {
        fontSize: 12,
        subtitleFontSize: 11,
        subtitleColor: "#555555",
        anchor: "start",
        frame: "group",
        offset: 5,
      },
      legend: {
        labelFontSize: 12.5,
        labelLimit: 200,
        symbolType: "stroke",
        symbolSize: 400,
        symbolStrokeWidth: 2.5,
        columnPadding: 20,
      },
    },
  };
}
