"""What the analyses share: choosing a step, and turning results into JSON values.

Contract: `None` as a step means the last step that saved anything.
Boundary: no analysis of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import pyarrow as pa


class Rows(Protocol):
    """What an analysis needs of a run: answers to SQL."""

    def sql(self, query: str, params: Any = None, /) -> pa.Table: ...


@dataclasses.dataclass(frozen=True)
class Result:
    """A result of an analysis: a dataclass that can become JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as dicts, lists, numbers and text."""
        return dataclasses.asdict(self)


def rows_of(run: Rows, query: str, params: Any = None) -> list[dict[str, Any]]:
    """Return the answer to a query as one dict per row."""
    rows: list[dict[str, Any]] = run.sql(query, params).to_pylist()
    return rows


def choose_step(run: Rows, step: int | None) -> tuple[int, str]:
    """Return a step that has saves and its name; ValueError names the steps there are."""
    if step is not None:
        (known,) = rows_of(run, _KNOWN_STEP, {"step": step})
        if known["saved"]:
            return step, known["name"]
    steps = rows_of(
        run,
        "SELECT s.step, coalesce(any_value(t.name), '') AS name FROM (SELECT step FROM saves"
        " UNION SELECT step FROM totals) s LEFT JOIN steps t ON t.step = s.step"
        " GROUP BY 1 ORDER BY 1",
    )
    if not steps:
        if step is None:
            return 0, ""
        raise ValueError(f"step: got {step}, but this run has no saves: did backward run?")
    if step is None:
        return steps[-1]["step"], steps[-1]["name"]
    raise ValueError(f"step: got {step}, but only these have saves: {_span(steps)}")


def source_line(frames: list[str]) -> str:
    """Return the innermost frame that is not torch's own, or the innermost of all."""
    others = (frame for frame in frames if "/torch/" not in frame.replace("\\", "/"))
    return next(others, frames[0] if frames else "")


# Without a list of all steps, which of a long run takes longer than many an answer.
_KNOWN_STEP = """
SELECT EXISTS (SELECT 1 FROM saves WHERE step = $step)
    OR EXISTS (SELECT 1 FROM totals WHERE step = $step) AS saved,
    coalesce((SELECT any_value(name) FROM steps WHERE step = $step), '') AS name
"""


def _span(steps: list[dict[str, Any]]) -> str:
    numbers = [row["step"] for row in steps]
    if len(numbers) > 8 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers[:20])) + (" ..." if len(numbers) > 20 else "")
