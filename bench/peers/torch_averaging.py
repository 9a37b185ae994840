"""The averages of bench/averaging.ts in torch: a child process, one line of JSON in, one line of JSON out.

    {"op": "setup", "shapes": [[1000], ...], "threads": 2}  ->  {"torch": "2.13.0"}
    {"op": "turn", "name": "torch"}                         ->  {"ms": 1.25}

"torch" is AveragedModel.update_parameters with get_ema_multi_avg_fn, "torch lerp" the torch._foreach_lerp_ that is inside.
"""

import json
import sys
import time

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

TIMED_MS, TIMINGS, WARM_UP_MS = 4, 4, 60


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

    def turn(self):
        return min(time_of(self.step, self.count) for _ in range(TIMINGS))


def setup(shapes, threads):
    torch.set_num_threads(threads)
    model = torch.nn.Module()
    for i, shape in enumerate(shapes):
        model.register_parameter(f"p{i}", torch.nn.Parameter(torch.rand(shape) * 2 - 1))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    averaged.update_parameters(model)
    own = [p.detach() for p in averaged.module.parameters()]
    current = [p.detach() for p in model.parameters()]
    return {
        "torch": lambda: averaged.update_parameters(model),
        "torch lerp": lambda: torch._foreach_lerp_(own, current, 1 - 0.999),
    }


def main():
    steps, contenders = {}, {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "setup":
            steps, contenders = {}, {}  # before the next ones: there may not be memory for both
            steps = setup(request["shapes"], request["threads"])
            answer = {"torch": torch.__version__}
        else:
            name = request["name"]
            if name not in contenders:
                contenders[name] = Contender(steps[name])
            answer = {"ms": contenders[name].turn()}
        print(json.dumps(answer), flush=True)


main()
