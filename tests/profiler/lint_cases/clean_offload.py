# expects: nothing
# level: values
"""A model offloaded as it should be."""

import torch
from torch import nn

from edkm.saved import offload

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 8))
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(2):
    with offload(model):
        loss = model(torch.randn(32, 64)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
