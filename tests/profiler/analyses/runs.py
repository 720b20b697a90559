"""Small runs written by hand, for tests of the analyses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from profiler.events import Record, Save
from profiler.query import Run, open_run
from profiler.store import RunWriter


def run_of(path: Path, *groups: Iterable[Record]) -> Run:
    """A closed run that holds these records."""
    with RunWriter(path) as writer:
        for group in groups:
            for record in group:
                writer.add(record)
    return open_run(path)


def float32(
    save_id: int,
    storage_id: int,
    shape: list[int],
    *,
    stride: list[int] | None = None,
    storage_elements: int = 0,
    **fields: object,
) -> Save:
    """A save of a float32 tensor: contiguous unless a stride is given."""
    count, steps = 1, []
    for size in reversed(shape):
        steps.append(count)
        count *= size
    return Save(
        save_id=save_id,
        storage_id=storage_id,
        shape=shape,
        stride=stride if stride is not None else steps[::-1],
        dtype="float32",
        logical_bytes=4 * count,
        storage_bytes=4 * (storage_elements or count),
        **fields,  # type: ignore[arg-type]
    )
