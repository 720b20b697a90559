"""Copies in time, worked out by hand: no byte is lost, peers and unknowns are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.analyses.lanes import lanes
from profiler.events import Step, Transfer
from tests.profiler.analyses.runs import float32, run_of

STEP = Step(step=0, start_ns=100, forward_end_ns=500, end_ns=1100)


def simulated(start: int, end: int, count: int = 8, **fields: object) -> Transfer:
    return Transfer(bytes=count, start_ns=start, end_ns=end, simulated=True, **fields)  # type: ignore[arg-type]


def test_lanes_tell_direction_and_peers_apart(tmp_path: Path) -> None:
    copies = [
        simulated(200, 300), simulated(250, 400), simulated(260, 900, 70, peer=True),
        simulated(600, 650, direction="h2d"),
    ]  # fmt: skip
    with run_of(tmp_path / "run", [float32(1, 1, [2])], copies, [STEP]) as run:
        found = lanes(run)
    assert [(each.direction, each.peer, each.copies, each.bytes) for each in found.lanes] == [
        ("d2h", False, 2, 16), ("d2h", True, 1, 70), ("h2d", False, 1, 8),
    ]  # fmt: skip
    assert (found.start_ns, found.forward_end_ns, found.end_ns) == (100, 500, 1100)
    assert found.copying_ns == 250  # 200 to 400, and 600 to 650; the peer's own do not count
    assert found.copying_share == 0.25
    assert found.hidden == 0.0


def test_many_copies_become_few_pieces_of_the_same_bytes(tmp_path: Path) -> None:
    copies = [simulated(100 + 10 * i, 105 + 10 * i, i + 1) for i in range(100)]
    with run_of(tmp_path / "run", [float32(1, 1, [2])], copies, [STEP]) as run:
        (lane,) = lanes(run, limit=7).lanes
    assert len(lane.pieces) == 7
    assert (lane.copies, lane.bytes) == (100, 5050)
    assert (lane.pieces[0].start_ns, lane.pieces[-1].end_ns) == (100, 1095)
    assert all(a.end_ns <= b.start_ns for a, b in zip(lane.pieces, lane.pieces[1:], strict=False))


def test_what_measured_copies_hid_behind_is_not_known(tmp_path: Path) -> None:
    copies = [Transfer(bytes=8, start_ns=200, end_ns=300, stream=7, pinned=True)]
    with run_of(tmp_path / "run", [float32(1, 1, [2])], copies, [STEP]) as run:
        found = lanes(run)
        assert found.hidden is None
        assert [lane.stream for lane in found.lanes] == [7]
        nothing = lanes(run, rank=3)
        assert (nothing.lanes, nothing.copying_share, nothing.hidden) == ([], 0, None)
        with pytest.raises(ValueError, match="limit: got 0"):
            lanes(run, limit=0)


def test_a_step_that_was_never_closed_lasts_as_long_as_its_copies(tmp_path: Path) -> None:
    copies = [simulated(50, 60), simulated(80, 90)]
    with run_of(tmp_path / "run", [float32(1, 1, [2])], copies) as run:
        found = lanes(run)
    assert (found.start_ns, found.forward_end_ns, found.end_ns) == (50, None, 90)
