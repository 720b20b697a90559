"""The analyses of a traced step equal a count made by plain saved-tensor hooks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from profiler import Tracer, open_run
from profiler.analyses import duplicates, ledger


class Block(nn.Module):
    """What transformers do to memory: one input for three layers, a split, a twin, a transpose."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.up, self.down = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        x = x + torch.softmax(self.q(h) @ self.k(h).transpose(-1, -2), -1) @ self.v(h)
        gate, up = self.up(x).chunk(2, -1)
        return x + self.down(nn.functional.silu(gate) * up)


def test_ledger_and_duplicates_equal_plain_hooks(tmp_path: Path) -> None:
    model, x = nn.Sequential(Block(8), Block(8)), torch.randn(3, 5, 8)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        model(x).sum().backward()
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    # Every saved tensor is alive in `saved`, so here an address is an identity.
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    own = {at: size for at, size in storages.items() if at not in parameters}
    resident = [t.nbytes for t in saved if t.untyped_storage().data_ptr() in parameters]

    with Tracer(tmp_path / "run", model=model) as tracer, tracer.step():
        model(x).sum().backward()
    run = open_run(tmp_path / "run")
    total = ledger(run).total
    assert total.saves == len(saved)
    assert total.logical_bytes == sum(t.nbytes for t in saved)
    assert (total.unique_bytes, total.storages) == (sum(own.values()), len(own))
    assert total.param_bytes == sum(resident)
    assert total.aliased_bytes > 0

    # Bytes saved again, counted one by one: which of a storage's elements were saved before?
    seen: dict[int, set[int]] = {}
    repeated = 0
    for tensor in saved:
        index = torch.arange(tensor.untyped_storage().nbytes() // tensor.element_size())
        view = index.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        elements = set(view.flatten().tolist())
        known = seen.setdefault(tensor.untyped_storage().data_ptr(), set())
        repeated += len(elements & known) * tensor.element_size()
        known |= elements
    assert duplicates(run).repeated_bytes == repeated > 0
