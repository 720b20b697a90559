"""A reader gets rows, a note, or a RunError: never a traceback, a hang, or a wrong number."""

from __future__ import annotations

import atexit
import json
import random
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from profiler.events import RECORDS, Save, Stack, Step
from profiler.parts import list_parts
from profiler.query import Run, RunError, latest_run, list_runs, open_run
from profiler.schema import columns
from profiler.store import RunWriter


def make_run(path: Path, *, parts: int = 4, closed: bool = True) -> RunWriter:
    """A run whose part n holds saves 10 n to 10 n + 9 and step n."""
    writer = RunWriter(path, {"command": "test"}, flush_seconds=600)
    for part in range(parts):
        for i in range(10):
            writer.add(Save(save_id=10 * part + i, step=part, shape=[i], op=f"op{i}"))
        writer.add(Step(step=part))
        writer.flush()
    if closed:
        writer.close()
    else:
        atexit.unregister(writer._at_exit)  # as good as killed
    return writer


def ids(run: Run) -> list[int]:
    return run.sql("SELECT save_id FROM saves ORDER BY 1").column("save_id").to_pylist()


def test_tables_have_the_columns_of_the_records(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    run = open_run(tmp_path / "run")
    for record in RECORDS:
        table = run.table(record.table)
        assert table.schema.names == [c.name for c in columns(record.table)]
        assert table.schema.types == [c.type for c in columns(record.table)]
    assert run.closed and run.note is None and run.ablation is None
    assert run.info["command"] == "test" and [s.step for s in run.steps] == [0, 1, 2, 3]


def test_questions_take_parameters_and_sums_are_whole_numbers(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    run = open_run(tmp_path / "run")
    row = run.sql("SELECT sum(save_id) AS s FROM saves WHERE op = ? AND step < ?", ["op3", 2])
    assert row.schema.field("s").type == pa.int64() and row.to_pylist() == [{"s": 3 + 13}]
    assert run.sql("SELECT $a AS a", {"a": "x'; DROP TABLE saves"}).to_pylist()[0]["a"][0] == "x"


def test_unknown_table_names_the_known(tmp_path: Path) -> None:
    make_run(tmp_path / "run", parts=1)
    with pytest.raises(ValueError, match=r"table: got 'save', .* saves, storages"):
        open_run(tmp_path / "run").table("save")


@pytest.mark.parametrize(
    "query",
    [
        "SELEC 1", "SELECT nothing FROM saves", "", ";", "SELECT 1; SELECT 2", "DROP VIEW saves",
        "COPY saves TO 'x.csv'", "SELECT * FROM read_csv('/etc/passwd')", "ATTACH 'x.db'",
        "SELECT * FROM '/etc/passwd'", "INSTALL httpfs", "SET threads = 1", "SELECT 1 / 'x'",
        "SELECT \ud800", "CREATE TABLE t (a int)", "SELECT * FROM saves WHERE op = ?",
    ],
)  # fmt: skip
def test_a_bad_question_is_a_run_error(tmp_path: Path, query: str) -> None:
    make_run(tmp_path / "run", parts=1)
    run = open_run(tmp_path / "run")
    with pytest.raises(RunError, match="query: got"):
        run.sql(query)
    assert len(ids(run)) == 10


@pytest.mark.parametrize("name", ["a'b", "a[1]", "*", "a?b", 'q"q', "ü 🔥", "'; DROP TABLE x; --"])
def test_any_folder_name_works(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / name, closed=False)
    make_run(tmp_path / "a1")  # what the pattern a[1] would match
    run = open_run(tmp_path / name)
    assert ids(run) == list(range(40))
    run._refresh(again=True)
    assert ids(run) == list(range(40))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    text = "<img src=x onerror=alert(1)>'; DROP VIEW saves; --"
    with RunWriter(tmp_path / "run") as writer:
        writer.add(Save(save_id=1, op=text, module=text))
        writer.add(Stack(stack_id=1, frames=[text]))
    run = open_run(tmp_path / "run")
    found = run.sql("SELECT module FROM saves WHERE op = ?", [text]).to_pylist()
    assert found == [{"module": text}]
    assert run.table("stacks").to_pylist()[0]["frames"] == [text]


# Old and new versions


def write_foreign(run: Path, table: str, rows: dict[str, Any], name: str) -> None:
    (run / table).mkdir(exist_ok=True)
    pq.write_table(pa.table(rows), run / table / name)


def test_missing_columns_get_defaults_and_unknown_ones_are_ignored(tmp_path: Path) -> None:
    RunWriter(tmp_path / "run").close()
    write_foreign(tmp_path / "run", "saves", {"save_id": [1], "colour": ["x"]}, "part-1.parquet")
    write_foreign(
        tmp_path / "run",
        "saves",
        {"save_id": [2], "op": ["Mm"], "hops": [3]},
        "part-000002.parquet",
    )
    run = open_run(tmp_path / "run")
    rows = run.sql("FROM saves ORDER BY save_id").to_pylist()
    assert [Save(**row) for row in rows] == [Save(save_id=1), Save(save_id=2, op="Mm", hops=3)]


def test_a_column_of_another_type_is_skipped_with_a_note(tmp_path: Path) -> None:
    make_run(tmp_path / "run", parts=1)
    write_foreign(tmp_path / "run", "saves", {"save_id": ["x"]}, "part-000009.parquet")
    run = open_run(tmp_path / "run")
    assert ids(run) == list(range(10))
    assert (
        run.note == "skipped saves/part-000009.parquet: column save_id holds string, must be int64"
    )


def test_a_newer_schema_asks_for_an_upgrade(tmp_path: Path) -> None:
    make_run(tmp_path / "run", parts=1)
    info = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(info | {"schema": 99}))
    with pytest.raises(RunError, match="got schema 99, but this version reads up to 1; upgrade"):
        open_run(tmp_path / "run")


# Damage


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": "1"}', b'{"schema": null}', b"{}",
        b'{"schema": true}', b'{"schema": -1}', b"[" * 100_000, b'{"schema": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_damaged_run_json_is_a_run_error(tmp_path: Path, content: bytes) -> None:
    make_run(tmp_path / "run", parts=1)
    (tmp_path / "run/run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json"):
        open_run(tmp_path / "run")


def test_folders_that_are_no_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        open_run(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"has no run\.json"):
        open_run(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        open_run(tmp_path / "file")
    (tmp_path / "odd/run.json").mkdir(parents=True)
    with pytest.raises(RunError, match="cannot be read"):
        open_run(tmp_path / "odd")


def test_a_damaged_ablation_is_a_note(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        writer.write_json("ablation.json", {"schema": 1, "rows": []})
    run = open_run(tmp_path / "run")
    assert run.ablation == {"schema": 1, "rows": []} and run.note is None
    (tmp_path / "run/ablation.json").write_text('{"rows": [')
    assert run.ablation is None
    assert run.note is not None and run.note.startswith("skipped ablation.json: ")


def test_a_truncated_part_is_skipped_and_named(tmp_path: Path) -> None:
    make_run(tmp_path / "run", closed=False)
    victim = list_parts(tmp_path / "run/saves")[1].path
    victim.write_bytes(victim.read_bytes()[:-40])
    run = open_run(tmp_path / "run")
    assert ids(run) == [*range(10), *range(20, 40)]
    assert run.note == (
        f"not closed; last step 3; skipped saves/{victim.name}: "
        "its content does not match the checksum in its name"
    )


def test_random_damage_never_gives_a_traceback_or_a_wrong_row(tmp_path: Path) -> None:
    rng = random.Random(7)
    make_run(tmp_path / "run", closed=False)
    good = {p: p.read_bytes() for p in sorted((tmp_path / "run").rglob("*")) if p.is_file()}
    truth = set(range(40))
    for _ in range(200):
        victim = rng.choice(list(good))
        victim.write_bytes(damaged(rng, good[victim]))
        try:
            run = open_run(tmp_path / "run")
            assert set(ids(run)) <= truth
            assert {s.step for s in run.steps} <= {0, 1, 2, 3}
            if victim.suffix == ".parquet":
                assert run.note is not None and victim.name in run.note
            assert run.version
            run.close()
        except RunError as error:
            assert "run.json" in str(error)
        victim.write_bytes(good[victim])


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Content that is cut, overwritten, padded, swapped or bit-flipped, but never unchanged."""
    kind = rng.randrange(5)
    at = rng.randrange(len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if kind == 2:
        return content + rng.randbytes(8)
    if kind == 3:
        return rng.randbytes(len(content))
    return content[:at] + b"\x00" * 16 + content[at + 16 :] + b"\x00"


def test_damaged_parts_without_a_checksum_are_survived(tmp_path: Path) -> None:
    """Files named part-1.parquet by another program: the parser itself must cope."""
    rng = random.Random(3)
    RunWriter(tmp_path / "run").close()
    rows = {"save_id": list(range(1000)), "op": [f"op{i}" for i in range(1000)]}
    write_foreign(tmp_path / "run", "saves", rows, "part-000001.parquet")
    victim = tmp_path / "run/saves/part-000001.parquet"
    content = victim.read_bytes()
    for _ in range(40):
        victim.write_bytes(content[: rng.randrange(len(content))])
        run = open_run(tmp_path / "run")
        assert ids(run) == [] and run.note is not None
        run.close()


def test_a_table_that_is_a_file_and_stray_files_are_ignored(tmp_path: Path) -> None:
    make_run(tmp_path / "run", parts=1)
    (tmp_path / "run/edges").write_text("not a folder")
    (tmp_path / "run/saves/notes.txt").write_text("x")
    (tmp_path / "run/saves/.part-000007-000007.tmp").write_bytes(b"PAR1")
    (tmp_path / "run/saves/part-000005.parquet").mkdir()
    run = open_run(tmp_path / "run")
    assert ids(run) == list(range(10)) and len(run.table("edges")) == 0
    assert run.note is not None and "part-000005.parquet" in run.note


# Live


def test_a_reader_sees_parts_as_they_appear_and_through_the_merge(tmp_path: Path) -> None:
    writer = make_run(tmp_path / "run", closed=False)
    run = open_run(tmp_path / "run")
    seen = {run.version}
    assert ids(run) == list(range(40)) and run.note == "not closed; last step 3"
    writer.add(Save(save_id=100))
    assert run.version in seen
    writer.flush()
    assert run.version not in seen and ids(run)[-1] == 100
    seen.add(run.version)
    writer.close()
    assert run.version not in seen and ids(run) == [*range(40), 100]
    assert run.closed and run.note is None


def test_reading_while_writing_never_fails_or_goes_back(tmp_path: Path) -> None:
    stop = threading.Event()
    problems: list[str] = []

    def read() -> None:
        run, last = open_run(tmp_path / "run"), 0
        while not stop.is_set():
            found = ids(run)
            if found != list(range(len(found))) or len(found) < last:
                problems.append(f"{len(found)} rows after {last}")
            last = len(found)

    writer = RunWriter(tmp_path / "run", flush_seconds=600)
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(1000):
        save = Save(save_id=i)
        writer.add(save)
        if i % 4 == 3:
            writer.flush()
            writer.update(save)
    writer.close()
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert ids(open_run(tmp_path / "run")) == list(range(1000))


def test_one_run_answers_several_threads(tmp_path: Path) -> None:
    make_run(tmp_path / "run", closed=False)
    run = open_run(tmp_path / "run")
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(ids(run)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [40] * 8


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == [] and latest_run(tmp_path) is None
    for name, created in (("a", "2026-01-02"), ("b", "2026-01-03"), ("c", "2026-01-01")):
        RunWriter(tmp_path / name).close()
        info = json.loads((tmp_path / name / "run.json").read_text())
        (tmp_path / name / "run.json").write_text(json.dumps(info | {"created": created}))
    (tmp_path / "no_run").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text("{")
    assert [p.name for p in list_runs(tmp_path)] == ["b", "a", "c", "broken"]
    assert latest_run(tmp_path) == tmp_path / "b"
