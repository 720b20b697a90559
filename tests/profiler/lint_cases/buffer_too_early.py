# expects: changed-content
# level: values
"""As torchtune #1867: a buffer is given out again while backward still needs it."""

import torch

pool = [torch.empty(32, 32) for _ in range(2)]
turn = 0


def pack(tensor: torch.Tensor) -> torch.Tensor:
    global turn
    turn += 1
    return pool[turn % 2].copy_(tensor.detach()).view(32, 32)


x = torch.randn(32, 32, requires_grad=True)
with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t.clone()):
    loss = (x * 2).sin().cos().exp().tanh().sum()
loss.backward()
