"""What comes with the dashboard: real runs, small, of no machine, shown while there is nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import profiler
from dashboard.bundled import RECORDED, RESULTS
from dashboard.bundled.__main__ import RUNS, copy_results
from dashboard.bundled.scrub import paths_left, scrub
from dashboard.quality import find_results
from profiler.analyses.steps import contents
from profiler.events import Save, Stack
from profiler.store import RunWriter

LIMIT = 1_500_000  # bytes of all of it


def test_every_run_of_the_script_is_there_and_whole() -> None:
    assert {path.name for path in profiler.list_runs(RECORDED)} == set(RUNS)
    for name in RUNS:
        run = profiler.open_run(RECORDED / name)
        assert run.closed
        assert run.note is None
        held = contents(run)
        assert held.tables["saves"] and held.tables["memory"] and held.tables["nodes"]
    assert len(contents(profiler.open_run(RECORDED / "bundled-two-ranks")).ranks) == 2
    assert len(profiler.open_run(RECORDED / "bundled-attn0").ablation["rows"]) == 9


def test_the_newest_is_the_plain_fine_tune() -> None:
    assert profiler.latest_run(RECORDED) == RECORDED / "bundled-finetune"


def test_it_is_small() -> None:
    files = [path for folder in (RECORDED, RESULTS) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT


@pytest.mark.parametrize("name", RUNS)
def test_it_names_no_machine(name: str) -> None:
    assert paths_left(RECORDED / name) == []


def test_every_result_can_be_read() -> None:
    found = find_results(RESULTS)
    assert found
    assert all(each.rows and each.problem is None for each in found)


def test_results_are_copied_by_what_is_in_them(tmp_path: Path) -> None:
    measured, into = tmp_path / "measured", tmp_path / "into"
    (measured / "run").mkdir(parents=True)
    into.mkdir()
    (into / "older.json").write_text("{}")
    row = {"method": "rtn", "bits": 4, "ppl": 8.5}
    (measured / "run" / "comparison.json").write_text(json.dumps({"rows": [row]}))
    (measured / "train_step.json").write_text(json.dumps({"benchmark": "train_step", "s": 1.0}))
    (measured / "empty.json").write_text("")
    assert copy_results([measured], into) == [into / "comparison_run.json"]
    (found,) = find_results(into)
    assert [(each.method, each.ppl) for each in found.rows] == [("rtn", 8.5)]
    with pytest.raises(ValueError, match="no row has a perplexity"):
        copy_results([measured / "train_step.json"], into)
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="no JSON file"):
        copy_results([tmp_path / "bare"], into)
    assert [path.name for path in into.iterdir()] == ["comparison_run.json"]


def _run(path: Path, frame: str) -> None:
    with RunWriter(path, {"argv": [frame]}) as writer:
        writer.add(Stack(stack_id=0, frames=[f"{frame}:1:main"]))
        writer.add(Save(save_id=0, storage_id=0))


def test_scrubbing_makes_known_paths_relative(tmp_path: Path) -> None:
    run, project = tmp_path / "out" / "run", tmp_path / "project"
    project.mkdir()
    _run(run, str(project / "train.py"))
    assert paths_left(run)
    scrub(run, project)
    assert paths_left(run) == []
    assert json.loads((run / "run.json").read_text())["argv"] == ["train.py"]
    opened = profiler.open_run(run)
    assert opened.note is None
    assert opened.table("stacks")["frames"].to_pylist() == [["train.py:1:main"]]
    assert len(opened.table("saves")) == 1


def test_scrubbing_refuses_a_path_that_it_does_not_know(tmp_path: Path) -> None:
    _run(tmp_path / "out" / "run", "/home/somebody/train.py")
    with pytest.raises(ValueError, match="still names '/home/somebody"):
        scrub(tmp_path / "out" / "run", tmp_path / "project")
