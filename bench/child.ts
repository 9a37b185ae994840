/**
 * A peer, in Python or JavaScript: a child process that answers a line of JSON with a line of JSON.
 *
 * @module
 */

import { spawn, spawnSync } from "node:child_process";
import process from "node:process";
import { createInterface } from "node:readline";
import { fromFileUrl } from "@std/path";
import type { Contender } from "./ratios.ts";

const PYTHON = "python3";

/** A child process. */
export interface Child {
  /** Sends a request and waits for the answer. */
  ask(request: unknown): Promise<Record<string, unknown>>;
  /** Lets it end. */
  end(): void;
}

/** Whether Python can import a module. */
export function canImport(module: string): boolean {
  return spawnSync(PYTHON, ["-c", `import ${module}`], { stdio: "ignore" }).status === 0;
}

/** Starts a program of bench/peers/, with further environment: by Python, or by the runtime that this runs in. */
export function startChild(script: string, env: Readonly<Record<string, string>> = {}): Child {
  const path = fromFileUrl(new URL(`./peers/${script}`, import.meta.url));
  const deno = "Deno" in globalThis && !("Bun" in globalThis);
  const [command, ...args] = script.endsWith(".py")
    ? [PYTHON]
    : [process.execPath, "run", ...(deno ? ["-A", "--quiet", "--no-prompt"] : [])];
  const child = spawn(command!, [...args, path], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, ...env },
  });
  child.stdin.on("error", () => {}); // it has ended: the answer that does not come tells
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    async ask(request) {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      const { value, done } = await lines.next();
      if (done) throw new Error(`${script} has ended; what it said is above`);
      return JSON.parse(value) as Record<string, unknown>;
    },
    end: () => child.stdin.end(),
  };
}

/**
 * A step of a peer's, timed there.
 *
 * @param name what the peer calls it
 * @param label what it is called here; the same, if it is left out
 */
export function peerContender(child: Child, name: string, label: string = name): Contender {
  return { name: label, turn: async () => (await child.ask({ op: "turn", name }))["ms"] as number };
}
