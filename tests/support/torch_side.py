"""torch's side of tests/checkpoint_torch_test.ts: loads what flatstep has saved, goes on, and saves what flatstep loads.

    python3 torch_side.py FOLDER

FOLDER/cases.json lists the cases. A line of JSON says for each what went wrong, or null. Exit status 3: there is no torch.
"""

import json
import os
import sys

try:
    import torch
except ImportError as error:
    print(error)
    sys.exit(3)

folder = sys.argv[1]
# state that torch makes anew is then as exact as flatstep's
torch.set_default_dtype(torch.float64)


def path(case, stage):
    return os.path.join(folder, f"{case['file']}.{stage}.pt")


def read(case, stage):
    return torch.load(path(case, stage), weights_only=True)


def snake(key):
    special = {"tMax": "T_max", "t0": "T_0", "tMult": "T_mult"}
    return special.get(key) or "".join("_" + c.lower() if c.isupper() else c for c in key)


def gradient(written, parameter):
    if written is None:
        return None
    if isinstance(written, dict):
        shape = tuple(parameter.shape)
        return torch.sparse_coo_tensor(written["indices"], written["values"].reshape(-1, *shape[1:]), shape)
    return written.reshape(parameter.shape).to(parameter.dtype)


def closure_of(parameters, curvatures, targets):
    def closure():
        loss = 0.0
        for p, c, t in zip(parameters, curvatures, targets):
            c, t, w = c.reshape(p.shape), t.reshape(p.shape), p.detach()
            p.grad = c * (w - t) + w**3 / 10
            loss += float((c * (w - t) ** 2 / 2 + w**4 / 40).sum())
        return loss

    return closure


def optimizer_case(case):
    saved = read(case, "flatstep")
    parameters = [torch.nn.Parameter(tensor) for tensor in saved["model"].values()]
    named = list(zip(saved["model"], parameters))
    # the options are all in the state dict
    optimizer = getattr(torch.optim, case["optimizer"])([{"params": [p]} for p in named] if case["groups"] else named)
    optimizer.load_state_dict(saved["optimizer"])
    for group in optimizer.param_groups:
        if case["fused"]:
            group["fused"] = True
    for stage, steps in (("torch", saved["forTorch"]), ("end", saved["afterwards"])):
        for row in steps:
            if isinstance(row, dict):
                optimizer.step(closure_of(parameters, row["curvatures"], row["targets"]))
                continue
            for p, written in zip(parameters, row):
                p.grad = gradient(written, p)
            optimizer.step()
        model = {name: p.detach() for name, p in named}
        torch.save({"model": model, "optimizer": optimizer.state_dict()}, path(case, stage))


LAMBDAS = {"inverse": lambda e: 1 / (1 + 0.1 * e), "constant0.9": lambda e: 0.9}


def scheduler_of(spec, optimizer):
    children = [scheduler_of(s, optimizer) for s in spec.get("schedulers", [])]
    options = {snake(k): v for k, v in spec.get("options", {}).items()}
    if "lr_lambda" in options:
        options["lr_lambda"] = LAMBDAS[options["lr_lambda"]]
    if spec["type"] == "ChainedScheduler":
        return torch.optim.lr_scheduler.ChainedScheduler(children)
    if spec["type"] == "SequentialLR":
        options["schedulers"] = children
    if spec["type"] == "SWALR":
        return torch.optim.swa_utils.SWALR(optimizer, **options)
    return getattr(torch.optim.lr_scheduler, spec["type"])(optimizer, **options)


def scheduler_case(case):
    saved = read(case, "flatstep")
    p = torch.nn.Parameter(torch.zeros(1))
    p.grad = torch.zeros(1)
    optimizer = torch.optim.SGD([p], lr=case["lr"], momentum=0.9)
    scheduler = scheduler_of(case["scheduler"], optimizer)
    scheduler.load_state_dict(saved["scheduler"])
    optimizer.load_state_dict(saved["optimizer"])
    if case["scheduler"]["type"] == "OneCycleLR":
        # torch has the rate that the cycle starts from in the groups, flatstep in the scheduler alone
        for group, base in zip(optimizer.param_groups, scheduler.base_lrs):
            group["initial_lr"] = base
    step = case["steps"]
    for stage in ("torch", "end"):
        rates = []
        for _ in range(case["steps"]):
            step += 1
            optimizer.step()
            if case["scheduler"]["type"] == "ReduceLROnPlateau":
                scheduler.step(step % 3)
            else:
                scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        state = {"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict(), "rates": rates}
        torch.save(state, path(case, stage))


def module_case(case):
    nn = torch.nn
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).float()
    saved = read(case, "flatstep")
    module.load_state_dict(saved["model"], strict=True)
    for name, tensor in saved["model"].items():
        assert torch.equal(module.state_dict()[name].reshape(-1), tensor.reshape(-1)), name
    module(torch.ones(5, 3, dtype=torch.float32) * torch.arange(5, dtype=torch.float32)[:, None])
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(2)
    torch.save({"model": module.state_dict()}, path(case, "torch"))


with open(os.path.join(folder, "cases.json")) as f:
    cases = json.load(f)
print(json.dumps({"torch": torch.__version__}))
for case in cases:
    problem = None
    try:
        {"optimizer": optimizer_case, "scheduler": scheduler_case, "module": module_case}[case["kind"]](case)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    print(json.dumps({"name": case["name"], "problem": problem}), flush=True)
