"""U: a table is made only of what really is a function of the weight's 16 bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edkm.saved import SavedTensorPolicy
from edkm.saved.layout import Layout
from edkm.saved.uniquify import Uniquifier


def all_patterns(times: int = 2) -> Tensor:
    """Every 16-bit pattern, as bfloat16: each NaN payload, both zeros, infinities."""
    return torch.arange(1 << 16).to(torch.int16).view(torch.bfloat16).repeat(times)


def table_of(weight: Tensor, rows: Tensor) -> Tensor | None:
    uniquifier = Uniquifier()
    uniquifier.observe(weight, Layout.of(weight))
    table = uniquifier.table(rows, Layout.of(rows))
    return None if table is None else table.expand()


def test_every_pattern_with_payloads_and_both_zeros() -> None:
    weight = all_patterns(3)
    rows = torch.stack([weight.view(torch.int16) * k for k in range(1, 9)], dim=1)
    rows = rows.contiguous().view(torch.bfloat16)
    back = table_of(weight, rows)
    assert back is not None
    assert torch.equal(back.view(torch.int16), rows.view(torch.int16))


def test_a_difference_of_minus_zero_or_payload_is_seen() -> None:
    weight = torch.zeros(4096, dtype=torch.bfloat16)
    rows = torch.zeros(4096, 8, dtype=torch.bfloat16)
    assert table_of(weight, rows) is not None
    for bits in (-(1 << 15), 0x7FC1):
        rows.view(torch.int16)[1000, 3] = bits
        assert table_of(weight, rows) is None


@given(st.integers(0, 500), st.sampled_from([2, 3, 5, 8]), st.booleans())
def test_a_coincidence_of_length_is_no_table(seed: int, width: int, related: bool) -> None:
    torch.manual_seed(seed)
    weight = torch.randint(-20, 20, (600,)).bfloat16()
    rows = torch.randn(600, width)
    if related:
        rows = torch.outer(weight.float(), torch.randn(width)).contiguous()
    back = table_of(weight, rows)
    assert (back is not None) is related
    assert back is None or torch.equal(back, rows)


def test_overlapping_and_transposed_sources() -> None:
    base = torch.randn(64, 64).bfloat16()
    windows = base.view(-1).as_strided((63, 128), (64, 1))
    rows = torch.randn(63 * 128, 4)
    assert table_of(windows, rows) is None  # more values than places: no list of indices
    turned = base.t()
    by_value = torch.outer(turned.reshape(-1).float(), torch.ones(8)).contiguous()
    assert table_of(turned, by_value) is None  # patterns lie in another order: left alone


def test_a_source_written_to_unseen_is_found_out() -> None:
    weight = torch.ones(4096, dtype=torch.bfloat16)  # patterns below its own get no row
    uniquifier = Uniquifier()
    uniquifier.observe(weight, Layout.of(weight))
    rows = torch.zeros(4096, 8)
    assert uniquifier.table(rows, Layout.of(rows)) is not None
    weight.data.copy_(torch.randn(4096))
    rows = weight.float().unsqueeze(1).expand(4096, 8).contiguous()
    table = uniquifier.table(rows, Layout.of(rows))
    assert table is None or torch.equal(table.expand(), rows)


@pytest.mark.parametrize("shape", [(4096, 1), (4096,), (64, 64, 8)])
def test_what_is_no_map_is_copied_whole(shape: tuple[int, ...]) -> None:
    policy = SavedTensorPolicy(uniquify=True)
    policy.pack(torch.zeros(4096, dtype=torch.bfloat16))
    assert policy.pack(torch.zeros(shape)).action == "copied"


def test_a_table_no_smaller_than_the_map_is_not_made() -> None:
    policy = SavedTensorPolicy(uniquify=True)
    weight = torch.arange(4096).to(torch.int16).view(torch.bfloat16)  # all values differ
    policy.pack(weight)
    rows = torch.outer(torch.arange(4096.0), torch.ones(2)).contiguous()
    assert policy.pack(rows).action == "copied"


def test_sources_of_the_past_are_forgotten() -> None:
    uniquifier = Uniquifier()
    for length in range(100, 200):
        weight = torch.zeros(length, dtype=torch.bfloat16)
        uniquifier.observe(weight, Layout.of(weight))
        rows = torch.zeros(length, 8)
        assert uniquifier.table(rows, Layout.of(rows)) is not None
    del weight
    assert len(uniquifier._sources) == 0
