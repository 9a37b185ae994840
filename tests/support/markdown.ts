/**
 * The code in the project's Markdown files. Around a block there may be comments, which readers do not see:
 *
 * - `<!-- setup LANGUAGE … -->`, anywhere: comes before each block of that language in the file
 * - `<!-- before … -->` right before a block: what it takes for granted
 * - `<!-- after … -->` right behind it: what must hold then
 * - `<!-- not run: REASON -->` right before it
 * - `<!-- file: PATH -->` right before it: the block is a file, or `<!-- file: PATH, before: LINE -->` a part of one, which goes
 *   before that line (docs/adding-an-optimizer.md)
 *
 * @module
 */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "@std/path";
import { ROOT } from "./runtime.ts";

/** A fenced block. */
export interface Block {
  /** The number of its first line of code. */
  readonly line: number;
  readonly language: string;
  readonly text: string;
  /** The code with what comes before and after it. */
  readonly program: string;
  /** Why it is not run; null: it is. */
  readonly notRun: string | null;
  /** The file that it is, or is a part of. */
  readonly file: { readonly path: string; readonly before: string | null } | null;
}

/** The files whose code is looked at. */
export const DOCUMENTS: readonly string[] = [
  "README.md",
  "ARCHITECTURE.md",
  "CONTRIBUTING.md",
  "CHANGELOG.md",
  "bench/README.md",
  ...readdirSync(join(ROOT, "docs")).filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`),
];

/** Names that a program imports from the library. */
function imported(text: string): string[] {
  return [...text.matchAll(/import \{([^}]*)\} from "@flatstep\/optim"/g)].flatMap((m) =>
    m[1]!.split(",").map((name) => name.trim()).filter((name) => name !== "")
  );
}

/** A setup without the imports that a block has itself. */
function without(setup: string, block: string): string {
  const own = new Set(imported(block));
  return setup.replace(/import \{([^}]*)\} from "@flatstep\/optim"/g, (_, list: string) => {
    return `import {${list.split(",").filter((name) => !own.has(name.trim())).join(",")}} from "@flatstep/optim"`;
  });
}

/** Every fenced block of a document. */
export function blocksOf(document: string): Block[] {
  return parse(readFileSync(join(ROOT, document), "utf8"));
}

/** Every fenced block of a text. */
export function parse(text: string): Block[] {
  const setups = new Map<string, string>(), blocks: Block[] = [];
  for (const [, language, code] of text.matchAll(/^<!-- setup (\w+)\n([\s\S]*?)^-->$/gm)) setups.set(language!, code!);
  const pattern =
    /(?:^<!-- (before)\n([\s\S]*?)^-->\n|^<!-- (not run): (.+) -->\n|^<!-- (file): ([^,\n]+?)(?:, before: (.+))? -->\n)?^```([^\n]*)\n([\s\S]*?)^```$(?:\n<!-- after\n([\s\S]*?)^-->)?/gm;
  for (const m of text.matchAll(pattern)) {
    const [whole, , before = "", , notRun = null, , path, place = null, language, code, after = ""] = m;
    const at = m.index + whole.indexOf("```" + language);
    const setup = without(setups.get(language!) ?? "", before + code);
    blocks.push({
      line: text.slice(0, at).split("\n").length + 1,
      language: language!,
      text: code!,
      program: setup + before + code + after,
      notRun,
      file: path === undefined ? null : { path, before: place },
    });
  }
  return blocks;
}
