"""Snapshots come in as they went out; hostile and damaged pickles are refused, never run."""

from __future__ import annotations

import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from profiler.exports import snapshot
from profiler.imports import import_snapshot
from profiler.imports.plain_pickle import parse_plain_pickle, read_plain_pickle
from profiler.query import open_run
from profiler.report import report
from profiler.reports.html import html_report
from tests.profiler.exports.samples import HOSTILE, sample


def event(action: str, addr: int, size: int, time_us: int, **more: Any) -> dict[str, Any]:
    frames = [
        {"filename": "/x/torch/nn/a.py", "line": 1, "name": "f"},
        {"filename": "train.py", "line": 7, "name": "step"},
    ]
    return {"action": action, "addr": addr, "size": size, "stream": 0, "time_us": time_us,
            "frames": frames, **more}  # fmt: skip


def written(path: Path, whole: Any, protocol: int | None = None) -> Path:
    path.write_bytes(pickle.dumps(whole, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_a_recorded_history_becomes_storages_and_a_peak(tmp_path: Path, protocol: int) -> None:
    trace = [
        event("segment_alloc", 0, 4096, 1), event("alloc", 100, 512, 10),
        event("free_requested", 900, 64, 15), event("free_completed", 900, 64, 16),
        event("alloc", 700, 256, 20), event("free_requested", 100, 512, 30),
        event("free_completed", 100, 512, 31), event("alloc", 100, 128, 40),
    ]  # fmt: skip
    blocks = [
        {"address": 100, "size": 512, "requested_size": 128, "state": "active_allocated"},
        {"address": 612, "size": 88, "state": "inactive"},
        {"size": 256, "requested_size": 256, "state": "active_allocated", "frames": []},
        {"size": 32, "requested_size": 32, "state": "active_allocated"},  # older than the trace
    ]
    segment = {"device": 0, "address": 100, "total_size": 4096, "blocks": blocks}
    whole = {"segments": [segment], "device_traces": [trace, []], "allocator_settings": {}}
    import_snapshot(written(tmp_path / "s.pickle", whole, protocol), tmp_path / "run")
    run = open_run(tmp_path / "run")
    rows = run.sql("SELECT bytes, born_ns, died_ns, module, device FROM storages").to_pylist()
    lives = sorted((r["bytes"], r["born_ns"], r["died_ns"]) for r in rows)
    assert lives == [
        (32, 10_000, None), (64, 10_000, 16_000), (128, 40_000, None), (256, 20_000, None),
        (512, 10_000, 31_000),
    ]  # fmt: skip
    assert {r["module"] for r in rows if r["bytes"] == 512} == {"train.py:7:step"}
    assert {r["device"] for r in rows} == {"cuda:0"}
    (step,) = run.steps
    assert step.peak_bytes == 512 + 256 + 32 and run.closed
    assert report(run).ledger.total.saves == 0 and "Memory" in html_report(run)


def test_what_we_export_comes_back(tmp_path: Path) -> None:
    first = sample(tmp_path / "run")
    (tmp_path / "s.pickle").write_bytes(snapshot.build(first))
    import_snapshot(tmp_path / "s.pickle", tmp_path / "again")
    query = "SELECT bytes, category, born_ns // 1000 AS born, died_ns // 1000 AS died FROM storages"
    query += " WHERE bytes > 0 ORDER BY ALL"
    assert open_run(tmp_path / "again").sql(query).to_pylist() == first.sql(query).to_pylist()


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/never-made-by-a-snapshot",)


def evil(protocol: int) -> bytes:
    return pickle.dumps({"device_traces": [Evil()]}, protocol=protocol)


@pytest.mark.parametrize(
    "data",
    [
        *[evil(protocol) for protocol in range(6)],
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x04\x82\x01.",  # a registered extension
        b"Pname\n.",  # a persistent object
        b"\x80\x05\x97.",  # an out-of-band buffer
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",  # a huge bytearray
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",  # bytes that are not there
        b"\x80\x09.", b"", b".", b"]", b"]a.", b"\xff", b"h\x07.", b"0.", b"I9x\n.",
        b"\x80\x04]\x94(h\x00e",  # no end
    ],
)  # fmt: skip
def test_anything_but_plain_containers_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no pickle of plain containers"):
        parse_plain_pickle(data, "file")
    assert not Path("/tmp/never-made-by-a-snapshot").exists()


def test_a_memo_cannot_be_blown_up() -> None:
    """LONG_BINPUT at 4 billion: 64 GiB in C, one entry here."""
    data = b"\x80\x02]r" + struct.pack("<I", 0xFFFF_FFF0) + b"."
    assert parse_plain_pickle(data, "file") == []


def test_containers_that_contain_themselves_are_survived(tmp_path: Path) -> None:
    whole: dict[str, Any] = {"device_traces": []}
    whole["device_traces"].append(whole["device_traces"])
    whole["segments"] = [whole]
    import_snapshot(written(tmp_path / "s.pickle", whole), tmp_path / "run")


@pytest.mark.parametrize("whole", [1, [], {}, {"device_traces": 3}, None, "x"])
def test_pickles_of_something_else_are_named(tmp_path: Path, whole: Any) -> None:
    with pytest.raises(ValueError, match="holds no 'device_traces'"):
        import_snapshot(written(tmp_path / "s.pickle", whole), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_hostile_values_are_left_out(tmp_path: Path) -> None:
    frames = [{"filename": HOSTILE, "line": -3, "name": 7}, 5, {"filename": 9}]
    bad = [
        {**event("alloc", 1, 10, 5), "frames": frames}, event("alloc", 2, -5, 6), 7, None,
        event("alloc", 1 << 70, 1 << 80, 1 << 90), {"action": []}, {},
    ]  # fmt: skip
    whole = {"device_traces": [bad], "segments": [{"device": "x", "blocks": 3}, 4]}
    import_snapshot(written(tmp_path / "s.pickle", whole), tmp_path / "run")
    page = html_report(open_run(tmp_path / "run"))
    assert "<script>" not in page


def test_damaged_files_give_one_clear_error(tmp_path: Path) -> None:
    first = sample(tmp_path / "run")
    good, rng = snapshot.build(first), random.Random(0)
    for number in range(200):
        data = bytearray(good[: rng.randrange(1, len(good))] if number % 2 else good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "s.pickle").write_bytes(data)
        try:
            import_snapshot(tmp_path / "s.pickle", tmp_path / "again", force=True)
        except ValueError as error:
            assert str(error).startswith("snapshot: got ")


def test_size_and_place_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_plain_pickle(tmp_path / "none")
    written(tmp_path / "s.pickle", list(range(100)))
    with pytest.raises(ValueError, match="must be at most 10"):
        read_plain_pickle(tmp_path / "s.pickle", max_bytes=10)
