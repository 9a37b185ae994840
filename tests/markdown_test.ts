/** All code in Markdown: TypeScript and Python run, commands name what there is, links lead somewhere. */

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { dirname, join } from "@std/path";
import { type Block, blocksOf, DOCUMENTS, parse } from "./support/markdown.ts";
import { IS_BUN, ROOT, run } from "./support/runtime.ts";

const all = DOCUMENTS.map((document) => ({ document, blocks: blocksOf(document) }));
const runs = (language: string) => (b: Block) => b.language === language && b.notRun === null && b.file === null;
const tasks = (JSON.parse(readFileSync(join(ROOT, "deno.json"), "utf8")) as { tasks: Record<string, unknown> }).tasks;

for (const { document, blocks } of all) {
  const programs = blocks.filter(runs("ts")), scripts = blocks.filter(runs("python"));

  if (programs.length > 0) {
    test(`every program in ${document} runs`, { timeout: 180_000 }, async () => {
      const folder = mkdtempSync(join(ROOT, "tests", "markdown.local."));
      try {
        const names = programs.map(({ line, program }) => {
          const name = `line_${line}.ts`;
          writeFileSync(join(folder, name), `${program}\nexport {};\n`);
          return name;
        });
        const main = names.map((name) => `await import("./${name}");\nconsole.log("ran ${name}");\n`).join("");
        writeFileSync(join(folder, "main.ts"), main);
        const path = join(folder, "main.ts"), args = IS_BUN ? [path] : ["run", "-A", "--quiet", "--check", path];
        const { code, stdout, stderr } = await run(process.execPath, args);
        assertEquals([...stdout.matchAll(/^ran (.*)$/gm)].map((m) => m[1]), names, `${document}: ${stderr}`);
        assertEquals(code, 0, `${document}: ${stderr}`);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
  }

  if (scripts.length > 0) {
    test(`every Python program in ${document} runs with torch`, { timeout: 180_000 }, async () => {
      const python = process.platform === "win32" ? "python" : "python3";
      if (spawnSync(python, ["-c", "import torch"]).status !== 0) {
        return console.log(`skipped: ${python} has no torch on this machine`);
      }
      const folder = mkdtempSync(join(ROOT, "tests", "markdown.local."));
      try {
        const main = scripts.map(({ line, program }) => {
          const name = JSON.stringify(`${document} line ${line}`);
          return `exec(compile(${JSON.stringify(program)}, ${name}, "exec"), {})\nprint("ran ${line}")\n`;
        }).join("");
        writeFileSync(join(folder, "main.py"), main);
        const { code, stdout, stderr } = await run(python, [join(folder, "main.py")]);
        assertEquals(
          [...stdout.matchAll(/^ran (\d+)$/gm)].map((m) => Number(m[1])),
          scripts.map((b) => b.line),
          stderr,
        );
        assertEquals(code, 0, stderr);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
  }
}

test("commands in Markdown name tasks and files that there are", () => {
  let commands = 0;
  for (const { document, blocks } of all) {
    const text = readFileSync(join(ROOT, document), "utf8");
    for (const [whole, name] of text.matchAll(/\bdeno(?:@[\d.]+)? task ([a-z][\w:]*)/g)) {
      assert(Object.hasOwn(tasks, name!), `${document}: ${whole}: deno.json has no task ${name}`);
      commands++;
    }
    for (const { text: code, line } of blocks.filter((b) => b.language === "sh")) {
      for (
        const [path] of code.replace(/#.*$/gm, "").matchAll(
          /(?<![\w:/.-])(?:\w[\w.-]*\/)+[\w.-]+\.(?:ts|py|sh|json|md)\b/g,
        )
      ) {
        assert(existsSync(join(ROOT, path)), `${document}, line ${line}: there is no file ${path}`);
        commands++;
      }
    }
  }
  assert(commands > 5, `only ${commands} commands were found`);
});

test("links and pictures in Markdown lead to files that there are", () => {
  let links = 0;
  for (const { document } of all) {
    const text = readFileSync(join(ROOT, document), "utf8").replace(/^```[\s\S]*?^```$/gm, "");
    for (const [, target] of text.matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue;
      assert(existsSync(join(ROOT, dirname(document), target!)), `${document}: there is no ${target}`);
      links++;
    }
  }
  assert(links > 2, `only ${links} links were found`);
});

test("the diagram of the architecture names files and classes that there are", async () => {
  const svg = readFileSync(join(ROOT, "docs", "architecture.svg"), "utf8").replace(/<style>[\s\S]*<\/style>/, "");
  const paths = [...svg.matchAll(/\b(?:src|ffi|csrc)\/[\w/]+\.\w+/g)].map(([path]) => path);
  assert(paths.length >= 12, `only ${paths.length} files were found`);
  for (const path of paths) assert(existsSync(join(ROOT, path)), `docs/architecture.svg: there is no ${path}`);
  const names = [...svg.matchAll(/\b(?:[A-Z]+[a-z]+)+(?:LR|Model)\b/g)].map(([name]) => name);
  assertEquals(names, ["StepLR", "AveragedModel"]);
  for (const name of names) assert(name in await import("../mod.ts"), `there is no ${name}`);
});

test("code in Markdown is of a kind that is looked at, and says so where it is not run", () => {
  const notRun: string[] = [];
  for (const { document, blocks } of all) {
    const fences = readFileSync(join(ROOT, document), "utf8").match(/^```/gm)?.length ?? 0;
    assertEquals(2 * blocks.length, fences, `${document}: every fence opens or closes a block`);
    for (const { language, line, notRun: reason, file } of blocks) {
      const known = ["ts", "python", "sh", "mermaid", "text", ""].includes(language) ||
        (file !== null && ["c", "md"].includes(language));
      assert(known, `${document}, line ${line}: nothing looks at code of kind ${JSON.stringify(language)}`);
      if (reason !== null) notRun.push(`${document}, line ${line}: ${reason}`);
    }
  }
  console.log(`not run: ${notRun.length}${notRun.map((text) => `\n  ${text}`).join("")}`);
  assertEquals(notRun.length, NOT_RUN);
});

/** Blocks that cannot run, all in all. */
const NOT_RUN = 0;

test("a block takes the setup of its language, and what stands right before and behind it", () => {
  const [first, second, third] = parse([
    "<!-- setup ts",
    'import { SGD, Adam } from "@flatstep/optim";',
    "-->",
    "",
    "<!-- before",
    "const x = 1;",
    "-->",
    "```ts",
    'import { Adam } from "@flatstep/optim";',
    "```",
    "<!-- after",
    "x;",
    "-->",
    "<!-- not run: it asks for a device -->",
    "```ts",
    "y",
    "```",
    "<!-- file: a/b.c, before: RULE(sgd) -->",
    "```c",
    "RULE(x)",
    "```",
  ].join("\n"));
  assertEquals(
    first!.program.replace(/\s+/g, " "),
    [
      'import { SGD} from "@flatstep/optim"; const x = 1; import { Adam } from "@flatstep/optim"; x; ',
    ].join(""),
  );
  assertEquals([first!.line, first!.notRun, first!.file], [9, null, null]);
  assertEquals([second!.line, second!.notRun], [16, "it asks for a device"]);
  assertEquals([third!.text, third!.file], ["RULE(x)\n", { path: "a/b.c", before: "RULE(sgd)" }]);
});
