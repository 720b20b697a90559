"""Duplicates: storages that autograd saved, or an offloader copied, more than once in a step.

Contract: a group is one storage with its saves in order, and with them the saves that a policy
rebuilt from it (alias_of) though they had a storage of their own. Of each save the bytes that no
earlier save of the group touched are needed; the rest is repeated. `repeated_bytes` is what an
offloader without deduplication sends again; `wasted_bytes` is host memory that was in fact filled
again. Slices that do not overlap are no duplicates, however many there are.
Boundary: identity, not content: equal values in unrelated storages are not found here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from profiler.analyses.common import Result, Rows, choose_step, rows_of, source_line
from profiler.analyses.coverage import Coverage, touched_bytes


@dataclass(frozen=True, kw_only=True)
class Member:
    """One save of a group, in the order of saving."""

    save_id: int
    op: str
    module: str
    node_seq: int | None
    shape: list[int]
    stride: list[int]
    storage_offset: int
    dtype: str
    storage_id: int
    logical_bytes: int
    repeated_bytes: int  # bytes of it that the group held already
    relation: str  # first | same | transposed | view | derived
    action: str
    hops: int | None
    finder: str | None
    host_bytes: int
    wasted_bytes: int
    source: str  # innermost source line outside torch, "file:line:function"


@dataclass(frozen=True, kw_only=True)
class Group:
    """One storage that was saved more than once."""

    rank: int
    storage_id: int
    storage_bytes: int
    device: str
    category: str
    is_param: bool
    last_keeper: str  # op of the last save that kept it alive
    logical_bytes: int
    repeated_bytes: int
    host_bytes: int
    wasted_bytes: int
    exact: bool  # False where overlap is an upper bound (see coverage)
    members: list[Member]


@dataclass(frozen=True, kw_only=True)
class Duplicates(Result):
    """The duplicates of one step, largest wasted_bytes, then largest repeated_bytes first."""

    step: int
    name: str
    groups: list[Group]
    saves: int  # of the whole step
    repeated_bytes: int
    wasted_bytes: int
    hops: dict[int, int] = field(default_factory=dict)  # operations to the original -> saves
    finders: dict[str, int] = field(default_factory=dict)


def duplicates(run: Rows, step: int | None = None, *, parameters: bool = True) -> Duplicates:
    """Return the duplicates of a step (the last one with saves).

    parameters: whether storages of parameters are listed too (they are in memory anyway, but an
    offloader may copy them). ValueError for an unknown step.
    """
    number, name = choose_step(run, step)
    saves = rows_of(run, _SAVES, {"step": number})
    groups = [_group(rows) for rows in _by_root(saves) if len(rows) > 1]
    groups = [g for g in groups if g.repeated_bytes and (parameters or not g.is_param)]
    groups.sort(key=lambda g: (-g.wasted_bytes, -g.repeated_bytes, g.rank, g.storage_id))
    return Duplicates(
        step=number,
        name=name,
        groups=groups,
        saves=len(saves),
        repeated_bytes=sum(g.repeated_bytes for g in groups),
        wasted_bytes=sum(g.wasted_bytes for g in groups),
        hops=_count(row["hops"] for row in saves),
        finders=_count(row["finder"] for row in saves),
    )


def _by_root(saves: list[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """Group saves by storage; one rebuilt from another save joins that save's group."""
    root_of: dict[tuple[int, int], tuple[int, int]] = {}  # (rank, save) -> (rank, storage)
    groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in saves:
        own = (row["rank"], row["storage_id"])
        root = root_of.get((row["rank"], row["alias_of"]), own)
        root_of[row["rank"], row["save_id"]] = root
        groups.setdefault(root, []).append(row)
    return groups.values()


def _group(rows: list[dict[str, Any]]) -> Group:
    first = rows[0]
    touched, copied = Coverage(), Coverage()
    members = [_member(row, first, touched, copied) for row in rows]
    return Group(
        rank=first["rank"],
        storage_id=first["storage_id"],
        storage_bytes=first["storage_bytes"],
        device=first["device"],
        category=first["category"],
        is_param=any(row["is_param"] for row in rows),
        last_keeper=first["last_keeper"],
        logical_bytes=sum(m.logical_bytes for m in members),
        repeated_bytes=sum(m.repeated_bytes for m in members),
        host_bytes=sum(m.host_bytes for m in members),
        wasted_bytes=sum(m.wasted_bytes for m in members),
        exact=touched.exact and copied.exact,
        members=members,
    )


def _member(
    row: dict[str, Any], first: dict[str, Any], touched: Coverage, copied: Coverage
) -> Member:
    derived = row["storage_id"] != first["storage_id"]
    new = 0.0 if derived else _new_share(row, touched)
    wasted = 0
    if row["host_bytes"] and not derived:
        wasted = round(row["host_bytes"] * (1 - _new_share(row, copied)))
    return Member(
        **{name: row[name] for name in _COPIED},
        repeated_bytes=round(row["logical_bytes"] * (1 - new)),
        wasted_bytes=wasted,
        relation=_relation(row, first, derived),
        source=source_line(row["frames"] or []),
    )


def _new_share(row: dict[str, Any], coverage: Coverage) -> float:
    """Return which part of what a save touches was not touched before, from 0 to 1."""
    shape, stride = row["shape"], row["stride"]
    count = 1
    for size in shape:
        count *= size
    if not count or not row["logical_bytes"]:
        return 0.0
    if len(stride) != len(shape):  # a layout without strides: all or nothing
        shape, stride, count = [row["logical_bytes"]], [1], row["logical_bytes"]
    itemsize = max(1, row["logical_bytes"] // count)
    new = coverage.add(shape, stride, row["storage_offset"], itemsize)
    return min(1.0, new / touched_bytes(shape, stride, itemsize))


def _relation(row: dict[str, Any], first: dict[str, Any], derived: bool) -> str:
    if row is first:
        return "first"
    if derived:
        return "derived"
    layout = ("storage_offset", "dtype")
    same_place = all(row[name] == first[name] for name in layout)
    if same_place and row["shape"] == first["shape"] and row["stride"] == first["stride"]:
        return "same"
    dimensions = sorted(zip(row["shape"], row["stride"], strict=False))
    of_first = sorted(zip(first["shape"], first["stride"], strict=False))
    return "transposed" if same_place and dimensions == of_first else "view"


def _count(values: Iterable[Any]) -> dict[Any, int]:
    counted: dict[Any, int] = {}
    for value in values:
        if value is not None:
            counted[value] = counted.get(value, 0) + 1
    return dict(sorted(counted.items()))


_COPIED = (
    "save_id", "op", "module", "node_seq", "shape", "stride", "storage_offset", "dtype",
    "storage_id", "logical_bytes", "action", "hops", "finder", "host_bytes",
)  # fmt: skip

_SAVES = """
SELECT v.rank, v.save_id, v.op, v.module, v.node_seq, v.shape, v.stride, v.storage_offset,
    v.dtype, v.device, v.storage_id, v.storage_bytes, v.logical_bytes, v.is_param, v.action,
    v.alias_of, v.hops, v.finder, v.host_bytes, k.frames,
    coalesce(t.category, 'saved') AS category, coalesce(t.last_keeper, '') AS last_keeper
FROM saves v
LEFT JOIN stacks k ON k.rank = v.rank AND k.stack_id = v.stack_id
LEFT JOIN storages t ON t.rank = v.rank AND t.storage_id = v.storage_id
WHERE v.step = $step ORDER BY v.rank, v.save_id
"""
