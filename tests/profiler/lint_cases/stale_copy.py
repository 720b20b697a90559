# expects: stale-copy
"""Written to between two saves: the second one is served by the copy from before."""

import weakref

import torch

copies: weakref.WeakKeyDictionary[torch.UntypedStorage, torch.Tensor]
copies = weakref.WeakKeyDictionary()
weight = torch.ones(32, 32, requires_grad=True)


def pack(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.untyped_storage() not in copies:
        copies[tensor.untyped_storage()] = tensor.detach().clone()
    return copies[tensor.untyped_storage()]


with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
    x = torch.ones(32, 32)
    loss = (x * weight).sum()
    x.mul_(3)
    loss = loss + (x * weight).sum()
    del x
loss.backward()
assert weight.grad is not None and weight.grad[0, 0] == 2  # 4 is right
