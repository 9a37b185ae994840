/**
 * What csrc/rules.def and the rules' headers say.
 *
 * @module
 */

import { readFileSync } from "node:fs";
import { join } from "@std/path";
import { ROOT } from "./runtime.ts";

const read = (...path: string[]) => readFileSync(join(ROOT, "csrc", ...path), "utf8");

/** The names of all rules, in order. */
export const RULE_NAMES: readonly string[] = [
  ...read("rules.def").replace(/#ifdef FS_BENCH[\s\S]*?#endif/g, "").matchAll(/^RULE\((\w+)\)/gm),
].map((match) => match[1]!);

/** For each buffer of a rule the flags that make it used; 0: always. */
export function needsOf(rule: string): number[] {
  const header = read("rules", `${rule}.h`).replaceAll("\\\n", "");
  const list = header.match(new RegExp(`#define ${rule}_BUFFERS\\(X\\)(.*)`))![1]!;
  return [...list.matchAll(/X\(\w+, \w+, (?:(\d+)u << (\d+)|0)\)/g)].map(([, bits, by]) => {
    return bits === undefined ? 0 : Number(bits) << Number(by);
  });
}
