"""A run from settings to generated text; kills and full disks; what is refused, and how."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import edkm
from edkm.export import read_palettes
from edkm.train import DataError, DivergedError, TrainConfig, run
from edkm.train.__main__ import _plugin, app
from edkm.train.checkpoint import latest

transformers = pytest.importorskip("transformers")
from edkm.train.trainer import arguments  # noqa: E402  (needs transformers)


def settings(tiny: Path, alpaca: Path, out: Path, **more: Any) -> TrainConfig:
    base: dict[str, Any] = {
        "max_steps": 6,
        "batch_size": 2,
        "sequence": 128,
        "learning_rate": 1e-2,
        "warmup": 1,
        "save_every": 2,
        "log_every": 2,
    }
    return TrainConfig(model=tiny, data=alpaca, out=out, **{**base, **more})


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def assert_equal(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="module")
def finished(tiny: Path, alpaca: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    run(settings(tiny, alpaca, out, dense=True))
    return out


def test_a_run_learns_and_its_folder_generates(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    perplexity = metrics["perplexity"]
    assert perplexity["after_hard"] < 0.8 * perplexity["before"]
    assert math.isfinite(perplexity["dense"]) and math.isfinite(perplexity["after_soft"])
    assert "soft_hard_gap" in metrics["log"][0] and metrics["clustering"]["centroids_used_min"] > 0
    assert metrics["file_bytes"] > metrics["palette_bytes"] > 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished / "model")
    ids = tokenizer("the cat", return_tensors="pt")["input_ids"]
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 2}
    packed = edkm.load(finished / "model").generate(ids, **settings)
    plain = transformers.AutoModelForCausalLM.from_pretrained(finished / "dense")
    assert torch.equal(packed, plain.generate(ids, **settings))


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from transformers import TrainerCallback
torch.set_num_threads(1)
from edkm.train import TrainConfig, run
import edkm.train.trainer as trainer

class Kill(TrainerCallback):
    def on_substep_end(self, args, state, control, **kwargs):
        if {where!r} == "step" and state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

def die(folder, fingerprint):
    if folder.name == "checkpoint-4":
        os.kill(os.getpid(), signal.SIGKILL)
    keep(folder, fingerprint)

keep = trainer.mark
if {where!r} == "saving":
    trainer.mark = die
run(TrainConfig(model=Path({model!r}), data=Path({data!r}), out=Path({out!r}), **{more!r}),
    callbacks=[Kill()])
"""


@pytest.mark.parametrize("where", ["step", "saving"])
def test_killed_and_resumed_equals_uninterrupted(
    tiny: Path, alpaca: Path, tmp_path: Path, where: str
) -> None:
    more = dict(
        max_steps=6, batch_size=2, accumulate=2, sequence=128, learning_rate=1e-2, save_every=2,
        straight=0.3, distill=0.3, warmup=1, compensate=4, row_scale=True, allocate=2,
        teacher_epochs=0.5, teacher_text=4,
    )  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config = TrainConfig(model=tiny, data=alpaca, out=whole, **more)  # type: ignore[arg-type]
    uninterrupted = run(config)
    code = KILLED.format(where=where, model=str(tiny), data=str(alpaca), out=str(cut), more=more)
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    config = replace(config, out=cut)
    newest = latest(config.checkpoints, config.fingerprint())
    assert newest is not None and newest.name == "checkpoint-2"
    resumed = run(config, resume=True)
    assert_equal(whole, cut)
    assert resumed["perplexity"] == uninterrupted["perplexity"]


def test_a_finished_run_resumes_to_itself_but_not_under_other_settings(
    finished: Path, tiny: Path, alpaca: Path
) -> None:
    config = settings(tiny, alpaca, finished, dense=True)
    before = weights(finished)
    run(config, resume=True)
    assert all(torch.equal(before[name], value) for name, value in weights(finished).items())
    with pytest.raises(ValueError, match="other settings"):
        run(replace(config, bits=2), resume=True)
    with pytest.raises(ValueError, match="earlier run"):
        run(config)


def test_nan_stops_and_keeps_the_last_checkpoint(tiny: Path, alpaca: Path, tmp_path: Path) -> None:
    class Poison(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                kwargs["model"].model.norm.weight.data.fill_(math.nan)

    config = settings(tiny, alpaca, tmp_path / "out")
    with pytest.raises(DivergedError, match="nan at step 4; the last good checkpoint"):
        run(config, callbacks=[Poison()])
    newest = latest(config.checkpoints, config.fingerprint())
    assert newest is not None and newest.name == "checkpoint-2"
    state = load_file(newest / "model.safetensors")
    assert all(bool(t.isfinite().all()) for t in state.values() if t.is_floating_point())


def test_a_plain_run_is_the_baseline(tiny: Path, alpaca: Path, tmp_path: Path) -> None:
    metrics = run(settings(tiny, alpaca, tmp_path / "out", plain=True, max_steps=2))
    assert set(metrics["perplexity"]) == {"dense", "after"}
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")


def test_half_precision_weights_and_compensation(tiny: Path, alpaca: Path, tmp_path: Path) -> None:
    more = {"dtype": "bfloat16", "compensate": 8, "bits": 4, "row_scale": True, "group_size": 8}
    config = settings(tiny, alpaca, tmp_path / "out", **more)
    metrics = run(config)
    perplexity = metrics["perplexity"]
    assert perplexity["after_hard"] < perplexity["compensated"]
    palettes = read_palettes(config.out / "model")[0].values()
    assert {p.table.dtype for p in palettes} == {torch.bfloat16}
    assert all(p.groups == p.shape[0] // 8 for p in palettes if p.bits == 4)
    with pytest.raises(ValueError, match="use one of the two"):
        replace(config, cluster_from=0.5)


def test_offloading_changes_no_bit(
    finished: Path, tiny: Path, alpaca: Path, tmp_path: Path
) -> None:
    run(settings(tiny, alpaca, tmp_path / "out", offload=True))
    assert_equal(finished, tmp_path / "out")


def test_missing_plugins_are_named() -> None:
    with pytest.raises(ValueError, match=r"--nothing needs a package that registers"):
        _plugin("nothing")
    if find_spec("tensorboard") is None:
        with pytest.raises(ValueError, match="not installed"):
            arguments(TrainConfig(model=Path(), data=Path(), out=Path(), tensorboard=True), 1)


def test_refusals(tiny: Path, alpaca: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 128"):
        run(settings(tiny, alpaca, tmp_path / "o", sequence=129))
    with pytest.raises(ValueError, match="does not exist"):
        run(settings(tmp_path / "nowhere", alpaca, tmp_path / "o"))
    with pytest.raises(DataError, match="does not exist"):
        run(settings(tiny, tmp_path / "none.json", tmp_path / "o"))
    with pytest.raises(ValueError, match=r"holds no model \(config.json\)"):
        run(settings(tmp_path, alpaca, tmp_path / "o"))
    for out in (alpaca, alpaca / "below"):
        with pytest.raises(ValueError, match="is a file; give another folder"):
            run(settings(tiny, alpaca, out))
    with pytest.raises(DataError, match="is a folder"):
        run(settings(tiny, tmp_path, tmp_path / "o"))
    for name, text, words in (
        ("config.json", "{", "config.json is not JSON"),
        ("tokenizer.json", "[]", "holds no tokenizer that transformers reads"),
    ):
        damaged = tmp_path / name / "model"
        shutil.copytree(tiny, damaged)
        (damaged / name).write_text(text)
        with pytest.raises(ValueError, match=words):
            run(settings(damaged, alpaca, tmp_path / "o"))
    with pytest.raises(ValueError, match="bits"):
        settings(tiny, alpaca, tmp_path / "o", bits=9)
    with pytest.raises(ValueError, match="learning_rate is nan"):
        settings(tiny, alpaca, tmp_path / "o", learning_rate=math.nan)
    with pytest.raises(ValueError, match="teacher is given"):
        settings(tiny, alpaca, tmp_path / "o", teacher=tiny)
    with pytest.raises(ValueError, match="teacher_text is 3 with fsdp"):
        settings(tiny, alpaca, tmp_path / "o", teacher_text=3, distill=0.5, fsdp=True)
    with pytest.raises(ValueError, match="teacher_epochs is -1"):
        settings(tiny, alpaca, tmp_path / "o", teacher_epochs=-1.0)
    with pytest.raises(ValueError, match="shard_saved is given without"):
        settings(tiny, alpaca, tmp_path / "o", shard_saved=True)


def test_the_command(tiny: Path, alpaca: Path, tmp_path: Path) -> None:
    def command(*more: str) -> Any:
        fixed = ["--model", str(tiny), "--sequence", "128", "--out", str(tmp_path / "out")]
        return CliRunner().invoke(app, [*fixed, *more])

    good = command("--data", str(alpaca), "--max-steps", "2", "--batch-size", "2", "--bits", "2")
    assert good.exit_code == 0, good.output
    assert "after, hard" in good.output
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    for options, words in [
        (["--data", str(alpaca)], "holds checkpoints"),
        (["--data", "none.json", "--out", "new"], "none.json does not exist"),
        (["--data", str(alpaca), "--bits", "11"], "bits"),
        (["--data", str(alpaca), "--preset", "mine"], "preset"),
        (["--data", str(alpaca), "--callback", "nowhere:Thing"], "nowhere"),
        (["--data", str(alpaca), "--fsdp"], "torchrun"),
        (["--data", str(alpaca), "--form", "dense", "--row-scale"], "no row_scale"),
    ]:
        bad = command(*options)
        assert bad.exit_code == 2 and words in bad.stderr, bad.output
        assert "Traceback" not in bad.output


def test_bits_are_spread_within_the_uniform_bytes_and_shown(
    tiny: Path, alpaca: Path, tmp_path: Path
) -> None:
    paths = ["--model", str(tiny), "--data", str(alpaca), "--out", str(tmp_path / "out")]
    small = ["--sequence", "128", "--max-steps", "2", "--batch-size", "8", "--embedding-bits", "5"]
    done = CliRunner().invoke(app, [*paths, *small, "--preset", "quality"])
    assert done.exit_code == 0, done.output
    assert "bits by sensitivity" in done.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    found = metrics["allocation"]
    assert found["bytes"] == metrics["palette_bytes"] <= found["uniform_bytes"]
    assert len({share["bits"] for share in found["shares"]}) > 1
    teacher = json.loads((tmp_path / "out" / "teacher" / "pass-1" / "metrics.json").read_text())
    assert teacher["config"]["plain"] and teacher["config"]["epochs"] == 1.0
    assert teacher["perplexity"]["after"] != teacher["perplexity"]["dense"]
    shutil.rmtree(tmp_path / "out" / "checkpoints")
    again = CliRunner().invoke(app, [*paths, *small])
    assert again.exit_code == 2 and "model holds a model of an earlier run" in again.stderr
    shutil.rmtree(tmp_path / "out" / "model")
    other = CliRunner().invoke(app, [*paths, *small, "--preset", "quality", "--teacher-rate", "1"])
    assert other.exit_code == 2 and "other settings" in other.stderr, other.output


def test_presets_are_overridden_by_what_is_given(tmp_path: Path) -> None:
    from edkm.train.config import with_preset

    given = {"model": tmp_path, "data": tmp_path, "out": tmp_path, "bits": 2, "epochs": None}
    made = with_preset("paper", given)
    assert (made.bits, made.embedding_bits, made.epochs) == (2, 8, 2.0)
    assert made.batch_size * made.accumulate == 64 and made.sequence == 1024
    quality = with_preset("quality", {**given, "row_scale": None})
    assert quality.compensate > 0 and quality.distill > 0 and not quality.row_scale


def test_checkpoints_of_earlier_versions_are_resumed() -> None:
    """A setting that is new and not given leaves the fingerprint of 21 November 2026."""
    config = TrainConfig(model=Path("m"), data=Path("d"), out=Path("o"))
    assert config.fingerprint() == "8c0ed28d977fa3bc"
    assert replace(config, distill=0.5, distill_hidden=1.0).fingerprint() != (
        replace(config, distill=0.5).fingerprint()
    )
