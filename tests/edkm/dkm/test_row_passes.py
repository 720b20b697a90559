"""The compiled loops of the streaming form against the same sums over tiles in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from edkm.dkm import points as points_module
from edkm.dkm.kernels.choice import RowPasses, bucketize_for, row_passes_for
from edkm.dkm.points import Points
from edkm.dkm.settings import Rule
from edkm.dkm.updates import Path, pull, run_updates, soft_output

pytest.importorskip("numba")

F32, BF16, F16, F64 = torch.float32, torch.bfloat16, torch.float16, torch.float64


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def points(
    groups: int, channels: int, run: int, dtype: torch.dtype, scaled: bool, counted: str
) -> Points:
    rows = drawn(groups, channels * run, 1, seed=0).to(dtype)
    scale = drawn(groups, channels, seed=1).mul(0.3).exp().float() if scaled else None
    per_row = drawn(groups, channels, seed=2).exp().float() if "row" in counted else None
    per_column = drawn(run, seed=3).exp().float() if "column" in counted else None
    return Points(rows, F32, None, scale, per_row, per_column)


def widened(given: Points) -> Points:
    """The same points in float64, which no compiled loop takes."""
    others = (given.scale, given.per_row, given.per_column)
    return Points(
        given.rows.double(), F64, None, *(None if t is None else t.double() for t in others)
    )


def results(given: Points, start: Tensor, grad: Tensor, rule: Rule, steps: int) -> list[Tensor]:
    """Centroids, W~, dL/dW: the latter in place of the gradient."""
    path = run_updates(given, start.to(given.work), rule, steps, None)
    out, above = torch.empty_like(given.rows), grad.to(given.rows.dtype, copy=True)
    found = soft_output(given, path, rule, out, above)
    pull(given, path, rule, above, above, found)
    return [path.states[-1], out, above]


def apart(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


# one point, rows shorter and longer than a block, tails, all kinds of counts, several threads
@pytest.mark.parametrize(
    ("groups", "channels", "run", "clusters", "dtype", "squared", "scaled", "counted", "steps"),
    [
        (1, 1, 1, 1, F32, True, False, "", 1),
        (1, 1, 5, 3, F32, True, False, "", 2),
        (1, 1, 70_001, 8, F32, True, False, "", 1),
        (1, 300, 257, 8, F32, True, True, "row column", 1),
        (1, 300, 257, 8, F32, False, True, "row column", 3),
        (1, 130, 255, 8, F32, True, False, "column", 3),
        (1, 130, 255, 5, F32, False, False, "column", 1),
        (4, 30, 300, 8, BF16, True, True, "row column", 1),
        (4, 30, 300, 8, BF16, True, True, "row column", 2),
        (6, 1, 7, 4, F32, True, False, "", 2),
        (6, 40, 256, 8, F16, True, False, "column", 1),
        (2, 40, 512, 33, F16, True, True, "", 2),
        (1, 4, 300, 256, F32, True, True, "row", 1),
    ],
)
@pytest.mark.parametrize("team", [1, 3])
def test_equals_float64(
    groups: int,
    channels: int,
    run: int,
    clusters: int,
    dtype: torch.dtype,
    squared: bool,
    scaled: bool,
    counted: str,
    steps: int,
    team: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(team)
    given = points(groups, channels, run, dtype, scaled, counted)
    start = torch.linspace(-2, 2, clusters, dtype=F64).view(1, -1, 1).repeat(groups, 1, 1)
    grad = drawn(*given.rows.shape, seed=5).to(dtype)
    rule = Rule(8 / clusters**2 if squared else 2 / clusters, squared)
    ours = results(given, start, grad, rule, steps)
    exact = results(widened(given), start, grad, rule, steps)
    again = results(given, start, grad, rule, steps)
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))
    monkeypatch.setattr(points_module, "row_passes_for", lambda *key: None)
    tiled = results(given, start, grad, rule, steps)
    for one, other, expected in zip(ours, tiled, exact, strict=True):
        # beside the rounding of the dtype, no more than twice what torch's float32 costs
        inherent = apart(other, expected)
        assert apart(one, expected) < torch.finfo(one.dtype).eps / 2 + 2 * inherent


def test_attention_below_the_floor_is_that_of_float64() -> None:
    # logits down to -4000: exponents beyond float32's range, and gradients that the floor stops
    given = points(1, 3, 300, F32, False, "column")
    start, grad = torch.linspace(-3, 3, 8, dtype=F64).view(1, -1, 1), drawn(1, 900, 1, seed=5)
    ours = results(given, start, grad.float(), Rule(0.01, True), 1)
    expected = results(widened(given), start, grad.float(), Rule(0.01, True), 1)
    for one, other in zip(ours, expected, strict=True):
        assert apart(one, other) < 3e-5  # of logits that large float32 keeps so many digits


def test_without_a_gradient_of_its_own_an_update_adds_to_what_is_there() -> None:
    given = points(1, 3, 300, F32, True, "row column")
    start = torch.linspace(-2, 2, 8).view(1, -1, 1)
    path = run_updates(given, start, Rule(0.1, True), 3, None)
    stopped = Path(path.states, path.masses, torch.tensor(2))  # as if the last had not run
    stopped.states[3] = stopped.states[2]
    grad, out = drawn(1, 900, 1, seed=5).float(), torch.empty(1, 900, 1)
    pull(given, stopped, Rule(0.1, True), grad, out)
    two = run_updates(given, start, Rule(0.1, True), 2, None)
    expected = torch.empty_like(out)
    pull(given, two, Rule(0.1, True), grad, expected)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_what_is_not_finite_is_not_hidden(value: float, dtype: torch.dtype) -> None:
    given = points(1, 1, 300, dtype, False, "")
    given.rows[0, 17] = value
    start, grad = torch.linspace(-2, 2, 8).view(1, -1, 1), drawn(1, 300, 1, seed=5)
    for result in results(given, start, grad, Rule(0.1, True), 1):
        assert result.isnan().all()


@pytest.mark.parametrize(
    ("device", "work", "clusters", "dim", "served"),
    [
        ("cpu", F32, 256, 1, True),
        ("cpu", F64, 8, 1, False),
        ("cpu", F32, 257, 1, False),
        ("cpu", F32, 8, 2, False),
        ("cuda", F32, 8, 1, False),
    ],
)
def test_who_is_served(
    device: str, work: torch.dtype, clusters: int, dim: int, served: bool
) -> None:
    passes = row_passes_for(torch.device(device), work, clusters, dim)
    assert (passes is not None) == served
    assert not served or isinstance(passes, RowPasses)


@pytest.mark.parametrize("edges", [0, 1, 2, 3, 7, 100, 254, 255])
@pytest.mark.parametrize("count", [1, 255, 1000])
def test_places_among_edges_are_torchs(edges: int, count: int) -> None:
    borders = drawn(edges, seed=1).float().sort().values
    above = borders.nextafter(torch.tensor(torch.inf))
    infinite = torch.tensor([torch.inf, -torch.inf])
    values = torch.cat([borders, above, infinite, drawn(count, seed=2).float()])
    find = bucketize_for(values.device, values.dtype, edges)
    assert find is not torch.bucketize
    assert torch.equal(find(values, borders), torch.bucketize(values, borders))
    values.untyped_storage().resize_(0)  # not refused: FSDP2 must be able to


def test_other_places_are_found_by_torch() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for device, dtype, edges in ((cpu, F64, 7), (cuda, F32, 7), (cpu, F32, 256)):
        assert bucketize_for(device, dtype, edges) is torch.bucketize
