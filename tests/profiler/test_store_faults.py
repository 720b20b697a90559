"""What was written stays readable, whatever happens to the program or the disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiler import parts, store
from profiler.events import (
    Edge,
    Save,
    Step,
)
from profiler.query import open_run
from profiler.store import RunWriter
from tests.profiler.rows import files, one_of_each, read


def test_an_interrupted_run_is_closed_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        with RunWriter(tmp_path / "run") as writer:
            writer.add(Save(save_id=1))
            raise KeyboardInterrupt
    run = open_run(tmp_path / "run")
    assert run.closed and len(run.table("saves")) == 1
    assert run.note == "interrupted: KeyboardInterrupt"


def test_an_orderly_exit_is_no_interruption(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        with RunWriter(tmp_path / "run"):
            raise SystemExit(0)
    assert open_run(tmp_path / "run").note is None


def test_an_interrupt_in_the_middle_of_a_flush_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.write_part
    calls: list[int] = []

    def interrupted(*args: Any, **kwargs: Any) -> parts.Part:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    writer = RunWriter(tmp_path / "run", flush_seconds=600)
    monkeypatch.setattr(store, "write_part", interrupted)
    for record in one_of_each():
        writer.add(record)
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    writer.close(interrupted="KeyboardInterrupt")
    for record in one_of_each():
        assert read(tmp_path / "run", record.table) == [record]


def test_a_full_disk_stops_the_recording_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter(tmp_path / "run", flush_seconds=600)
    writer.add(Save(save_id=1))
    writer.add(Step(step=0))
    writer.flush()

    def full(self: Any, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parts._Checked, "write", full)
        writer.add(Save(save_id=2))
        with pytest.warns(RuntimeWarning, match=r"stopped: .*No space left.* goes on untraced"):
            writer.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for i in range(100):
                writer.add(Save(save_id=i))
            writer.add_many("saves", {"save_id": [1]})
            writer.flush()
            writer.close()
    run = open_run(tmp_path / "run")
    assert [s.save_id for s in read(tmp_path / "run", "saves")] == [1]
    assert run.note is not None and "No space left" in run.note
    assert not [name for name in files(tmp_path / "run", "saves") if name.endswith(".tmp")]


def test_a_full_disk_met_on_the_writers_thread_warns_in_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = RunWriter(tmp_path / "run", flush_seconds=0.01)
    monkeypatch.setattr(store, "write_part", full)
    monkeypatch.setattr("profiler.folder.json.dump", full)
    writer.add(Save(save_id=1))
    deadline = time.monotonic() + 10
    while writer.problem is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.warns(RuntimeWarning, match="No space left"):
        writer.add(Save(save_id=2))
    writer.close()
    monkeypatch.undo()
    assert open_run(tmp_path / "run").note == "not closed; no step finished"


def test_a_record_that_fits_no_column_stops_the_recording(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.add(Save(save_id="seven"))  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match="stopped"):
        writer.close()


def test_a_disk_too_full_to_merge_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("profiler.settle.merge_parts", full)
    with RunWriter(tmp_path / "run", flush_seconds=600) as writer:
        for i in range(3):
            writer.add(Save(save_id=i))
            writer.flush()
    run = open_run(tmp_path / "run")
    assert run.closed and run.note is None and "No space" in run.info["unmerged"]
    assert len(run.table("saves")) == 3


def test_a_merge_killed_halfway_is_read_once(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", flush_seconds=600) as writer:
        for i in range(4):
            writer.add(Edge(source=i))
            writer.flush()
        folder = tmp_path / "run/edges"
        copies = {p.name: p.read_bytes() for p in folder.iterdir()}
    for name, content in list(copies.items())[1:]:  # as if killed while deleting
        (folder / name).write_bytes(content)
    (folder / ".part-000009-000009.tmp").write_bytes(b"half a part")
    run = open_run(tmp_path / "run")
    assert sorted(run.table("edges").column("source").to_pylist()) == [0, 1, 2, 3]
    assert run.note is None


CHILD = """
import sys, time
from profiler.events import Save, Step
from profiler.store import RunWriter
writer = RunWriter(sys.argv[1], flush_seconds=0.005)
step = 0
while True:
    for i in range(20):
        save = Save(save_id=step * 20 + i, step=step)
        writer.add(save)
    for i in range(5):
        writer.update(save)
    writer.add(Step(step=step, end_ns=1))
    if step % 5 == 0:
        writer.flush()
        print(step, flush=True)
    step += 1
"""


@pytest.mark.parametrize("lines", [1, 3, 10, 40])
def test_a_killed_run_keeps_every_step_it_reported(tmp_path: Path, lines: int) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        reported = [int(child.stdout.readline()) for _ in range(lines)][-1]
        child.send_signal(signal.SIGKILL)
    run = open_run(tmp_path / "run")
    assert run.note is not None and run.note.startswith("not closed; last step ")
    last = run.steps[-1].step
    assert last >= reported
    rows = run.sql("SELECT step, count(*) AS n FROM saves WHERE step <= ? GROUP BY 1", [last])
    assert sorted(rows.column("step").to_pylist()) == list(range(last + 1))
    assert set(rows.column("n").to_pylist()) == {20}


@pytest.mark.slow
def test_twenty_random_kills_leave_every_step_that_is_on_disk_whole(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for round_ in range(20):
        path = tmp_path / f"run{round_}"
        command = [sys.executable, "-c", CHILD, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(random.uniform(0, 0.4))
            child.kill()
        with open_run(path) as run:
            last = run.steps[-1].step
            sizes = run.sql("SELECT count(*) AS n FROM saves WHERE step <= ? GROUP BY step", [last])
            assert sizes.column("n").to_pylist() == [20] * (last + 1)


def test_a_forked_child_leaves_the_run_alone(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", flush_rows=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            for i in range(100):
                writer.add(Save(save_id=i))
            writer.flush()
            writer.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert json.loads((tmp_path / "run/run.json").read_text())["closed"] is False
    writer.add(Save(save_id=7))
    writer.close()
    assert [s.save_id for s in read(tmp_path / "run", "saves")] == [7]


def test_a_program_that_forgets_to_close_is_closed_at_exit(tmp_path: Path) -> None:
    code = (
        "import sys; from profiler.store import RunWriter; from profiler.events import Save\n"
        "RunWriter(sys.argv[1]).add(Save(save_id=1))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True, env=environment)
    run = open_run(tmp_path / "run")
    assert len(run.table("saves")) == 1 and run.closed
    assert run.note is not None and "without closing" in run.note


def test_large_parts_without_superseded_rows_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiler.settle.SMALL_ROWS", 4)
    with RunWriter(tmp_path / "run", flush_seconds=600) as writer:
        for first, count in ((0, 5), (10, 5), (20, 2), (30, 3)):
            for i in range(first, first + count):
                writer.add(Save(save_id=i, step=i))
            writer.flush()
        before = files(tmp_path / "run", "saves")
    after = files(tmp_path / "run", "saves")
    assert after[:2] == before[:2] and len(after) == 3  # the two small ones became one
    assert len(read(tmp_path / "run", "saves")) == 15


def test_a_row_superseded_in_a_later_large_part_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiler.settle.SMALL_ROWS", 1)
    writer = RunWriter(tmp_path / "run", flush_seconds=600)
    rows = [Save(save_id=i) for i in range(6)]
    for part in (rows[:4], rows[4:]):
        for row in part:
            writer.add(row)
        writer.flush()
    rows[1].unpacked_count = 1
    for row in (*[Save(save_id=i) for i in range(6, 9)], rows[1]):
        writer.update(row)
    writer.flush()
    before = files(tmp_path / "run", "saves")
    for _ in ("not closed", "closed"):
        found = {row.save_id: row.unpacked_count for row in read(tmp_path / "run", "saves")}
        assert found == {**dict.fromkeys(range(9), 0), 1: 1}
        writer.close()
    after = files(tmp_path / "run", "saves")
    assert len(after) == 3 and set(before) - set(after) == {before[0]}  # 1 of its 4 rows was old
