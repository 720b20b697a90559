"""Record types as Arrow schemas, and lists of records as Arrow tables.

Contract: a column's type follows from the dataclass annotation alone.
Boundary: no files and no SQL; profiler.parts writes what this module builds.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from profiler.encode import encode, encode_constant
from profiler.events import RECORDS, Record

SCHEMA_VERSION = 1
TYPES: dict[str, type[Record]] = {record.table: record for record in RECORDS}
_ARROW = {int: pa.int64(), str: pa.string(), bool: pa.bool_(), float: pa.float64()}
# Counters and clocks grow by small steps: differences are far smaller than a dictionary.
_COUNTERS = {
    "save_id",
    "storage_id",
    "node_seq",
    "seq",
    "source",
    "target",
    "alias_of",
    "producer_seq",
}


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type, whether it may be null, and what a missing value means."""

    name: str
    type: pa.DataType
    nullable: bool
    default: Any


@functools.cache
def columns(table: str) -> tuple[Column, ...]:
    """Return the columns of a table in their order on disk."""
    record = record_type(table)
    hints = typing.get_type_hints(record)
    return tuple(_column(f, hints[f.name]) for f in dataclasses.fields(record))


@functools.cache
def arrow_schema(table: str) -> pa.Schema:
    """Return the Arrow schema of a table."""
    return pa.schema([pa.field(c.name, c.type, c.nullable) for c in columns(table)])


def record_type(table: str) -> type[Record]:
    """Return the record type of a table; ValueError names the tables there are."""
    if table not in TYPES:
        known = ", ".join(TYPES)
        raise ValueError(f"table: got {table!r}, but a run has only these tables: {known}")
    return TYPES[table]


@functools.cache
def encodings(table: str) -> dict[str, Any]:
    """Return the Parquet writer's options: dictionaries for repeats, differences for counters.

    Statistics are kept of numbers only: nobody looks for text by its place in the alphabet.
    """
    schema = arrow_schema(table)
    delta = [f.name for f in schema if _is_counter(f)]
    dictionary = [_leaf(f) for f in schema if f.name not in delta and f.type != pa.bool_()]
    return {
        "use_dictionary": dictionary or False,
        "write_statistics": [f.name for f in schema if f.type in (pa.int64(), pa.float64())],
        "column_encoding": dict.fromkeys(delta, "DELTA_BINARY_PACKED"),
    }


def to_batch(table: str, records: Sequence[Record], rank: int) -> pa.RecordBatch:
    """Turn records of one table into columns; rows of rank 0 get the writer's rank."""
    arrays = []
    for column, read in zip(columns(table), _readers(table), strict=True):
        values = read(records)
        if column.name == "rank" and rank:
            values = [value or rank for value in values]
        arrays.append(_array(values, column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(table))


@functools.cache
def _readers(table: str) -> tuple[Callable[[Sequence[Record]], list[Any]], ...]:
    """Per column, what lists it of records.

    Each is code of its own, so that the interpreter specialises its one look-up for the one type
    that it meets: two thirds of the time that an attrgetter takes.
    """
    return tuple(
        eval(f"lambda rows: [row.{column.name} for row in rows]") for column in columns(table)
    )


def from_columns(table: str, given: Mapping[str, Any], rank: int) -> pa.RecordBatch:
    """Turn whole columns that were checked into a batch; left-out columns get defaults."""
    count = len(next(iter(given.values())))
    arrays = []
    for column in columns(table):
        values = given.get(column.name)
        if values is None:
            default = rank if column.name == "rank" else column.default
            arrays.append(encode_constant(default, column.type, count))
        else:
            arrays.append(_array(values, column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(table))


def check_columns(table: str, given: Mapping[str, Any]) -> None:
    """ValueError when a column is unknown, when lengths differ, or when the key is missing."""
    known = {c.name for c in columns(table)}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"columns of {table}: got {unknown}, but there are only {sorted(known)}")
    key = record_type(table).key
    if key is not None and key not in given:
        raise ValueError(f"columns of {table}: got no {key!r}, which every row needs; add it")
    lengths = {name: len(values) for name, values in given.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns of {table}: got lengths {lengths}, which must be equal")


def to_records(table: pa.Table, name: str) -> list[Any]:
    """Turn rows back into records of the named table."""
    record = record_type(name)
    fields = [c.name for c in columns(name)]
    return [record(**{f: row[f] for f in fields}) for row in table.to_pylist()]


def _column(field: dataclasses.Field[Any], hint: Any) -> Column:
    nullable = isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)
    if nullable:
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if typing.get_origin(hint) in (list, Sequence):
        arrow: pa.DataType = pa.list_(_ARROW[typing.get_args(hint)[0]])
    else:
        arrow = _ARROW[hint]
    return Column(field.name, arrow, nullable, _default(field, hint))


def _default(field: dataclasses.Field[Any], hint: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return hint()


def _is_counter(field: pa.Field) -> bool:
    return field.type == pa.int64() and (field.name in _COUNTERS or field.name.endswith("_ns"))


def _leaf(field: pa.Field) -> str:
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else str(field.name)


def _array(values: Any, arrow: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(arrow) if isinstance(values, pa.Array) else encode(values, arrow)
