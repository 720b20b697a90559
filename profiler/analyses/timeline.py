"""The timeline: memory by category over a run or a step, few enough points to draw, peaks kept.

Contract: time is cut into equal bins and of each bin the fullest sample is kept whole, so the
highest point of the answer is the highest that was recorded and its categories add up. Times are
nanoseconds of the run's own clock.
Boundary: one rank. What happened between two samples was not recorded and is not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from profiler.analyses.common import Result, Rows, rows_of

CATEGORIES = ("param", "optimizer", "grad", "saved", "temp", "unexplained", "host", "peer")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One sample. Bytes per category in the order of CATEGORIES."""

    time_ns: int
    step: int
    phase: str
    bytes: tuple[int, ...]
    rss_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes)


@dataclass(frozen=True, kw_only=True)
class Band:
    """One stretch of a step: forward, or what comes after it."""

    step: int
    name: str
    part: str  # forward | backward
    start_ns: int
    end_ns: int


@dataclass(frozen=True, kw_only=True)
class Timeline(Result):
    """What was recorded of one rank's memory, thinned."""

    rank: int
    samples: int  # how many there were
    moments: list[Moment]
    bands: list[Band]
    peak: Moment | None


@dataclass(frozen=True, kw_only=True)
class Alive(Result):
    """The storages that lived at one moment, largest first, and what is not listed."""

    time_ns: int
    storages: list[dict[str, Any]]
    more: int
    more_bytes: int


def timeline(
    run: Rows, *, rank: int = 0, step: int | None = None, bins: int = 1500,
    between: tuple[int, int] | None = None,
) -> Timeline:  # fmt: skip
    """The timeline of one rank, of the whole run or of one step.

    bins: at most this many moments come back. ValueError when it is below 1.
    between: only this span of the run's clock, in either order. What holds at its start was
        sampled before it, and counts: the first moment may be earlier than the span.
    """
    if bins < 1:
        raise ValueError(f"bins: got {bins}, must be at least 1")
    start, end = sorted(between) if between is not None else (None, None)
    values = {"rank": rank, "step": step, "bins": bins, "start": start, "end": end}
    rows = rows_of(run, _MOMENTS, values)
    moments = [_moment(row) for row in rows]
    return Timeline(
        rank=rank,
        samples=rows[0]["samples"] if rows else 0,
        moments=moments,
        bands=_bands(rows_of(run, _STEPS, {"rank": rank, "step": step}), moments),
        peak=max(moments, key=lambda m: m.total_bytes, default=None),
    )


def alive_at(run: Rows, time_ns: int, *, rank: int = 0, limit: int = 200) -> Alive:
    """The storages that had been seen and had not died at `time_ns`."""
    values = {"rank": rank, "time": time_ns}
    (total,) = rows_of(run, _ALIVE_TOTAL, values)
    rows = rows_of(run, _ALIVE, {**values, "limit": limit})
    return Alive(
        time_ns=time_ns,
        storages=rows,
        more=total["count"] - len(rows),
        more_bytes=total["bytes"] - sum(row["bytes"] for row in rows),
    )


def _moment(row: dict[str, Any]) -> Moment:
    return Moment(
        time_ns=row["time_ns"],
        step=row["step"],
        phase=row["phase"],
        bytes=tuple(row[f"{name}_bytes"] for name in CATEGORIES),
        rss_bytes=row["rss_bytes"],
    )


def _bands(steps: list[dict[str, Any]], moments: list[Moment]) -> list[Band]:
    last = moments[-1].time_ns if moments else 0
    bands = []
    for row in steps:
        end = last if row["end_ns"] is None else row["end_ns"]
        middle = end if row["forward_end_ns"] is None else row["forward_end_ns"]
        for part, start, stop in (("forward", row["start_ns"], middle), ("backward", middle, end)):
            if stop > start:
                bands.append(
                    Band(step=row["step"], name=row["name"], part=part, start_ns=start, end_ns=stop)
                )
    return bands


_MOMENTS = """
WITH sampled AS (
    SELECT *, greatest(0, allocated_bytes - param_bytes - grad_bytes - optimizer_bytes
        - saved_bytes - temp_bytes) AS unexplained_bytes
    FROM memory WHERE rank = $rank AND ($step::BIGINT IS NULL OR step = $step)
        AND ($end::BIGINT IS NULL OR time_ns <= $end)
), held AS (
    SELECT coalesce(max(time_ns), $start::BIGINT) AS first FROM sampled
    WHERE $start::BIGINT IS NOT NULL AND time_ns <= $start
), chosen AS (
    SELECT s.* FROM sampled s, held h WHERE h.first IS NULL OR s.time_ns >= h.first
), span AS (
    SELECT min(time_ns) AS first, greatest(max(time_ns) - min(time_ns), 1) AS length,
        count(*) AS samples FROM chosen
)
SELECT c.*, s.samples FROM chosen c, span s
QUALIFY row_number() OVER (
    PARTITION BY least($bins - 1, (c.time_ns - s.first) * $bins // s.length)
    ORDER BY param_bytes + grad_bytes + optimizer_bytes + saved_bytes + temp_bytes
        + unexplained_bytes + host_bytes + peer_bytes DESC, time_ns) = 1
ORDER BY time_ns
"""

_STEPS = """
SELECT step, name, start_ns, forward_end_ns, end_ns FROM steps
WHERE rank = $rank AND ($step::BIGINT IS NULL OR step = $step) ORDER BY start_ns
"""

_IS_ALIVE = "rank = $rank AND born_ns <= $time AND (died_ns IS NULL OR died_ns > $time)"

_ALIVE = f"""
SELECT storage_id, bytes, device, category, module, last_keeper, step FROM storages
WHERE {_IS_ALIVE} ORDER BY bytes DESC, storage_id LIMIT $limit
"""

_ALIVE_TOTAL = f"""
SELECT count(*) AS count, coalesce(sum(bytes), 0) AS bytes FROM storages WHERE {_IS_ALIVE}
"""
