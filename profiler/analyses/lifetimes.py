"""When each storage of a step is alive on the device, as recorded and as it would be.

Contract: the recorded lives add up to the tracer's own peak. A life that would change is cut where
the forward used the storage last (by the recorded graph); what recomputation makes again is born
when backward first asks for it. What a program holds beyond its saves keeps its recorded life.
Boundary: storages that were seen; temporaries that nobody saves are in no figure here.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

from profiler.analyses.steprows import Row, StepRows, node_bytes, within

_EVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Life:
    """Bytes, and from when until when they are there, in ns."""

    bytes: int
    born: int
    died: int


def peak(lives: Iterable[Life], start: int, end: int) -> int:
    """The most bytes alive at once between two moments."""
    changes: list[tuple[int, int, int]] = []
    for life in lives:
        if life.died > start and life.born <= end and life.died > life.born:
            changes.append((max(life.born, start), 1, life.bytes))
            changes.append((life.died, 0, -life.bytes))
    most = now = 0
    for _, _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


class Lives:
    """The lives of a step, and what becomes of them when saves are offloaded or recomputed."""

    def __init__(self, step: StepRows) -> None:
        self.step = step
        self._known: dict[tuple[frozenset[int], tuple[str, ...]], tuple[list[Life], int]] = {}
        self._saves: dict[int, list[Row]] = {}
        for save in step.saves:
            if save["action"] == "kept" and not save["of_param"]:
                self._saves.setdefault(save["storage_id"], []).append(save)
        self._drops_known = any(s["dropped_ns"] is not None for s in step.saves)
        self._unpacks = sorted(
            (s["unpack_ns"], s["node_seq"] or 0) for s in step.saves if s["unpack_ns"] is not None
        )
        self._forward = sorted(
            (s["node_seq"], s["time_ns"]) for s in step.saves if s["node_seq"] is not None
        )

    def with_changes(
        self, offloaded: set[int], checkpointed: tuple[str, ...]
    ) -> tuple[list[Life], int]:
        """The lives, and the bytes that saves keep on the device at the end of forward.

        offloaded: save_ids that leave the device; checkpointed: patterns of modules. Scenarios that
        differ on the host only have the same answer, which is worked out once.
        """
        asked = frozenset(offloaded), checkpointed
        if asked not in self._known:
            self._known[asked] = self._changed(offloaded, checkpointed)
        return self._known[asked]

    def _changed(
        self, offloaded: set[int], checkpointed: tuple[str, ...]
    ) -> tuple[list[Life], int]:
        calls = _calls(self.step.saves, checkpointed)
        for call in set(calls.values()):
            self._widen(call)
        lives, kept = [], 0
        for row in self.step.storages:
            saves = self._saves.get(row["storage_id"], [])
            if not saves:
                lives.append(_recorded(row))
                continue
            parts, stays = self._storage(row, saves, offloaded, calls)
            lives += parts
            kept += row["bytes"] * stays
        extra = [life for call in set(calls.values()) for life in self._unsaved_inputs(call)]
        return lives + extra, kept + sum(life.bytes for life in extra)

    def _storage(
        self, row: Row, saves: list[Row], offloaded: set[int], calls: dict[int, _Call]
    ) -> tuple[list[Life], bool]:
        inside = [s for s in saves if s["save_id"] in calls]
        inside = [s for s in inside if self._internal(s, saves, calls)]
        gone = [s for s in saves if s["save_id"] in offloaded]
        left = [s for s in saves if s not in inside and s not in gone]
        recorded = _recorded(row)
        if not inside and not gone:
            return [recorded], True
        lives: list[Life] = []
        for call in {calls[s["save_id"]] for s in inside}:
            mine = [s for s in inside if calls[s["save_id"]] is call]
            if call.asked is not None:
                last = max(s["unpack_ns"] or 0 for s in mine)
                died = self._next(last) if left else recorded.died
                lives.append(Life(row["bytes"], call.asked, max(died, call.asked + 1)))
        if self._held_elsewhere(recorded, saves):
            return [*lives, recorded], bool(left)
        release = max(self._last_use(s) for s in saves)
        if asked := [s["unpack_ns"] for s in left if s["unpack_ns"] is not None]:
            release = max(release, self._next(max(asked)))
        elif left:
            release = recorded.died
        life = Life(row["bytes"], recorded.born, max(release, recorded.born + 1))
        return [life, *lives], bool(left)

    def _internal(self, save: Row, saves: list[Row], calls: dict[int, _Call]) -> bool:
        """Whether the checkpointed module made the tensor; else it is an input, and stays."""
        call = calls[save["save_id"]]
        node = self.step.nodes.get(save["producer_seq"] or 0)
        if save["producer_seq"] is None or node is None:
            return {calls.get(s["save_id"]) for s in saves} == {call}
        return bool(call.first <= node["seq"] <= call.last)

    def _held_elsewhere(self, recorded: Life, saves: list[Row]) -> bool:
        """Whether the storage outlived its saves: then something else holds it."""
        asked = [int(s["unpack_ns"]) for s in saves if s["unpack_ns"] is not None]
        if self._drops_known and any(s["dropped_ns"] is None and s["unpack_ns"] for s in saves):
            return True
        return bool(asked) and recorded.died > self._next(max(asked))

    def _next(self, moment: int) -> int:
        """When backward asked for the saves of the next node after a moment."""
        place = bisect.bisect_left(self._unpacks, (moment, -1))
        node = self._unpacks[place][1] if place < len(self._unpacks) else None
        for time, other in self._unpacks[place:]:
            if other != node:
                return int(time)
        return _EVER

    def _last_use(self, save: Row) -> int:
        """When the forward needed the tensor no more: the program let go of it, or read it last."""
        made = (save["producer_seq"], save["producer_output"])
        readers = [save["node_seq"] or 0, *self.step.consumers.get(made, [])]
        place = bisect.bisect_right(self._forward, (max(readers), _EVER))
        later = self._forward[place][1] if place < len(self._forward) else 0
        return max(int(later), int(save["time_ns"]), int(save["dropped_ns"] or 0))

    def _widen(self, call: _Call) -> None:
        """Let the call reach over the module's nodes that save nothing."""
        nodes = self.step.nodes
        mine = (call.module,)
        while (node := nodes.get(call.first - 1)) and within(node["module"], mine) is not None:
            call.first -= 1
        while (node := nodes.get(call.last + 1)) and within(node["module"], mine) is not None:
            call.last += 1

    def _unsaved_inputs(self, call: _Call) -> list[Life]:
        """Inputs of a checkpointed call that no save keeps: checkpointing itself keeps them."""
        known = {(s["producer_seq"], s["producer_output"]) for s in self.step.saves}
        found = {}
        for seq in range(call.first, call.last + 1):
            for source, output in self.step.parents.get(seq, []):
                node = self.step.nodes.get(source)
                if node is not None and 0 <= source < call.first and (source, output) not in known:
                    found[source, output] = node_bytes(node)
        return [Life(size, call.start, self._next(call.done)) for size in found.values()]


@dataclass(slots=True, eq=False)
class _Call:
    """One forward of a checkpointed module: its saves are those between these nodes."""

    module: str
    first: int
    last: int
    start: int
    asked: int | None = None  # when backward first needed it: then it is computed again
    done: int = 0  # when backward last needed it


def _calls(saves: list[Row], patterns: tuple[str, ...]) -> dict[int, _Call]:
    """The call that each save is in, by save_id. A call ends where another module's save comes."""
    found: dict[int, _Call] = {}
    current: _Call | None = None
    for save in saves:
        module = within(save["module"], patterns) if patterns else None
        if module is None or save["phase"] != "forward" or save["node_seq"] is None:
            current = None
            continue
        if current is None or current.module != module:
            seq = save["node_seq"]
            current = _Call(module, seq, seq, save["time_ns"])
        current.first = min(current.first, save["node_seq"])
        current.last = max(current.last, save["node_seq"])
        asked = [t for t in (current.asked, save["unpack_ns"]) if t is not None]
        current.asked = min(asked, default=None)
        current.done = max(current.done, save["unpack_ns"] or 0)
        found[save["save_id"]] = current
    return found


def _recorded(row: Row) -> Life:
    died = row["died_ns"]
    return Life(row["bytes"], row["born_ns"], _EVER if died is None else died)
