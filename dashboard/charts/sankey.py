"""Bytes from a device to the host, or back, as streams: who sends, in which form.

Contract: flows of one direction and one kind (measured, simulated, peers) in, an ECharts option
out: module, form, where it arrives. Labels stand beside what they name and never on another. At
most `MODULES` modules have a stream of their own, the rest is one, counted.
Boundary: plain data, no JavaScript; what is simulated is said by the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dashboard.charts.blocks import plain
from dashboard.theme import Ground, category_colour, ink
from profiler.analyses.traffic import Flow
from profiler.reports.theme import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from profiler.reports.units import format_bytes, mib

MODULES = 24
_LETTER = 6  # pixels
ACTIONS = {
    "copied": VERMILION, "table": ORANGE, "shard": PURPLE, "alias": SKY, "rebuilt": GREEN,
    "kept": BLUE,
}  # fmt: skip
ACTION_WORDS = {
    "copied": "copied whole",
    "table": "as a table",
    "shard": "as a shard",
    "alias": "for an alias",
    "rebuilt": "for a rebuilt tensor",
    "kept": "of a kept tensor",
    "": "not tied to a save",
}


# The end is as tall as the chart, and has its name in it: there is no room beside it.
_INSIDE = {"position": "inside", "rotate": 90, "color": "#000000", "fontWeight": "bold"}


def streams(flows: Sequence[Flow]) -> list[tuple[str, str, int]]:
    """(module, action, bytes), modules largest first, small ones together."""
    per_module: Counter[str] = Counter()
    for flow in flows:
        per_module[flow.module or "(root)"] += flow.bytes
    large = [name for name, _ in per_module.most_common(MODULES)]
    small = f"{len(per_module) - len(large)} smaller modules"
    summed: Counter[tuple[str, str]] = Counter()
    for flow in flows:
        name = flow.module or "(root)"
        action = ACTION_WORDS.get(flow.action, flow.action)
        summed[name if name in large else small, action] += flow.bytes
    order = {name: index for index, name in enumerate([*large, small])}
    return sorted(
        ((module, action, count) for (module, action), count in summed.items() if count),
        key=lambda stream: (order[stream[0]], -stream[2]),
    )


def stream_records(flows: Sequence[Flow]) -> list[dict[str, Any]]:
    """One record per stream, for a table."""
    return [
        {"module": module, "form": action, "MiB": mib(count)}
        for module, action, count in streams(flows)
    ]


def sankey_option(flows: Sequence[Flow], direction: str, ground: Ground) -> dict[str, Any]:
    """The option of the chart: module, form, end."""
    end = "host" if direction == "d2h" else "device"
    links: Counter[tuple[str, str]] = Counter()
    through: Counter[str] = Counter()
    modules: dict[str, None] = {}
    for module, action, count in streams(flows):
        name, form = plain(f"{module} "), plain(f" {action}")  # told apart from each other
        modules[name] = None
        links[name, form] += count
        links[form, end] += count
        for each in (name, form, end):
            through[each] += count
    colours = {f" {ACTION_WORDS[key]}": colour for key, colour in ACTIONS.items()}
    colours[end] = category_colour("host" if end == "host" else "saved")
    said = {
        name: ("  " if name in modules or name == end else "\n").join(
            (name.strip(), format_bytes(count))
        )
        for name, count in through.items()
    }
    return {
        "animation": False,
        "tooltip": {"trigger": "item", "formatter": "{b}: {c} MiB"},
        "series": [
            {
                "type": "sankey",
                "left": 12 + _LETTER * max((len(said[name]) for name in modules), default=0),
                "right": 4, "top": 10, "bottom": 10,
                "nodeGap": 10, "nodeWidth": 22,
                "layoutIterations": 0,
                "draggable": False,
                "emphasis": {"focus": "adjacency"},
                "lineStyle": {"color": "source", "opacity": 0.3},
                "label": {"color": ink(ground), "fontSize": 13, "lineHeight": 16},
                "data": [
                    {
                        "name": name,
                        "itemStyle": {"color": colours.get(name, "#8A929A")},
                        "label": {
                            "formatter": said[name],
                            **(_INSIDE if name == end else {}),
                            **({"position": "left"} if name in modules else {}),
                        },
                    }
                    for name in through
                ],
                "links": [
                    {"source": source, "target": target, "value": round(mib(count), 6)}
                    for (source, target), count in links.items()
                ],
            }
        ],
    }  # fmt: skip


def sankey_height(flows: Sequence[Flow]) -> int:
    """Pixels, by how many modules have a stream."""
    return 110 + 26 * min(MODULES + 1, len({flow.module for flow in flows}))
