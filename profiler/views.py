"""SQL views over the parts of a run: every column there is, whatever the parts hold.

Contract: a view has exactly the columns of its record type, in order. A column that a part lacks
has its default, a column that is unknown is left out, and superseded rows are left out by where
they lie, so that all others are read straight.
Boundary: builds text and tables of places; profiler.query runs and holds them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from profiler.encode import encode, encode_constant
from profiler.parts import Part
from profiler.schema import Column, columns
from profiler.superseded import latest_rows

_SQL = {pa.int64(): "BIGINT", pa.string(): "VARCHAR", pa.bool_(): "BOOLEAN", pa.float64(): "DOUBLE"}


@dataclass(frozen=True)
class _Held:
    """Which of a table's columns the parts hold: all of them, or only some."""

    everywhere: frozenset[str]
    somewhere: frozenset[str]


def superseded_rows(table: str, parts: Iterable[Part]) -> pa.Table:
    """Return where superseded rows lie: `part_file` and `row`, the place in that file."""
    folders: dict[Path, list[Part]] = {}  # of different ranks: no key is shared
    for part in parts:
        folders.setdefault(part.path.parent, []).append(part)
    files: list[pa.Array] = [pa.array([], pa.string())]
    rows: list[pa.Array] = [pa.array([], pa.int64())]
    for own in folders.values():
        for path, mask in latest_rows(own, table).items():
            places = np.flatnonzero(~mask)
            files.append(encode_constant(os.path.abspath(path), pa.string(), len(places)))
            rows.append(encode(places, pa.int64()))
    return pa.table({"part_file": pa.chunked_array(files), "row": pa.chunked_array(rows)})


def view_sql(table: str, parts: Sequence[Part], *, superseded: bool) -> str:
    """Return the statement that makes the view of a table over its parts.

    superseded: leave out the rows that the table `superseded_<table>` names.
    """
    if not parts:
        empty = ", ".join(f"CAST(NULL AS {_sql_type(c)}) AS {c.name}" for c in columns(table))
        return f"CREATE OR REPLACE VIEW {table} AS SELECT {empty} WHERE false"
    held = _held(parts)
    chosen = ", ".join(f"{_expression(c, held)} AS {c.name}" for c in columns(table))
    files = ", ".join(literal(escape_glob(part.path)) for part in parts)
    source = (
        f"read_parquet([{files}], union_by_name = true, filename = 'part_file',"
        " file_row_number = true)"
    )
    if superseded:
        source += (
            f" AS held ANTI JOIN superseded_{table} AS gone"
            " ON held.part_file = gone.part_file AND held.file_row_number = gone.row"
        )
    return f"CREATE OR REPLACE VIEW {table} AS SELECT {chosen} FROM {source}"


def literal(text: str) -> str:
    """Return text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def escape_glob(path: Path) -> str:
    """Return a path in which *, ? and [ stand for themselves."""
    return re.sub(r"([*?\[])", r"[\1]", os.path.abspath(path))


def _held(parts: Iterable[Part]) -> _Held:
    names = [frozenset(pq.read_schema(part.path).names) for part in parts]
    return _Held(frozenset.intersection(*names), frozenset.union(*names))


def _expression(column: Column, held: _Held) -> str:
    sql_type = _sql_type(column)
    if column.name not in held.somewhere:
        return f"CAST({_default(column.default)} AS {sql_type})"
    if column.nullable or column.name in held.everywhere:
        return f"CAST({column.name} AS {sql_type})"
    return f"coalesce(CAST({column.name} AS {sql_type}), {_default(column.default)})"


def _default(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return literal(value)
    return "[]" if value == [] else str(value)


def _sql_type(column: Column) -> str:
    if pa.types.is_list(column.type):
        return _SQL[column.type.value_type] + "[]"
    return _SQL[column.type]
