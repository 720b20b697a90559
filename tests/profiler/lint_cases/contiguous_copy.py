# expects: equal-content
# level: values
"""A clone of a tensor that is saved anyway is saved beside it."""

import torch

x = torch.randn(32, 32, requires_grad=True)
y = x * 2
(y.sin() + y.clone().cos()).sum().backward()
