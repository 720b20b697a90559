"""U, uniquification: a map computed from a 16-bit weight is a small table and an index list.

Contract: a saved N x K tensor is kept as (distinct rows, one uint16 per row) only after every row
was compared, bit by bit, with the row of the table that would replace it. If any differs, the
tensor is not a function of the weight's 16-bit pattern and is left alone.
Boundary: finds and checks the table; where table and list are kept is the caller's business.
Source: eDKM (arXiv 2309.00964) sec. 2.2: a 16-bit weight takes at most 65,536 values.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor, UntypedStorage

from edkm.saved.identity import VersionProbe
from edkm.saved.layout import Layout

PATTERNS = 1 << 16
_CHUNK = 1 << 20  # rows looked at in one go: bounds temporaries to a few tens of MiB
_SIXTEEN_BIT = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Table:
    """`rows[index]` is the map: rows `(u, K)` of its dtype, index `(N,)` of 16-bit patterns."""

    rows: Tensor
    index: Tensor  # int16 that stands for uint16

    def expand(self) -> Tensor:
        """The map again, `(N, K)`, contiguous."""
        return look_up(self.rows, self.index)


def look_up(rows: Tensor, index: Tensor) -> Tensor:
    """`rows[index]` for an int16 `index` that stands for uint16, in chunks."""
    out = torch.empty(index.numel(), rows.shape[1], dtype=rows.dtype, device=rows.device)
    lanes, out_lanes = _lanes(rows), _lanes(out)
    for part, target in zip(chunks(index), chunks(out_lanes), strict=True):
        torch.index_select(lanes, 0, unsigned(part), out=target)
    return out


class Uniquifier:
    """Remembers, weakly, the 16-bit weights seen, and makes tables of the maps made from them."""

    def __init__(self) -> None:
        self._sources: weakref.WeakKeyDictionary[UntypedStorage, list[_Source]] = (
            weakref.WeakKeyDictionary()
        )

    def observe(self, tensor: Tensor, layout: Layout) -> None:
        """Note `tensor` as a possible source of indices, if it is a dense 16-bit weight."""
        if layout.dtype not in _SIXTEEN_BIT or not layout.is_dense:
            return
        known = self._sources.setdefault(tensor.untyped_storage(), [])
        known[:] = [s for s in known if s.probe.unchanged]
        if not any(s.covers(layout) and s.probe.watches(tensor) for s in known):
            known.append(_Source(weakref.ref(tensor.untyped_storage()), layout, tensor))

    def table(self, tensor: Tensor, layout: Layout) -> Table | None:
        """The table and index list of `tensor`, `(N, K)` and contiguous; None where none is exact.

        Also None where the table would be no smaller than the tensor.
        """
        if tensor.dim() != 2 or not tensor.is_contiguous() or layout.conj or layout.neg:
            return None
        rows, width = layout.size
        if width < 2 or rows * 2 >= layout.logical_bytes:
            return None
        for source in reversed(self._alive(rows)):
            found = source.tabulate(tensor)
            if found is not None and found.rows.nbytes + 2 * rows < layout.logical_bytes:
                return found
        return None

    def _alive(self, count: int) -> list[_Source]:
        """Sources of `count` values whose patterns still are what was noted, oldest first."""
        known = [s for sources in list(self._sources.values()) for s in sources]
        return [s for s in known if s.count == count and s.probe.unchanged]


class _Source:
    """A 16-bit weight, held weakly, whose bit patterns may index a map's rows."""

    def __init__(
        self,
        storage: weakref.ref[UntypedStorage],
        layout: Layout,
        tensor: Tensor,
    ) -> None:
        self.storage = storage
        self.layout = layout
        self.count = tensor.numel()
        self.probe = VersionProbe(tensor)
        self._first: Tensor | None = None  # (u,) where each distinct pattern occurs
        self._rank: Tensor | None = None  # (65536,) pattern -> row of the table

    def covers(self, layout: Layout) -> bool:
        return layout.span == self.layout.span and layout.dtype == self.layout.dtype

    def _patterns(self) -> Tensor:
        """The bit patterns in row order, `(N,)` int16: a view of the weight."""
        storage = self.storage()
        assert storage is not None
        start, stop = self.layout.span
        flat = torch.empty(0, dtype=torch.int16, device=storage.device)
        return flat.set_(storage, start // 2, ((stop - start) // 2,), (1,))

    def _scan(self) -> tuple[Tensor, Tensor]:
        """Where each distinct pattern occurs, and its row number in the table."""
        if self._first is None or self._rank is None:
            patterns = self._patterns()
            where = torch.full((PATTERNS,), -1, dtype=torch.int64, device=patterns.device)
            for number, part in enumerate(chunks(patterns)):
                start = number * _CHUNK
                places = torch.arange(start, start + part.numel(), device=part.device)
                where[unsigned(part)] = places  # any of equal patterns will do
            present = where >= 0
            # A pattern that does not occur gets row 0: only a write that cannot be seen (through
            # `.data`) brings one, and then the comparison decides.
            self._rank = (present.cumsum(0) - 1).clamp_(min=0).to(torch.int16)
            self._first = where[present]
        return self._first, self._rank

    def tabulate(self, tensor: Tensor) -> Table | None:
        first, rank = self._scan()
        rows = tensor.detach().index_select(0, first)
        lanes, tensor_lanes = _lanes(rows), _lanes(tensor.detach())
        patterns = self._patterns()
        index = torch.empty_like(patterns)
        parts = zip(
            chunks(patterns),
            chunks(tensor_lanes),
            chunks(index),
            strict=True,
        )
        for part, expected, target in parts:
            torch.index_select(rank, 0, unsigned(part), out=target)
            if not torch.equal(lanes.index_select(0, unsigned(target)), expected):
                return None
        return Table(rows, index)


def chunks(rows: Tensor) -> tuple[Tensor, ...]:
    """`rows` in parts of at most a million rows (views)."""
    return torch.split(rows, _CHUNK)


def unsigned(pattern: Tensor) -> Tensor:
    """int16 patterns as row numbers 0..65535 (int32, which indexing accepts)."""
    return pattern.to(torch.int32).bitwise_and_(PATTERNS - 1)


def _lanes(rows: Tensor) -> Tensor:
    """`(N, K)` rows as integers, the widest that divide a row: compares bits (NaN too), fast."""
    row_bytes = rows.shape[1] * rows.dtype.itemsize
    for dtype in (torch.int64, torch.int32, torch.int16):
        fits = row_bytes % dtype.itemsize == 0 and rows.storage_offset() == 0
        if fits:
            return rows.view(dtype)
    return rows.view(torch.uint8)
