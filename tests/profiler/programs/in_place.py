"""Writes in place: those that autograd allows, and one that it must go on refusing."""
# modules: (outside)

import torch

x = torch.ones(4, requires_grad=True)
y = x * 2
y.add_(1)
y[0] = 3
y.mul_(y.detach() + 1)
y.relu_().sum().backward()
print(x.grad.tolist())
a = torch.ones(3, requires_grad=True)
b = a.exp()
b.add_(1)
try:
    b.sum().backward()
except RuntimeError as error:
    print(str(error)[:60])
with torch.no_grad():
    a += 1
a.square().sum().backward()
print(a.grad.tolist())
