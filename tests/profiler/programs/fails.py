"""An error in the middle of training."""
# modules: (root)

import torch

model = torch.nn.Linear(2, 2)


def train() -> None:
    model(torch.ones(1, 2)).sum().backward()
    raise RuntimeError("boom")


train()
