"""What is plugged into a run: the profiler by ``--trace``, TensorBoard; and runs in other trainers'
loops."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import edkm
from edkm.train import TrainConfig, run
from edkm.train.__main__ import PLUGINS, app

transformers = pytest.importorskip("transformers")
TRACE = EntryPoint("trace", "profiler.callback:TracingCallback", PLUGINS)


def command(tiny: Path, alpaca: Path, out: Path, *more: str) -> Any:
    fixed = ["--model", str(tiny), "--data", str(alpaca), "--sequence", "128", "--out", str(out)]
    return CliRunner().invoke(app, [*fixed, "--batch-size", "2", "--max-steps", "2", *more])


def test_a_traced_run_leaves_a_readable_run(
    tiny: Path, alpaca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from profiler import open_run

    def registered(*, group: str, name: str) -> list[EntryPoint]:
        return [TRACE] if (group, name) == (TRACE.group, TRACE.name) else []

    monkeypatch.setattr("edkm.train.__main__.entry_points", registered)
    done = command(tiny, alpaca, tmp_path / "out", "--trace", str(tmp_path / "run"))
    assert done.exit_code == 0, done.output
    traced = open_run(tmp_path / "run")
    assert traced.closed and traced.note is None
    assert [step.step for step in traced.steps] == [0, 1]
    saved = traced.sql("SELECT count(*) AS n FROM saves").column("n")[0].as_py()
    assert saved > 0
    # a folder that is in use is refused like any other setting, and nothing stays traced
    hooks = torch.autograd.graph._engine_run_backward
    again = command(tiny, alpaca, tmp_path / "other", "--trace", str(tmp_path / "run"))
    assert again.exit_code == 2 and "Traceback" not in again.output
    assert torch.autograd.graph._engine_run_backward is hooks


def test_tensorboard_logs_what_metrics_hold(tiny: Path, alpaca: Path, tmp_path: Path) -> None:
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    config = TrainConfig(
        model=tiny, data=alpaca, out=tmp_path / "out", max_steps=2, batch_size=2, sequence=128,
        log_every=1, tensorboard=True,
    )  # fmt: skip
    metrics = run(config)
    events = list((tmp_path / "out").rglob("events.out.tfevents.*"))
    assert len(events) == 1
    found = reading.EventAccumulator(str(events[0]))
    found.Reload()
    for tag in ("loss", "soft_hard_gap", "centroid_movement"):
        values = [event.value for event in found.Scalars(f"train/{tag}")]
        assert values == pytest.approx([entry[tag] for entry in metrics["log"][:2]], rel=1e-5)


def rows(model: Any, count: int = 8) -> list[dict[str, list[int]]]:
    made = torch.randint(3, 40, (count, 12), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row.tolist(), "labels": row.tolist()} for row in made]


def plain_loop(model: Any, data: list[dict[str, list[int]]], folder: Path) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(4):
        batch = {key: torch.tensor([row[key] for row in data]) for key in data[0]}
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def common(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "max_steps": 4, "per_device_train_batch_size": 8,
        "learning_rate": 1e-2, "use_cpu": True, "report_to": [], "disable_tqdm": True,
        "save_strategy": "no", "logging_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip


def huggingface(model: Any, data: list[dict[str, list[int]]], folder: Path) -> None:
    arguments = transformers.TrainingArguments(**common(folder))
    transformers.Trainer(model=model, args=arguments, train_dataset=data).train()


def supervised(model: Any, data: list[dict[str, list[int]]], folder: Path) -> None:
    trl = pytest.importorskip("trl", reason="needs trl")
    from datasets import Dataset

    arguments = trl.SFTConfig(**common(folder), max_length=64, bf16=False)
    trl.SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(data),
        processing_class=transformers.AutoTokenizer.from_pretrained(model.name_or_path),
    ).train()


@pytest.mark.parametrize("loop", [plain_loop, huggingface, supervised])
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:trl", "ignore::FutureWarning:trl")
def test_a_clustered_model_trains_in_anyones_loop(loop: Any, tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    clustering = edkm.cluster(model, bits=3)
    clustering.start()
    data = rows(model)
    batch = {key: torch.tensor([row[key] for row in data]) for key in data[0]}

    def loss() -> float:
        with torch.no_grad():
            return float(model.eval()(**batch).loss)

    before = loss()
    loop(model, data, tmp_path / "out")
    assert loss() < 0.98 * before  # on nearest centroids, as shipped
    for entry in clustering.weights.values():
        assert len(entry.palette().dense().unique()) <= entry.codebook.config.clusters
