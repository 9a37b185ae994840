/** The library in a browser: the example's page, run to its end in a headless Chromium, and the whole of mod.ts. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { join } from "@std/path";
import { MEASURE_EVERY, STEPS, Training } from "../examples/browser/training.ts";
import { backend } from "../mod.ts";
import { bundle, serve } from "../tools/browser.ts";
import { findChromium, Page } from "./support/chromium.ts";
import { assertCompiled, ROOT } from "./support/runtime.ts";

const chromium = findChromium();

/** Bundles a program as a page's script, opens the page, and lets `use` have it. */
async function inBrowser(source: string | null, use: (page: Page, url: string) => Promise<void>): Promise<void> {
  if (chromium === null) {
    return console.log("skipped: there is no Chromium on this machine (on Debian: apt-get install chromium)");
  }
  const folder = mkdtempSync(join(ROOT, "tests", "browser.local."));
  try {
    const entry = join(folder, "entry.ts");
    if (source !== null) writeFileSync(entry, source);
    const out = join(folder, "out");
    if (source === null) bundle(out);
    else bundle(out, entry);
    const { server, url } = await serve(out, 0);
    try {
      await Page.with(chromium, (page) => use(page, url));
    } finally {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** What the page shows, by the ids of its elements. */
const IDS = ["status", "step", "accuracy", "averaged", "backend", "weights"] as const;
async function shown(page: Page): Promise<Record<typeof IDS[number], string>> {
  const entries = `${JSON.stringify(IDS)}.map((id) => [id, document.getElementById(id).textContent])`;
  return await page.evaluate(`Object.fromEntries(${entries})`) as Record<typeof IDS[number], string>;
}

/** A picture in light and dark, where FLATSTEP_SCREENSHOTS names a folder for them: they are looked at by people. */
async function photograph(page: Page, name: string): Promise<void> {
  const folder = process.env["FLATSTEP_SCREENSHOTS"];
  for (const value of folder === undefined ? [] : ["light", "dark"]) {
    await page.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] });
    await page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))");
    writeFileSync(join(folder!, `${name}_${value}.png`), await page.screenshot());
  }
}

test("a browser trains the example's model by WASM to the bits that this runtime computes natively", {
  timeout: 180_000,
}, async () => {
  assertCompiled(backend());
  const here = new Training(1);
  while (!here.done) here.step();
  const { model, averaged } = here.measurements.at(-1)!, [start] = here.measurements;
  assertEquals(here.measurements.length, 1 + STEPS / MEASURE_EVERY);
  assert(model.loss < start!.model.loss / 5 && averaged.loss < start!.averaged.loss / 5, "the loss must go down");
  assert(model.accuracy > 0.95 && averaged.accuracy > 0.95, "the model must tell the moons apart");

  await inBrowser(null, async (page, url) => {
    await page.send("Emulation.setDeviceMetricsOverride", {
      width: 1160,
      height: 850,
      deviceScaleFactor: 1,
      mobile: false,
    });
    const is = (id: string, text: string) =>
      `(document.getElementById("${id}")?.textContent === ${JSON.stringify(text)})`;
    await page.send("Page.navigate", { url });
    await page.until(is("status", "Ready."), 60);
    assertEquals((await shown(page)).step, `0 of ${STEPS}`);

    await page.evaluate(`document.getElementById("start").click()`);
    await page.until(`!${is("step", `0 of ${STEPS}`)}`, 60);
    await page.evaluate(`document.getElementById("stop").click()`);
    const stopped = await shown(page), steps = Number(stopped.step.split(" ")[0]);
    assert(steps > 0 && steps < STEPS, "it has been stopped on the way");
    assertEquals(stopped.status, `Stopped after step ${steps}.`);
    await page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))");
    assertEquals((await shown(page)).step, stopped.step, "and stays there");
    await photograph(page, "stopped");

    await page.evaluate(`document.getElementById("start").click()`);
    await page.until(is("status", "Done."), 120);
    const percent = (share: number) => `${(100 * share).toFixed(2)} %`;
    assertEquals(await shown(page), {
      status: "Done.",
      step: `${STEPS} of ${STEPS}`,
      accuracy: percent(model.accuracy),
      averaged: percent(averaged.accuracy),
      backend: "wasm, simd128",
      weights: await here.fingerprint(),
    });
    await photograph(page, "done");

    await page.evaluate(`document.getElementById("reset").click()`);
    assertEquals((await shown(page)).step, `0 of ${STEPS}`);
    assertEquals(page.errors, []);
  });
});

test("all of the library can be imported in a browser, where checkpoints say that there is no file system", {
  timeout: 180_000,
}, async () => {
  const source = `import * as optim from "@flatstep/optim"; Object.assign(globalThis, { optim });`;
  await inBrowser(source, async (page, url) => {
    await page.send("Page.navigate", { url });
    await page.until("typeof optim === 'object'", 60);
    const exports = Object.keys(await import("../mod.ts")).sort();
    assertEquals(await page.evaluate("Object.keys(optim).sort()"), exports);
    const message = (call: string) => page.evaluate(`${call}.catch((error) => error.name + ": " + error.message)`);
    for (const call of [`optim.save("run.pt", { epoch: 1 })`, `optim.load("run.safetensors")`]) {
      const told = String(await message(call));
      assertMatch(told, /^CheckpointError: run\.\w+: .*checkpoints need the files and the zlib of Deno, Bun or Node/);
    }
    assertMatch(
      String(await page.evaluate("optim.backend().why")),
      /native libraries can be opened in Deno and in Bun/,
    );
    const native = `new optim.SGD([new Float32Array(2)], { fused: true })`; // WASM is compiled code: this is no error
    assertEquals(await page.evaluate(`${native}.step() === undefined`), true);
  });
});

test("the page needs nothing but its two files", { timeout: 180_000 }, () => {
  const html = readFileSync(join(ROOT, "examples", "browser", "index.html"), "utf8");
  const links = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, link]) => link);
  assertEquals(links, ["data:,", "main.js"]);
});
