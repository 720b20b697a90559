# expects: copy-outlived
"""The program itself holds what is offloaded: the copy frees nothing."""

import torch

x = torch.randn(32, 32, requires_grad=True)
with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
    hidden = x * 2
    loss = hidden.sin().sum()
loss.backward()
assert hidden is not None
