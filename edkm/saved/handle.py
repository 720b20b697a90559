"""What autograd keeps in place of a saved tensor, and what a tracer may read from it.

Contract: `unpack` gives the tensor back equal bit by bit, any number of times, and raises where
vanilla autograd would have: when the tensor was written to after it was saved.
Boundary: the public attributes of `SavedHandle` are the whole interface to observers; handles
know nothing of who reads them.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import NoReturn

import torch
from torch import Tensor

from edkm.saved.identity import VersionProbe
from edkm.saved.layout import Layout
from edkm.saved.ledger import Copy
from edkm.saved.recipe import Finder, Recipe


class SavedHandle(ABC):
    """Stands for one saved tensor.

    Attributes:
        serial: number of the save within its policy.
        action: kept | copied | alias | rebuilt | table | shard.
        alias_of: serial of the save whose copy is used (alias and rebuilt only).
        hops, finder: operations between the two, and which finder found it.
        host_bytes, peer_bytes: host memory this save added, here and at simulated peers.
        copies: every transfer made for it so far; unpacking appends.
        module: name of the module that saved it, where known.
    """

    def __init__(
        self,
        serial: int,
        action: str,
        *,
        alias_of: int | None = None,
        hops: int | None = None,
        finder: Finder | None = None,
        host_bytes: int = 0,
        peer_bytes: int = 0,
        copies: list[Copy] | None = None,
        module: str | None = None,
    ) -> None:
        self.serial = serial
        self.action = action
        self.alias_of = alias_of
        self.hops = hops
        self.finder = finder
        self.host_bytes = host_bytes
        self.peer_bytes = peer_bytes
        self.copies = copies if copies is not None else []
        self.module = module

    @abstractmethod
    def unpack(self) -> Tensor: ...

    def _saver(self) -> str:
        node = torch._C._current_autograd_node()
        # Not `node.name()`: on a custom function that may be whatever its forward set.
        saver = f", by {type(node).__name__}" if node is not None else ""
        return saver + (f" in module {self.module!r}" if self.module else "")

    def _raise_changed(self, what: str, kind: str) -> NoReturn:
        """Refuse to rebuild from a parameter that is no longer what it was."""
        raise RuntimeError(
            f"a tensor saved for backward{self._saver()} is rebuilt from {what}, so its gradient "
            f"would be wrong; step the optimizer after backward, or leave {kind!r} out of `rebuild`"
        )

    def _raise_written(self, tensor: Tensor | Layout, saved: int, now: int) -> NoReturn:
        """Refuse to give back what is no longer what was saved, and say who saved it."""
        size = tensor.size if isinstance(tensor, Layout) else tuple(tensor.shape)
        raise RuntimeError(
            f"a tensor saved for backward{self._saver()} was written to in place: {list(size)} "
            f"{tensor.dtype} was at version {saved} when saved and is at version {now} now, so its "
            "gradient would be wrong; use an out-of-place operation, or clone the tensor before "
            "writing to it"
        )


class KeptHandle(SavedHandle):
    """The tensor stays where it is."""

    def __init__(self, serial: int, tensor: Tensor, *, module: str | None = None) -> None:
        super().__init__(serial, "kept", module=module)
        # Detached: a handle that held an output with its history would be a reference cycle.
        self._tensor = tensor.detach()
        self._version = tensor._version

    def unpack(self) -> Tensor:
        if self._tensor._version != self._version:
            self._raise_written(self._tensor, self._version, self._tensor._version)
        return self._tensor


class OffloadedHandle(SavedHandle):
    """The tensor is rebuilt from a record on the host."""

    def __init__(
        self,
        serial: int,
        tensor: Tensor,
        recipe: Recipe,
        *,
        action: str,
        alias_of: int | None = None,
        hops: int | None = None,
        finder: Finder | None = None,
        copies: list[Copy] | None = None,
        module: str | None = None,
    ) -> None:
        fresh = alias_of is None
        super().__init__(
            serial,
            action,
            alias_of=alias_of,
            hops=hops,
            finder=finder,
            host_bytes=recipe.record.own_bytes if fresh else 0,
            peer_bytes=recipe.record.peer_bytes if fresh else 0,
            copies=copies,
            module=module,
        )
        self._recipe = recipe
        self._probe = VersionProbe(tensor)
        recipe.record.joined(self)

    def unpack(self) -> Tensor:
        if not self._probe.unchanged:
            self._raise_written(self._recipe.layout, self._probe.version, self._probe.current)
        changed = self._recipe.record.changed()
        if changed is not None:
            self._raise_changed(changed, self._recipe.kind)
        flat = self._recipe.record.materialize(self.copies.append)
        start = time.perf_counter_ns()
        tensor = self._recipe.build(flat)
        if self._recipe.steps:
            took = time.perf_counter_ns() - start
            self._recipe.record.memory.ledger.took(self._recipe.kind, took)
        return tensor
