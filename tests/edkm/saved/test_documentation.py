"""The examples of docs/saved-tensors.md, and of the README where it has one, run as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

REPOSITORY = Path(__file__).resolve().parents[3]


def examples() -> list[str]:
    texts = [REPOSITORY / "docs" / "saved-tensors.md", REPOSITORY / "README.md"]
    blocks = [b for t in texts for b in re.findall(r"```python\n(.*?)```", t.read_text(), re.S)]
    return [block for block in blocks if "from edkm.saved import " in block]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=self.layer(x).sigmoid().square().mean())


@pytest.fixture
def group() -> Iterator[None]:
    """A default process group, of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("number", range(len(examples())))
def test_an_example_runs_and_gives_the_gradients_of_autograd(number: int) -> None:
    torch.manual_seed(0)
    model, batch = Model(), {"x": torch.randn(32, 64)}
    wanted = torch.autograd.grad(model(**batch).loss, model.layer.weight)[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    names = {"model": model, "batch": batch, "data": [batch], "optimizer": optimizer}
    optimizer.zero_grad = lambda: None  # type: ignore[assignment]  # keeps the gradient to look at
    exec(examples()[number], names)
    if model.layer.weight.grad is None:  # the short one leaves backward to the reader
        names["loss"].backward()  # type: ignore[attr-defined]
    assert model.layer.weight.grad is not None
    assert torch.equal(model.layer.weight.grad, wanted)


def test_there_are_examples() -> None:
    assert len(examples()) >= 3
