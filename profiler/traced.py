"""What autograd holds in place of a saved tensor while it is traced.

Contract: it dies when autograd drops it, and the storage table learns of that at once. There is
one for every save alive, so each is a single object: what the garbage collector has to walk
through costs the traced program more than making it.
Boundary: data and its end; profiler.recorder makes them and fills in their rows.
"""

from __future__ import annotations

import time
import weakref
from typing import Any

from torch import Tensor

from profiler import events
from profiler.packed import HostCopy
from profiler.storages import LiveStorage, StorageTable


class Source(weakref.ref[Tensor]):
    """A weak reference to what the program itself has of a saved tensor: it, or its base."""

    __slots__ = ("row",)
    row: events.Save


class _Traced:
    """What autograd holds while traced: its row, and the storage that it keeps on its device."""

    __slots__ = ("kept", "row", "source", "storages")

    def __init__(
        self,
        row: events.Save,
        storages: StorageTable,
        kept: LiveStorage | None,
        source: Source,
    ) -> None:
        self.row, self.storages, self.kept, self.source = row, storages, kept, source
        if kept is not None:
            storages.keep(kept, +1)

    def __del__(self) -> None:
        if self.kept is not None:
            self.storages.keep(self.kept, -1, self.row.op)


class KeptSave(_Traced):
    """A tensor that stays where it is, and its version: one object, for there are many."""

    __slots__ = ("tensor", "version")
    tensor: Tensor
    version: int


class PackedSave(_Traced):
    """What another pair of hooks made of a tensor."""

    __slots__ = ("copies_seen", "host", "packed")
    packed: Any
    host: HostCopy | None
    copies_seen: int


def source_of(tensor: Tensor, row: events.Save) -> Source:
    """Watch what the program itself has of a saved tensor, for the row to say when it let go."""
    whole = tensor._base
    source = Source(tensor if whole is None else whole, _dropped)
    source.row = row
    return source


def _dropped(source: Source) -> None:
    if source.row.unpack_ns is None:  # the row is written again when it is unpacked
        source.row.dropped_ns = time.perf_counter_ns()
