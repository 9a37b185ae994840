/**
 * Unpacks a prebuilt library into the user's cache folder, from where it can be opened.
 *
 * What lies there is trusted no more than the folder is: it has to be the user's own, closed to everybody else, and the
 * file has to have the SHA-256 that the module carries, in each program before it is opened. So an altered file is replaced, and
 * where it cannot be, refused. A library is written under a name of its own and renamed: any number of programs may do so
 * at once, and one that is cut off leaves nothing that would be opened.
 *
 * @module
 */

import { type Files, fileSystem, type Stats } from "./files.ts";
import { builtin, deno, env, granted, platform, userId } from "./runtime.ts";

/** What a module of ffi/prebuilt/ exports. */
export interface Prebuilt {
  /** SHA-256 of the library. */
  readonly SHA256: string;
  /** Its length in bytes. */
  readonly SIZE: number;
  /** The library, compressed by gzip, in base64. */
  readonly GZIP: string;
}

const isWindows = () => platform()?.startsWith("win32") === true;

/**
 * The folder that libraries are unpacked into: `flatstep` in the user's cache folder.
 *
 * @throws {Error} if the environment does not tell where that is, or may not be read
 */
export function cacheFolder(): string {
  const places: readonly (readonly [string, string])[] = isWindows()
    ? [["LOCALAPPDATA", ""]]
    : platform()?.startsWith("darwin")
    ? [["HOME", "/Library/Caches"]]
    : [["XDG_CACHE_HOME", ""], ["HOME", "/.cache"]];
  for (const [name, inside] of places) {
    const value = env(name);
    if (value === undefined || !(isWindows() ? /^[A-Za-z]:[\\/]|^\\\\/ : /^\//).test(value)) continue; // relative: ignored
    return `${value.replace(/[\\/]+$/, "")}${inside}${isWindows() ? "\\" : "/"}flatstep`;
  }
  const names = places.map(([name]) => name);
  throw new Error(
    `there is no cache folder: ${names.join(" and ")} ${names.length > 1 ? "are" : "is"} not set to an absolute path` +
      (deno ? `, or may not be read (--allow-env=${names.join(",")})` : ""),
  );
}

/**
 * The cache folder, if a library in it may be opened and read.
 *
 * @throws {Error} with the reason, if not
 */
export function openableFolder(): string {
  const folder = cacheFolder();
  if (!granted({ name: "ffi", path: folder })) {
    throw new Error("there is no permission to open it: run with --allow-ffi");
  }
  if (!granted({ name: "read", path: folder })) {
    throw new Error(`there is no permission to read ${folder}: run with --allow-read`);
  }
  return folder;
}

/** What lies at a path; null if there is nothing. */
function look(files: Files, path: string): Stats | null {
  const stats = files.look(path);
  if (stats?.isSymlink) throw new Error(`${path} is a symbolic link`);
  return stats;
}

/** The user's number, by what a new file of theirs has where the system may not be asked; null where there are none. */
function ownId(files: Files, folder: string): number | null {
  if (isWindows()) return null;
  const id = userId();
  if (id !== null) return id;
  if (!granted({ name: "write", path: folder })) {
    throw new Error(`whose ${folder} is cannot be told: run with --allow-sys=uid or --allow-write`);
  }
  const probe = `${folder}/probe-${crypto.randomUUID()}`;
  try {
    files.create(probe, new Uint8Array(0));
    return files.look(probe)!.uid;
  } finally {
    files.remove(probe);
  }
}

/** Throws unless a folder or file is the user's own, and nobody else may write to it. */
function assertOwn(path: string, stats: Stats, id: number | null): void {
  if (id === null) return;
  if (stats.uid !== id) throw new Error(`${path} belongs to somebody else`);
  if ((stats.mode & 0o022) !== 0) throw new Error(`${path} may be written to by others: chmod go-w it, or remove it`);
}

/** Libraries that were found intact when the package was imported: the {@linkcode Stats} `identity` that they had, by path. */
const intact = new Map<string, string>();

/** Whether the library lies at a path, in every byte. */
function isIntact(files: Files, path: string, { SHA256, SIZE }: Prebuilt, id: number | null): boolean {
  const stats = look(files, path);
  if (stats === null) return false;
  if (!stats.isFile) throw new Error(`${path} is not a file`);
  assertOwn(path, stats, id);
  if (stats.size !== SIZE) return false;
  return intact.get(path) === stats.identity || sha256(files.read(path)) === SHA256;
}

/** Milliseconds; a file that changed less than this ago may change again without another time. */
const TIMES_TELL_APART = 2000;

/**
 * Reads a library that has been unpacked before, while there is time: its hash is then made by what the runtime has at hand. If the
 * file is the same when it is to be opened, and nothing has changed it since, it is not read again.
 */
export async function readAhead(target: string, { SHA256, SIZE }: Prebuilt): Promise<void> {
  const path = pathOf(openableFolder(), target, SHA256), files = fileSystem(), stats = files.look(path);
  if (!stats?.isFile || stats.size !== SIZE || Date.now() - stats.changed < TIMES_TELL_APART) return;
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", files.read(path) as Uint8Array<ArrayBuffer>));
  const hex = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex === SHA256) intact.set(path, stats.identity);
}

/** The path of a target's library, after it has been unpacked. */
function pathOf(folder: string, target: string, hash: string): string {
  const ending = isWindows() ? "dll" : platform()?.startsWith("darwin") ? "dylib" : "so";
  return `${folder}${isWindows() ? "\\" : "/"}${target}-${hash}.${ending}`;
}

function sha256(bytes: Uint8Array): string {
  return builtin<typeof import("node:crypto")>("node:crypto").createHash("sha256").update(bytes).digest("hex");
}

function decompressed({ SHA256, SIZE, GZIP }: Prebuilt): Uint8Array {
  const { Buffer } = builtin<typeof import("node:buffer")>("node:buffer");
  const bytes = builtin<typeof import("node:zlib")>("node:zlib").gunzipSync(Buffer.from(GZIP, "base64"), {
    maxOutputLength: SIZE,
  });
  if (bytes.length !== SIZE || sha256(bytes) !== SHA256) throw new Error("the package's library is damaged");
  return bytes;
}

/** Writes a file in one piece: whoever looks sees the old one or the new one. */
function write(files: Files, path: string, bytes: Uint8Array): void {
  const temporary = `${path}.${crypto.randomUUID()}`;
  try {
    files.create(temporary, bytes);
    if (!isWindows()) files.chmod(temporary, 0o500); // there it would stand in the way of renaming
    files.rename(temporary, path);
  } catch (error) {
    files.remove(temporary);
    throw error;
  }
}

/**
 * Sees to it that a library lies in the cache folder, in every byte, and returns its path.
 *
 * @throws {Error} with the reason, if it cannot be written there, or what is there cannot be trusted
 */
export function unpack(target: string, prebuilt: Prebuilt): string {
  const folder = openableFolder(), path = pathOf(folder, target, prebuilt.SHA256);
  const files = fileSystem(), mayWrite = granted({ name: "write", path: folder });
  const forbidden = `there is no permission to write to ${folder}: run with --allow-write`;
  if (look(files, folder) === null) {
    if (!mayWrite) throw new Error(forbidden);
    files.makeFolder(folder);
  }
  const stats = look(files, folder);
  if (!stats?.isDirectory) throw new Error(`${folder} is not a folder`);
  const id = ownId(files, folder);
  assertOwn(folder, stats, id);
  if (isIntact(files, path, prebuilt, id)) return path;
  if (!mayWrite) throw new Error(forbidden);
  const bytes = decompressed(prebuilt);
  let failure = new Error(`${path} is not what has just been written`);
  try {
    write(files, path, bytes);
  } catch (error) {
    failure = error as Error; // Windows replaces no library that is open: then another program was faster
  }
  if (!isIntact(files, path, prebuilt, id)) throw failure;
  return path;
}
