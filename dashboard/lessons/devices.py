"""How often does one storage arrive on the host, and how far must one look to see that it is there?

Contract: the program that the lesson shows is the text that runs, and its variables name the
storages. Bytes are those that `edkm.saved` copied; the gradients of every run are compared with
those of plain autograd, bit by bit.
Boundary: CPU tensors of a few MiB; other CPU memory stands for the host. No page and no run.
Source: eDKM (arXiv 2309.00964) sec. 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edkm.saved import SavedHandle, SavedTensorPolicy

SIDE = 512  # every input is a square of this side: 1 MiB of float32
INPUTS = ("x", "wq", "wk", "wv")
PROGRAMS = {
    "three layers read x": """\
q, k, v = x @ wq, x @ wk, x @ wv
a = torch.softmax(q @ k.t(), -1)
y = a @ v""",
    "views of x": """\
a = x.square()
b = x.t().square()
c = x.view(64, -1).t().unsqueeze(0).square()
y = a.sum() + b.sum() + c.sum()""",
    "a clamp of x": """\
a = x.square()
b = x.clamp(min=0.5)
c = b.t().square()
y = a.sum() + c.sum()""",
}
Sent = list[tuple[Tensor, SavedHandle]]


@dataclass(frozen=True)
class SavedOnce:
    """One tensor that autograd saved, and what became of it."""

    storage: str  # the variable that its storage belongs to
    action: str  # copied, alias, rebuilt
    hops: int | None  # operations between it and what is on the host already
    bytes: int  # that it added to the host


@dataclass(frozen=True)
class Copies:
    """What one run of a program sent to the host."""

    saves: list[SavedOnce]
    host_bytes: int
    exact: bool  # whether every gradient is bit-equal to that of plain autograd

    def of(self, storage: str) -> list[int]:
        """Bytes of each copy that was made of a storage, in order."""
        return [save.bytes for save in self.saves if save.storage == storage and save.bytes]

    @property
    def storages(self) -> list[str]:
        """The storages that were saved, in the order of their first save."""
        return list(dict.fromkeys(save.storage for save in self.saves))


def sent_to_host(program: str, names: dict[str, Any], policy: SavedTensorPolicy) -> Sent:
    sent: Sent = []

    def pack(tensor: Tensor) -> SavedHandle:
        sent.append((tensor, policy.pack(tensor)))
        return sent[-1][1]

    with torch.autograd.graph.saved_tensors_hooks(pack, policy.unpack):
        exec(program, names)
    return sent


def copies(program: str, hops: int | None) -> Copies:
    """Runs a program of PROGRAMS, forward and backward.

    hops: how many operations marshaling may walk back through the autograd graph; None copies
    every saved tensor, as torch's `save_on_cpu` does.
    """
    marshal = hops is not None
    policy = SavedTensorPolicy(marshal=marshal, hops=hops or 0, finders=("graph",))
    names = inputs()
    sent = sent_to_host(program, names, policy)
    host_bytes = policy.ledger.host_bytes
    own = _names_of_storages(names)
    saves = [
        SavedOnce(own.get(_storage(tensor), "(no name)"), kept.action, kept.hops, kept.host_bytes)
        for tensor, kept in sent
    ]
    names["y"].sum().backward()
    exact = all(_same(names[name].grad, wanted) for name, wanted in plain(program).items())
    return Copies(saves, host_bytes, exact)


def inputs() -> dict[str, Any]:
    """What a program may use: the inputs, equal at every call, and `torch`."""
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.rand(SIDE, SIDE, generator=generator) for name in INPUTS}
    return {"torch": torch} | {name: value.requires_grad_() for name, value in made.items()}


def plain(program: str) -> dict[str, Tensor | None]:
    """The gradient of every input without any hook."""
    names = inputs()
    exec(program, names)
    names["y"].sum().backward()
    return {name: names[name].grad for name in INPUTS}


def _names_of_storages(names: dict[str, Any]) -> dict[int, str]:
    """The first variable of each storage; all of them still live, so addresses are unique."""
    found: dict[int, str] = {}
    for name, value in names.items():
        if isinstance(value, Tensor):
            found.setdefault(_storage(value), name)
    return found


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)
