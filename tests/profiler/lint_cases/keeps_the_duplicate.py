# expects: copy-frees-nothing
"""As TRL's activation offloading: the second save of a storage stays on the device."""

import torch

seen: set[int] = set()


def pack(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.data_ptr() in seen:
        return tensor
    seen.add(tensor.data_ptr())
    return tensor.detach().clone()


x = torch.randn(32, 32, requires_grad=True)
with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
    y = x * 2
    loss = (y.sin() + y.square()).sum()
    del y
loss.backward()
