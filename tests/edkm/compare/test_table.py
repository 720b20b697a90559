"""Which rows are run, that finished ones stay, that a failure leaves the others, the report."""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from edkm.compare import report
from edkm.compare.estimate import PASSES, ROW_SECONDS, estimate
from edkm.compare.picture import picture
from edkm.compare.plan import Settings, plan
from edkm.compare.pool import Pool
from edkm.compare.record import KEYS, Record, failed, write_json
from edkm.compare.report import groups, insert, spread, table
from edkm.compare.run import compare
from edkm.method_names import title

REPOSITORY = Path(__file__).resolve().parents[3]
RESULTS = REPOSITORY / "benchmarks" / "results"
# Work that stands for any method: RTN works, GPTQ raises, AWQ dies.
WORK = """
import json, os, sys
from edkm.compare.record import failed, write_json

def probe(target, job):
    numbers = {"token_seconds": 1e-4, "heldout_tokens": 1000, "ppl_dense": 4.0, "parameters": 9}
    write_json(target, {"error": "no such luck"} if job.sequence == 13 else numbers)

def work(target, job):
    with open(job.shared / "ran.txt", "a") as file:
        file.write(job.method + "\\n")
    if job.method == "awq":
        print("out of luck", file=sys.stderr, flush=True)
        os.abort()
    row = failed(job, None)
    if job.method == "gptq":
        row["error"] = "ValueError: a bad Hessian"
    else:
        row.update(status="done", size_bytes=100, bits_per_weight=3.5, ppl_dense=4.0, ppl=5.0)
    write_json(target, row)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "text.txt").write_text("once upon a time")
    text = tmp_path / "text.txt"
    return Settings(
        model=tmp_path, text_train=text, text_heldout=text, out=tmp_path / "out",
        methods=("rtn", "gptq", "awq"), bits=(3,),
    )  # fmt: skip


@pytest.fixture(scope="module")
def server() -> None:
    """The process that rows are forked from, without the peers' libraries."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["edkm.compare.run", "pytest"])
    forkserver.ensure_running()


@pytest.fixture
def fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: None
) -> Callable[..., dict[str, Any]]:
    """``compare`` with work that pretends."""
    (tmp_path / "pretended_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pretended_work", raising=False)
    pretended = importlib.import_module("pretended_work")
    return functools.partial(compare, work=pretended.work, probe=pretended.probe)


def changed(settings: Settings, **values: Any) -> Settings:
    return Settings(**{**vars(settings), **values})


def test_the_plan_runs_all_seeds_of_the_first_bits_first(settings: Settings) -> None:
    wide = changed(settings, methods=("dense", "rtn", "edkm"), bits=(3, 4), seeds=(0, 1))
    rows = [(job.name, job.bits, job.seed) for job in plan(wide)]
    assert rows == [
        ("dense", 8, 0), ("dense", 8, 1),
        ("rtn", 3, 0), ("edkm", 3, 0), ("edkm", 3, 1),  # RTN has no seed
        ("rtn", 4, 0), ("edkm", 4, 0), ("edkm", 4, 1),
    ]  # fmt: skip
    assert len({job.out for job in plan(wide)}) == len(rows)
    assert len({job.common for job in plan(wide)}) == 1


def test_names_say_where_a_method_starts_and_what_embeddings_get(settings: Settings) -> None:
    names = ("gptq", "gptq@4", "tuned+rtn", "tuned+gptq@5")
    found = [
        (job.method, job.start, job.embedding_bits, job.seed)
        for job in plan(changed(settings, methods=names, seeds=(0, 1)))
    ]
    assert found[:4] == [
        ("gptq", "given", 8, 0), ("gptq", "given", 4, 0),
        ("rtn", "tuned", 8, 0), ("gptq", "tuned", 5, 0),
    ]  # fmt: skip
    assert ("rtn", "tuned", 8, 1) in found  # the tuned model has a seed
    assert title("tuned+gptq@5") == "tuned, then GPTQ, embeddings 5"


@pytest.mark.parametrize("jobs", [1, 2])
def test_one_failure_leaves_the_others_and_finished_rows_stay(
    settings: Settings, fill: Callable[..., dict[str, Any]], jobs: int
) -> None:
    seen: list[tuple[int, int]] = []
    result = fill(settings, jobs=jobs, say=lambda at: seen.append((at.done, len(at.running))))
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["rtn"]["status"] == "done"
    assert rows["gptq"]["error"] == "ValueError: a bad Hessian"
    assert rows["awq"]["status"] == "failed"
    assert "out of luck" in rows["awq"]["error"] and "-6" in rows["awq"]["error"]
    assert seen[-1] == (3, 0) and max(running for _, running in seen) == jobs
    on_disk = json.loads((settings.out / "comparison.json").read_text())
    assert on_disk["rows"] == result["rows"]
    assert {"settings", "machine", "versions"} <= set(on_disk)

    again = fill(settings, jobs=jobs)
    ran = (settings.shared / "ran.txt").read_text().split()
    assert ran.count("rtn") == 1 and ran.count("gptq") == ran.count("awq") == 2
    assert again["rows"] == result["rows"]


def test_rows_of_other_settings_are_not_mixed(
    settings: Settings, fill: Callable[..., dict[str, Any]]
) -> None:
    fill(changed(settings, methods=("rtn",)))
    more = fill(changed(settings, methods=("gptq",)))  # more rows of one table
    assert [row["method"] for row in more["rows"]] == ["gptq", "rtn"]
    with pytest.raises(ValueError, match="made with other settings"):
        fill(changed(settings, steps=7))
    (settings.out / "comparison.json").write_text("{}")
    with pytest.raises(ValueError, match="is no comparison"):
        Record(settings)


def test_a_model_that_cannot_be_measured_ends_it(
    settings: Settings, fill: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(ValueError, match=r"cannot be measured on .*: no such luck; see "):
        fill(changed(settings, sequence=13))
    with pytest.raises(ValueError, match="jobs is 0"):
        fill(settings, jobs=0)


def test_leaving_a_pool_ends_what_runs(tmp_path: Path, server: None) -> None:
    with pytest.raises(KeyboardInterrupt), Pool(tmp_path, []) as pool:
        pool.start("sleeper", tmp_path / "log.txt", time.sleep, 600)
        pool.start("writer", tmp_path / "other.txt", print, "hello")
        assert pool.wait() == [("writer", 0)]
        (sleeper,) = multiprocessing.active_children()
        raise KeyboardInterrupt
    assert sleeper.exitcode == -signal.SIGKILL
    assert (tmp_path / "other.txt").read_text() == "hello\n"


def test_estimates_count_shared_work_once(settings: Settings) -> None:
    numbers = {"token_seconds": 1e-4, "heldout_tokens": 0}

    def seconds(*methods: str, seeds: tuple[int, ...] = (0,)) -> float:
        wide = changed(settings, methods=methods, seeds=seeds)
        return estimate(plan(wide), numbers) - ROW_SECONDS * len(plan(wide))

    assert seconds("rtn") == 0
    dense = seconds("dense")
    assert dense == pytest.approx(1e-4 * 150 * 8 * 256 * PASSES["dense"])
    assert seconds("dense", "tuned+rtn", "tuned+rtn@4") == pytest.approx(dense)
    assert seconds("dense", "tuned+rtn", seeds=(0, 1)) == pytest.approx(2 * dense)


def row(method: str, bits: int | None, ppl: float | None, seed: int = 0) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(KEYS)
    values.update(
        method=method, bits=bits, ppl=ppl, seed=seed, ppl_dense=4.0, size_bytes=1000 * (bits or 32),
        bits_per_weight=float(bits or 32), embedding_bits=8, cpu_seconds=2.0,
        peak_bytes=3 << 20, status="done",
    )  # fmt: skip
    return values


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"rows": rows, "settings": {"model": "some/llama"}}


def test_the_table_gathers_seeds_and_names_failures() -> None:
    broken = {**row("awq", 3, None), "status": "failed", "error": "no luck"}
    rows = [row("rtn", 3, 9.0), row("edkm", 3, 5.0), row("edkm", 3, 6.0, 1), broken]
    lines = table(result([*rows, row("dense", None, 4.4)])).splitlines()
    assert lines[2].startswith("| dense, tuned |  |")
    assert lines[3] == "| eDKM | 3 | 8 |  | 3,000 | 3.00 | 5.500 ± 0.500 | 1.375 | 2 | 2 | 3 |"
    assert lines[4].startswith("| RTN | 3 |")
    assert lines[-1] == "- AWQ, 3 bits, seed 0: no luck"
    allocated = table(result([row("edkm-allocated", 3, 5.0)])).splitlines()
    assert allocated[2].startswith("| eDKM (allocated) | bytes of 3 |")
    assert spread([]) == "infinite"


def test_rows_are_ordered_by_bits_then_perplexity() -> None:
    rows = [row("rtn", 3, 9.0), row("edkm", 3, 5.0), row("rtn", 4, 8.0), row("gptq", 3, None)]
    order = [(members[0]["method"], members[0]["bits"]) for members in groups(rows)]
    assert order == [("rtn", 4), ("edkm", 3), ("rtn", 3), ("gptq", 3)]


def test_tasks_have_a_table_of_their_own() -> None:
    scored = {**row("edkm", 3, 5.0), "tasks": {"piqa, acc": 0.5}}
    lines = table(result([scored, row("rtn", 3, 9.0)])).splitlines()
    assert len(lines) == 4 + 1 + 3 and "piqa" not in lines[0]
    assert lines[5:] == ["| method | bits | piqa, acc |", "|---|---|---|", "| eDKM | 3 | 0.500 |"]


def test_a_document_takes_the_table_between_its_marks(tmp_path: Path) -> None:
    file, page = tmp_path / "compare_a.json", tmp_path / "page.md"
    file.write_text(json.dumps(result([row("rtn", 3, 9.0)])))
    page.write_text("above\n\n<!-- compare_a.json -->\nold\n<!-- end -->\nbelow\n")
    report.main([str(file), "--into", str(page)])
    found = page.read_text()
    assert found.startswith("above\n\n<!-- compare_a.json -->\n| method |") and "old" not in found
    assert found.endswith("| 3 |\n<!-- end -->\nbelow\n")
    report.main([str(file), "--into", str(page), "--picture", str(tmp_path / "rows.png")])
    assert page.read_text() == found
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="there are 0 places"):
        report.main([str(file), "--into", str(page)])


@pytest.mark.parametrize("file", sorted(RESULTS.glob("compare_*.json")), ids=lambda file: file.stem)
def test_the_documents_table_is_the_recorded_one(file: Path) -> None:
    page = (REPOSITORY / "docs" / "comparing.md").read_text(encoding="utf-8")
    assert insert(page, file.name, table(json.loads(file.read_text(encoding="utf-8")))) == page


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    names = ("rtn", "tuned+gptq", "gptq@4", "edkm")
    rows = [row(name, bits, 9.0 / bits) for name in names for bits in (3, 4)]
    rows += [row("edkm", 3, 4.0, 1), row("dense", None, 4.4), row("gptq", 2, None)]
    picture(result(rows), tmp_path / "picture.png")
    empty = tmp_path / "empty.png"
    picture(result([row("gptq", 2, None)]), empty)
    drawn = (tmp_path / "picture.png").read_bytes()
    assert drawn.startswith(b"\x89PNG") and len(drawn) > 2 * len(empty.read_bytes())


def test_an_infinite_perplexity_is_written_as_none(tmp_path: Path) -> None:
    write_json(tmp_path / "row.json", {"ppl": float("inf"), "tasks": {"a": [float("nan")]}})
    assert json.loads((tmp_path / "row.json").read_text()) == {"ppl": None, "tasks": {"a": [None]}}


def test_only_methods_with_groups_say_so(settings: Settings) -> None:
    jobs = plan(changed(settings, methods=("dense", "rtn", "edkm")))
    rows = [failed(job, "x") for job in jobs]
    assert [(r["method"], r["bits"], r["group_size"]) for r in rows] == [
        ("dense", None, None), ("rtn", 3, 64), ("edkm", 3, None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ("magic",)}, "methods is 'magic'"),
        ({"methods": ("gptq@four",)}, "methods has 'gptq@four'; after @ give"),
        ({"methods": ("tuned+edkm",)}, "start is 'tuned', but edkm trains by itself"),
        ({"methods": ("gptq@1",)}, "embedding_bits is 1"),
        ({"bits": ()}, "bits is empty"),
        ({"tasks": Path("nowhere")}, "tasks is nowhere, which does not exist"),
    ],
)
def test_bad_settings_are_refused(settings: Settings, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(settings, **values)
