"""Superseded rows are the ones that a window over all rows would leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from profiler import superseded
from profiler.events import Module, Save
from profiler.parts import list_parts, write_part
from profiler.query import open_run
from profiler.schema import to_batch
from profiler.settle import holds_keys_once, settle
from profiler.store import RunWriter
from profiler.superseded import latest_rows

Rows = list[dict[str, Any]]
SMALL_PARTS = 1_000_000
COLUMNS = {
    "saves": "save_id, rank, unpacked_count, time_ns",
    "modules": "module, rank, param_bytes",
}


def by_window(run: Path, table: str) -> Rows:
    """The last row of each rank and key, by one window over all rows of all parts."""
    columns, key = COLUMNS[table], COLUMNS[table].partition(",")[0]
    query = (
        f"SELECT {columns} FROM read_parquet('{run}/{table}/*.parquet', filename = true,"
        f" file_row_number = true) QUALIFY row_number() OVER (PARTITION BY rank, {key}"
        " ORDER BY filename DESC, file_row_number DESC) = 1 ORDER BY ALL"
    )
    with duckdb.connect() as db:
        rows: Rows = db.sql(query).to_arrow_table().to_pylist()
    return rows


def seen(run: Path, table: str) -> Rows:
    with open_run(run) as opened:
        rows: Rows = opened.sql(f"SELECT {COLUMNS[table]} FROM {table} ORDER BY ALL").to_pylist()
    return rows


def random_saves(run: Path, seed: int) -> None:
    """Parts of none to 300 saves: some apart, some overlapping, some keys over and over."""
    random = np.random.default_rng(seed)
    wild = seed % 4 == 0  # keys that are no serials
    for number in range(1, 16):
        first = int(random.integers(0, 3)) * 10_000 + number * 1_000 * int(random.integers(0, 2))
        keys = first + random.integers(0, 400, int(random.integers(0, 4)) * 100)
        keys = random.permutation(keys) * (-(2**40) if wild else 1)
        if random.random() < 0.5:
            keys = np.unique(keys)
        ranks = random.integers(0, 2, len(keys)) if seed % 2 else np.zeros(len(keys))
        records = [
            Save(save_id=k, rank=int(r), unpacked_count=number, time_ns=i)
            for i, (k, r) in enumerate(zip(keys.tolist(), ranks.tolist(), strict=True))
        ]
        rows = pa.Table.from_batches([to_batch("saves", records, 0)])
        unique = holds_keys_once(rows, "saves")
        write_part(run / "saves", "saves", (number, number), [rows][: len(rows)], unique=unique)


@pytest.mark.parametrize(("seed", "small"), [*enumerate([1, 150, SMALL_PARTS] * 3)])
def test_random_parts_are_read_and_settled_as_by_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, small: int
) -> None:
    monkeypatch.setattr("profiler.settle.SMALL_ROWS", small)
    RunWriter(tmp_path).close()
    random_saves(tmp_path, seed)
    expected = by_window(tmp_path, "saves")
    written = sum(len(pq.read_table(p.path)) for p in list_parts(tmp_path / "saves"))
    assert 0 < len(expected) < written
    assert seen(tmp_path, "saves") == expected
    settle(tmp_path / "saves", "saves")
    assert seen(tmp_path, "saves") == expected
    if small == SMALL_PARTS:
        (whole,) = list_parts(tmp_path / "saves")
        assert len(pq.read_table(whole.path)) == len(expected)
    else:  # what is superseded and was left is a small share
        left = latest_rows(list_parts(tmp_path / "saves"), "saves").values()
        assert all((~mask).sum() * 16 <= len(mask) for mask in left)


def test_keys_that_are_text(tmp_path: Path) -> None:
    with RunWriter(tmp_path, flush_seconds=600) as writer:
        for count in range(4):
            for name in ("a", "b", f"c{count % 2}"):
                writer.add(Module(module=name, param_bytes=count))
            writer.flush()
        expected = by_window(tmp_path, "modules")
        assert len(expected) == 4 and seen(tmp_path, "modules") == expected
    assert seen(tmp_path, "modules") == expected


def test_parts_that_share_no_key_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = superseded._read_keys

    def noting(path: Path, key: str) -> Any:
        asked.append(path.name)
        return real(path, key)

    monkeypatch.setattr(superseded, "_read_keys", noting)
    writer = RunWriter(tmp_path, flush_seconds=600)
    for keys in ([0, 1], [2, 3], [9, 8], [4, 5, 8], [6, 7]):
        for key in keys:
            writer.add(Save(save_id=key))
        writer.flush()
    assert [row["save_id"] for row in seen(tmp_path, "saves")] == list(range(10))
    assert sorted(int(name.split("-")[1]) for name in asked) == [3, 4, 5]
    writer.close()


def test_a_part_whose_keys_cannot_be_read_is_skipped_and_named(tmp_path: Path) -> None:
    RunWriter(tmp_path).close()
    (tmp_path / "saves").mkdir()
    good, bad = (tmp_path / f"saves/part-00000{number}.parquet" for number in (1, 2))
    pq.write_table(pa.table({"save_id": [1, 2]}), good)
    pq.write_table(pa.table({"save_id": [2, 3]}), bad, compression="none", use_dictionary=False)
    content = bytearray(bad.read_bytes())
    content[4:40] = b"\xff" * 36  # the page, not the head
    bad.write_bytes(content)
    with open_run(tmp_path) as run:
        assert run.sql("SELECT save_id FROM saves").column(0).to_pylist() == [1, 2]
        assert run.note is not None and run.note.startswith(f"skipped saves/{bad.name}: ")
