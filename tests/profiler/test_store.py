"""What is added is on disk, whole or not at all, whatever happens to the program or the disk."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiler import parts, store
from profiler.events import (
    RECORDS,
    Edge,
    MemorySample,
    Module,
    Node,
    Record,
    Save,
    Stack,
    Step,
    Storage,
    Total,
    Transfer,
)
from profiler.query import open_run
from profiler.schema import to_records
from profiler.store import RunWriter

HOSTILE = "<script>alert(1)</script>'; DROP TABLE saves; -- ../../etc \U0001f525 \x00 \"%s{}"


def one_of_each() -> list[Record]:
    """Every record type with no field left at its default."""
    return [
        Save(
            save_id=2**40, step=1, phase="backward", rank=0, time_ns=10**18, node_seq=7,
            op=HOSTILE, module="a.b", stack_id=3, shape=[2, 3, 0], dtype="torch.bfloat16",
            stride=[3, 1, 1], storage_offset=5, device="cuda:0", storage_id=9,
            logical_bytes=12, storage_bytes=24, is_param=True, version=2, action="alias",
            alias_of=1, hops=4, finder="graph", host_bytes=6, peer_bytes=42,
            unpack_ns=10**18 + 1, unpacked_count=2,
        ),
        Storage(storage_id=9, step=1, bytes=24, device="cpu", category="grad", born_ns=1,
                died_ns=2, module=HOSTILE, last_keeper="MmBackward0"),
        Transfer(step=1, direction="h2d", bytes=5, start_ns=1, end_ns=2, stream=3, pinned=True,
                 simulated=True, peer=True, save_id=4, module="m"),
        Node(step=1, seq=-4, name="MmBackward0", module="m", stack_id=2, shape=[4], saved_bytes=1,
             saved_unique_bytes=1, forward_ns=5, backward_ns=6),
        Edge(step=1, source=1, target=2, output=1),
        MemorySample(step=1, time_ns=1, phase="forward", device="cuda:0", allocated_bytes=1,
                     reserved_bytes=2, rss_bytes=3, param_bytes=4, grad_bytes=5,
                     optimizer_bytes=6, saved_bytes=7, temp_bytes=8, host_bytes=9, peer_bytes=10),
        Module(module="m", kind="Linear", parent="", param_bytes=8, trainable_bytes=4),
        Stack(stack_id=3, frames=[HOSTILE, "b.py:2:g"]),
        Total(step=1, module="m", saves=1, logical_bytes=2, param_bytes=3, first_bytes=4,
              aliased_bytes=5, unique_bytes=6, param_storage_bytes=7, storages=8, host_copies=9,
              host_bytes=10, peer_bytes=11),
        Step(step=1, name="M+U", start_ns=1, forward_end_ns=2, end_ns=3, peak_bytes=4,
             rss_peak_bytes=5),
    ]  # fmt: skip


def read(path: Path, table: str) -> list[Any]:
    return to_records(open_run(path).table(table), table)


def files(path: Path, table: str) -> list[str]:
    return sorted(p.name for p in (path / table).iterdir())


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


def test_run_json_is_there_before_the_first_row_and_says_what_the_contract_names(
    tmp_path: Path,
) -> None:
    with RunWriter(tmp_path / "run", {"command": "x", "model": "llama", "level": "full"}) as writer:
        before = json.loads((tmp_path / "run/run.json").read_text())
        writer.describe(model="llama-7b")
    after = json.loads((tmp_path / "run/run.json").read_text())
    assert before["closed"] is False and after["closed"] is True
    assert before["schema"] == 1 and before["command"] == "x" and before["ranks"] == 1
    assert set(before["versions"]) >= {"python", "torch", "edkm", "profiler"}
    assert set(before["hardware"]) >= {"cpu", "cores", "memory_bytes", "gpu"}
    assert set(before) >= {"argv", "model", "switches", "level", "created"}
    assert after["model"] == "llama-7b" and after["ended"] >= after["created"]


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


def test_several_ranks_share_a_folder(tmp_path: Path) -> None:
    writers = [RunWriter(tmp_path / "run", rank=r, world_size=3) for r in (1, 0, 2)]
    for writer in writers:
        writer.add(Save(save_id=1))
        writer.add(Step(step=4))
        writer.flush()
        writer.add(Save(save_id=1, unpacked_count=1))
    for writer in writers[:2]:
        writer.close()
    run = open_run(tmp_path / "run")
    assert run.note == "rank 2 not closed; last step 4" and not run.closed
    writers[2].close()
    assert run.note is None and run.closed
    rows = run.sql("SELECT rank, unpacked_count FROM saves ORDER BY rank").to_pylist()
    assert rows == [{"rank": r, "unpacked_count": 1} for r in range(3)]
    assert (tmp_path / "run/rank-002/saves").is_dir()


def test_ranks_replace_a_run_with_force_in_any_order(tmp_path: Path) -> None:
    for rank in range(3):
        RunWriter(tmp_path / "run", rank=rank, world_size=3).close()
    for rank in (1, 0):
        with RunWriter(tmp_path / "run", rank=rank, world_size=2, force=True) as writer:
            writer.add(Save(save_id=5))
    run = open_run(tmp_path / "run")
    assert run.closed and len(run.table("saves")) == 2
    assert not (tmp_path / "run/rank-002").exists()


# Folders


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"not empty, and nothing is overwritten; .*--force"):
        RunWriter(tmp_path)
    with pytest.raises(ValueError, match=r"holds no run .* left alone"):
        RunWriter(tmp_path, force=True)
    (tmp_path / "run.json").write_text('{"of": "another program"}')
    with pytest.raises(ValueError, match="holds no run"):
        RunWriter(tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_force_replaces_a_run(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        writer.add(Save(save_id=1))
        writer.write_json("ablation.json", {"rows": []})
    with pytest.raises(ValueError, match="--force"):
        RunWriter(tmp_path / "run")
    with RunWriter(tmp_path / "run", force=True) as writer:
        writer.add(Step(step=1))
    run = open_run(tmp_path / "run")
    assert len(run.table("saves")) == 0 and run.ablation is None and len(run.steps) == 1


def test_force_does_not_follow_links_out_of_the_folder(tmp_path: Path) -> None:
    RunWriter(tmp_path / "run").close()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    (tmp_path / "run/link").symlink_to(tmp_path / "precious")
    RunWriter(tmp_path / "run", force=True).close()
    assert (tmp_path / "precious/file").exists() and not (tmp_path / "run/link").exists()


def test_a_file_and_an_unwritable_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="which is a file"):
        RunWriter(tmp_path / "file")
    with pytest.raises(ValueError, match=r"cannot be written \(.*\); choose another"):
        RunWriter(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="cannot be written"):
        RunWriter("/proc/nothing/run")


@pytest.mark.parametrize("name", ["run.json", "../x.json", "a/b.json", "x.txt", "/tmp/x.json"])
def test_only_plain_json_names_are_written(tmp_path: Path, name: str) -> None:
    with RunWriter(tmp_path / "run") as writer:
        with pytest.raises(ValueError, match="must be a plain"):
            writer.write_json(name, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flush_rows": 0}, "flush_rows: got 0"),
        ({"flush_seconds": 0}, "flush_seconds: got 0"),
        ({"rank": 2, "world_size": 2}, "rank: got 2 of world_size 2"),
    ],
)
def test_senseless_settings_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RunWriter(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


# Faults


def test_a_program_may_change_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with RunWriter("run") as writer:
        writer.add(Save(save_id=1))
        monkeypatch.chdir(tmp_path / "elsewhere")
        writer.write_json("ablation.json", {})
    run = open_run(tmp_path / "run")
    assert run.closed and run.ablation == {} and len(run.table("saves")) == 1
    assert not list((tmp_path / "elsewhere").iterdir())


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
    monkeypatch.setattr("profiler.settle.GROUP_ROWS", 8)
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
    monkeypatch.setattr("profiler.settle.GROUP_ROWS", 2)
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
    for _ in ("not closed", "closed"):
        found = {row.save_id: row.unpacked_count for row in read(tmp_path / "run", "saves")}
        assert found == {**dict.fromkeys(range(9), 0), 1: 1}
        writer.close()
    assert len(files(tmp_path / "run", "saves")) == 1
