"""What does one operation make autograd keep? Asked of autograd itself.

Contract: `saved_by` is the code that the lesson shows and the code that it runs. What is kept is
told apart by storage: the input's, the output's, a weight's, or something made on the way.
Boundary: CPU tensors of a few MiB; no page and no run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH = 256  # columns of x, and of the weight
Forward = Callable[[Tensor, Tensor], Tensor]
OWNERS = ("input", "output", "weight", "other")


@dataclass(frozen=True)
class Operation:
    """One operation of the lesson: how it is written, how it runs, why it keeps what it keeps."""

    code: str
    run: Forward
    why: str


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd keeps for one operation, each storage once, by whose storage it is."""

    code: str
    bytes: dict[str, int]
    saves: int

    @property
    def owners(self) -> tuple[str, ...]:
        """Whose large storages are kept; below a hundredth of the input counts as nothing."""
        return tuple(name for name in OWNERS if self.bytes[name] > 100 * WIDTH)


OPERATIONS = (
    Operation("x + 1", lambda x, w: x + 1, "its derivative is 1 whatever x was: nothing to keep"),
    Operation("x * x", lambda x, w: x * x, "its derivative is 2x: saved twice, kept once"),
    Operation("torch.exp(x)", lambda x, w: x.exp(), "its derivative is its own result"),
    Operation("torch.relu(x)", lambda x, w: x.relu(), "where the result is positive says it all"),
    Operation("F.gelu(x)", lambda x, w: F.gelu(x), "its derivative needs x; the result is no help"),
    Operation("torch.softmax(x, -1)", lambda x, w: x.softmax(-1), "backward is made of the result"),
    Operation("x @ w", lambda x, w: x @ w, "x for the gradient of w, and w for the gradient of x"),
    Operation(
        "F.layer_norm(x, (256,))", lambda x, w: F.layer_norm(x, (WIDTH,)),
        "the input, and two numbers per row: mean and inverse deviation",
    ),
    Operation("F.dropout(x)", lambda x, w: F.dropout(x), "which elements survived: a mask"),
)  # fmt: skip


def saved_by(forward: Callable[[], Tensor]) -> tuple[list[Tensor], Tensor]:
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = forward()
    return kept, y


def measure(operation: Operation, rows: int) -> Kept:
    """Runs an operation on x of `rows` x 256 float32 and asks autograd what it keeps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(rows, WIDTH, generator=generator).requires_grad_()
    w = torch.rand(WIDTH, WIDTH, generator=generator).requires_grad_()
    kept, y = saved_by(lambda: operation.run(x, w))
    whose = {_storage(x): "input", _storage(w): "weight"}
    whose.setdefault(_storage(y), "output")
    found = dict.fromkeys(OWNERS, 0)
    for storage, size in {_storage(t): t.untyped_storage().nbytes() for t in kept}.items():
        found[whose.get(storage, "other")] += size
    return Kept(operation.code, found, len(kept))


def measure_all(rows: int) -> list[Kept]:
    """Every operation of the lesson."""
    return [measure(operation, rows) for operation in OPERATIONS]


def _storage(tensor: Tensor) -> int:
    """Which storage a living tensor has."""
    return tensor.untyped_storage().data_ptr()
