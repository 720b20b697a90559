"""Diff: what one run's step holds that another's does not, by module and phase, causes first.

Contract: `a` is before, `b` after; every difference is b - a. Each saved storage counts whole, at
the module and operation that saved it first (parameters do not count), so the changes add up to
the difference of the totals exactly. Equal changes in equal layers are folded into one.
Boundary: aligns by names. Modules that were renamed appear as gone and new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from profiler.analyses.common import Result, Rows, choose_step, rows_of
from profiler.analyses.fold import fold_names

_Key = tuple[str, str, str]  # module, phase, op


@dataclass(frozen=True, kw_only=True)
class Change:
    """One kind of difference, in all the modules where it is the same."""

    modules: list[str]  # equal layers folded
    count: int  # modules
    phase: str
    op: str
    cause: str
    device_bytes: int  # of all of them together: b - a
    host_bytes: int


@dataclass(frozen=True, kw_only=True)
class Side:
    """The totals of one step."""

    run: str
    step: int
    name: str
    saves: int
    device_bytes: int  # that saves keep on the device
    host_bytes: int
    d2h_bytes: int
    h2d_bytes: int
    peak_bytes: int | None
    forward_ns: int | None
    backward_ns: int | None


@dataclass(frozen=True, kw_only=True)
class Diff(Result):
    """Two steps side by side; the largest changes first."""

    a: Side
    b: Side
    changes: list[Change] = field(default_factory=list)
    equal_modules: int = 0  # modules of both that hold the same


def diff(a: Rows, b: Rows, step_a: int | None = None, step_b: int | None = None) -> Diff:
    """Compare a step of each run (the last with saves); ValueError for an unknown step."""
    (side_a, saves_a), (side_b, saves_b) = _side(a, step_a), _side(b, step_b)
    groups_a, groups_b = _groups(saves_a), _groups(saves_b)
    found: dict[tuple[Any, ...], list[str]] = {}
    changed: set[str] = set()
    for key in dict.fromkeys([*groups_a, *groups_b]):
        one, other = groups_a.get(key), groups_b.get(key)
        cause = _cause(one, other)
        if cause is not None:
            module, phase, op = key
            device, host = (_of(other, n) - _of(one, n) for n in ("device", "host"))
            found.setdefault((phase, op, cause, device, host), []).append(module)
            changed.add(module)
    changes = [_change(mark, modules) for mark, modules in found.items()]
    changes.sort(key=lambda c: (-abs(c.device_bytes) - abs(c.host_bytes), c.modules, c.op))
    both = {module for module, _, _ in groups_a} & {module for module, _, _ in groups_b}
    return Diff(a=side_a, b=side_b, changes=changes, equal_modules=len(both - changed))


@dataclass(slots=True)
class _Saves:
    """What one operation of one module saved in one phase."""

    device: int = 0
    host: int = 0
    shapes: list[Any] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    firsts: int = 0


def _groups(saves: list[dict[str, Any]]) -> dict[_Key, _Saves]:
    found: dict[_Key, _Saves] = {}
    for row in saves:
        group = found.setdefault((row["module"], row["phase"], row["op"]), _Saves())
        group.device += row["device"]
        group.host += row["host_bytes"]
        group.firsts += row["device"] > 0
        group.shapes.append(tuple(row["shape"]))
        group.dtypes.append(row["dtype"])
        group.actions.append(row["action"])
    return found


def _of(group: _Saves | None, name: str) -> int:
    return int(getattr(group, name)) if group is not None else 0


def _cause(one: _Saves | None, other: _Saves | None) -> str | None:
    """Why the two differ, by what explains most; None where they do not."""
    if one is None or other is None:
        return "only in a" if other is None else "only in b"
    if len(one.shapes) != len(other.shapes):
        return f"saved {_times(one)} in a, {_times(other)} in b"
    for name, values in (("dtype", "dtypes"), ("shape", "shapes"), ("action", "actions")):
        left, right = sorted(getattr(one, values)), sorted(getattr(other, values))
        if left != right:
            return f"{name} {_differing(left, right)} -> {_differing(right, left)}"
    if (one.device, one.host) == (other.device, other.host):
        return None
    if one.firsts != other.firsts:
        return f"{one.firsts} storages of its own in a, {other.firsts} in b"
    return "the same tensors in storages of another size"


def _times(group: _Saves) -> str:
    return "once" if len(group.shapes) == 1 else f"{len(group.shapes)} times"


def _differing(mine: list[Any], others: list[Any]) -> str:
    """The values that the other side has not, or has less often."""
    only = Counter(mine) - Counter(others)
    return ", ".join(str(list(v)) if isinstance(v, tuple) else str(v) for v in only)


def _change(mark: tuple[Any, ...], modules: Iterable[str]) -> Change:
    phase, op, cause, device, host = mark
    names = list(modules)
    return Change(
        modules=fold_names(names),
        count=len(names),
        phase=phase,
        op=op,
        cause=cause,
        device_bytes=device * len(names),
        host_bytes=host * len(names),
    )


def _side(run: Rows, step: int | None) -> tuple[Side, list[dict[str, Any]]]:
    """The totals of a step, and its saves."""
    number, name = choose_step(run, step)
    values = {"step": number}
    rows = rows_of(run, _SAVES, values)
    (moved,) = rows_of(run, _MOVED, values)
    times = rows_of(run, _TIMES, values)
    side = Side(
        run=str(getattr(run, "path", "")),
        step=number,
        name=name,
        saves=len(rows),
        device_bytes=sum(row["device"] for row in rows),
        host_bytes=sum(row["host_bytes"] for row in rows),
        **moved,
        **(times[0] if times else dict.fromkeys(("peak_bytes", "forward_ns", "backward_ns"))),
    )
    return side, rows


# A storage counts at its first kept save; what was rebuilt or copied keeps nothing there.
_SAVES = """
WITH mine AS (
    SELECT *, bool_or(is_param) OVER (PARTITION BY rank, storage_id) AS of_param,
        row_number() OVER (PARTITION BY rank, storage_id, action = 'kept' ORDER BY save_id) AS place
    FROM saves WHERE step = $step
)
SELECT module, phase, op, shape, dtype, action, host_bytes,
    if(action = 'kept' AND NOT of_param AND place = 1, storage_bytes, 0) AS device
FROM mine ORDER BY rank, save_id
"""

_MOVED = """
SELECT coalesce(sum(bytes) FILTER (direction = 'd2h' AND NOT peer), 0) AS d2h_bytes,
    coalesce(sum(bytes) FILTER (direction = 'h2d' AND NOT peer), 0) AS h2d_bytes
FROM transfers WHERE step = $step
"""

_TIMES = """
SELECT max(peak_bytes) AS peak_bytes, max(forward_end_ns - start_ns) AS forward_ns,
    max(end_ns - forward_end_ns) AS backward_ns
FROM steps WHERE step = $step HAVING count(*) > 0
"""
