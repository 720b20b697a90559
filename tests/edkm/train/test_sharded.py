"""One, two and four gloo processes train the same model, each holding its share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import edkm.train.__main__ as command
from edkm.export import read_palettes
from edkm.train.config import TrainConfig
from edkm.train.sharded import learning_rate, step_rows

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow


TRACING = """
from profiler.callback import TracingCallback

def Callback():
    return TracingCallback({run!r})
"""


def launch(
    tiny: Path, alpaca: Path, out: Path, processes: int, *more: str, path: Path | None = None
) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)),
        *("--standalone", "-m", "edkm.train", "--fsdp", "--model", str(tiny)),
        *("--data", str(alpaca), "--out", str(out), "--max-steps", "4", "--batch-size", "4"),
        *("--accumulate", "2", "--sequence", "128", "--lr", "1e-3", "--save-every", "2", *more),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), env.get("PYTHONPATH")]))
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


@pytest.fixture(scope="module")
def runs(
    tiny: Path, alpaca: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[Path, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for processes in (1, 2, 4):
        out = folder / str(processes)
        found[processes] = (out, launch(tiny, alpaca, out, processes))
    return found


def test_any_number_of_processes_gives_the_same_model(
    runs: dict[int, tuple[Path, dict[str, Any]]],
) -> None:
    one = runs[1][1]["perplexity"]
    for processes in (2, 4):
        out, metrics = runs[processes]
        for name, value in metrics["perplexity"].items():
            assert value == pytest.approx(one[name], rel=1e-4)  # float32 sums in another order
        for name, palette in read_palettes(out / "model")[0].items():
            expected = read_palettes(runs[1][0] / "model")[0][name]
            torch.testing.assert_close(palette.table, expected.table, rtol=1e-4, atol=1e-5)


def test_each_process_holds_its_share(runs: dict[int, tuple[Path, dict[str, Any]]]) -> None:
    held = {n: metrics["state_bytes_per_rank_max"] for n, (_, metrics) in runs.items()}
    for processes in (2, 4):
        assert held[processes] <= held[1] / processes * 1.05


def test_what_each_process_receives_is_counted(
    runs: dict[int, tuple[Path, dict[str, Any]]], tiny: Path
) -> None:
    received = {n: metrics["received_bytes_per_step"] for n, (_, metrics) in runs.items()}
    assert received[1] == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    weights = sum(4 * p.numel() for p in model.parameters())
    for processes in (2, 4):
        # each of two forwards and backwards gathers the weights; one backward scatters gradients
        share = (processes - 1) / processes
        assert 0.9 * 3 * weights * share < received[processes] < 1.1 * 5 * weights * share


def test_callbacks_trace_and_tensorboard_hear_a_sharded_run(
    runs: dict[int, tuple[Path, dict[str, Any]]], tiny: Path, alpaca: Path, tmp_path: Path
) -> None:
    from profiler import open_run

    (tmp_path / "tracing.py").write_text(TRACING.format(run=str(tmp_path / "run")))
    more = ["--callback", "tracing:Callback", "--log-every", "2", "--offload"]
    if find_spec("tensorboard") is not None:
        more.append("--tensorboard")
    traced = launch(tiny, alpaca, tmp_path / "out", 2, *more, path=tmp_path)
    assert traced["perplexity"] == runs[2][1]["perplexity"]
    run = open_run(tmp_path / "run")
    assert run.closed
    assert sorted((s.step, s.rank) for s in run.steps) == [(s, r) for s in range(4) for r in (0, 1)]
    events = list((tmp_path / "out").rglob("events.out.tfevents.*"))
    assert len(events) == ("--tensorboard" in more)


@pytest.mark.parametrize("code", [0, 3])
def test_only_a_sharded_command_skips_the_interpreters_shutdown(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    left: list[int] = []
    monkeypatch.setattr(command.os, "_exit", left.append)
    monkeypatch.setattr(command, "app", lambda: sys.exit(code))
    command._process()
    assert left == [code]
    monkeypatch.delitem(sys.modules, "edkm.train.sharded")
    with pytest.raises(SystemExit) as done:
        command._process()
    assert done.value.code == code and left == [code]


def test_what_two_wrote_one_goes_on_with(
    runs: dict[int, tuple[Path, dict[str, Any]]], tiny: Path, alpaca: Path
) -> None:
    out, metrics = runs[2]
    (out / "checkpoints" / "checkpoint-4" / "complete.json").unlink()  # as if killed while saving
    again = launch(tiny, alpaca, out, 1, "--resume")
    assert again["log"][0]["step"] == 3
    for name, value in again["perplexity"].items():
        assert value == pytest.approx(metrics["perplexity"][name], rel=1e-4)


def test_order_and_rate_are_functions_of_the_step(tmp_path: Path) -> None:
    config = TrainConfig(model=tmp_path, data=tmp_path, out=tmp_path, batch_size=4, warmup=2)
    first = [row for step in range(3) for row in step_rows(12, step, config)]
    assert sorted(first) == list(range(12)) and step_rows(12, 1, config) == first[4:8]
    assert sorted(step_rows(3, 0, config))[:3] != [] and len(step_rows(3, 0, config)) == 4
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates[0] == 0.0 and max(rates) == rates[2] == config.learning_rate
    assert rates[2:] == sorted(rates[2:], reverse=True)
