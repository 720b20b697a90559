# expects: duplicate-host-copy
"""As Megatron's fine-grained offloader: it knows the duplicate, and copies it anyway."""

import weakref

import torch

seen: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()
repeats = 0


def pack(tensor: torch.Tensor) -> torch.Tensor:
    global repeats
    repeats += tensor.untyped_storage() in seen
    seen[tensor.untyped_storage()] = 1
    return tensor.detach().clone()


x = torch.randn(32, 32, requires_grad=True)
with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
    y = x * 2
    loss = (y.sin() + y.t().cos()).sum()
    del y
loss.backward()
assert repeats
