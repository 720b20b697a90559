"""Traffic worked out by hand: simulated never beside measured, peers never beside our own."""

from __future__ import annotations

import json
from pathlib import Path

from profiler.analyses import traffic
from profiler.events import Transfer
from tests.profiler.analyses.runs import float32, run_of

SAVES = [
    float32(1, 1, [4], module="a", action="copied", host_bytes=16, unpacked_count=1),
    float32(2, 2, [4], module="b", action="table", host_bytes=6),
    float32(3, 3, [4], module="b", action="copied", host_bytes=16),
    float32(4, 3, [4], module="b", action="alias", alias_of=3, unpacked_count=2),
]
SECOND = 1_000_000_000
TRANSFERS = [
    Transfer(direction="d2h", bytes=16, start_ns=0, end_ns=SECOND, pinned=True, save_id=1,
             module="a"),
    Transfer(direction="d2h", bytes=16, start_ns=0, end_ns=3 * SECOND, save_id=3, module="b"),
    Transfer(direction="h2d", bytes=16, start_ns=5, end_ns=5, save_id=1, module="a"),
    Transfer(direction="d2h", bytes=100, start_ns=0, end_ns=SECOND, simulated=True, save_id=2,
             module="b"),
    Transfer(direction="d2h", bytes=700, simulated=True, peer=True, save_id=2, module="b"),
    Transfer(step=9, direction="d2h", bytes=5000),
]  # fmt: skip


def test_totals_keep_kinds_apart(tmp_path: Path) -> None:
    found = traffic(run_of(tmp_path / "run", SAVES, TRANSFERS))
    totals = {(f.direction, f.simulated, f.peer): f for f in found.totals}
    assert set(totals) == {
        ("d2h", False, False), ("d2h", True, False), ("d2h", True, True), ("h2d", False, False),
    }  # fmt: skip
    measured = totals["d2h", False, False]
    assert (measured.bytes, measured.copies, measured.pinned_bytes) == (32, 2, 16)
    assert measured.copy_ns == 4 * SECOND and measured.bytes_per_second == 8.0
    assert totals["d2h", True, False].bytes_per_second is None  # no bus, no bandwidth
    assert totals["h2d", False, False].bytes_per_second is None  # too short to time
    assert found.bytes("d2h") == 132 and found.bytes("d2h", peer=True) == 700
    assert found.bytes("h2d") == 16


def test_each_flow_names_its_module_and_reason(tmp_path: Path) -> None:
    found = traffic(run_of(tmp_path / "run", SAVES, TRANSFERS))
    flows = [(f.bytes, f.module, f.action, f.peer) for f in found.modules if f.direction == "d2h"]
    assert flows == [
        (700, "b", "table", True), (100, "b", "table", False),
        (16, "a", "copied", False), (16, "b", "copied", False),
    ]  # fmt: skip
    assert sum(f.bytes for f in found.modules) == sum(f.bytes for f in found.totals)


def test_copies_that_nobody_asked_for_are_counted(tmp_path: Path) -> None:
    """Save 3 was never unpacked itself, but save 4, which reuses its copy, was."""
    found = traffic(run_of(tmp_path / "run", SAVES, TRANSFERS))
    assert (found.unused_copies, found.unused_bytes) == (1, 6)
    assert found.returned == {"0": 2, "1": 1}
    assert json.loads(json.dumps(found.to_json()))["unused_bytes"] == 6


def test_a_run_without_transfers_has_none(tmp_path: Path) -> None:
    found = traffic(run_of(tmp_path / "run"))
    assert found.totals == [] and found.bytes("d2h") == 0 and found.unused_bytes == 0
