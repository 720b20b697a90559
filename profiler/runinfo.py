"""What a run says of itself: finding run folders, and reading run.json with clear errors.

Contract: RunError gives name, value, rule and remedy for whatever is wrong with a folder.
Boundary: run.json and folders only; rows are profiler.query's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from profiler.schema import SCHEMA_VERSION


class RunError(ValueError):
    """A run folder, or a question to it, that cannot be answered."""


def list_runs(root: str | os.PathLike[str]) -> list[Path]:
    """Return the run folders directly in a folder, newest first; empty when there is none."""
    try:
        found = [child for child in Path(root).iterdir() if (child / "run.json").is_file()]
    except OSError:
        return []
    return sorted(found, key=_created, reverse=True)


def latest_run(root: str | os.PathLike[str]) -> Path | None:
    """Return the newest run folder directly in a folder, or None."""
    runs = list_runs(root)
    return runs[0] if runs else None


def read_info(path: Path) -> dict[str, Any]:
    """Return run.json; RunError when it is missing, damaged or from a newer version."""
    if not path.is_dir():
        what = "is a file" if path.is_file() else "does not exist"
        raise RunError(f"run folder: got {str(path)!r}, which {what}; give the folder of a run")
    try:
        info = read_json(path / "run.json")
    except FileNotFoundError:
        raise RunError(
            f"run folder: got {str(path)!r}, which has no run.json; give the folder that "
            "the trace was written to (--out)"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path / "run.json", error) from None
    schema = info.get("schema")
    if type(schema) is not int or schema < 1:
        raise RunError(f"{path / 'run.json'}: got schema {schema!r}, must be a whole number from 1")
    if schema > SCHEMA_VERSION:
        raise RunError(
            f"{path / 'run.json'}: got schema {schema}, but this version reads up to "
            f"{SCHEMA_VERSION}; upgrade edkm-profiler"
        )
    return info


def unreadable(path: Path, error: Exception) -> RunError:
    """Return the error for a file or folder that cannot be read."""
    return RunError(
        f"{path}: cannot be read ({first_line(error)}); restore it, or record the run again"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; OSError, ValueError or RecursionError for anything else."""
    found = json.loads(path.read_bytes().decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"got a JSON {type(found).__name__}, must be an object")
    return found


def _created(path: Path) -> tuple[str, int]:
    try:
        changed = (path / "run.json").stat().st_mtime_ns
        created = read_json(path / "run.json").get("created")
    except (OSError, ValueError, RecursionError):
        return "", 0
    return created if isinstance(created, str) else "", changed


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
