"""The level `summary`: bytes per module and step, at about a microsecond a save.

Contract: the totals are those that `analyses.ledger` computes from full rows. Same face as
`profiler.recorder.Recorder`; one row per module and step is written, none per save.
Boundary: no stacks, no graph, no list of saves: ask for the level `full` to have them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from profiler import events
from profiler.attribution import ModuleCall, ModuleTracker
from profiler.hooks import KeptTensor, Pack, Unpack, keep
from profiler.packed import tensors_in
from profiler.storages import has_storage, is_parameter


class _Seen(weakref.ref[UntypedStorage]):
    """A storage that was met in this step."""

    __slots__ = ("of_parameter",)
    of_parameter: bool


class SummaryRecorder:
    """Adds up what modules save.

    Args:
        write: takes a Total.
        modules: says which module is running.
    """

    def __init__(self, write: Callable[[events.Record], None], modules: ModuleTracker) -> None:
        self._write = write
        self._modules = modules
        self.step = 0
        self.phase: events.Phase = "forward"
        self.paused = self.differentiable = False
        self.host_totals = {"host": 0, "peer": 0}  # not followed: that needs a row per save
        self._totals: dict[str, events.Total] = {}
        # By address, and checked by identity. Of this step.
        self._seen: dict[int, _Seen] = {}

    def wrap(self, pack: Pack, unpack: Unpack) -> tuple[Pack, Unpack]:
        """The same pair, counted. What it packs is passed on untouched."""

        if pack is keep:
            return self._keep, unpack

        def counted_pack(tensor: Tensor) -> Any:
            packed = pack(tensor)
            if not self.paused and has_storage(tensor):
                total, storage = self._count(tensor)
                self._count_host(total, storage, packed)
            return packed

        return counted_pack, unpack

    def _keep(self, tensor: Tensor) -> KeptTensor:
        """Pack as autograd itself does, counted."""
        if not self.paused and tensor.layout is torch.strided and not tensor.is_nested:
            self._count(tensor)
        return tensor.detach(), tensor._version  # as `keep`, without its call

    def end_step(self) -> None:
        """Write the step's totals and begin anew."""
        totals, self._totals = self._totals, {}
        self._seen = {}
        for total in totals.values():
            self._write(total)

    def _count(self, tensor: Tensor) -> tuple[events.Total, UntypedStorage]:
        running = self._modules.running
        total = running[-1].total if running else None
        if total is None or total.step != self.step:
            total = self._begin_total(running)
        size = tensor.nbytes
        total.saves += 1
        total.logical_bytes += size
        storage = tensor.untyped_storage()
        seen = self._seen.get(storage._cdata)
        if seen is not None and seen() is storage:
            of_parameter = seen.of_parameter
            if not of_parameter:
                total.aliased_bytes += size
        else:
            of_parameter = self._first_sight(total, tensor, storage)
        if of_parameter:
            total.param_bytes += size
        return total, storage

    def _begin_total(self, running: Sequence[ModuleCall]) -> events.Total:
        """The total of the innermost call's module, noted there for its next saves."""
        module = running[-1].name if running else events.OUTSIDE
        total = self._totals.get(module)
        if total is None:
            total = self._totals[module] = events.Total(step=self.step, module=module)
        if running:
            running[-1].total = total
        return total

    def _first_sight(self, total: events.Total, tensor: Tensor, storage: UntypedStorage) -> bool:
        of_parameter = is_parameter(tensor)
        seen = self._seen[storage._cdata] = _Seen(storage)
        seen.of_parameter = of_parameter
        if of_parameter:
            total.param_storage_bytes += storage.nbytes()
        else:
            total.first_bytes += tensor.nbytes
            total.unique_bytes += storage.nbytes()
            total.storages += 1
        return of_parameter

    @staticmethod
    def _count_host(total: events.Total, storage: UntypedStorage, packed: Any) -> None:
        own = getattr(packed, "host_bytes", None)
        if own is None:
            copies = [t for t in tensors_in(packed) if t.device.type == "cpu"]
            same = any(t.untyped_storage() is storage for t in copies)
            own = 0 if same else sum(t.nbytes for t in copies)
        total.host_bytes += own
        total.peer_bytes += getattr(packed, "peer_bytes", 0)
        total.host_copies += own > 0
