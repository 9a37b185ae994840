/**
 * The few things that unpacking a library asks of the file system: Deno's own functions in Deno, node:fs elsewhere. In Deno the
 * first use of node:fs, and of `process`, which leads there, costs 15 ms at a program's start.
 *
 * @module
 */

import { builtin, deno } from "./runtime.ts";

/** What lies at a path, itself and not what a symbolic link points to. */
export interface Stats {
  readonly isFile: boolean;
  readonly isDirectory: boolean;
  readonly isSymlink: boolean;
  readonly size: number;
  /** Owner and permissions; 0 on Windows, which has neither. */
  readonly uid: number;
  readonly mode: number;
  /** Which file it is, and when it or its owner and permissions last changed: another text if anything of that does. */
  readonly identity: string;
  /** When that was, in milliseconds since 1970. */
  readonly changed: number;
}

/** The functions. All are synchronous, and throw what the system says, with its name for it: `ENOSPC`. */
export interface Files {
  /** What lies at a path, null for nothing. */
  look(path: string): Stats | null;
  read(path: string): Uint8Array;
  /** Makes a folder for the user alone, and those that it is to lie in. */
  makeFolder(path: string): void;
  /** Writes a file that is not there yet, for the user alone. */
  create(path: string, bytes: Uint8Array): void;
  chmod(path: string, mode: number): void;
  rename(from: string, to: string): void;
  /** Removes a file, if it is there. */
  remove(path: string): void;
}

function identityOf(found: {
  dev: number;
  ino: number | null;
  size: number;
  mtime: Date | null;
  ctime?: Date | null;
}): Pick<Stats, "identity" | "changed"> {
  const times = [found.mtime?.getTime() ?? 0, found.ctime?.getTime() ?? 0];
  return { identity: [found.dev, found.ino, found.size, ...times].join(" "), changed: Math.max(...times) };
}

/**
 * Does it, with the system's name for what went wrong in the message, as node:fs has it.
 *
 * @param absent names of what is no error: the result is null then
 */
function named<T>(body: () => T, absent: readonly string[] = []): T | null {
  try {
    return body();
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    if (code === undefined) throw error;
    if (absent.includes(code)) return null;
    throw new Error(`${code}: ${message}`);
  }
}

function denoFiles(own: NonNullable<typeof deno>): Files {
  return {
    look: (path) => {
      const found = named(() => own.lstatSync(path), ["ENOENT", "ENOTDIR"]);
      return found && { ...found, uid: found.uid ?? 0, mode: found.mode ?? 0, ...identityOf(found) };
    },
    read: (path) => named(() => own.readFileSync(path))!,
    makeFolder: (path) => void named(() => own.mkdirSync(path, { recursive: true, mode: 0o700 })),
    create: (path, bytes) => void named(() => own.writeFileSync(path, bytes, { createNew: true, mode: 0o600 })),
    chmod: (path, mode) => void named(() => own.chmodSync(path, mode)),
    rename: (from, to) => void named(() => own.renameSync(from, to)),
    remove: (path) => void named(() => own.removeSync(path), ["ENOENT"]),
  };
}

function nodeFiles(): Files {
  const fs = builtin<typeof import("node:fs")>("node:fs");
  return {
    look: (path) => {
      const found = fs.lstatSync(path, { throwIfNoEntry: false });
      if (found === undefined) return null;
      return {
        isFile: found.isFile(),
        isDirectory: found.isDirectory(),
        isSymlink: found.isSymbolicLink(),
        size: found.size,
        uid: found.uid,
        mode: found.mode,
        ...identityOf(found),
      };
    },
    read: (path) => fs.readFileSync(path),
    makeFolder: (path) => void fs.mkdirSync(path, { recursive: true, mode: 0o700 }),
    create: (path, bytes) => fs.writeFileSync(path, bytes, { flag: "wx", mode: 0o600 }),
    chmod: (path, mode) => fs.chmodSync(path, mode),
    rename: (from, to) => fs.renameSync(from, to),
    remove: (path) => fs.rmSync(path, { force: true }),
  };
}

/** The functions of this runtime. */
export function fileSystem(): Files {
  return deno ? denoFiles(deno) : nodeFiles();
}
