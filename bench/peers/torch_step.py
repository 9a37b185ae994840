"""The benchmark's steps in torch: a child process of bench/peers.ts, one line of JSON in, one line of JSON out.

    {"op": "setup", "rule": "AdamW", "shapes": [[1000], ...], "threads": 2}  ->  {"version": "torch 2.13.0", "names": ["fused", …]}
    {"op": "turn", "name": "fused"}                                          ->  {"ms": 1.25}

It times as bench/ratios.ts does: steps are warmed up and calibrated once, and a turn is the best of a few timings.
"""

import torch

from timing import serve

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


def setup(request):
    """Parameters with gradients, and one optimizer for each variant, all over the same parameters."""
    torch.set_num_threads(request["threads"])
    params = [torch.nn.Parameter(torch.rand(shape) * 2 - 1) for shape in request["shapes"]]
    for p in params:
        p.grad = torch.rand(p.shape) * 1e-3 + 1e-3
    optimizers = {}
    for name, options in VARIANTS.items():
        try:
            optimizers[name] = RULES[request["rule"]](params, options)
        except TypeError:  # torch has no such implementation of this rule
            pass
    steps = {name: optimizer.step for name, optimizer in optimizers.items()}
    return steps, {"version": f"torch {torch.__version__.split('+')[0]}", "names": list(optimizers)}


serve(setup)
