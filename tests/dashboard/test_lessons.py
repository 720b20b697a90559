"""The lessons' figures come from autograd and storages, and agree with what is known of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import altair as alt
import pytest
import torch
from streamlit.testing.v1 import AppTest

from dashboard.charts.lessons import kept_chart, kept_records, line_chart, line_records
from dashboard.lessons.saves import OPERATIONS, WIDTH, measure, measure_all, saved_by
from dashboard.lessons.storages import SECONDS, table_1

MIB = 2**20
TRUTH: dict[str, tuple[str, ...]] = {
    "x + 1": (),
    "x * x": ("input",),
    "torch.exp(x)": ("output",),
    "torch.relu(x)": ("output",),
    "F.gelu(x)": ("input",),
    "torch.softmax(x, -1)": ("output",),
    "x @ w": ("input", "weight"),
    "F.layer_norm(x, (256,))": ("input",),
    "F.dropout(x)": ("other",),
}
APP = Path(__file__).parents[2] / "dashboard" / "app.py"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.code)
def test_autograd_keeps_what_the_derivative_needs(operation: Any) -> None:
    for rows in (256, 1024):
        kept = measure(operation, rows)
        assert kept.owners == TRUTH[operation.code]
        assert kept.bytes["input"] in (0, 4 * rows * WIDTH)
        assert kept.bytes["weight"] in (0, 4 * WIDTH * WIDTH)


def test_what_is_saved_is_what_autograd_hands_over() -> None:
    x = torch.ones(3, requires_grad=True)
    kept, y = saved_by(lambda: x.exp())
    assert [torch.equal(tensor, y) for tensor in kept] == [True]


def test_the_first_lines_are_the_papers_table() -> None:
    lines = table_1(1024)
    assert [line.device // MIB for line in lines] == [4, 4, 4, 4]
    assert [line.host // MIB for line in lines] == [0, 0, 4, 8]
    assert [line.marshaled // MIB for line in lines] == [0, 0, 4, 4]


def test_a_slice_shares_and_a_contiguous_copy_does_not() -> None:
    size = 4 * 256 * 256
    sliced = table_1(256, "x0[: len(x0) // 2]")[-1]
    assert (sliced.device, sliced.host, sliced.marshaled) == (size, size * 3 // 2, size)
    copied = table_1(256, "x0.t().contiguous()")[-1]
    assert (copied.device, copied.host, copied.marshaled) == (2 * size, 2 * size, 2 * size)
    with pytest.raises(ValueError, match="second: got 'x0'"):
        table_1(256, "x0")


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_the_charts_draw_what_was_measured(ground: Any) -> None:
    found = measure_all(256)
    records = kept_records(found, "x @ w")
    drawn = {code: sum(r["mib"] for r in records if r["code"] == code) for code in TRUTH}
    assert drawn == {kept.code: sum(kept.bytes.values()) / MIB for kept in found}
    alt.Chart.from_dict(kept_chart(found, "x @ w", ground).to_dict())
    lines = table_1(1024)
    assert [r["mib"] for r in line_records(lines)[-3:]] == [4, 8, 4]
    assert "on the host, marshaled" in json.dumps(line_chart(lines, ground).to_dict())


@pytest.fixture
def app(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setattr(sys, "argv", ["app.py", "--runs", str(recorded)])
    return AppTest.from_file(str(APP), default_timeout=120).run()


def test_a_prediction_comes_before_the_answer(app: AppTest) -> None:
    app.switch_page("app_pages/learn_saves.py").run()
    assert not app.get("vega_lite_chart")
    app.radio(key="guess-torch.exp(x)").set_value("its input").run()
    assert "keeps **its result**" in app.warning[0].value
    assert len(app.get("vega_lite_chart")) == 1
    app.selectbox(key="operation").set_value("x @ w").run()
    assert not app.get("vega_lite_chart")
    app.radio(key="guess-x @ w").set_value("its input and the weight").run()
    assert app.success[0].value.startswith("Yes.")
    assert not app.exception


@pytest.mark.parametrize("second", SECONDS)
def test_the_answer_is_the_measured_one(app: AppTest, second: str) -> None:
    app.switch_page("app_pages/learn_storages.py").run()
    app.select_slider(key="side").set_value(256).run()
    app.selectbox(key="second").set_value(second).run()
    assert not app.get("vega_lite_chart")
    truth = table_1(256, second)[-1].host
    app.radio(key=f"guess-256-{second}").set_value(truth).run()
    assert not app.exception
    assert app.success[0].value.startswith("Yes.")
    assert len(app.get("vega_lite_chart")) == 1
