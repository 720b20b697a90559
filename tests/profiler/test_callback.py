"""The Trainer's callback: its steps are the trainer's, and training does not change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from transformers import Trainer, TrainingArguments

from profiler import open_run
from profiler.analyses import ledger
from profiler.callback import TracingCallback
from tests.tiny_llama import tiny_llama


def train(folder: Path, *callbacks: TracingCallback, fail: bool = False, **settings: Any) -> Any:
    model = tiny_llama(hidden_size=16, intermediate_size=32, tie_word_embeddings=False)
    rows = torch.randint(0, 64, (12, 16), generator=torch.Generator().manual_seed(1))
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, use_cpu=True, report_to=[],
        disable_tqdm=True, save_strategy="no", logging_strategy="no", dataloader_pin_memory=False,
        **{"max_steps": 3, **settings},
    )  # fmt: skip
    data = [{"input_ids": row, "labels": row} for row in rows]
    if fail:
        model.lm_head = nn.Linear(5, 5)
    Trainer(
        model=model, args=arguments, train_dataset=data, callbacks=list(callbacks)
    ).train()  # fmt: skip
    return model


def test_steps_are_the_trainers(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    traced = train(tmp_path / "traced", TracingCallback(tmp_path / "run"))
    for one, other in zip(plain.parameters(), traced.parameters(), strict=True):
        assert torch.equal(one, other)
    run = open_run(tmp_path / "run")
    assert run.closed and run.note is None
    assert [step.step for step in run.steps] == [0, 1, 2]
    assert run.info["command"] == "profiler.callback" and run.info["trainer_max_steps"] == 3
    found = [ledger(run, step) for step in range(3)]
    assert len({entry.total.logical_bytes for entry in found}) == 1
    assert any(entry.module == "model.layers.1.mlp" for entry in found[0].modules)


def test_accumulated_passes_are_one_step_and_windows_hold(tmp_path: Path) -> None:
    train(tmp_path / "a", TracingCallback(tmp_path / "one"), max_steps=2)
    twice = TracingCallback(tmp_path / "two", steps=(1, 2))
    train(tmp_path / "b", twice, max_steps=3, gradient_accumulation_steps=2)
    one, two = open_run(tmp_path / "one"), open_run(tmp_path / "two")
    assert [step.step for step in two.steps] == [1]
    assert ledger(two).total.saves == 2 * ledger(one).total.saves
    count = two.sql("SELECT count(DISTINCT step) AS n FROM saves").column("n")[0].as_py()
    assert count == 1


def test_a_run_of_training_that_failed_is_closed(tmp_path: Path) -> None:
    before = torch.autograd.graph._engine_run_backward
    with pytest.raises(RuntimeError), TracingCallback(tmp_path / "run") as callback:
        train(tmp_path / "a", callback, fail=True)
    assert open_run(tmp_path / "run").closed
    assert torch.autograd.graph._engine_run_backward is before


def test_the_package_does_not_import_transformers() -> None:
    code = "import sys, profiler, profiler.tracer; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
