"""What torch.nn.utils.clip_grad_norm_ and clip_grad_value_ do, into tests/golden/clip_grad.json:

    python3 tests/golden/gen/clip_grad.py

Needs torch 2.13. A case has `grads` (by dtype, null: no gradient), the arguments, and `norm` and `clipped`, which torch gave.
"""

import json
import math
import os

import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
INF, NAN = math.inf, math.nan


def written(x):
    return "NaN" if math.isnan(x) else ("Infinity" if x > 0 else "-Infinity") if math.isinf(x) else x


def numbers(tensor):
    return None if tensor is None else [written(x) for x in tensor.double().flatten().tolist()]


def parameters(grads):
    params = []
    for dtype, values in grads:
        p = torch.nn.Parameter(torch.zeros(1 if values is None else len(values), dtype=DTYPES[dtype]))
        p.grad = None if values is None else torch.tensor(values, dtype=torch.float64).to(DTYPES[dtype])
        params.append(p)
    return params


def case(name, grads, **options):
    params = parameters(grads)
    inputs = [{"dtype": dtype, "values": numbers(p.grad)} for (dtype, _), p in zip(grads, params)]
    out = {"name": name, "grads": inputs}
    if "clipValue" in options:
        clip_grad_value_(params, options["clipValue"])
    else:
        try:
            norm = clip_grad_norm_(params, options["maxNorm"], options.get("normType", 2.0),
                                   error_if_nonfinite=options.get("errorIfNonfinite", False))
            out["norm"] = written(norm.item())
        except RuntimeError as error:
            out["torchError"] = str(error)[:60]
    out["options"] = {k: written(v) if isinstance(v, float) else v for k, v in options.items()}
    out["clipped"] = [numbers(p.grad) for p in params]
    return out


generator = torch.Generator().manual_seed(20261122)


def normal(n):
    return torch.randn(n, generator=generator, dtype=torch.float64).tolist()


cases = []
for dtype in DTYPES:
    grads = [(dtype, normal(3)), (dtype, None), (dtype, normal(40)), (dtype, [0.0, -0.0])]
    for order in [2.0, 1.0, INF, 3.0, 0.5, 0.0, -INF, -1.0]:
        cases.append(case(f"{dtype}, order {order}", grads, maxNorm=0.75, normType=order))
    cases.append(case(f"{dtype}, below the limit", grads, maxNorm=1e3))
    cases.append(case(f"{dtype}, maxNorm 0", grads, maxNorm=0.0))
    cases.append(case(f"{dtype}, maxNorm infinite", grads, maxNorm=INF))
    cases.append(case(f"{dtype}, value", grads + [(dtype, [INF, -INF, NAN, 0.25, -0.25])], clipValue=0.3))
    for x in [INF, -INF, NAN]:
        bad = [(dtype, [1.0, x, -2.0]), (dtype, [3.0])]
        cases.append(case(f"{dtype}, {x}", bad, maxNorm=1.0))
        cases.append(case(f"{dtype}, {x}, an error", bad, maxNorm=1.0, errorIfNonfinite=True))
    cases.append(case(f"{dtype}, no zeros, order -inf", [(dtype, [2.0, -4.0]), (dtype, [8.0])], maxNorm=1.0, normType=-INF))
    cases.append(case(f"{dtype}, no zeros, order -1", [(dtype, [2.0, -4.0]), (dtype, [8.0])], maxNorm=0.5, normType=-1.0))
cases.append(case("mixed dtypes", [("float32", normal(7)), ("float64", normal(9)), ("float32", normal(3))], maxNorm=0.5))
cases.append(case("no gradients", [("float32", None)], maxNorm=1.0))
cases.append(case("no parameters", [], maxNorm=1.0))
cases.append(case("a gradient without elements", [("float32", [3.0, 4.0]), ("float32", [])], maxNorm=1.0))

path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "clip_grad.json")
with open(path, "w") as file:
    lines = ",\n".join(json.dumps(c, allow_nan=False) for c in cases)
    file.write(f'{{ "format": 1, "oracle": "torch {torch.__version__}", "cases": [\n{lines}\n] }}\n')
print(len(cases), "cases")
