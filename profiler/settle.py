"""What a run's finished parts still need when it is closed: little, where they are large.

Contract: small parts are merged with their neighbours. A large one is written again only when
many of its rows are superseded; few are left in it, as readers leave them out at little cost.
Boundary: decides; profiler.superseded finds the rows and profiler.parts writes them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from profiler.parts import GROUP_ROWS, Part, drop_covered, list_parts, merge_parts
from profiler.schema import record_type
from profiler.superseded import Masks, latest_rows

SMALL_ROWS = GROUP_ROWS // 2  # parts below are merged with their neighbours when a run is closed
MANY = 16  # a part is written again when more than one row in so many is superseded


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


def compact(folder: Path, table: str, parts: Sequence[Part]) -> None:
    """Merge consecutive parts into one; rows that later parts supersede may stay."""
    merge_parts(folder, table, parts, latest_rows(parts, table))


def settle(folder: Path, table: str) -> None:
    """Merge runs of small parts, and rewrite parts in which many rows are superseded."""
    parts = drop_covered(list_parts(folder))
    masks = latest_rows(parts, table)
    for worth, run in itertools.groupby(parts, key=lambda part: _is_worth_it(part, masks)):
        group = list(run)
        if worth and (len(group) > 1 or group[0].path in masks):
            merge_parts(folder, table, group, masks, sync=True)


def _is_worth_it(part: Part, masks: Masks) -> bool:
    """Whether a part is small, or holds so many superseded rows that reading on costs more."""
    rows = int(pq.read_metadata(part.path).num_rows)
    superseded = rows - int(masks[part.path].sum()) if part.path in masks else 0
    return rows < SMALL_ROWS or superseded * MANY > rows
