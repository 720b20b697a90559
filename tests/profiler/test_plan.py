"""Plans with fake tensors, against the real step of the same shape; scripts; what cannot be."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from profiler import Tracer, open_run
from profiler.plan import OPTIMIZERS, PlanSettings, make_model, plan_step, read_plan
from profiler.trace import app

FIGURES = ("param", "grad", "optimizer", "saved", "peak")


def _settings(**changes) -> PlanSettings:
    base = {
        "model": "llama-tiny",
        "batch": 2,
        "length": 96,
        "dtype": "bfloat16",
        "optimizer": "adamw",
        "lora": None,
    }
    return PlanSettings(**{**base, **changes})


def _measured(settings: PlanSettings, path: Path):
    """The same two steps for real."""
    torch.manual_seed(0)
    model = make_model(settings)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS[settings.optimizer](trainable, lr=1e-4)
    tokens = torch.randint(2, (settings.batch, settings.length))
    with Tracer(path, model=model) as tracer:
        for _ in range(2):
            with tracer.step():
                model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    return read_plan(settings, path)


@pytest.mark.parametrize(
    "changes", [{}, {"lora": 4}, {"dtype": "float32", "optimizer": "sgd", "batch": 1}]
)
def test_a_plan_is_within_5_percent_of_the_measured_step(tmp_path, changes) -> None:
    settings = _settings(**changes)
    planned = dataclasses.asdict(plan_step(settings, tmp_path / "plan"))
    measured = dataclasses.asdict(_measured(settings, tmp_path / "real"))
    for figure in FIGURES:
        key = f"predicted_{figure}_bytes"
        assert planned[key] == pytest.approx(measured[key], rel=0.05), figure
    with open_run(tmp_path / "plan") as run:
        assert run.info["fake"] is True and run.closed


def test_a_7b_model_is_planned_with_next_to_no_memory(tmp_path) -> None:
    code = (
        "import sys, json; from profiler.memory import PeakRss; from profiler.trace import app\n"
        "with PeakRss() as peak:\n"
        "    app(sys.argv[1:], standalone_mode=False)\n"
        "print(peak.growth_bytes, file=sys.stderr)\n"
    )
    common = ("--fake", "--model", "llama-7b", "--batch", "1", "--length", "2048", "--json")
    plans = []
    for extra in ((), ("--lora", "16")):
        done = subprocess.run(
            [sys.executable, "-c", code, *common, *extra, "--out", str(tmp_path / str(extra))],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stderr.splitlines()[-1]) < 1 << 30
        plans.append(json.loads(done.stdout))
    full, lora = plans
    parameters = 6_738_415_616  # of LLaMA-7B
    assert full["predicted_param_bytes"] == 2 * parameters
    assert full["predicted_grad_bytes"] == 2 * parameters
    assert full["predicted_optimizer_bytes"] == pytest.approx(4 * parameters, rel=1e-4)
    adapters = 2 * 32 * 4 * 2 * 16 * 4096  # bytes: layers, projections, two factors
    assert lora["predicted_param_bytes"] == 2 * parameters + adapters
    assert lora["predicted_grad_bytes"] == adapters
    assert lora["predicted_peak_bytes"] < full["predicted_peak_bytes"] / 2


TRAIN = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(1 << 18, 1 << 18), torch.nn.ReLU())
optimizer = torch.optim.AdamW(model.parameters())
for step in range(10**9):
    loss = model(torch.randn(1 << 10, 1 << 18)).sum()
    loss.backward()
    optimizer.step()
    print("loss", loss.item())
"""


def test_a_script_that_would_fill_any_machine_is_planned_for_two_steps(tmp_path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    done = subprocess.run(
        [sys.executable, "-m", "profiler.trace", "--fake", "--out", str(tmp_path / "run"), "--",
         str(tmp_path / "train.py")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "nothing was computed" in done.stderr, done.stderr
    with open_run(tmp_path / "run") as run:
        assert len(run.steps) == 2
        most = run.sql("select max(param_bytes) p, max(optimizer_bytes) o from memory").to_pylist()
    size = 4 * ((1 << 36) + (1 << 18))
    assert most[0]["p"] == size and most[0]["o"] >= 2 * size


def test_a_script_that_reads_its_data_is_run_for_real_and_says_so(tmp_path) -> None:
    (tmp_path / "train.py").write_text(
        "import torch\n"
        "x = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)\n"
        "x[x.nonzero()].exp().sum().backward()\n"
        "print('grad', x.grad.tolist()[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "profiler.trace", "--fake", "--out", str(tmp_path / "run"), "--",
         str(tmp_path / "train.py")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "grad 0.0\n"
    assert "cannot be planned to its end" in done.stderr and "run for real" in done.stderr
    with open_run(tmp_path / "run") as run:
        assert "nonzero" in run.info["fake_problem"]
    with open_run(tmp_path / "run-real") as run:
        assert run.table("saves").num_rows > 0 and "fake" not in run.info


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fake", "--model", "llama-9b"], "model 'llama-9b': neither a preset nor a folder"),
        (["--fake", "--optimizer", "lion"], "optimizer 'lion': unknown; choose from adamw, sgd"),
        (["--fake", "--lora", "0"], "lora 0: must be at least 1"),
        (["--fake", "--layer", "attn0"], "give either --layer or --fake, not both"),
        ([], "what to trace: give --layer attn0, or a program"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*arguments, "--bits", "3"])
    assert done.exit_code == 2 and message in done.stderr


def test_the_plan_is_printed_as_a_prediction(tmp_path) -> None:
    arguments = ["--fake", "--model", "llama-tiny", "--length", "32", "--out", str(tmp_path / "r")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "predicted, not measured" in done.stdout and "Not in it: temporaries" in done.stdout
