"""Table rows in whatever plain form a caller has them: an Arrow table, mappings or records.

Contract: `plain` returns a list of dictionaries; nothing is renamed or dropped.
Boundary: no library is imported for this; an Arrow table is known by its `to_pylist`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol


class ArrowLike(Protocol):
    """What a `pyarrow.Table` offers here."""

    def to_pylist(self) -> list[dict[str, Any]]:
        """All rows."""
        ...


Rows = ArrowLike | Iterable[Any]


def plain(rows: Rows) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    if hasattr(rows, "to_pylist"):
        return list(rows.to_pylist())
    return [_row(row) for row in rows]


def _row(row: Any) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    if is_dataclass(row) and not isinstance(row, type):
        return asdict(row)
    raise TypeError(f"row {row!r:.60}: a mapping or a record of profiler.events is needed")
