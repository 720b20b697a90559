"""Folders that appear whole or not at all, and what they may take the place of.

Contract: what stood at the target is moved only when all of the new one is on the disk, and
removed only when that is in its place. Replaced is a model, never other files: one that the
caller knows as its own, or any where that is forced.
Boundary: what is written inside is the caller's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from edkm.export.disk import disk_told, sync

Test = Callable[[Path], bool]


def check_folder(name: str, folder: Path) -> None:
    """``ValueError`` if ``folder`` cannot be a folder, as a file is in its place or above it."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{name} is {folder}, but {there} is a file; give another folder")


def is_model(folder: Path) -> bool:
    """Whether ``folder`` is a model's files alone, plain or palettized."""
    held = list(folder.iterdir()) if folder.is_dir() else []
    known = any(path.name == "config.json" or path.suffix == ".safetensors" for path in held)
    return known and all(path.is_file() for path in held)


def nothing(folder: Path) -> bool:
    return False


@contextlib.contextmanager
def replacing(
    target: Path, *, force: bool = False, own: Test = nothing, kind: Test = is_model
) -> Iterator[Path]:
    """Gives a new folder to write into, which is ``target`` afterwards; after an error nothing is.

    What is at ``target`` is replaced if it is of that ``kind``, and ``own`` or by ``force``.
    ``ValueError`` if it may not be; ``OSError`` as the disk says.
    """
    target = target.resolve()  # a link is followed, and stays
    check_replaceable(target, force=force, own=own, kind=kind)
    # the suffix stays: writers look at it
    new, old = (target.with_name(f".{target.stem}.{n}{target.suffix}") for n in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    new.mkdir(parents=True)
    try:
        with disk_told():
            yield new
        for path in new.rglob("*"):
            sync(path)
        _swap(new, target, old)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def check_replaceable(
    target: Path, *, force: bool = False, own: Test = nothing, kind: Test = is_model
) -> None:
    """``ValueError`` unless ``replacing`` would go on."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not kind(target):
        raise ValueError(
            f"{target} holds other things than a model, which would be replaced; give a new name"
        )
    if not (force or own(target)):
        raise ValueError(
            f"{target} holds a model already, which would be replaced; give a new name, or allow "
            "it with force=True (--force)"
        )


def _swap(new: Path, target: Path, old: Path) -> None:
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
    os.replace(new, target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
