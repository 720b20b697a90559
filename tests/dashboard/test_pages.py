"""Every page over every kind of run: it answers, or explains why it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from profiler.analyses import duplicates, ledger, traffic
from profiler.query import open_run
from profiler.reports.units import NOTHING, format_mib
from tests.dashboard import opening
from tests.dashboard.opening import APP, words
from tests.dashboard.runs import write_run

PAGES = sorted(path.stem for path in (APP.parent / "app_pages").glob("[a-z]*.py"))
EXPLORE = [
    name
    for name in ("overview", "timeline", "where", "duplicates", "graph", "traffic")
    if name in PAGES
]


def opened(root: Path, page: str, monkeypatch: pytest.MonkeyPatch, **query: str) -> AppTest:
    return opening.opened(root, page, monkeypatch, "--no-bundled", **query)


def metric(app: AppTest, label: str) -> str:
    value: str = opening.metric(app, label).value
    return value


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("run", ["attn0", "script"])
def test_every_page_opens_over_a_recorded_run(
    page: str, run: str, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened(recorded, page, monkeypatch, run=run)
    assert len(app.title) == 1
    assert app.selectbox(key="run").value == run


@pytest.mark.parametrize("page", EXPLORE)
def test_the_url_chooses_the_step(
    page: str, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened(recorded, page, monkeypatch, run="attn0", step="3: M+U")
    assert app.selectbox(key="step").value == 3
    assert app.selectbox(key="step").options[3] == "3: M+U"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_explains_an_empty_folder(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened(tmp_path, page, monkeypatch)
    if page in EXPLORE:
        assert "No run yet" in words(app)
        assert app.button(key="record").label == "Record the attn0 ablation"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_explains_a_broken_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text('{"schema": 1, ')
    app = opened(tmp_path, page, monkeypatch)
    if page in EXPLORE:
        assert "This run cannot be shown" in words(app)
        assert "run.json" in words(app)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_explains_a_run_without_rows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, "bare", closed=False)
    app = opened(tmp_path, page, monkeypatch)
    if page in EXPLORE:
        assert "may still be going on" in words(app)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_what_a_killed_run_left(
    page: str, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "killed"
    shutil.copytree(recorded / "script", folder)
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, "closed": False}))
    part = next((folder / "nodes").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    app = opened(tmp_path, page, monkeypatch)
    if page in EXPLORE:
        assert "not closed" in words(app)


def test_overview_shows_the_ledgers_figures(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened(recorded, "overview", monkeypatch, run="script", step="0")
    with open_run(recorded / "script") as run:
        seen, found = ledger(run, 0), duplicates(run, 0)
    assert metric(app, "Saved, MiB") == format_mib(seen.total.unique_bytes)
    assert metric(app, "Repeated, MiB") == format_mib(found.repeated_bytes)
    assert metric(app, "Peak, MiB") == format_mib(seen.balances[0].allocated_bytes)
    assert f"**{len(found.groups)}** storages were saved more than once" in words(app)
    assert len(app.get("vega_lite_chart")) == 1


def test_duplicates_shows_the_tensors_of_the_costliest_storage(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened(recorded, "duplicates", monkeypatch, run="script", step="0")
    with open_run(recorded / "script") as run:
        group = duplicates(run, 0).groups[0]
    assert f"storage {group.storage_id}" in app.subheader[0].value
    assert list(app.dataframe[1].value["relation"]) == [m.relation for m in group.members]


def test_names_of_modules_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from profiler.events import Module
    from tests.profiler.analyses.runs import float32, run_of

    name = "<b>x</b> **y**"
    saves = [float32(0, 1, [64], module=name, op="X"), float32(1, 1, [64], module=name, op="X")]
    run_of(tmp_path / "odd", saves, [Module(module=name, kind="`k`")]).close()
    app = opened(tmp_path, "overview", monkeypatch)
    said = "\n".join(each.value for each in app.markdown)
    assert r"\<b\>x" in said
    assert "<b>" not in said


def test_graph_changes_its_detail(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(recorded, "graph", monkeypatch, run="script", step="0")
    before = words(app)
    app.segmented_control(key="depth").set_value(1).run()
    assert not app.exception
    assert "leaves" in before
    assert words(app) != before


def test_traffic_says_what_is_simulated(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(recorded, "traffic", monkeypatch, run="script", step="1")
    with open_run(recorded / "script") as run:
        seen = traffic(run, 1)
    assert metric(app, "D2H, MiB") == format_mib(seen.bytes("d2h"))
    assert metric(app, "D2H, MiB/s") == NOTHING
    assert "no bus was crossed" in words(app)
    assert "Nothing crossed" in words(opened(recorded, "traffic", monkeypatch, step="0"))
