"""Does offloading cost time? A simulated bus.

Contract: bytes and operations come from layers that ran just now; seconds are worked out for the
device and the bus that the reader chooses, and are called simulated everywhere.
Boundary: no computing here; the experiment is dashboard.lessons.offloading and .bus.
"""

from __future__ import annotations

import streamlit as st

from dashboard.charts.lanes import Piece, Stretch, lane_chart, lane_records
from dashboard.frame import ground
from dashboard.lessons.bus import BACK, COMPUTE, TO_HOST, Machine, SimulatedStep, simulate
from dashboard.lessons.offloading import LAYERS, Offloaded, measure, run_offloaded
from dashboard.overlap import overlap_words
from dashboard.panels.chart import show_chart
from dashboard.panels.download import offer_data
from dashboard.panels.lesson import ask, code_that_ran, own_run, verdict
from dashboard.panels.more import more_on
from dashboard.theme import category_colour
from profiler.analyses.lanes import lanes
from profiler.analyses.traffic import traffic
from profiler.reports.theme import ORANGE, SKY
from profiler.reports.units import format_bytes, format_mib

TITLE = "Does offloading cost time? (simulated bus)"
ROWS = 64
LARGER, SAME, SMALLER = "a larger part", "the same part", "a smaller part"
COLOURS = {COMPUTE: category_colour("saved"), TO_HOST: ORANGE, BACK: SKY}


def page() -> None:
    """Draws the page."""
    st.title(TITLE)
    st.write(
        "Offloading sends what autograd saves from the device (a GPU) over a bus to the host (the "
        "memory of the CPU), and fetches it for backward. A copy costs no time as long as the "
        "device computes meanwhile: it is **hidden**. For the rest, the device waits."
    )
    columns = st.columns(4)
    width = columns[0].select_slider(
        "Width of the layers", [128, 256, 512, 1024], value=256, key="width", bind="query-params"
    )
    tera = columns[1].select_slider(
        "Device, TFLOP/s", [0.5, 1, 2, 4, 8, 16], value=4, key="tera", bind="query-params"
    )
    giga = columns[2].select_slider(
        "Bus, GB/s each way", [8, 16, 32, 64, 128], value=16, key="giga", bind="query-params"
    )
    ahead = columns[3].select_slider(
        "Layers fetched ahead", [0, 1, 2, 3], value=1, key="ahead", bind="query-params"
    )
    machine = Machine(flops_per_second=tera * 1e12, bytes_per_second=giga * 1e9, ahead=ahead)
    st.caption(
        f"{LAYERS} layers (Linear, GELU) on {ROWS} rows of float32. They run now, offloaded by "
        "edkm.saved: bytes and operations are counted, copies go to other CPU memory. Seconds "
        "are simulated for the device and the bus above; none of them was measured."
    )
    guess = ask(
        f"Four times as many rows, {4 * ROWS}: more computing to hide behind. Which part of the "
        "copying will be hidden, compared with before?",
        [LARGER, SAME, SMALLER], "offload",
    )  # fmt: skip
    if guess is not None:
        _answer(width, machine, guess)
    code_that_ran(run_offloaded)
    _own_run()


@st.cache_data(max_entries=16, show_spinner="Running the layers")
def measured(rows: int, width: int) -> Offloaded:
    """One offloaded step, now."""
    return measure(rows, width)


def _answer(width: int, machine: Machine, guess: str) -> None:
    ran = measured(ROWS, width)
    step = simulate(ran.layers, machine)
    more = simulate(measured(4 * ROWS, width).layers, machine)
    wider = simulate(measured(ROWS, 2 * width).layers, machine)
    change = round(100 * more.hidden) - round(100 * step.hidden)
    truth = LARGER if change > 0 else SMALLER if change < 0 else SAME
    verdict(
        guess == truth,
        f"Hidden: **{_percent(step)}** of the copying with {ROWS} rows, **{_percent(more)}** with "
        f"{4 * ROWS}: rows add computing and bytes alike. {_of_width(step, wider, 2 * width)}",
    )
    _metrics(ran, step)
    st.write(
        "Three streams of the simulated machine, forward and then backward; each piece is one "
        "layer. A gap in the first line is the device waiting for the bus."
    )
    pieces = _pieces(ran, step)
    show_chart(
        lane_chart(pieces, _stretches(step), COLOURS, ground()), key="lanes",
        alt="Computing and copying over simulated time",
    )  # fmt: skip
    offer_data("simulated-seconds", lambda: lane_records(pieces, 1.0))
    if ran.exact:
        st.caption("The gradients are equal to those without offloading, bit by bit.")
    else:
        st.error("The gradients differ from those without offloading. Please report it.")


def _of_width(step: SimulatedStep, wider: SimulatedStep, width: int) -> str:
    if wider.hidden > step.hidden:
        return (
            f"Width is what helps: {_percent(wider)} with layers {width} wide, which compute four "
            "times as much on twice the bytes."
        )
    return (
        "Here the bus keeps up. What is left is the turn from forward to backward: the last layer "
        "is sent and fetched again at once, and nothing computes meanwhile."
    )


def _metrics(ran: Offloaded, step: SimulatedStep) -> None:
    columns = st.columns(4)
    columns[0].metric("To the host, MiB", format_mib(ran.sent_bytes), border=True)
    columns[1].metric("And back, MiB", format_mib(ran.fetched_bytes), border=True)
    columns[2].metric("Hidden, simulated", _percent(step), border=True)
    columns[3].metric(
        "Step, simulated", f"{step.seconds / step.compute_seconds:.2f}x", border=True,
        help="How long the step takes, against the same step without offloading.",
    )  # fmt: skip


def _percent(step: SimulatedStep) -> str:
    return f"{100 * step.hidden:.0f} %"


def _pieces(ran: Offloaded, step: SimulatedStep) -> list[Piece]:
    return [
        Piece(
            lane=span.lane, start=span.start, end=span.end,
            about=f"layer {span.layer + 1}"
            + ("" if span.lane == COMPUTE
               else f", {format_bytes(ran.layers[span.layer].saved_bytes)}"),
        )
        for span in step.spans
    ]  # fmt: skip


def _stretches(step: SimulatedStep) -> list[Stretch]:
    return [
        Stretch(name="forward", start=0.0, end=step.forward_seconds),
        Stretch(name="backward", start=step.forward_seconds, end=step.seconds),
    ]


def _own_run() -> None:
    view = own_run("transfers")
    if view is None:
        return
    sent = view.ask(traffic)
    found = view.ask(lanes)
    st.write(
        f"In {view.place}, {format_bytes(sent.bytes('d2h'))} went to the host and "
        f"{format_bytes(sent.bytes('h2d'))} came back. {overlap_words(found)}"
    )
    more_on("app_pages/traffic.py", "What crossed to the host and back?")


page()
