/**
 * Writing a file so that a crash leaves the old one or the new one, whole.
 *
 * @module
 */

import { FileWriter } from "./file.ts";
import type { Platform } from "./platform.ts";

let count = 0;

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
  const folder = node.path.dirname(target);
  // two saves to one path at a time have two files; the folder is the same, since only there renaming is atomic
  const name = `.${node.path.basename(target).slice(0, 100)}.${node.pid}-${Date.now().toString(36)}-${count++}.tmp`;
  const temporary = node.path.join(folder, name);
  const handle = await fs.open(temporary, "wx");
  try {
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

/** Makes sure that a folder's names are on the disk. */
async function syncFolder(fs: Platform["fs"], folder: string): Promise<void> {
  const handle = await fs.open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
