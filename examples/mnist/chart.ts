import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import { type History, percent } from "./report.ts";

/** More points than this do not show at 800 pixels; they only make the file larger. */
const MAX_POINTS = 1500;
/** The smoothed loss is the mean over a window that is this share of all steps. */
const WINDOW = 1 / 50;

const BATCH = "each batch";
const RAW = "weights as trained";
const AVERAGED = "averaged weights";

/** Draws loss, test accuracy and learning rate over the epochs, one below the other, as an SVG 800 pixels wide. */
export function drawCurves(history: History, title: string, subtitle: readonly string[]): Promise<string> {
  return new View(parse(compile(specification(history, title, subtitle)).spec), { renderer: "none" }).toSVG();
}

function specification(history: History, title: string, subtitle: readonly string[]): TopLevelSpec {
  const { losses, rates, raw, averaged } = history;
  const epochs = averaged.length;
  const stepsPerEpoch = losses.length / epochs;
  const every = Math.ceil(losses.length / MAX_POINTS);
  const curve = (series: string, values: readonly number[]) =>
    values
      .map((value, i) => ({ epoch: (i + 1) / stepsPerEpoch, value, series }))
      .filter((_, i) => i % every === 0 || i === values.length - 1);
  const window = Math.max(1, Math.round(WINDOW * losses.length));
  const smoothed = smooth(losses, window);
  const mean = `mean of ${window} batches`;
  const points = (series: string, accuracies: readonly number[]) =>
    accuracies.map((accuracy, i) => ({ epoch: i + 1, value: 100 * accuracy, label: percent(accuracy), series }));

  const x = (last: boolean) => ({
    field: "epoch",
    type: "quantitative" as const,
    scale: { domain: [0, epochs], nice: false },
    axis: {
      title: last ? "epochs (passes over the training set)" : null,
      labels: last,
      ticks: last,
      tickMinStep: 1,
      tickCount: Math.min(epochs, 20),
      format: "d",
    },
  });
  const y = { field: "value", type: "quantitative" as const };
  const color = (domain: string[], range: string[], legendX: number, legendY: number) => ({
    field: "series",
    type: "nominal" as const,
    scale: { domain, range },
    legend: {
      title: null,
      orient: "none" as const,
      legendX,
      legendY,
      fillColor: "white",
      padding: 6,
      symbolType: "stroke",
      symbolStrokeWidth: 3,
      symbolOpacity: 1,
    },
  });
  const width = 695;

  return {
    description: [title, ...subtitle].join(". "),
    background: "white",
    padding: { left: 12, right: 16, top: 12, bottom: 10 },
    // Vega guesses how wide text is, generously: a longer line would make the picture wider.
    title: {
      text: title,
      subtitle: [...subtitle],
      anchor: "start",
      frame: "group",
      fontSize: 18,
      subtitleFontSize: 12.5,
      subtitleLineHeight: 17,
      subtitlePadding: 5,
      offset: 14,
    },
    spacing: 18,
    resolve: { scale: { color: "independent" } },
    vconcat: [
      {
        width,
        height: 270,
        data: { values: [...curve(BATCH, losses), ...curve(mean, smoothed)] },
        mark: { type: "line", clip: true },
        encoding: {
          x: x(false),
          y: {
            ...y,
            scale: { type: "log", domain: [lossFloor(losses, smoothed), Math.max(...losses.slice(0, 1), ...smoothed)] },
            axis: { title: "training loss (nats)", tickCount: 8 },
          },
          color: color([BATCH, mean], ["#b5cfe6", "#1f5f99"], 460, 8),
          strokeWidth: { condition: { test: `datum.series === '${BATCH}'`, value: 0.7 }, value: 2 },
        },
      },
      {
        width,
        height: 170,
        data: { values: [...points(RAW, raw), ...points(AVERAGED, averaged)] },
        encoding: {
          x: x(false),
          y: {
            ...y,
            scale: { domain: accuracyDomain([...raw, ...averaged]) },
            axis: { title: "test accuracy (%)", tickCount: 5 },
          },
          color: color([RAW, AVERAGED], ["#e8b48e", "#c8571b"], 460, 105),
        },
        layer: [
          {
            mark: { type: "line", strokeWidth: 2, point: { filled: true, size: 45 } },
          },
          {
            // The labels sit above their points, the last one to the left of the panel's edge.
            transform: [{
              filter: `datum.series === '${AVERAGED}' && ${epochs > 12 ? `datum.epoch === ${epochs}` : "true"}`,
            }],
            mark: { type: "text", align: "right", baseline: "bottom", dx: -4, dy: -4, fontSize: 12 },
            encoding: { text: { field: "label" }, color: { value: "#8a3a10" } },
          },
        ],
      },
      {
        width,
        height: 130,
        data: { values: curve("", rates) },
        mark: { type: "line", color: "#2e7d4f", strokeWidth: 2 },
        encoding: {
          x: x(true),
          y: {
            ...y,
            scale: { zero: true },
            axis: { title: "learning rate", tickCount: 4, labelExpr: "datum.value ? format(datum.value, '~e') : '0'" },
          },
        },
      },
    ],
    config: {
      font: "Helvetica, Arial, sans-serif",
      aria: false,
      view: { stroke: "#bbbbbb" },
      axis: { labelFontSize: 12, titleFontSize: 12.5, titleFontWeight: "normal", gridColor: "#e8e8e8" },
      axisX: { labelFlush: false },
      axisY: { titleX: -56, titleAlign: "center" },
      legend: { labelFontSize: 12, labelLimit: 300 },
    },
  };
}

/** The mean over `window` values around each value; at the ends over those that there are. */
function smooth(values: readonly number[], window: number): number[] {
  const before = Math.floor(window / 2);
  return values.map((_, i) => {
    const around = values.slice(Math.max(0, i - before), i - before + window);
    return around.reduce((sum, value) => sum + value, 0) / around.length;
  });
}

/** Where the loss axis ends: below the smoothed curve, above the luckiest batches, which would stretch it. */
function lossFloor(losses: readonly number[], smoothed: readonly number[]): number {
  const sorted = [...losses].sort((a, b) => a - b);
  return Math.max(1e-6, Math.min(sorted[Math.floor(sorted.length / 50)]!, 0.8 * Math.min(...smoothed)));
}

/** Whole percents around all accuracies, with room for a label above the highest. */
function accuracyDomain(accuracies: readonly number[]): [number, number] {
  const [low, high] = [100 * Math.min(...accuracies), 100 * Math.max(...accuracies)];
  return [Math.floor(low), Math.min(100, Math.ceil(high + 0.3 + (high - low) / 12))];
}
