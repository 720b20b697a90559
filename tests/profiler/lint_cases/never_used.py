# expects: never-unpacked
"""A branch that backward does not enter was offloaded all the same."""

import torch

x = torch.randn(32, 32, requires_grad=True)
with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
    used = (x * 2).sin().sum()
    unused = (x * 3).cos().sum()
used.backward()
