"""Transforms of torch.func, which refuse saved-tensor hooks, beside plain training."""
# modules: 0 1 2

import torch
from torch import nn
from torch.func import functional_call, grad, hessian, vmap

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
frozen = {name: parameter.detach() for name, parameter in model.named_parameters()}


def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return functional_call(model, parameters, (x,)).sum()


each = vmap(grad(loss), in_dims=(None, 0))(frozen, torch.randn(5, 3))
print({name: tuple(value.shape) for name, value in each.items()})
print(hessian(lambda v: v.pow(3).sum())(torch.ones(2)).tolist())
try:
    with torch.autograd.graph.save_on_cpu():
        grad(torch.sin)(torch.ones(()))
except RuntimeError as error:
    print(str(error)[:40])
try:
    grad(lambda v: [][1])(torch.ones(()))
except IndexError:
    print("nothing is left behind by an error")
doubled = {name: parameter * 2 for name, parameter in model.named_parameters()}
functional_call(model, doubled, (torch.ones(2, 3),)).sum().backward()
vmap(lambda row: model(row).sum())(torch.ones(2, 3)).sum().backward()
print(sum(parameter.grad.sum().item() for parameter in model.parameters()))
