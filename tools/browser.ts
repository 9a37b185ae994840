/**
 * `deno task browser`: bundles examples/browser/ with the library into dist/browser/ by `bun build`, and serves it on this
 * machine. `--build` only bundles; `--port=N` chooses the port.
 *
 * @module
 */

import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import process from "node:process";
import { dirname, fromFileUrl, join } from "@std/path";
import { findBun } from "./test.ts";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));
const SOURCE = join(ROOT, "examples", "browser");
/** The files of the page, and what a browser is told they are. */
const FILES: Record<string, string> = { "index.html": "text/html", "main.js": "text/javascript" };
/** What a browser never loads: native libraries, which it cannot open, and the plotting packages of `plotSchedule`. */
const EXTERNAL = ["./prebuilt/*", "./cuda_ptx.ts", "vega", "vega-lite"];

/**
 * Makes a page: two files in a folder, which any web server can hand out.
 *
 * @param entry the page's program; default: the example's
 */
export function bundle(folder: string, entry: string = join(SOURCE, "main.ts")): void {
  mkdirSync(folder, { recursive: true });
  const out = join(folder, "main.js"), external = EXTERNAL.map((pattern) => `--external=${pattern}`);
  execFileSync(findBun(), ["build", entry, "--target=browser", `--outfile=${out}`, ...external], {
    cwd: ROOT,
    stdio: ["ignore", "ignore", "inherit"],
  });
  copyFileSync(join(SOURCE, "index.html"), join(folder, "index.html"));
}

/**
 * Serves a page that `bundle` has made, to this machine only.
 *
 * @param port the port; 0: one that is free
 */
export function serve(folder: string, port: number): Promise<{ server: Server; url: string }> {
  const server = createServer((request, response) => {
    const name = new URL(request.url ?? "/", "http://localhost").pathname.slice(1) || "index.html", type = FILES[name];
    response.setHeader("cache-control", "no-store");
    if (!Object.hasOwn(FILES, name) || type === undefined) {
      response.writeHead(404).end();
    } else {
      response.writeHead(200, { "content-type": `${type}; charset=utf-8` }).end(readFileSync(join(folder, name)));
    }
  });
  return new Promise((resolve, reject) => {
    server.on("error", reject);
    server.listen(port, "127.0.0.1", () => {
      resolve({ server, url: `http://localhost:${(server.address() as AddressInfo).port}/` });
    });
  });
}

async function main(args: readonly string[]): Promise<void> {
  let port = 8080;
  for (const arg of args) {
    const number = arg.match(/^--port=(\d+)$/)?.[1];
    if (number !== undefined && Number(number) < 65536) port = Number(number);
    else if (arg !== "--build") {
      throw new Error(`there is no option ${arg}; there are --build and --port=N (0 to 65535)`);
    }
  }
  const folder = join(ROOT, "dist", "browser");
  bundle(folder);
  if (args.includes("--build")) return console.log("dist/browser");
  const { url } = await serve(folder, port);
  console.log(`The page is at ${url}  (Ctrl-C ends it)`);
}

if (import.meta.main) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    console.error(`error: ${(error as Error).message}`);
    process.exit(1);
  }
}
