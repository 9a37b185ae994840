"""The benchmark's steps in torch: a child process of bench/peers.ts, one line of JSON in, one line of JSON out.

    {"op": "setup", "rule": "AdamW", "shapes": [[1000], ...], "threads": 2}  ->  {"torch": "2.13.0"}
    {"op": "turn", "variant": "fused"}                                       ->  {"ms": 1.25}

It times as bench/ratios.ts does: steps are warmed up and calibrated once, and a turn is the best of a few timings.
"""

import json
import sys
import time

import torch

TIMED_MS, TIMINGS, LONG_MS, WARM_UP_MS = 4, 4, 250, 60

VARIANTS = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}

RULES = {
    "AdamW": lambda params, options: torch.optim.AdamW(params, lr=1e-3, **options),
    "Adam": lambda params, options: torch.optim.Adam(params, lr=1e-3, **options),
    "SGD+momentum": lambda params, options: torch.optim.SGD(params, lr=1e-3, momentum=0.9, **options),
    **{
        name: lambda params, options, make=getattr(torch.optim, name): make(params, lr=1e-3, **options)
        for name in ("SGD", "Adamax", "NAdam", "RAdam", "Adadelta", "Rprop", "Adagrad", "RMSprop", "ASGD")
    },
}


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


def setup(rule, shapes, threads):
    """Parameters with gradients, and one optimizer for each variant, all over the same parameters."""
    torch.set_num_threads(threads)
    params = [torch.nn.Parameter(torch.rand(shape) * 2 - 1) for shape in shapes]
    for p in params:
        p.grad = torch.rand(p.shape) * 1e-3 + 1e-3
    optimizers = {}
    for name, options in VARIANTS.items():
        try:
            optimizers[name] = RULES[rule](params, options)
        except TypeError:  # torch has no such implementation of this rule
            pass
    return optimizers


def main():
    optimizers, contenders = {}, {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "setup":
            optimizers, contenders = {}, {}  # before the next ones: there may not be memory for both
            optimizers = setup(request["rule"], request["shapes"], request["threads"])
            answer = {"torch": torch.__version__, "variants": list(optimizers)}
        else:
            variant = request["variant"]
            if variant not in contenders:
                contenders[variant] = Contender(optimizers[variant].step)
            answer = {"ms": contenders[variant].turn()}
        print(json.dumps(answer), flush=True)


main()
