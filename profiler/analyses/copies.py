"""Which host copies a policy would make of a step's saves: the rules of `edkm.saved`, on rows.

Contract: from one recorded step, however it was offloaded itself, the host memory and the traffic
that M, U and S would have. Bytes follow from layouts exactly; that two tensors are equal follows
from live storage, version and the recorded graph, as in the policy itself. The one assumption is
U's: that a map with a row per weight is a function of the weight's 16-bit pattern.
Boundary: bytes on the host and across the bus. When device memory is freed is `lifetimes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from profiler.analyses.steprows import Row, StepRows, item_bytes

PATTERNS = 1 << 16
_HOPS = 4
_VIEWS = {
    "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "AliasBackward0",
    "ExpandBackward0", "TBackward0", "TransposeBackward0", "PermuteBackward0",
    "UnsqueezeBackward0", "SqueezeBackward0", "SqueezeBackward1", "SliceBackward0",
    "SelectBackward0",
}  # fmt: skip
_CLAMPS = {"ClampBackward1", "ClampMinBackward0", "ClampMaxBackward0"}
_CONVERSIONS = {"CloneBackward0", "ToCopyBackward0"}
_FLOATS = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is done with the saves that leave the device."""

    dedupe: bool = True
    uniquify: bool = False
    learners: int = 1
    conversions: bool = False  # clones and casts are replayed too, wide twins copied narrow
    hold: bool = False  # what came back stays until its last user is gone


@dataclass(slots=True)
class Record:
    """One host copy."""

    save: Row
    start: int  # first byte of the storage
    stop: int
    gaps: bool
    own_bytes: int
    peer_bytes: int
    bound: bool = False  # the size of a table is an upper bound


@dataclass(frozen=True, kw_only=True)
class HostCopies:
    """All copies of a step."""

    records: list[Record]
    returns: list[Record]  # one entry per time that a copy crosses back
    bound: bool

    @property
    def own_bytes(self) -> int:
        return sum(record.own_bytes for record in self.records)

    @property
    def peer_bytes(self) -> int:
        return sum(record.peer_bytes for record in self.records)

    @property
    def h2d_bytes(self) -> int:
        return sum(record.own_bytes for record in self.returns)


@dataclass(slots=True)
class _Entry:
    record: Record
    save: Row
    computed: bool  # not a view of the record's bytes: serves its own layout only


@dataclass(slots=True)
class _Known:
    by_storage: dict[int, list[_Entry]] = field(default_factory=dict)
    by_output: dict[tuple[int, int], _Entry] = field(default_factory=dict)
    weights: dict[int, Row] = field(default_factory=dict)  # elements -> 16-bit tensor


def host_copies(step: StepRows, saves: Iterable[Row], policy: Policy) -> HostCopies:
    """Return what `policy` would copy of these saves of the step, in their order."""
    known, records = _Known(), list[Record]()
    returned: dict[tuple[int, int | None], Record] = {}
    for save in saves:
        if policy.uniquify and item_bytes(save) == 2 and _dense(save):
            known.weights[math.prod(save["shape"])] = save
        entry = _find(step, save, known, policy) if policy.dedupe else None
        if entry is None:
            entry = _Entry(_copied(step, save, known, policy), save, False)
            records.append(entry.record)
        if policy.dedupe:
            _remember(entry, save, known)
        if save["unpacked_count"]:
            user = None if policy.hold else save["node_seq"] if policy.dedupe else save["save_id"]
            returned[id(entry.record), user] = entry.record
    bound = any(record.bound for record in records)
    return HostCopies(records=records, returns=list(returned.values()), bound=bound)


def _find(step: StepRows, save: Row, known: _Known, policy: Policy) -> _Entry | None:
    """A copy that serves the save: of its storage, or a few operations away."""
    for entry in known.by_storage.get(save["storage_id"], []):
        if entry.save["version"] != save["version"]:
            continue
        if _same_layout(entry.save, save) or (not entry.computed and _covers(entry.record, save)):
            return _Entry(entry.record, save, entry.computed)
    return _walk(step, save, known, policy)


def _walk(step: StepRows, save: Row, known: _Known, policy: Policy) -> _Entry | None:
    at = (save["producer_seq"], save["producer_output"])
    computed = False
    for _ in range(_HOPS + 1):
        entry = known.by_output.get(at)
        if entry is not None and computed and entry.save["version"] == save["version"] == 0:
            return _Entry(entry.record, save, True)
        node, above = step.nodes.get(at[0]), step.parents.get(at[0], [])
        if node is None or not above:
            return None
        if node["name"] not in _VIEWS:
            replayed = _CLAMPS | (_CONVERSIONS if policy.conversions else set())
            if computed or node["name"] not in replayed:
                return None
            computed = True
        at = above[0]
    return None


def _remember(entry: _Entry, save: Row, known: _Known) -> None:
    if entry.computed or (entry.save is save and entry.record.save is save):
        known.by_storage.setdefault(save["storage_id"], []).append(entry)
    if save["producer_seq"] is not None:
        known.by_output[save["producer_seq"], save["producer_output"]] = entry


def _copied(step: StepRows, save: Row, known: _Known, policy: Policy) -> Record:
    start, stop = _span(save)
    item = item_bytes(save)
    distinct = item * math.prod(n if s else min(n, 1) for n, s in _dimensions(save))
    gaps = stop - start > distinct
    table = _table(save, known) if policy.uniquify else None
    if table is not None:
        values, rows, bound = table
        own, peer = _shared(2 * rows, 2, policy.learners)
        return Record(save, start, stop, gaps, values + own, peer, bound)
    size = _narrow(step, save, distinct if gaps else stop - start, policy)
    unit = item if gaps else max((s for n, s in _dimensions(save) if n > 1), default=0) * item
    own, peer = _shared(size, unit, policy.learners)
    return Record(save, start, stop, gaps, own, peer)


def _shared(size: int, unit: int, learners: int) -> tuple[int, int]:
    """This learner's bytes and all others'; whole rows, the first learners take one more."""
    unit = unit if unit and size % unit == 0 else 1
    own = -(-(size // unit) // learners) * unit
    return own, size - own


def _table(save: Row, known: _Known) -> tuple[int, int, bool] | None:
    """Bytes of the distinct rows, number of rows, and whether that is an upper bound."""
    if len(save["shape"]) != 2 or save["stride"] != [save["shape"][1], 1]:
        return None
    rows, width = save["shape"]
    weight = known.weights.get(rows)
    too_few = width < 2 or 2 * rows >= save["logical_bytes"]
    if weight is None or too_few or weight is save:
        return None
    distinct = weight["distinct_values"]
    if distinct is None:  # a table that is no smaller than the map would not be made
        most = min(PATTERNS, rows) * width * item_bytes(save)
        return min(most, save["logical_bytes"] - 2 * rows), rows, True
    values = distinct * width * item_bytes(save)
    return (values, rows, False) if values + 2 * rows < save["logical_bytes"] else None


def _narrow(step: StepRows, save: Row, size: int, policy: Policy) -> int:
    """The size of the narrow tensor that a wide one was converted from, else its own."""
    if not policy.conversions or save["version"] or not _dense(save):
        return size
    at = save["producer_seq"]
    for _ in range(_HOPS):
        node, above = step.nodes.get(at), step.parents.get(at, [])
        if node is None or not above:
            return size
        if node["name"] == "ToCopyBackward0":
            source = step.nodes.get(above[0][0], {}).get("dtype", "")
            wide, narrow = _FLOATS.get(node["dtype"], 0), _FLOATS.get(source, 0)
            return size * narrow // wide if 0 < narrow < wide else size
        if node["name"] not in _VIEWS:
            return size
        at = above[0][0]
    return size


def _covers(record: Record, save: Row) -> bool:
    if record.gaps:
        return False
    start, stop = _span(save)
    inside = record.start <= start and stop <= record.stop
    return inside and (start - record.start) % item_bytes(save) == 0


def _same_layout(one: Row, other: Row) -> bool:
    return all(one[n] == other[n] for n in ("shape", "stride", "storage_offset", "dtype"))


def _span(save: Row) -> tuple[int, int]:
    item = item_bytes(save)
    last = sum((n - 1) * s for n, s in _dimensions(save))
    start = save["storage_offset"] * item
    return start, start + (last + 1) * item


def _dense(save: Row) -> bool:
    step = 1
    for size, stride in sorted(((n, s) for n, s in _dimensions(save) if n > 1), key=_by_stride):
        if stride != step:
            return False
        step *= size
    return True


def _by_stride(dimension: tuple[int, int]) -> int:
    return dimension[1]


def _dimensions(save: Row) -> list[tuple[int, int]]:
    return list(zip(save["shape"], save["stride"], strict=True))
