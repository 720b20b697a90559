"""The policy as a whole: the paper's two tables, its switches, its accounts, its errors."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from edkm.dkm.dense import dense_dkm
from edkm.saved import SavedTensorPolicy, switch_name

MIB = 1 << 20
SWITCHES = {
    "none": (False, False, None),
    "M": (True, False, None),
    "M+S": (True, False, 8),
    "M+U": (True, True, None),
    "M+U+S": (True, True, 8),
}


def policy_of(name: str) -> SavedTensorPolicy:
    marshal, uniquify, shard = SWITCHES[name]
    return SavedTensorPolicy(marshal=marshal, uniquify=uniquify, shard=shard)


@pytest.mark.parametrize(("marshal", "last"), [(False, 8), (True, 4)])
def test_table_1_of_the_paper(marshal: bool, last: int) -> None:
    policy = SavedTensorPolicy(marshal=marshal)
    host = lambda: policy.ledger.host_bytes / MIB  # noqa: E731
    x0 = torch.rand(1024, 1024)
    steps = [host()]
    x1 = x0.view(-1, 1)
    steps.append(host())
    y0 = policy.pack(x0)
    steps.append(host())
    y1 = policy.pack(x1)
    steps.append(host())
    assert steps == [0, 0, 4, last]
    # "GPU" bytes: both names have one storage of 4 MiB all along.
    assert x0.untyped_storage() is x1.untyped_storage()
    assert x0.untyped_storage().nbytes() == 4 * MIB
    assert torch.equal(policy.unpack(y0), x0) and torch.equal(policy.unpack(y1), x1)


@dataclass(frozen=True)
class Held:
    host_bytes: int
    d2h_bytes: int


def forward_under(name: str, weight: Tensor) -> tuple[Held, SavedTensorPolicy, Tensor]:
    """What one iteration of clustering `weight` to 3 bits keeps on the host."""
    policy = policy_of(name)
    with policy:
        start = torch.linspace(-0.06, 0.06, 8).view(-1, 1)
        clustered = dense_dkm(weight.requires_grad_(), start, tau=1e-4, iterations=1).clustered
    return Held(policy.ledger.host_bytes, policy.ledger.d2h_bytes), policy, clustered


def host_bytes_of(name: str, weight: Tensor) -> tuple[int, int, Tensor]:
    """Host bytes, bytes moved, and the gradient."""
    leaf = weight.clone()
    held, policy, clustered = forward_under(name, leaf)
    torch.manual_seed(1)
    clustered.backward(torch.randn_like(clustered))
    assert policy.ledger.host_bytes == policy.ledger.peer_bytes == 0
    assert leaf.grad is not None
    return held.host_bytes, held.d2h_bytes, leaf.grad


def table_2(weight: Tensor) -> dict[str, int]:
    """The paper's accounting, in bytes: maps, weight, index lists and tables of used patterns."""
    n, learners = weight.numel(), 8
    each_map, whole, index = n * 8 * 2, n * 2, n * 2
    table = weight.detach().view(torch.int16).unique().numel() * 8 * 2
    return {
        "none": 6 * each_map + 2 * whole,
        "M": 2 * each_map + whole,
        "M+S": (2 * each_map + whole) // learners,
        "M+U": 2 * (table + index) + whole,
        "M+U+S": 2 * table + (2 * index + whole) // learners,
    }


def weight_of(side: int) -> Tensor:
    torch.manual_seed(0)
    return (torch.randn(side, side) * 0.02).bfloat16()


@pytest.mark.parametrize("name", SWITCHES)
def test_table_2_by_formula(name: str) -> None:
    weight = weight_of(256)
    held, moved, gradient = host_bytes_of(name, weight)
    assert held == moved == table_2(weight)[name]
    assert torch.equal(gradient, host_bytes_of("none", weight)[2])


@pytest.mark.slow
def test_table_2_of_the_paper_at_its_size() -> None:
    weight = weight_of(4096)
    used = table_2(weight)
    measured = {name: forward_under(name, weight)[0].host_bytes for name in SWITCHES}
    assert measured == used
    rounded = {name: round(count / MIB, 1) for name, count in measured.items()}
    assert (rounded["none"], rounded["M"], rounded["M+S"]) == (1600.0, 544.0, 68.0)
    assert 96.0 <= rounded["M+U"] <= 98.5
    assert 12.0 <= rounded["M+U+S"] <= 12.5


def test_every_duplicate_of_the_clustering_is_within_four_hops() -> None:
    handles = []

    class Recording(SavedTensorPolicy):
        def pack(self, tensor: Tensor):  # type: ignore[no-untyped-def]
            handles.append(super().pack(tensor))
            return handles[-1]

    weight = weight_of(256).requires_grad_()
    with Recording(min_bytes=4096):
        dense_dkm(weight, torch.linspace(-0.06, 0.06, 8).view(-1, 1), tau=1e-4, iterations=3)
    found = [h for h in handles if h.action in ("alias", "rebuilt")]
    # Three iterations: distance and softmax once more each, attention once and in the last one
    # twice; X and X^T each time, of which the first is the copy.
    assert len(found) == 3 + 3 + (3 + 1) + (2 * 3 - 1)
    assert all(h.hops is not None and h.hops <= 4 for h in found)
    assert {h.finder for h in found} == {"storage", "graph"}


def test_names_of_the_switches() -> None:
    assert switch_name(False, False, False) == "none"
    assert [policy_of(name).name for name in SWITCHES] == list(SWITCHES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hops": -1}, "hops=-1"),
        ({"min_bytes": -1}, "min_bytes=-1"),
        ({"finders": ("storage", "dns")}, r"finders=\['dns'\]: unknown; choose from storage"),
        ({"rebuild": ("view", "matmul")}, r"rebuild=\['matmul'\]: unknown; choose from view"),
        ({"shard": 0}, "learners=0: sharding needs at least one"),
        ({"shard": -3}, "learners=-3: sharding needs at least one"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SavedTensorPolicy(**settings)  # type: ignore[arg-type]


def test_min_bytes_looks_at_the_storage() -> None:
    policy = SavedTensorPolicy(min_bytes=1024)
    assert policy.pack(torch.rand(255)).action == "kept"
    assert policy.pack(torch.rand(256)).action == "copied"
    assert policy.pack(torch.rand(1).expand(4096)).action == "kept"  # four bytes, expanded
    row = policy.pack(torch.rand(512, 512)[3, :8])  # would keep a MiB on the device
    assert row.action == "copied" and row.host_bytes == 32


def test_parameters_stay_where_asked() -> None:
    weight = torch.nn.Parameter(torch.rand(64, 64))
    policy = SavedTensorPolicy(skip_parameters=True)
    with policy:
        loss = (torch.rand(8, 64, requires_grad=True) @ weight.t()).square().sum()
    assert policy.ledger.host_bytes == 8 * 64 * 4 * 2  # the input and the product
    loss.backward()
