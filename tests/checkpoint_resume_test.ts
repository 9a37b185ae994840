/** A run that was saved goes on in another process and in the other runtime, to the bits of the run that went straight on. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "@std/path";
import { test } from "node:test";
import { assert, assertEquals } from "@std/assert";
import { fileOf, FORMATS, type Run, RUNS, SAVED_AT, STEPS } from "./support/resume_runs.ts";
import { otherRuntime, run as runCommand } from "./support/runtime.ts";

const LIMIT = { timeout: 180_000 };

type Bits = Record<string, string>;

/** What every run ends with: straight, and from each format in the other runtime. */
interface Outcome {
  readonly straight: ReadonlyMap<string, Bits>;
  readonly resumed: ReadonlyMap<string, Bits>;
}

const keyOf = (name: string, format: string) => `${name} from .${format}`;

/** Trains every run here, saves it on the way, and has one program of the other runtime go on with all of them. */
async function trainAll(): Promise<Outcome | string> {
  const other = otherRuntime();
  if (typeof other === "string") return other;
  const folder = mkdtempSync(join(tmpdir(), "flatstep-resume-"));
  try {
    const straight = new Map<string, Bits>(), resumed = new Map<string, Bits>();
    for (const run of RUNS) {
      const trainer = run.make();
      trainer.trainTo(SAVED_AT);
      for (const format of FORMATS) await trainer.save(join(folder, fileOf(run, format)));
      trainer.trainTo(STEPS);
      straight.set(run.name, trainer.bits());
    }
    const { code, stdout, stderr } = await runCommand(other.command, [...other.args, PROGRAM, folder]);
    assertEquals(code, 0, stderr);
    for (const line of stdout.trim().split("\n")) {
      const { run, format, bits } = JSON.parse(line) as { run: string; format: string; bits: Bits };
      resumed.set(keyOf(run, format), bits);
    }
    return { straight, resumed };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const PROGRAM = "tests/support/resume_program.ts";
let outcome: Promise<Outcome | string> | undefined;

/** What every run ends with, found once; null, and a message, where there is no other runtime. */
async function outcomes(): Promise<Outcome | null> {
  const found = await (outcome ??= trainAll());
  if (typeof found !== "string") return found;
  console.log(`skipped: ${found}`);
  return null;
}

/** Parameters and their averages are numbers, and have moved. */
function assertTrained({ make }: Run, bits: Bits): void {
  const before = make().bits();
  for (const [name, text] of Object.entries(bits)) {
    if (!name.startsWith("parameters.")) continue;
    assert(text !== before[name], `${name} has not been trained`);
  }
}

for (const run of RUNS) {
  test(
    `${run.name}: a resumed run has the bits of the straight one, in the other runtime and from both formats`,
    LIMIT,
    async () => {
      const found = await outcomes();
      if (found === null) return;
      const straight = found.straight.get(run.name)!;
      assertTrained(run, straight);
      for (const format of FORMATS) {
        const resumed = found.resumed.get(keyOf(run.name, format));
        assertEquals(resumed, straight, `from .${format}`);
      }
    },
  );
}
