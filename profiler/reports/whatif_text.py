"""Predictions beside measurements as text.

Contract: a `WhatIf` in, a rich renderable out. A predicted figure is never shown without the word;
a measured one stands below it with its difference.
Boundary: formats only.
"""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from profiler.analyses.whatif import Measured, Prediction, WhatIf
from profiler.reports.units import NOTHING, format_bytes

FIGURES = ("peak", "device", "host", "peer", "d2h", "h2d")
HEADERS = ("peak", "kept on device", "on host", "at peers", "to host", "to device")


def whatif_text(found: WhatIf) -> RenderableType:
    """Return what rich prints."""
    name = f" ({found.base.name})" if found.base.name else ""
    title = f"What if: predicted from step {found.base.step}{name} of {found.base.run}"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", overflow="fold")
    for header in HEADERS:
        table.add_column(header, justify="right")
    table.add_row(Text("measured, as recorded"), *_measured(found.base))
    for one in found.predictions:
        table.add_section()
        mark = " (at most)" if one.upper_bound else ""
        table.add_row(Text(f"predicted{mark}: {one.scenario}"), *_predicted(one))
        if one.beside is not None:
            label = f"measured: step {one.beside.step} {one.beside.name}".rstrip()
            table.add_row(Text(label), *_measured(one.beside, one), style="dim")
    notes = dict.fromkeys(note for one in found.predictions for note in one.assumes)
    return Group(table, *(Text(f"assumes: {note}", style="dim") for note in notes))


def deviation(one: Prediction, figure: str) -> float | None:
    """(predicted - measured) / measured; None without a measurement, of nothing, or of a bound."""
    if one.beside is None or one.upper_bound:
        return None
    real = getattr(one.beside, f"measured_{figure}_bytes")
    return (getattr(one, f"predicted_{figure}_bytes") - real) / real if real else None


def _predicted(one: Prediction) -> list[Text]:
    return [Text(format_bytes(getattr(one, f"predicted_{name}_bytes"))) for name in FIGURES]


def _measured(row: Measured, against: Prediction | None = None) -> list[Text]:
    cells = []
    for name in FIGURES:
        size = getattr(row, f"measured_{name}_bytes")
        off = deviation(against, name) if against is not None else None
        cells.append(Text(_size(size) + (f" ({off:+.1%})" if off is not None else "")))
    return cells


def _size(size: int | None) -> str:
    return NOTHING if size is None else format_bytes(size)
