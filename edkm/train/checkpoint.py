"""Which checkpoint a run goes on from, and how one is known to be whole.

Contract: a checkpoint counts only once its marker file is on the disk, which is written last; a
run that was killed while saving goes on from the one before. Resuming under other settings is
refused.
Boundary: finds and marks; the trainer writes what is inside.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

MARKER = "complete.json"


def mark(folder: Path, fingerprint: str) -> None:
    """Say that ``folder`` is whole; everything in it is on the disk when this returns."""
    for file in folder.iterdir():
        _sync(file)
    partial = folder / f"{MARKER}.partial"
    partial.write_text(json.dumps({"fingerprint": fingerprint}), encoding="utf-8")
    _sync(partial)
    os.replace(partial, folder / MARKER)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def step_of(folder: Path) -> int:
    """The optimizer step of ``checkpoint-N``; -1 if it is no such folder."""
    number = folder.name.rpartition("-")[2]
    return int(number) if folder.name.startswith("checkpoint-") and number.isdigit() else -1


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
