"""One page that says all of a run: self-contained HTML, to keep, send and open anywhere.

Contract: a single file without scripts that asks the network for nothing (its own policy forbids
it); whatever a run named stays text. With a second run it holds the differences too.
Boundary: asks the analyses and puts sections together; how they look is in the html_* modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from profiler.analyses.common import rows_of
from profiler.analyses.diff import diff
from profiler.analyses.lint import lint
from profiler.analyses.timeline import timeline
from profiler.analyses.whatif import WhatIf, what_if
from profiler.query import Run
from profiler.report import Report, report
from profiler.reports import html_sections as sections
from profiler.reports.html_elements import paragraph, text, tiles
from profiler.reports.html_style import STYLE
from profiler.reports.units import NOTHING, format_bytes

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html_report(run: Run, other: Run | None = None, step: int | None = None) -> str:
    """Return the page of a step (the last with saves); ValueError for an unknown step.

    other: a second run to compare with, as `b` of the diff.
    """
    found = report(run, step)
    number = found.ledger.step
    lints = lint(run, step)
    at = {"step": number}
    balances = found.ledger.balances
    memory = timeline(run, rank=balances[0].rank if balances else 0, step=number, bins=500)
    steps = rows_of(run, "FROM steps WHERE step = $step ORDER BY rank LIMIT 1", at)
    parts = [
        _tiles(found, len(lints.findings), steps),
        sections.lint_section(lints),
        sections.memory_section(memory),
        sections.ledger_section(found.ledger),
        sections.duplicates_section(found.duplicates),
        sections.traffic_section(found.traffic),
        sections.whatif_section(_predicted(run, number)),
    ]
    if other is not None:
        parts.append(sections.diff_section(diff(run, other, step)))
    return _page(run, found, parts, other is not None)


def write_html(page: str, path: Path, *, force: bool = False) -> Path:
    """Write the page; ValueError when the file exists without force, or cannot be written."""
    if path.exists() and not force:
        raise ValueError(
            f"file: got {str(path)!r}, which exists, and nothing is overwritten; "
            "choose another name or use --force"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"file: got {str(path)!r}, which cannot be written ({reason}); choose another"
        ) from error
    return path


def _predicted(run: Run, step: int) -> WhatIf | str:
    try:
        return what_if(run, step=step)
    except ValueError as error:
        return f"Nothing can be predicted: {error}"


def _tiles(found: Report, findings: int, steps: Sequence[dict[str, Any]]) -> str:
    total = found.ledger.total
    peak = steps[0]["peak_bytes"] if steps else None
    moved = found.traffic.bytes("d2h")
    return tiles([
        ("saved for backward", format_bytes(total.unique_bytes), f"{total.saves} saves, each "
         "storage once"),
        ("saved again", format_bytes(found.duplicates.repeated_bytes), "bytes of storages that "
         "were saved before"),
        ("peak on the device", NOTHING if peak is None else format_bytes(peak), "of tracked "
         "storages, in this step"),
        ("sent to the host", format_bytes(moved) if moved else NOTHING, "copies of saved tensors"),
        ("findings", f"{findings}", "of lint, in the whole run" if findings else "lint is clean"),
    ])  # fmt: skip


def _page(run: Run, found: Report, parts: Sequence[str], with_diff: bool) -> str:
    name = found.ledger.name
    step = f"step {found.ledger.step}" + (f" ({name})" if name else "")
    links = ["Lint", "Memory", "Ledger", "Duplicates", "Traffic", "What if"]
    links += ["Diff"] if with_diff else []
    nav = "".join(f'<a href="#{one.lower().replace(" ", "-")}">{one}</a>' for one in links)
    note = paragraph(f"Note: {found.note}", "warning-line") if found.note else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(run.path.name)}: saved for backward</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{text(run.path.name)}</h1><p class=meta>{text(_about(run, step))}</p>"
        f"{note}<nav>{nav}</nav>{''.join(parts)}"
        "<footer>Eager autograd only: under torch.compile the partitioner decides what is saved. "
        "Sizes are 2**20 bytes a MiB. Made by python -m profiler html.</footer>"
        "</main></body></html>\n"
    )


def _about(run: Run, step: str) -> str:
    info = run.info
    versions = info.get("versions")
    torch = versions.get("torch") if isinstance(versions, dict) else None
    words = [step, f"level {info.get('level', NOTHING)}", f"created {info.get('created', NOTHING)}"]
    words += [f"torch {torch}"] if torch else []
    words += [f"program {info['program']}"] if info.get("program") else []
    return "; ".join(words)
