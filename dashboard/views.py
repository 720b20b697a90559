"""What a page shows as one self-contained HTML file: no script, nothing fetched.

Contract: built from the same results as the page, with the profiler's own elements, so that
whatever a run named stays text; predicted figures carry that word.
Boundary: strings; no Streamlit and no files.
"""

from __future__ import annotations

from collections.abc import Sequence

from dashboard.panels.figures import table as figure_rows
from dashboard.quality import Results
from dashboard.theme import method_colour, row_colour
from profiler.analyses.levers import Combinations
from profiler.analyses.whatif import WhatIf
from profiler.reports.ablation_view import AblationView
from profiler.reports.html_elements import bar, paragraph, section, table, text
from profiler.reports.html_sections import whatif_section
from profiler.reports.html_style import STYLE
from profiler.reports.units import NOTHING, format_bytes, format_mib

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, about: str, parts: Sequence[str]) -> str:
    """A whole page of ready sections."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{text(title)}</h1><p class=meta>{text(about)}</p>{''.join(parts)}"
        "<footer>Sizes are 2**20 bytes a MiB.</footer></main></body></html>\n"
    )


def optimizations_html(title: str, seen: AblationView, predicted: Combinations | None) -> str:
    """Host bytes measured, predicted and the paper's; then every figure."""
    most = max((row.host_bytes for row in seen.rows), default=0) or 1
    guess = {one.name: one for one in predicted.rows} if predicted else {}
    lines = []
    for name in [row.name for row in seen.rows] + [n for n in guess if seen.row(n) is None]:
        row, one = seen.row(name), guess.get(name)
        size = row.host_bytes if row else one.predicted_host_bytes if one else 0
        paper = row.paper if row is not None and not seen.differences else None
        said = NOTHING if one is None else format_mib(one.predicted_host_bytes)
        lines.append((
            text(name), bar(size / most, row_colour(name), hatched=row is None),
            text(format_mib(row.host_bytes if row else None)),
            text(f"at most {said}" if one is not None and one.upper_bound else said),
            text(paper.host_mib if paper else NOTHING),
        ))  # fmt: skip
    heads = ("configuration", "", "measured, MiB", "predicted, MiB", "paper, MB")
    note = "Of one learner, at the end of forward. Hatched: not measured, predicted only."
    figures = figure_rows(seen)
    whole = table(list(figures[0]), [[text(value) for value in row.values()] for row in figures])
    parts = [section("Host memory held for backward", table(heads, lines, words=2), note=note)]
    parts += [section("All recorded figures", whole), *(paragraph(note) for note in seen.simulated)]
    return document(title, seen.title, parts)


def whatif_html(title: str, place: str, found: WhatIf) -> str:
    """The predictions with what they assume."""
    return document(title, place, [whatif_section(found)])


def quality_html(title: str, found: Results) -> str:
    """Every row of the results."""
    most = max((row.ppl or 0.0 for row in found.rows), default=0.0) or 1.0
    lines = [
        (
            text(row.title),
            bar((row.ppl or 0.0) / most, method_colour(row.method)),
            text(NOTHING if row.ppl is None else f"{row.ppl:.4g}"),
            text(row.bits_text or NOTHING),
            text(format_bytes(row.size_bytes)), text(NOTHING if row.seed is None else row.seed),
            text(row.error or row.status),
        )
        for row in found.rows
    ]  # fmt: skip
    heads = ("method", "", "perplexity", "bits", "on disk", "seed", "status")
    return document(title, found.name, [section("Measured", table(heads, lines, words=2))])
