"""The autograd graph in few boxes: neighbours in time of one module become one box.

Contract: a box is an unbroken run of autograd sequence numbers inside one module, its name cut to
`depth` parts; edges lead from earlier boxes to later ones only, so the boxes form no cycle. Every
node that saves is in exactly one box. Leaves (AccumulateGrad) are counted, not drawn.
Boundary: no drawing. One step of one rank.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from profiler.analyses.common import Result, Rows, choose_step, rows_of, source_line

EVERY_NODE = 0  # the depth that stands for one box per node


@dataclass(frozen=True, kw_only=True)
class Box:
    """A run of nodes."""

    index: int
    module: str
    first_seq: int
    last_seq: int
    nodes: int
    operations: list[str]  # those that save most, then the most frequent; no "Backward0"
    saves: int
    saved_bytes: int  # as saved, whatever is saved twice included
    unique_bytes: int  # storages that no earlier save of the step keeps, without parameters


@dataclass(frozen=True, kw_only=True)
class Blocks(Result):
    """The boxes in order of time, and (source, target, edges) between them."""

    step: int
    name: str
    depth: int
    depths: dict[int, int]  # depth that can be asked for -> boxes it gives
    boxes: list[Box]
    links: list[tuple[int, int, int]]
    nodes: int
    leaves: int


def blocks(
    run: Rows, step: int | None = None, *, rank: int = 0, depth: int | None = None,
    limit: int = 400, comfortable: int = 60,
) -> Blocks:  # fmt: skip
    """The boxes of a step (the last one with saves).

    depth: how many parts of a module's name tell boxes apart; EVERY_NODE for one box per node.
    None takes the finest that has at most `comfortable` boxes. More than `limit` boxes are never
    given: ValueError for a depth that needs them, and for an unknown step.
    """
    number, name = choose_step(run, step)
    values = {"step": number, "rank": rank}
    nodes = rows_of(run, _NODES, values)
    depths = {each: count for each, count in _depths(nodes).items() if count <= limit}
    chosen = _finest(depths, comfortable) if depth is None else depth
    if chosen not in depths and nodes:
        raise ValueError(f"depth: got {depth}, must be one of {sorted(depths)}")
    boxes, box_of = _boxes(nodes, chosen)
    links: Counter[tuple[int, int]] = Counter()
    for row in rows_of(run, _EDGES, values):
        source, target = box_of.get(row["source"]), box_of.get(row["target"])
        if source is not None and target is not None and source != target:
            links[source, target] += 1
    (leaves,) = rows_of(run, _LEAVES, values)
    return Blocks(
        step=number, name=name, depth=chosen, depths=depths, boxes=boxes,
        links=[(a, b, count) for (a, b), count in sorted(links.items())],
        nodes=len(nodes), leaves=leaves["leaves"],
    )  # fmt: skip


def saves_between(
    run: Rows, step: int, first_seq: int, last_seq: int, *, rank: int = 0, limit: int = 200
) -> list[dict[str, Any]]:
    """What the nodes of a box save, largest first, with the source line of each."""
    values = {"step": step, "rank": rank, "first": first_seq, "last": last_seq, "limit": limit}
    rows = rows_of(run, _SAVES, values)
    return [
        {
            **{k: v for k, v in row.items() if k != "frames"},
            "source": source_line(row["frames"] or []),
        }
        for row in rows
    ]


def _depths(nodes: list[dict[str, Any]]) -> dict[int, int]:
    """Boxes per depth, from coarse to fine; the finest is one per node."""
    deepest = max((1 + row["module"].count(".") for row in nodes), default=1)
    counts = {depth: len(_runs(nodes, depth)) for depth in range(1, deepest + 1)}
    return {**counts, EVERY_NODE: len(nodes)}


def _finest(depths: dict[int, int], comfortable: int) -> int:
    fits = [depth for depth, count in depths.items() if count <= comfortable]
    return fits[-1] if fits else next(iter(depths), 1)


def _runs(nodes: list[dict[str, Any]], depth: int) -> list[list[dict[str, Any]]]:
    runs: list[list[dict[str, Any]]] = []
    before = None
    for row in nodes:
        name = ".".join(row["module"].split(".")[:depth])
        if not runs or depth == EVERY_NODE or name != before:
            runs.append([])
        runs[-1].append({**row, "module": row["module"] if depth == EVERY_NODE else name})
        before = name
    return runs


def _boxes(nodes: list[dict[str, Any]], depth: int) -> tuple[list[Box], dict[int, int]]:
    boxes, box_of = [], {}
    for index, rows in enumerate(_runs(nodes, depth)):
        box_of.update({row["seq"]: index for row in rows})
        weights: Counter[str] = Counter()
        for row in rows:
            weights[_short(row["name"])] += 1 + 1000 * row["saved_bytes"]
        boxes.append(
            Box(
                index=index, module=rows[0]["module"], first_seq=rows[0]["seq"],
                last_seq=rows[-1]["seq"], nodes=len(rows),
                operations=[name for name, _ in weights.most_common(4)],
                saves=sum(row["saves"] for row in rows),
                saved_bytes=sum(row["saved_bytes"] for row in rows),
                unique_bytes=sum(row["unique_bytes"] for row in rows),
            )
        )  # fmt: skip
    return boxes, box_of


def _short(name: str) -> str:
    """Without what all nodes end in; of a custom operation its own name."""
    plain = name.rstrip("0123456789").removesuffix("Backward").lstrip("_")
    custom = plain.removeprefix("GeneratedBackwardFor_").removesuffix("_default")
    return custom or plain or name


_NODES = """
WITH ordered AS (
    SELECT *, row_number() OVER (PARTITION BY storage_id ORDER BY save_id) = 1 AS is_first,
        bool_or(is_param) OVER (PARTITION BY storage_id) AS of_param
    FROM saves WHERE step = $step AND rank = $rank
), kept AS (
    SELECT node_seq, count(*) AS saves, sum(logical_bytes) AS saved_bytes,
        sum(if(is_first AND NOT of_param, storage_bytes, 0)) AS unique_bytes
    FROM ordered WHERE node_seq IS NOT NULL GROUP BY 1
)
SELECT n.seq, n.name, n.module, coalesce(k.saves, 0) AS saves,
    coalesce(k.saved_bytes, 0) AS saved_bytes, coalesce(k.unique_bytes, 0) AS unique_bytes
FROM nodes n LEFT JOIN kept k ON k.node_seq = n.seq
WHERE n.step = $step AND n.rank = $rank AND n.seq >= 0 ORDER BY n.seq
"""

_EDGES = "SELECT source, target FROM edges WHERE step = $step AND rank = $rank"

_LEAVES = """
SELECT count(*) AS leaves FROM nodes WHERE step = $step AND rank = $rank AND seq < 0
"""

_SAVES = """
SELECT v.save_id, v.op, v.module, v.shape, v.dtype, v.storage_id, v.logical_bytes,
    v.storage_bytes, v.is_param, v.action, k.frames
FROM saves v LEFT JOIN stacks k ON k.rank = v.rank AND k.stack_id = v.stack_id
WHERE v.step = $step AND v.rank = $rank AND v.node_seq BETWEEN $first AND $last
ORDER BY v.logical_bytes DESC, v.save_id LIMIT $limit
"""
