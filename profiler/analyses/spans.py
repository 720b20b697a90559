"""Where in its storage a view lies: the first byte it touches and the byte after the last.

Contract: sizes and strides in elements, the answer in bytes from the start of the storage.
Boundary: the span only; a view with gaps touches less of it (profiler.analyses.coverage).
"""

from __future__ import annotations

from collections.abc import Sequence


def byte_span(
    shape: Sequence[int], stride: Sequence[int], offset: int, logical_bytes: int
) -> tuple[int, int]:
    """The span of a view; empty tensors and layouts without strides begin at their offset."""
    count = 1
    for size in shape:
        count *= size
    if not count:
        return 0, 0
    itemsize = max(1, logical_bytes // count)
    start = offset * itemsize
    if len(stride) != len(shape):
        return start, start + logical_bytes
    reach = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return start, start + (reach + 1) * itemsize
