/**
 * Writing a file so that a crash leaves the old one or the new one, whole.
 *
 * @module
 */

import { FileWriter } from "./file.ts";
import type { Platform } from "./platform.ts";

/** A file whose save has not written for so long is no one's any more: its process was killed. */
const ABANDONED_MS = 3_600_000;

/** Removes what killed saves to the same file have left, so that they do not fill the disk. It does not matter if it fails. */
async function removeAbandoned(node: Platform, folder: string, prefix: string): Promise<void> {
  const names = await node.fs.readdir(folder).catch(() => []);
  for (const name of names.filter((n) => n.startsWith(prefix) && /^\d+-[a-z\d]+\.tmp$/.test(n.slice(prefix.length)))) {
    const path = node.path.join(folder, name), stat = await node.fs.stat(path).catch(() => null);
    if (stat && Date.now() - stat.mtimeMs > ABANDONED_MS) await node.fs.rm(path, { force: true }).catch(() => {});
  }
}

/**
 * Writes a file next to its place, makes sure that it is on the disk, and puts it into its place by renaming. Where anything
 * fails, the new file is removed and the old one is as it was.
 *
 * @param node Node's modules
 * @param path where the file is to be; a symbolic link is followed
 * @param write writes the content
 * @param check throws if what is being written has changed; called after every piece, and at last before renaming
 */
export async function writeAtomically(
  node: Platform,
  path: string,
  write: (writer: FileWriter) => Promise<void>,
  check: () => void,
): Promise<void> {
  const { fs } = node;
  const target = await fs.realpath(path).catch(() => path); // there is none yet
  const folder = node.path.dirname(target), prefix = `.${node.path.basename(target).slice(0, 100)}.`;
  await removeAbandoned(node, folder, prefix);
  // two saves to one path at a time have two files; the folder is the same, since only there renaming is atomic
  const temporary = node.path.join(folder, `${prefix}${node.pid}-${Math.random().toString(36).slice(2)}.tmp`);
  const old = await fs.stat(target).catch(() => null);
  const handle = await fs.open(temporary, "wx");
  try {
    if (old && !node.windows) await fs.chmod(temporary, old.mode & 0o777);
    try {
      const writer = new FileWriter(handle, check);
      await write(writer);
      await writer.flush();
      await handle.sync();
    } finally {
      await handle.close();
    }
    check();
    await fs.rename(temporary, target);
  } catch (error) {
    await fs.rm(temporary, { force: true }).catch(() => {}); // the first error tells more
    throw error;
  }
  if (!node.windows) await syncFolder(fs, folder);
}

/** Makes sure that a folder's names are on the disk; where that cannot be had the new file is in its place all the same. */
async function syncFolder(fs: Platform["fs"], folder: string): Promise<void> {
  const handle = await fs.open(folder, "r").catch(() => null);
  if (handle === null) return; // a folder that may be written to and not read
  try {
    await handle.sync();
  } catch (error) {
    if (!["EINVAL", "ENOTSUP", "EISDIR", "EBADF", "EPERM"].includes((error as { code: string }).code)) throw error;
  } finally {
    await handle.close();
  }
}
