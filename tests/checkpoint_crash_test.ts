/** A crash while a checkpoint is saved leaves the old file or the new one, whole. So do a full disk and a folder that cannot be written to. */

import { spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { join } from "@std/path";
import { CheckpointError, load, save } from "../mod.ts";
import { failToSave, type Failure } from "./support/failing_save.ts";
import { OWN, ROOT, run } from "./support/runtime.ts";
import { checkWhole } from "./support/whole.ts";

const LIMIT = { timeout: 180_000 };
const FORMATS = ["safetensors", "pt"] as const;
/** Kills, in all; and how many programs are saving at a time, each into its own folder. */
const KILLS = 200, LANES = 4;

/** Runs a test in a folder of its own. */
async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "flatstep-crash-"));
  try {
    await body(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** What a program that saves over and over had printed when it was killed: the number of the last save that had ended. */
function saveAndKill(path: string): Promise<number> {
  const program = join("tests", "support", "saver.ts");
  return new Promise((resolve, reject) => {
    const child = spawn(OWN.command, [...OWN.args, program, path], {
      cwd: ROOT,
      stdio: ["ignore", "pipe", "pipe"],
    });
    // Two saves tell how long the third will take: the kill comes at a random moment in it, or a little later.
    let printed = "", errors = "", saves = 0, before = 0;
    child.stdout.on("data", (data) => {
      printed += data;
      const now = performance.now();
      if (++saves === 2) setTimeout(() => child.kill("SIGKILL"), Math.random() * 1.2 * (now - before));
      before = now;
    });
    child.stderr.on("data", (data) => errors += data);
    child.on("error", reject);
    child.on("close", (_code, signal) => {
      if (signal !== "SIGKILL") return reject(new Error(`the program ended by itself: ${errors}`));
      // a line that was being printed when it was killed has no end
      resolve(Number(printed.split("\n").at(-2)));
    });
  });
}

test(`a program killed ${KILLS} times while it saves leaves the old file or the new one, whole`, LIMIT, async () => {
  await inFolder(async (folder) => {
    let left = 0, old = 0;
    const lane = async (number: number) => {
      const own = join(folder, String(number)), path = join(own, `checkpoint.${FORMATS[number % FORMATS.length]}`);
      mkdirSync(own);
      for (let kill = number; kill < KILLS; kill += LANES) {
        const before = readdirSync(own), ended = await saveAndKill(path), found = checkWhole(await load(path));
        assert(found === ended || found === ended + 1, `save ${ended} had ended, the file is of save ${found}`);
        if (found === ended && readdirSync(own).some((name) => !before.includes(name))) old++;
      }
      // what the killed programs left behind does no harm
      left += readdirSync(own).length - 1;
      const again = checkWhole(await load(path)) + 1;
      await save(path, { again });
      assertEquals(await load(path), { again });
    };
    const start = performance.now();
    await Promise.all(Array.from({ length: LANES }, (_, number) => lane(number)));
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    console.log(`${KILLS} kills in ${seconds} s: ${old} in the middle of a save, ${left} temporary files left over`);
    assert(old >= KILLS / 10, `only ${old} of ${KILLS} kills came in the middle of a save`);
  });
});

/** Holds what saves that must fail have come to, one in each format; `reason` is what their messages must say. */
function checkFailures(failures: readonly Failure[], paths: readonly string[], reason: RegExp): void {
  assertEquals(failures.length, paths.length);
  failures.forEach(({ message, ...rest }, i) => {
    assertEquals(rest, { step: 1, sameFiles: true, isCheckpointError: true, path: paths[i] }, message);
    assert(message.startsWith(`${paths[i]}: `), message);
    assertMatch(message, reason);
  });
}

const pathsIn = (folder: string) => FORMATS.map((format) => join(folder, `checkpoint.${format}`));

/** Mounts something over a folder while a test runs; a message where that cannot be done here. */
async function withMount(folder: string, options: readonly string[], body: () => Promise<void>): Promise<void> {
  const { status, stderr, error } = spawnSync("mount", [...options, folder], { encoding: "utf8" });
  if (status !== 0) {
    return console.log(`skipped: nothing can be mounted here: ${(error?.message ?? stderr).trim()}`);
  }
  try {
    await body();
  } finally {
    spawnSync("umount", [folder]);
  }
}

test("a full disk is an error that says so, and the old file is kept", LIMIT, async () => {
  await inFolder((folder) =>
    withMount(folder, ["-t", "tmpfs", "-o", "size=1m", "tmpfs"], async () => {
      const paths = pathsIn(folder), failures: Failure[] = [];
      for (const path of paths) failures.push(await failToSave(path));
      checkFailures(failures, paths, /no space left/i);
    })
  );
});

test("a file that may not grow so large is an error that says so, and the old file is kept", LIMIT, async () => {
  if (process.platform === "win32") return console.log("skipped: Windows has no limit on the size of files");
  await inFolder(async (folder) => {
    const paths = pathsIn(folder), program = join("tests", "support", "failing_save.ts");
    const command = [OWN.command, ...OWN.args, program, ...paths];
    // 2048 blocks of 512 bytes or of 1024; without the trap the signal would end the program
    const { code, stdout, stderr } = await run("sh", [
      "-c",
      'trap "" XFSZ; ulimit -f 2048; exec "$@"',
      "sh",
      ...command,
    ]);
    assertEquals(code, 0, stderr);
    checkFailures(stdout.trim().split("\n").map((line) => JSON.parse(line) as Failure), paths, /file too large/i);
  });
});

test("a read-only folder is an error that says so, and the old file is kept", LIMIT, async () => {
  await inFolder(async (folder) => {
    const paths = pathsIn(folder);
    const failAll = async (reason: RegExp) => {
      const failures: Failure[] = [];
      for (const path of paths) failures.push(await failToSave(path, { first: false }));
      checkFailures(failures, paths, reason);
    };
    for (const path of paths) await save(path, { step: 1 });
    if (process.getuid?.() !== 0) {
      if (process.platform === "win32") return console.log("skipped: Windows has no read-only folders");
      chmodSync(folder, 0o555);
      try {
        return await failAll(/permission denied/i);
      } finally {
        chmodSync(folder, 0o755);
      }
    }
    // permissions do not hold root back, a read-only mount does
    await withMount(folder, ["--bind", folder], async () => {
      const { status, stderr } = spawnSync("mount", ["-o", "remount,ro,bind", folder], { encoding: "utf8" });
      assertEquals(status, 0, stderr);
      await failAll(/read-only file system/i);
    });
  });
});

for (const format of FORMATS) {
  test(`save() to a .${format} that cannot be there is a CheckpointError with path and cause`, LIMIT, async () => {
    await inFolder(async (folder) => {
      const file = join(folder, "file"), taken = join(folder, `folder.${format}`);
      writeFileSync(file, "here");
      mkdirSync(join(taken, "inside"), { recursive: true });
      const wrong: [path: string, codes: string[]][] = [
        [join(file, `below.${format}`), ["ENOTDIR", "ENOENT"]], // ENOENT in Windows
        [join(folder, "nowhere", `x.${format}`), ["ENOENT"]],
        [taken, ["EISDIR", "ENOTEMPTY", "EEXIST", "EPERM"]], // as the system has it
      ];
      const before = readdirSync(folder).join();
      for (const [path, codes] of wrong) {
        const error = await assertRejects(() => save(path, { step: 1 }), CheckpointError);
        assertEquals(error.path, path);
        assert(error.message.startsWith(`${path}: `), error.message);
        assert(codes.includes((error.cause as { code: string }).code), `${error.message}: ${error.cause}`);
      }
      assertEquals(readdirSync(folder).join(), before, "nothing must be left over");
      assertEquals(readFileSync(file, "utf8"), "here");
    });
  });
}
