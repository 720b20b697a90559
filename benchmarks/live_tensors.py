"""The exact peak of what operations allocate, counted without the profiler.

Contract: `LiveTensors().peak` is the highest sum of bytes of storages that operations made inside
the `with` block and that were alive at one moment; views of older storages count nothing.
Boundary: a dispatch mode and weak references; memory inside an operation is not seen.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of storages that operations make, until they die; and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {storage._cdata for storage in storages((args, kwargs))}
        for storage in storages(result):
            if storage._cdata not in given:  # else it is a view of what was there before
                self._see(storage)
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        at, size = storage._cdata, storage.nbytes()
        known = self._seen.get(at)
        if known is not None and known() is storage:
            return

        def died(_: object) -> None:
            self.bytes -= size

        self._seen[at] = weakref.ref(storage, died)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


def storages(values: Any) -> list[torch.UntypedStorage]:
    leaves = tree_leaves(values)
    return [leaf.untyped_storage() for leaf in leaves if isinstance(leaf, torch.Tensor)]
