"""The instrument: what autograd saves, what crosses the bus, what is kept twice.

Here: tracing, run folders, analyses, reports. Not here: what is clustered or offloaded (`edkm`,
imported by the ablation only) and pages (`dashboard`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profiler.query import Run, RunError, latest_run, list_runs, open_run
    from profiler.tracer import Tracer

__all__ = ["Run", "RunError", "Tracer", "latest_run", "list_runs", "open_run"]


def __getattr__(name: str) -> Any:
    """Import on demand: tracing needs no DuckDB, reading no torch, and neither is small."""
    if name not in __all__:
        raise AttributeError(f"module 'profiler' has no attribute {name!r}")
    return getattr(importlib.import_module(_home(name)), name)


def _home(name: str) -> str:
    return "profiler.tracer" if name == "Tracer" else "profiler.query"
