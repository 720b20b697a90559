# expects: wide-twin
"""A norm that computes in float32 saves the float32 twin of a bfloat16 tensor."""

import torch

x = torch.randn(32, 32, dtype=torch.bfloat16, requires_grad=True)
hidden = x * 2
wide = hidden.float()
normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
(normed.to(torch.bfloat16).sin() + hidden.cos()).sum().backward()
