"""Which rows are run, that finished ones stay, that a failure leaves the others, the report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edkm.compare.plan import Settings, plan
from edkm.compare.record import KEYS, Record, failed, write_json
from edkm.compare.report import groups, picture, spread, table, write
from edkm.compare.run import compare

# A worker that stands for any method: RTN works, GPTQ raises, AWQ dies, the rest must not be run.
WORKER = """
import json, os, sys
job = json.load(sys.stdin)
with open(job["out"] + "/../ran.txt", "a") as file:
    file.write(job["method"] + "\\n")
if job["method"] == "awq":
    print("out of luck", file=sys.stderr, flush=True)
    os.abort()
row = dict.fromkeys(KEYS)
row.update(method=job["method"], bits=job["bits"], seed=job["seed"], seconds=1.0, status="failed")
if job["method"] == "gptq":
    row["error"] = "ValueError: a bad Hessian"
else:
    row.update(status="done", size_bytes=100, bits_per_weight=3.5, ppl_dense=4.0, ppl=5.0,
               peak_bytes=1 << 20)
json.dump(row, open(sys.argv[1], "w"))
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "text.txt").write_text("once upon a time")
    text = tmp_path / "text.txt"
    return Settings(
        model=tmp_path, text_train=text, text_heldout=text, out=tmp_path / "out",
        methods=("rtn", "gptq", "awq"), bits=(3,),
    )  # fmt: skip


@pytest.fixture
def worker(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "worker.py").write_text(f"KEYS = {KEYS!r}\n{WORKER}")
    return sys.executable, str(tmp_path / "worker.py")


def changed(settings: Settings, **values: Any) -> Settings:
    return Settings(**{**vars(settings), **values})


def test_the_plan_runs_the_first_seed_of_everything_first(settings: Settings) -> None:
    wide = changed(settings, methods=("dense", "rtn", "edkm"), bits=(3, 4), seeds=(0, 1))
    rows = [(job.method, job.bits, job.seed) for job in plan(wide)]
    assert [row[0] for row in rows if row[2] == 0] == ["dense", "rtn", "edkm", "rtn", "edkm"]
    assert rows[5:] == [("dense", 8, 1), ("edkm", 3, 1), ("edkm", 4, 1)]  # RTN has no seed
    assert len({job.out for job in plan(wide)}) == len(rows)


def test_one_failure_leaves_the_others_and_finished_rows_stay(
    settings: Settings, worker: tuple[str, ...]
) -> None:
    seen: list[int] = []
    result = compare(settings, worker=worker, say=lambda done, total, job, row: seen.append(done))
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["rtn"]["status"] == "done"
    assert rows["gptq"]["error"] == "ValueError: a bad Hessian"
    assert rows["awq"]["status"] == "failed"
    assert "out of luck" in rows["awq"]["error"] and "-6" in rows["awq"]["error"]
    assert seen[-1] == 3
    on_disk = json.loads((settings.out / "comparison.json").read_text())
    assert on_disk["rows"] == result["rows"]
    assert {"settings", "machine", "versions"} <= set(on_disk)

    compare(settings, worker=worker)
    ran = (settings.out / "work" / "ran.txt").read_text().split()
    assert ran.count("rtn") == 1 and ran.count("gptq") == ran.count("awq") == 2


def test_rows_of_other_settings_are_not_mixed(settings: Settings, worker: tuple[str, ...]) -> None:
    compare(changed(settings, methods=("rtn",)), worker=worker)
    more = compare(changed(settings, methods=("gptq",)), worker=worker)  # more rows of one table
    assert [row["method"] for row in more["rows"]] == ["rtn", "gptq"]
    with pytest.raises(ValueError, match="made with other settings"):
        compare(changed(settings, steps=7), worker=worker)
    (settings.out / "comparison.json").write_text("{}")
    with pytest.raises(ValueError, match="is no comparison"):
        Record(settings)


def row(method: str, bits: int | None, ppl: float | None, seed: int = 0) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(KEYS)
    values.update(
        method=method, bits=bits, ppl=ppl, seed=seed, ppl_dense=4.0, size_bytes=1000 * (bits or 32),
        bits_per_weight=float(bits or 32), seconds=2.0, peak_bytes=3 << 20, status="done",
    )  # fmt: skip
    return values


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": rows, "settings": {"model": "some/llama"}}


def test_the_table_gathers_seeds_and_names_failures() -> None:
    broken = {**row("awq", 3, None), "status": "failed", "error": "no luck"}
    rows = [row("rtn", 3, 9.0), row("edkm", 3, 5.0), row("edkm", 3, 6.0, 1), broken]
    lines = table(result([*rows, row("dense", None, 4.4)])).splitlines()
    assert lines[2].startswith("| dense, tuned |  |")
    assert lines[3] == "| eDKM | 3 |  | 3,000 | 3.00 | 5.500 ± 0.500 | 1.375 | 2 | 2 | 3 |"
    assert lines[4].startswith("| RTN | 3 |")
    assert lines[-1] == "- AWQ, 3 bits, seed 0: no luck"
    assert spread([]) == "infinite"


def test_rows_are_ordered_by_bits_then_perplexity() -> None:
    rows = [row("rtn", 3, 9.0), row("edkm", 3, 5.0), row("rtn", 4, 8.0), row("gptq", 3, None)]
    order = [(members[0]["method"], members[0]["bits"]) for members in groups(rows)]
    assert order == [("rtn", 4), ("edkm", 3), ("rtn", 3), ("gptq", 3)]


def test_tasks_become_columns() -> None:
    scored = {**row("edkm", 3, 5.0), "tasks": {"piqa, acc": 0.5}}
    lines = table(result([scored, row("rtn", 3, 9.0)])).splitlines()
    assert lines[0].endswith("| piqa, acc |")
    assert lines[2].endswith("| 0.500 |") and lines[3].endswith("|  |")


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    rows = [row("rtn", 3, 9.0), row("rtn", 4, 6.0), row("dense", None, 4.4), row("gptq", 2, None)]
    picture(result(rows), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    write(result(rows), tmp_path)
    assert (tmp_path / "table.md").read_text().startswith("| method |")


def test_an_infinite_perplexity_is_written_as_none(tmp_path: Path) -> None:
    write_json(tmp_path / "row.json", {"ppl": float("inf"), "tasks": {"a": [float("nan")]}})
    assert json.loads((tmp_path / "row.json").read_text()) == {"ppl": None, "tasks": {"a": [None]}}


def test_only_methods_with_groups_say_so(settings: Settings) -> None:
    jobs = plan(changed(settings, methods=("dense", "rtn", "edkm")))
    rows = [failed(job, "x", 0.0) for job in jobs]
    assert [(r["method"], r["bits"], r["group_size"]) for r in rows] == [
        ("dense", None, None), ("rtn", 3, 64), ("edkm", 3, None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ("magic",)}, "methods is 'magic'"),
        ({"bits": ()}, "bits is empty"),
        ({"tasks": Path("nowhere")}, "tasks is nowhere, which does not exist"),
    ],
)
def test_bad_settings_are_refused(settings: Settings, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(settings, **values)
