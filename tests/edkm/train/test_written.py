"""What a teacher writes to be tuned on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from edkm.train.config import TrainConfig
from edkm.train.data import IGNORE, Sequence
from edkm.train.job import run
from edkm.train.prepare import prepare
from edkm.train.written import BEGINNING, FILE, repeats, write, written

SETTINGS = dict(sequence=64, max_steps=2, batch_size=2, warmup=0, distill=0.5, teacher_text=6)


@pytest.fixture
def config(tiny: Path, alpaca: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(model=tiny, data=alpaca, out=tmp_path / "out", **SETTINGS)  # type: ignore[arg-type]


def test_they_begin_as_the_data_do_and_go_on_as_the_teacher(config: TrainConfig) -> None:
    ready = prepare(config)
    teacher = ready.model.eval()
    random = torch.get_rng_state()
    ids = write(teacher, ready.train, 70, 24, seed=3)
    assert torch.equal(torch.get_rng_state(), random)  # training draws what it would have drawn
    assert ids.shape == (70, 24)
    beginnings = {tuple(row.ids[:BEGINNING]) for row in ready.train}
    assert {tuple(row[:BEGINNING]) for row in ids.tolist()} <= beginnings
    assert torch.equal(write(teacher, ready.train, 70, 24, seed=3), ids)
    assert not torch.equal(write(teacher, ready.train, 70, 24, seed=4), ids)
    sure = transformers.AutoModelForCausalLM.from_pretrained(config.model).eval()
    with torch.no_grad():
        sure.lm_head.weight.mul_(1e4)  # one token has all the probability
        text = write(sure, ready.train, 2, 24, seed=3)
        likeliest = sure(text).logits.argmax(-1)
    assert torch.equal(text[:, BEGINNING:], likeliest[:, BEGINNING - 1 : -1])


def test_they_are_kept_for_the_same_settings_alone(config: TrainConfig) -> None:
    ready = prepare(config)
    first = written(config, ready.train, ready.model.eval())
    assert len(first) == 6 and all(row.labels[0] == IGNORE for row in first)
    assert all(row.labels[1:] == row.ids[1:] for row in first)
    stamp = (config.out / FILE).stat().st_mtime_ns
    assert written(config, ready.train, None) == first  # read back: no teacher is asked
    assert (config.out / FILE).stat().st_mtime_ns == stamp
    assert written(replace(config, seed=1), ready.train, ready.model) != first


@pytest.mark.parametrize(("own", "extra"), [(559, 6144), (40, 1000), (3, 10_000)])
def test_the_data_itself_stays_about_a_quarter_of_an_epoch(own: int, extra: int) -> None:
    again = repeats(own, extra) * own
    assert again / (again + extra) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(("own", "extra"), [(559, 1280), (40, 0), (10, 1)])
def test_the_data_is_not_repeated_where_it_is_enough(own: int, extra: int) -> None:
    assert repeats(own, extra) == 1


def test_a_run_tunes_on_them(config: TrainConfig) -> None:
    with_text = run(replace(config, max_steps=None, epochs=1.0))
    without = run(replace(config, max_steps=None, epochs=1.0, teacher_text=0, out=config.out / "n"))
    assert with_text["steps"] == without["steps"] + 3


def test_data_too_short_to_begin_with_are_named(config: TrainConfig) -> None:
    short = [Sequence([1, 2], [IGNORE, 2], [0, 1])]
    with pytest.raises(ValueError, match="teacher_text is 6, but no training sequence has 12"):
        write(None, short, 6, 64, seed=0)
