/**
 * The modules of Node's that checkpoints need: Deno, Bun and Node have them. They are asked for when they are first used, and
 * not by an import, so that the library can be imported and bundled where there are none: in a browser.
 *
 * @module
 */

import { builtin } from "../../ffi/runtime.ts";

/** Node's modules, and what is used of them. */
export interface Platform {
  /** Files. */
  readonly fs: typeof import("node:fs/promises");
  /** Compression and checksums. */
  readonly zlib: typeof import("node:zlib");
  /** Names of files. */
  readonly path: typeof import("node:path");
  /** Whether this is Windows, where a folder cannot be synchronised. */
  readonly windows: boolean;
  /** The number of this process. */
  readonly pid: number;
}

/** An open file. */
export type Handle = Awaited<ReturnType<Platform["fs"]["open"]>>;

let modules: Promise<Platform> | undefined;

/** The modules, taken once. It rejects with a TypeError where there are none, or where they are too old. */
export function platform(): Promise<Platform> {
  return modules ??= new Promise((resolve) => resolve(takeAll()));
}

function takeAll(): Platform {
  try {
    const process = builtin<typeof import("node:process")>("node:process");
    const zlib = builtin<Platform["zlib"]>("node:zlib");
    if (typeof zlib.crc32 !== "function") {
      throw new Error("crc32() of node:zlib is missing: it needs Node 22.2 or newer");
    }
    return {
      fs: builtin<Platform["fs"]>("node:fs/promises"),
      zlib,
      path: builtin<Platform["path"]>("node:path"),
      windows: process.platform === "win32",
      pid: process.pid,
    };
  } catch (cause) {
    const why = (cause as Error).message;
    throw new TypeError(`checkpoints need the files and the zlib of Deno, Bun or Node: ${why}`, { cause });
  }
}
