"""A plan as a table: what one training step would hold, by what is tracked.

Contract: the mapping of a Plan in, a rich table out; every figure is called predicted.
Boundary: prints nothing and computes nothing but sums and shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_GIB = 1 << 30
_LINES = (
    ("parameters", "predicted_param_bytes"),
    ("gradients, at their fullest", "predicted_grad_bytes"),
    ("optimizer state", "predicted_optimizer_bytes"),
    ("saved for backward, at its fullest", "predicted_saved_bytes"),
)


def plan_report(plan: Mapping[str, Any]) -> RenderableType:
    """Table and notes of one plan."""
    tuning = "full fine-tuning" if plan["lora"] is None else f"LoRA of rank {plan['lora']}"
    title = (
        f"{plan['model']}, {tuning}, {plan['batch']} x {plan['length']} tokens, "
        f"{plan['dtype']}, {plan['optimizer']}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("predicted, not measured")
    table.add_column("GiB", justify="right")
    for name, key in _LINES:
        table.add_row(name, f"{plan[key] / _GIB:.2f}")
    table.add_section()
    table.add_row("peak of all of these together", f"{plan['predicted_peak_bytes'] / _GIB:.2f}")
    notes = (
        f"{plan['saves']:,} tensors saved for backward. The parts are not full at the same "
        "moment: saved tensors are freed while gradients arrive.",
        "Not in it: temporaries inside an operation, library workspaces, fragmentation.",
    )
    return Group(table, *(Text(note, style="dim") for note in notes))
