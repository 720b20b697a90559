"""Rows of one table between the moment they are added and the moment they are written.

Contract: adding is one append and takes no lock, so that any thread and any finalizer may add
while another thread drains. A record that is taken is marked so before it is read: when it changes
from then on, it is added anew, and until then it waits once.
Boundary: in memory only; profiler.store decides when to drain, profiler.schema how to encode.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from profiler.events import Record
from profiler.schema import from_columns, to_batch

_CHUNK = 4096  # records turned into columns at once: bounds how long the interpreter is held
_Columns = Mapping[str, Any]


class WaitingRows:
    """What waits to be written to one table: records, and rows given as whole columns."""

    __slots__ = ("column_rows", "columns", "records", "table")

    def __init__(self, table: str) -> None:
        self.table = table
        self.records: deque[Record] = deque()
        self.columns: deque[_Columns] = deque()
        self.column_rows = 0

    def add_columns(self, columns: _Columns) -> None:
        self.columns.append(columns)
        self.column_rows += len(next(iter(columns.values())))

    def drain(self) -> Drained:
        """Take what waits now."""
        records = [self.records.popleft() for _ in range(len(self.records))]
        for record in records:
            record.waiting = False
        self.column_rows = 0
        columns = [self.columns.popleft() for _ in range(len(self.columns))]
        return Drained(self.table, records, columns)

    def put_back(self, drained: Drained) -> None:
        """Have what was drained wait again, before what was added since."""
        for record in drained.records:
            record.waiting = True
        self.records.extendleft(reversed(drained.records))
        self.columns.extendleft(reversed(drained.columns))

    def clear(self) -> None:
        self.records.clear()
        self.columns.clear()


@dataclass(frozen=True, slots=True)
class Drained:
    """Rows taken to be written."""

    table: str
    records: list[Record]
    columns: list[_Columns]

    def batches(self, rank: int) -> list[pa.RecordBatch]:
        """Encode them, whole columns first: records may supersede those."""
        records = self.records
        chunks = (records[i : i + _CHUNK] for i in range(0, len(records), _CHUNK))
        return [
            *(from_columns(self.table, columns, rank) for columns in _joined(self.columns)),
            *(to_batch(self.table, chunk, rank) for chunk in chunks),
        ]


def _joined(columns: Sequence[_Columns]) -> Sequence[_Columns]:
    """Make one set of columns of many small ones, where they are lists: each set costs 0.2 ms."""
    first = columns[0] if columns else {}
    alike = (c.keys() == first.keys() and all(type(v) is list for v in c.values()) for c in columns)
    if len(columns) < 2 or not all(alike):
        return columns
    return [{name: list(chain.from_iterable(c[name] for c in columns)) for name in first}]
