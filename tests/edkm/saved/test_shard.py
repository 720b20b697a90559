"""S: shares by whole rows, simulated learners, and a real group of two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from edkm.dkm.dense import dense_dkm
from edkm.saved import GroupLearners, Ledger, SavedTensorPolicy, SimulatedLearners
from edkm.saved.host import HostMemory
from edkm.saved.shard import _checksum, shard_lengths
from tests.processes import in_processes


@given(rows=st.integers(0, 100), learners=st.integers(1, 12), row_bytes=st.integers(1, 9))
def test_shares_are_whole_rows_and_differ_by_one(rows: int, learners: int, row_bytes: int) -> None:
    lengths = shard_lengths(rows, learners, row_bytes)
    assert sum(lengths) == rows * row_bytes and len(lengths) == learners
    assert max(lengths) - min(lengths) in (0, row_bytes)
    assert list(lengths) == sorted(lengths, reverse=True)


@given(rows=st.integers(0, 40), row_bytes=st.sampled_from([0, 1, 3, 8]), learners=st.integers(1, 9))
def test_simulated_learners_give_back_what_they_keep(
    rows: int, row_bytes: int, learners: int
) -> None:
    flat = torch.randint(0, 256, (rows * max(row_bytes, 1),), dtype=torch.uint8)
    memory = HostMemory(Ledger())
    ledger = memory.ledger
    group = SimulatedLearners(learners)
    shards = group.keep(flat, row_bytes, memory, lambda copy: None)
    assert ledger.host_bytes == shards.own_bytes and ledger.peer_bytes == shards.peer_bytes
    assert ledger.host_bytes + ledger.peer_bytes == flat.numel()
    assert torch.equal(group.gather(shards, memory, lambda copy: None), flat)
    assert ledger.gathered_bytes == shards.peer_bytes


def test_the_checksum_sees_exchanged_words_and_changes_that_cancel() -> None:
    flat = torch.randint(0, 256, (1 << 14,), dtype=torch.uint8)
    seen = {tuple(_checksum(flat).tolist())}
    words = flat.view(torch.int64)
    for change in ("swap", "cancel", "low bit", "shorter"):
        other = words.clone()
        if change == "swap":
            other[[3, 700]] = other[[700, 3]]
        elif change == "cancel":
            other[5] += 12345
            other[6] -= 12345
        elif change == "low bit":
            other[-1] ^= 1
        else:
            other = other[:-1]
        seen.add(tuple(_checksum(other.contiguous().view(torch.uint8)).tolist()))
    assert len(seen) == 5
    shifted = torch.cat([flat[:3], flat])[3:]  # the same bytes at an odd place
    assert tuple(_checksum(shifted).tolist()) in seen


def test_without_a_process_group_the_remedy_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group first"):
        GroupLearners()


def cluster(policy: SavedTensorPolicy | None, rank: int = 0) -> dict[str, object]:
    """Host bytes and gradient of one clustering of the same 90 x 7 weight."""
    torch.manual_seed(0)
    weight = torch.randn(90, 7).bfloat16().requires_grad_()
    start = torch.linspace(-1, 1, 8).view(-1, 1)
    if policy is None:
        out = dense_dkm(weight, start, tau=0.05, iterations=2).clustered
        held = 0
    else:
        with policy:
            out = dense_dkm(weight, start, tau=0.05, iterations=2).clustered
        held = policy.ledger.host_bytes
    torch.manual_seed(10)
    out.backward(torch.randn(90, 7).bfloat16())
    assert weight.grad is not None
    after = policy.ledger.host_bytes if policy is not None else 0
    return {"held": held, "after": after, "grad": weight.grad.float().tolist()}


def same_work() -> dict[str, object]:
    found = {}
    for uniquify in (False, True):
        policy = SavedTensorPolicy(shard=GroupLearners(), uniquify=uniquify, min_bytes=0)
        found[f"uniquify={uniquify}"] = cluster(policy)
    return found


def different_tensors() -> dict[str, object]:
    torch.manual_seed(dist.get_rank())
    policy = SavedTensorPolicy(shard=GroupLearners())
    with pytest.raises(RuntimeError) as raised, policy:
        torch.randn(32, 32, requires_grad=True).square()
    return {"error": str(raised.value)}


def different_orders() -> dict[str, object]:
    policy = SavedTensorPolicy(shard=GroupLearners())
    first, second = (policy.pack(torch.full((32, 32), float(n))) for n in range(2))
    with pytest.raises(RuntimeError) as raised:
        policy.unpack(first if dist.get_rank() == 0 else second)
    return {"error": str(raised.value)}


def refusals() -> dict[str, object]:
    return {"tensors": different_tensors(), "orders": different_orders()}


def test_two_processes_equal_one_and_each_holds_half(tmp_path: Path) -> None:
    alone = cluster(None)["grad"]
    found = in_processes(same_work, 2, tmp_path)
    for uniquify in (False, True):
        simulated = SavedTensorPolicy(shard=2, uniquify=uniquify, min_bytes=0)
        expected = cluster(simulated)
        ranks = [f[f"uniquify={uniquify}"] for f in found]
        for rank in ranks:
            assert isinstance(rank, dict)
            assert rank["grad"] == alone and rank["after"] == 0
        assert isinstance(ranks[0], dict) and ranks[0]["held"] == expected["held"]
    whole = SavedTensorPolicy(min_bytes=0)
    held = [f["uniquify=False"]["held"] for f in found]
    assert sum(held) == cluster(whole)["held"]
    assert max(held) - min(held) <= 0.01 * max(held)  # half each, but for odd rows


def test_what_would_mix_rows_is_refused_on_every_rank(tmp_path: Path) -> None:
    for found in in_processes(refusals, 2, tmp_path):
        assert "a saved tensor of 4096 bytes differs between rank 0 and rank(s) [1]" in str(
            found["tensors"]
        )
        assert "the ranks ask for different saved tensors" in str(found["orders"])
