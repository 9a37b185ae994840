/**
 * The modules of Node's that checkpoints need: Deno, Bun and Node have them. They are imported when they are first used, so
 * that the library can be imported where there are none.
 *
 * @module
 */

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

/** The modules, imported once. */
export function platform(): Promise<Platform> {
  return modules ??= importAll();
}

async function importAll(): Promise<Platform> {
  const [fs, zlib, path, { default: process }] = await Promise.all([
    import("node:fs/promises"),
    import("node:zlib"),
    import("node:path"),
    import("node:process"),
  ]);
  if (typeof zlib.crc32 !== "function") {
    throw new TypeError("checkpoints need crc32() of node:zlib: Node 22.2 or newer");
  }
  return { fs, zlib, path, windows: process.platform === "win32", pid: process.pid };
}
