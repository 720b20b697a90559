"""Gradients under any combination of the switches are those without, bit by bit."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edkm.dkm.dense import dense_dkm
from edkm.saved import SavedTensorPolicy
from edkm.saved.marshal import FINDERS

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def gradient(weight: Tensor, bits: int, dim: int, iterations: int, policy: object) -> Tensor:
    leaf = weight.clone().requires_grad_()
    start = torch.linspace(-1.0, 1.0, 2**bits).view(-1, 1).repeat(1, dim)
    start = start + torch.arange(dim) / 64
    if policy is None:
        out = dense_dkm(leaf, start, tau=0.05, iterations=iterations).clustered
    else:
        with policy:  # type: ignore[attr-defined]
            out = dense_dkm(leaf, start, tau=0.05, iterations=iterations).clustered
    generator = torch.Generator().manual_seed(1)
    out.backward(torch.randn(out.shape, generator=generator).to(out.dtype))
    assert leaf.grad is not None
    return leaf.grad


def equal_bits(one: Tensor, other: Tensor) -> bool:
    """Equality that holds for NaN too, should a gradient have one."""
    nan = one.isnan()
    same = torch.equal(nan, other.isnan())
    return same and torch.equal(one.masked_fill(nan, 0), other.masked_fill(nan, 0))


@settings(max_examples=120)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    bits=st.integers(1, 8),
    dim=st.sampled_from([1, 1, 2, 3, 4]),
    iterations=st.integers(1, 3),
    dtype=st.sampled_from(DTYPES),
    transposed=st.booleans(),
    marshal=st.booleans(),
    uniquify=st.booleans(),
    shard=st.sampled_from([None, 1, 2, 3, 5, 8, 9]),
    finders=st.sampled_from([(), ("storage",), ("graph",), FINDERS]),
    hops=st.integers(0, 5),
    min_bytes=st.sampled_from([0, 64, 1024]),
)
def test_gradients_are_equal_under_every_combination(
    seed: int,
    rows: int,
    columns: int,
    bits: int,
    dim: int,
    iterations: int,
    dtype: torch.dtype,
    transposed: bool,
    marshal: bool,
    uniquify: bool,
    shard: int | None,
    finders: tuple[str, ...],
    hops: int,
    min_bytes: int,
) -> None:
    columns *= dim
    if rows * columns // dim < 2**bits:
        rows += 2**bits
    torch.manual_seed(seed)
    weight = torch.randn(rows, columns).to(dtype)
    policy = SavedTensorPolicy(
        marshal=marshal,
        uniquify=uniquify,
        shard=shard,
        finders=finders,
        hops=hops,
        min_bytes=min_bytes,
    )
    if transposed and dim == 1:
        weight = weight.t()
    expected = gradient(weight, bits, dim, iterations, None)
    assert equal_bits(gradient(weight, bits, dim, iterations, policy), expected)
    assert policy.ledger.host_bytes == policy.ledger.peer_bytes == 0


@pytest.mark.parametrize(
    "switches", list(itertools.product([False, True], [False, True], [None, 3]))
)
def test_all_eight_combinations_on_a_small_transformer(
    switches: tuple[bool, bool, int | None],
) -> None:
    torch.manual_seed(0)
    block = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True).bfloat16()
    data = torch.randn(2, 16, 32).bfloat16()
    block(data).float().square().sum().backward()
    expected = [p.grad for p in block.parameters()]
    block.zero_grad()
    marshal, uniquify, shard = switches
    policy = SavedTensorPolicy(marshal=marshal, uniquify=uniquify, shard=shard, min_bytes=0)
    with policy:
        loss = block(data).float().square().sum()
    loss.backward()
    for wanted, parameter in zip(expected, block.parameters(), strict=True):
        assert wanted is not None and parameter.grad is not None
        assert torch.equal(wanted, parameter.grad)
    assert policy.ledger.host_bytes == 0
