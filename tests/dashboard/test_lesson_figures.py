"""The lessons' figures against independent calculations: counting, formulas, other gradients."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dashboard.lessons import bus, clustering, devices, kmeans, offloading, saves, storages
from dashboard.panels.lesson import source
from edkm.dkm import gradient_reference

MIB = 2**20
SHOWN: list[Callable[..., Any]] = [
    saves.saved_by, storages.bytes_of, devices.sent_to_host, offloading.run_offloaded,
    kmeans.gradient_through, clustering.held_for_backward,
]  # fmt: skip


@pytest.mark.parametrize("function", SHOWN, ids=lambda each: each.__name__)
def test_the_code_that_is_shown_is_short(function: Callable[..., Any]) -> None:
    lines = [line for line in source(function).splitlines() if line.strip()]
    assert len(lines) <= 10


def shown(function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the lesson with the function that the shown text defines."""
    module = importlib.import_module(function.__module__)
    names = dict(vars(module))
    exec(source(function), names)
    assert names[function.__name__] is not function
    monkeypatch.setattr(module, function.__name__, names[function.__name__])


def test_the_shown_text_gives_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def figures() -> list[Any]:
        return [
            saves.measure_all(256), storages.table_1(64), devices.copies(views(), 2),
            offloading.measure(16, 32), kmeans.clustered(3, 0.1), clustering.compare(64),
        ]  # fmt: skip

    before = figures()
    for function in SHOWN:
        shown(function, monkeypatch)
    assert figures() == before


def views() -> str:
    return devices.PROGRAMS["views of x"]


@pytest.mark.parametrize("program", devices.PROGRAMS.values(), ids=list(devices.PROGRAMS))
def test_without_marshaling_every_saved_tensor_crosses(program: str) -> None:
    names = devices.inputs()

    def run() -> torch.Tensor:
        exec(program, names)
        result: torch.Tensor = names["y"]
        return result

    seen, _ = saves.saved_by(run)
    x = names["x"].untyped_storage().data_ptr()
    found = devices.copies(program, None)
    assert found.host_bytes == sum(tensor.nbytes for tensor in seen)
    assert sum(found.of("x")) == sum(t.nbytes for t in seen if t.untyped_storage().data_ptr() == x)
    storages_kept = {t.untyped_storage().data_ptr() for t in seen}
    best = devices.copies(program, 4)
    assert best.host_bytes <= len(storages_kept) * MIB
    assert found.exact and best.exact


def test_a_view_is_found_as_far_away_as_it_was_made() -> None:
    copied = [len(devices.copies(views(), hops).of("x")) for hops in range(5)]
    assert copied == [3, 2, 2, 1, 1]  # x.t() is one operation away, the view of a view three
    assert [save.hops for save in devices.copies(views(), 4).saves] == [None, 1, 3]


def test_a_limited_copy_is_computed_again() -> None:
    found = devices.copies(devices.PROGRAMS["a clamp of x"], 4)
    assert [(save.storage, save.action) for save in found.saves] == [
        ("x", "copied"), ("x", "alias"), ("b", "rebuilt"),
    ]  # fmt: skip


@pytest.mark.parametrize(("rows", "width"), [(16, 32), (32, 64)])
def test_a_layer_sends_two_tensors_and_multiplies_once(rows: int, width: int) -> None:
    found = offloading.measure(rows, width)
    for layer in found.layers:
        assert layer.saved_bytes == 2 * 4 * rows * width  # the input of Linear and that of GELU
        assert layer.forward_flops == 2 * rows * width**2
        assert layer.backward_flops == 2 * layer.forward_flops
    assert found.exact
    assert found.sent_bytes == found.fetched_bytes == offloading.LAYERS * 8 * rows * width


def two_layers(ahead: int) -> bus.SimulatedStep:
    layer = bus.Layer(saved_bytes=3, forward_flops=2, backward_flops=4)
    machine = bus.Machine(flops_per_second=1.0, bytes_per_second=1.0, ahead=ahead)
    return bus.simulate([layer, layer], machine)


def test_the_bus_by_hand() -> None:
    step = two_layers(ahead=0)
    assert [(span.lane, span.layer, span.start, span.end) for span in step.spans] == [
        (bus.COMPUTE, 0, 0, 2), (bus.TO_HOST, 0, 2, 5),
        (bus.COMPUTE, 1, 2, 4), (bus.TO_HOST, 1, 5, 8),
        (bus.BACK, 1, 8, 11), (bus.COMPUTE, 1, 11, 15),
        (bus.BACK, 0, 15, 18), (bus.COMPUTE, 0, 18, 22),
    ]  # fmt: skip
    assert (step.seconds, step.compute_seconds, step.copy_seconds) == (22, 12, 12)
    assert (step.hidden_seconds, step.forward_seconds) == (2, 4)
    ahead = two_layers(ahead=1)  # the first layer's bytes come while the second computes
    assert (ahead.seconds, ahead.hidden_seconds) == (19, 5)
    assert ahead.hidden == 5 / 12


def test_rows_hide_nothing_and_width_does() -> None:
    machine = bus.Machine(flops_per_second=4e12, bytes_per_second=16e9, ahead=1)
    few, many, wide = (
        bus.simulate(offloading.measure(rows, width).layers, machine).hidden
        for rows, width in ((16, 64), (64, 64), (16, 128))
    )
    assert many == pytest.approx(few, rel=1e-9)
    assert wide > 1.5 * few


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flops_per_second": 0.0}, "flops_per_second: got 0.0"),
        ({"bytes_per_second": -1.0}, "bytes_per_second: got -1.0"),
        ({"ahead": -1}, "ahead: got -1"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    fine: dict[str, Any] = {"flops_per_second": 1.0, "bytes_per_second": 1.0, "ahead": 0}
    with pytest.raises(ValueError, match=message):
        bus.Machine(**{**fine, **given})


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("multiple", [0.01, 0.3, 10.0])
def test_the_gradient_is_that_of_the_reference(bits: int, multiple: float) -> None:
    found = kmeans.clustered(bits, multiple)
    weights = kmeans.sample()
    start = kmeans.settled(weights, bits, found.tau)
    asked = torch.zeros_like(weights)
    asked[kmeans.ASKED] = 1.0
    wanted = gradient_reference(weights, start, asked, tau=found.tau).grad_weight
    torch.testing.assert_close(torch.tensor(found.gradient, dtype=torch.float64), wanted)
    assert sum(found.shares.values()) == pytest.approx(1.0)


def test_the_gradient_is_the_slope() -> None:
    found, weights = kmeans.clustered(3, 1.0), kmeans.sample()
    start = kmeans.settled(weights, 3, found.tau)
    for place in (0, kmeans.ASKED, 200):
        moved = []
        for step in (1e-7, -1e-7):
            shifted = weights.clone()
            shifted[place] += step
            result, _ = kmeans.gradient_through(shifted, start, found.tau, kmeans.ASKED)
            moved.append(result.clustered[kmeans.ASKED].item())
        slope = (moved[0] - moved[1]) / 2e-7
        assert slope == pytest.approx(found.gradient[place], rel=1e-4, abs=1e-8)


def test_cold_clustering_shares_the_gradient_evenly_in_its_cluster() -> None:
    found = kmeans.clustered(3, 0.01)
    pairs = zip(found.gradient, found.groups, strict=True)
    own = [gradient for gradient, group in pairs if group != "other clusters"]
    assert found.reach == "own cluster"
    assert own == pytest.approx([1 / len(own)] * len(own), rel=0.05)
    assert kmeans.clustered(3, 0.3).reach == "other clusters"
    assert found.hard[kmeans.ASKED] == pytest.approx(found.soft[kmeans.ASKED], rel=1e-3)


@pytest.mark.parametrize("side", [64, 128])
def test_edkm_keeps_what_the_formulas_say(side: int) -> None:
    found = clustering.compare(side)
    weights, clusters, learners = side * side, clustering.CLUSTERS, clustering.LEARNERS
    weight, mapped = 2 * weights, 2 * weights * clusters
    distinct = len(set(clustering.sample(side).view(torch.int16).flatten().tolist()))
    table, indices = 2 * distinct * clusters, 2 * weights
    assert found.distinct == distinct
    assert {row.name: row.host_bytes for row in found.rows} == {
        "none": 6 * mapped + 2 * weight,
        "M": 2 * mapped + weight,
        "M+S": (2 * mapped + weight) // learners,
        "M+U": 2 * (table + indices) + weight,
        "M+U+S": 2 * table + (2 * indices + weight) // learners,
        "fused": 65_536 * 8,
    }
    assert found.held("none") == 1600 / 32 * found.weight_bytes  # the paper's layer
    assert [row.exact for row in found.rows] == [True] * 5 + [False]
    assert found.rows[-1].gradient_error < 1e-4 < found.rows[0].gradient_error < 0.05
