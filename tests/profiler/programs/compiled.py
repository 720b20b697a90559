"""A compiled model: what its one node saves is recorded, and the reader is told so."""
# modules: (root)

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
fast = torch.compile(model, backend="aot_eager")
for _ in range(2):
    fast(torch.ones(2, 4)).sum().backward()
print(sum(parameter.grad.sum().item() for parameter in model.parameters()))
