"""The lessons as a reader meets them: asked first, answered by what ran, then the own run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import altair as alt
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.charts.copies import copy_chart, copy_records, total_records
from dashboard.charts.held import held_chart, held_records
from dashboard.charts.lanes import Piece, Stretch, lane_chart, lane_records
from dashboard.charts.pulls import curve_chart, curve_records, pull_chart, pull_records
from dashboard.lessons import clustering, devices, kmeans
from tests.dashboard.test_pages import opened, words

MIB = 2**20
GROUNDS: Any = ["light", "dark"]
LESSONS = {  # page: (key of the guess, a wrong answer, the true one, charts before the guess)
    "learn_devices": ("guess-three layers read x", 1, 3, 0),
    "learn_offload": ("guess-offload", "a larger part", "the same part", 0),
    "learn_kmeans": ("guess-kmeans", "only that weight", "weights of other clusters too", 1),
    "learn_edkm": ("guess-edkm", 8, 50, 0),
}


def opened_at(page: str, root: Path, monkeypatch: pytest.MonkeyPatch, **query: str) -> AppTest:
    return opened(root, page, monkeypatch, **query)


def charts(app: AppTest) -> int:
    return len(app.get("vega_lite_chart"))


@pytest.mark.parametrize("page", LESSONS)
def test_a_lesson_asks_first_and_answers_truly(
    page: str, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, wrong, right, before = LESSONS[page]
    app = opened_at(page, recorded, monkeypatch, run="attn0")
    assert charts(app) == before
    assert "Choose an answer first" in words(app)
    app.radio(key=key).set_value(wrong).run()
    assert app.warning[0].value.startswith("Not so.")
    assert charts(app) == before + 1
    app.radio(key=key).set_value(right).run()
    assert app.success[0].value.startswith("Yes.")
    assert not app.exception
    assert "In your run" in [each.value for each in app.subheader]
    assert len(app.code) >= 1


def test_marshaling_looks_as_far_as_the_slider_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened_at("learn_devices", tmp_path, monkeypatch, program="views of x", hops="0")
    app.radio(key="guess-views of x").set_value(3).run()
    assert "**3 MiB**" in app.success[0].value
    app.select_slider(key="hops").set_value(3).run()
    assert "**1 MiB**" in app.success[0].value
    assert "bit by bit" in words(app)


def test_a_faster_bus_hides_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened_at("learn_offload", tmp_path, monkeypatch, giga="8", width="128")
    app.radio(key="guess-offload").set_value("the same part").run()
    slow = hidden(app)
    app.select_slider(key="giga").set_value(128).run()
    assert hidden(app) > slow
    assert all("simulated" in each.label for each in app.metric if each.value.endswith(("%", "x")))
    assert "(simulated bus)" in app.title[0].value


def hidden(app: AppTest) -> int:
    value = next(each.value for each in app.metric if each.label == "Hidden, simulated")
    return int(str(value).split()[0])


def test_temperature_changes_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened_at("learn_kmeans", tmp_path, monkeypatch, tau="0.03")
    app.radio(key="guess-kmeans").set_value("the weights of its cluster").run()
    assert app.success
    app.select_slider(key="tau").set_value(0.3).run()
    assert not app.exception
    assert app.warning[0].value.startswith("Not so.")


def test_the_own_run_comes_last(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened_at("learn_edkm", recorded, monkeypatch, run="attn0")
    rows = json.loads((recorded / "attn0" / "ablation.json").read_text())["rows"]
    shown = app.dataframe[-1].value
    assert list(shown["host MiB"]) == [round(row["host_bytes"] / MIB, 6) for row in rows]
    other = "script is no ablation of a layer. Here is the newest that is: **attn0**"
    assert other in words(opened_at("learn_edkm", recorded, monkeypatch, run="script"))
    app = opened_at("learn_kmeans", recorded, monkeypatch, run="attn0")
    assert len(app.dataframe[-1].value) == len(rows)
    assert other in words(opened_at("learn_kmeans", recorded, monkeypatch, run="script"))
    app = opened_at("learn_offload", recorded, monkeypatch, run="script", step="1")
    assert "0 % of that was hidden" in words(app)
    assert "what was there already" in words(
        opened_at("learn_devices", recorded, monkeypatch, run="script", step="1")
    )


def test_without_any_ablation_the_lesson_says_how_to_record_one(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(recorded / "script", tmp_path / "script")
    assert "is no ablation. Record" in words(opened_at("learn_edkm", tmp_path, monkeypatch))
    assert "clusters no weight" in words(opened_at("learn_kmeans", tmp_path, monkeypatch))


def test_an_ablation_that_is_damaged_is_none(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(recorded / "attn0", tmp_path / "odd")
    for text in ('{"rows": [7]}', '{"rows": 7, "tau": 3}', "{"):
        (tmp_path / "odd" / "ablation.json").write_text(text)
        assert "is no ablation" in words(opened_at("learn_edkm", tmp_path, monkeypatch))
        assert "clusters no weight" in words(opened_at("learn_kmeans", tmp_path, monkeypatch))


@pytest.mark.parametrize("ground", GROUNDS)
def test_every_copy_is_drawn_once(ground: Any) -> None:
    program = devices.PROGRAMS["three layers read x"]
    ways = {"all": devices.copies(program, None), "M": devices.copies(program, 4)}
    records = copy_records(ways)
    for way, found in ways.items():
        drawn = sum(r["end"] - r["start"] for r in records if r["way"] == way)
        assert drawn == found.host_bytes / MIB
    assert [r["which"] for r in records if r["storage"] == "x"] == [
        "first copy", "copied again", "copied again", "first copy",
    ]  # fmt: skip
    assert total_records(ways)[1]["label"] == "3 copies: all"
    alt.Chart.from_dict(copy_chart(ways, ground).to_dict())


@pytest.mark.parametrize("ground", GROUNDS)
def test_lanes_are_drawn_in_a_unit_that_suits_them(ground: Any) -> None:
    pieces = [Piece(lane="a", start=0.0, end=2e-4, about="one")]
    assert lane_records(pieces, 1e6)[0]["end"] == pytest.approx(200)
    stretches = [Stretch(name="forward", start=0.0, end=5e-4)]
    chart = lane_chart(pieces, stretches, {"a": "#123456", "b": "#654321"}, ground).to_dict()
    assert "microseconds" in json.dumps(chart)
    slow = [Stretch(name="forward", start=0.0, end=0.5)]
    assert "ms" in json.dumps(lane_chart(pieces, slow, {"a": "#123456"}, ground).to_dict())
    alt.Chart.from_dict(chart)


@pytest.mark.parametrize("ground", GROUNDS)
def test_weights_and_rows_are_drawn_as_computed(ground: Any) -> None:
    found = kmeans.clustered(2, 0.1)
    assert [r["gradient"] for r in pull_records(found)] == found.gradient
    assert [r["clustered"] for r in curve_records(found)] == found.hard + found.soft
    alt.Chart.from_dict(pull_chart(found, ground).to_dict())
    alt.Chart.from_dict(curve_chart(found, ground).to_dict())
    rows = clustering.Comparison(64, 8192, 9, [
        clustering.Held("none", 2 * MIB, True, 0.0), clustering.Held("M", MIB, True, 0.0),
        clustering.Held("fused", 4 * MIB, False, 0.0),
    ])  # fmt: skip
    assert [record["label"] for record in held_records(rows)] == [
        "2 MiB, all", "1 MiB, 2.0x less", "4 MiB, 2.0x more",
    ]  # fmt: skip
    alt.Chart.from_dict(held_chart(rows, ground).to_dict())


def test_neighbouring_pieces_and_late_names_are_told_apart() -> None:
    pieces = [Piece(lane=lane, start=i, end=i + 1, about="") for i in range(2) for lane in "ab"]
    stretches = [Stretch(name="early", start=0, end=9), Stretch(name="late", start=9, end=10)]
    drawn = lane_chart(pieces, stretches, {"a": "#123456", "b": "#654321"}, "light").to_dict()
    names, bars = (drawn["datasets"][drawn["layer"][i]["data"]["name"]] for i in (0, -1))
    assert [record["strength"] for record in bars] == [1.0, 1.0, 0.7, 0.7]
    assert [record["late"] for record in names] == [False, True]
