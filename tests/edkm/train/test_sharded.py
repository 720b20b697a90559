"""One, two and four gloo processes train the same model, each holding its share."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

import edkm.train.__main__ as command
from edkm.export import read_palettes
from edkm.train import PeerLostError, TrainConfig
from edkm.train.checkpoint import MARKER, latest
from edkm.train.config import with_preset
from edkm.train.order import learning_rate, step_rows
from edkm.train.sharded import run_sharded

transformers = pytest.importorskip("transformers")
from tests.edkm.train.disk import FullAfterThree  # noqa: E402
from tests.processes import as_by_torchrun  # noqa: E402
from tests.tiny_llama import tiny_llama  # noqa: E402

pytestmark = pytest.mark.slow


TRACING = """
from profiler.callback import TracingCallback

def Callback():
    return TracingCallback({run!r})
"""


Runs = dict[int, tuple[Path, dict[str, Any]]]


def settings(
    tiny: Path, alpaca: Path, out: Path, preset: str = "default", **more: Any
) -> TrainConfig:
    base: dict[str, Any] = {
        **{"max_steps": 4, "batch_size": 4, "accumulate": 2, "sequence": 128, "save_every": 2},
        **{"learning_rate": 1e-3, "fsdp": True},
    }
    return with_preset(preset, {"model": tiny, "data": alpaca, "out": out, **base, **more})


def train(config: TrainConfig, resume: bool = False) -> dict[str, Any]:
    return run_sharded(config, resume=resume)


def launch(
    config: TrainConfig, processes: int, folder: Path, *, resume: bool = False
) -> dict[str, Any]:
    """The metrics of a run in forked processes; ``folder`` is for what they say."""
    return as_by_torchrun(train, processes, folder, config, resume)[0]


@pytest.fixture(scope="module")
def runs(tiny: Path, alpaca: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    found = {}
    for processes in (1, 2, 4):
        folder = tmp_path_factory.mktemp(f"runs{processes}")
        config = settings(tiny, alpaca, folder / "out", shard_saved=processes == 4)
        found[processes] = (config.out, launch(config, processes, folder))
    return found


def test_any_number_of_processes_gives_the_same_model(
    runs: Runs,
) -> None:
    one = runs[1][1]["perplexity"]
    for processes in (2, 4):
        out, metrics = runs[processes]
        for name, value in metrics["perplexity"].items():
            assert value == pytest.approx(one[name], rel=1e-4)  # float32 sums in another order
        for name, palette in read_palettes(out / "model")[0].items():
            expected = read_palettes(runs[1][0] / "model")[0][name]
            torch.testing.assert_close(palette.table, expected.table, rtol=1e-4, atol=1e-5)


def test_each_process_holds_its_share(runs: Runs) -> None:
    held = {n: metrics["state_bytes_per_rank_max"] for n, (_, metrics) in runs.items()}
    for processes in (2, 4):
        assert held[processes] <= held[1] / processes * 1.05


def test_what_each_process_receives_is_counted(runs: Runs, tiny: Path) -> None:
    received = {n: metrics["received_bytes_per_step"] for n, (_, metrics) in runs.items()}
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny)
    weights = sum(4 * p.numel() for p in model.parameters())
    for processes, (_, metrics) in runs.items():
        # each of two forwards and backwards gathers the weights; one backward scatters gradients;
        # each backward gathers what was shared out
        share = (processes - 1) / processes
        shared = 2 * metrics.get("shared_saved_bytes", 0) * share
        least, most = 3 * weights * share + shared, 5 * weights * share + shared
        assert 0.9 * least <= received[processes] <= 1.1 * most


def test_what_is_saved_alike_is_shared_out_evenly(runs: Runs) -> None:
    _, metrics = runs[4]
    whole, largest = metrics["shared_saved_bytes"], metrics["shared_saved_bytes_per_rank_max"]
    assert 0 < whole <= 4 * largest <= 1.1 * whole
    assert "shared_saved_bytes" not in runs[2][1]


def test_the_command_under_torchrun_is_traced_and_logged(
    runs: Runs, tiny: Path, alpaca: Path, tmp_path: Path
) -> None:
    from profiler import open_run

    (tmp_path / "tracing.py").write_text(TRACING.format(run=str(tmp_path / "run")))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        *("-m", "edkm.train", "--fsdp", "--model", str(tiny), "--data", str(alpaca)),
        *("--out", str(tmp_path / "out"), "--max-steps", "4", "--batch-size", "4"),
        *("--accumulate", "2", "--sequence", "128", "--lr", "1e-3", "--save-every", "2"),
        *("--callback", "tracing:Callback", "--log-every", "2", "--offload", "--shard-saved"),
    ]
    if find_spec("tensorboard") is not None:
        command.append("--tensorboard")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    traced = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert traced["perplexity"] == runs[2][1]["perplexity"]
    run = open_run(tmp_path / "run")
    assert run.closed
    assert sorted((s.step, s.rank) for s in run.steps) == [(s, r) for s in range(4) for r in (0, 1)]
    events = list((tmp_path / "out").rglob("events.out.tfevents.*"))
    assert len(events) == ("--tensorboard" in command)


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


@pytest.mark.parametrize(("wrote", "goes_on"), [(2, 1), (2, 4), (4, 2)])
def test_what_some_processes_wrote_others_go_on_with(
    runs: Runs, tiny: Path, alpaca: Path, tmp_path: Path, wrote: int, goes_on: int
) -> None:
    out, metrics = runs[wrote]
    shutil.copytree(out, tmp_path / "out")
    config = settings(tiny, alpaca, tmp_path / "out")
    (config.checkpoints / "checkpoint-4" / MARKER).unlink()  # as if killed while saving
    again = launch(config, goes_on, tmp_path, resume=True)
    assert again["log"][0]["step"] == 3
    for name, value in again["perplexity"].items():
        assert value == pytest.approx(metrics["perplexity"][name], rel=1e-4)


STARTS: dict[str, dict[str, Any]] = {
    "bits by sensitivity, scales, a teacher tuned first": {
        **{"allocate": 2, "compensate": 4, "teacher_epochs": 0.5, "distill_hidden": 10.0},
        **{"embedding_bits": 5, "row_scale": True},
    },
    "uniform bits, groups of rows with scales, a teacher from a folder": {
        **{"allocate": 0, "compensate": 4, "group_size": 8, "row_scale": True, "bits": 2},
        **{"dtype": "bfloat16", "straight": 0.5},
    },
}


@pytest.fixture(scope="module")
def taught(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model than ``tiny`` with its vocabulary."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    shutil.copytree(tiny, folder)
    tiny_llama(seed=1, max_position_embeddings=128).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", STARTS)
def test_every_way_to_start_is_as_on_one_process(
    tiny: Path, alpaca: Path, taught: Path, tmp_path: Path, name: str
) -> None:
    more = {**STARTS[name], "preset": "quality", "max_steps": 2}
    if "folder" in name:
        more["teacher"] = taught
    found = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        config = settings(tiny, alpaca, folder / "out", **more)
        found[processes] = launch(config, processes, folder)
    assert found[1]["allocation"] == found[2]["allocation"]
    tolerance = 2e-2 if "dtype" in STARTS[name] else 1e-4  # gradients are summed in the dtype
    for measured, value in found[2]["perplexity"].items():
        assert value == pytest.approx(found[1]["perplexity"][measured], rel=tolerance), measured


class Kill(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """Ends rank 1 at once in step 4."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3 and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(config: TrainConfig) -> str:
    with pytest.raises(PeerLostError) as raised:
        run_sharded(config, callbacks=[Kill()])
    return str(raised.value)


def test_when_one_is_killed_the_others_end_and_say_so(
    runs: Runs, tiny: Path, alpaca: Path, tmp_path: Path
) -> None:
    config = settings(tiny, alpaca, tmp_path / "out")
    with pytest.raises(mp.ProcessExitedException, match="SIGKILL"):
        as_by_torchrun(killed, 2, tmp_path, config)
    said = json.loads((tmp_path / "rank0.json").read_text())
    assert said.startswith("rank 1 was lost") and "go on with --resume" in said
    newest = latest(config.checkpoints, config.fingerprint())
    assert newest is not None and newest.name == "checkpoint-2"
    again = launch(config, 2, tmp_path, resume=True)
    assert again["perplexity"] == runs[2][1]["perplexity"]


class Hang(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """Rank 1 does not get on with step 4 until a file is there."""

    def __init__(self, until: Path) -> None:
        self.until = until

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        while state.global_step == 3 and args.process_index == 1 and not self.until.exists():
            time.sleep(0.1)


def hung(config: TrainConfig) -> str:
    gone = config.out / "gone"
    with pytest.raises(PeerLostError) as raised:
        run_sharded(config, callbacks=[Hang(gone)])
    gone.touch()
    return str(raised.value)


def test_a_process_that_hangs_is_named_and_not_waited_for(
    tiny: Path, alpaca: Path, tmp_path: Path
) -> None:
    config = settings(tiny, alpaca, tmp_path / "out", patience=0.2)
    said, _ = as_by_torchrun(hung, 2, tmp_path, config)
    assert said.startswith("rank 1 was lost") and "waited for as long as --patience says" in said
    newest = latest(config.checkpoints, config.fingerprint())
    assert newest is not None and newest.name == "checkpoint-2"


def disk_full(config: TrainConfig) -> str:
    with pytest.raises(OSError, match="File too large") as raised:
        run_sharded(config, callbacks=[FullAfterThree(rank=1)])
    return str(raised.value)


def test_where_one_disk_is_full_all_stop_and_the_last_checkpoint_stays(
    tiny: Path, alpaca: Path, tmp_path: Path
) -> None:
    config = settings(tiny, alpaca, tmp_path / "out")
    said = as_by_torchrun(disk_full, 2, tmp_path, config)
    assert said == ["[Errno 27] File too large"] * 2
    newest = latest(config.checkpoints, config.fingerprint())
    assert newest is not None and newest.name == "checkpoint-2"


def test_order_and_rate_are_functions_of_the_step(tmp_path: Path) -> None:
    config = TrainConfig(model=tmp_path, data=tmp_path, out=tmp_path, batch_size=4, warmup=2)
    first = [row for step in range(3) for row in step_rows(12, step, config)]
    assert sorted(first) == list(range(12)) and step_rows(12, 1, config) == first[4:8]
    assert sorted(step_rows(3, 0, config))[:3] != [] and len(step_rows(3, 0, config)) == 4
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates[0] == 0.0 and max(rates) == rates[2] == config.learning_rate
    assert rates[2:] == sorted(rates[2:], reverse=True)
