# expects: view-keeps-storage
"""As DeepSpeed #8387: a view is too small to offload, and the last holder of its storage."""

import torch


def pack(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.nbytes < 1024 else tensor.detach().clone()


x = torch.randn(512, 512, requires_grad=True)
with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
    y = x * 2
    loss = y[0, :8].square().sum()
    del y
loss.backward()
