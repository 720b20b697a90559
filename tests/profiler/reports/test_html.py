"""The page: complete, offline, and deaf to whatever a run calls its modules."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

from profiler import Tracer, open_run
from profiler.events import MemorySample
from profiler.reports.html import html_report, write_html
from profiler.reports.html_elements import area, bar, text
from profiler.reports.units import MIB
from tests.profiler.analyses.runs import float32, run_of
from tests.profiler.exports.samples import HOSTILE, sample

VOID = {"meta", "line", "br", "polygon"}


class Page(HTMLParser):
    """Checks that elements close in order, and remembers what it saw."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        if "id" in values:
            self.ids.add(values["id"] or "")
        self.links += [values[n] or "" for n in ("href", "src") if n in values]
        assert not any(name.startswith("on") for name in values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def said(self) -> str:
        return " ".join(" ".join(self.words).split())


def traced(path: Path) -> None:
    model = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(3)])
    x = torch.randn(32, 64)
    copies = torch.autograd.graph.saved_tensors_hooks(lambda t: ("h", t.clone()), lambda p: p[1])
    with Tracer(path, model=model) as tracer, tracer.step(), copies:
        model(x).sum().backward()


def test_the_page_has_every_part_and_asks_for_nothing(tmp_path: Path) -> None:
    traced(tmp_path / "a")
    traced(tmp_path / "b")
    source = html_report(open_run(tmp_path / "a"), open_run(tmp_path / "b"))
    page = Page(source)
    parts = {"lint", "memory", "ledger", "duplicates", "traffic", "what-if", "diff"}
    assert parts == page.ids
    assert {link.lstrip("#") for link in page.links} == parts  # no link leaves the page
    assert not page.tags & {"script", "img", "link", "iframe", "object", "base", "form"}
    assert "default-src 'none'" in source and not re.search(r"url\(|@import|https?:", source)
    assert "prefers-color-scheme: dark" in source
    said = page.said()
    for words in ("parameter-offloaded", "1-2.0 (x2)", "predicted: ", "measured, as recorded",
                  "simulated", "unexplained", "saves the same in both"):  # fmt: skip
        assert words in said, words


def test_what_the_allocator_holds_beyond_the_known_is_drawn(tmp_path: Path) -> None:
    for held, shown in ((5, False), (9, True)):
        samples = [
            MemorySample(time_ns=time, allocated_bytes=held * MIB, param_bytes=5 * MIB)
            for time in (1, 2)
        ]
        run = run_of(tmp_path / str(held), [float32(1, 1, [2])], samples)
        section = html_report(run).partition("<h2>Memory")[2].partition("<h2>")[0]
        assert ("unexplained" in section) is shown and "parameters" in section


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    page = Page(html_report(sample(tmp_path / "run"), sample(tmp_path / "other")))
    assert "script" not in page.tags
    assert '<script>alert("x")</script>' in page.said()
    assert "\\x00" in page.said() and "\x00" not in page.said()
    assert text("\u202e\udcff<&") == "\\x202e\\udcff&lt;&amp;"
    assert HOSTILE not in html_report(open_run(tmp_path / "run"))


def test_a_run_without_rows_has_a_page_too(tmp_path: Path) -> None:
    said = Page(html_report(run_of(tmp_path / "run"))).said()
    assert "Nothing can be predicted" in said and "No findings" in said
    assert "No storage was saved twice" in said and "No memory samples" in said


def test_bars_and_areas_stay_in_their_frames() -> None:
    assert "width:100.00%" in bar(7.0, "red") and "width:0.00%" in bar(-1.0, "red")
    picture = area([("a", "red", [1.0, 3.0]), ("b", "blue", [2.0, 0.0])], [0.0, 1.0], unit="MiB")
    heights = [float(point.split(",")[1])
               for points in re.findall('points="([^"]+)"', picture)
               for point in points.split()]  # fmt: skip
    assert min(heights) >= 18 and max(heights) <= 226
    assert area([("a", "red", [1.0])], [0.0], unit="MiB") == ""
    assert area([("a", "red", [0.0, 0.0])], [0.0, 1.0], unit="MiB")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_html("a", tmp_path / "x/y.html")
    with pytest.raises(ValueError, match="--force"):
        write_html("b", tmp_path / "x/y.html")
    assert write_html("b", tmp_path / "x/y.html", force=True).read_text() == "b"
    with pytest.raises(ValueError, match="cannot be written"):
        write_html("b", tmp_path / "x/y.html/z")
