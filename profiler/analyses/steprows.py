"""The rows of one step of one rank, read once, for analyses that think in Python.

Contract: saves in the order of saving, nodes by sequence number, edges by their target.
Boundary: reads and indexes; draws no conclusion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from profiler.analyses.common import Rows, choose_step, rows_of

Row = dict[str, Any]
_ITEM_BYTES = {
    "float64": 8, "int64": 8, "complex64": 8, "complex128": 16, "float32": 4, "int32": 4,
    "bfloat16": 2, "float16": 2, "int16": 2,
}  # fmt: skip


@dataclass(frozen=True)
class StepRows:
    """What one rank recorded of one step."""

    step: int
    name: str
    rank: int
    start_ns: int
    end_ns: int
    saves: list[Row]
    storages: list[Row]  # all that lived in the step: what was there before counts too
    nodes: dict[int, Row]
    parents: dict[int, list[tuple[int, int]]]  # node -> (source node, its output)
    consumers: dict[tuple[int, int], list[int]] = field(default_factory=dict)


def read_step(run: Rows, step: int | None, rank: int | None = None) -> StepRows:
    """Return the rows of a step (the last with saves) of one rank (the lowest)."""
    number, name = choose_step(run, step)
    if rank is None:
        (lowest,) = rows_of(
            run, "SELECT coalesce(min(rank), 0) AS r FROM saves WHERE step = ?", [number]
        )
        rank = lowest["r"]
    at = [number, rank]
    times = rows_of(run, f"SELECT start_ns, end_ns FROM steps WHERE {_AT}", at)
    nodes = rows_of(run, f"SELECT seq, name, module, shape, dtype FROM nodes WHERE {_AT}", at)
    parents: dict[int, list[tuple[int, int]]] = {}
    consumers: dict[tuple[int, int], list[int]] = {}
    for row in rows_of(run, f"SELECT source, target, output FROM edges WHERE {_AT}", at):
        parents.setdefault(row["target"], []).append((row["source"], row["output"]))
        consumers.setdefault((row["source"], row["output"]), []).append(row["target"])
    saves = rows_of(run, f"FROM saves WHERE {_AT} ORDER BY save_id", at)
    of_param = {row["storage_id"] for row in saves if row["is_param"]}
    for row in saves:
        row["of_param"] = row["storage_id"] in of_param
    start = times[0]["start_ns"] if times else 0
    end = (times[0]["end_ns"] if times else None) or (1 << 62)
    return StepRows(
        step=number,
        name=name,
        rank=rank,
        start_ns=start,
        end_ns=end,
        saves=saves,
        storages=_lived(run, rank, start, end, {row["storage_id"] for row in saves}),
        nodes={row["seq"]: row for row in nodes},
        parents=parents,
        consumers=consumers,
    )


@lru_cache(maxsize=1 << 16)
def within(module: str, patterns: tuple[str, ...]) -> str | None:
    """The outermost module around `module` (or itself) that a shell pattern matches, or None."""
    parts = module.split(".") if module else []
    for count in range(len(parts) + 1):
        name = ".".join(parts[:count])
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return name
    return None


def item_bytes(row: Row) -> int:
    """Bytes of one element of a saved tensor."""
    count = math.prod(row["shape"])
    return max(1, row["logical_bytes"] // count) if count else 1


def node_bytes(node: Row) -> int:
    """Bytes of a node's first output, by its shape and type."""
    return int(math.prod(node["shape"])) * _ITEM_BYTES.get(node["dtype"], 1)


def _lived(run: Rows, rank: int, start: int, end: int, saved: set[int]) -> list[Row]:
    """The storages that lived in a span, and the saved ones whatever was noted of their lives.

    Two queries: in one, the second condition makes DuckDB read every row of a long run.
    """
    found = rows_of(run, _LIVED, [rank, end, start])
    missing = saved - {row["storage_id"] for row in found}
    if missing:
        found += rows_of(run, _NAMED, [rank, sorted(missing)])
        found.sort(key=lambda row: int(row["storage_id"]))
    return found


_AT = "step = ? AND rank = ?"
_LIVED = """
SELECT * FROM storages WHERE rank = ? AND born_ns <= ? AND (died_ns IS NULL OR died_ns > ?)
ORDER BY storage_id
"""
_NAMED = "SELECT * FROM storages WHERE rank = ? AND list_contains(?, storage_id)"
