"""The pages that compare, over the bundled runs: right figures, shared by URL, explained limits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import profiler
from dashboard.bundled import RECORDED
from dashboard.panels.download import to_csv
from dashboard.quality import Quality, Results
from dashboard.views import optimizations_html, quality_html, whatif_html
from profiler.analyses.diff import diff
from profiler.analyses.levers import combinations
from profiler.analyses.whatif import Scenario, what_if
from profiler.reports.ablation_view import view
from profiler.reports.units import format_bytes, format_mib
from tests.dashboard.opening import metric, opened, words
from tests.dashboard.runs import write_ablation
from tests.profiler.reports import samples


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


def test_an_empty_folder_shows_what_came_along(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(root, "overview", monkeypatch)
    assert app.selectbox(key="run").value == "bundled-finetune"
    assert "Bundled runs: no run yet" in words(app)
    assert metric(app, "Peak, MiB").value not in ("", "0.0")
    assert not opened(root, "overview", monkeypatch, "--no-bundled").metric
    write_ablation(root, "mine", samples.ablation())
    mine = opened(root, "optimizations", monkeypatch)
    assert mine.selectbox(key="run").options == ["mine"]
    assert "Bundled" not in words(mine)


def test_runs_are_compared_by_their_steps(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(root, "compare_runs", monkeypatch, a="bundled-checkpointed")
    with profiler.open_run(RECORDED / "bundled-checkpointed") as a:
        with profiler.open_run(RECORDED / "bundled-finetune") as b:
            found = diff(a, b)
    assert found.a.peak_bytes is not None and found.b.peak_bytes is not None
    apart = format_bytes(found.b.peak_bytes - found.a.peak_bytes)
    assert app.title[0].value == f"Why is B {apart} higher than A?"
    assert metric(app, "Peak of B, MiB").value == format_mib(found.b.peak_bytes)
    assert metric(app, "Peak of B, MiB").delta == f"+{apart} to A"
    assert len(app.dataframe[0].value) == len(found.changes)
    assert len(app.get("vega_lite_chart")) == 3


def test_a_shared_address_opens_the_same_comparison(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened(
        root, "compare_runs", monkeypatch, run="bundled-offloaded", a="bundled-finetune",
        step="1", a_step="0",
    )  # fmt: skip
    assert app.selectbox(key="run").value == "bundled-offloaded"
    assert (app.selectbox(key="step").value, app.selectbox(key="a_step").value) == (1, 0)
    assert "lower than A" in app.title[0].value


def test_steps_of_one_run_are_compared(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(RECORDED / "bundled-attn0", root / "only")
    app = opened(root, "compare_runs", monkeypatch)
    assert app.selectbox(key="a").options == ["only"]
    assert "A is only, step 8 (fused)" in words(app).replace("*", "")


def test_levers_give_the_what_if_and_stand_beside_a_measurement(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened(
        root, "compare_whatif", monkeypatch, beside="bundled-checkpointed", budget="20"
    )  # fmt: skip
    scenario = Scenario(checkpoint=("model.layers.*",))
    with profiler.open_run(RECORDED / "bundled-finetune") as run:
        (one,) = what_if(run, [scenario]).predictions
    predicted = metric(app, "Predicted peak")
    assert predicted.value == format_bytes(one.predicted_peak_bytes)
    assert metric(app, "Measured beside it").value == predicted.value
    assert "It fits" in words(app)
    app.number_input(key="budget").set_value(10.0).run()
    assert "It does not fit" in words(app)
    app.selectbox(key="checkpoint").set_value("nothing").run()
    assert metric(app, "Predicted peak").value == format_bytes(what_if_peak(Scenario()))
    app.selectbox(key="offload").set_value("*").run()
    app.toggle(key="once").set_value(False).run()
    assert not app.exception
    assert metric(app, "Predicted peak").value == format_bytes(
        what_if_peak(Scenario(offload=("*",)))
    )


def what_if_peak(scenario: Scenario) -> int:
    with profiler.open_run(RECORDED / "bundled-finetune") as run:
        return what_if(run, [scenario]).predictions[0].predicted_peak_bytes


def test_all_combinations_are_there_and_what_is_missing_is_predicted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened(root, "optimizations", monkeypatch)
    assert "the newest that is: bundled-attn0" in words(app).replace("*", "")
    table = app.dataframe[0].value
    assert list(table["combination"][:5]) == ["none", "M", "M+S", "M+U", "M+U+S"]
    assert len(table) == 9
    assert set(table["is"]) == {"measured"}
    run = root / "five"
    shutil.copytree(RECORDED / "bundled-attn0", run)
    raw = json.loads((run / "ablation.json").read_text())
    raw["rows"] = [row for row in raw["rows"] if row["name"] not in ("U", "S", "U+S")]
    (run / "ablation.json").write_text(json.dumps(raw))
    app = opened(root, "optimizations", monkeypatch, S="true")
    assert list(app.dataframe[0].value["is"]).count("predicted only") == 3
    assert metric(app, "Host, MiB, predicted (what-if)").value == "200.0"
    assert "did not record S" in words(app)


def test_recording_can_be_switched_off(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in ("optimizations", "overview"):
        app = opened(root, page, monkeypatch, "--no-record", "--no-bundled")
        assert "switched off" in words(app)
        assert not [button for button in app.button if button.key == "record"]
    write_ablation(root, "attn0", samples.ablation())
    app = opened(root, "optimizations", monkeypatch, "--no-record", U="true")
    assert "did not record U" in words(app)
    assert not [button for button in app.button if button.key == "record_missing"]


def test_quality_shows_own_results_before_the_bundled(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened(root, "method_quality", monkeypatch)
    assert "Bundled results" in words(app)
    (root / "peers").mkdir()
    row = {"method": "rtn", "bits": 3, "ppl": 7.25, "size_bytes": 2**20, "status": "ok"}
    failed = {"method": "awq", "bits": 3, "status": "failed", "error": "too small"}
    (root / "peers" / "comparison.json").write_text(json.dumps({"rows": [row, failed]}))
    app = opened(root, "method_quality", monkeypatch)
    assert app.selectbox(key="results").value == "peers/comparison.json"
    assert metric(app, "Perplexity").value == "7.250"
    assert list(app.dataframe[0].value["status"]) == ["ok", "too small"]


def test_clustering_follows_its_sliders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(root, "method_clustering", monkeypatch, bits="2")
    assert metric(app, "Hard").value == "4"
    before = metric(app, "Softly clustered").value
    app.select_slider(key="tau").set_value(0.03).run()
    assert int(metric(app, "Softly clustered").value) < int(before)
    assert not app.exception


def test_data_is_csv_and_text_stays_text() -> None:
    records = [{"a": "=1+1", "b": -1.5}, {"a": 'x, "y"', "c": None}]
    assert to_csv(records) == 'a,b,c\n\'=1+1,-1.5,\n"x, ""y""",,\n'


def test_views_are_one_file_without_scripts() -> None:
    with profiler.open_run(RECORDED / "bundled-attn0") as run:
        assert run.ablation is not None
        raw = {**run.ablation, "layer": "<script>alert(1)</script>"}
        seen, predicted = view(raw), combinations(run)
    with profiler.open_run(RECORDED / "bundled-finetune") as run:
        found = what_if(run)
    results = Results(name="<b>", rows=(Quality(method="<i>", ppl=5.0, error="<u>"),))
    for page in (
        optimizations_html("T", seen, predicted), whatif_html("T", "<p>", found),
        quality_html("T", results),
    ):  # fmt: skip
        assert page.startswith("<!doctype html>")
        assert "default-src 'none'" in page
        for mark in ("<script", "http://", "https://", "<i>", "<u>", "src="):
            assert mark not in page
    assert "at most 98.0" in optimizations_html("T", seen, predicted)
    assert "predicted" in whatif_html("T", "p", found)
