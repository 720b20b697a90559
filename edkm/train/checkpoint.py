"""Which checkpoint a run goes on from, and how one is known to be whole.

Contract: a checkpoint counts only once its marker file is on the disk, which is written last; a
run that was killed while saving goes on from the one before. Resuming under other settings is
refused.
Boundary: finds and marks; the trainer writes what is inside.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edkm.export.disk import sync, write_whole
from edkm.train.config import TrainConfig

MARKER = "complete.json"


def mark(folder: Path, fingerprint: str) -> None:
    """Say that ``folder`` is whole; everything in it is on the disk when this returns."""
    for file in folder.iterdir():
        sync(file)
    write_whole(folder / MARKER, json.dumps({"fingerprint": fingerprint}))
    sync(folder)


def step_of(folder: Path) -> int:
    """The optimizer step of ``checkpoint-N``; -1 if it is no such folder."""
    number = folder.name.rpartition("-")[2]
    return int(number) if folder.name.startswith("checkpoint-") and number.isdigit() else -1


def go_on_from(config: TrainConfig, resume: bool) -> Path | None:
    """The checkpoint to resume from, if that is asked for; None: begin.

    ``ValueError`` if beginning would overwrite an earlier run's result or mix with its
    checkpoints, and as ``latest``.
    """
    if resume:
        return latest(config.checkpoints, config.fingerprint())
    for what, folder in (
        ("checkpoints", config.checkpoints),
        ("a model", config.model_folder),
        ("a model", config.dense_folder),
    ):
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"{folder} holds {what} of an earlier run; go on with --resume, or give another "
                "--out"
            )
    return None


def latest(checkpoints: Path, fingerprint: str) -> Path | None:
    """The newest whole checkpoint, or None. Removes those that a kill left unfinished.

    ``ValueError`` if it was written under other settings.
    """
    found = []
    for folder in checkpoints.glob("checkpoint-*"):
        if step_of(folder) < 0:
            continue
        if (folder / MARKER).is_file():
            found.append(folder)
        else:
            shutil.rmtree(folder)
    if not found:
        return None
    newest = max(found, key=step_of)
    wrote = json.loads((newest / MARKER).read_text(encoding="utf-8"))["fingerprint"]
    if wrote != fingerprint:
        raise ValueError(
            f"{newest} was written under other settings than the present ones; resume with the "
            "same settings, or give another --out"
        )
    return newest
