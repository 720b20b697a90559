"""The pictures: written twice, alike each time, with every figure on them and no label cut."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure

from profiler.reports import bars, canvas, graph_picture, timeline
from profiler.reports.bars import draw_host_bytes
from profiler.reports.duplicates import found_by
from profiler.reports.graph_picture import draw_graph
from profiler.reports.rows import plain
from profiler.reports.timeline import draw_memory
from tests.profiler.reports import samples

Draw = Callable[[Path], tuple[Path, Path]]


def _graph(stem: Path) -> tuple[Path, Path]:
    nodes, edges, saves = samples.graph()
    aliases = found_by(plain(saves), plain(samples.marshaled_saves()))
    return draw_graph(nodes, edges, saves, stem, aliases=aliases)


DRAW: dict[str, Draw] = {
    "bars": lambda stem: draw_host_bytes(samples.ablation(), stem),
    "graph": _graph,
    "memory": lambda stem: draw_memory(*samples.timeline(), stem),
}


@pytest.mark.parametrize("name", DRAW)
def test_a_png_and_an_svg_that_do_not_change(name: str, tmp_path: Path) -> None:
    first = DRAW[name](tmp_path / "first")
    again = DRAW[name](tmp_path / "again")
    assert [path.name for path in first] == ["first.png", "first.svg"]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    png = first[0].read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert width >= 1000
    assert height >= 600
    assert first[1].read_text().rstrip().endswith("</svg>")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were about to be written."""
    seen: list[Figure] = []

    def keep(figure: Figure, stem: Any) -> tuple[Path, Path]:
        seen.append(figure)
        return canvas.write(figure, stem)

    for module in (bars, graph_picture, timeline):
        monkeypatch.setattr(module, "write", keep)
    return seen


def texts(figure: Figure) -> list[str]:
    found = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    return [text for text in found if text.strip()]


@pytest.mark.parametrize("name", DRAW)
def test_no_label_leaves_the_page(name: str, figures: list[Figure], tmp_path: Path) -> None:
    DRAW[name](tmp_path / name)
    (figure,) = figures
    box = figure.get_tightbbox()  # inches, texts included
    width, height = figure.get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def test_bars_carry_measured_and_paper_figures(figures: list[Figure], tmp_path: Path) -> None:
    draw_host_bytes(samples.ablation(), tmp_path / "bars")
    words = texts(figures[0])
    assert "544.0 MiB   2.9x" in words
    assert "544 MB   2.9x" in words
    assert "12 MB   129.9x" in words
    assert any(word.startswith("Simulated host") for word in words)


def test_bars_of_another_setting_leave_the_paper_out(figures: list[Figure], tmp_path: Path) -> None:
    draw_host_bytes({**samples.ablation(), "iterations": 3}, tmp_path / "bars")
    words = texts(figures[0])
    assert not any(word.endswith("129.9x") for word in words)
    assert "No bars of the paper: iterations 3 instead of 1." in words


def test_a_row_with_nothing_on_the_host_is_drawn(figures: list[Figure], tmp_path: Path) -> None:
    data = samples.ablation(("none", "fused"))
    data["rows"][1].update(host_bytes=0, reduction=None)
    draw_host_bytes(data, tmp_path / "bars")
    assert "0 MiB   nothing on the host" in texts(figures[0])


def test_the_graph_tells_every_group(figures: list[Figure], tmp_path: Path) -> None:
    _graph(tmp_path / "graph")
    words = texts(figures[0])
    assert words.count("A  256 MiB") == 4
    assert words.count("B  256 MiB") == 2
    assert words.count("C  32 MiB") == 2
    assert "12 tensors saved, 1600 MiB; 544 MiB would do" in words


def test_a_large_graph_is_folded_and_says_so(figures: list[Figure], tmp_path: Path) -> None:
    nodes, edges, saves = samples.graph()
    draw_graph(nodes, edges, saves, tmp_path / "graph", limit=6)
    assert any("Drawn: 6 nodes; 10 smaller ones folded, " in word for word in texts(figures[0]))


def test_bands_carry_the_rows_names(figures: list[Figure], tmp_path: Path) -> None:
    draw_memory(*samples.timeline(), tmp_path / "memory")
    words = texts(figures[0])
    assert {"none", "M", "M+S", "M+U", "M+U+S", "fused", "backward begins"} <= set(words)


def test_an_unfinished_run_is_drawn_as_far_as_it_went(tmp_path: Path) -> None:
    samples_, steps = samples.timeline()
    steps[1].forward_end_ns = steps[1].end_ns = None
    png, _ = draw_memory(samples_[:30], steps[:2], tmp_path / "memory")
    assert png.is_file()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda stem: draw_memory([], [], stem), "memory: 0 samples"),
        (lambda stem: draw_graph([], [], [], stem), "nodes: 0 rows"),
        (lambda stem: draw_host_bytes({}, stem), "rows is missing"),
    ],
)
def test_nothing_to_draw_is_an_error_with_a_remedy(
    draw: Draw, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "x")
