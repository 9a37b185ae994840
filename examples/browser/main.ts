/// <reference lib="dom" />
/**
 * The page: a training that can be watched, stopped and gone on with. `deno task browser` bundles it with the library and serves
 * it; `?start` begins at once.
 */
import { backend } from "@flatstep/optim";
import { drawLosses, drawMap, drawSchedule } from "./charts.ts";
import { STEPS, Training } from "./training.ts";

/** Steps between two pictures: a training lasts about two and a half seconds. */
const STEPS_PER_FRAME = 4;
const SEED = 1;

const find = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const [start, stop, reset] = ["start", "stop", "reset"].map((id) => find<HTMLButtonElement>(id));
const status = find("status"), show = (id: string, text: string) => find(id).textContent = text;

let training = new Training(SEED), running = false, next = 0;

function say(text: string): void {
  status.textContent = text;
  start!.disabled = running || training.done;
  stop!.disabled = !running;
  reset!.disabled = running || training.losses.length === 0;
}

function draw(): void {
  drawMap(find("map"), training);
  drawLosses(find("loss"), training);
  drawSchedule(find("schedule"), training);
  const { model, averaged } = training.measurements.at(-1)!, percent = (x: number) => `${(100 * x).toFixed(2)} %`;
  show("step", `${training.losses.length} of ${STEPS}`);
  show("accuracy", percent(model.accuracy));
  show("averaged", percent(averaged.accuracy));
}

async function frame(): Promise<void> {
  for (let i = 0; i < STEPS_PER_FRAME && !training.done; i++) training.step();
  draw();
  if (training.done) {
    running = false;
    show("weights", await training.fingerprint());
    say("Done.");
  } else if (running) {
    say(`Training: loss ${training.losses.at(-1)!.toFixed(4)}, learning rate ${training.rates.at(-1)!.toFixed(5)}`);
    next = requestAnimationFrame(() => guard(frame));
  }
}

/** Runs a part of the page, and says on the page why it failed, if it does. */
async function guard(part: () => void | Promise<void>): Promise<void> {
  try {
    await part();
  } catch (error) {
    running = false;
    say(`Failed: ${(error as Error).message}`);
    status.classList.add("bad");
  }
}

start!.onclick = () =>
  guard(() => {
    running = true;
    return frame();
  });
stop!.onclick = () => {
  running = false;
  cancelAnimationFrame(next);
  say(`Stopped after step ${training.losses.length}.`);
};
reset!.onclick = () =>
  guard(() => {
    training = new Training(SEED);
    show("weights", "–");
    draw();
    say("Ready.");
  });
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

await guard(() => {
  const { name, isa } = backend();
  show("backend", `${name}, ${isa}`);
  draw();
  say("Ready.");
  if (new URLSearchParams(location.search).has("start")) start!.click();
});
