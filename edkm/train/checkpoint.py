"""Which checkpoint a run goes on from, and how one is known to be whole.

Contract: a checkpoint counts only once its marker file is on the disk, which is written last; a
run that was killed while saving goes on from the one before. Resuming under other settings is
refused. A disk that refuses is an ``OSError``, whoever wrote.
Boundary: finds and marks; the trainer writes what is inside.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

MARKER = "complete.json"


def mark(folder: Path, fingerprint: str) -> None:
    """Say that ``folder`` is whole; everything in it is on the disk when this returns."""
    for file in folder.iterdir():
        _sync(file)
    write_whole(folder / MARKER, json.dumps({"fingerprint": fingerprint}))
    _sync(folder)


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds all of it or what it held before."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")  # others may write the same
    partial.write_text(text, encoding="utf-8")
    _sync(partial)
    os.replace(partial, path)


@contextlib.contextmanager
def disk_told() -> Iterator[None]:
    """Inside, what torch and safetensors raise where the disk refuses is an ``OSError``."""
    try:
        yield
    except Exception as error:
        refusal = None if isinstance(error, OSError) else disk_refusal(error)
        if refusal is None:
            raise
        raise refusal from error


def disk_refusal(error: BaseException) -> OSError | None:
    """The disk's error behind ``error``; None if it is about something else."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError):
            return behind
        if told := re.search(r"\(os error (\d+)\)", str(behind)):  # safetensors
            return OSError(int(told[1]), os.strerror(int(told[1])))
        behind = behind.__cause__ or behind.__context__
    if "inline_container" in str(error):  # torch.save keeps no number
        return OSError(errno.EIO, "tensors could not be written, as on a full disk")
    return None


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
