# expects: saved-mutated
"""Under any saved-tensor hooks torch checks no versions: a wrong gradient, silently."""

import torch

x = torch.ones(32, 32, requires_grad=True)
with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
    y = x * 2
    loss = y.square().sum()
with torch.no_grad():
    y.mul_(10)
loss.backward()
assert x.grad is not None and x.grad[0, 0] == 80  # 8 is right
