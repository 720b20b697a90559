"""The report of a run: ledger, duplicates and traffic of one step, together and as text.

Contract: `report` computes, `report_text` only formats; what is not known is a dash; simulated
copies are called simulated.
Boundary: the ablation of one layer has a report of its own (profiler.reports.text).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from profiler.analyses import Duplicates, Ledger, Traffic, duplicates, ledger, traffic
from profiler.analyses.common import Result
from profiler.analyses.fold import fold
from profiler.analyses.ledger import Balance, Entry
from profiler.events import ROOT
from profiler.query import Run
from profiler.reports.units import NOTHING, format_bytes


@dataclass(frozen=True, kw_only=True)
class Report(Result):
    """One step of one run."""

    run: str
    note: str | None
    ledger: Ledger
    duplicates: Duplicates
    traffic: Traffic


def report(run: Run, step: int | None = None) -> Report:
    """Return the report of a step (the last one with saves); ValueError for an unknown step."""
    return Report(
        run=str(run.path),
        note=run.note,
        ledger=ledger(run, step),
        duplicates=duplicates(run, step),
        traffic=traffic(run, step),
    )


def report_text(found: Report, top: int = 15) -> RenderableType:
    """Return what rich prints; `top` lines per table, the rest folded into one."""
    name = f" ({found.ledger.name})" if found.ledger.name else ""
    parts: list[RenderableType] = [Text(f"{found.run}, step {found.ledger.step}{name}")]
    if found.note:
        parts.append(Text(f"note: {found.note}", style="yellow"))
    if not found.ledger.total.saves:
        return Group(*parts, Text("Nothing was saved: is the level full, and did backward run?"))
    parts.append(_ledger_table(found.ledger, top))
    parts += [Text(line) for line in balance_lines(found.ledger.balances)]
    parts += [Text(f"limit: {limit}", style="yellow") for limit in found.ledger.limits]
    parts.append(_duplicates_part(found.duplicates, top))
    parts.append(_traffic_part(found.traffic))
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    return table


def _ledger_table(found: Ledger, top: int) -> Table:
    table = _table(
        "What autograd saved", "module", "saves", "logical", "parameters", "aliased", "unique",
        "on host",
    )  # fmt: skip
    for name, entry in _folded(fold_ledger(found.modules), top):
        table.add_row(*_entry_cells(entry, name))
    table.add_section()
    table.add_row(*_entry_cells(found.total, "total"), style="bold")
    return table


def fold_ledger(entries: Sequence[Entry]) -> list[tuple[str, Entry]]:
    """Lines of a ledger with equal layers added up: (name, sums), the largest first."""
    lines = fold(entries, lambda e: e.module, lambda e: replace(e, module=""))
    folded = [(line.label or ROOT, _sum(line.members)) for line in lines]
    return sorted(folded, key=lambda line: -line[1].unique_bytes)


def _sum(entries: Sequence[Entry]) -> Entry:
    names = [name for name, kind in Entry.__annotations__.items() if kind == "int"]
    return replace(
        entries[0], **{name: sum(getattr(entry, name) for entry in entries) for name in names}
    )


def _folded(lines: list[tuple[str, Entry]], top: int) -> Iterable[tuple[str, Entry]]:
    """The largest lines, and one for all others so that they add up to the total."""
    if len(lines) <= top + 1:
        return lines
    rest = [entry for _, entry in lines[top:]]
    return [*lines[:top], (f"({len(rest)} others)", _sum(rest))]


def _entry_cells(entry: Entry, label: str) -> list[Text]:
    sizes = (
        entry.logical_bytes, entry.param_bytes, entry.aliased_bytes, entry.unique_bytes,
        entry.host_bytes,
    )  # fmt: skip
    return [Text(label), Text(f"{entry.saves}"), *(Text(format_bytes(size)) for size in sizes)]


def balance_lines(found: Sequence[Balance]) -> list[str]:
    """What was allocated at the fullest moment, and what for: a line per rank."""
    return [_balance_line(one, f"rank {one.rank}, " * (len(found) > 1)) for one in found]


def _balance_line(found: Balance, rank: str) -> str:
    named = (
        ("parameters", found.param_bytes), ("gradients", found.grad_bytes),
        ("optimizer", found.optimizer_bytes), ("saved", found.saved_bytes),
        ("temporary", found.temp_bytes), ("unexplained", found.unexplained_bytes),
    )  # fmt: skip
    parts = " + ".join(f"{name} {_signed(size)}" for name, size in named)
    total = format_bytes(found.allocated_bytes)
    return f"fullest moment ({rank}{found.phase}, {found.device}): {total} = {parts}"


def _signed(count: int) -> str:
    return f"-{format_bytes(-count)}" if count < 0 else format_bytes(count)


def _duplicates_part(found: Duplicates, top: int) -> RenderableType:
    if not found.groups:
        return Text("No storage was saved twice.")
    table = _table(
        "Saved more than once", "first saved by", "times", "storage", "repeated", "wasted",
    )  # fmt: skip
    for group in found.groups[:top]:
        first = group.members[0]
        what = " ".join(text for text in (first.module, first.op) if text)
        place = "\n".join(text for text in (what, first.source) if text) or NOTHING
        table.add_row(
            Text(place), Text(f"{len(group.members)}"), Text(format_bytes(group.storage_bytes)),
            Text(format_bytes(group.repeated_bytes)), Text(format_bytes(group.wasted_bytes)),
        )  # fmt: skip
    line = (
        f"{len(found.groups)} storages; copying every save would send "
        f"{format_bytes(found.repeated_bytes)} again, {format_bytes(found.wasted_bytes)} was"
    )
    return Group(table, Text(line))


def _traffic_part(found: Traffic) -> RenderableType:
    if not found.totals:
        return Text("Nothing crossed between device and host.")
    table = _table("Traffic", "direction", "copies", "bytes", "rate")
    for flow in found.totals:
        labels = [name for name in ("simulated", "peer") if getattr(flow, name)]
        name = flow.direction + (f" ({', '.join(labels)})" if labels else "")
        rate = flow.bytes_per_second
        speed = NOTHING if rate is None else f"{format_bytes(round(rate))}/s"
        table.add_row(Text(name), Text(f"{flow.copies}"), Text(format_bytes(flow.bytes)), speed)
    unused = f"sent and never asked for: {format_bytes(found.unused_bytes)}"
    return Group(table, Text(unused))
