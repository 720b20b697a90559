"""Takes a recorded run away from the machine that recorded it: paths become relative.

Contract: in run.json, ablation.json and the stacks, the folders of this project, of the Python
environment and of the recording are replaced; ValueError when any other absolute path is left.
Figures stay as they were.
Boundary: a run folder that is closed.
"""

from __future__ import annotations

import json
import re
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from profiler.folder import rank_folders, write_json
from profiler.parts import is_unique, list_parts, write_part
from profiler.schema import TYPES

_ABSOLUTE = re.compile(r"^(/|[A-Za-z]:[\\/])\S|/(home|root|Users|tmp|work|var)/")


def scrub(run: Path, project: Path) -> None:
    """Makes every path of the run relative.

    Raises:
        ValueError: a path is left that none of the known folders explains.
    """
    known = _folders(run, project)
    for folder in {run, *rank_folders(run)}:
        for name in ("run.json", "ablation.json"):
            if (folder / name).is_file():
                found = json.loads((folder / name).read_text(encoding="utf-8"))
                write_json(folder / name, _plain(_replaced(found, known)))
    for folder in rank_folders(run):
        for part in list_parts(folder / "stacks"):
            table = pq.read_table(part.path)
            at = table.schema.get_field_index("frames")
            frames = _replaced(table.column(at).to_pylist(), known)
            field = table.schema.field(at)
            table = table.set_column(at, field, pa.array(frames, type=field.type))
            unique = is_unique(part.path)
            part.path.unlink()
            write_part(folder / "stacks", "stacks", (part.first, part.last), [table], unique=unique)
    if left := paths_left(run):
        raise ValueError(
            f"run {run.name}: still names {left[0]!r}; a bundled run must hold no path of a "
            "machine: add its folder to those that are replaced"
        )


def paths_left(run: Path) -> list[str]:
    """Every absolute path that the run still names, in JSON or in a table."""
    found: list[Any] = [json.loads(p.read_text(encoding="utf-8")) for p in run.rglob("*.json")]
    for folder in rank_folders(run):
        for table in TYPES:
            for part in list_parts(folder / table):
                found += pq.read_table(part.path).to_pylist()
    return sorted({text for value in found for text in _texts(value) if _ABSOLUTE.search(text)})


def _folders(run: Path, project: Path) -> dict[str, str]:
    """What to replace by what, the longest first."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    known = {
        f"{run.parent.resolve()}/": "",
        f"{sysconfig.get_path('purelib')}/": "site-packages/",
        f"{sysconfig.get_path('stdlib')}/": f"{version}/",
        f"{Path(sys.base_prefix) / 'lib' / version}/": f"{version}/",
        f"{Path(sys.prefix) / 'bin'}/": "",
        f"{project.resolve()}/": "",
    }
    return dict(sorted(known.items(), key=lambda pair: -len(pair[0])))


def _replaced(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for folder, instead in known.items():
            value = value.replace(folder, instead)
        return value
    if isinstance(value, dict):
        return {key: _replaced(each, known) for key, each in value.items()}
    return [_replaced(each, known) for each in value] if isinstance(value, list) else value


def _plain(info: dict[str, Any]) -> dict[str, Any]:
    """Without the build of the kernel, which says more of a machine than a reader needs."""
    hardware = info.get("hardware")
    if isinstance(hardware, dict) and "platform" in hardware:
        hardware["platform"] = str(hardware["platform"]).partition("-")[0]
    return info


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for each in value for text in _texts(each)] if isinstance(value, list) else []
