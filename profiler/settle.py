"""What a run's finished parts still need: nothing, where no key can occur in two rows.

Contract: parts are distinct when each holds every key once and their spans of keys do not
overlap; that is read from their heads. Distinct parts are read without a search for superseded
rows, and large ones are left as they are when the run is closed.
Boundary: knows parts and keys; profiler.parts reads and writes the rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from profiler.parts import (
    GROUP_ROWS,
    Part,
    drop_covered,
    is_unique,
    list_parts,
    merge_parts,
)
from profiler.schema import record_type

SMALL_ROWS = GROUP_ROWS // 2  # parts below are merged with their neighbours when a run is closed


def holds_keys_once(rows: pa.Table, table: str) -> bool:
    """Whether no key occurs twice in these rows; cheap where they lie in key order."""
    key = record_type(table).key
    if key is None:
        return True
    keys = rows.column(key)
    if not pa.types.is_integer(keys.type):
        return len(set(keys.to_pylist())) == len(keys)
    values = keys.to_numpy()
    return bool((np.diff(values) > 0).all()) or len(np.unique(values)) == len(values)


def are_distinct(parts: Sequence[Part], table: str) -> bool:
    """Whether no key can occur twice in these parts of one folder."""
    key = record_type(table).key
    if key is None:
        return True
    if not all(is_unique(part.path) for part in parts):
        return False
    if len(parts) == 1:
        return True
    spans = [_key_span(part.path, key) for part in parts]
    known = sorted(span for span in spans if span is not None)
    return len(known) == len(parts) and all(
        before[1] < after[0] for before, after in itertools.pairwise(known)
    )


def settle(folder: Path, table: str) -> None:
    """Merge a table's parts where rows may be superseded, else only runs of small ones."""
    parts = drop_covered(list_parts(folder))
    if not are_distinct(parts, table):
        merge_parts(folder, table, parts, sync=True)
        return
    for small, run in itertools.groupby(parts, key=_is_small):
        group = list(run)
        if small and len(group) > 1:
            merge_parts(folder, table, group, sync=True)


def _is_small(part: Part) -> bool:
    return int(pq.read_metadata(part.path).num_rows) < SMALL_ROWS


def _key_span(path: Path, key: str) -> tuple[int, int] | None:
    """The lowest and highest key of a part, by its row groups' statistics; None if not known."""
    metadata = pq.read_metadata(path)
    lowest, highest = [], []
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        columns = (row_group.column(i) for i in range(row_group.num_columns))
        found = next((c.statistics for c in columns if c.path_in_schema == key), None)
        if found is None or not found.has_min_max or not isinstance(found.min, int):
            return None
        lowest.append(found.min)
        highest.append(found.max)
    return (min(lowest), max(highest)) if lowest else None
