"""Recorded copies as lanes to draw, and in words how far they hid behind computing.

Contract: what is simulated is called so; what the run does not know is said to be unknown.
Boundary: plain data and words; the figures are profiler.analyses.lanes'.
"""

from __future__ import annotations

from dashboard.charts.lanes import Piece, Stretch
from dashboard.tables import counted
from dashboard.theme import category_colour
from profiler.analyses.lanes import Lane, Lanes
from profiler.reports.theme import GREY, ORANGE, SKY
from profiler.reports.units import format_bytes

DIRECTIONS = {"d2h": "to the host", "h2d": "back"}


def lane_name(lane: Lane) -> str:
    """ "to the host, simulated", "back, stream 7", "to the host, simulated peers"."""
    kind = ", simulated peers" if lane.peer else ", simulated" if lane.simulated else ""
    stream = "" if lane.simulated or lane.peer else f", stream {lane.stream}"
    return DIRECTIONS[lane.direction] + kind + stream


def lane_pieces(found: Lanes) -> list[Piece]:
    """What each lane did, in seconds from the start of the step."""
    return [
        Piece(
            lane=lane_name(lane),
            start=(piece.start_ns - found.start_ns) / 1e9,
            end=(piece.end_ns - found.start_ns) / 1e9,
            about=f"{counted(piece.copies, 'copy', 'copies')}, {format_bytes(piece.bytes)}",
        )
        for lane in found.lanes
        for piece in lane.pieces
    ]


def lane_colours(found: Lanes) -> dict[str, str]:
    """Every lane in order, with its colour."""
    colours = {"d2h": ORANGE, "h2d": SKY}
    return {
        lane_name(lane): category_colour("peer") if lane.peer else colours.get(lane.direction, GREY)
        for lane in found.lanes
    }


def lane_stretches(found: Lanes) -> list[Stretch]:
    """Forward and what follows, where the run says when forward ended."""
    last = (found.end_ns - found.start_ns) / 1e9
    if found.forward_end_ns is None:
        return [Stretch(name="step", start=0.0, end=last)]
    middle = (found.forward_end_ns - found.start_ns) / 1e9
    return [
        Stretch(name="forward", start=0.0, end=middle),
        Stretch(name="backward, optimizer", start=middle, end=last),
    ]


def overlap_words(found: Lanes) -> str:
    """How much of the step was copying, and how much of that was hidden."""
    if not found.lanes:
        return "Nothing was copied in this step."
    percent = 100 * found.copying_share
    part = f"{percent:.0f} %" if percent >= 1 else "less than 1 %"
    share = f"Copies were under way for {part} of the step"
    if found.hidden is None:
        return (
            f"{share}, by the host's clock. How much of that hid behind computing is not known: "
            "it takes events of the device, and the run holds none. A copy from pinned memory may "
            "go on after the host has asked for it."
        )
    return (
        f"{share}; {100 * found.hidden:.0f} % of that was hidden. The copies are simulated: the "
        "thread that computes makes them itself, so the computing waits."
    )
