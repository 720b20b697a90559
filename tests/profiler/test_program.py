"""Other people's scripts under the tracer: unchanged behaviour, and what is recorded of them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from profiler import open_run
from profiler.analyses import ledger
from profiler.program import Program, parse_steps

TRAIN = """
import sys
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(int(sys.argv[1])):
    for micro in range(2):
        model(torch.ones(4, 16)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
print("loss", model(torch.ones(1, 16)).item(), __name__, sys.argv[0], sys.path[0])
"""


def _trace(tmp_path: Path, script: str, *arguments: str, options: tuple[str, ...] = ()):
    file = tmp_path / "train.py"
    file.write_text(textwrap.dedent(script))
    command = [sys.executable, "-m", "profiler.trace", "--out", str(tmp_path / "run"), *options]
    return subprocess.run(
        [*command, "--", str(file), *arguments], capture_output=True, text=True, timeout=120
    )


def test_a_script_prints_what_it_prints_without_the_tracer(tmp_path) -> None:
    done = _trace(tmp_path, TRAIN, "3")
    assert done.returncode == 0, done.stderr
    plain = subprocess.run(
        [sys.executable, str(tmp_path / "train.py"), "3"], capture_output=True, text=True
    )
    assert done.stdout == plain.stdout
    assert f"run:      {tmp_path / 'run'}" in done.stderr
    with open_run(tmp_path / "run") as run:
        assert run.info["exit_code"] == 0 and run.closed
        assert run.info["argv"] == [str(tmp_path / "train.py"), "3"]
        assert [step.step for step in run.steps] == [0, 1, 2]
        # two micro-batches of: the first layer's input (its weight needs no gradient of the
        # input), the ReLU's result, the second layer's input and weight
        counts = run.sql("select step, count(*) n from saves group by 1 order by 1").to_pylist()
        assert [row["n"] for row in counts[:3]] == [8, 8, 8]
        modules = set(run.table("saves")["module"].to_pylist())
        assert modules == {"0", "1", "2"}
        frames = run.sql("select frames[1] f from stacks")["f"].to_pylist()
        assert all(
            "linear.py" in frame or "activation.py" in frame or "functional" in frame
            for frame in frames
        )


def test_a_module_runs_as_main(tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__main__.py").write_text("import sys; print(__name__, sys.argv[1:])")
    for words in (["-m", "mine", "a"], ["--", "-m", "mine", "a"]):
        done = subprocess.run(
            [sys.executable, "-m", "profiler.trace", "--out", "run", "--force", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert (done.returncode, done.stdout) == (0, "__main__ ['a']\n"), done.stderr


def test_a_window_of_steps_is_recorded_and_no_other(tmp_path) -> None:
    done = _trace(tmp_path, TRAIN, "6", options=("--steps", "2:4"))
    assert done.returncode == 0, done.stderr
    with open_run(tmp_path / "run") as run:
        assert [step.step for step in run.steps] == [2, 3]
        steps = run.sql("select distinct step from saves order by 1")["step"].to_pylist()
    assert steps == [2, 3]


def test_summary_adds_up_to_the_ledger_of_full(tmp_path) -> None:
    for level in ("summary", "full"):
        folder = tmp_path / level
        folder.mkdir()
        done = _trace(folder, TRAIN, "2", options=("--level", level))
        assert done.returncode == 0, done.stderr
    with open_run(tmp_path / "summary" / "run") as short, open_run(tmp_path / "full/run") as full:
        assert short.info["level"] == "summary" and short.table("saves").num_rows == 0
        ours, theirs = ledger(short, 1), ledger(full, 1)
    assert ours.modules == theirs.modules
    assert ours.total.saves == 8 and ours.total.unique_bytes > 0


@pytest.mark.parametrize("text", ["", "3", "a:b", "4:2", "-1:2", "3:3", "1:2:3"])
def test_a_wrong_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be A:B with 0 <= A < B"):
        parse_steps(text)


def test_windows() -> None:
    assert parse_steps(None) == (None, None)
    assert parse_steps("10:20") == (10, 20)
    assert parse_steps("10:") == (10, None)
    assert parse_steps(":2") == (None, 2)


@pytest.mark.parametrize("words", [[], ["-m"], ["no/such.py"], ["-m", "no_such.module"]])
def test_nothing_to_run_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"program: none given|no such file|no such module"):
        Program.parse(words)
