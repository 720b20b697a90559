"""Trace events for Perfetto and chrome://tracing (JSON).

Contract: times in microseconds from the first event; a process per rank; a thread each for steps,
saves, unpacks, and every direction and stream of copies; every memory category is a counter of
its own; a flow joins each save with its unpack; storages are instants named `[memory]` with the
argument names Kineto uses. Simulated copies say so in their name.
Boundary: what the viewer draws; nothing is computed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from profiler.analyses.common import rows_of
from profiler.exports.limits import check_size
from profiler.query import Run

Event = dict[str, Any]
STEPS, SAVES, UNPACKS, STORAGES, COPIES = 1, 2, 3, 4, 10
_COUNTERS = (
    "allocated", "reserved", "rss", "param", "grad", "optimizer", "saved", "temp", "host", "peer"
)  # fmt: skip
_SLICE_US = 1.0  # saves and unpacks are moments; a flow needs a slice to start from


def build(run: Run, step: int | None = None) -> bytes:
    """Return the JSON text of one step, or of all."""
    check_size(run, step, "saves", "transfers", "memory", "storages")
    values = {"step": step}
    events = [
        *_steps(rows_of(run, _STEPS, values)),
        *_moments(rows_of(run, _SAVES, values)),
        *_copies(rows_of(run, _COPIES_SQL, values)),
        *_counters(rows_of(run, _MEMORY, values)),
        *_storages(rows_of(run, _STORAGES, values)),
    ]
    start = min((event["ts"] for event in events), default=0)
    for event in events:
        event["ts"] = (event["ts"] - start) / 1000
    events.sort(key=lambda e: (e["ts"], -e.get("dur", 0)))
    whole = {"displayTimeUnit": "ms", "traceEvents": [*_names(events), *events]}
    return json.dumps(whole).encode()


def _slice(name: str, rank: int, tid: int, start_ns: int, end_ns: int, **args: Any) -> Event:
    length = max(0, end_ns - start_ns) / 1000
    event = {"ph": "X", "name": name, "cat": "profiler", "pid": rank, "tid": tid}
    return {**event, "ts": start_ns, "dur": length, "args": args}


def _steps(rows: list[dict[str, Any]]) -> Iterator[Event]:
    for row in rows:
        name = f"step {row['step']}" + (f" ({row['name']})" if row["name"] else "")
        start, middle, end = row["start_ns"], row["forward_end_ns"], row["end_ns"]
        if end is None:
            continue
        yield _slice(name, row["rank"], STEPS, start, end, peak_bytes=row["peak_bytes"])
        if middle is not None:
            yield _slice("forward", row["rank"], STEPS, start, middle)
            yield _slice("backward and optimizer", row["rank"], STEPS, middle, end)


def _moments(rows: list[dict[str, Any]]) -> Iterator[Event]:
    """Saves and unpacks as short slices that never overlap on their thread, joined by flows."""
    last: dict[tuple[int, int], Event] = {}
    moments = [(row["time_ns"], SAVES, row) for row in rows]
    moments += [(row["unpack_ns"], UNPACKS, row) for row in rows if row["unpack_ns"] is not None]
    for time_ns, tid, row in sorted(moments, key=lambda m: (m[0], m[1], m[2]["save_id"])):
        verb = "save" if tid == SAVES else "unpack"
        event = _slice(f"{verb} {row['op'] or 'tensor'}", row["rank"], tid, time_ns, time_ns)
        event["dur"] = _SLICE_US
        event["args"] = {name: row[name] for name in _SHOWN}
        before = last.get((row["rank"], tid))
        if before is not None:
            before["dur"] = min(before["dur"], (time_ns - before["ts"]) / 1000)
        last[row["rank"], tid] = event
        yield event
        if row["unpack_ns"] is not None:
            yield _flow(row, time_ns, tid)


def _flow(row: dict[str, Any], time_ns: int, tid: int) -> Event:
    end = {"bp": "e"} if tid == UNPACKS else {}
    return {
        "ph": "f" if end else "s", "id": row["flow"], "name": "saved tensor", "cat": "saved",
        "pid": row["rank"], "tid": tid, "ts": time_ns, **end,
    }  # fmt: skip


def _copies(rows: list[dict[str, Any]]) -> Iterator[Event]:
    """A thread per direction, stream and kind; a further one where copies overlap in time."""
    lanes: dict[tuple[Any, ...], tuple[int, int]] = {}  # thread -> (its number, busy until)
    for row in rows:
        labels = [word for word in ("simulated", "peer") if row[word]]
        name = row["direction"] + (f" ({', '.join(labels)})" if labels else "")
        kind, lane = (row["rank"], name, row["stream"]), 0
        while lanes.get((*kind, lane), (0, 0))[1] > row["start_ns"]:
            lane += 1
        number, _ = lanes.get((*kind, lane), (len(lanes), 0))
        lanes[(*kind, lane)] = (number, row["end_ns"])
        yield _slice(
            name, row["rank"], COPIES + number, row["start_ns"], row["end_ns"],
            bytes=row["bytes"], module=row["module"], pinned=row["pinned"], stream=row["stream"],
            simulated=row["simulated"],
        )  # fmt: skip


def _counters(rows: list[dict[str, Any]]) -> Iterator[Event]:
    for row in rows:
        for name in _COUNTERS:
            yield {
                "ph": "C", "name": f"{name}_bytes", "cat": "memory", "pid": row["rank"],
                "ts": row["time_ns"], "args": {"bytes": row[f"{name}_bytes"]},
            }  # fmt: skip


def _storages(rows: list[dict[str, Any]]) -> Iterator[Event]:
    total: dict[tuple[int, str], int] = {}
    for row in rows:
        place = (row["rank"], row["device"])
        total[place] = total.get(place, 0) + row["change"]
        kind, _, index = row["device"].partition(":")
        yield {
            "ph": "i", "s": "t", "name": "[memory]", "cat": "cpu_instant_event",
            "pid": row["rank"], "tid": STORAGES, "ts": row["time_ns"],
            "args": {
                "Device Type": 1 if kind == "cuda" else 0,
                "Device Id": int(index) if index.isdigit() else -1,
                "Addr": row["storage_id"],
                "Bytes": row["change"],
                "Total Allocated": total[place],
                "Total Reserved": total[place],
            },
        }  # fmt: skip


def _names(events: Iterable[Event]) -> Iterator[Event]:
    threads = {STEPS: "steps", SAVES: "saves", UNPACKS: "unpacks", STORAGES: "storages"}
    found: dict[tuple[int, int], str] = {}
    for event in events:
        if "tid" in event:
            tid = event["tid"]
            found[event["pid"], tid] = threads.get(tid) or f"copies: {event['name']}"
    for rank in sorted({rank for rank, _ in found}):
        yield _metadata("process_name", rank, 0, f"rank {rank}")
    for (rank, tid), name in sorted(found.items()):
        yield _metadata("thread_name", rank, tid, name)


def _metadata(kind: str, rank: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": rank, "tid": tid, "args": {"name": name}}


_SHOWN = (
    "save_id", "module", "shape", "dtype", "action", "logical_bytes", "host_bytes", "storage_id"
)  # fmt: skip
_WHERE = "WHERE ($step IS NULL OR step = $step)"
_STEPS = f"FROM steps {_WHERE} ORDER BY rank, step"
_SAVES = f"""
SELECT rank, op, time_ns, unpack_ns, row_number() OVER (ORDER BY rank, save_id) AS flow,
    {", ".join(_SHOWN)} FROM saves {_WHERE} ORDER BY rank, save_id
"""
_COPIES_SQL = f"FROM transfers {_WHERE} ORDER BY rank, start_ns, end_ns"
_MEMORY = f"FROM memory {_WHERE} ORDER BY rank, time_ns"
_STORAGES = f"""
SELECT * FROM (
    SELECT rank, device, storage_id, born_ns AS time_ns, bytes AS change FROM storages {_WHERE}
    UNION ALL
    SELECT rank, device, storage_id, died_ns, -bytes FROM storages {_WHERE} AND died_ns IS NOT NULL
) ORDER BY time_ns, change DESC, rank, storage_id
"""
