"""The page of optimizations over a recorded run, no run, and broken runs: it explains."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.panels.record import recorder
from tests.dashboard.runs import write_ablation, write_run
from tests.profiler.reports import samples

APP = Path(__file__).parents[2] / "dashboard" / "app.py"
TITLE = "What does each optimization save, and what does it cost?"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setattr(sys, "argv", ["app.py", "--no-bundled", "--runs", str(folder)])
    return folder


def opened(**query: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    app.switch_page("app_pages/optimizations.py").run()
    assert not app.exception
    assert app.title[0].value == TITLE
    return app


def metric(app: AppTest, label: str) -> str:
    return next(each.value for each in app.metric if each.label == label)


def words(app: AppTest) -> str:
    parts = [*app.markdown, *app.warning, *app.info, *app.error, *app.caption, *app.code]
    return re.sub(r"\\(.)", r"\1", "\n".join(str(part.value) for part in parts))


def test_a_recorded_run_is_shown(root: Path) -> None:
    write_ablation(root, "attn0", samples.ablation())
    app = opened()
    assert app.selectbox(key="run").value == "attn0"
    assert metric(app, "Host, MiB") == "1600.0"
    assert len(app.get("vega_lite_chart")) == 3
    assert len(app.get("image")) == 1
    assert "Simulated host" in words(app)
    assert "Table 2" in words(app)


def test_toggles_choose_the_row(root: Path) -> None:
    write_ablation(root, "attn0", samples.ablation())
    app = opened()
    app.toggle(key="M").set_value(True).run()
    assert (metric(app, "Host, MiB"), metric(app, "Less by")) == ("544.0", "2.9x")
    app.toggle(key="U").set_value(True).run()
    app.toggle(key="S").set_value(True).run()
    assert (metric(app, "Host, MiB"), metric(app, "D2H, MiB")) == ("12.1", "97.0")
    app.toggle(key="fused").set_value(True).run()
    assert metric(app, "Host, MiB") == "32.0"
    assert app.toggle(key="M").disabled
    assert not app.exception


def test_fused_has_a_toggle_only_where_it_was_recorded(root: Path) -> None:
    write_ablation(root, "attn0", samples.ablation(("none", "M")))
    assert [toggle.label for toggle in opened().toggle] == ["M", "U", "S"]


def test_a_combination_that_was_not_recorded_comes_with_its_command(root: Path) -> None:
    write_ablation(root, "attn0", samples.ablation())
    app = opened()
    app.toggle(key="U").set_value(True).run()
    assert not app.exception
    assert "did not record U" in words(app)
    assert "--configs none,M,M+S,M+U,M+U+S,fused,U" in words(app)
    assert app.button(key="record_missing").label == "Record it"
    assert not app.metric


def test_the_url_holds_the_state(root: Path) -> None:
    write_ablation(root, "new", samples.ablation(), created="2026-01-02")
    write_ablation(root, "old", samples.ablation(("none", "M")), created="2026-01-01")
    assert opened().selectbox(key="run").value == "new"
    app = opened(run="old", M="true")
    assert app.selectbox(key="run").value == "old"
    assert metric(app, "Host, MiB") == "544.0"


@pytest.mark.parametrize("name", ["../outside", "gone", "<b>x</b>"])
def test_a_run_that_is_not_there_falls_back_to_the_latest(root: Path, name: str) -> None:
    write_ablation(root.parent, "outside", samples.ablation())
    write_ablation(root, "here", samples.ablation())
    assert opened(run=name).selectbox(key="run").value == "here"


def test_no_run_yet_offers_to_record_one(root: Path) -> None:
    app = opened()
    assert "No run yet" in words(app)
    assert app.button(key="record").label == "Record the attn0 ablation"
    assert "python -m profiler.trace --layer attn0 --model llama-7b" in words(app)
    app.selectbox(key="preset").set_value("llama-tiny").run()
    assert "--model llama-tiny" in words(app)


def test_a_folder_that_does_not_exist_is_like_an_empty_one(root: Path) -> None:
    root.rmdir()
    assert "No run yet" in words(opened())


@pytest.mark.parametrize(
    ("content", "explanation"),
    [
        (None, "stopped before its first row"),
        ("{", "cannot be read"),
        ('{"rows": []}', "rows is missing or empty"),
        ('{"rows": [7]}', "lacks name or host_bytes"),
    ],
)
def test_a_broken_run_is_explained(root: Path, content: str | None, explanation: str) -> None:
    run = write_run(root, "broken", closed=content is not None)
    if content is not None:
        (run / "ablation.json").write_text(content)
    assert explanation in words(opened())


def test_a_torn_run_file_is_explained(root: Path) -> None:
    (root / "torn").mkdir()
    (root / "torn" / "run.json").write_text('{"schema": 1, ')
    assert "This run cannot be shown" in words(opened())


def test_a_killed_run_shows_its_rows_and_says_so(root: Path) -> None:
    write_ablation(root, "killed", samples.ablation(("none", "M")), closed=False)
    app = opened(M="true")
    assert metric(app, "Host, MiB") == "544.0"
    assert "not closed" in words(app)


def test_a_run_with_the_least_figures_is_shown(root: Path) -> None:
    write_ablation(root, "bare", {"rows": [{"name": "none", "host_bytes": 2**20}]})
    app = opened()
    assert metric(app, "Forward, s") == "\N{EN DASH}"
    assert "No figures of the paper" in words(app)


def test_names_are_shown_as_text(root: Path) -> None:
    write_ablation(root, "attn0", {**samples.ablation(), "layer": "<b>x</b> **y**"})
    caption = next(each.value for each in opened().caption if "q" in each.value)
    assert r"\<b\>x" in caption
    assert r"\*\*y" in caption


def test_a_recording_is_made_shown_and_forgotten(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = write_ablation(tmp_path / "made", "done", samples.ablation(("none", "M")))
    script = tmp_path / "trace.py"
    script.write_text(
        "import shutil, sys\n"
        f"shutil.copytree({str(done)!r}, sys.argv[sys.argv.index('--out') + 1])\n"
    )
    owner = recorder(root)
    monkeypatch.setattr(owner, "command", (sys.executable, str(script)))
    app = opened()
    app.button(key="record").click().run()
    assert owner.current is not None
    folder = owner.current.folder
    assert owner.current.process.wait(60) == 0
    app.run()
    assert not app.exception
    assert owner.current is None
    assert app.selectbox(key="run").value == folder.name
    shutil.rmtree(folder)
    app.run()
    assert "No run yet" in words(app)


def test_a_failed_recording_shows_its_last_words(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = recorder(root)
    code = "import sys; print('error: memory 9 GiB: too little'); sys.exit(2)"
    monkeypatch.setattr(owner, "command", (sys.executable, "-c", code))
    app = opened()
    app.button(key="record").click().run()
    assert owner.current is not None
    owner.current.process.wait(60)
    app.run()
    assert not app.exception
    assert "The recording failed" in words(app)
    assert "memory 9 GiB: too little" in words(app)
    app.button(key="forget").click().run()
    assert "No run yet" in words(app)
