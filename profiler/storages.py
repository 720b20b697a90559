"""Which storages are alive, what they are for, and how many saved tensors keep each of them.

Contract: a storage is known by a weak reference and a serial number, so that a reused address is
never taken for the old storage; no reference to a tensor or a storage is held.
Boundary: counts what it is shown. Memory that nobody shows (temporaries inside an operation,
library workspaces) is not in its totals.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, UntypedStorage, nn

from profiler import events

Resident = Literal["param", "grad", "optimizer"]


class LiveStorage:
    """A storage that was seen: its row, and how many saves keep it on its device."""

    __slots__ = ("keepers", "row")

    def __init__(self, row: events.Storage) -> None:
        self.row = row
        self.keepers = 0


class _Reference(weakref.ref[UntypedStorage]):
    """A weak reference to a storage, with its entry and the address it is found by."""

    __slots__ = ("address", "live")
    address: int
    live: LiveStorage


class StorageTable:
    """Every storage seen and still alive.

    Args:
        write: told of a row when its storage is first seen and again when it changed.
    """

    def __init__(self, write: Callable[[events.Storage], None]) -> None:
        self._write = write
        # Found by address and then checked by identity, at half the cost of a WeakKeyDictionary.
        self._live: dict[int, _Reference] = {}
        self._serials = itertools.count(1)
        self._totals: Counter[str] = Counter()
        self.total_bytes = 0  # of all storages seen and alive
        self.peak_bytes = 0  # its highest value since `start_step`
        self.step = 0

    def start_step(self, number: int) -> None:
        """Storages seen from now on belong to this step; the peak begins anew."""
        self.step = number
        self.peak_bytes = self.total_bytes

    def see(self, tensor: Tensor, *, module: str = "") -> LiveStorage:
        """The entry of the tensor's storage; made at first sight."""
        storage = tensor.untyped_storage()
        reference = self._live.get(storage._cdata)
        if reference is not None and reference() is storage:
            return reference.live
        category = "param" if is_parameter(tensor) else "saved"
        return self._first_sight(tensor, storage, module, category)

    def see_resident(self, tensor: Tensor, category: Resident, *, module: str = "") -> LiveStorage:
        """As `see`, for memory that is there whatever autograd saves."""
        storage = tensor.untyped_storage()
        reference = self._live.get(storage._cdata)
        if reference is None or reference() is not storage:
            return self._first_sight(tensor, storage, module, category)
        live = reference.live
        if live.row.category != category:
            self._totals[self._category(live)] -= live.row.bytes
            live.row.category = category
            live.row.module = module or live.row.module
            self._totals[self._category(live)] += live.row.bytes
            self._write(live.row)
        return live

    def keep(self, live: LiveStorage, change: int, keeper: str = "") -> None:
        """One more (+1) or one less (-1) saved tensor keeps the storage."""
        before = live.keepers
        after = live.keepers = before + change
        row = live.row
        if keeper:
            row.last_keeper = keeper
        if row.category == "saved" and (not before or not after):
            self._totals["saved"] += change * row.bytes
            self._totals["temp"] -= change * row.bytes

    def bytes_of(self, category: str) -> int:
        """Bytes alive: param, grad, optimizer, saved (kept by a save) or temp (seen, not kept)."""
        return self._totals[category]

    def _first_sight(
        self, tensor: Tensor, storage: UntypedStorage, module: str, category: str
    ) -> LiveStorage:
        live = LiveStorage(
            events.Storage(
                storage_id=next(self._serials),
                step=self.step,
                bytes=storage.nbytes(),
                device=str(tensor.device),
                category=category,
                born_ns=time.perf_counter_ns(),
                module=module,
            )
        )
        reference = _Reference(storage, self._died)
        reference.address, reference.live = storage._cdata, live
        self._live[reference.address] = reference
        self._totals[self._category(live)] += live.row.bytes
        self.total_bytes += live.row.bytes
        self.peak_bytes = max(self.peak_bytes, self.total_bytes)
        self._write(live.row)
        return live

    @staticmethod
    def _category(live: LiveStorage) -> str:
        if live.row.category != "saved":
            return live.row.category
        return "saved" if live.keepers else "temp"

    def _died(self, reference: _Reference) -> None:
        if self._live.get(reference.address) is reference:
            del self._live[reference.address]
        live = reference.live
        live.row.died_ns = time.perf_counter_ns()
        self._totals[self._category(live)] -= live.row.bytes
        self.total_bytes -= live.row.bytes
        self._write(live.row)


def has_storage(tensor: Tensor) -> bool:
    """Whether the tensor is elements in one storage: not sparse, opaque or nested."""
    return tensor.layout is torch.strided and not tensor.is_nested


def is_parameter(tensor: Tensor) -> bool:
    """Whether the tensor is a parameter or a view of one."""
    base = tensor if tensor._base is None else tensor._base
    # isinstance goes through Parameter's metaclass: 1 us, as much as all the rest of this
    return type(base) is nn.Parameter or getattr(base, "_is_param", False)
