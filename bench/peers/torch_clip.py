"""Unscaling, clipping and stepping in torch: a child process of bench/clip.ts, one line of JSON in, one line of JSON out.

    {"op": "setup", "rule": "AdamW", "shapes": [[1000], ...], "threads": 2, "scale": 0.5, "most": 1, "shrink": 0.9999}
        ->  {"torch": "2.13.0"}
    {"op": "turn", "name": "all"}
        ->  {"ms": 1.25}

"all" unscales as torch.amp.GradScaler does, then clips and steps; "clip" clips and steps. It times as torch_step.py does.
"""

import json
import sys
import time

import torch
from torch.nn.utils import clip_grad_norm_

TIMED_MS, TIMINGS, LONG_MS, WARM_UP_MS = 4, 4, 250, 60


def time_of(step, count):
    """Milliseconds that one of `count` steps takes."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) * 1e3 / count


class Contender:
    def __init__(self, step):
        self.step = step
        best, spent, n = float("inf"), 0.0, 1
        while spent < WARM_UP_MS or n < 4:
            took = time_of(step, min(n, 100))
            spent += took * min(n, 100)
            best = min(best, took)
            n += 1
        self.count = max(1, int(TIMED_MS / best))
        self.timings = 1 if best > LONG_MS else TIMINGS

    def turn(self):
        return min(time_of(self.step, self.count) for _ in range(self.timings))


def setup(request):
    torch.set_num_threads(request["threads"])
    params = [torch.nn.Parameter(torch.rand(shape) * 2 - 1) for shape in request["shapes"]]
    for p in params:
        p.grad = torch.rand(p.shape) * 1e-3 + 1e-3
    grads = [p.grad for p in params]
    if request["rule"] == "AdamW":
        optimizer = torch.optim.AdamW(params, lr=1e-5, fused=True)
    else:
        optimizer = torch.optim.SGD(params, lr=1e-5, momentum=0.9, fused=True)
    inverse, most = torch.tensor(1 / request["scale"]), request["most"]

    def clip():
        nonlocal most
        most *= request["shrink"]
        clip_grad_norm_(params, most)
        optimizer.step()

    def everything():
        found_inf = torch.zeros(())
        torch._amp_foreach_non_finite_check_and_unscale_(grads, found_inf, inverse)
        if not found_inf.item():
            clip()

    return {"all": everything, "clip": clip}


def main():
    steps, contenders = {}, {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "setup":
            steps, contenders = {}, {}  # before the next ones: there may not be memory for both
            steps = setup(request)
            answer = {"torch": torch.__version__}
        else:
            name = request["name"]
            if name not in contenders:
                contenders[name] = Contender(steps[name])
            answer = {"ms": contenders[name].turn()}
        print(json.dumps(answer), flush=True)


main()
