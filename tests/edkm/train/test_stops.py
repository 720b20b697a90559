"""A run that a full disk or Ctrl-C stops: what is said, and what it goes on from."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from edkm.export.disk import disk_told
from edkm.train.__main__ import app
from edkm.train.checkpoint import MARKER

transformers = pytest.importorskip("transformers")
from tests.edkm.train.disk import ROOM, limit  # noqa: E402  (needs transformers)


def test_a_full_disk_leaves_the_previous_checkpoint(
    tiny: Path, alpaca: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    paths = ["--model", str(tiny), "--data", str(alpaca), "--out", str(out)]
    small = ["--sequence", "128", "--batch-size", "2", "--max-steps", "6", "--save-every", "2"]
    full = ["--callback", "tests.edkm.train.disk:FullAfterThree"]
    try:
        done = CliRunner().invoke(app, [*paths, *small, *full])
    finally:
        limit(resource.RLIM_INFINITY)
    assert done.exit_code == 4 and "File too large" in done.stderr, done.output
    assert "checkpoints in" in done.stderr and "Traceback" not in done.stderr
    assert (out / "checkpoints" / "checkpoint-2" / MARKER).is_file()
    assert not (out / "checkpoints" / "checkpoint-4" / MARKER).exists()
    again = CliRunner().invoke(app, [*paths, *small, "--resume"])
    assert again.exit_code == 0, again.output


def test_interrupted_says_how_to_go_on(tiny: Path, alpaca: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    paths = ["--model", str(tiny), "--data", str(alpaca), "--out", str(out)]
    small = ["--sequence", "128", "--batch-size", "2", "--max-steps", "6", "--save-every", "2"]
    done = CliRunner().invoke(app, [*paths, *small, "--callback", f"{__name__}:Interrupt"])
    assert done.exit_code == 130 and "--resume goes on" in done.stderr, done.output
    assert (out / "checkpoints" / "checkpoint-2" / MARKER).is_file()


class Interrupt(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """Ctrl-C in step 4."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            signal.raise_signal(signal.SIGINT)


def test_what_torch_raises_for_a_full_disk_is_told_as_the_disks(tmp_path: Path) -> None:
    limit(ROOM)
    try:
        with pytest.raises(OSError, match="full disk"), disk_told():
            torch.save(torch.zeros(ROOM), tmp_path / "optimizer.pt")
    finally:
        limit(resource.RLIM_INFINITY)
    with pytest.raises(RuntimeError, match="other"), disk_told():
        raise RuntimeError("something other")
