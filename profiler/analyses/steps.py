"""Which steps and ranks a run has, and what was recorded of them.

Contract: a step is listed when something was saved in it; ranks are those that wrote any row.
Boundary: what there is to ask about, not the answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.analyses.common import Result, Rows, rows_of


@dataclass(frozen=True, kw_only=True)
class RecordedStep:
    """One step that saved something."""

    step: int
    name: str = ""
    peak_bytes: int | None = None  # the highest of its ranks


@dataclass(frozen=True, kw_only=True)
class Contents(Result):
    """What there is to look at."""

    steps: list[RecordedStep]
    ranks: list[int]
    tables: dict[str, int]  # rows of each table that pages ask for


def contents(run: Rows) -> Contents:
    """What the run holds at this moment."""
    (counts,) = rows_of(run, _COUNTS)
    return Contents(
        steps=[RecordedStep(**row) for row in rows_of(run, _STEPS)],
        ranks=[row["rank"] for row in rows_of(run, _RANKS)],
        tables=counts,
    )


_STEPS = """
SELECT s.step, coalesce(any_value(t.name), '') AS name, max(t.peak_bytes) AS peak_bytes
FROM (SELECT step FROM saves UNION SELECT step FROM totals) s
LEFT JOIN steps t ON t.step = s.step GROUP BY 1 ORDER BY 1
"""

_RANKS = """
SELECT DISTINCT rank FROM (
    SELECT rank FROM steps UNION SELECT rank FROM memory UNION SELECT rank FROM saves)
ORDER BY rank
"""

_COUNTS = """
SELECT (SELECT count(*) FROM saves) AS saves, (SELECT count(*) FROM totals) AS totals,
    (SELECT count(*) FROM memory) AS memory, (SELECT count(*) FROM transfers) AS transfers,
    (SELECT count(*) FROM nodes) AS nodes, (SELECT count(*) FROM storages) AS storages
"""
