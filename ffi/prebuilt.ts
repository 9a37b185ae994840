/**
 * The prebuilt native libraries: ffi/prebuilt/ has a module for each target, made by `deno task build --all`.
 *
 * A step is synchronous, and so is what it takes to open a library. Where the sources are files, the target's module is
 * read as text when it is needed. Where they came over the network there is no file, and modules come by `import()` alone,
 * which is asynchronous: so in Deno, if native libraries may be opened, this module awaits its target's when it is
 * imported, and has a library that was unpacked before read and its hash made. Nothing is unpacked or opened by that.
 *
 * @module
 */

import { deno, env, readGenerated, targets } from "./runtime.ts";
import { openableFolder, type Prebuilt, readAhead } from "./unpack.ts";

/**
 * Imports a target's module. Each import is literal: so Deno fetches the modules together with the package, pins them in the
 * lockfile, and has them without a network. Only the target's is evaluated.
 */
async function importPrebuilt(target: string): Promise<Prebuilt | null> {
  switch (target) {
    case "linux-x64":
      return await import("./prebuilt/linux-x64.ts");
    case "linux-x64-musl":
      return await import("./prebuilt/linux-x64-musl.ts");
    case "linux-arm64":
      return await import("./prebuilt/linux-arm64.ts");
    case "linux-arm64-musl":
      return await import("./prebuilt/linux-arm64-musl.ts");
    case "darwin-x64":
      return await import("./prebuilt/darwin-x64.ts");
    case "darwin-arm64":
      return await import("./prebuilt/darwin-arm64.ts");
    case "win32-x64":
      return await import("./prebuilt/win32-x64.ts");
    default:
      return null;
  }
}

/** Whether the sources are files. */
const FROM_FILE: boolean = import.meta.url.startsWith("file:");

/** What the top-level await brought: a module, or why there is none. */
interface Fetched {
  target: string | null;
  prebuilt: Prebuilt | null;
  why: string;
}

async function fetchPrebuilt(): Promise<Fetched> {
  const none = (why: string): Fetched => ({ target: null, prebuilt: null, why });
  if (!deno) return none("the package was not imported from a file");
  if (env("FLATSTEP_LIBRARY") !== undefined || ["js", "wasm"].includes(env("FLATSTEP_BACKEND") ?? "")) {
    return none("the environment asked for something else when the package was imported");
  }
  try {
    openableFolder();
    const [target] = targets();
    const prebuilt = await importPrebuilt(target!);
    if (prebuilt !== null) await readAhead(target!, prebuilt).catch(() => {}); // what is wrong is told when it is to be opened
    return prebuilt ? { target: target!, prebuilt, why: "" } : none(`there is none for ${target}`);
  } catch (error) {
    return none(`when the package was imported: ${(error as Error).message.split("\n")[0]}`);
  }
}

const fetched: Fetched | null = FROM_FILE ? null : await fetchPrebuilt();

/** Reads a target's module as text. */
function readPrebuilt(target: string): Prebuilt {
  openableFolder();
  const found = readGenerated(import.meta.url, `./prebuilt/${target}`, "deno task build --all");
  if (found === null) throw new Error(`there is none for ${target}`);
  return { SHA256: found.sha256, SIZE: found.size, GZIP: found.compressed };
}

/**
 * The prebuilt library of a target.
 *
 * @throws {Error} with the reason, if it cannot be had
 */
export function prebuiltOf(target: string): Prebuilt {
  if (fetched === null) return readPrebuilt(target);
  if (fetched.target !== target) throw new Error(fetched.why || `there is none for ${target} here`);
  return fetched.prebuilt!;
}
