"""Levers and combinations: what can be asked, and that the answers are those of the what-if."""

from __future__ import annotations

from pathlib import Path

from profiler.analyses.levers import combinations, levers
from profiler.analyses.steprows import read_step
from profiler.analyses.whatif import Scenario, what_if
from profiler.events import Step, Storage
from tests.profiler.analyses.runs import float32, run_of

LAYER = "model.layers.{}.mlp.up"


def test_patterns_are_of_repeated_modules_and_all_match(tmp_path: Path) -> None:
    saves = [float32(i, i, [64, 64], module=LAYER.format(i)) for i in range(3)]
    saves.append(float32(3, 3, [1024, 64], module="model.head"))
    run = run_of(tmp_path / "run", saves)
    seen = levers(run, 0)
    assert seen.patterns == ["*", "model.layers.*", "model.layers.*.mlp"]
    assert not seen.offloaded
    for pattern in seen.patterns:
        what_if(run, [Scenario(offload=(pattern,))], 0)  # refuses one that nothing matches


def test_a_step_that_sent_something_says_so(tmp_path: Path) -> None:
    saves = [float32(0, 0, [64], action="copied", host_bytes=256)]
    assert levers(run_of(tmp_path / "run", saves), 0).offloaded


def test_eight_combinations_are_predicted_from_the_row_none(tmp_path: Path) -> None:
    saves = [
        float32(i, 0, [512, 8], action="copied", host_bytes=512 * 32, unpacked_count=1)
        for i in range(2)
    ]
    run = run_of(tmp_path / "run", saves, [Step(step=0, name="none")])
    seen = combinations(run)
    assert seen is not None
    assert [row.name for row in seen.rows] == ["none", "M", "U", "S", "M+U", "M+S", "U+S", "M+U+S"]
    sizes = {row.name: row.predicted_host_bytes for row in seen.rows}
    whole = 512 * 32
    assert (sizes["none"], sizes["M"]) == (2 * whole, whole)
    assert (sizes["S"], sizes["M+S"]) == (2 * whole // 8, whole // 8)


def test_without_a_row_none_nothing_is_predicted(tmp_path: Path) -> None:
    saves = [float32(0, 0, [64], action="copied", host_bytes=256)]
    assert combinations(run_of(tmp_path / "run", saves, [Step(step=0, name="M")])) is None


def test_a_step_has_the_storages_that_lived_in_it_and_the_saved_ones(tmp_path: Path) -> None:
    lives = {0: (0, 5), 1: (0, 15), 2: (12, None), 3: (25, 30), 4: (0, 5)}
    storages = [
        Storage(storage_id=n, bytes=64, born_ns=born, died_ns=died)
        for n, (born, died) in lives.items()
    ]
    step = Step(step=0, start_ns=10, end_ns=20)
    run = run_of(tmp_path / "run", [float32(0, 4, [16])], storages, [step])
    assert [row["storage_id"] for row in read_step(run, 0).storages] == [1, 2, 4]
