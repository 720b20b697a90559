"""How one tensor lies in its storage, and how to lay it out again over other bytes.

Contract: `restore(flat, start, layout)` over a copy of the bytes `[start, ...)` of a storage has
the same dtype, size, stride, conjugate and negative bits, and the same values, as the tensor the
layout was taken from.
Boundary: addresses nothing and copies nothing by itself, except for a tensor with gaps (`gather`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, UntypedStorage


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the elements of a strided tensor lie in its storage (sizes in elements)."""

    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    conj: bool = False
    neg: bool = False

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        return cls(
            tensor.dtype,
            tuple(tensor.shape),
            tensor.stride(),
            int(tensor.storage_offset()),
            tensor.is_conj(),
            tensor.is_neg(),
        )

    @property
    def logical_bytes(self) -> int:
        """Bytes of all elements, repeated ones (an expanded dimension) counted each time."""
        count = self.dtype.itemsize
        for extent in self.size:
            count *= extent
        return count

    @property
    def distinct_bytes(self) -> int:
        """As `logical_bytes`, but a dimension of stride 0 counts once."""
        count = self.dtype.itemsize
        for extent, step in zip(self.size, self.stride, strict=True):
            count *= extent if step else min(extent, 1)
        return count

    @property
    def span(self) -> tuple[int, int]:
        """First byte used and first byte behind the last one used, in the storage."""
        assert 0 not in self.size, "a tensor without elements has no span"
        last = sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        start = self.offset * self.dtype.itemsize
        return start, start + (last + 1) * self.dtype.itemsize

    @property
    def span_bytes(self) -> int:
        """Bytes from the first one used to the last one used."""
        start, stop = self.span
        return stop - start

    @property
    def has_gaps(self) -> bool:
        """Whether copying the span would copy more bytes than the tensor itself has."""
        return self.span_bytes > self.distinct_bytes

    @property
    def is_dense(self) -> bool:
        """Whether the elements fill the span, each in a place of its own."""
        places = sorted((s, n) for n, s in zip(self.size, self.stride, strict=True) if n > 1)
        step = 1
        for stride, extent in places:
            if stride != step:
                return False
            step *= extent
        return True

    @property
    def row_bytes(self) -> int:
        """Bytes between two rows, a row being one step along the outermost dimension (0: none)."""
        steps = [s for n, s in zip(self.size, self.stride, strict=True) if n > 1 and s]
        return max(steps, default=0) * self.dtype.itemsize


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape and type have equal bytes: NaN payloads, signs of zero."""
    size = one.dtype.itemsize
    lane = {1: torch.uint8, 2: torch.int16, 4: torch.int32}.get(size, torch.int64)
    first, second = (t.detach().contiguous().view(-1).view(lane) for t in (one, other))
    return torch.equal(first, second)


def as_flat(storage: UntypedStorage) -> Tensor:
    """All bytes of a storage as a 1-D uint8 view of it."""
    flat = torch.empty(0, dtype=torch.uint8, device=storage.device)
    return flat.set_(storage, 0, (storage.nbytes(),), (1,))


def flat_bytes(tensor: Tensor, layout: Layout) -> Tensor:
    """The bytes of the tensor's span as a 1-D uint8 view of its storage (no copy)."""
    start, stop = layout.span
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return flat.set_(tensor.untyped_storage(), start, (stop - start,), (1,))


def restore(flat: Tensor, start: int, layout: Layout) -> Tensor:
    """Lay `layout` over `flat`, whose first byte stands for byte `start` of the old storage.

    The result shares `flat`'s version counter, so that a write to it is seen there.
    """
    offset, rest = divmod(layout.span[0] - start, layout.dtype.itemsize)
    assert rest == 0 and offset >= 0, (start, layout)
    strided = torch.empty(0, dtype=layout.dtype, device=flat.device)
    strided.set_(flat.untyped_storage(), offset, layout.size, layout.stride)
    out = flat.detach()
    out.data = strided  # takes the data, keeps the counter
    if layout.conj:
        out = out.conj()
    return torch._neg_view(out) if layout.neg else out


def _unexpanded(layout: Layout) -> Layout:
    size = tuple(n if s else min(n, 1) for n, s in zip(layout.size, layout.stride, strict=True))
    return Layout(layout.dtype, size, layout.stride, layout.offset)


def gather(tensor: Tensor, layout: Layout) -> Tensor:
    """The elements of a tensor with gaps, packed closely, as 1-D uint8 (copies)."""
    storage, plain = tensor.untyped_storage(), _unexpanded(layout)
    strided = torch.empty(0, dtype=layout.dtype, device=tensor.device)
    strided.set_(storage, plain.offset, plain.size, plain.stride)
    return strided.contiguous().view(-1).view(torch.uint8)


def relay(tensor: Tensor, layout: Layout) -> Tensor:
    """The same values with the strides of `layout`, which must be dense where they differ."""
    if tensor.stride() == layout.stride:
        return tensor
    assert layout.is_dense, layout
    out = torch.empty_strided(layout.size, layout.stride, dtype=layout.dtype, device=tensor.device)
    return out.copy_(tensor)


def scatter(packed: Tensor, layout: Layout) -> Tensor:
    """Undo `gather`: a flat uint8 span in which the bytes between the elements are undefined."""
    start, stop = layout.span
    flat = torch.empty(stop - start, dtype=torch.uint8, device=packed.device)
    plain = _unexpanded(layout)
    restore(flat, start, plain).copy_(packed.view(layout.dtype).view(plain.size))
    return flat
