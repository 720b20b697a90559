"""A 16-bit tensor of few distinct values is a table of them and a code per element.

Contract: exact, by bit pattern. At most 16 values take half a byte an element, at most 256 a byte.
Boundary: looks only at dense 16-bit tensors; larger tables gain nothing over the tensor itself.
Source: the uniquification of eDKM (arXiv 2309.00964) sec. 2.2, for one value instead of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edkm.saved.host import HostBuffer, HostMemory, Report
from edkm.saved.layout import Layout, flat_bytes
from edkm.saved.record import HostRecord
from edkm.saved.shard import Learners
from edkm.saved.uniquify import PATTERNS, chunks, unsigned

_SAMPLE = 4096  # elements looked at before all are
_MOST = 256


@dataclass(frozen=True, slots=True)
class FewValues:
    """`values[codes]` are the patterns: values `(u,)` int16, codes `(n,)` uint8, or two a byte."""

    values: Tensor
    codes: Tensor
    count: int
    packed: bool  # two codes a byte, the first in the low half

    def expand(self) -> Tensor:
        """The patterns again, `(n,)` int16."""
        codes = self.codes
        if self.packed:
            codes = torch.stack([codes & 15, codes >> 4], dim=1).view(-1)[: self.count]
        return self.values.index_select(0, codes.to(torch.int32))


def few_values(tensor: Tensor, layout: Layout) -> FewValues | None:
    """Table and codes of a dense 16-bit tensor, or None where it has more than 256 values."""
    sixteen_bit = layout.dtype.itemsize == 2 and not layout.dtype.is_complex
    if not sixteen_bit or not layout.is_dense or tensor.numel() < _SAMPLE:
        return None
    patterns = flat_bytes(tensor, layout).view(torch.int16)
    if patterns[:_SAMPLE].unique().numel() > _MOST:
        return None
    present = torch.zeros(PATTERNS, dtype=torch.bool, device=tensor.device)
    for part in chunks(patterns):
        present[unsigned(part)] = True
    values = present.nonzero().view(-1)
    if values.numel() > _MOST:
        return None
    code_of = (present.cumsum(0) - 1).to(torch.uint8)
    codes = torch.cat([code_of.index_select(0, unsigned(part)) for part in chunks(patterns)])
    packed = values.numel() <= 16
    return FewValues(
        values.to(torch.int16), _in_pairs(codes) if packed else codes, patterns.numel(), packed
    )


def _in_pairs(codes: Tensor) -> Tensor:
    if codes.numel() % 2:
        codes = torch.cat([codes, codes.new_zeros(1)])
    pairs = codes.view(-1, 2)
    return pairs[:, 0] | (pairs[:, 1] << 4)


class FewValuesRecord(HostRecord):
    """The values, kept by every learner, and the codes, or this learner's part of them."""

    action = "table"

    def __init__(
        self,
        found: FewValues,
        serial: int,
        layout: Layout,
        learners: Learners,
        memory: HostMemory,
        report: Report,
    ) -> None:
        super().__init__(serial, layout, learners, memory)
        self._count, self._packed = found.count, found.packed
        self._values = HostBuffer(found.values.view(torch.uint8), memory, report)
        self._codes = learners.keep(found.codes, 1, memory, report)
        self.own_bytes = self._values.nbytes + self._codes.own_bytes
        self.peer_bytes = self._codes.peer_bytes

    def _rebuild(self, report: Report) -> Tensor:
        values = self._values.to_device(report).view(torch.int16)
        codes = self._learners.gather(self._codes, self.memory, report)
        return FewValues(values, codes, self._count, self._packed).expand().view(torch.uint8)
