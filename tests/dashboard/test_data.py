"""Runs are listed, opened and explained, and nothing outside the folder is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dashboard.data import RunsFolder, runs_folder
from dashboard.panels.record import PRESETS
from dashboard.panels.switches import request_like
from dashboard.words import command_line, literal
from profiler.layers import PRESETS as KNOWN
from tests.dashboard.runs import write_ablation, write_run
from tests.profiler.reports import samples


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


def test_a_complete_run_has_rows_and_pictures(root: Path) -> None:
    write_ablation(root, "a", samples.ablation())
    summary = RunsFolder(root).load("a")
    assert summary.problem is None
    assert summary.note is None
    assert summary.closed
    assert summary.ablation is not None
    assert len(summary.ablation.rows) == 6
    assert set(summary.pictures) == {"graph", "host_bytes"}


def test_newest_with_rows_is_the_latest(root: Path) -> None:
    write_ablation(root, "old", samples.ablation(), created="2026-01-01T00:00:00Z")
    write_ablation(root, "new", samples.ablation(("none",)), created="2026-01-02T00:00:00Z")
    write_run(root, "newest", created="2026-01-03T00:00:00Z", closed=False)
    folder = RunsFolder(root)
    assert folder.names() == ["newest", "new", "old"]
    assert folder.latest() == "new"


def test_nothing_there_is_no_error(tmp_path: Path) -> None:
    folder = runs_folder(tmp_path / "missing")
    assert folder.names() == []
    assert folder.latest() is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../outside", "a/b", "/etc", "link", "a\0b", "a/../../outside"]
)
def test_names_never_leave_the_folder(root: Path, name: str) -> None:
    write_ablation(root.parent, "outside", samples.ablation())
    (root / "link").symlink_to(root.parent / "outside")
    folder = RunsFolder(root)
    assert folder.names() == []
    with pytest.raises(ValueError, match="not a folder directly inside"):
        folder.path(name)
    assert folder.load(name).ablation is None


def test_a_picture_that_links_outside_is_not_shown(root: Path) -> None:
    run = write_ablation(root, "a", samples.ablation())
    secret = root.parent / "secret.png"
    secret.write_bytes(b"not for you")
    (run / "pictures" / "graph.png").unlink()
    (run / "pictures" / "graph.png").symlink_to(secret)
    assert set(RunsFolder(root).load("a").pictures) == {"host_bytes"}


def test_a_run_reached_through_a_linked_root_is_fine(root: Path) -> None:
    write_ablation(root, "a", samples.ablation())
    (root.parent / "linked").symlink_to(root)
    assert RunsFolder(root.parent / "linked").load("a").problem is None


def test_what_is_broken_is_explained(root: Path) -> None:
    write_run(root, "killed", closed=False)
    write_run(root, "training")
    write_run(root, "garbled").joinpath("ablation.json").write_text("{")
    write_run(root, "rowless").joinpath("ablation.json").write_text('{"rows": []}')
    write_run(root, "odd").joinpath("ablation.json").write_text('{"rows": [{"name": 1}]}')
    (root / "torn").mkdir()
    (root / "torn" / "run.json").write_text('{"schema"')
    folder = RunsFolder(root)
    problems = {name: folder.load(name).problem or "" for name in folder.names()}
    assert "stopped before its first row" in problems["killed"]
    assert "Only `python -m profiler.trace" in problems["training"]
    assert "cannot be read" in problems["garbled"]
    assert "rows is missing or empty" in problems["rowless"]
    assert "lacks name or host_bytes" in problems["odd"]
    assert "run.json" in problems["torn"]


def test_a_partial_run_shows_what_it_has(root: Path) -> None:
    write_ablation(root, "partial", samples.ablation(("none", "M")), closed=False)
    summary = RunsFolder(root).load("partial")
    assert summary.ablation is not None
    assert [row.name for row in summary.ablation.rows] == ["none", "M"]
    assert "not closed" in (summary.note or "")


def test_names_are_text() -> None:
    assert literal("**a** [b](c) <i> $x$ :red[y]") == (
        r"\*\*a\*\* \[b\]\(c\) \<i\> \$x\$ \:red\[y\]"
    )
    assert literal("two\nlines") == "two lines"
    assert command_line(["--out", "a b; c"]) == "python -m profiler.trace --out 'a b; c'"


def test_a_missing_row_is_recorded_like_the_others_but_only_for_presets() -> None:
    raw = samples.ablation()
    request = request_like({"model": "llama-1b"}, raw, ("none", "U"))
    assert request is not None
    assert request.arguments("x") == [
        "--layer", "attn0", "--model", "llama-1b", "--configs", "none,U", "--bits", "3",
        "--iterations", "1", "--learners", "8", "--out", "x",
    ]  # fmt: skip
    assert request_like({"model": "/a/checkpoint"}, raw, ("U",)) is None
    assert request_like({}, raw, ("U",)) is None
    assert request_like({"model": "llama-7b"}, {**raw, "layer": "--force"}, ("U",)) is None


def test_the_offered_sizes_exist() -> None:
    assert set(PRESETS) <= set(KNOWN)


def test_the_folder_is_read_as_data_only(root: Path) -> None:
    run = write_run(root, "a")
    (run / "ablation.json").write_text(json.dumps({"rows": "not a list", "layer": ["x"]}))
    assert "rows is missing" in (RunsFolder(root).load("a").problem or "")
