"""The autograd nodes around one node: whose outputs it uses, and who uses its own.

Contract: every node within `hops` edges of the one asked for, nearest first, at most `limit`;
those left out are counted. Edges are in the direction of forward, among the nodes given.
Boundary: one step of one rank; no drawing. What a node saves is `blocks.saves_between`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from profiler.analyses.common import Result, Rows, rows_of


@dataclass(frozen=True, kw_only=True)
class Near:
    """One node."""

    seq: int  # negative for a leaf, where the gradient of a parameter arrives
    name: str
    module: str
    distance: int  # edges away from the node asked for
    shape: list[int]  # of its first output
    saves: int
    saved_bytes: int


@dataclass(frozen=True, kw_only=True)
class Neighbourhood(Result):
    """The nodes around `seq`, which is the first of them."""

    step: int
    rank: int
    seq: int
    nodes: list[Near]
    edges: list[tuple[int, int]]  # (source, target)
    more: int  # nodes within reach that are not given


def neighbourhood(
    run: Rows, step: int, seq: int, *, rank: int = 0, hops: int = 2, limit: int = 40
) -> Neighbourhood:
    """The nodes within `hops` edges of the node `seq`.

    ValueError: no such node in this step, hops negative, or limit below 1.
    """
    if hops < 0 or limit < 1:
        raise ValueError(f"hops, limit: got {hops}, {limit}, must be at least 0 and 1")
    values = {"step": step, "rank": rank}
    away = {seq: 0}
    for distance in range(1, hops + 1):
        beside = rows_of(run, _BESIDE, {**values, "known": list(away)})
        for row in beside:
            away.setdefault(row["seq"], distance)
    nodes = rows_of(run, _NODES, {**values, "wanted": list(away)})
    if all(row["seq"] != seq for row in nodes):
        raise ValueError(f"seq: got {seq}, but step {step} of rank {rank} has no such node")
    nodes.sort(key=lambda row: (away[row["seq"]], -row["saved_bytes"], abs(row["seq"] - seq)))
    given = [_near(row, away) for row in nodes[:limit]]
    kept = [node.seq for node in given]
    edges = rows_of(run, _EDGES, {**values, "kept": kept})
    return Neighbourhood(
        step=step,
        rank=rank,
        seq=seq,
        nodes=given,
        edges=[(row["source"], row["target"]) for row in edges],
        more=len(nodes) - len(given),
    )


def nodes_between(
    run: Rows, step: int, first_seq: int, last_seq: int, *, rank: int = 0, limit: int = 200
) -> list[dict[str, Any]]:
    """The nodes of a box (seq, name, module), those that save most first."""
    values = {"step": step, "rank": rank, "first": first_seq, "last": last_seq, "limit": limit}
    return rows_of(run, _BETWEEN, values)


def _near(row: dict[str, Any], away: dict[int, int]) -> Near:
    return Near(
        seq=row["seq"],
        name=row["name"],
        module=row["module"],
        distance=away[row["seq"]],
        shape=row["shape"],
        saves=row["saves"],
        saved_bytes=row["saved_bytes"],
    )


_BESIDE = """
SELECT DISTINCT if(list_contains($known, source), target, source) AS seq FROM edges
WHERE step = $step AND rank = $rank
    AND list_contains($known, source) <> list_contains($known, target)
"""

_NODES = """
SELECT n.seq, any_value(n.name) AS name, any_value(n.module) AS module,
    any_value(n.shape) AS shape, count(v.save_id) AS saves,
    coalesce(sum(v.logical_bytes), 0) AS saved_bytes
FROM nodes n LEFT JOIN saves v
    ON v.rank = n.rank AND v.step = n.step AND v.node_seq = n.seq
WHERE n.step = $step AND n.rank = $rank AND list_contains($wanted, n.seq)
GROUP BY n.seq
"""

_EDGES = """
SELECT DISTINCT source, target FROM edges
WHERE step = $step AND rank = $rank
    AND list_contains($kept, source) AND list_contains($kept, target)
ORDER BY source, target
"""

_BETWEEN = """
SELECT n.seq, any_value(n.name) AS name, any_value(n.module) AS module,
    coalesce(sum(v.logical_bytes), 0) AS saved_bytes
FROM nodes n LEFT JOIN saves v
    ON v.rank = n.rank AND v.step = n.step AND v.node_seq = n.seq
WHERE n.step = $step AND n.rank = $rank AND n.seq BETWEEN $first AND $last
GROUP BY n.seq ORDER BY saved_bytes DESC, n.seq LIMIT $limit
"""
