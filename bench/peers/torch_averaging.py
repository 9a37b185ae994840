"""The averages of bench/averaging.ts in torch: a child process, one line of JSON in, one line of JSON out.

    {"op": "setup", "shapes": [[1000], ...], "threads": 2}  ->  {"torch": "2.13.0"}
    {"op": "turn", "name": "torch"}                         ->  {"ms": 1.25}

"torch" is AveragedModel.update_parameters with get_ema_multi_avg_fn, "torch lerp" the torch._foreach_lerp_ that is inside.
"""

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from timing import serve


def setup(request):
    torch.set_num_threads(request["threads"])
    model = torch.nn.Module()
    for i, shape in enumerate(request["shapes"]):
        model.register_parameter(f"p{i}", torch.nn.Parameter(torch.rand(shape) * 2 - 1))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    averaged.update_parameters(model)
    own = [p.detach() for p in averaged.module.parameters()]
    current = [p.detach() for p in model.parameters()]
    steps = {
        "torch": lambda: averaged.update_parameters(model),
        "torch lerp": lambda: torch._foreach_lerp_(own, current, 1 - 0.999),
    }
    return steps, {"torch": torch.__version__}


serve(setup)
