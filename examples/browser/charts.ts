/// <reference lib="dom" />
/** The page's pictures, on canvases, in the page's own colours: light or dark. */
import { STEPS, type Training } from "./training.ts";

/** A line of a chart: points [x, y], y as the axis counts it. */
interface Line {
  readonly points: readonly (readonly [number, number])[];
  readonly color: string;
  readonly width: number;
  readonly alpha?: number;
}

/** A vertical axis: its range, and what stands beside it. */
interface Axis {
  readonly low: number;
  readonly high: number;
  readonly ticks: readonly (readonly [at: number, label: string])[];
}

const LEFT = 46, RIGHT = 40, TOP = 8, BOTTOM = 24;
/** How far the map reaches from the middle of the plane, and its cells in each direction. */
const REACH = 1.95, CELLS = 96;

/** A canvas's context, as large as the canvas is on the screen, cleared; lengths are CSS pixels. */
function begin(canvas: HTMLCanvasElement): { pen: CanvasRenderingContext2D; width: number; height: number } {
  const { clientWidth: width, clientHeight: height } = canvas, pen = canvas.getContext("2d")!, dots = devicePixelRatio;
  canvas.width = Math.round(width * dots);
  canvas.height = Math.round(height * dots);
  pen.scale(dots, dots);
  pen.font = "12px system-ui, 'DejaVu Sans', sans-serif";
  return { pen, width, height };
}

/** A colour of the page's style sheet. */
const color = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function chart(canvas: HTMLCanvasElement, left: Axis, right: Axis | null, lines: [Line[], Line[]]): void {
  const { pen, width, height } = begin(canvas), inner = width - LEFT - RIGHT, tall = height - TOP - BOTTOM;
  const across = (step: number) => LEFT + inner * step / STEPS;
  const up = ({ low, high }: Axis, y: number) => TOP + tall * (1 - (y - low) / (high - low));
  pen.lineWidth = 1;
  pen.strokeStyle = color("grid");
  pen.fillStyle = color("quiet");
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  for (const [at, label] of left.ticks) {
    const y = Math.round(up(left, at)) + 0.5;
    pen.beginPath();
    pen.moveTo(LEFT, y);
    pen.lineTo(width - RIGHT, y);
    pen.stroke();
    pen.fillText(label, LEFT - 8, y);
  }
  pen.textAlign = "left";
  for (const [at, label] of right?.ticks ?? []) pen.fillText(label, width - RIGHT + 8, up(right!, at));
  pen.textAlign = "center";
  for (let step = 0; step <= STEPS; step += 100) pen.fillText(String(step), across(step), height - 9);
  for (const [axis, group] of [[left, lines[0]], [right, lines[1]]] as const) {
    if (axis === null) continue;
    for (const line of group) {
      pen.strokeStyle = line.color;
      pen.lineWidth = line.width;
      pen.globalAlpha = line.alpha ?? 1;
      pen.lineJoin = "round";
      pen.beginPath();
      for (const [x, y] of line.points) pen.lineTo(across(x), up(axis, Math.min(axis.high, Math.max(axis.low, y))));
      pen.stroke();
    }
  }
  pen.globalAlpha = 1;
}

/** Losses, on a logarithmic axis. */
export function drawLosses(canvas: HTMLCanvasElement, { losses, measurements }: Training): void {
  const low = Math.log10(0.02), high = Math.log10(2);
  const ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2].map((loss) => [Math.log10(loss), String(loss)] as const);
  chart(canvas, { low, high, ticks }, null, [[
    { points: losses.map((loss, i) => [i + 1, Math.log10(loss)]), color: color("quiet"), width: 1, alpha: 0.45 },
    { points: measurements.map((m) => [m.step, Math.log10(m.model.loss)]), color: color("second"), width: 2 },
    { points: measurements.map((m) => [m.step, Math.log10(m.averaged.loss)]), color: color("first"), width: 2 },
  ], []]);
}

/** The learning rate, done and to come, and beta1. */
export function drawSchedule(canvas: HTMLCanvasElement, { plan, rates, momenta }: Training): void {
  const left: Axis = { low: 0, high: 0.021, ticks: [0, 0.005, 0.01, 0.015, 0.02].map((lr) => [lr, String(lr)]) };
  const right: Axis = { low: 0.845, high: 0.9525, ticks: [0.85, 0.9, 0.95].map((beta) => [beta, beta.toFixed(2)]) };
  chart(canvas, left, right, [[
    { points: plan.map((rate, i) => [i, rate]), color: color("first"), width: 2, alpha: 0.28 },
    { points: rates.map((rate, i) => [i, rate]), color: color("first"), width: 2.5 },
  ], [{ points: momenta.map((beta, i) => [i, beta]), color: color("second"), width: 1.5 }]]);
}

/** Red, green and blue of a colour such as #0072b2. */
function channels(hex: string): number[] {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

/** The plane in the colours of the averaged model's answers, and the test points. */
export function drawMap(canvas: HTMLCanvasElement, { averaged, test }: Training): void {
  const { pen, width, height } = begin(canvas), panel = channels(color("panel"));
  const colors = [color("first"), color("second")], sides = colors.map(channels);
  const places = new Float64Array(2 * CELLS * CELLS);
  for (let i = 0; i < CELLS * CELLS; i++) {
    places[2 * i] = REACH * (2 * (i % CELLS + 0.5) / CELLS - 1);
    places[2 * i + 1] = REACH * (1 - 2 * (Math.floor(i / CELLS) + 0.5) / CELLS);
  }
  const answers = averaged.module.eval().forward(places), image = new ImageData(CELLS, CELLS);
  for (let i = 0; i < CELLS * CELLS; i++) {
    const sure = Math.max(-1, Math.min(1, answers[2 * i]! - answers[2 * i + 1]!)), side = sides[sure > 0 ? 0 : 1]!;
    const share = 0.12 + 0.4 * Math.abs(sure);
    image.data.set([...panel.map((p, c) => p + share * (side[c]! - p)), 255], 4 * i);
  }
  const small = new OffscreenCanvas(CELLS, CELLS);
  small.getContext("2d")!.putImageData(image, 0, 0);
  pen.drawImage(small, 0, 0, width, height);
  pen.strokeStyle = color("panel");
  pen.lineWidth = 1;
  test.labels.forEach((label, i) => {
    const x = width * (1 + test.inputs[2 * i]! / REACH) / 2, y = height * (1 - test.inputs[2 * i + 1]! / REACH) / 2;
    pen.fillStyle = colors[label]!;
    pen.beginPath();
    pen.arc(x, y, 3.6, 0, 2 * Math.PI);
    pen.fill();
    pen.stroke();
  });
}
