"""A range of bytes of which parts are on the host already: only the rest is copied.

Contract: as every `HostRecord`; no byte of the range is on the host twice, nor crosses twice.
Boundary: which parts there are is `marshal`'s to know; a view with gaps is no part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edkm.saved.host import HostMemory, Report
from edkm.saved.layout import Layout, flat_bytes
from edkm.saved.record import HostRecord
from edkm.saved.shard import Learners, Shards


class PiecedRecord(HostRecord):
    """Records of parts, in order and apart from each other, and the bytes between them."""

    action = "copied"

    def __init__(
        self,
        parts: Sequence[HostRecord],
        tensor: Tensor,
        serial: int,
        layout: Layout,
        learners: Learners,
        memory: HostMemory,
        report: Report,
    ) -> None:
        super().__init__(serial, layout, learners, memory)
        self.action = "shard" if learners.count > 1 else "copied"
        self._parts: list[tuple[int, HostRecord]] = []
        self._between: list[tuple[int, Shards]] = []
        flat, place = flat_bytes(tensor, layout), 0
        for part in parts:
            first, last = (byte - layout.span[0] for byte in part.layout.span)
            self._copy(flat, place, first, report)
            self._parts.append((first, part))
            part.joined(self)
            place = last
        self._copy(flat, place, flat.numel(), report)
        self.own_bytes = sum(shards.own_bytes for _, shards in self._between)
        self.peer_bytes = sum(shards.peer_bytes for _, shards in self._between)

    def _copy(self, flat: Tensor, first: int, last: int, report: Report) -> None:
        if first < last:
            unit = self.layout.dtype.itemsize
            shards = self._learners.keep(flat[first:last], unit, self.memory, report)
            self._between.append((first, shards))

    def _rebuild(self, report: Report) -> Tensor:
        pieces = [(at, part.materialize(report)) for at, part in self._parts]
        for at, shards in self._between:
            pieces.append((at, self._learners.gather(shards, self.memory, report)))
        return torch.cat([piece for _, piece in sorted(pieces, key=lambda piece: piece[0])])
