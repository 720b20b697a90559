"""The ablation as text: a table beside the paper's figures, and a histogram of hops.

Contract: `ablation.json` in, rich renderables out; the caller prints them. One table where the
console is wide enough, else two (bytes, cost): no figure is ever cut.
Boundary: formats only. A figure that the run lacks is a dash, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from profiler import paper
from profiler.reports.ablation_view import AblationView, Row, view
from profiler.reports.units import (
    NOTHING,
    format_error,
    format_factor,
    format_mib,
    format_seconds,
)

_BYTES = (
    "host\nMiB", "paper\nMB", "factor\n", "paper\n", "D2H\nMiB", "H2D\nMiB", "peers\nMiB",
    "peak\nMiB",
)  # fmt: skip
_COST = ("forward\ns", "backward\ns", "paper\n~s", "max\nhops", "gradient\nerror")
_Cells = Callable[[Row], tuple[str, ...]]

_BAR = "\N{FULL BLOCK}"
_BAR_WIDTH = 24


def ablation_report(ablation: Mapping[str, Any]) -> RenderableType:
    """Table, hops and notes of one ablation, ready for `rich.console.Console.print`.

    Raises:
        ValueError: the ablation has no readable rows.
    """
    seen = view(ablation)
    parts: list[RenderableType] = [_AblationTable(seen)]
    hops = _hops(seen)
    if hops is not None:
        parts.append(hops)
    parts += [Text(note, style="dim") for note in _notes(seen)]
    return Group(*parts)


def ablation_table(ablation: Mapping[str, Any]) -> RenderableType:
    """One line per configuration, the paper's figures beside ours."""
    return _AblationTable(view(ablation))


def hops_table(ablation: Mapping[str, Any]) -> Table | None:
    """How many operations lay between a tensor and the copy that served it; None without data."""
    return _hops(view(ablation))


@dataclass(frozen=True, slots=True)
class _AblationTable:
    """Chooses one table or two when the width is known."""

    seen: AblationView

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = _table(self.seen, self.seen.title, _BYTES + _COST, _all_cells)
        if console.measure(whole, options=options.update(width=500)).minimum <= options.max_width:
            yield whole
            return
        yield _table(self.seen, self.seen.title, _BYTES, _bytes)
        yield _table(self.seen, "Cost", _COST, _cost)


def _table(seen: AblationView, title: str, headers: tuple[str, ...], cells: _Cells) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("row\n", no_wrap=True)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for row in seen.rows:
        table.add_row(row.name, *cells(row))
    return table


def _all_cells(row: Row) -> tuple[str, ...]:
    return _bytes(row) + _cost(row)


def _bytes(row: Row) -> tuple[str, ...]:
    theirs = row.paper
    return (
        format_mib(row.host_bytes),
        NOTHING if theirs is None else str(theirs.host_mib),
        format_factor(row.reduction),
        NOTHING if theirs is None else format_factor(theirs.reduction),
        format_mib(row.d2h_bytes),
        format_mib(row.h2d_bytes),
        format_mib(row.peer_bytes),
        format_mib(row.peak_bytes),
    )


def _cost(row: Row) -> tuple[str, ...]:
    theirs = row.paper
    return (
        format_seconds(row.forward_s),
        format_seconds(row.backward_s),
        NOTHING if theirs is None else f"~{theirs.approximate_runtime_s:g}",
        str(row.max_hops) if row.hops else NOTHING,
        format_error(row.grad_rel_error),
    )


def _hops(seen: AblationView) -> Table | None:
    rows = [row for row in seen.rows if row.hops]
    if not rows:
        return None
    table = Table(
        title="Duplicates found, by hops", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for header in ("row", "hops", "tensors", "", "found by"):
        table.add_column(header, justify="right" if header in ("hops", "tensors") else "left")
    most = max(1, *(max(row.hops.values()) for row in rows))
    for row in rows:
        for index, (hops, tensors) in enumerate(row.hops.items()):
            name, finders = (row.name, _finders(row)) if index == 0 else ("", "")
            table.add_row(name, str(hops), str(tensors), _bar(tensors, most), finders)
    return table


def _bar(tensors: int, most: int) -> str:
    return _BAR * max(1, round(_BAR_WIDTH * tensors / most)) if tensors else ""


def _finders(row: Row) -> str:
    return ", ".join(f"{name} {tensors}" for name, tensors in sorted(row.finders.items()))


def _notes(seen: AblationView) -> list[str]:
    notes = [*seen.simulated]
    notes.append("factor: host bytes of the row none over this row's.")
    notes.append(f"paper: {paper.SOURCE}; its MB are 2**20 bytes. ~s: {paper.RUNTIME_NOTE}.")
    if seen.differences:
        notes.append(
            f"Not the paper's setting ({'; '.join(seen.differences)}): "
            "compare the reductions, not the bytes."
        )
    return notes
