"""Traffic: what crossed between device and host in one step, which way, for whom, and why.

Contract: simulated copies (no bus was crossed) and copies of other, simulated learners (peer)
are kept apart from measured ones everywhere; a bandwidth is given for measured copies only.
Boundary: adds up recorded copies. Whether a copy was needed at all is for the duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from profiler.analyses.common import Result, Rows, choose_step, rows_of


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Copies in one direction that are alike."""

    direction: str  # d2h | h2d
    simulated: bool
    peer: bool
    module: str = ""
    action: str = ""  # what was done to the save: copied, table, shard ...; "" if not tied to one
    copies: int = 0
    bytes: int = 0
    pinned_bytes: int = 0
    copy_ns: int = 0  # sum of durations; copies on several streams may overlap
    bytes_per_second: float | None = None  # None where simulated or too short to time


@dataclass(frozen=True, kw_only=True)
class Traffic(Result):
    """The traffic of one step. Ranks are added up."""

    step: int
    name: str
    totals: list[Flow]  # per direction, simulated, peer
    modules: list[Flow]  # the same per module and action, largest first
    unused_copies: int  # saves sent to the host that backward never asked for
    unused_bytes: int
    returned: dict[str, int] = field(default_factory=dict)  # times asked for back -> saves

    def bytes(self, direction: str, *, peer: bool = False) -> int:
        """Return the bytes of one direction, simulated or not."""
        return sum(f.bytes for f in self.totals if f.direction == direction and f.peer == peer)


def traffic(run: Rows, step: int | None = None) -> Traffic:
    """Return the traffic of a step (the last one with saves); ValueError for an unknown step."""
    number, name = choose_step(run, step)
    values = {"step": number}
    (unused,) = rows_of(run, _UNUSED, values)
    returned = rows_of(run, _RETURNED, values)
    return Traffic(
        step=number,
        name=name,
        totals=[_flow(row) for row in rows_of(run, _TOTALS, values)],
        modules=[_flow(row) for row in rows_of(run, _PER_MODULE, values)],
        unused_copies=unused["copies"],
        unused_bytes=unused["bytes"],
        returned={str(row["times"]): row["saves"] for row in returned},
    )


def _flow(row: dict[str, Any]) -> Flow:
    timed = row["copy_ns"] > 0 and not row["simulated"]
    rate = row["bytes"] / (row["copy_ns"] / 1e9) if timed else None
    return Flow(**row, bytes_per_second=rate)


_SUMS = """
    count(*) AS copies, sum(t.bytes) AS bytes, sum(if(t.pinned, t.bytes, 0)) AS pinned_bytes,
    sum(greatest(t.end_ns - t.start_ns, 0)) AS copy_ns
"""

_TOTALS = f"""
SELECT t.direction, t.simulated, t.peer, {_SUMS} FROM transfers t WHERE t.step = $step
GROUP BY ALL ORDER BY t.direction, t.simulated, t.peer
"""

_PER_MODULE = f"""
SELECT t.direction, t.simulated, t.peer, t.module, coalesce(s.action, '') AS action, {_SUMS}
FROM transfers t LEFT JOIN saves s ON s.rank = t.rank AND s.save_id = t.save_id
WHERE t.step = $step
GROUP BY t.direction, t.simulated, t.peer, t.module, coalesce(s.action, '')
ORDER BY bytes DESC, t.module, t.direction, t.simulated, t.peer, action
"""

_UNUSED = """
SELECT count(*) AS copies, coalesce(sum(host_bytes), 0) AS bytes FROM saves
WHERE step = $step AND host_bytes > 0 AND unpacked_count = 0
AND NOT EXISTS (SELECT 1 FROM saves u WHERE u.rank = saves.rank AND u.alias_of = saves.save_id
    AND u.unpacked_count > 0)
"""

_RETURNED = """
SELECT unpacked_count AS times, count(*) AS saves FROM saves WHERE step = $step AND host_bytes > 0
GROUP BY 1 ORDER BY 1
"""
