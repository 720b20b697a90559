"""How long a run's own teacher is tuned, and which one it takes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edkm.train.config import TrainConfig
from edkm.train.job import tune_teacher
from edkm.train.teacher import next_pass, teacher_folder


@pytest.fixture
def config(tiny: Path, alpaca: Path, tmp_path: Path) -> TrainConfig:
    more: dict[str, Any] = dict(sequence=128, batch_size=4, warmup=0, distill=0.5, heldout=alpaca)
    out = tmp_path / "out"
    return TrainConfig(model=tiny, data=alpaca, out=out, teacher_epochs=2.5, **more)


def tune(config: TrainConfig) -> list[dict[str, Any]]:
    """What each pass measured."""
    tune_teacher(config, lambda text: None)
    folder = config.out / "teacher"
    return [json.loads((one / "metrics.json").read_text()) for one in sorted(folder.iterdir())]


def test_passes_go_on_from_one_another_while_they_help(config: TrainConfig) -> None:
    config = replace(config, teacher_rate=1e-3)
    passes = tune(config)
    found = [one["perplexity"] for one in passes]
    assert len(passes) == 3 and passes[2]["config"]["epochs"] == 0.5
    for before, after in pairwise(found):
        assert after["dense"] == before["after"] < before["dense"]
    assert teacher_folder(config) == config.out / "teacher" / "pass-3" / "model"
    assert all(one["heldout_sequences"] < one["train_sequences"] for one in passes)


def test_a_pass_that_harms_is_the_last_and_is_not_taken(config: TrainConfig) -> None:
    config = replace(config, teacher_rate=1.0)
    (only,) = tune(config)
    assert only["perplexity"]["after"] > only["perplexity"]["dense"]
    assert teacher_folder(config) == config.model and next_pass(config) is None


def test_it_does_not_depend_on_what_is_clustered(config: TrainConfig) -> None:
    config = replace(config, teacher_epochs=1.0)
    tune(config)
    other = replace(config, bits=4, allocate=3, compensate=2)
    assert next_pass(other) is None and teacher_folder(other) == teacher_folder(config)
    with pytest.raises(ValueError, match="other settings"):
        next_pass(replace(config, teacher_rate=1e-2))
