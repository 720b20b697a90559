"""Where the saved tensors of one group lie in their storage, one line each.

Contract: a bar reaches from the first byte that a tensor touches to the last, in the storage that
is its own (one that was rebuilt from the group has another). At most `limit` lines.
Boundary: Altair only; spans come from profiler.analyses.spans.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from dashboard.charts.frame import Layered, label_limit, top_legend
from dashboard.tables import shape_words, short_op
from dashboard.theme import Ground, ink
from profiler.analyses.duplicates import Group
from profiler.analyses.spans import byte_span
from profiler.reports.theme import BLUE, GREEN, ORANGE, PURPLE, VERMILION
from profiler.reports.units import MIB, mib

RELATIONS = {
    "first": BLUE, "same": VERMILION, "transposed": PURPLE, "view": ORANGE, "derived": GREEN,
}  # fmt: skip


def span_records(group: Group, limit: int = 24) -> list[dict[str, Any]]:
    """One record per tensor, in the order of saving."""
    records = []
    scale, unit = (MIB, "MiB") if group.storage_bytes >= MIB / 4 else (1024, "KiB")
    for number, member in enumerate(group.members[:limit]):
        start, end = byte_span(
            member.shape, member.stride, member.storage_offset, member.logical_bytes
        )
        records.append(
            {
                "line": f"{number + 1}. {member.module or '(root)'} {short_op(member.op)}",
                "order": number,
                "start": start / scale,
                "end": end / scale,
                "unit": unit,
                "relation": member.relation,
                "about": f"{shape_words(member.shape)} {member.dtype}, {mib(end - start):.3g} MiB",
                "where": member.module,
            }
        )
    return records


def span_chart(group: Group, ground: Ground) -> Layered:
    """The lines, first saved on top."""
    records = span_records(group)
    base = alt.Chart(alt.InlineData(values=records)).encode(
        y=alt.Y(
            "line:N",
            sort=alt.EncodingSortField("order"),
            axis=alt.Axis(
                title=None,
                labelLimit=label_limit(300),
                ticks=False,
                domain=False,
                labelOverlap=False,
            ),
        ),
        tooltip=[
            alt.Tooltip("where:N", title="module"),
            alt.Tooltip("relation:N"),
            alt.Tooltip("about:N", title="tensor"),
        ],
    )
    unit = records[0]["unit"] if records else "MiB"
    x = alt.X("start:Q", axis=alt.Axis(title=f"{unit} from the start of the storage", tickCount=6))
    shown = [name for name in RELATIONS if any(r["relation"] == name for r in records)]
    colour = alt.Color(
        "relation:N",
        scale=alt.Scale(domain=shown, range=[RELATIONS[name] for name in shown]),
        legend=top_legend(shown),
    )
    bars = base.mark_bar(height=14).encode(x=x, x2=alt.X2("end:Q"), color=colour)
    longest = max((r["end"] for r in records), default=0.0)
    figures = base.mark_text(align="left", dx=5, color=ink(ground)).encode(
        x=alt.X("end:Q", scale=alt.Scale(domain=[0, longest * 1.3 or 1.0], nice=False)),
        text=alt.Text("about:N"),
    )
    return alt.layer(bars, figures, height=110 + 30 * len(records))
