"""Two ranks over gloo, as torchrun starts them."""
# modules: module.0 module.1 module.2

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
model = DistributedDataParallel(net)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    model(torch.full((2, 4), 1.0 + dist.get_rank())).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
