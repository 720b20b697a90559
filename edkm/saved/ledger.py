"""The accounts of a policy: bytes held on the host now, and every copy across the bus.

Contract: `host_bytes` is what this learner holds, `peer_bytes` what the other learners hold where
they are simulated in this process; both fall again when a buffer is freed. Units are bytes and
nanoseconds of `time.perf_counter_ns`.
Boundary: counts what it is told; it copies and frees nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy between device and host."""

    direction: Literal["d2h", "h2d"]
    bytes: int
    start_ns: int
    end_ns: int
    pinned: bool
    simulated: bool  # the "device" is CPU memory: real bytes, no bus
    peer: bool  # made on behalf of a simulated learner


@dataclass(slots=True)
class Rebuilt:
    """What one kind of rebuild did instead of a copy."""

    saves: int = 0
    bytes_spared: int = 0  # not copied to the host
    rebuild_ns: int = 0  # replaying in backward (on CUDA: starting it)


class Ledger:
    """Running totals of one policy; several policies may share one.

    Attributes:
        host_bytes, peer_bytes, host_peak_bytes: held now, by simulated peers, and at most.
        d2h_bytes, h2d_bytes, peer_d2h_bytes, peer_h2d_bytes: moved so far.
        gathered_bytes: received from other learners in backward.
        rebuilt: by kind ("same", "view", "clamp", ...), what was not copied.
    """

    def __init__(self) -> None:
        # Backward may run on other threads. Reentrant: a buffer may be collected, and so counted
        # out, while this very thread is counting.
        self._lock = threading.RLock()
        self.host_bytes = 0
        self.peer_bytes = 0
        self.host_peak_bytes = 0
        self.d2h_bytes = 0
        self.h2d_bytes = 0
        self.peer_d2h_bytes = 0
        self.peer_h2d_bytes = 0
        self.gathered_bytes = 0
        self.rebuilt: dict[str, Rebuilt] = {}

    def hold(self, count: int, *, peer: bool) -> None:
        """A host buffer of `count` bytes was made (or freed, where negative)."""
        with self._lock:
            if peer:
                self.peer_bytes += count
            else:
                self.host_bytes += count
                self.host_peak_bytes = max(self.host_peak_bytes, self.host_bytes)

    def copied(self, copy: Copy) -> None:
        """Add one copy to the traffic of its direction."""
        name = f"{'peer_' if copy.peer else ''}{copy.direction}_bytes"
        with self._lock:
            setattr(self, name, getattr(self, name) + copy.bytes)

    def gathered(self, count: int) -> None:
        """`count` bytes came from other learners."""
        with self._lock:
            self.gathered_bytes += count

    def spared(self, kind: str, count: int) -> None:
        """A save was not copied, which spared `count` bytes, because of a rebuild of `kind`."""
        with self._lock:
            told = self.rebuilt.setdefault(kind, Rebuilt())
            told.saves += 1
            told.bytes_spared += count

    def took(self, kind: str, duration_ns: int) -> None:
        """A rebuild of `kind` took so long in backward."""
        with self._lock:
            self.rebuilt.setdefault(kind, Rebuilt()).rebuild_ns += duration_ns
