"""Run folders for the dashboard's tests: complete, without rows, damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from profiler.reports.bars import draw_host_bytes
from profiler.reports.graph_picture import draw_graph
from tests.profiler.reports import samples


def write_run(root: Path, name: str, *, created: str = "2026-01-01", **info: Any) -> Path:
    """A run folder that holds run.json only."""
    folder = root / name
    folder.mkdir(parents=True)
    content = {"schema": 1, "created": created, "closed": True, "model": "llama-7b", **info}
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def write_ablation(root: Path, name: str, ablation: dict[str, Any], **info: Any) -> Path:
    """A complete run with its pictures."""
    folder = write_run(root, name, **info)
    (folder / "ablation.json").write_text(json.dumps(ablation))
    (folder / "pictures").mkdir()
    draw_host_bytes(ablation, folder / "pictures" / "host_bytes")
    draw_graph(*samples.graph(), folder / "pictures" / "graph")
    return folder
