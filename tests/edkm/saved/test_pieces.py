"""Parts of a storage saved before the whole, and narrow twins saved after the wide: once each."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edkm.saved import SavedTensorPolicy, marshal, offload

LENGTH = 64


@settings(max_examples=80)
@given(
    ranges=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=6),
    shard=st.sampled_from([None, 2, 3]),
    order=st.randoms(use_true_random=False),
)
def test_a_whole_copies_only_what_no_part_has(
    ranges: list[tuple[int, int]], shard: int | None, order: object
) -> None:
    policy = SavedTensorPolicy(min_bytes=0, shard=shard)
    base = torch.randint(0, 256, (LENGTH,), dtype=torch.uint8)
    views = [base[start : start + length] for start, length in ranges]
    handles = [policy.pack(view) for view in (*views, base)]
    ledger = policy.ledger
    before = ledger.host_bytes + ledger.peer_bytes
    lengths = sorted((len(v) for v in views), reverse=True)
    assert LENGTH <= before <= LENGTH + sum(lengths)
    apart = all(b[0] >= a[0] + a[1] for a, b in pairwise(sorted(ranges)))
    if apart:
        assert before == LENGTH == ledger.d2h_bytes + ledger.peer_d2h_bytes
    numbers = list(range(len(handles))) * 2
    order.shuffle(numbers)  # type: ignore[attr-defined]
    for number in numbers:
        assert torch.equal(policy.unpack(handles[number]), (*views, base)[number])
    del handles
    assert ledger.host_bytes == ledger.peer_bytes == 0


@pytest.mark.parametrize("hold", [False, True])
def test_gradients_of_parts_and_whole(hold: bool) -> None:
    def loss(x: Tensor) -> Tensor:
        y = x * 2
        parts = y[10:20].square().sum() + y[30:40].sin().sum()
        return parts + y.cos().sum() + y[5:15].square().sum()

    x = torch.randn(64, 64, requires_grad=True)
    (wanted,) = torch.autograd.grad(loss(x), x)
    with offload(hold=hold) as offloaded:
        found = loss(x)
    assert offloaded.ledger.host_bytes == offloaded.ledger.d2h_bytes == x.nbytes
    assert torch.equal(torch.autograd.grad(found, x)[0], wanted)
    if hold:
        assert offloaded.ledger.h2d_bytes == x.nbytes


def test_a_part_written_to_is_no_part_of_the_whole() -> None:
    policy = SavedTensorPolicy(min_bytes=0)
    base = torch.arange(8.0)
    first = policy.pack(base[2:4])
    base.mul_(2)
    whole = policy.pack(base)
    assert whole.host_bytes == 32 and torch.equal(policy.unpack(whole), base)
    with pytest.raises(RuntimeError, match="written to in place"):
        policy.unpack(first)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("wide_first", [False, True])
def test_twins_share_one_narrow_copy_in_either_order(
    wide_first: bool, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusted:  # as on CUDA, where nothing is compared
        monkeypatch.setattr(marshal, "_agrees", lambda recipe, tensor: True)

    def loss(x: Tensor) -> Tensor:
        y = x * 2
        wide = y.float()
        if wide_first:
            return wide.sin().sum() + y.t().cos().sum() + y.square().sum()
        return y.square().sum() + wide.sin().sum() + y.t().cos().sum()

    x = torch.randn(64, 64).bfloat16().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(x), x)
    with offload() as offloaded:
        found = loss(x)
    assert offloaded.ledger.host_bytes == offloaded.ledger.d2h_bytes == x.nbytes
    assert torch.equal(torch.autograd.grad(found, x)[0], wanted)


@pytest.mark.parametrize("write", ["seen", "computed", "other memory"])
def test_a_narrow_twin_that_changed_is_copied(write: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was converted only the wide twin was looked at; the rest must not have moved."""
    if write != "other memory":  # that no counter shows: found by comparing, on a CPU
        monkeypatch.setattr(marshal, "_agrees", lambda recipe, tensor: True)
    x = torch.randn(64, 64).bfloat16().requires_grad_()
    w = torch.randn(64, 64).bfloat16().requires_grad_()

    def loss() -> Tensor:
        y = x * 2
        wide = y.float().sin().sum()
        if write == "other memory":
            y.data = torch.ones_like(y)
        else:
            with torch.no_grad():
                y.add_(1)
        used = y.clamp(min=0) if write == "computed" else y
        return wide + (used * w).sum()

    (wanted,) = torch.autograd.grad(loss(), w)
    with offload():
        found = loss()
    assert torch.equal(torch.autograd.grad(found, w)[0], wanted)
