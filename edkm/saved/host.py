"""Host buffers: a separate, separately counted copy of bytes, freed with its last owner.

Contract: a buffer is counted in the ledger from its making to its collection. On a CPU-only
machine the copy is as real as on CUDA; only the bus is missing, and the copy says so.
Boundary: knows bytes, not tensors; what they mean is the owner's business.
"""

from __future__ import annotations

import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from edkm.saved.ledger import Copy, Ledger
from edkm.saved.transport import Transport

Report = Callable[[Copy], None]

_LOOKED_AT = 4  # times the number to fetch: some have nothing to fetch


class Fetchable(ABC):
    """Something that backward will ask for, and that can be on its way before."""

    @abstractmethod
    def fetch(self) -> bool:
        """Start the copy to the device; False where none is on its way after that."""


class HostMemory:
    """The host's side of a policy: its accounts, its transport, and what will be asked for.

    Args:
        ledger: the accounts to keep.
        transport: how bytes cross.
        hold: once back on the device, bytes stay until the last save that needs them is gone.
    """

    def __init__(
        self, ledger: Ledger, transport: Transport | None = None, *, hold: bool = False
    ) -> None:
        self.ledger = ledger
        self.hold = hold
        self.transport = transport if transport is not None else Transport()
        self._order: deque[weakref.ref[Fetchable]] = deque()
        self._ordering = threading.RLock()  # each device has a thread in backward

    def expect(self, item: Fetchable) -> None:
        """Backward will ask for `item` before those made earlier."""
        if self.transport.prefetch:
            with self._ordering:
                self._drop_dead()
                self._order.append(weakref.ref(item))

    def fetch_before(self, item: Fetchable) -> None:
        """`item` was asked for: start what comes next, which is what was made before it."""
        wanted = self.transport.prefetch
        # Not while the order is locked: an item has a lock of its own.
        for earlier in self._before(item, wanted * _LOOKED_AT) if wanted else []:
            wanted -= earlier.fetch()
            if not wanted:
                return

    def _before(self, item: Fetchable, most: int) -> list[Fetchable]:
        """What was made before `item` and is alive, the latest first."""
        found: list[Fetchable] = []
        with self._ordering:
            self._drop_dead()
            passed = False
            for reference in reversed(self._order):
                earlier = reference()
                if passed and earlier is not None:
                    found.append(earlier)
                passed = passed or earlier is item
                if len(found) == most:
                    break
        return found

    def _drop_dead(self) -> None:
        while self._order and self._order[-1]() is None:
            self._order.pop()


class HostBuffer:
    """A copy on the host of a 1-D uint8 tensor.

    Args:
        source: 1-D uint8 tensor on the device, any length.
        memory: the host's side of the policy.
        report: told of every copy.
        peer: the buffer belongs to a simulated learner.
    """

    __slots__ = ("__weakref__", "_data", "_memory", "device", "nbytes", "peer")

    def __init__(
        self, source: Tensor, memory: HostMemory, report: Report, *, peer: bool = False
    ) -> None:
        self.device = source.device
        self.nbytes = source.numel()
        self.peer = peer
        self._memory = memory
        start = time.perf_counter_ns()
        self._data = memory.transport.download(source)
        self._account("d2h", start, report)
        memory.ledger.hold(self.nbytes, peer=peer)
        freed = weakref.finalize(self, memory.ledger.hold, -self.nbytes, peer=peer)
        freed.atexit = False

    @property
    def host(self) -> Tensor:
        """The bytes, on the host. Not to be written to."""
        return self._data.wait()

    def copy_into(self, target: Tensor, report: Report) -> None:
        """Copy the bytes into `target`, a 1-D uint8 tensor on the device."""
        start = time.perf_counter_ns()
        self._memory.transport.upload(self._data, target)
        self._account("h2d", start, report)

    def to_device(self, report: Report) -> Tensor:
        """A fresh 1-D uint8 tensor on the device the bytes came from."""
        target = torch.empty(self.nbytes, dtype=torch.uint8, device=self.device)
        self.copy_into(target, report)
        return target

    def start_to_device(self, report: Report) -> tuple[Tensor, torch.cuda.Event | None]:
        """As `to_device`; the current stream must wait for the event before it uses the tensor."""
        start = time.perf_counter_ns()
        target = torch.empty(self.nbytes, dtype=torch.uint8, device=self.device)
        event = self._memory.transport.start_upload(self._data, target)
        self._account("h2d", start, report)
        return target, event

    def _account(self, direction: Literal["d2h", "h2d"], start: int, report: Report) -> None:
        copy = Copy(
            direction=direction,
            bytes=self.nbytes,
            start_ns=start,
            end_ns=time.perf_counter_ns(),  # on side streams: when it was started, not done
            pinned=self.device.type == "cuda" and self._data.data.is_pinned(),
            simulated=self.device.type == "cpu",
            peer=self.peer,
        )
        self._memory.ledger.copied(copy)
        report(copy)
