/**
 * Installs what is published into empty projects, without a network, and runs the first program of the README in each:
 * `deno task check:install`.
 *
 * The npm package's tarball goes into a project for Deno, one for Bun and one for Node. Registries of modules are stood in
 * for by a server on this machine, which has the files that `deno publish` would publish and no others.
 *
 * @module
 */

import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import process from "node:process";
import { dirname, fromFileUrl, join } from "@std/path";
import { makePackage, makeTarball } from "./package.ts";
import { findBun } from "./test.ts";

const ROOT = dirname(dirname(fromFileUrl(import.meta.url)));

/** Deno's binary: the one that runs this, else the PATH's. */
export const DENO: string = "Deno" in globalThis && !("Bun" in globalThis) ? process.execPath : "deno";

/** The first program of the README, as it stands there. */
export function firstProgram(): string {
  return readFileSync(join(ROOT, "README.md"), "utf8").match(/```ts\n([\s\S]*?)```/)![1]!;
}

/** The files that `deno publish` would publish, relative to the project's folder. */
export function publishedFiles(): string[] {
  const { status, stdout, stderr, error } = spawnSync(DENO, ["publish", "--dry-run", "--allow-dirty", "--no-check"], {
    cwd: ROOT,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
  });
  if (status !== 0) throw new Error(`deno publish: ${error?.message ?? stderr}`);
  const files = [...`${stdout}${stderr}`.matchAll(/^\s+(file:\S+) \([\d.]+ ?[KM]?i?B\)$/gm)].map((match) => match[1]!);
  return files.map((url) => fromFileUrl(url).slice(ROOT.length + 1).replaceAll("\\", "/"));
}

/** A server of the published files. */
export interface Registry extends AsyncDisposable {
  /** `http://localhost:…` */
  readonly url: string;
  /** The paths that were asked for. */
  readonly asked: string[];
}

/** Serves the published files on this machine. */
export async function serveRegistry(): Promise<Registry> {
  const files = new Set(publishedFiles()), asked: string[] = [];
  const server = createServer((request, response) => {
    const path = new URL(request.url!, "http://localhost").pathname.slice(1);
    asked.push(path);
    if (!files.has(path)) return void response.writeHead(404).end();
    response.writeHead(200, { "content-type": path.endsWith(".ts") ? "application/typescript" : "text/plain" });
    response.end(readFileSync(join(ROOT, path)));
  });
  await new Promise<void>((resolve) => server.listen(0, "localhost", resolve));
  return {
    url: `http://localhost:${(server.address() as AddressInfo).port}`,
    asked,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Runs a command and returns what it printed; throws if it failed. */
export function run(
  command: string,
  args: readonly string[],
  cwd: string,
  env: Record<string, string> = {},
): Promise<string> {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("FLATSTEP_"));
  return new Promise((resolve, reject) => {
    const child = spawn(command, [...args], { cwd, env: { ...Object.fromEntries(inherited), NO_COLOR: "1", ...env } });
    let stdout = "", stderr = "";
    child.stdout.on("data", (data) => stdout += data);
    child.stderr.on("data", (data) => stderr += data);
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) resolve(stdout);
      else reject(new Error(`${command} ${args.join(" ")}: exit status ${code}\n${stdout}${stderr}`));
    });
  });
}

/** Installs the npm tarball into a project for each runtime; returns the last line that the program printed in each. */
export async function checkNpm(folder: string): Promise<Record<"deno" | "bun" | "node", string>> {
  makePackage(join(folder, "npm"));
  const tarball = makeTarball(join(folder, "npm")), program = firstProgram();
  const last = (text: string) => text.trimEnd().split("\n").at(-1)!;
  const project = (name: string) => {
    const path = join(folder, name);
    mkdirSync(path);
    writeFileSync(join(path, "package.json"), JSON.stringify({ name, private: true, type: "module" }));
    writeFileSync(join(path, "first.ts"), program);
    return path;
  };
  const npm = ["install", "--offline", "--no-audit", "--no-fund", tarball];

  const forDeno = project("for-deno");
  await run("npm", npm, forDeno);
  const deno = last(await run(DENO, ["run", "--no-prompt", "--allow-ffi", "first.ts"], forDeno));

  const forBun = project("for-bun");
  await run(findBun(), ["add", tarball], forBun);
  const bun = last(await run(findBun(), ["first.ts"], forBun));

  const forNode = project("for-node"); // Node takes JavaScript: so tsc sees the package's types too
  await run("npm", npm, forNode);
  const options = ["--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2025,dom", "--types", ""];
  const tsc = join(ROOT, "node_modules", ".bin", process.platform === "win32" ? "tsc.cmd" : "tsc");
  await run(tsc, [...options, "first.ts"], forNode);
  const node = last(await run("node", ["first.js"], forNode));
  return { deno, bun, node };
}

/** What becomes of a program that imports the package over http, with its folders in `folder`: what it prints. */
export async function runRemote(
  registry: Registry,
  folder: string,
  program: string,
  permissions: readonly string[],
): Promise<string> {
  writeFileSync(join(folder, "remote.ts"), program.replaceAll('"@flatstep/optim"', `"${registry.url}/mod.ts"`));
  const env = {
    DENO_DIR: join(folder, "deno"),
    XDG_CACHE_HOME: join(folder, "cache"),
    LOCALAPPDATA: join(folder, "cache"),
  };
  const args = ["run", "--no-prompt", "--no-config", `--allow-import=${new URL(registry.url).host}`, ...permissions];
  return await run(DENO, [...args, "remote.ts"], folder, env);
}

/** What lets a library be unpacked into the cache folder and opened, and nothing else. */
export function unpackingPermissions(folder: string): string[] {
  const place = join(folder, "cache", "flatstep");
  return [
    `--allow-ffi=${place}`,
    `--allow-read=${place}`,
    `--allow-write=${place}`,
    "--allow-env=XDG_CACHE_HOME,HOME,LOCALAPPDATA",
  ];
}

async function main(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-install-")), remote = join(folder, "remote");
  try {
    for (const [name, line] of Object.entries(await checkNpm(folder))) console.log(`npm, ${name}: ${line}`);
    mkdirSync(remote);
    await using registry = await serveRegistry();
    for (const permissions of [unpackingPermissions(remote), []]) {
      const text = await runRemote(registry, remote, firstProgram(), permissions);
      const how = permissions.length > 0 ? "" : ", no permissions";
      console.log(`by import, deno${how}: ${text.trimEnd().split("\n").at(-1)}`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (import.meta.main) await main();
