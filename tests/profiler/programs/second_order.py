"""Gradients of gradients, numerical checks of them, and a graph that is kept."""
# modules: 0 1 2 (outside)

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(4, requires_grad=True)
model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
(slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
slope.square().sum().backward(retain_graph=True)
slope.sum().backward()
print(x.grad.tolist(), model[0].weight.grad.sum().item())
print(torch.autograd.functional.hessian(lambda v: (v**3).sum(), torch.ones(2)).tolist())
wide = torch.randn(3, dtype=torch.double, requires_grad=True)
print(torch.autograd.gradcheck(torch.tanh, wide), torch.autograd.gradgradcheck(torch.tanh, wide))
