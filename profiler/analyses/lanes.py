"""The copies of one step as they follow each other, one lane per stream, and whether they hide.

Contract: copies that are close to each other become one piece where a lane has more than `limit`;
no byte is lost. Times are nanoseconds of the run's own clock, as the host saw them.
Boundary: one rank. When a bus was really busy is known from device events alone, which a run does
not hold: of measured copies it is therefore not said how much computing they hid behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analyses.common import Result, Rows, choose_step, rows_of


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Copies of one lane that follow each other."""

    start_ns: int
    end_ns: int
    copies: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One stream, direction and kind of copy."""

    direction: str  # d2h | h2d
    simulated: bool
    peer: bool
    stream: int
    pieces: list[Piece]

    @property
    def copies(self) -> int:
        return sum(piece.copies for piece in self.pieces)

    @property
    def bytes(self) -> int:
        return sum(piece.bytes for piece in self.pieces)


@dataclass(frozen=True, kw_only=True)
class Lanes(Result):
    """The lanes of one step of one rank."""

    step: int
    name: str
    rank: int
    start_ns: int  # of the step
    forward_end_ns: int | None
    end_ns: int
    lanes: list[Lane]
    copying_ns: int  # when this learner's own copies were under way, overlaps counted once
    hidden: float | None  # part of that time in which something computed; None where unknown

    @property
    def copying_share(self) -> float:
        """Which part of the step copies were under way, 0 to 1."""
        return self.copying_ns / max(1, self.end_ns - self.start_ns)


def lanes(run: Rows, step: int | None = None, *, rank: int = 0, limit: int = 500) -> Lanes:
    """The lanes of a step (the last one with saves).

    limit: most pieces per lane. ValueError when it is below 1, and for an unknown step.
    """
    if limit < 1:
        raise ValueError(f"limit: got {limit}, must be at least 1")
    number, name = choose_step(run, step)
    values = {"step": number, "rank": rank}
    (span,) = rows_of(run, _SPAN, values)
    (own,) = rows_of(run, _OWN, values)
    found = _lanes(rows_of(run, _PIECES, {**values, "limit": limit}))
    # A simulated copy is made by the very thread that computes: it hides behind nothing.
    measured = any(not lane.simulated for lane in found)
    return Lanes(
        step=number,
        name=name,
        rank=rank,
        start_ns=span["start_ns"] or 0,
        forward_end_ns=span["forward_end_ns"],
        end_ns=span["end_ns"] or 0,
        lanes=found,
        copying_ns=own["copying_ns"],
        hidden=None if measured or not found else 0.0,
    )


def _lanes(rows: list[dict[str, int]]) -> list[Lane]:
    by_lane: dict[tuple[int, ...], list[Piece]] = {}
    for row in rows:
        key = (row["direction"], row["simulated"], row["peer"], row["stream"])
        piece = Piece(**{name: row[name] for name in ("start_ns", "end_ns", "copies", "bytes")})
        by_lane.setdefault(key, []).append(piece)
    return [
        Lane(direction=str(d), simulated=bool(s), peer=bool(p), stream=stream, pieces=pieces)
        for (d, s, p, stream), pieces in by_lane.items()
    ]


_SPAN = """
WITH copied AS (
    SELECT min(start_ns) AS first, max(end_ns) AS last FROM transfers
    WHERE step = $step AND rank = $rank
), stepped AS (
    SELECT min(start_ns) AS first, max(forward_end_ns) AS middle, max(end_ns) AS last FROM steps
    WHERE step = $step AND rank = $rank
)
SELECT coalesce(least(s.first, c.first), s.first, c.first) AS start_ns,
    s.middle AS forward_end_ns, coalesce(greatest(s.last, c.last), s.last, c.last) AS end_ns
FROM copied c, stepped s
"""

# Each copy adds what it lasts beyond all that began before it.
_OWN = """
WITH own AS (
    SELECT start_ns, end_ns, max(end_ns) OVER (
        ORDER BY start_ns, end_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before_ns
    FROM transfers WHERE step = $step AND rank = $rank AND NOT peer
)
SELECT coalesce(sum(greatest(end_ns - greatest(start_ns, coalesce(before_ns, start_ns)), 0)), 0)
    AS copying_ns FROM own
"""

_PIECES = """
WITH chosen AS (
    SELECT *, row_number() OVER lane AS place, count(*) OVER whole AS count FROM transfers
    WHERE step = $step AND rank = $rank
    WINDOW whole AS (PARTITION BY direction, simulated, peer, stream),
        lane AS (whole ORDER BY start_ns, end_ns)
)
SELECT direction, simulated, peer, stream, min(start_ns) AS start_ns, max(end_ns) AS end_ns,
    count(*) AS copies, sum(bytes) AS bytes
FROM chosen GROUP BY direction, simulated, peer, stream, (place - 1) * least($limit, count) // count
ORDER BY direction, peer, simulated, stream, start_ns
"""
