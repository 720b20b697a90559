"""Spans of views, against torch's own views."""

from __future__ import annotations

import pytest
import torch

from profiler.analyses.spans import byte_span

BASE = torch.zeros(6, 8)
VIEWS = [
    BASE,
    BASE.t(),
    BASE[2:4],
    BASE[:, 3:5],
    BASE[1::2, ::3],
    BASE[5, 7],
    BASE[:1].expand(4, 8),
]


@pytest.mark.parametrize("view", VIEWS, ids=range(len(VIEWS)))
def test_the_span_reaches_from_the_first_byte_to_the_last(view: torch.Tensor) -> None:
    numbers = torch.arange(BASE.numel()).as_strided(
        view.shape, view.stride(), view.storage_offset()
    )
    expected = (4 * int(numbers.min()), 4 * (int(numbers.max()) + 1))
    given = (list(view.shape), list(view.stride()), int(view.storage_offset()))
    assert byte_span(*given, view.nbytes) == expected


def test_nothing_and_layouts_without_strides() -> None:
    assert byte_span([0, 4], [4, 1], 3, 0) == (0, 0)
    assert byte_span([2, 2], [], 0, 16) == (0, 16)
