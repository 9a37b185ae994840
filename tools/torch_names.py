"""Writes tests/golden/torch_names.json: the public names of torch.optim, and its optimizers' options with their defaults.

    python3 tools/torch_names.py > tests/golden/torch_names.json
"""

import inspect
import json

import torch
from torch.optim import lr_scheduler, swa_utils


def options(cls):
    """The options of a constructor in order, with their defaults; one without a default is "required"."""
    found = {}
    for name, p in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        if name in ("params", "optimizer") or p.kind is p.VAR_KEYWORD:
            continue
        default = "required" if p.default is p.empty else p.default
        if isinstance(default, tuple):
            default = list(default)
        if isinstance(default, torch.Tensor):
            default = default.item()
        found[name] = default if isinstance(default, (int, float, str, list, bool, type(None))) else repr(default)
    return found


optimizers = [name for name in torch.optim.__all__ if inspect.isclass(getattr(torch.optim, name, None))]
optimizers = [name for name in optimizers if name != "Optimizer"]
print(json.dumps({
    "torch": torch.__version__.split("+")[0],
    "torch.optim": sorted(torch.optim.__all__),
    "torch.optim.lr_scheduler": sorted(lr_scheduler.__all__),
    "torch.optim.swa_utils": sorted(swa_utils.__all__),
    "torch.nn.utils": sorted(name for name in dir(torch.nn.utils) if "clip_grad" in name or name == "get_total_norm"),
    "Optimizer": sorted(name for name in vars(torch.optim.Optimizer) if not name.startswith("_")),
    "options": {name: options(getattr(torch.optim, name)) for name in optimizers},
    "scheduler options": {
        name: options(getattr(lr_scheduler, name)) for name in lr_scheduler.__all__
    } | {"SWALR": options(swa_utils.SWALR)},
}, indent=1))
