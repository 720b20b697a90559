"""Programs of every kind under `python -m profiler.trace`: none notices, and each is recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from profiler import open_run
from profiler.analyses import ledger
from profiler.query import Run
from tests.profiler.interpreters import Done, python

PROGRAMS = Path(__file__).parent / "programs"
TRAINING = [
    "adversaries", "compiled", "convolutions", "fails", "in_place", "recurrent", "second_order",
    "transforms", "workers",
]  # fmt: skip


def traced(folder: Path, script: Path, *arguments: str, level: str = "full") -> Done:
    words = ["-m", "profiler.trace", "--out", folder / "run", "--level", level, "--", script]
    return python([*words, *arguments], folder)


def modules(run: Run) -> set[str]:
    table = "totals" if run.info["level"] == "summary" else "saves"
    found = run.sql(f"SELECT DISTINCT module FROM {table}")["module"].to_pylist()
    return {name or "(root)" for name in found}


@pytest.mark.parametrize(
    ("name", "level"),
    [*((name, "full") for name in TRAINING), ("recurrent", "summary"), ("second_order", "values")],
)
def test_a_program_runs_as_without_the_tracer(tmp_path: Path, name: str, level: str) -> None:
    script = PROGRAMS / f"{name}.py"
    heading = next(line for line in script.read_text().splitlines() if line.startswith("# mod"))
    (tmp_path / "plain").mkdir()
    plain, done = python([script], tmp_path / "plain"), traced(tmp_path, script, level=level)
    assert (done.code, done.out) == (plain.code, plain.out), done.err
    with open_run(tmp_path / "run") as run:
        assert run.closed and run.note is None
        assert run.info["exit_code"] == done.code
        assert modules(run) == set(heading.removeprefix("# modules: ").split())
        assert ledger(run).total.unique_bytes > 0
        frames = run.sql("SELECT DISTINCT unnest(frames) AS frame FROM stacks")["frame"].to_pylist()
        assert not any("profiler/hooks.py:" in frame for frame in frames)
    if name != "fails":
        assert done.err.splitlines()[:-2] == plain.err.splitlines()


def test_an_error_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    script = PROGRAMS / "fails.py"
    done = traced(tmp_path, script)
    lines = done.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert (
        lines[1] == f'  File "{script}", line {len(script.read_text().splitlines())}, in <module>'
    )
    assert "RuntimeError: boom" in lines and "profiler.trace" not in done.err
    assert lines[-2] == f"run:      {tmp_path / 'run'}"


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [("3", 3, ""), ("263", 7, ""), ("none", 0, ""), ("text", 1, "sorry: é\n"), ("_exit", 5, ""),
     ("kill", -signal.SIGKILL, "")],
)  # fmt: skip
def test_the_exit_code_is_the_programs(tmp_path: Path, ending: str, code: int, said: str) -> None:
    done = traced(tmp_path, PROGRAMS / "exits.py", ending)
    assert (done.code, done.out) == (code, "trained\n")
    assert done.err.startswith(said)
    with open_run(tmp_path / "run") as run:
        if ending == "kill":
            assert run.note is not None and "not closed" in run.note
        else:
            assert run.closed and [step.step for step in run.steps] == [0]
            assert run.info["exit_code"] == (263 if ending == "263" else code)


def test_a_script_sees_of_itself_what_python_shows(tmp_path: Path) -> None:
    folder = tmp_path / 'ünï "ço" <b>'
    folder.mkdir()
    script = folder / "тест 100%.py"
    script.write_text((PROGRAMS / "as_python_does.py").read_text())
    words = [str(script.relative_to(tmp_path)), "--epochs", "ü x", "--", "-m"]
    plain = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=tmp_path)
    done = python(["-m", "profiler.trace", "--out", folder / "run", "--", *words], tmp_path)
    assert (done.code, done.out) == (plain.returncode, plain.stdout) and done.code == 1
    assert "my hook: told to" in done.out and "Traceback" not in done.err
    with open_run(folder / "run") as run:
        assert run.closed and run.info["argv"] == words


def test_ranks_of_torchrun_share_one_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = PROGRAMS / "two_ranks.py"
    done = subprocess.run(
        [*command, "-m", "profiler.trace", "--out", str(tmp_path / "run"), "--", str(script)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("run:      ") == 1
    with open_run(tmp_path / "run") as run:
        assert run.closed and run.info["ranks"] == 2
        rows = run.sql("SELECT rank, step, count(*) AS n FROM saves GROUP BY ALL ORDER BY ALL")
        places = [(row["rank"], row["step"], row["n"]) for row in rows.to_pylist()]
        assert places == [(0, 0, 4), (0, 1, 4), (1, 0, 4), (1, 1, 4)]
        assert modules(run) == {"module.0", "module.1", "module.2"}
