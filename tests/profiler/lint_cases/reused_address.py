# expects: wrong-copy
"""As TRL #6241 and #7193: a new tensor at an old address is taken for the old tensor."""

import numpy as np
import torch

memory = np.ones((32, 32), dtype=np.float32)  # stands for a block that the allocator gives twice
copies: dict[int, torch.Tensor] = {}


def pack(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.data_ptr() not in copies:
        copies[tensor.data_ptr()] = tensor.detach().clone()
    return copies[tensor.data_ptr()]


weight = torch.ones(32, 32, requires_grad=True)
with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
    first = torch.from_numpy(memory)
    loss = (weight * first).sum()
    del first
    memory[:] = 7
    second = torch.from_numpy(memory)
    loss = loss + (weight * second).sum()
    del second
loss.backward()
assert weight.grad is not None and weight.grad[0, 0] == 2  # 8 is right
