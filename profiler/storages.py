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
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, UntypedStorage, nn

from profiler import events

Resident = Literal["param", "grad", "optimizer"]


class LiveStorage(weakref.ref[UntypedStorage]):
    """A storage that was seen: where it is found, its row, how many saves keep it on its device."""

    __slots__ = ("address", "keepers", "row")
    address: int
    keepers: int
    row: events.Storage


class StorageTable:
    """Every storage seen and still alive.

    Args:
        write: told of a row when its storage is first seen.
        rewrite: told of it again when it changed; None: `write` is.
    """

    def __init__(
        self,
        write: Callable[[events.Storage], None],
        rewrite: Callable[[events.Storage], None] | None = None,
    ) -> None:
        self._write, self._rewrite = write, rewrite or write
        # Found by address and then checked by identity, at half the cost of a WeakKeyDictionary.
        self._live: dict[int, LiveStorage] = {}
        self._serials = itertools.count(1)
        self._totals = dict.fromkeys((*get_args(Resident), "saved", "temp"), 0)
        self._devices: dict[torch.device, str] = {}
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
        live = self._live.get(storage._cdata)
        if live is not None and live() is storage:
            return live
        category = "param" if is_parameter(tensor) else "saved"
        return self._first_sight(tensor, storage, module, category)

    def see_resident(self, tensor: Tensor, category: Resident, *, module: str = "") -> LiveStorage:
        """As `see`, for memory that is there whatever autograd saves."""
        storage = tensor.untyped_storage()
        live = self._live.get(storage._cdata)
        if live is None or live() is not storage:
            return self._first_sight(tensor, storage, module, category)
        if live.row.category != category:
            self._totals[self._category(live)] -= live.row.bytes
            live.row.category = category
            live.row.module = module or live.row.module
            self._totals[self._category(live)] += live.row.bytes
            self._rewrite(live.row)
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
        size, device = storage.nbytes(), tensor.device
        live = LiveStorage(storage, self._died)
        live.address, live.keepers = storage._cdata, 0
        live.row = row = events.Storage(  # by position, as the columns lie: see events
            next(self._serials),
            0,
            self.step,
            size,
            self._devices.get(device) or self._devices.setdefault(device, str(device)),
            category,
            time.perf_counter_ns(),
            None,
            module,
        )
        self._live[live.address] = live
        self._totals["temp" if category == "saved" else category] += size
        total = self.total_bytes = self.total_bytes + size
        if total > self.peak_bytes:
            self.peak_bytes = total
        self._write(row)
        return live

    @staticmethod
    def _category(live: LiveStorage) -> str:
        if live.row.category != "saved":
            return live.row.category
        return "saved" if live.keepers else "temp"

    def _died(self, live: LiveStorage) -> None:
        if self._live.get(live.address) is live:
            del self._live[live.address]
        row = live.row
        row.died_ns = time.perf_counter_ns()
        self._totals[self._category(live)] -= row.bytes
        self.total_bytes -= row.bytes
        self._rewrite(row)


def has_storage(tensor: Tensor) -> bool:
    """Whether the tensor is elements in one storage: not sparse, opaque or nested."""
    return tensor.layout is torch.strided and not tensor.is_nested


def own_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The model's named parameters, without what `functional_call` puts in their place."""
    named = model.named_parameters()
    return [(name, found) for name, found in named if isinstance(found, nn.Parameter)]


def is_parameter(tensor: Tensor) -> bool:
    """Whether the tensor is a parameter or a view of one."""
    base = tensor if tensor._base is None else tensor._base
    # isinstance goes through Parameter's metaclass: 1 us, as much as all the rest of this
    return type(base) is nn.Parameter or getattr(base, "_is_param", False)
