"""A sparse embedding, an LSTM over both directions, packed sequences and a cell in a loop."""
# modules: (root) embed lstm cell

import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4, sparse=True)
        self.lstm = nn.LSTM(4, 8, bidirectional=True)
        self.cell = nn.GRUCell(16, 4)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, words: list[torch.Tensor]) -> torch.Tensor:
        found, _ = self.lstm(pack_sequence([self.embed(ids) for ids in words]))
        state = torch.zeros(1, 4)
        for row in found.data:
            state = self.cell(row[None], state)
        return (state * self.scale).sum()


torch.manual_seed(0)
model = Tagger()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    loss = model([torch.tensor([1, 2, 3]), torch.tensor([4, 5])])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(loss.item())
