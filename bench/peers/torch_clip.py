"""Unscaling, clipping and stepping in torch: a child process of bench/clip.ts, one line of JSON in, one line of JSON out.

    {"op": "setup", "rule": "AdamW", "shapes": [[1000], ...], "threads": 2, "scale": 0.5, "most": 1, "shrink": 0.9999}
        ->  {"torch": "2.13.0"}
    {"op": "turn", "name": "all"}
        ->  {"ms": 1.25}

"all" unscales as torch.amp.GradScaler does, then clips and steps; "clip" clips and steps. It times as torch_step.py does.
"""

import torch
from torch.nn.utils import clip_grad_norm_

from timing import serve


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

    return {"all": everything, "clip": clip}, {"torch": torch.__version__}


serve(setup)
