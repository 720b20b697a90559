# expects: nothing
# level: values
"""One copy for a matrix and its transpose, restored as each was: right, and nothing to find."""

import torch

copies: dict[int, torch.Tensor] = {}
Packed = tuple[torch.Tensor, tuple[int, ...], tuple[int, ...]]


def pack(tensor: torch.Tensor) -> Packed:
    if tensor.data_ptr() not in copies:
        copies[tensor.data_ptr()] = tensor.detach().clone()
    return copies[tensor.data_ptr()], tensor.shape, tensor.stride()


x = torch.randn(32, 32, requires_grad=True)
with torch.autograd.graph.saved_tensors_hooks(pack, lambda p: p[0].as_strided(p[1], p[2])):
    y = x * 2
    loss = (y.sin() + y.t().square()).sum()
    del y
loss.backward()
