"""Files that are on the disk when a call returns, and what a disk that refuses raises.

Contract: a disk that refuses is an ``OSError``, whoever wrote.
Boundary: single files; folders are ``edkm.export.folders``'.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds all of it or what it held before."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")  # others may write the same
    partial.write_text(text, encoding="utf-8")
    sync(partial)
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


def sync(path: Path) -> None:
    """Return when ``path``, a file or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
