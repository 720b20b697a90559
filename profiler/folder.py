"""The run folder as a place: claiming it, its rank sub-folders, and its JSON files.

Contract: nothing is overwritten unless force is given, and even then only a folder that holds a
run; a JSON file is replaced as a whole.
Boundary: knows names and files, not rows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

_RANK = re.compile(r"rank-(\d{3,})")


def rank_folder(path: Path, rank: int, world_size: int) -> Path:
    """Return where a rank's tables lie: the run folder itself when there is only one rank."""
    return path if world_size == 1 else path / f"rank-{rank:03d}"


def rank_folders(path: Path) -> list[Path]:
    """Return the folders that hold tables: rank-000 ... if there are any, else the run folder."""
    ranks = sorted(child for child in path.iterdir() if _RANK.fullmatch(child.name))
    return ranks or [path]


def claim_folder(path: Path, *, force: bool, rank: int, world_size: int) -> None:
    """Make the folder ready for a new run.

    ValueError when the rank is not below world_size, when the folder holds anything and force is
    not given, when force is given but what it holds is no run, or when it cannot be written.
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(
            f"rank: got {rank} of world_size {world_size}, must be at least 0 and below it"
        )
    mine = rank_folder(path, rank, world_size)
    try:
        if rank == 0:
            _make_free(path, force, world_size)
        if mine != path:
            _make_free(mine, force, 1)
        mine.mkdir(parents=True, exist_ok=True)
        probe = mine / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"run folder: got {str(path)!r}, which cannot be written ({reason}); choose another"
        ) from error


def write_json(path: Path, obj: Any) -> Path:
    """Write JSON to a temporary name, sync it, and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(obj, file, indent=1, default=str)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def _make_free(path: Path, force: bool, world_size: int) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"run folder: got {str(path)!r}, which is a file; choose another name")
    others = [child for child in path.iterdir() if not _is_other_rank(child, world_size)]
    if not others:
        return
    if not force:
        raise ValueError(
            f"run folder: got {str(path)!r}, which is not empty, and nothing is overwritten; "
            "choose another name, or replace the run with --force (force=True)"
        )
    if not _holds_run(path):
        raise ValueError(
            f"run folder: got {str(path)!r} with force, but it holds no run (no run.json of ours), "
            "so it is left alone; remove it yourself or choose another name"
        )
    for child in others:
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def _is_other_rank(child: Path, world_size: int) -> bool:
    """Each rank clears its own folder: rank 0 must not clear one that has begun already."""
    match = _RANK.fullmatch(child.name)
    return match is not None and world_size > 1 and int(match[1]) < world_size


def _holds_run(path: Path) -> bool:
    try:
        found = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "schema" in found
