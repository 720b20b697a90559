"""A step that is read once answers as the whole run does, and knows nothing of other steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboard.bundled import RECORDED
from profiler import open_run
from profiler.analyses.blocks import blocks, saves_between
from profiler.analyses.duplicates import duplicates
from profiler.analyses.lanes import lanes
from profiler.analyses.ledger import ledger
from profiler.analyses.levers import levers
from profiler.analyses.neighbourhood import neighbourhood, nodes_between
from profiler.analyses.places import operations, places, source_lines
from profiler.analyses.steprows import read_step
from profiler.analyses.traffic import traffic
from profiler.analyses.whatif import measured
from profiler.atstep import AtStep
from profiler.events import Save, Step
from profiler.query import RunError
from profiler.store import RunWriter

ABOUT_A_STEP: list[Callable[[Any, int], Any]] = [
    blocks, duplicates, lanes, ledger, levers, measured, operations, places, read_step,
    source_lines, traffic,
    lambda run, step: nodes_between(run, step, 0, 1 << 62, rank=0),
    lambda run, step: saves_between(run, step, 0, 1 << 62, rank=0),
    lambda run, step: neighbourhood(run, step, last_node(run, step), rank=0),
]  # fmt: skip


def last_node(run: Any, step: int) -> int:
    rows = run.sql("SELECT max(seq) AS seq FROM nodes WHERE step = ? AND rank = 0", [step])
    return int(rows.column("seq")[0].as_py())


@pytest.mark.parametrize("name", ["bundled-attn0", "bundled-offloaded", "bundled-two-ranks"])
def test_every_analysis_of_a_step_says_what_it_says_of_the_run(name: str) -> None:
    with open_run(RECORDED / name) as run:
        for step in [each.step for each in run.steps][:2]:
            at = AtStep(run, step)
            for number, analysis in enumerate(ABOUT_A_STEP):
                assert analysis(at, step) == analysis(run, step), number


def written(path: Path, *, parts: int) -> RunWriter:
    """A run whose part n holds saves 10 n to 10 n + 9 and step n."""
    writer = RunWriter(path, {"command": "test"}, flush_seconds=600)
    for part in range(parts):
        for number in range(10):
            writer.add(Save(save_id=10 * part + number, storage_id=number, step=part))
        writer.add(Step(step=part))
        writer.flush()
    return writer


def ids(rows: AtStep) -> list[int]:
    found: list[int] = rows.sql("SELECT save_id FROM saves ORDER BY 1").column(0).to_pylist()
    return found


def test_other_steps_are_not_there_and_parts_may_be_merged(tmp_path: Path) -> None:
    writer = written(tmp_path / "run", parts=3)
    with open_run(tmp_path / "run") as run:
        at, other = AtStep(run, 1), AtStep(run, 7)
        assert ids(at) == list(range(10, 20)) and ids(other) == []
        assert at.sql("SELECT step FROM steps").column("step").to_pylist() == [1]
        writer.close()  # merges what `at` has read, and what it has not
        assert ids(at) == list(range(10, 20))
        assert at.sql("SELECT count(*) AS n FROM storages").column("n").to_pylist() == [0]
        assert at.path == run.path and at.ablation is None


def test_only_a_select_is_answered(tmp_path: Path) -> None:
    written(tmp_path / "run", parts=1).close()
    with open_run(tmp_path / "run") as run:
        at = AtStep(run, 0)
        for query in ("DELETE FROM saves", "SELECT 1; SELECT 2"):
            with pytest.raises(RunError, match="one SELECT"):
                at.sql(query)
        assert len(ids(at)) == 10
