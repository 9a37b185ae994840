"""What PyTorch does when it goes on with the run that examples/resume_from_pytorch.ts goes on with: prints the losses.

    python3 examples/resume_from_pytorch.py
"""

import json
import os
import sys

try:
    import torch
    from torch import nn
except ImportError as error:
    print(error)
    sys.exit(3)

path = os.path.join(os.path.dirname(__file__), "..", "tests", "golden", "checkpoints", "training.pt")
checkpoint = torch.load(path, weights_only=True)

model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
optimizer = torch.optim.AdamW(model.named_parameters())
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
model.load_state_dict(checkpoint["model"])
scheduler.load_state_dict(checkpoint["scheduler"])
optimizer.load_state_dict(checkpoint["optimizer"])

x = torch.tensor([[(37 * (3 * i + j) % 101) / 50 - 1 for j in range(3)] for i in range(5)])
losses = []
for epoch in range(checkpoint["epoch"], 10):
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
    scheduler.step()
    losses.append(loss.item())
print(json.dumps(losses))
