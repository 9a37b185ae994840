/**
 * The command line of the benchmark programs.
 *
 * @module
 */

import { loadavg } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import { SET_NAMES, type ShapeSet } from "./shapes.ts";
import { MAIN_RULES, RULE_NAMES, type RuleName } from "./work.ts";

/** What to measure. */
export interface Arguments {
  /** The rules. */
  readonly rules: readonly RuleName[];
  /** The shape sets. */
  readonly sets: readonly ShapeSet[];
  /** How often each contender has its turn. */
  readonly rounds: number;
  /** The peers, of those that there are. */
  readonly peers: readonly string[];
  /** Where to write what was found. */
  readonly json: string | undefined;
}

/** Processors' worth of work by others from which a warning is given. */
const BUSY = 0.5;

/**
 * Reads `--rules=A,B --sets=C,D --rounds=N` (`--rules=all`: every rule); ends the program with a message where they make no sense,
 * and warns where the machine is busy.
 *
 * @param peers where there are some: `--peers=A,B` and `--json=PATH` are read, too
 */
export function readArguments(peers: readonly string[] = []): Arguments {
  try {
    const text = { type: "string" } as const, own = { rules: text, sets: text, rounds: text };
    const { values } = parseArgs({
      args: process.argv.slice(2),
      options: peers.length > 0 ? { ...own, peers: text, json: text } : own,
    });
    const rounds = Number(values.rounds ?? 15);
    if (!Number.isSafeInteger(rounds) || rounds < 1) {
      throw new RangeError(`--rounds must be an integer >= 1, got ${values.rounds}`);
    }
    const load = loadavg()[0]!;
    if (load > BUSY) {
      console.error(`the machine is busy (load ${load.toFixed(1)}): figures will be worse than they should be`);
    }
    const rules = values.rules === "all"
      ? RULE_NAMES
      : values.rules === undefined
      ? MAIN_RULES
      : pick("rules", values.rules, RULE_NAMES);
    const more = values as { peers?: string; json?: string };
    return {
      rules,
      sets: pick("sets", values.sets, SET_NAMES),
      rounds,
      peers: pick("peers", more.peers, peers),
      json: more.json,
    };
  } catch (error) {
    console.error(`error: ${(error as Error).message}`);
    process.exit(2);
  }
}

function pick<Name extends string>(option: string, text: string | undefined, names: readonly Name[]): readonly Name[] {
  if (text === undefined) return names;
  return text.split(",").map((name) => {
    if (!names.includes(name as Name)) throw new RangeError(`--${option} must be of ${names.join(", ")}, got ${name}`);
    return name as Name;
  });
}
