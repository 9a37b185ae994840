import process from "node:process";
import {
  AdamW,
  AveragedModel,
  type AveragedStateDict,
  getEmaMultiAvgFn,
  load,
  loadModelStateDict,
  type ModelStateDict,
  OneCycleLR,
  save,
  type SchedulerStateDict,
  type StateDict,
} from "../../mod.ts";
import { Classifier } from "./model.ts";
import { type Options, type Training, UsageError } from "./options.ts";
import { Random } from "./random.ts";
import type { History } from "./report.ts";

/** What a checkpoint has. */
interface Saved {
  readonly training: Training;
  readonly model: ModelStateDict;
  readonly optimizer: StateDict;
  readonly scheduler: SchedulerStateDict;
  readonly averaged: AveragedStateDict;
  readonly history: History;
}

/** A training run: all that has to be kept for it to go on. */
export class Run {
  readonly optimizer: AdamW;
  readonly scheduler: OneCycleLR;
  readonly averaged: AveragedModel<Classifier>;
  readonly history: History = { losses: [], rates: [], raw: [], averaged: [] };
  readonly stepsPerEpoch: number;

  private constructor(readonly training: Training, readonly model: Classifier) {
    const { lr, weightDecay, epochs, images, batchSize } = training;
    this.optimizer = new AdamW([
      { params: model.weights, weightDecay },
      { params: model.parameters.filter((parameter) => !model.weights.includes(parameter)), weightDecay: 0 },
    ], { lr });
    this.stepsPerEpoch = Math.ceil(images / batchSize);
    this.scheduler = new OneCycleLR(this.optimizer, { maxLr: lr, epochs, stepsPerEpoch: this.stepsPerEpoch });
    this.averaged = new AveragedModel(model, { multiAvgFn: getEmaMultiAvgFn(training.emaDecay, { warmup: true }) });
  }

  /** A new run, or the one that is in the checkpoint. */
  static async start(options: Options): Promise<Run> {
    const { checkpoint, resume } = options;
    if (!resume) return new Run(trainingOf(options), await Classifier.create(new Random(options.seed)));
    const saved = await load(checkpoint) as Saved, training = trainingToResume(saved.training, options);
    const run = new Run(training, await Classifier.create(new Random(training.seed)));
    loadModelStateDict(run.model, saved.model);
    run.scheduler.loadStateDict(saved.scheduler);
    run.optimizer.loadStateDict(saved.optimizer);
    run.averaged.loadStateDict(saved.averaged);
    Object.assign(run.history, saved.history);
    for (const norm of [...run.model.norms, ...run.averaged.module.norms]) norm.numBatchesTracked = run.steps;
    return run;
  }

  /** Saves it; a crash meanwhile leaves the checkpoint that was there. */
  async save(path: string): Promise<void> {
    const { training, model, optimizer, scheduler, averaged, history } = this;
    await save(path, { training, model, optimizer, scheduler, averaged, history });
  }

  /** The steps taken. */
  get steps(): number {
    return this.history.losses.length;
  }

  /** The epochs that have come to their end, with the test after them. */
  get epochs(): number {
    return this.history.averaged.length;
  }
}

function trainingOf({ epochs, seed, images, batchSize, lr, weightDecay, emaDecay }: Training): Training {
  return { epochs, seed, images, batchSize, lr, weightDecay, emaDecay };
}

/** A checkpoint's options; those on the command line must not differ. */
function trainingToResume(saved: Training | undefined, options: Options): Training {
  for (const [key, value] of Object.entries(trainingOf(options)) as [keyof Training, number][]) {
    const kept = saved?.[key], name = key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    if (typeof kept !== "number") {
      throw new UsageError(`--resume: ${options.checkpoint} is no checkpoint of this program, it has no ${key}`);
    }
    if (options.given.has(name) && kept !== value) {
      throw new UsageError(`--${name} must be ${kept} to resume ${options.checkpoint}, got ${value}`);
    }
  }
  return trainingOf(saved!);
}

/** Milliseconds between looks at whether Ctrl-C has been pressed. */
const LISTEN_EVERY = 50;

/** The run has been interrupted, and saved. */
export class Interrupted extends Error {
  override name = "Interrupted";
}

/** Notices Ctrl-C, so that the run can be saved first. A second Ctrl-C ends the program at once. */
export class CtrlC {
  /** Whether it has been pressed. */
  pressed = false;
  #listened = performance.now();
  readonly #notice = () => {
    if (this.pressed) process.exit(130);
    this.pressed = true;
  };

  /** Listens from now on. */
  constructor() {
    process.on("SIGINT", this.#notice);
  }

  /** Lets the runtime look for signals now and then: they come in only while no JavaScript runs. */
  async check(): Promise<boolean> {
    if (performance.now() - this.#listened > LISTEN_EVERY) {
      await new Promise((resolve) => setTimeout(resolve, 0));
      this.#listened = performance.now();
    }
    return this.pressed;
  }

  /** Listens no more. */
  stop(): void {
    process.off("SIGINT", this.#notice);
  }
}
