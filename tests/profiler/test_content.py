"""Hashes tell equal content from different content, however the tensors lie in memory."""

from __future__ import annotations

import torch

from profiler.content import SAMPLES, content_hash, distinct_values


def test_equal_content_has_equal_hashes_in_any_layout() -> None:
    square = torch.randn(8, 8)
    turned = square.t()
    assert content_hash(turned) == content_hash(turned.contiguous())
    assert content_hash(square) != content_hash(turned)
    wide = torch.randn(6, 10)
    assert content_hash(wide[1:5, 2::3]) == content_hash(wide[1:5, 2::3].clone())
    assert content_hash(torch.randn(3, 1).expand(3, 5)) is not None
    assert content_hash(square) != content_hash(square.view(4, 16))


def test_large_tensors_are_sampled_to_their_ends() -> None:
    large = torch.zeros(100 * SAMPLES)
    last = large.clone()
    last[-1] = 1
    assert content_hash(large) != content_hash(last)


def test_what_cannot_be_read_has_no_hash() -> None:
    for tensor in (
        torch.empty(0),
        torch.empty(3, device="meta"),
        torch.eye(3).to_sparse(),
        torch.ones(2, dtype=torch.complex64).conj(),
    ):
        assert content_hash(tensor) is None and distinct_values(tensor) is None


def test_distinct_values_count_patterns_of_16_bits() -> None:
    tensor = torch.tensor([0.0, -0.0, 1.0, 1.0, 2.5], dtype=torch.bfloat16)
    assert distinct_values(tensor) == 4  # minus zero is a pattern of its own
    assert distinct_values(tensor.view(5, 1).expand(5, 7)) == 4
    assert distinct_values(torch.ones(3)) is None
