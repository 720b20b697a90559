"""One tensor's bytes on the host, and how to have them on the device again.

Contract: `HostRecord.materialize` gives the bytes `[start, stop)` of the storage that was copied,
equal bit by bit, as a flat tensor on the device. While that tensor is alive it is given again
instead of being copied again. The host memory is freed with the record.
Boundary: knows how bytes are kept (whole, or as table and index list; sharded or not), not why.
"""

from __future__ import annotations

import threading
import weakref
from abc import abstractmethod

import torch
from torch import Tensor, UntypedStorage

from edkm.saved.host import Fetchable, HostBuffer, HostMemory, Report
from edkm.saved.identity import VersionProbe
from edkm.saved.layout import Layout, as_flat, flat_bytes, gather, scatter
from edkm.saved.ledger import Copy
from edkm.saved.shard import Learners
from edkm.saved.uniquify import Table, look_up


class HostRecord(Fetchable):
    """The bytes of one saved tensor, kept on the host.

    Attributes:
        serial: number of the save that made it (see `SavedHandle.serial`); None where no save did.
        layout: the layout of the tensor it was made from.
        own_bytes, peer_bytes: host memory it holds for this learner and for simulated peers.
    """

    action: str

    def __init__(
        self, serial: int | None, layout: Layout, learners: Learners, memory: HostMemory
    ) -> None:
        self.serial = serial
        self.layout = layout
        self._learners = learners
        self.memory = memory
        self._on_device: tuple[weakref.ref[UntypedStorage], VersionProbe] | None = None
        self._made: torch.cuda.Event | None = None  # when what is on the device will be there
        # Backward may run on several threads. Taken for one record after another only in the
        # order from later to earlier ones, so that no two can wait for each other.
        self._using = threading.RLock()
        self._fetched: tuple[Tensor, torch.cuda.Event | None, list[Copy]] | None = None
        self._users = 0
        self._held: Tensor | None = None
        self.own_bytes = 0
        self.peer_bytes = 0
        memory.expect(self)

    def covers(self, layout: Layout) -> bool:
        """Whether every element of `layout` can be taken from this record's bytes."""
        if self.layout.has_gaps:  # only its elements were copied, not the bytes between them
            return layout == self.layout
        start, stop = self.layout.span
        first, last = layout.span
        return start <= first and last <= stop and (first - start) % layout.dtype.itemsize == 0

    def joined(self, handle: object) -> None:
        """Another save relies on this record until `handle` is collected."""
        self._users += 1
        weakref.finalize(handle, self._left).atexit = False

    def _left(self) -> None:
        self._users -= 1

    def materialize(self, report: Report) -> Tensor:
        """The record's bytes on the device, flat; `layout.span[0]` is the first one's place.

        A device copy that a backward function wrote to is not given again: the host's is.
        """
        with self._using:
            flat = self._still_there()
            if flat is None:
                flat = self._arrived(report) if self._fetched is not None else self._rebuild(report)
                self.memory.fetch_before(self)
                self._made = self.memory.transport.mark(flat)
                self._on_device = (weakref.ref(flat.untyped_storage()), VersionProbe(flat))
            else:
                self.memory.transport.use(flat, self._made)
            self._held = flat if self.memory.hold and self._users > 1 else None
            return flat

    def _still_there(self) -> Tensor | None:
        """The device copy of an earlier use, if it lives and nothing wrote to it."""
        if self._on_device is None:
            return None
        storage, probe = self._on_device[0](), self._on_device[1]
        return probe.over(as_flat(storage)) if storage is not None and probe.unchanged else None

    def fetch(self) -> bool:
        return False

    def changed(self) -> str | None:
        """What is wrong with the bytes where they are not the record's own; None: nothing."""
        return None

    def peek(self) -> Tensor | None:
        """The bytes, as `materialize` gives them, where they can be read without a copy."""
        return None

    def _arrived(self, report: Report) -> Tensor:
        """What was fetched ahead, once the current stream may use it."""
        assert self._fetched is not None
        (flat, event, copies), self._fetched = self._fetched, None
        for copy in copies:
            report(copy)
        self.memory.transport.use(flat, event)
        return flat

    @abstractmethod
    def _rebuild(self, report: Report) -> Tensor: ...


class WholeRecord(HostRecord):
    """Every byte of the tensor, or this learner's rows of it."""

    def __init__(
        self,
        tensor: Tensor,
        serial: int,
        layout: Layout,
        learners: Learners,
        memory: HostMemory,
        report: Report,
    ) -> None:
        super().__init__(serial, layout, learners, memory)
        self.action = "shard" if learners.count > 1 else "copied"
        self._gaps = layout.has_gaps
        flat = gather(tensor, layout) if self._gaps else flat_bytes(tensor, layout)
        row_bytes = layout.dtype.itemsize if self._gaps else layout.row_bytes
        self._shards = learners.keep(flat, row_bytes, memory, report)
        self.own_bytes = self._shards.own_bytes
        self.peer_bytes = self._shards.peer_bytes

    def fetch(self) -> bool:
        with self._using:
            if self._fetched is not None:
                return True
            on_device = self._on_device is not None and self._on_device[0]() is not None
            if self._gaps or self._learners.count > 1 or on_device:
                return False  # gathering is collective: only in backward's own order
            copies: list[Copy] = []
            self._fetched = (*self._shards.buffers[0].start_to_device(copies.append), copies)
            return True

    def peek(self) -> Tensor | None:
        buffer = self._shards.buffers[0]
        if self._learners.count > 1 or buffer.device.type != "cpu":
            return None
        return scatter(buffer.host, self.layout) if self._gaps else buffer.host

    def _rebuild(self, report: Report) -> Tensor:
        flat = self._learners.gather(self._shards, self.memory, report)
        return scatter(flat, self.layout) if self._gaps else flat


class TableRecord(HostRecord):
    """The distinct rows, kept by every learner, and the index list, or this learner's part of it.

    Every learner needs the whole table to rebuild a row, and it is small: it is not sharded.
    """

    action = "table"

    def __init__(
        self,
        table: Table,
        serial: int,
        layout: Layout,
        learners: Learners,
        memory: HostMemory,
        report: Report,
    ) -> None:
        super().__init__(serial, layout, learners, memory)
        self._shape = table.rows.shape
        self._rows = HostBuffer(_bytes(table.rows), memory, report)
        self._index = learners.keep(_bytes(table.index), 2, memory, report)
        self.own_bytes = self._rows.nbytes + self._index.own_bytes
        self.peer_bytes = self._index.peer_bytes

    def _rebuild(self, report: Report) -> Tensor:
        rows = self._rows.to_device(report).view(self.layout.dtype).view(self._shape)
        index = self._learners.gather(self._index, self.memory, report)
        return _bytes(look_up(rows, index.view(torch.int16)))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
