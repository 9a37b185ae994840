"""The benchmark's steps in torch on a CUDA device: a child process of bench/cuda.ts, which says how it is spoken to (timing.py).

    {"op": "setup", "rule": "AdamW", "shapes": [[1000], ...], "device": "cuda:0", "batch": 20}
        ->  {"torch": "2.13.0", "variants": ["fused", "foreach"]}

A timing is of `batch` steps and one synchronisation, as bench/cuda.ts has it.
"""

import torch

from timing import serve

VARIANTS = {"fused": {"fused": True}, "foreach": {"foreach": True}}

RULES = {
    "AdamW": lambda params, options: torch.optim.AdamW(params, lr=1e-5, **options),
    "SGD+momentum": lambda params, options: torch.optim.SGD(params, lr=1e-5, momentum=0.9, **options),
    "SGD": lambda params, options: torch.optim.SGD(params, lr=1e-5, **options),
}


def setup(request):
    """Parameters with gradients on the device, and one optimizer for each variant, all over the same parameters."""
    device = request["device"]
    if not torch.cuda.is_available():
        return {}, {"torch": f"{torch.__version__}, which has no CUDA device", "variants": []}
    params = [torch.nn.Parameter((torch.rand(shape) * 2 - 1).to(device)) for shape in request["shapes"]]
    for p in params:
        p.grad = (torch.rand(p.shape) * 1e-3 + 1e-3).to(device)

    def batched(optimizer):
        def step():
            for _ in range(request["batch"]):
                optimizer.step()
            torch.cuda.synchronize(device)

        return step

    steps = {name: batched(RULES[request["rule"]](params, options)) for name, options in VARIANTS.items()}
    return steps, {"torch": torch.__version__, "variants": list(steps)}


serve(setup)
