"""How much a viewer can take: memory_viz and Chrome stop at files of about a gigabyte.

Contract: without a step, at most MAX_EVENTS rows; with one, whatever the step holds.
Boundary: counts rows, nothing else.
"""

from __future__ import annotations

from profiler.analyses.common import choose_step, rows_of
from profiler.query import Run

MAX_EVENTS = 1_000_000


def check_size(run: Run, step: int | None, *tables: str) -> None:
    """ValueError when the step is unknown, or the whole run is more than viewers can open."""
    if step is not None:
        choose_step(run, step)
        return
    counts = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in tables)
    (row,) = rows_of(run, f"SELECT {counts}")
    if (total := sum(row.values())) > MAX_EVENTS:
        raise ValueError(
            f"step: got none, and the run has {total:,} events, but viewers open about "
            f"{MAX_EVENTS:,}; choose one step with --step"
        )
