# expects: layout-lost, changed-content
# level: values
"""The same, recorded with contents: what backward got is not what was saved."""

import torch

copies: dict[tuple[int, torch.dtype], torch.Tensor] = {}


def pack(tensor: torch.Tensor) -> torch.Tensor:
    key = (tensor.data_ptr(), tensor.dtype)
    if key not in copies:
        copies[key] = tensor.detach().clone()
    return copies[key]


x = torch.randn(32, 32, requires_grad=True)
with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
    y = x * 2
    loss = (y.sin() + y.t().square()).sum()
    del y
loss.backward()
