"""The text report: every figure beside the paper's, nothing cut, nothing guessed."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from profiler.reports.ablation_view import view
from profiler.reports.text import ablation_report, ablation_table, hops_table
from tests.profiler.reports import samples


def rendered(renderable: RenderableType, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_no_figure_is_cut(width: int) -> None:
    text = rendered(ablation_report(samples.ablation()), width)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for figure in ("1600.0", "544.0", "132.2x", "129.9x", "~8.67", "~14.9", "1.7e-03", "84.9"):
        assert figure in text


def test_wide_console_gets_one_table() -> None:
    wide = rendered(ablation_table(samples.ablation()), 200)
    narrow = rendered(ablation_table(samples.ablation()), 80)
    assert len([line for line in wide.splitlines() if line.startswith(" M+U+S")]) == 1
    assert len([line for line in narrow.splitlines() if line.startswith(" M+U+S")]) == 2


def test_rows_come_in_the_one_order_whatever_the_file_says() -> None:
    shuffled = view(samples.ablation(("fused", "M+U+S", "none", "M")))
    assert [row.name for row in shuffled.rows] == ["none", "M", "M+U+S", "fused"]


def test_missing_figures_are_dashes() -> None:
    bare: dict[str, Any] = {"rows": [{"name": "none", "host_bytes": 8192}]}
    line = next(
        line
        for line in rendered(ablation_table(bare), 200).splitlines()
        if line.startswith(" none")
    )
    assert "0.0078" in line
    assert line.count("\N{EN DASH}") == 8  # all but host, paper x3 and peers


def test_hops_are_counted_per_row() -> None:
    table = hops_table(samples.ablation(("none", "M")))
    assert table is not None
    text = rendered(table, 100)
    assert text.count("\N{FULL BLOCK}") == 24 + 24 + 12
    assert "graph 1, storage 4" in text
    assert hops_table(samples.ablation(("none",))) is None


def test_what_is_simulated_is_said() -> None:
    text = rendered(ablation_report(samples.ablation()), 200)
    assert "Simulated host" in text
    assert "Simulated learners" in text
    measured = {**samples.ablation(), "simulated_host": False, "simulated_learners": False}
    assert "Simulated" not in rendered(ablation_report(measured), 200)


def test_another_setting_is_not_compared_by_bytes() -> None:
    small = {**samples.ablation(), "learners": 4, "matrices": [], "shape": [64, 64]}
    text = rendered(ablation_report(small), 300)
    assert "learners 4 instead of 8" in text
    assert "matrix 64 x 64 instead of one 4096 x 4096" in text
    assert "Not the paper's setting" not in rendered(ablation_report(samples.ablation()), 300)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, "rows is missing or empty"),
        ({"rows": []}, "rows is missing or empty"),
        ({"rows": [{"name": "M"}]}, "lacks name or host_bytes"),
        ({"rows": [{"name": "M", "host_bytes": 1}] * 2}, "occurs twice"),
    ],
)
def test_a_broken_ablation_says_what_is_wrong(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ablation_report(broken)
