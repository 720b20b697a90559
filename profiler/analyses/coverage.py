"""Which bytes of a storage a set of views touches, exactly where that is cheap.

Contract: `Coverage.add` returns how many bytes of a view were not touched by the views before it.
Views that would need more than MAX_RUNS separate runs of bytes (such as every second element)
are taken as the whole span they reach over, which can only make later views look more repeated;
`exact` is then False.
Boundary: sizes and strides in, byte counts out; nothing of tensors or tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAX_RUNS = 1 << 16
Runs = npt.NDArray[np.int64]  # (n, 2): first byte and the byte after the last, per run


class Coverage:
    """The bytes of one storage that were touched so far."""

    def __init__(self) -> None:
        self.exact = True
        self.bytes = 0
        self._runs: Runs = np.empty((0, 2), dtype=np.int64)
        self._seen: set[tuple[object, ...]] = set()

    def add(self, shape: Sequence[int], stride: Sequence[int], offset: int, itemsize: int) -> int:
        """Touch a view (stride and offset in elements); returns the bytes that are new."""
        key = (offset, itemsize, *_dimensions(shape, stride))
        if key in self._seen or 0 in shape:
            return 0
        self._seen.add(key)
        runs = self._of_view(shape, stride, offset, itemsize)
        self._runs = _union(np.concatenate([self._runs, runs]))
        before, self.bytes = self.bytes, int((self._runs[:, 1] - self._runs[:, 0]).sum())
        return self.bytes - before

    def _of_view(
        self, shape: Sequence[int], stride: Sequence[int], offset: int, itemsize: int
    ) -> Runs:
        dimensions = _dimensions(shape, stride)
        length = 1
        if dimensions and dimensions[-1][1] == 1:
            length = dimensions.pop()[0]
        starts = np.array([offset], dtype=np.int64)
        if math.prod(size for size, _ in dimensions) > MAX_RUNS:
            self.exact = False
            length += sum((size - 1) * step for size, step in dimensions)
            dimensions = []
        for size, step in dimensions:
            starts = (starts[:, None] + np.arange(size, dtype=np.int64) * step).ravel()
        return np.stack([starts, starts + length], axis=1) * itemsize


def touched_bytes(shape: Sequence[int], stride: Sequence[int], itemsize: int) -> int:
    """Return how many distinct bytes a view touches; an expanded dimension touches them once."""
    return itemsize * math.prod(s for s, step in zip(shape, stride, strict=True) if step or not s)


def _dimensions(shape: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """Return (size, stride) from outermost to innermost, with neighbours joined."""
    kept = [(n, s) for n, s in zip(shape, stride, strict=True) if n != 1 and s != 0]
    joined: list[tuple[int, int]] = []
    for size, step in sorted(kept, key=lambda d: (-d[1], d[0])):
        if joined and joined[-1][1] == size * step:
            size *= joined.pop()[0]
        joined.append((size, step))
    return joined


def _union(runs: Runs) -> Runs:
    """Return the runs sorted, with touching ones joined."""
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    reach = np.maximum.accumulate(runs[:, 1])
    first = np.concatenate([[True], runs[1:, 0] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([runs[first, 0], reach[last]], axis=1)
