"""Table 1 of the eDKM paper, live: a view costs nothing on the device, and twice on the host.

Contract: bytes are those of real storages, counted once each; with marshaling they are the ledger
of `edkm.saved`. A copy into other CPU memory stands for the copy to the host, so that the lesson
runs without a GPU.
Boundary: tensors of a few MiB; no page and no run. Source: arXiv 2309.00964, Table 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from edkm.saved import SavedTensorPolicy

SECONDS: dict[str, Callable[[Tensor], Tensor]] = {
    "x0.view(-1, 1)": lambda x0: x0.view(-1, 1),
    "x0.t()": lambda x0: x0.t(),
    "x0[: len(x0) // 2]": lambda x0: x0[: len(x0) // 2],
    "x0.t().contiguous()": lambda x0: x0.t().contiguous(),
}


@dataclass(frozen=True)
class Line:
    """What is held after one line of the program, in bytes."""

    code: str
    device: int
    host: int  # every tensor copied, as torch does
    marshaled: int  # the same, by edkm.saved


def bytes_of(tensors: Iterable[Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def table_1(side: int, second: str = "x0.view(-1, 1)") -> list[Line]:
    """Runs the four lines of the table on a square of `side` float32; ValueError: unknown line."""
    if second not in SECONDS:
        raise ValueError(f"second: got {second!r}, must be one of {list(SECONDS)}")
    policy = SavedTensorPolicy(marshal=True)
    x0 = torch.rand(side, side)
    lines = [Line("x0 = torch.rand(n, n)", bytes_of([x0]), 0, 0)]
    x1 = SECONDS[second](x0)
    device = bytes_of([x0, x1])
    lines.append(Line(f"x1 = {second}", device, 0, 0))
    y0, kept0 = x0.clone(), policy.pack(x0)
    lines.append(Line("y0 = x0.to('cpu')", device, bytes_of([y0]), policy.ledger.host_bytes))
    y1, kept1 = x1.clone(), policy.pack(x1)
    lines.append(Line("y1 = x1.to('cpu')", device, bytes_of([y0, y1]), policy.ledger.host_bytes))
    assert torch.equal(policy.unpack(kept0), x0), "the host copy of x0 is not x0"
    assert torch.equal(policy.unpack(kept1), x1), "the host copy of x1 is not x1"
    return lines
