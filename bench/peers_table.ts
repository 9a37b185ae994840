/**
 * What bench/peers.ts finds, and how it is written down.
 *
 * @module
 */

import { digits, timeText } from "./ratios.ts";

/** The columns of ratios, in order. */
export const COLUMNS = [
  "foreach",
  "for-loop",
  "plain loop",
  "torch fused",
  "torch default",
  "torch foreach",
  "optax",
  "tfjs",
  "jax-js",
] as const;

/** A rule on a set of shapes. */
export interface Row {
  readonly rule: string;
  readonly shapes: string;
  /** Milliseconds of flatstep's step. */
  readonly ms: number;
  /** The traffic limit divided by the step; null: not measured. */
  readonly limit: number | null;
  /** Times of the others divided by the step's; or why there is none. */
  readonly ratios: Readonly<Record<string, number | string>>;
}

/** A run. */
export interface Found {
  readonly date: string;
  readonly machine: string;
  readonly runtime: string;
  /** flatstep's backend and instruction set. */
  readonly backend: string;
  readonly threads: number;
  readonly rounds: number;
  /** The load average when it began. */
  readonly load: number;
  readonly versions: Readonly<Record<string, string>>;
  /** Peers that were not there, and why. */
  readonly absent: Readonly<Record<string, string>>;
  readonly leftOut: readonly string[];
  readonly rows: readonly Row[];
}

/** A cell of the table. */
export function cell(row: Row, column: string): string {
  if (column === "step") return timeText(row.ms);
  if (column === "of the limit") return row.limit === null ? "" : `${(100 * row.limit).toFixed(0)} %`;
  const ratio = row.ratios[column];
  return typeof ratio === "number" ? `${digits(ratio)}x` : ratio ?? "";
}

/** What has to be said of the peers, in lines. */
export function notes(found: Found): string[] {
  return [
    `Peers: ${Object.values(found.versions).join("; ") || "none"}.`,
    ...Object.entries(found.absent).map(([name, reason]) => `Absent: ${name} (${reason}).`),
    ...found.leftOut.map((reason) => `Left out: ${reason}.`),
  ];
}

/** The table as Markdown, with what there is to say of it. */
export function markdown(found: Found): string {
  const columns = COLUMNS.filter((column) => found.rows.some((row) => typeof row.ratios[column] === "number"));
  const head = ["rule", "shapes", "step", "of the limit", ...columns];
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const text = (row: Row, column: string) => cell(row, column).replace(/x$/, "×").replace(/us$/, "µs");
  return [
    `${found.date}, ${found.machine} (${
      found.backend.split(", ")[1]
    }), ${found.runtime}, ${found.threads} threads, float32, ` +
    `medians over ${found.rounds} rounds. Ratios are the others' time divided by that of flatstep's step:`,
    "",
    line(head),
    `|---|---|${"---:|".repeat(head.length - 2)}`,
    ...found.rows.map((row) => line([row.rule, row.shapes, ...head.slice(2).map((column) => text(row, column))])),
    "",
    notes(found).join(" "),
  ].join("\n");
}
