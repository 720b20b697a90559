"""A clustered weight as it is stored: look-up tables and bit-packed indices into them.

Contract: ``Palette`` holds ``bits`` bits a cluster vector and a table, or a table for each of equal
blocks of rows; ``dense`` gives back the
hard-assigned weight bit for bit. Index ``i`` occupies bits ``[i * bits, (i + 1) * bits)`` of one
little-endian bit stream, so that eight indices always fill ``bits`` whole bytes.
Boundary: tensors only; layers that compute with palettes are in ``edkm.palettized``, files in
``edkm.export``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from edkm.dkm.assign import hard_indices
from edkm.dkm.checks import check_centroids, check_range

_CHUNK = 1 << 20  # indices widened to int64 at a time: 8 MiB
_GROUP = 8  # indices that fill whole bytes at any width


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` indices of ``bits`` bits take."""
    return (count * bits + 7) // 8


def pack_indices(indices: Int64[Tensor, " n"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Indices below ``2**bits`` as one bit stream. ``ValueError`` if one does not fit."""
    check_range("bits", bits, 1, 8, "an index is stored in at most one byte")
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < 1 << bits:
        raise ValueError(
            f"indices run from {int(indices.min())} to {int(indices.max())}; {bits} bits hold 0 "
            f"to {(1 << bits) - 1}: use more bits or a smaller table"
        )
    count = indices.numel()
    packed = torch.empty(packed_bytes(count, bits), dtype=torch.uint8, device=indices.device)
    for start in range(0, count, _CHUNK):
        part = _pack_chunk(indices[start : start + _CHUNK], bits)
        first = start * bits // 8
        room = packed[first : first + part.numel()]
        room.copy_(part[: room.numel()])
    return packed


def unpack_indices(
    packed: UInt8[Tensor, " bytes"], count: int, bits: int, *, start: int = 0
) -> Int64[Tensor, " n"]:
    """The ``count`` indices from number ``start`` on; any start, not only a multiple of 8.

    ``ValueError`` if the stream is shorter than that.
    """
    check_range("bits", bits, 1, 8, "an index is stored in at most one byte")
    if packed_bytes(start + count, bits) > packed.numel():
        raise ValueError(
            f"the bit stream holds {packed.numel()} bytes; indices {start} to {start + count} of "
            f"{bits} bits need {packed_bytes(start + count, bits)}: the file is cut or misread"
        )
    skip = start % _GROUP
    first = (start - skip) * bits // 8
    out = torch.empty(skip + count, dtype=torch.int64, device=packed.device)
    for begin in range(0, skip + count, _CHUNK):
        room = out[begin : begin + _CHUNK]
        at = first + begin * bits // 8
        room.copy_(_unpack_chunk(packed[at : at + packed_bytes(room.numel(), bits)], bits, room))
    return out[skip:]


@lru_cache(maxsize=1)
def _load_compiled() -> ModuleType | None:
    try:
        return import_module("edkm.unpack_cpu")
    # numba is not there, or not for this Python, numpy or machine; or no folder for compiled loops
    except (ImportError, RuntimeError):
        return None


def _pack_chunk(indices: Tensor, bits: int) -> Tensor:
    groups = -(-indices.numel() // _GROUP)
    padded = indices.new_zeros(groups * _GROUP)
    padded[: indices.numel()] = indices
    # eight indices make one word of 8 * bits <= 64 bits; its sign bit is a bit like any other
    word = (padded.view(groups, _GROUP) << _shifts(bits, _GROUP, indices)).sum(1, keepdim=True)
    return ((word >> _shifts(8, bits, indices)) & 255).to(torch.uint8).reshape(-1)


def _unpack_chunk(packed: Tensor, bits: int, room: Tensor) -> Tensor:
    groups = -(-room.numel() // _GROUP)
    padded = room.new_zeros(groups * bits)
    padded[: packed.numel()] = packed
    word = (padded.view(groups, bits) << _shifts(8, bits, room)).sum(1, keepdim=True)
    indices = (word >> _shifts(bits, _GROUP, room)) & ((1 << bits) - 1)
    return indices.reshape(-1)[: room.numel()]


def _shifts(step: int, count: int, like: Tensor) -> Tensor:
    return torch.arange(0, step * count, step, dtype=torch.int64, device=like.device)


@dataclass(frozen=True)
class Palette:
    """One weight: its table or tables, in the weight's dtype, and the indices into them."""

    table: Tensor  # [k, d], k <= 2**bits; or [groups, 2**bits, d], each for its block of rows
    packed: Tensor  # uint8, packed_bytes(numel / d, bits)
    shape: tuple[int, ...]  # of the weight
    bits: int
    scale: Tensor | None = None  # [rows], multiplies each row; bfloat16

    def __post_init__(self) -> None:
        check_range("bits", self.bits, 1, 8, "an index is stored in at most one byte")
        most = 1 << self.bits
        flat = self.table.ndim == 2 and 1 <= self.table.shape[0] <= most
        if not (flat or (self.table.ndim == 3 and self.table.shape[1] == most)):
            raise ValueError(
                f"the table has shape {tuple(self.table.shape)}; {self.bits} bits address "
                f"[k, d] with 1 <= k <= {most}, or [groups, {most}, d]"
            )
        if 0 in self.shape or self.shape[0] % self.groups:
            raise ValueError(
                f"{self.groups} tables for a weight of shape {self.shape}; each is for an equal "
                "block of its rows: the file is misread"
            )
        if self.numel // self.groups % self.dim:
            raise ValueError(f"cluster dimension {self.dim} does not divide {self.shape}")
        if self.scale is not None and self.scale.shape != self.shape[:1]:
            raise ValueError(
                f"the scale has shape {tuple(self.scale.shape)} for a weight of shape "
                f"{self.shape}; it has one value for each row: the file is misread"
            )
        if self.packed.numel() != packed_bytes(self.vectors, self.bits):
            raise ValueError(
                f"{self.packed.numel()} bytes of indices for a weight of shape {self.shape}; "
                f"{self.bits} bits need {packed_bytes(self.vectors, self.bits)}: the file is cut "
                "or its shape is wrong"
            )

    @property
    def numel(self) -> int:
        """Elements of the weight."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def dim(self) -> int:
        """Weights of a cluster vector."""
        return self.table.shape[-1]

    @property
    def groups(self) -> int:
        """Tables, one for each of so many equal blocks of rows."""
        return self.table.shape[0] if self.table.ndim == 3 else 1

    @property
    def vectors(self) -> int:
        """Cluster vectors of the weight, one index each."""
        return self.numel // self.dim

    @property
    def nbytes(self) -> int:
        """Bytes of table, indices and scale."""
        parts = (self.table, self.packed, self.scale)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def dense(self) -> Float[Tensor, "*shape"]:
        """The hard-assigned weight."""
        return self.rows(0, self.shape[0]).view(self.shape)

    def vectors_at(self, start: int, count: int) -> Float[Tensor, "n d"]:
        """``count`` cluster vectors from number ``start`` on, before any scale."""
        if not 0 <= start <= start + count <= self.vectors:
            raise ValueError(
                f"vectors {start} to {start + count} are asked for; the weight has {self.vectors}"
            )
        if (fast := self._compiled()) is not None:
            out = self.table.new_empty(count, 1)
            table = self.table.detach().contiguous().view(self.groups, -1)
            block = self.vectors // self.groups
            fast.look_up(self.packed, table, start, block, self.bits, out.view(-1))
            return out
        index = unpack_indices(self.packed, count, self.bits, start=start)
        if self.groups == 1:
            return self.look_up(index, None)
        return self.look_up(index, torch.arange(start, start + count, device=index.device))

    def _compiled(self) -> Any:
        """``edkm.unpack_cpu`` where it can do this palette."""
        usable = self.dim == 1 and self.table.device.type == self.packed.device.type == "cpu"
        return _load_compiled() if usable and not torch.compiler.is_compiling() else None

    def look_up(self, index: Tensor, position: Tensor | None) -> Float[Tensor, "n d"]:
        """Table entries; ``position`` are the vectors' numbers, which may be None of one table."""
        entries = self.table.flatten(0, -2)
        if self.groups > 1:
            assert position is not None
            group = position.div(self.vectors // self.groups, rounding_mode="floor")
            index = index + group * self.table.shape[1]
        return entries.index_select(0, index)

    def rows(self, start: int, stop: int) -> Float[Tensor, "rows width"]:
        """Rows ``start`` to ``stop`` of the weight seen as ``[shape[0], -1]``."""
        width = self.vectors // self.shape[0]
        found = self.vectors_at(start * width, (stop - start) * width).view(stop - start, -1)
        if self.scale is None:
            return found
        return found * self.scale[start:stop].to(found.dtype).unsqueeze(1)


def palettize(
    weight: Shaped[Tensor, "*shape"], centroids: Tensor, bits: int, scale: Tensor | None = None
) -> Palette:
    """Each vector of ``weight`` as the index of its nearest centroid.

    ``centroids``: ``[k, d]``, or ``[groups, k, d]`` for equal blocks of the weight's rows.
    ``scale``: ``[rows]``, of values that bfloat16 holds; rows are divided by it before. The table
    is in the weight's dtype, so that ``dense()`` equals what eval computes bit for bit.
    Rows must be a whole number of cluster vectors. Raises ``ValueError`` as ``hard_indices``.
    """
    dim = check_centroids(centroids.flatten(0, -2), weight)
    if weight.ndim > 1 and (weight.numel() // weight.shape[0]) % dim:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, whose rows dim={dim} does not divide; a row "
            "must be a whole number of cluster vectors: choose another cluster dimension"
        )
    table = centroids.detach().to(weight.dtype)
    held = weight.detach()
    if scale is not None:
        held = held / scale.to(held.dtype).unsqueeze(1)
    packed = pack_indices(hard_indices(held, centroids), bits)
    stored = None if scale is None else scale.to(torch.bfloat16)
    return Palette(table, packed, tuple(weight.shape), bits, stored)
