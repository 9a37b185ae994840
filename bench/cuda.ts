/**
 * Steps on a CUDA device: the share of the device's bandwidth that they use, and torch's fused steps beside them:
 *
 *     deno task bench:cuda [--rules=AdamW,SGD+momentum,SGD] [--sets=gpt2,1x16M] [--rounds=15] [--device=cuda:0]
 *
 * The bandwidth is that of a copy of 256 MiB within the device, measured in the same run; a step's share is the bytes that it has to read and
 * write, by the time that the copy would take for as many. Gradients are on the device. A timing is of BATCH steps and one
 * synchronisation. torch runs in a child process (peers/torch_cuda.py); without it, or without CUDA in it, its columns are left out.
 *
 * @module
 */

import process from "node:process";
import { parseArgs } from "node:util";
import { AdamW, cuda, type DeviceName, type Optimizer, Parameter, SGD } from "../mod.ts";
import { allocateArray, deviceOf } from "../src/cuda/device_array.ts";
import { canImport, peerContender, startChild } from "./child.ts";
import { type Contender, contender, digits, inTurn, table, timeText } from "./ratios.ts";
import { elementsOf, makeParameters, SET_NAMES, setNewGradients, SHAPE_SETS, type ShapeSet } from "./shapes.ts";

/** Steps between two synchronisations. */
const BATCH = 20;
const COPY_BYTES = 256 << 20;

/** The rules, with the bytes that they read and write for an element of float32. */
const RULES = {
  "AdamW": { bytes: 28, make: (params: Parameter[]) => new AdamW(params, { lr: 1e-5 }) as unknown as Optimizer },
  "SGD+momentum": {
    bytes: 20,
    make: (params: Parameter[]) => new SGD(params, { lr: 1e-5, momentum: 0.9 }) as unknown as Optimizer,
  },
  "SGD": { bytes: 12, make: (params: Parameter[]) => new SGD(params, { lr: 1e-5 }) as unknown as Optimizer },
};
type RuleName = keyof typeof RULES;

/** BATCH calls, until the device has done them. */
const batched = (device: DeviceName, step: () => void) => () => {
  for (let k = 0; k < BATCH; k++) step();
  cuda.synchronize(device);
};

/** One call's time. */
const single = ({ name, turn }: Contender): Contender => ({ name, turn: async () => await turn() / BATCH });

/** A copy within the device. */
function copyContender(name: DeviceName): Contender {
  using probe = new Parameter([0]).to(name);
  const device = deviceOf(probe.deviceArray!);
  const [from, to] = [0, 1].map(() => allocateArray(device, "float32", COPY_BYTES / 4).fill(0));
  return single(contender("copy", batched(name, () => device.copy(to!.address, from!.address, COPY_BYTES))));
}

/** Parameters on the device, with gradients there. */
function onDevice(set: ShapeSet, name: DeviceName): { params: Parameter[]; grads: Parameter[] } {
  const params = makeParameters(SHAPE_SETS[set]);
  setNewGradients(params);
  const grads = params.map((p) => new Parameter(p.grad as Float32Array).to(name));
  params.forEach((p, i) => {
    p.grad = null;
    p.to(name).grad = grads[i]!.deviceArray;
  });
  return { params, grads };
}

function readArguments(): { rules: RuleName[]; sets: ShapeSet[]; rounds: number; device: DeviceName } {
  const text = { type: "string" } as const;
  const { values } = parseArgs({
    args: process.argv.slice(2),
    options: { rules: text, sets: text, rounds: text, device: text },
  });
  const pick = <T extends string>(option: string, given: string | undefined, names: readonly T[]): T[] =>
    (given?.split(",") ?? names).map((name) => {
      if (names.includes(name as T)) return name as T;
      throw new RangeError(`--${option} must be of ${names.join(", ")}, got ${name}`);
    });
  const rounds = Number(values.rounds ?? 15);
  if (!Number.isSafeInteger(rounds) || rounds < 1) {
    throw new RangeError(`--rounds must be an integer >= 1, got ${rounds}`);
  }
  return {
    rules: pick("rules", values.rules, Object.keys(RULES) as RuleName[]),
    sets: pick("sets", values.sets, SET_NAMES),
    rounds,
    device: (values.device ?? "cuda:0") as DeviceName,
  };
}

async function main(): Promise<void> {
  const { rules, sets, rounds, device } = readArguments();
  if (!cuda.isAvailable()) {
    let why = "there is no device";
    try {
      cuda.devices();
    } catch (error) {
      why = (error as Error).message;
    }
    console.log(`There is no CUDA device to measure on:\n${why}`);
    return;
  }
  const about = cuda.devices().find((entry) => entry.device === device)!, copy = copyContender(device);
  const torch = canImport("torch") ? startChild("torch_cuda.py") : null, rows: string[][] = [];
  let version = "without torch: Python cannot import it", bandwidth = 0;
  try {
    for (const set of sets) {
      for (const rule of rules) {
        console.error(`${rule} ${set} …`);
        const { params, grads } = onDevice(set, device), optimizer = RULES[rule].make(params);
        const ours = single(contender("flatstep", batched(device, () => optimizer.step())));
        const answer = await torch?.ask({ op: "setup", rule, shapes: SHAPE_SETS[set], device, batch: BATCH });
        const peers = answer?.["variants"] as string[] | undefined ?? [];
        if (answer !== undefined) version = answer["torch"] as string;
        const found = await inTurn(
          [ours, copy, ...peers.map((name) => single(peerContender(torch!, name, `torch ${name}`)))],
          rounds,
        );
        const bytes = RULES[rule].bytes * elementsOf(SHAPE_SETS[set]), share = bytes / (2 * COPY_BYTES);
        bandwidth = 2 * COPY_BYTES / found.time("copy") / 1e6;
        const ratio = (name: string) =>
          found.has(`torch ${name}`) ? `${digits(found.ratio(`torch ${name}`, "flatstep"))}x` : "none";
        rows.push([
          rule,
          set,
          timeText(found.time("flatstep")),
          `${digits(100 * share / found.ratio("flatstep", "copy"))} %`,
          ratio("fused"),
          ratio("foreach"),
        ]);
        optimizer.dispose();
        for (const p of [...params, ...grads]) p.dispose();
      }
    }
  } finally {
    torch?.end();
  }
  console.log(
    `flatstep on ${device} (${about.name}), whose memory copies at ${digits(bandwidth)} GB/s; torch ${version};`,
  );
  console.log(`medians over ${rounds} rounds; ratios are torch's time divided by flatstep's.\n`);
  console.log(table(["rule", "shapes", "flatstep", "of the bandwidth", "torch fused", "torch foreach"], rows));
}

if (import.meta.main) await main();
