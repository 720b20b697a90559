"""How many bytes a process receives from its peers while something runs.

Contract: counts the collectives of ``torch.distributed`` that are issued inside, by the sizes of
their tensors and the ring algorithms' cost: of an all-gather or reduce-scatter of ``b`` bytes over
``n`` processes each receives ``b * (n - 1) / n``, of an all-reduce twice that. Computes nothing
else: values are as without it.
Boundary: one process's view; protocol headers and retries are the network's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_NAMESPACES = ("c10d", "_c10d_functional")
_TWICE = ("allreduce", "all_reduce")
_ONCE = ("allgather", "all_gather", "reduce_scatter", "broadcast")


class Traffic(TorchDispatchMode):
    """Counts while it is entered: ``received`` bytes, and ``calls`` by kind of collective."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, int] = {}
        self._payload = 0.0

    @property
    def received(self) -> int:
        """Bytes that this process received, by the ring algorithms' cost."""
        world = dist.get_world_size()
        return round(self._payload * (world - 1) / world)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.namespace in _NAMESPACES:
            name = func._schema.name.partition("::")[2].strip("_")
            times = 2 if name.startswith(_TWICE) else int(name.startswith(_ONCE))
            if times:
                self.calls[name] = self.calls.get(name, 0) + 1
                self._payload += times * max(_sizes(args), default=0)
        return func(*args, **(kwargs or {}))


def _sizes(args: Sequence[Any]) -> list[int]:
    """Bytes of each tensor, and of each list of tensors, among the arguments."""
    sizes = []
    for one in args:
        if isinstance(one, Tensor):
            sizes.append(one.numel() * one.element_size())
        elif isinstance(one, (list, tuple)):
            sizes.append(sum(_sizes(one)))
    return sizes
