"""A PyTorch memory snapshot for memory_viz (https://pytorch.org/memory_viz): written, never read.

Contract: pickle protocol 4 of dicts, lists, text and whole numbers only. There is one synthetic
device per rank and device; every storage has an address of its own in one large segment, in the
order of storage ids, so an address is never used twice. Blocks tile their segment. Categories are
ours; the event that makes the segment carries the "unknown" that the viewer cannot do without.
Boundary: storages that were seen by the tracer; memory nobody showed it is not in the picture.
"""

from __future__ import annotations

import pickle
from typing import Any

from profiler.analyses.common import rows_of
from profiler.exports.limits import check_size
from profiler.query import Run

BASE = 1 << 40  # first address: far from 0, far below what a JavaScript number holds exactly
_Row = dict[str, Any]


def build(run: Run, step: int | None = None) -> bytes:
    """Return the pickle of all storages, or of those first seen in one step."""
    check_size(run, step, "storages")
    frames = _frames(run)
    devices: dict[tuple[int, str], list[_Row]] = {}
    for row in rows_of(run, _STORAGES, {"step": step}):
        row["frames"] = frames.get((row["rank"], row["stack_id"]), [])
        devices.setdefault((row["rank"], row["device"]), []).append(row)
    traces, segments = [], []
    for number, rows in enumerate(devices.values()):
        _place(rows)
        traces.append(_trace(rows))
        segments.append(_segment(rows, number))
    labels = [f"rank {rank}, {device}" for rank, device in devices]
    whole = {"segments": segments, "device_traces": traces, "profiler_devices": labels}
    return pickle.dumps(whole, protocol=4)


def _place(rows: list[_Row]) -> None:
    address = BASE
    for row in rows:
        row["addr"] = address
        address += row["bytes"]


def _trace(rows: list[_Row]) -> list[_Row]:
    """Return allocations and frees in the order of time."""
    total = sum(row["bytes"] for row in rows)
    start = min(row["born_ns"] for row in rows)
    events = [(start - 1, 0, _event("segment_alloc", BASE, total, start, [], "unknown"))]
    for row in rows:
        events.append((row["born_ns"], 1, _of_storage("alloc", row, row["born_ns"])))
        if row["died_ns"] is not None:
            died = max(row["died_ns"], row["born_ns"])
            events.append((died, 2, _of_storage("free_requested", row, died)))
            events.append((died, 2, _of_storage("free_completed", row, died)))
    events.sort(key=lambda event: event[:2])  # stable: a free stays requested, then completed
    return [event for _, _, event in events]


def _of_storage(action: str, row: _Row, time_ns: int) -> _Row:
    return _event(action, row["addr"], row["bytes"], time_ns, row["frames"], row["category"])


def _event(
    action: str, addr: int, size: int, time_ns: int, frames: list[_Row], category: str
) -> _Row:
    return {
        "action": action, "addr": addr, "size": size, "stream": 0, "time_us": time_ns // 1000,
        "frames": frames, "category": category,
    }  # fmt: skip


def _segment(rows: list[_Row], device: int) -> _Row:
    blocks: list[_Row] = []
    for row in rows:
        alive = row["died_ns"] is None
        blocks.append({
            "address": row["addr"],
            "size": row["bytes"],
            "requested_size": row["bytes"] if alive else 0,
            "state": "active_allocated" if alive else "inactive",
            "frames": row["frames"] if alive else [],
        })  # fmt: skip
    total = sum(block["size"] for block in blocks)
    active = sum(block["requested_size"] for block in blocks)
    return {
        "device": device, "address": BASE, "total_size": total, "allocated_size": active,
        "active_size": active, "requested_size": active, "stream": 0, "segment_type": "large",
        "segment_pool_id": [0, 0], "is_expandable": False, "frames": [], "blocks": blocks,
    }  # fmt: skip


def _frames(run: Run) -> dict[tuple[int, int | None], list[_Row]]:
    found: dict[tuple[int, int | None], list[_Row]] = {}
    for row in rows_of(run, "SELECT rank, stack_id, frames FROM stacks"):
        found[row["rank"], row["stack_id"]] = [_frame(text) for text in row["frames"]]
    return found


def _frame(text: str) -> _Row:
    """Split "file:line:function"; a file may hold colons, a function may not."""
    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not parts[1].isdigit():
        return {"filename": text, "line": 0, "name": ""}
    return {"filename": parts[0], "line": int(parts[1]), "name": parts[2]}


# Storages without bytes would share their address with the next one.
_STORAGES = """
WITH first_saves AS (
    SELECT rank, storage_id, arg_min(stack_id, save_id) AS stack_id FROM saves GROUP BY ALL
)
SELECT t.rank, t.storage_id, t.bytes, t.device, t.category, t.born_ns, t.died_ns, f.stack_id
FROM storages t
LEFT JOIN first_saves f ON f.rank = t.rank AND f.storage_id = t.storage_id
WHERE t.bytes > 0 AND ($step IS NULL OR t.step = $step)
ORDER BY t.rank, t.device, t.storage_id
"""
