"""Two runs side by side as text: totals, then the changes with their causes.

Contract: a `Diff` in, a rich renderable out; b - a with its sign; folded lines add up.
Boundary: formats only.
"""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from profiler.analyses.diff import Change, Diff, Side
from profiler.events import ROOT
from profiler.reports.units import NOTHING, format_bytes

_MODULES = 3  # named per line
TOTALS = (
    ("saves", "saves"), ("saved in the step", "device_bytes"), ("on host", "host_bytes"),
    ("to host", "d2h_bytes"), ("to device", "h2d_bytes"), ("peak", "peak_bytes"),
)  # fmt: skip


def diff_text(found: Diff, top: int = 15) -> RenderableType:
    """Return what rich prints; `top` changes, the rest in one line."""
    parts: list[RenderableType] = [
        Text(f"{mark}: {side.run}, step {side.step} {side.name}".rstrip())
        for mark, side in (("a", found.a), ("b", found.b))
    ]
    parts.append(_totals(found))
    if not found.changes:
        return Group(*parts, Text("Every module saves the same in both."))
    table = Table(title="Changes, b - a", title_justify="left", box=box.SIMPLE_HEAD)
    for place, column in enumerate(("module", "phase", "operation", "why", "device", "host")):
        table.add_column(column, justify="right" if place > 3 else "left", overflow="fold")
    for change in found.changes[:top]:
        table.add_row(*map(Text, cells(change)))
    if rest := found.changes[top:]:
        device, host = sum(c.device_bytes for c in rest), sum(c.host_bytes for c in rest)
        table.add_row(f"({len(rest)} others)", "", "", "", signed(device), signed(host))
    return Group(*parts, table, Text(f"{found.equal_modules} modules save the same in both."))


def cells(change: Change) -> tuple[str, str, str, str, str, str]:
    """What a table says of one change."""
    names = [name or ROOT for name in change.modules[:_MODULES]]
    more = len(change.modules) - len(names)
    where = ", ".join(names) + (f" and {more} more" if more else "")
    device, host = signed(change.device_bytes), signed(change.host_bytes)
    return where, change.phase, change.op or NOTHING, change.cause, device, host


def signed(count: int) -> str:
    """Bytes with their sign; a dash for no change."""
    if not count:
        return NOTHING
    return ("+" if count > 0 else "-") + format_bytes(abs(count))


def total_cells(found: Diff, name: str) -> tuple[str, str, str]:
    """A total of a, of b, and their difference."""
    a, b = (getattr(side, name) for side in (found.a, found.b))
    if name == "saves":
        return str(a), str(b), f"{b - a:+d}" if b != a else NOTHING
    change = NOTHING if a is None or b is None else signed(b - a)
    return format_bytes(a), format_bytes(b), change


def _totals(found: Diff) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for column in ("a", "b", "b - a"):
        table.add_column(column, justify="right")
    for label, name in TOTALS:
        table.add_row(label, *total_cells(found, name))
    for label, name in (("forward", "forward_ns"), ("backward and after", "backward_ns")):
        table.add_row(label, *(_seconds(side, name) for side in (found.a, found.b)), "")
    return table


def _seconds(side: Side, name: str) -> str:
    value = getattr(side, name)
    return NOTHING if value is None else f"{value / 1e9:.3g} s"
