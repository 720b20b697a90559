"""Which rows of a table's parts are superseded: written again later under the same key.

Contract: of the rows with one key and rank the last one counts, in the order of the parts and
then of the rows. Only keys and ranks are read, and those only of parts that may share a key with
another one or hold one twice; that is told from their heads.
Boundary: reads keys; profiler.parts reads and writes whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from profiler.parts import Mask, Part, holds_unique
from profiler.schema import record_type

Masks = dict[Path, Mask]
_Keys = npt.NDArray[Any]


def latest_rows(parts: Sequence[Part], table: str) -> Masks:
    """Return which rows of a part are the last of their key, for parts where some are not.

    parts: those of one folder, in order. Memory: one part's keys, and a byte per row and key.
    OSError or ArrowException where keys cannot be read.
    """
    key = record_type(table).key
    if key is None:
        return {}
    suspects = _suspects(parts, key)
    total = sum(pq.read_metadata(part.path).num_rows for part in suspects)
    seen: dict[int, _Seen] = {}
    masks: Masks = {}
    for part in reversed(suspects):
        keys, ranks, once = _read_keys(part.path, key)
        mask: Mask = np.zeros(len(keys), dtype=np.bool_)
        for rank in _distinct(ranks):
            rows = np.flatnonzero(ranks == rank)
            mask[rows] = seen.setdefault(rank, _Seen(total)).fresh(keys[rows], once)
        if not mask.all():
            masks[part.path] = mask
    return masks


def _suspects(parts: Sequence[Part], key: str) -> list[Part]:
    """Leave out the parts whose keys are met only once, as far as their heads tell."""
    spans: dict[Path, tuple[int, int]] = {}
    twice: set[Path] = set()
    filled: list[Part] = []
    for part in parts:
        head = pq.read_metadata(part.path)
        if not head.num_rows or key not in head.schema.names:
            continue
        filled.append(part)
        if (span := _span(head, key)) is not None:
            spans[part.path] = span
        if not holds_unique(head):
            twice.add(part.path)
    if len(spans) < len(filled):  # keys that are not known may be anywhere
        return filled if len(filled) > 1 or twice else []
    order = sorted(spans, key=spans.__getitem__)
    reached = None  # the highest key of the parts before
    for path, after in zip(order, [*order[1:], None], strict=True):
        low, high = spans[path]
        meets_after = after is not None and spans[after][0] <= high
        if meets_after or (reached is not None and low <= reached):
            twice.add(path)
        reached = high if reached is None else max(reached, high)
    return [part for part in filled if part.path in twice]


def _span(head: pq.FileMetaData, key: str) -> tuple[int, int] | None:
    """The lowest and highest key of a part, by its row groups' statistics; None if not known."""
    lowest, highest = [], []
    for group in range(head.num_row_groups):
        row_group = head.row_group(group)
        columns = (row_group.column(i) for i in range(row_group.num_columns))
        found = next((c.statistics for c in columns if c.path_in_schema == key), None)
        if found is None or not found.has_min_max or not isinstance(found.min, int):
            return None
        if found.null_count:
            return None
        lowest.append(found.min)
        highest.append(found.max)
    return min(lowest), max(highest)


def _read_keys(path: Path, key: str) -> tuple[_Keys, _Keys, bool]:
    """The keys and ranks of a part in order, and whether no key occurs twice in it."""
    with pq.ParquetFile(path) as file:
        rows = file.read(columns=[key, "rank"], use_threads=False)
        once = holds_unique(file.metadata)
    keys = _plain(rows.column(key))
    if "rank" in rows.column_names:
        return keys, _plain(rows.column("rank")), once
    return keys, np.zeros(len(keys), dtype=np.int64), once


def _plain(column: pa.ChunkedArray) -> _Keys:
    """The values as an array; of objects where some are missing or are text."""
    if pa.types.is_integer(column.type) and not column.null_count:
        values: _Keys = column.to_numpy()
        return values
    return np.array(column.to_pylist(), dtype=object)


def _distinct(ranks: _Keys) -> list[Any]:
    same = not len(ranks) or (ranks == ranks[0]).all()
    return list(dict.fromkeys((ranks[:1] if same else ranks).tolist()))


class _Seen:
    """The keys met so far: one byte per key while keys are serials, a set otherwise."""

    def __init__(self, total: int) -> None:
        self.flags: Mask = np.zeros(1 << 16, dtype=np.bool_)
        self.others: set[Any] = set()
        self.limit = 16 * total + (1 << 20)

    def fresh(self, keys: _Keys, once: bool) -> Mask:
        """Return which rows are the last of a key not met before, and note all keys.

        once: no key occurs twice among these.
        """
        new: Mask
        if self._is_dense(keys):
            new = ~self.flags[keys]
            self.flags[keys] = True
        else:
            new = np.fromiter((k not in self.others for k in keys.tolist()), np.bool_, len(keys))
            self.others.update(keys.tolist())
        return new if once else new & _last_in(keys)

    def _is_dense(self, keys: _Keys) -> bool:
        """Whether the keys can be flagged; makes room for them, or turns to the set for good."""
        if self.others or not len(keys):
            return False
        if keys.dtype == object or int(keys.min()) < 0 or int(keys.max()) > self.limit:
            self.others.update(np.flatnonzero(self.flags).tolist())
            return False
        if (highest := int(keys.max())) >= len(self.flags):
            grown = np.zeros(max(highest + 1, 2 * len(self.flags)), dtype=np.bool_)
            grown[: len(self.flags)] = self.flags
            self.flags = grown
        return True


def _last_in(keys: _Keys) -> Mask:
    """Which rows are the last of their key among these."""
    if keys.dtype == object:
        rows = list({key: row for row, key in enumerate(keys.tolist())}.values())
    else:
        _, reverse = np.unique(keys[::-1], return_index=True)
        rows = (len(keys) - 1 - reverse).tolist()
    mask: Mask = np.zeros(len(keys), dtype=np.bool_)
    mask[rows] = True
    return mask
