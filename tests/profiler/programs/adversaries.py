"""Two models that train against each other, each with an optimizer of its own."""
# modules: 0 1 2 Sequential.0 Sequential.1 Sequential.2

import torch
from torch import nn

torch.manual_seed(0)
generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
critic = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
optimizers = [torch.optim.Adam(model.parameters()) for model in (generator, critic)]
for _ in range(2):
    noise = torch.randn(8, 4)
    loss = critic(generator(noise).detach()).mean() - critic(torch.randn(8, 2)).mean()
    loss.backward()
    optimizers[1].step()
    optimizers[1].zero_grad()
    loss = -critic(generator(noise)).mean()
    loss.backward()
    optimizers[0].step()
    optimizers[0].zero_grad()
    print(loss.item())
