/**
 * A headless Chromium, driven over its DevTools protocol: as much of it as the tests of a page need.
 *
 * @module
 */

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { join } from "@std/path";

/** Chromium's command, FLATSTEP_CHROMIUM first; null where there is none. */
export function findChromium(): string | null {
  const names = ["chromium", "chromium-browser", "google-chrome"], given = process.env["FLATSTEP_CHROMIUM"];
  return [...given ? [given] : [], ...names].find((name) => spawnSync(name, ["--version"]).status === 0) ?? null;
}

interface Reply {
  id?: number;
  method?: string;
  params?: { exceptionDetails?: { exception?: { description?: string } } };
  result?: Record<string, unknown>;
  error?: { message: string };
}

/** A page in a browser of its own. */
export class Page {
  /** Errors that nothing on the page has caught. */
  readonly errors: string[] = [];
  readonly #waiting = new Map<number, (reply: Reply) => void>();
  readonly #socket: WebSocket;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      const reply = JSON.parse(data as string) as Reply;
      if (reply.id !== undefined) this.#waiting.get(reply.id)?.(reply);
      if (reply.method === "Runtime.exceptionThrown") {
        this.errors.push(reply.params?.exceptionDetails?.exception?.description ?? "an exception");
      }
    };
  }

  /** Starts a browser, opens one empty page, lets `use` have it, and ends the browser whatever happens. */
  static async with<T>(command: string, use: (page: Page) => Promise<T>): Promise<T> {
    const profile = mkdtempSync(join(tmpdir(), "flatstep-chromium-"));
    const flags = ["--headless=new", "--remote-debugging-port=0", `--user-data-dir=${profile}`, "--no-first-run"];
    flags.push("--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage");
    if (process.getuid?.() === 0) flags.push("--no-sandbox"); // root has none
    const child = spawn(command, [...flags, "about:blank"], { stdio: ["ignore", "ignore", "pipe"] });
    const ended = new Promise((resolve) => child.on("close", resolve));
    try {
      const port = await new Promise<string>((resolve, reject) => {
        let text = "";
        child.stderr.on("data", (data) => {
          const found = (text += data).match(/DevTools listening on ws:\/\/[^:]+:(\d+)/)?.[1];
          if (found) resolve(found);
        });
        child.on("error", reject);
        child.on("close", () => reject(new Error(`${command} ended: ${text.slice(-500)}`)));
      });
      const response = await fetch(`http://127.0.0.1:${port}/json/new?about:blank`, { method: "PUT" });
      const socket = new WebSocket((await response.json() as { webSocketDebuggerUrl: string }).webSocketDebuggerUrl);
      await new Promise((resolve, reject) => {
        socket.onopen = resolve;
        socket.onerror = () => reject(new Error("the browser does not answer"));
      });
      try {
        const page = new Page(socket);
        await page.send("Runtime.enable");
        await page.send("Page.enable");
        return await use(page);
      } finally {
        const closed = new Promise((resolve) => socket.onclose = resolve);
        socket.close();
        await closed;
      }
    } finally {
      child.kill();
      await ended;
      rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
    }
  }

  /** One command of the protocol. */
  async send(method: string, params: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
    const id = this.#waiting.size + 1;
    const reply = await new Promise<Reply>((resolve) => {
      this.#waiting.set(id, resolve);
      this.#socket.send(JSON.stringify({ id, method, params }));
    });
    if (reply.error) throw new Error(`${method}: ${reply.error.message}`);
    return reply.result ?? {};
  }

  /** The value of an expression on the page; promises are awaited. */
  async evaluate(expression: string): Promise<unknown> {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
    }) as { result: { value?: unknown; description?: string }; exceptionDetails?: unknown };
    if (exceptionDetails) throw new Error(`${expression}: ${result.description}`);
    return result.value;
  }

  /** Waits until an expression is true on the page. */
  async until(expression: string, seconds: number): Promise<void> {
    const end = Date.now() + 1000 * seconds;
    while (await this.evaluate(expression) !== true) {
      if (Date.now() > end) throw new Error(`not true after ${seconds} s: ${expression}\n${this.errors.join("\n")}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** A picture of the window, as a PNG file. */
  async screenshot(): Promise<Uint8Array> {
    const { data } = await this.send("Page.captureScreenshot", { format: "png" });
    return Uint8Array.from(atob(data as string), (letter) => letter.charCodeAt(0));
  }
}
