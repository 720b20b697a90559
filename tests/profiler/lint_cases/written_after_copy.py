# expects: written-after-copy, copy-outlived
"""The copy has the old values, so the gradient is right; without the offloader it is an error."""

import torch

x = torch.ones(32, 32, requires_grad=True)
with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
    y = x * 2
    loss = y.square().sum()
with torch.no_grad():
    y.mul_(10)
loss.backward()
assert x.grad is not None and x.grad[0, 0] == 8
