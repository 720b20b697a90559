"""Places: what autograd keeps in one step as a tree of modules and, inside them, operations.

Contract: bytes are those of the ledger (a storage counts whole and once, at the module that saved
it first; parameters do not count), so the root's total is the ledger's unique_bytes. At most
`limit` nodes; what is left out stands beside its siblings as "n smaller items", bytes included.
Boundary: one step, ranks added up. A run at level `summary` has modules and no operations.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from profiler.analyses.common import Result, Rows, choose_step, rows_of, source_line

SEPARATOR = "\x1f"  # parts a node's path; no module name holds it


@dataclass(frozen=True, kw_only=True)
class Place:
    """One node of the tree. `path` is its id; the root's is ""."""

    path: str
    parent: str | None
    label: str
    kind: str  # module | op | rest
    module: str
    op: str = ""
    self_bytes: int = 0  # kept here
    total_bytes: int = 0  # kept here and in everything inside
    saves: int = 0  # here and inside
    items: int = 1  # how many places a "rest" stands for


@dataclass(frozen=True, kw_only=True)
class Places(Result):
    """The tree, parents before children, siblings largest first."""

    step: int
    name: str
    nodes: list[Place]


@dataclass(frozen=True, kw_only=True)
class SourceLine:
    """One line of code and what the operations on it keep."""

    source: str
    op: str
    module: str
    saves: int
    unique_bytes: int
    logical_bytes: int


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One kind of operation over the whole step."""

    op: str
    saves: int
    unique_bytes: int  # new storages
    aliased_bytes: int  # of storages that an earlier save keeps
    param_bytes: int  # of parameters


def places(run: Rows, step: int | None = None, *, limit: int = 1500) -> Places:
    """The tree of a step (the last one with saves); ValueError for an unknown step."""
    number, name = choose_step(run, step)
    values = {"step": number}
    rows = rows_of(run, _BY_OP, values) or rows_of(run, _BY_MODULE, values)
    return Places(step=number, name=name, nodes=_trimmed(_tree(rows), limit))


def source_lines(
    run: Rows, step: int, module: str = "", op: str = "", *, limit: int = 100
) -> list[SourceLine]:
    """The lines of code whose operations save, inside `module` (all: ""), largest first."""
    rows = rows_of(run, _LINES, {"step": step, "module": module, "op": op, "limit": limit})
    return [
        SourceLine(
            source=source_line(row["frames"] or []),
            **{k: v for k, v in row.items() if k != "frames"},
        )
        for row in rows
    ]


def operations(run: Rows, step: int | None = None) -> list[Operation]:
    """What each kind of operation keeps in a step, largest first; empty at level `summary`."""
    number, _ = choose_step(run, step)
    return [Operation(**row) for row in rows_of(run, _OPERATIONS, {"step": number})]


def _tree(rows: list[dict[str, Any]]) -> dict[str, Place]:
    """Every place by its path, totals included."""
    own: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    saves: dict[str, int] = defaultdict(int)
    about: dict[str, tuple[str | None, str, str, str, str]] = {
        "": (None, "model", "module", "", "")
    }
    for row in rows:
        chain = _chain(row["module"], row["op"], about)
        for path in chain:
            total[path] += row["bytes"]
            saves[path] += row["saves"]
        own[chain[-1]] += row["bytes"]
        if row["op"]:
            own[chain[-2]] += row["bytes"]
    return {
        path: Place(
            path=path, parent=parent, label=label, kind=kind, module=module, op=op,
            self_bytes=own[path], total_bytes=total[path], saves=saves[path],
        )
        for path, (parent, label, kind, module, op) in about.items()
    }  # fmt: skip


def _chain(
    module: str, op: str, about: dict[str, tuple[str | None, str, str, str, str]]
) -> list[str]:
    """The paths from the root to an operation of a module; describes the new ones."""
    paths, parts = [""], module.split(".") if module else []
    for depth, part in enumerate(parts):
        path = SEPARATOR.join(parts[: depth + 1])
        name = ".".join(parts[: depth + 1])
        about.setdefault(path, (paths[-1], part, "module", name, ""))
        paths.append(path)
    if op:
        path = f"{paths[-1]}{SEPARATOR}{SEPARATOR}{op}"
        about.setdefault(path, (paths[-1], op, "op", module, op))
        paths.append(path)
    return paths


def _trimmed(tree: dict[str, Place], limit: int) -> list[Place]:
    """The largest places, parents first, and one "rest" per parent that lost children."""
    children: dict[str, list[Place]] = defaultdict(list)
    for place in tree.values():
        if place.parent is not None:
            children[place.parent].append(place)
    by_size = sorted(tree.values(), key=lambda p: (-p.total_bytes, p.path.count(SEPARATOR), p.path))
    # A rest stands beside places that are kept, one per parent: half the room is theirs.
    room = limit if len(tree) <= limit else limit // 2
    kept: set[str] = set()
    for place in by_size[:room]:
        if place.parent is None or place.parent in kept:
            kept.add(place.path)
    return _ordered(tree[""], children, kept)


def _ordered(root: Place, children: dict[str, list[Place]], kept: set[str]) -> list[Place]:
    out, level = [root], [root]
    while level:
        following = []
        for place in level:
            inside = sorted(children[place.path], key=lambda p: (-p.total_bytes, p.path))
            following += [child for child in inside if child.path in kept]
            lost = [child for child in inside if child.path not in kept]
            if lost:
                out.append(_rest(place, lost))
        out += following
        level = following
    return out


def _rest(parent: Place, lost: list[Place]) -> Place:
    return Place(
        path=f"{parent.path}{SEPARATOR}{SEPARATOR}{SEPARATOR}rest",
        parent=parent.path,
        label=f"{len(lost)} smaller items",
        kind="rest",
        module=parent.module,
        total_bytes=sum(place.total_bytes for place in lost),
        saves=sum(place.saves for place in lost),
        items=len(lost),
    )


_ORDERED = """
WITH ordered AS (
    SELECT *, row_number() OVER (PARTITION BY rank, storage_id ORDER BY save_id) = 1 AS is_first,
        bool_or(is_param) OVER (PARTITION BY rank, storage_id) AS of_param
    FROM saves WHERE step = $step
)
"""

_BY_OP = f"""
{_ORDERED}
SELECT module, if(op = '', 'unknown operation', op) AS op, count(*) AS saves,
    sum(if(is_first AND NOT of_param, storage_bytes, 0)) AS bytes
FROM ordered GROUP BY ALL ORDER BY module, op
"""

_BY_MODULE = """
SELECT module, '' AS op, sum(saves) AS saves, sum(unique_bytes) AS bytes FROM totals
WHERE step = $step GROUP BY module ORDER BY module
"""

_LINES = f"""
{_ORDERED}
SELECT any_value(k.frames) AS frames, o.op, o.module, count(*) AS saves,
    sum(if(is_first AND NOT of_param, storage_bytes, 0)) AS unique_bytes,
    sum(logical_bytes) AS logical_bytes
FROM ordered o LEFT JOIN stacks k ON k.rank = o.rank AND k.stack_id = o.stack_id
WHERE ($module = '' OR o.module = $module OR starts_with(o.module, $module || '.'))
    AND ($op = '' OR (o.op = $op AND o.module = $module))
GROUP BY o.stack_id, o.rank, o.op, o.module
ORDER BY unique_bytes DESC, logical_bytes DESC, o.module, o.op, o.rank, o.stack_id LIMIT $limit
"""

_OPERATIONS = f"""
{_ORDERED}
SELECT op, count(*) AS saves,
    sum(if(is_first AND NOT of_param, storage_bytes, 0)) AS unique_bytes,
    sum(if(NOT is_first AND NOT of_param, logical_bytes, 0)) AS aliased_bytes,
    sum(if(of_param, logical_bytes, 0)) AS param_bytes
FROM ordered GROUP BY op ORDER BY unique_bytes DESC, saves DESC, op
"""
