"""What crossed to the host and back?

Contract: bytes of one step per direction, module and form; measured, simulated and simulated
peers' copies are never added together. When they were made, as one lane per stream.
Boundary: no computing and no file reading here.
"""

from __future__ import annotations

import streamlit as st

from dashboard.charts.lanes import lane_chart, lane_records
from dashboard.charts.sankey import ACTION_WORDS, sankey_height, sankey_option, stream_records
from dashboard.frame import View, explore, ground, pick_rank
from dashboard.overlap import lane_colours, lane_pieces, lane_stretches, overlap_words
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.metrics import metric_grid
from dashboard.panels.more import more_on
from dashboard.tables import mib_columns, mib_value
from profiler.analyses.lanes import lanes
from profiler.analyses.traffic import Flow, Traffic, traffic
from profiler.reports.units import NOTHING, format_bytes, format_mib

TITLE = "What crossed to the host and back?"
KINDS = {
    "measured": "measured",
    "simulated": "simulated: no bus was crossed",
    "peers": "simulated peers",
}
RATE = "Of measured copies only: bytes over the sum of their durations."
DIRECTIONS = {"d2h": "to the host, in forward", "h2d": "back, in backward"}


def page() -> None:
    """Draws the page."""
    view = explore(TITLE, "transfers")
    if view is None:
        return
    seen = view.ask(traffic)
    if not seen.totals:
        st.info(f"Nothing crossed in {view.place}. Choose another step.")
        return
    kind, direction = _choose(seen)
    _metrics(seen, kind)
    flows = [f for f in seen.modules if _kind(f) == kind and f.direction == direction]
    if kind != "measured":
        st.info(
            "Simulated: device and host are both memory of one process. The bytes are real, no "
            "bus was crossed, so no bandwidth is shown."
        )
    if flows:
        st.write(
            "Streams run from the modules whose tensors they are, by the form they have on the way "
            "(whole, a table of distinct values, one learner's shard), to where they arrive; their "
            "width is bytes."
        )
        st.echarts_chart(
            sankey_option(flows, direction, ground()), height=sankey_height(flows),
            key=f"streams-{direction}", alt="Streams of bytes by module and form",
        )  # fmt: skip
        offer_data("streams", lambda: stream_records(flows))
    else:
        st.info(f"Nothing went {DIRECTIONS[direction]}.")
    _never_used(seen)
    _lanes(view)
    _table([flow for flow in seen.modules if _kind(flow) == kind])


def _choose(seen: Traffic) -> tuple[str, str]:
    """Kind of copies and direction."""
    kinds = [kind for kind in KINDS if any(_kind(flow) == kind for flow in seen.totals)]
    left, right = st.columns([4, 3])
    with left:
        direction = st.segmented_control(
            "Direction", list(DIRECTIONS), default="d2h", key="direction",
            bind="query-params", required=True,
            format_func=lambda each: DIRECTIONS[each],
        )  # fmt: skip
    with right:
        if len(kinds) == 1:
            return kinds[0], direction or "d2h"
        if st.session_state.get("copies") not in kinds:
            st.session_state.pop("copies", None)
        kind = st.segmented_control(
            "Copies", kinds, default=kinds[0], key="copies",
            bind="query-params", required=True,
            format_func=lambda each: KINDS[each],
        )  # fmt: skip
    return kind or kinds[0], direction or "d2h"


def _kind(flow: Flow) -> str:
    return "peers" if flow.peer else "simulated" if flow.simulated else "measured"


def _metrics(seen: Traffic, kind: str) -> None:
    words = "Bytes that crossed" if kind == "measured" else KINDS[kind]
    sizes, rates = [], []
    for direction in DIRECTIONS:
        flow = next((f for f in seen.totals if _kind(f) == kind and f.direction == direction), None)
        rate = flow.bytes_per_second if flow else None
        sizes.append((f"{direction.upper()}, MiB", format_mib(flow.bytes if flow else 0), words))
        said = NOTHING if rate is None else format_mib(rate)
        rates.append((f"{direction.upper()}, MiB/s", said, RATE))
    metric_grid([*sizes, *rates])


def _never_used(seen: Traffic) -> None:
    if seen.unused_copies:
        st.warning(
            f"{seen.unused_copies} host copies, {format_bytes(seen.unused_bytes)}, were never "
            "asked for by backward."
        )


def _lanes(view: View) -> None:
    st.subheader("When was it copied, and was it hidden?")
    rank = pick_rank(view)
    found = view.ask(lanes, rank=rank)
    st.write(overlap_words(found))
    if not found.lanes:
        return
    st.write("One line per stream, over the time of the step; a piece is copies in a row.")
    pieces = lane_pieces(found)
    show_chart(
        lane_chart(pieces, lane_stretches(found), lane_colours(found), ground()),
        key="lanes", alt="Copies over the time of the step",
    )  # fmt: skip
    offer_data("copies-in-seconds", lambda: lane_records(pieces, 1.0))
    if found.hidden is None:
        st.caption(
            "Missing: events of the device around every copy and every operation. The lesson on "
            "offloading shows on a simulated bus what they would tell."
        )
        more_on("app_pages/learn_offload.py", "Does offloading cost time?")


def _table(flows: list[Flow]) -> None:
    rows = [
        {
            "direction": flow.direction.upper(),
            "module": flow.module or "(root)",
            "form": ACTION_WORDS.get(flow.action, flow.action),
            "MiB": mib_value(flow.bytes),
            "copies": flow.copies,
            "pinned MiB": mib_value(flow.pinned_bytes),
        }
        for flow in flows
    ]
    st.subheader("By module")
    st.dataframe(
        rows, hide_index=True, alt="Copies per direction, module and form",
        column_config=mib_columns(rows, ("MiB", "pinned MiB")),
    )  # fmt: skip


page()
