"""The run folder as a place: ranks, names, settings, and what is never overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from profiler.events import (
    Save,
    Step,
)
from profiler.query import open_run
from profiler.store import RunWriter


def test_run_json_is_there_before_the_first_row_and_says_what_the_contract_names(
    tmp_path: Path,
) -> None:
    with RunWriter(tmp_path / "run", {"command": "x", "model": "llama", "level": "full"}) as writer:
        before = json.loads((tmp_path / "run/run.json").read_text())
        writer.describe(model="llama-7b")
    after = json.loads((tmp_path / "run/run.json").read_text())
    assert before["closed"] is False and after["closed"] is True
    assert before["schema"] == 1 and before["command"] == "x" and before["ranks"] == 1
    assert set(before["versions"]) >= {"python", "torch", "edkm", "profiler"}
    assert set(before["hardware"]) >= {"cpu", "cores", "memory_bytes", "gpu"}
    assert set(before) >= {"argv", "model", "switches", "level", "created"}
    assert after["model"] == "llama-7b" and after["ended"] >= after["created"]


def test_several_ranks_share_a_folder(tmp_path: Path) -> None:
    writers = [RunWriter(tmp_path / "run", rank=r, world_size=3) for r in (1, 0, 2)]
    for writer in writers:
        writer.add(Save(save_id=1))
        writer.add(Step(step=4))
        writer.flush()
        writer.add(Save(save_id=1, unpacked_count=1))
    for writer in writers[:2]:
        writer.close()
    run = open_run(tmp_path / "run")
    assert run.note == "rank 2 not closed; last step 4" and not run.closed
    writers[2].close()
    assert run.note is None and run.closed
    rows = run.sql("SELECT rank, unpacked_count FROM saves ORDER BY rank").to_pylist()
    assert rows == [{"rank": r, "unpacked_count": 1} for r in range(3)]
    assert (tmp_path / "run/rank-002/saves").is_dir()


def test_ranks_replace_a_run_with_force_in_any_order(tmp_path: Path) -> None:
    for rank in range(3):
        RunWriter(tmp_path / "run", rank=rank, world_size=3).close()
    for rank in (1, 0):
        with RunWriter(tmp_path / "run", rank=rank, world_size=2, force=True) as writer:
            writer.add(Save(save_id=5))
    run = open_run(tmp_path / "run")
    assert run.closed and len(run.table("saves")) == 2
    assert not (tmp_path / "run/rank-002").exists()


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"not empty, and nothing is overwritten; .*--force"):
        RunWriter(tmp_path)
    with pytest.raises(ValueError, match=r"holds no run .* left alone"):
        RunWriter(tmp_path, force=True)
    (tmp_path / "run.json").write_text('{"of": "another program"}')
    with pytest.raises(ValueError, match="holds no run"):
        RunWriter(tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_force_replaces_a_run(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        writer.add(Save(save_id=1))
        writer.write_json("ablation.json", {"rows": []})
    with pytest.raises(ValueError, match="--force"):
        RunWriter(tmp_path / "run")
    with RunWriter(tmp_path / "run", force=True) as writer:
        writer.add(Step(step=1))
    run = open_run(tmp_path / "run")
    assert len(run.table("saves")) == 0 and run.ablation is None and len(run.steps) == 1


def test_force_does_not_follow_links_out_of_the_folder(tmp_path: Path) -> None:
    RunWriter(tmp_path / "run").close()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    (tmp_path / "run/link").symlink_to(tmp_path / "precious")
    RunWriter(tmp_path / "run", force=True).close()
    assert (tmp_path / "precious/file").exists() and not (tmp_path / "run/link").exists()


def test_a_file_and_an_unwritable_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="which is a file"):
        RunWriter(tmp_path / "file")
    with pytest.raises(ValueError, match=r"cannot be written \(.*\); choose another"):
        RunWriter(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="cannot be written"):
        RunWriter("/proc/nothing/run")


@pytest.mark.parametrize("name", ["run.json", "../x.json", "a/b.json", "x.txt", "/tmp/x.json"])
def test_only_plain_json_names_are_written(tmp_path: Path, name: str) -> None:
    with RunWriter(tmp_path / "run") as writer:
        with pytest.raises(ValueError, match="must be a plain"):
            writer.write_json(name, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flush_rows": 0}, "flush_rows: got 0"),
        ({"flush_seconds": 0}, "flush_seconds: got 0"),
        ({"rank": 2, "world_size": 2}, "rank: got 2 of world_size 2"),
    ],
)
def test_senseless_settings_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RunWriter(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_program_may_change_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with RunWriter("run") as writer:
        writer.add(Save(save_id=1))
        monkeypatch.chdir(tmp_path / "elsewhere")
        writer.write_json("ablation.json", {})
    run = open_run(tmp_path / "run")
    assert run.closed and run.ablation == {} and len(run.table("saves")) == 1
    assert not list((tmp_path / "elsewhere").iterdir())
