import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import { co2, misra1a, type Points } from "./curves.ts";

/** What is drawn: the parameters of both curves, and the CO2 series. */
export interface Fits {
  readonly misra: Float64Array;
  readonly co2: Float64Array;
  readonly series: Points;
}

const DATA = "#555555", FIT = "#0072b2", TREND = "#d55e00", RESIDUAL = "#009e73";
/** The width of a panel across the picture, which is 800 pixels wide with its axis, and of one of two side by side. */
const WIDE = 712, HALF = 318, HEIGHT = 190;
/** The year from which on the season is shown. */
const RECENT = 2015;

/** Draws data, fits and residuals, as an SVG 800 pixels wide. */
export function drawFits(fits: Fits): Promise<string> {
  return new View(parse(compile(specification(fits)).spec), { renderer: "none" }).toSVG();
}

const quantitative = (field: string, title: string, domain: readonly [number, number]) => ({
  field,
  type: "quantitative" as const,
  scale: { domain: [...domain], nice: false },
  axis: { title },
});

function specification({ misra, co2: b, series }: Fits): TopLevelSpec {
  const { points } = misra1a, slopes = new Float64Array(b.length);
  const value = (x: number) => misra1a.curve.at(x, misra, slopes),
    ppmAt = (year: number) => co2.curve.at(year, b, slopes);
  const samples = Array.from({ length: 81 }, (_, i) => ({ x: 10 * i, y: rounded(value(10 * i)) }));
  const measured = points.x.map((x, i) => ({ x, y: points.y[i]!, residual: rounded(points.y[i]! - value(x)) }));
  const months = series.x.map((year, i) => ({
    year: rounded(year),
    ppm: series.y[i]!,
    trend: rounded(co2.trend(year, b)),
    residual: rounded(series.y[i]! - ppmAt(year)),
  }));
  const recent = months.filter(({ year }) => year > RECENT), end = recent.at(-1)!.year;
  const weeks = Array.from({ length: Math.floor((end - RECENT) * 52) + 1 }, (_, i) => {
    const year = RECENT + i / 52;
    return { year: rounded(year), fitted: rounded(ppmAt(year)), trend: rounded(co2.trend(year, b)) };
  });

  const zero = { data: { values: [{ zero: 0 }] }, mark: { type: "rule" as const, color: "#999999" } };
  const zeroLine = { ...zero, encoding: { y: { field: "zero", type: "quantitative" as const } } };
  const dots = (color: string) => ({ type: "circle" as const, size: 36, color, opacity: 1 });
  const line = (color: string, strokeWidth: number) => {
    return { type: "line" as const, color, strokeWidth, strokeJoin: "round" as const };
  };
  const x = quantitative("x", "x", [0, 800]), y = quantitative("y", "y", [0, 90]);
  const years = quantitative("year", "year", [1957, 2021]),
    lately = quantitative("year", "year", [RECENT - 0.1, 2020.6]);
  const ppm = (field: string, domain: readonly [number, number]) => quantitative(field, "CO₂, ppm", domain);
  const all = [310, 420] as const, late = [395, 420] as const;
  return {
    background: "white",
    padding: { left: 12, right: 16, top: 12, bottom: 12 },
    title: {
      text: "Curves fitted by BFGS",
      subtitle: [
        "Above: Misra1a of NIST's reference datasets, two parameters.",
        "Below: carbon dioxide at Mauna Loa (Scripps CO2 Program, CC BY 4.0), twelve.",
      ],
      anchor: "start",
      frame: "group",
      limit: 0,
      fontSize: 18,
      subtitleFontSize: 12.5,
      subtitleLineHeight: 17,
      subtitlePadding: 5,
      offset: 14,
    },
    spacing: 22,
    vconcat: [
      pair(
        panel("b₁ (1 − exp(−b₂ x)), and the data", HALF, HEIGHT, [
          { data: { values: samples }, mark: line(FIT, 2), encoding: { x, y } },
          { data: { values: measured }, mark: dots(DATA), encoding: { x, y } },
        ]),
        panel("Residuals", HALF, HEIGHT, [
          zeroLine,
          {
            data: { values: measured },
            mark: dots(RESIDUAL),
            encoding: { x, y: quantitative("residual", "y − fit", [-0.22, 0.22]) },
          },
        ]),
      ),
      pair(
        panel("Every month, and an exponential growth", HALF, HEIGHT, [
          { data: { values: months }, mark: line(DATA, 1), encoding: { x: years, y: ppm("ppm", all) } },
          { data: { values: months }, mark: line(TREND, 2), encoding: { x: years, y: ppm("trend", all) } },
        ]),
        panel("The last years, with the season", HALF, HEIGHT, [
          { data: { values: weeks }, mark: line(TREND, 2), encoding: { x: lately, y: ppm("trend", late) } },
          { data: { values: weeks }, mark: line(FIT, 2), encoding: { x: lately, y: ppm("fitted", late) } },
          { data: { values: recent }, mark: dots(DATA), encoding: { x: lately, y: ppm("ppm", late) } },
        ]),
      ),
      panel("Residuals", WIDE, 110, [
        zeroLine,
        {
          data: { values: months },
          mark: line(RESIDUAL, 1.2),
          encoding: { x: years, y: quantitative("residual", "CO₂ − fit, ppm", [-3, 3]) },
        },
      ]),
    ],
    config: {
      font: "Helvetica, Arial, sans-serif",
      aria: false,
      view: { stroke: "#bbbbbb" },
      axis: { labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", gridColor: "#e8e8e8" },
      axisX: { format: "d", labelFlush: false },
      axisY: { minExtent: 34, maxExtent: 34 },
      title: { fontSize: 12.5, anchor: "start", frame: "group", offset: 6 },
    },
  };
}

type Panel = Extract<TopLevelSpec, { layer: unknown }>;

function panel(title: string, width: number, height: number, layer: Panel["layer"]): Pick<Panel, "layer"> {
  return { title, width, height, layer } as Pick<Panel, "layer">;
}

/** Two panels side by side, their frames in line. */
function pair<P>(...hconcat: readonly [P, P]) {
  return { hconcat: [...hconcat], bounds: "flush" as const, spacing: WIDE - 2 * HALF };
}

/** Four decimals: what shows, and what both runtimes have alike. */
function rounded(value: number): number {
  return Math.round(value * 1e4) / 1e4;
}
