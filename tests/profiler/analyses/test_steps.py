"""What a run has to look at."""

from __future__ import annotations

from pathlib import Path

from profiler.analyses.steps import RecordedStep, contents
from profiler.events import MemorySample, Step, Total
from tests.profiler.analyses.runs import float32, run_of


def test_steps_that_saved_ranks_and_rows(tmp_path: Path) -> None:
    saves = [float32(0, 1, [4], step=2), float32(1, 1, [4], step=2, rank=1)]
    steps = [Step(step=2, name="M", peak_bytes=7), Step(step=2, rank=1, peak_bytes=9), Step(step=3)]
    with run_of(tmp_path / "run", saves, steps, [Total(step=4)], [MemorySample()]) as run:
        found = contents(run)
    assert [each.step for each in found.steps] == [2, 4]
    assert found.steps[0].peak_bytes == 9
    assert found.steps[1] == RecordedStep(step=4)
    assert found.ranks == [0, 1]
    assert (found.tables["saves"], found.tables["memory"], found.tables["nodes"]) == (2, 1, 0)


def test_an_empty_run_has_nothing(tmp_path: Path) -> None:
    with run_of(tmp_path / "run") as run:
        found = contents(run)
    assert (found.steps, found.ranks, set(found.tables.values())) == ([], [], {0})
