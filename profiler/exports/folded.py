"""Folded stacks: bytes that autograd saved for the first time, by call stack, for flame graphs.

Contract: one line per stack, outermost frame first, frames separated by semicolons, then a space
and a whole number of bytes. A storage counts once per step, whole. Saves without a stack stand
under their module.
Boundary: text for flamegraph.pl, speedscope and the like.
"""

from __future__ import annotations

from profiler.analyses.common import choose_step, rows_of
from profiler.query import Run


def build(run: Run, step: int | None = None) -> bytes:
    """Return the folded stacks of a step (the last one with saves)."""
    number, _ = choose_step(run, step)
    sums: dict[str, int] = {}
    for row in rows_of(run, _STACKS, {"step": number}):
        frames = row["frames"][::-1] if row["frames"] else (row["module"] or "program").split(".")
        line = ";".join(_plain(frame) for frame in [*frames, row["op"]] if frame)
        sums[line] = sums.get(line, 0) + row["bytes"]
    lines = [f"{line} {count}\n" for line, count in sorted(sums.items())]
    return "".join(lines).encode("utf-8", "replace")


def _plain(frame: str) -> str:
    """A frame must hold neither a semicolon nor a line break."""
    return " ".join(frame.replace(";", ",").split()) or "?"


_STACKS = """
SELECT s.module, s.op, k.frames, sum(s.storage_bytes) AS bytes FROM (
    FROM saves WHERE step = $step AND NOT is_param
    QUALIFY row_number() OVER (PARTITION BY rank, storage_id ORDER BY save_id) = 1
) s LEFT JOIN stacks k ON k.rank = s.rank AND k.stack_id = s.stack_id
WHERE s.storage_bytes > 0 GROUP BY ALL
"""
