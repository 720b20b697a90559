"""What is added is on disk: every type, update, part, thread and column."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiler import parts, store
from profiler.events import (
    RECORDS,
    Edge,
    Save,
    Stack,
    Storage,
)
from profiler.query import open_run
from profiler.store import RunWriter
from tests.profiler.rows import files, one_of_each, read


def test_every_record_type_comes_back_as_it_was(tmp_path: Path) -> None:
    records = one_of_each()
    assert {type(r) for r in records} == set(RECORDS)
    with RunWriter(tmp_path / "run") as writer:
        for record in records:
            writer.add(record)
    for record in records:
        assert read(tmp_path / "run", record.table) == [record]


def test_defaults_and_empty_tables_come_back(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        writer.add(Save(save_id=1))
    assert read(tmp_path / "run", "saves") == [Save(save_id=1)]
    assert read(tmp_path / "run", "storages") == []


def test_an_update_supersedes_the_row_before_and_after_the_merge(tmp_path: Path) -> None:
    save = Save(save_id=1)
    writer = RunWriter(tmp_path / "run")
    writer.add(save)
    writer.add(Save(save_id=2))
    writer.flush()
    save.unpacked_count = 3
    writer.update(save)
    writer.flush()
    expected = [Save(save_id=2), Save(save_id=1, unpacked_count=3)]
    assert sorted(read(tmp_path / "run", "saves"), key=lambda s: -s.save_id) == expected
    writer.close()
    assert sorted(read(tmp_path / "run", "saves"), key=lambda s: -s.save_id) == expected
    assert len(files(tmp_path / "run", "saves")) == 1


def test_an_update_of_a_waiting_row_writes_it_once(tmp_path: Path) -> None:
    save = Save(save_id=1)
    with RunWriter(tmp_path / "run", flush_seconds=60) as writer:
        writer.add(save)
        for count in range(5):
            save.unpacked_count = count
            writer.update(save)
        writer.flush()
        (part,) = parts.list_parts(tmp_path / "run/saves")
        assert parts.pq.read_metadata(part.path).num_rows == 1
    assert read(tmp_path / "run", "saves") == [save]


def test_rows_without_a_key_cannot_be_updated(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        with pytest.raises(ValueError, match="row of edges, which has no key"):
            writer.update(Edge())


def test_random_updates_over_many_parts_leave_the_last_of_each(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truth: dict[int, int] = {}
    writer = RunWriter(tmp_path / "run", flush_seconds=60, flush_rows=10_000)
    for part in range(150):
        for key in random.integers(0, 300, 20).tolist():
            truth[key] = part
            writer.add(Save(save_id=key, unpacked_count=part))
        writer.flush()
    assert len(files(tmp_path / "run", "saves")) < 70  # small parts are merged on the way
    live = {s.save_id: s.unpacked_count for s in read(tmp_path / "run", "saves")}
    writer.close()
    merged = read(tmp_path / "run", "saves")
    assert live == truth
    assert {s.save_id: s.unpacked_count for s in merged} == truth and len(merged) == len(truth)


@pytest.mark.parametrize("keys", [[5, -3, 5, 2**60, -3, 2**60, 0], [2**62, 1, 2**62, 1]])
def test_keys_that_are_no_serials_are_superseded_too(tmp_path: Path, keys: list[int]) -> None:
    with RunWriter(tmp_path / "run", flush_seconds=60) as writer:
        for place, key in enumerate(keys):
            writer.add(Save(save_id=key, unpacked_count=place))
            if place % 2:
                writer.flush()
    rows = {s.save_id: s.unpacked_count for s in read(tmp_path / "run", "saves")}
    assert rows == {key: place for place, key in enumerate(keys)}
    assert len(read(tmp_path / "run", "saves")) == len(rows)


def test_parts_appear_by_time_without_a_flush_or_close(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", flush_seconds=0.02)
    writer.add(Save(save_id=1))
    run = open_run(tmp_path / "run")
    deadline = time.monotonic() + 10
    while not len(run.table("saves")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(run.table("saves")) == 1
    assert run.note == "not closed; no step finished"
    writer.close()


def test_parts_appear_by_rows(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", flush_rows=10, flush_seconds=600)
    for i in range(10):
        writer.add(Save(save_id=i))
    deadline = time.monotonic() + 10
    while not (tmp_path / "run/saves").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "run/saves").exists()
    writer.close()


def test_waiting_rows_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the writer's thread stuck, the adding thread writes itself."""
    monkeypatch.setattr(store, "_flush_loop", lambda *_: None)
    writer = RunWriter(tmp_path / "run", flush_rows=10)
    for i in range(1000):
        writer.add(Save(save_id=i))
        assert len(writer._waiting["saves"].records) <= 80
    writer.close()
    assert len(read(tmp_path / "run", "saves")) == 1000


def test_a_record_that_changes_while_it_waits_waits_once(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", flush_seconds=600) as writer:
        save = Save(save_id=1)
        writer.add(save)
        writer.flush()
        for count in (1, 2):
            save.unpacked_count = count
            writer.update(save)
        assert len(writer._waiting["saves"].records) == 1
    assert [row.unpacked_count for row in read(tmp_path / "run", "saves")] == [2]


def test_many_threads_add_at_once(tmp_path: Path) -> None:
    def work(base: int) -> None:
        for i in range(2000):
            save = Save(save_id=base + i)
            writer.add(save)
            save.unpacked_count = 1
            writer.update(save)

    with RunWriter(tmp_path / "run", flush_rows=500, flush_seconds=0.01) as writer:
        threads = [threading.Thread(target=work, args=(n * 10_000,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    saves = read(tmp_path / "run", "saves")
    assert len(saves) == 16_000 and len({s.save_id for s in saves}) == 16_000
    assert {s.unpacked_count for s in saves} == {1}


def test_a_finalizer_may_add_in_the_middle_of_a_flush(tmp_path: Path) -> None:
    class Thing:
        pass

    with RunWriter(tmp_path / "run", flush_rows=50, flush_seconds=0.001) as writer:
        for i in range(3000):
            thing = Thing()
            thing.me = thing  # type: ignore[attr-defined]  # only the collector frees it
            weakref.finalize(thing, writer.add, Storage(storage_id=i))
            del thing
            if i % 7 == 0:
                writer.flush()
        gc.collect()
    assert len(read(tmp_path / "run", "storages")) == 3000


def test_columns_given_whole_equal_records_given_one_by_one(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "a") as writer:
        for i in range(100):
            writer.add(Save(save_id=i, op=f"op{i % 3}", shape=[i, 2], logical_bytes=2 * i))
    with RunWriter(tmp_path / "b", flush_rows=30) as writer:
        writer.add_many("saves", {
            "save_id": np.arange(100),
            "op": [f"op{i % 3}" for i in range(100)],
            "shape": [[i, 2] for i in range(100)],
            "logical_bytes": 2 * np.arange(100, dtype=np.int32),
        })  # fmt: skip
    assert read(tmp_path / "a", "saves") == read(tmp_path / "b", "saves")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"save_id": [1], "colour": [2]}, r"got \['colour'\], but there are only"),
        ({"op": ["x"]}, "got no 'save_id'"),
        ({"save_id": [1, 2], "op": ["x"]}, "got lengths .* must be equal"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with RunWriter(tmp_path / "run") as writer:
        with pytest.raises(ValueError, match=message):
            writer.add_many("saves", columns)


def test_text_that_is_no_unicode_is_escaped(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        writer.add(Save(save_id=1, op="a\udcffb"))
        writer.add(Stack(stack_id=1, frames=["ok", "\ud800"]))
    assert read(tmp_path / "run", "saves")[0].op == "a\\udcffb"
    assert read(tmp_path / "run", "stacks")[0].frames == ["ok", "\\ud800"]
